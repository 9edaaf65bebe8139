# SPDX-License-Identifier: BSD-3-Clause
"""
How do I learn features from images that nobody has rated?
==========================================================

Re-IQA shows a network two patches of a distorted image that hardly overlap, and the network must find the one by the
other among patches of other images and other distortions. What helps is how the image was distorted. No rating is
needed for that, and few for the linear regression behind it.

Here a very small network learns from seven photographs for less than a minute, where the authors had hundreds of
thousands of images. Labels are levels of distortion, not opinions of people.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_iqa import ReIQA
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc

photographs = load_photographs(size=128).images
kinds = ["gaussian_blur", "white_noise", "jpeg", "contrast_change", "pixelate"]
data = make_distorted(photographs, distortions=kinds, random_state=0)
test = np.isin(data.groups, [1, 4, 7])  # three photographs that neither the features nor the regression see

# %%
# The defaults are those of the paper, for large machines. Small patches, one image in a step, a short queue, and a copy
# that follows faster make a minute worthwhile. ``fit`` takes images alone.

features = ReIQA(
    backbone="test_resnet",
    backbone_weights=None,
    parts="quality",
    patch_size=32,
    queue_size=512,
    momentum=0.99,
    n_groups=1,
    batch_size=1,
    lr=1.0,
    warmup_epochs=2,
    max_epochs=28,
    random_state=0,
)
untrained = features.initialize().transform(data.images)
features.fit([photograph for number, photograph in enumerate(photographs) if number not in (1, 4, 7)])
trained = features.transform(data.images)

# %%
# A ridge on either kind of features, the same in all else: what differs is what the features have learned.

predictions = {}
for name, rows in (("random features", untrained), ("learned features", trained)):
    ridge = make_pipeline(StandardScaler(), Ridge(100.0)).fit(rows[~test], data.target[~test])
    predictions[name] = ridge.predict(rows[test])
    print(f"{name}: SRCC {srcc(data.target[test], predictions[name]):.2f}")

# %%
# Each line is one kind of distortion, the mean over the three new photographs; the dashed one is the label itself.
# Random features hardly tell levels. Learned ones tell strong blur, noise and loss of contrast on photographs that they
# have not seen, but JPEG not at all, pixels little: for those the network is too small and has seen too little.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
for ax, (name, predicted) in zip(axes, predictions.items(), strict=True):
    for kind in kinds:
        of_kind = data.distortion[test] == kind
        levels = data.level[test][of_kind]
        ax.plot(range(1, 6), [predicted[of_kind][levels == level].mean() for level in range(1, 6)], "o-", label=kind)
    ax.plot([1, 5], [-1, -5], color="0.7", linestyle="--", label="label")
    ax.set(title=name, xlabel="Level of distortion", xticks=range(1, 6))
axes[0].set_ylabel("Predicted: minus the level")
axes[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
figure.show()

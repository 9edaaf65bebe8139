# SPDX-License-Identifier: BSD-3-Clause
"""
Which words ask best for quality?
=================================

CLIP-IQA judges an image by two opposite prompts. Which two is a parameter, so that a grid search can choose them.

To run in seconds and without a download, the CLIP of this example is tiny and made of random numbers: it has never
seen a word, and **what the search finds here means nothing**. With ``CLIPIQA(backbone_weights="openai")`` in place of
the tiny one, the same lines ask a CLIP that knows words.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV, GroupKFold

from sklearn_iqa import CLIPIQA
from sklearn_iqa.datasets import load_photographs, make_distorted

photographs = load_photographs(size=64).images
data = make_distorted(photographs, distortions=["gaussian_blur", "white_noise"], levels=(1, 3, 5), random_state=0)
X, y, groups = data.images, data.target, data.groups

# %%
# A network of open_clip may be described by a file of one's own.

folder = tempfile.TemporaryDirectory()
tiny = Path(folder.name) / "tiny.json"
vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
tiny.write_text(json.dumps({"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}))
clip_iqa = CLIPIQA(backbone=str(tiny), backbone_weights=None, random_state=0)

# %%
# A candidate is a list of pairs, the better prompt first. Nothing is trained; each fit finds the line from
# probability to y on the training photographs, and the score is the rank correlation on the others.

pairs = [
    ("Good photo.", "Bad photo."),
    ("Sharp photo.", "Blurry photo."),
    ("Clean photo.", "Noisy photo."),
    ("High quality.", "Low quality."),
]
search = GridSearchCV(clip_iqa, {"prompts": [[pair] for pair in pairs]}, cv=GroupKFold(5), error_score="raise")
search.fit(X, y, groups=groups)
for pair, score in zip(pairs, search.cv_results_["mean_test_score"], strict=True):
    print(f"{' / '.join(pair):32} SRCC {score:+.2f}")

# %%
# All pairs at once are attributes of an image, by name.

attributes = clip_iqa.set_params(prompts=pairs).initialize().predict_attributes(X[:6])
fig, ax = plt.subplots(layout="constrained")
for name, shares in attributes.items():
    ax.plot(shares, "o-", label=name)
ax.set_xticks(
    range(6), [f"{kind}\nlevel {level}" for kind, level in zip(data.distortion[:6], data.level[:6], strict=True)]
)
ax.set_ylabel("Probability of the first prompt\n(random numbers for weights)")
ax.legend()
plt.show()
folder.cleanup()

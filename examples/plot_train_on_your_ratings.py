# SPDX-License-Identifier: BSD-3-Clause
"""
How do I train a method on my own ratings?
==========================================

With ``fit(X, y)``: X holds images (arrays, paths, PIL images), y one number for each, in any unit, higher is better.
NIMA turns a classifier into a judge of quality. Here it starts from the ImageNet weights of a small network, and learns
in seconds, since the images are few and small.

Nobody rated these images: y is minus the level of a distortion. Put your paths and mean opinion scores in their place.
"""

from sklearn.model_selection import GroupShuffleSplit

from sklearn_iqa import NIMA, AgreementDisplay
from sklearn_iqa.datasets import load_photographs, make_distorted

data = make_distorted(load_photographs(size=96).images, distortions=["gaussian_blur", "jpeg"], random_state=0)
train, test = next(GroupShuffleSplit(1, test_size=0.3, random_state=0).split(data.images, groups=data.groups))
X_train, y_train = [data.images[row] for row in train], data.target[train]
X_test, y_test = [data.images[row] for row in test], data.target[test]
print(f"{len(X_train)} images of 7 photographs to learn from, {len(X_test)} of 3 others to judge by")

# %%
# The defaults of a method are those of its paper, made for thousands of images and hours. For few images take a smaller
# backbone, small batches and a higher learning rate. ``image_size`` is that of the images, so that nothing is lost by
# shrinking them. For photographs take it as large as time allows, such as 448 with ``lr=3e-4``: at the default of 224
# pixels noise and blur are gone.

nima = NIMA(
    backbone="tf_efficientnet_lite0",
    backbone_weights="bundled",
    image_size=96,
    dropout=0.2,
    lr=5e-4,
    batch_size=10,
    max_epochs=3,
    random_state=0,
)
nima.fit(X_train, y_train)
print("training loss of each epoch:", [round(float(loss), 3) for loss in nima.loss_curve_])

# %%
# Predictions are in the unit of y. NIMA predicts a whole histogram of ratings, so that it also says how far apart
# people would be. Here it has seen no histograms, only their means: the spread is one that it assumed in training.

quality, spread = nima.predict(X_test[:5], return_std=True)
print("level of blur  ", data.level[test][:5])
print("predicted      ", quality.round(1))
print("spread         ", spread.round(1))

# %%
# ``score`` is Spearman's rank correlation, on photographs that training has not seen. With 30 images of three
# photographs the figure is rough: see "Cross-validation by content" in the user guide.

print(f"SRCC {nima.score(X_test, y_test):.2f}")
display = AgreementDisplay.from_estimator(nima, X_test, y_test)
display.ax_.set_ylabel("Label: minus the level")
display.figure_.show()

# SPDX-License-Identifier: BSD-3-Clause
"""
How do deep features go through a grid search?
==============================================

A frozen network turns images into rows of numbers, a ridge turns rows into quality, and a grid search chooses pooling
and penalty. With a cache every image passes the network once for each pooling, however many folds and penalties there
are.

The label here is the level of a synthetic distortion, not an opinion of people.
"""

import tempfile

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_iqa import AgreementDisplay, TimmFeatures
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc, srcc_scorer

photographs = load_photographs(size=128).images
data = make_distorted(photographs, distortions=["jpeg", "gaussian_blur", "pixelate"], random_state=0)
X, y, groups = data.images, data.target, data.groups

# %%
# Early layers see edges and blocks, late ones objects: quality is in the first half of the network.

cache = tempfile.TemporaryDirectory()
features = TimmFeatures(
    "tf_efficientnet_lite0",
    layers=["blocks.0", "blocks.1", "blocks.2", "blocks.3"],
    backbone_weights="bundled",
    cache=cache.name,
)
model = make_pipeline(features, StandardScaler(), Ridge())

# %%
# Folds keep all versions of a photograph together: the test photographs are new to the model.

search = GridSearchCV(
    model,
    {"timmfeatures__pooling": ["mean", "mean+std"], "ridge__alpha": np.logspace(0, 4, 5)},
    scoring=srcc_scorer,
    cv=GroupKFold(5),
    error_score="raise",
)
search.fit(X, y, groups=groups)

# %%
# That is the fitted search, as a notebook shows it; its question marks lead to the documentation. Without the cache,
# ten candidates in five folds and the last fit would have sent 51 times 150 images through the network, with it each
# image passed twice: once for each pooling.

pooling, alpha = search.best_params_["timmfeatures__pooling"], search.best_params_["ridge__alpha"]
print(f"best: pooling {pooling}, penalty {alpha:g}; SRCC {search.best_score_:.3f}, the mean over five folds")

# %%
# Shuffled folds flatter: they put versions of one photograph on both sides.

best = search.best_estimator_
by_content = cross_val_predict(best, X, y, groups=groups, cv=GroupKFold(5))
shuffled = cross_val_predict(best, X, y, cv=KFold(5, shuffle=True, random_state=0))
print(f"SRCC by content {srcc(y, by_content):.3f}, shuffled {srcc(y, shuffled):.3f}")

# %%
# Every point is an image that its model had not seen, nor any other version of it.

display = AgreementDisplay.from_predictions(y, by_content, name="features + ridge")
display.ax_.set_ylabel("Label: minus the level")
display.figure_.show()
cache.cleanup()

# SPDX-License-Identifier: BSD-3-Clause
"""The seam itself, with the smallest methods that it allows."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_iqa._base.quality import FeatureLearner, QualityRegressor
from sklearn_iqa._nn.transforms import random_crop, to_tensor

IMAGES = [
    np.full((16, 16 + side, 3), level, np.uint8) for side, level in enumerate(np.linspace(0, 255, 12).astype(int))
]
BRIGHTNESS = np.linspace(0, 255, 12)


class Mean(nn.Module):
    """Brightness through a line."""

    def __init__(self, n_out):
        super().__init__()
        self.line = nn.Linear(3, n_out)

    def forward(self, images):
        """(n, 3, h, w) -> (n, n_out)."""
        return self.line(images.mean((2, 3)))


class Brightness(QualityRegressor):
    """A method in four short methods."""

    optimizer = torch.optim.SGD

    def __init__(self, *, lr=0.5, max_epochs=40, batch_size=4, weights=None, device="cpu", random_state=0, verbose=0):
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weights = weights
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _network(self):
        return nn.Sequential(Mean(1), nn.Flatten(0))

    def _loss(self):
        return nn.MSELoss()

    def _train_view(self, x):
        return random_crop(to_tensor(x), 8)

    def _views(self, x):
        return to_tensor(x)[None]


class Codes(FeatureLearner):
    """Features learned without labels: three numbers that give the image's mean colour back."""

    def __init__(self, *, lr=0.1, max_epochs=3, batch_size=4, weights=None, device="cpu", random_state=0, verbose=0):
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weights = weights
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    _n_features_out = 5

    def _network(self):
        return Mean(5)

    def _training_module(self, network):
        return nn.Sequential(network, nn.Linear(5, 3))

    def _loss(self):
        return _FromOutput()

    def _train_view(self, x):
        return random_crop(to_tensor(x), 8)

    def _views(self, x):
        return torch.stack([to_tensor(x), to_tensor(x).flip(-1)])


class _FromOutput(nn.Module):
    def forward(self, output, target):
        return output.pow(2).mean()


def test_a_regressor_learns_in_the_unit_of_y():
    estimator = Brightness().fit(IMAGES, 1000 + BRIGHTNESS)
    # brightness is linear in y, but for grey levels in whole numbers; 1 % of the range is for 40 epochs of descent
    np.testing.assert_allclose(estimator.predict(IMAGES), 1000 + BRIGHTNESS, atol=2.55)
    assert estimator.score(IMAGES, BRIGHTNESS) == pytest.approx(1)


def test_label_scale_is_mean_and_deviation():
    estimator = Brightness(max_epochs=1).fit(IMAGES, BRIGHTNESS)
    assert estimator.label_scale_ == pytest.approx((BRIGHTNESS.std(), BRIGHTNESS.mean()))
    constant = Brightness(max_epochs=1).fit(IMAGES, np.full(12, 7.0))
    assert constant.label_scale_ == (1.0, 7.0)


def test_weight_moves_the_mean():
    # twice the weight on the brighter half: mean of labels 0 and 1 is 2/3
    y, weight = np.repeat([0.0, 1.0], 6), np.repeat([1.0, 2.0], 6)
    assert Brightness(max_epochs=1).fit(IMAGES, y, sample_weight=weight).label_scale_[1] == pytest.approx(2 / 3)


def test_a_transformer_trains_without_labels_and_stands_in_pipelines():
    codes = Codes().fit(IMAGES)
    features = codes.transform(IMAGES)
    assert features.shape == (12, 5)
    assert features.dtype == np.float32
    assert codes.loss_curve_[-1] < codes.loss_curve_[0]
    assert list(codes.get_feature_names_out()) == [f"codes{i}" for i in range(5)]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(codes)).transform(IMAGES), features)
    search = GridSearchCV(
        make_pipeline(Codes(), Ridge(1e-3)), {"codes__max_epochs": [1, 2]}, cv=3, error_score="raise"
    ).fit(IMAGES, BRIGHTNESS)
    assert search.best_score_ > 0.9


def test_a_loss_that_explodes_says_so():
    with pytest.raises(ValueError, match=r"The loss of Brightness became .* lower lr"):
        Brightness(lr=1e30).fit(IMAGES, BRIGHTNESS)

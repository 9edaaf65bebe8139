# SPDX-License-Identifier: BSD-3-Clause
"""Table rows as small images, so that scikit-learn's own checks can run on estimators that take images.

scikit-learn 1.9 checks an estimator in earnest only when its input is a two-dimensional table; for any other input one
check of about fifty is left. The adaptors here turn every row into an image and hold an image estimator as a parameter.
"""

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

SIDE = 32  # pixels; the smallest that the tiny networks of the tests take


def rows_to_images(table, estimator):
    """Rows (n, n_features) of any finite numbers -> images (n, 32, 32, 3) in 0..1, or pairs (n, 2, 32, 32, 3).

    Each row is repeated until the image is full. It depends on no other row, so that what scikit-learn asks of rows
    (order, subsets) is asked of images. The second image of a pair is the first one, two rows of pixels further down.
    """
    pixels = expit(np.asarray(table, dtype=np.float64))
    images = np.stack([np.resize(row, (SIDE, SIDE, 3)) for row in pixels]).astype(np.float32)
    compares = len(getattr(estimator, "inputs", ("image",))) == 2
    return np.stack([images, np.roll(images, 2, axis=1)], axis=1) if compares else images


class TableRegressor(RegressorMixin, BaseEstimator):
    """A table in front of a `QualityRegressor`.

    Networks compute in float32, and predictions are given as such: scikit-learn then compares them with the tolerance
    that it has for float32.
    """

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.estimator_ = clone(self.estimator)
        self.estimator_.fit(rows_to_images(X, self.estimator), y, sample_weight)
        return self

    def predict(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.estimator_.predict(rows_to_images(X, self.estimator)).astype(np.float32)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # one epoch of a tiny network on tables that are no images
        return tags


class TableTransformer(TransformerMixin, BaseEstimator):
    """A table in front of a `FeatureLearner`."""

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y=None):
        X = validate_data(self, X, dtype=np.float64)
        self.estimator_ = clone(self.estimator).fit(rows_to_images(X, self.estimator))
        return self

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.estimator_.transform(rows_to_images(X, self.estimator))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

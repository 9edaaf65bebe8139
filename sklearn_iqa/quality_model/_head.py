# SPDX-License-Identifier: BSD-3-Clause
"""The regression behind the features of the default model."""

from typing import ClassVar

import numpy as np
from scipy import linalg, sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_consistent_length, check_random_state, check_X_y
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_iqa._base.parameters import POSITIVE, at_least
from sklearn_iqa.metrics import srcc

LIMIT = 5.0  # standardised features are clipped to it: one outlying channel must not decide
SMALL = 1e-8  # a standard deviation below it counts as zero
JITTER = 1e-6  # on the diagonal of the landmarks' kernel, which is 1
COVERAGE, NORMAL_QUANTILE = 0.9, 1.6448536269514722  # of a normal, 90 % lie within so many deviations


class QualityHead(RegressorMixin, BaseEstimator):
    """Regression on deep features whose fitted numbers take a few hundred kilobytes.

    A ridge on two sets of functions of the standardised features: their leading principal components, and Gaussian
    kernels of the first few components around landmarks, which are rows of the training data [1]_. With `d` the mean
    squared length of those components, a kernel is `exp(-gamma * |u - landmark|^2 / (2 d))`.

    Parameters
    ----------
    n_components : int, default=800
        Principal components that enter linearly.
    n_kernel_components : int, default=40
        Principal components that the kernels see.
    n_landmarks : int, default=800
        Kernels.
    gamma : float, default=1.0
        Narrowness of the kernels.
    linear_weight : float, default=0.3
        Prior variance of the linear part beside that of the kernels.
    alpha : float, default=0.2
        Penalty.
    random_state : int, RandomState instance or None, default=0
        Draws the landmarks.

    Attributes
    ----------
    mean_, scale_ : ndarray of shape (n_features,)
        Standardise the features.
    components_ : ndarray of shape (n_features, n_kernel_components), float16
        Directions that the kernels see.
    landmarks_ : ndarray of shape (n_landmarks, n_kernel_components), float16
        Centres of the kernels.
    linear_ : ndarray of shape (n_features,)
        Weights of the standardised features.
    dual_ : ndarray of shape (n_landmarks,)
        Weights of the kernels.
    spread_ : ndarray of shape (4,)
        The size of the error: weights of 1, the prediction, its square, and the distance from all landmarks.
    spread_range_ : ndarray of shape (2,)
        Least and largest standard deviation.
    length_ : ndarray of shape ()
        `d` above.
    y_mean_ : ndarray of shape ()
        Mean of y.

    Notes
    -----
    Standard deviations come from leave-one-out residuals, which a ridge has in closed form, and are scaled so that
    90 % of the residuals lie within 1.645 of them (conformal calibration).

    References
    ----------
    .. [1] C. Williams, M. Seeger, "Using the Nystroem Method to Speed Up Kernel Machines", NIPS 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa.quality_model._head import QualityHead
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> mean, std = QualityHead(alpha=0.01).fit(X, np.sin(X[:, 0])).predict(X, return_std=True)
    >>> mean.shape, std.shape
    ((200,), (200,))
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_components": [at_least(1)],
        "n_kernel_components": [at_least(1)],
        "n_landmarks": [at_least(1)],
        "gamma": [POSITIVE],
        "linear_weight": [POSITIVE],
        "alpha": [POSITIVE],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        n_components=800,
        n_kernel_components=40,
        n_landmarks=800,
        gamma=1.0,
        linear_weight=0.3,
        alpha=0.2,
        random_state=0,
    ):
        self.n_components = n_components
        self.n_kernel_components = n_kernel_components
        self.n_landmarks = n_landmarks
        self.gamma = gamma
        self.linear_weight = linear_weight
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X, y, *, pseudo_X=None, pseudo_y=None, pseudo_groups=None, pseudo_weight=1.0):
        """Fit to ratings, and to unrated rows of presumed order.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features of images that people rated.
        y : array-like of shape (n,)
            Their ratings; higher is better.
        pseudo_X : array-like of shape (m, n_features) or None, default=None
            Features of further images, such as distorted versions of one photograph.
        pseudo_y : array-like of shape (m,) or None, default=None
            Their presumed ratings, each up to a constant that its group shares: only differences inside a group are
            learned. They shape the predictions and not the standard deviations.
        pseudo_groups : array-like of shape (m,) or None, default=None
            Labels of the groups.
        pseudo_weight : float, default=1.0
            What such a row counts beside a rated one.

        Returns
        -------
        self : QualityHead
            The regression.

        Raises
        ------
        ValueError, TypeError
            When a parameter or the data cannot be used.
        """
        self._validate_params()
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        rng = check_random_state(self.random_state)
        self.mean_ = X.mean(0).astype(np.float32)
        deviation = X.std(0)
        # A constant feature has no scale: it is only centred.
        self.scale_ = np.where(deviation > SMALL, deviation, 1).astype(np.float32)
        self.y_mean_ = np.asarray(y.mean())
        z, target = self._standardised(X), y - self.y_mean_
        pseudo_z, pseudo_y, center = self._checked_pseudo(pseudo_X, pseudo_y, pseudo_groups)
        root = np.sqrt(pseudo_weight)

        # Principal components; those of the kernels are rounded to the precision of the file.
        everything = np.concatenate([z, root * center(pseudo_z)]).astype(np.float32)  # halves the time of the SVD
        n_components = min(self.n_components, *everything.shape)
        seed = rng.randint(2**31 - 1)
        _, _, directions = randomized_svd(everything, n_components, n_iter=2, random_state=seed)
        directions = directions.astype(np.float64)
        self.components_ = directions[: self.n_kernel_components].T.astype(np.float16)
        coordinates, pseudo_coordinates = self._coordinates(z), self._coordinates(pseudo_z)
        self.length_ = np.asarray(max((coordinates**2).sum(1).mean(), SMALL))
        self.landmarks_ = self._drawn(coordinates, pseudo_coordinates, rng).astype(np.float16)

        # Kernels are made orthonormal at the landmarks, after which one ridge fits them and the components.
        gram = self._kernels(self.landmarks_.astype(np.float64)) + JITTER * np.eye(len(self.landmarks_))
        values, vectors = linalg.eigh(gram)
        whiten = vectors / np.sqrt(np.maximum(values, JITTER))
        shrink = np.sqrt(self.linear_weight / max(((z @ directions.T) ** 2).sum(1).mean(), SMALL))
        kernels = self._kernels(coordinates)
        rated = np.hstack([shrink * (z @ directions.T), kernels @ whiten])
        pseudo = np.hstack([shrink * (pseudo_z @ directions.T), self._kernels(pseudo_coordinates) @ whiten])
        pseudo = root * center(pseudo)
        factor = linalg.cho_factor(rated.T @ rated + pseudo.T @ pseudo + self.alpha * np.eye(rated.shape[1]))
        solution = linalg.cho_solve(factor, rated.T @ target + pseudo.T @ (root * center(pseudo_y)))
        self.linear_ = shrink * (solution[:n_components] @ directions)
        self.dual_ = whiten @ solution[n_components:]

        # A ridge's residual without row i: r_i / (1 - h_i), with h_i the weight of y_i in its own prediction.
        leverage = np.einsum("ij,ji->i", rated, linalg.cho_solve(factor, rated.T))
        left_out = (target - rated @ solution) / (1 - leverage).clip(1e-3)
        self._calibrate(target - left_out, np.abs(left_out), kernels)
        return self

    def _checked_pseudo(self, X, y, groups):
        """Standardised features, presumed ratings, and a function that subtracts the mean of each group."""
        if X is None:
            return np.zeros((0, self.n_features_in_)), np.zeros(0), lambda rows: rows
        X, y = check_X_y(X, y, y_numeric=True, dtype=np.float64)
        check_consistent_length(X, groups)
        place = np.unique(groups, return_inverse=True)[1]
        sums = sparse.csr_array((np.ones(len(place)), (place, np.arange(len(place)))))
        sizes = np.bincount(place)

        def center(rows):
            means = (sums @ rows).T / sizes
            return rows - means.T[place]

        return self._standardised(X), y, center

    def _drawn(self, coordinates, pseudo_coordinates, rng):
        """Rows that become landmarks: mostly rated ones."""
        n_pseudo = min(self.n_landmarks // 4, len(pseudo_coordinates))
        n_rated = min(self.n_landmarks - n_pseudo, len(coordinates))
        drawn = [
            rows[np.sort(rng.choice(len(rows), n, replace=False))] if n else rows[:0]
            for rows, n in ((coordinates, n_rated), (pseudo_coordinates, n_pseudo))
        ]
        return np.concatenate(drawn)

    def _calibrate(self, deviation, error, kernels):
        """Size of the error, from the prediction (its deviation from the mean of y) and the distance from landmarks."""
        design = _spread_design(deviation, kernels)
        typical = error.mean()
        penalty = np.diag([0.0, 1.0, 1.0, 1.0]) * len(error) / 100
        weights = linalg.lstsq(design.T @ design + penalty, design.T @ error)[0]
        bounds = np.array([typical / 2, 2 * typical])
        spread = (design @ weights).clip(*bounds)
        # The rank that covers 90 % of new images, as in split conformal prediction.
        rank = min(int(np.ceil(COVERAGE * (len(error) + 1))), len(error)) - 1
        factor = np.sort(error / np.maximum(spread, SMALL))[rank] / NORMAL_QUANTILE
        self.spread_, self.spread_range_ = factor * weights, factor * bounds

    def predict(self, X, return_std=False):
        """Predicted ratings, in the unit of y.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.
        return_std : bool, default=False
            Whether to give standard deviations as well.

        Returns
        -------
        mean : ndarray of shape (n,)
            Predicted ratings; higher is better.
        std : ndarray of shape (n,)
            How far opinions lie from them; only if `return_std`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        z = self._standardised(X)
        kernels = self._kernels(self._coordinates(z))
        mean = z @ self.linear_ + kernels @ self.dual_ + self.y_mean_
        if not return_std:
            return mean
        return mean, (_spread_design(mean - self.y_mean_, kernels) @ self.spread_).clip(*self.spread_range_)

    def score(self, X, y, sample_weight=None):
        """Spearman's rank correlation of the predictions with y, as `score` of all methods of this package.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.
        y : array-like of shape (n,)
            Ratings, higher is better.
        sample_weight : array-like of shape (n,), default=None
            How many rows each row counts as, relative to the others; None counts each once.

        Returns
        -------
        srcc : float
            In [-1, 1]; 0.0, with a warning, when the predictions or y are constant.
        """
        return srcc(y, self.predict(X), sample_weight=sample_weight)

    def _standardised(self, X):
        return ((X - self.mean_) / self.scale_).clip(-LIMIT, LIMIT)

    def _coordinates(self, z):
        return z @ self.components_.astype(np.float64)

    def _kernels(self, coordinates):
        landmarks = self.landmarks_.astype(np.float64)
        squares = (coordinates**2).sum(1)[:, None] + (landmarks**2).sum(1) - 2 * coordinates @ landmarks.T
        return np.exp(-self.gamma / 2 * squares.clip(0) / self.length_)


def _spread_design(deviation, kernels):
    return np.column_stack([np.ones(len(deviation)), deviation, deviation**2, 1 - kernels.max(1)])

# SPDX-License-Identifier: BSD-3-Clause
"""The two kinds of estimators: those that predict quality, and those that turn images into features."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.metaestimators import available_if

from sklearn_iqa._base.estimator import ImageEstimator
from sklearn_iqa._base.failures import Failures, check_ready
from sklearn_iqa._base.training import Subset
from sklearn_iqa.metrics import srcc


class QualityRegressor(RegressorMixin, ImageEstimator):
    """An `ImageEstimator` that predicts quality: what every method with a score is; not for direct use."""

    higher_is_better: ClassVar[bool] = True  # how the published number points
    score_range: ClassVar[tuple[float, float]] = (-np.inf, np.inf)  # of the published number
    # Range that labels are mapped to for training, lowest to highest; None standardises them.
    label_range: ClassVar[tuple[float, float] | None] = None
    # Whether y may have several columns, of which `_quality` makes one.
    label_columns: ClassVar[bool] = False

    def fit(self, X, y, sample_weight=None):
        """Train on images and their quality.

        Parameters
        ----------
        X : container of n images, or of n pairs for methods that compare
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each row, higher is better, in any unit; `predict` then speaks this unit.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others; None draws each once per epoch.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y or a parameter cannot be used; the sentence says which, and what to do.
        """
        return self._fit(X, y, sample_weight)

    @available_if(lambda self: hasattr(self, "max_epochs"))  # what has no epochs is fitted in one go, see `_train`
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch, going on from where the estimator stands.

        The first call builds the network and learns the unit of y; later calls keep both.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X, *, on_error="raise"):
        """Quality of each row of X.

        Parameters
        ----------
        X : container of n images, or of n pairs for methods that compare
            See the user guide, "What X and y are".
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        score : ndarray of shape (n,), float64
            After `fit` in the unit of its y, higher is better. With published weights alone the published number,
            which points as `higher_is_better` says.

        Raises
        ------
        NotFittedError
            When neither `fit` nor `initialize` was called and no `weights` are given.
        ValueError, TypeError, FileNotFoundError, MemoryError
            When a row of X cannot be used; the sentence says which, and what to do.
        """
        return self._to_label_unit(self._tabulate(X, self._score, on_error))

    def predict_iter(self, X, *, on_error="raise"):
        """Yield the rows of X and their quality as they become known, in memory that does not grow with X.

        Parameters
        ----------
        X : container of n images, or of n pairs for methods that compare
            Best paths: they are opened one batch at a time.
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Yields
        ------
        row : int
            Rows of one size come in order, but those that share a reference come together, and those that cannot be
            used come last.
        score : float
            As `predict` gives it.
        """
        check_ready(self)
        failures, rows = Failures(on_error), self._rows(X)
        missing = np.ones(len(rows), dtype=bool)
        for row, output in self._infer(rows, failures):
            score = failures.finite(row, np.float64(self._score(output)))
            if np.isfinite(score):
                missing[row] = False
                yield row, float(self._to_label_unit(score))
        failures.report(np.flatnonzero(missing), len(rows))
        for row in np.flatnonzero(missing):
            yield int(row), np.nan

    def score(self, X, y, sample_weight=None):
        """Spearman's rank correlation of the predictions with y, signed so that more is better.

        Parameters
        ----------
        X : container of n images, or of n pairs for methods that compare
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality, higher is better.
        sample_weight : array-like of shape (n,), default=None
            How many rows each row counts as, relative to the others; None counts each once.

        Returns
        -------
        srcc : float
            In [-1, 1]; 0.0, with a warning, when the predictions or y are constant.
        """
        return srcc(self._label_quality(y), self._direction() * self.predict(X), sample_weight=sample_weight)

    def _direction(self) -> int:
        """1 where a larger prediction is better, -1 where a smaller one is: of a distance, before it is in y's unit."""
        return 1 if self.higher_is_better or hasattr(self, "label_scale_") else -1

    def _label_quality(self, y):
        """A y as users give it -> one quality for each row; where it has no more than one column, as it is."""
        return self._quality(np.asarray(y, dtype=float)) if self.label_columns else y

    def _score(self, output) -> float:
        """Output for all views of one row -> its score; the mean unless the method says otherwise."""
        return output.double().mean().item()

    def _held_out_score(self, rows, targets, held_out: np.ndarray, sample_weight) -> Callable[[], float]:
        """Make the function that scores held-out rows as training stands, for `early_stopping`; higher is better."""
        sign, quality = 1 if self.higher_is_better else -1, self._quality(targets)[held_out]
        weight = None if sample_weight is None else sample_weight[held_out]
        subset = Subset(rows, held_out)
        return lambda: srcc(quality, sign * self._scores(subset), sample_weight=weight)

    def _scores(self, rows) -> np.ndarray:
        scores = np.empty(len(rows))
        for row, output in self._infer(rows):
            scores[row] = self._score(output)
        return scores

    def _to_label_unit(self, scores):
        slope, intercept = getattr(self, "label_scale_", (1.0, 0.0))
        return slope * scores + intercept

    def _quality(self, targets: np.ndarray) -> np.ndarray:
        """Target rows -> one quality each; for methods whose targets have several columns."""
        return targets

    def _check_targets(self, rows, y) -> np.ndarray:
        return check_quality(rows, y, type(self).__name__)

    def _start(self, targets, sample_weight) -> None:
        """Choose the straight line from scores to the unit of y: `label_scale_` = (slope, intercept)."""
        quality = self._quality(targets)
        sign = 1.0 if self.higher_is_better else -1.0
        if self.label_range is None:
            mean = np.average(quality, weights=sample_weight)
            spread = np.sqrt(np.average((quality - mean) ** 2, weights=sample_weight))
            self.label_scale_ = (sign * (spread if spread > 0 else 1.0), mean)
            return
        low, high = self.label_range
        worst, best = quality.min(), quality.max()
        slope = sign * ((best - worst) / (high - low) if best > worst else 1.0)
        self.label_scale_ = (slope, worst - slope * (low if sign > 0 else high))

    def _encode_targets(self, targets: np.ndarray) -> np.ndarray:
        slope, intercept = self.label_scale_
        return (targets - intercept) / slope

    def _calibrate(self, rows, targets, sample_weight) -> None:
        """Replace `label_scale_` by the least-squares line from scores to labels; for losses that only see order."""
        self.label_scale_ = least_squares_line(self._scores(rows), self._quality(targets), sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # scikit-learn's toy tables are no images
        return tags


class FeatureLearner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator):
    """An `ImageEstimator` that turns images into rows of features; not for direct use."""

    def fit(self, X, y=None):
        """Train without labels.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : None
            Ignored; present for pipelines.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._fit(X, None)

    def partial_fit(self, X, y=None):
        """Train for one epoch, going on from where the estimator stands; the first call builds the network.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, None)

    def transform(self, X, *, on_error="raise"):
        """Features of each row of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        features : ndarray of shape (n, n_features), float32
            One row of features per image.

        Raises
        ------
        NotFittedError
            When neither `fit` nor `initialize` was called and no weights are given.
        ValueError, TypeError, FileNotFoundError, MemoryError
            When a row of X cannot be used; the sentence says which, and what to do.
        """
        check_ready(self)
        return self._tabulate(X, self._features, on_error, (self._n_features_out,))

    def _features(self, output) -> np.ndarray:
        """Output for all views of one row -> its vector; the mean unless the method says otherwise."""
        return output.mean(0).numpy()

    @property
    @abstractmethod
    def _n_features_out(self) -> int:
        """How many features a row has."""

    def _check_targets(self, rows, y) -> np.ndarray:
        return np.zeros(len(rows), dtype=np.float32)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def least_squares_line(scores: np.ndarray, quality: np.ndarray, sample_weight=None) -> tuple[float, float]:
    """Slope and intercept of the least-squares line from scores to quality; it is level where all scores are equal."""
    mean, quality_mean = (np.average(values, weights=sample_weight) for values in (scores, quality))
    variance = np.average((scores - mean) ** 2, weights=sample_weight)
    covariance = np.average((scores - mean) * (quality - quality_mean), weights=sample_weight)
    slope = covariance / variance if variance > 0 else 0.0
    return float(slope), float(quality_mean - slope * mean)


def check_quality(rows, y, name: str) -> np.ndarray:
    """Check y: finite float64 of shape (n,), one number per row.

    Raises
    ------
    ValueError
        When y is missing, not finite, not numeric, of another length or of several columns.
    """
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None; give one quality per row of X.")
    y = _as_numbers(y)
    check_consistent_length(rows, y)
    if not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        found = "NaN" if np.isnan(y[row]) else "infinity (inf)"
        raise ValueError(f"y contains {found}, first in row {row}; leave rows without a finite quality out of X and y.")
    return y


def _as_numbers(y) -> np.ndarray:
    """A column of numbers as float64."""
    try:
        return column_or_1d(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        texts = [one for one in np.asarray(y, dtype=object).ravel() if isinstance(one, str)]
        if not texts:
            raise
        raise ValueError(
            f"y holds text ({texts[0]!r}), but quality is a number for each row, higher is better; turn grades into "
            "numbers first, as in [{'bad': 1, 'good': 5}[grade] for grade in y]."
        ) from error


__all__ = ["FeatureLearner", "QualityRegressor", "check_quality", "least_squares_line"]

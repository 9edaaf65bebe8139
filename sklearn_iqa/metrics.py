# SPDX-License-Identifier: BSD-3-Clause
"""Agreement of scores with people: rank and linear correlation, error, and scorers for scikit-learn's searches.

The four metrics of the field are SRCC (do they rank alike?), KRCC (how many pairs are ordered alike?), PLCC (do they
lie on one line?) and RMSE (how far apart, in units of the MOS?). Published PLCC values are mostly computed after a
monotone logistic curve has mapped the scores to the MOS: that is `plcc_logistic`. For distances there are the two
metrics of BAPPS: `two_afc_score` (which of two images is nearer to the original?) and `jnd_average_precision` (which
pairs look the same?).

Weights are frequencies: a row of weight 3 counts as three equal rows, in every metric.

References
----------
Video Quality Experts Group, "Final report from the VQEG on the validation of objective models of video quality
assessment", 2000 (four parameters). H. R. Sheikh, M. F. Sabir, A. C. Bovik, "A statistical evaluation of recent full
reference image quality assessment algorithms", IEEE Transactions on Image Processing 15(11), 2006 (five parameters).
J. Neslehova, "On rank correlation measures for non-continuous random variables", Journal of Multivariate Analysis
98(3), 2007 (Spearman's and Kendall's correlation of any distribution, here that of the weighted rows). R. Zhang,
P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018 (BAPPS).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from scipy import optimize, stats
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import root_mean_squared_error
from sklearn.metrics._scorer import _Scorer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Options, validate_params

__all__ = [
    "LogisticMapping",
    "fit_logistic",
    "jnd_average_precision",
    "krcc",
    "krcc_scorer",
    "plcc",
    "plcc_logistic",
    "plcc_logistic_scorer",
    "plcc_scorer",
    "quality_scoring",
    "rmse",
    "rmse_scorer",
    "srcc",
    "srcc_scorer",
    "two_afc_score",
]

# Steepness and centre from which fits start, for scores and MOS of mean 0 and deviation 1.
_STARTS = [(steepness, centre) for steepness in (0.5, 2.0, 8.0) for centre in (-1.0, 0.0, 1.0)]
ROWS_AT_ONCE = 256  # that `_weighted_tau_b` compares with all
_CURVE_CONSTRAINTS = {"n_parameters": [Options(Integral, {4, 5})]}


def srcc(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    r"""Spearman's rank correlation between MOS and scores.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [-1, 1], higher is better; ties share their mean rank. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or fewer than 2
        values weigh more than 0.

    Notes
    -----
    With weights :math:`w`, the rank of a value is the weight below it and half the weight at it,
    :math:`r_i = \sum_j w_j [x_j < x_i] + \frac{1}{2} \sum_j w_j [x_j = x_i]`, and SRCC is the weighted Pearson
    correlation of the ranks. Whole weights give the SRCC of repeated rows.

    Examples
    --------
    >>> from sklearn_iqa.metrics import srcc
    >>> srcc([1, 2, 3, 4], [0.1, 0.2, 0.3, 40])
    1.0
    """
    mos, scores, weight = _checked(y_true, y_pred, sample_weight)
    if _undefined(mos, scores, "SRCC"):
        return 0.0
    if weight is None:
        return float(stats.spearmanr(mos, scores).statistic)
    return _weighted_pearson(_weighted_ranks(mos, weight), _weighted_ranks(scores, weight), weight)


def krcc(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Kendall's rank correlation (tau-b) between MOS and scores.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [-1, 1], higher is better. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or fewer than 2
        values weigh more than 0.

    Notes
    -----
    With weights :math:`w`, a pair of rows counts :math:`w_i w_j` in tau-b's numerator and in both parts of its
    denominator, which whole weights turn into the pairs of repeated rows. That takes time that grows with the square of
    the number of rows.
    """
    mos, scores, weight = _checked(y_true, y_pred, sample_weight)
    if _undefined(mos, scores, "KRCC"):
        return 0.0
    if weight is None:
        return float(stats.kendalltau(mos, scores, variant="b").statistic)
    return _weighted_tau_b(mos, scores, weight)


def plcc(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Pearson's linear correlation between MOS and scores as they are.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [-1, 1], higher is better. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or fewer than 2
        values weigh more than 0.

    See Also
    --------
    plcc_logistic : the same after a logistic curve, as most papers report it.
    """
    mos, scores, weight = _checked(y_true, y_pred, sample_weight)
    if _undefined(mos, scores, "PLCC"):
        return 0.0
    if weight is None:
        return float(stats.pearsonr(mos, scores).statistic)
    return _weighted_pearson(mos, scores, weight)


def rmse(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Root mean squared error between MOS and scores, which must be in one unit.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS).
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in the unit of the MOS.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        At least 0, in the unit of the MOS; lower is better.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or fewer than 2
        values weigh more than 0.

    See Also
    --------
    fit_logistic : maps scores in another unit to the MOS before RMSE is taken.
    """
    mos, scores, weight = _checked(y_true, y_pred, sample_weight)
    return float(root_mean_squared_error(mos, scores, sample_weight=weight))


def two_afc_score(y_true: Any, first: Any, second: Any, *, sample_weight: Any = None) -> float:
    """Agreement of a distance with people who chose between two alternatives (2AFC).

    Parameters
    ----------
    y_true : array-like of shape (n_triplets,)
        Fraction of people, 0 to 1, who found the second of two images nearer to the reference than the first.
    first, second : array-like of shape (n_triplets,)
        Distances of the first and of the second image from the reference, in any unit, lower is nearer. Of a quality,
        where higher is better, give the negative.
    sample_weight : array-like of shape (n_triplets,), default=None
        How many triplets each counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [0, 1], higher is better: the mean of the fraction of people who agree with the distance, :math:`h` where the
        second image is nearer, :math:`1 - h` where the first is, and 1/2 where they are equally near. Chance gives 1/2.
        People do not reach 1: one of them agrees with the others in :math:`h^2 + (1 - h)^2` of the cases on average.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or a fraction
        is not in 0..1.

    See Also
    --------
    jnd_average_precision : the other metric of BAPPS.

    Notes
    -----
    Definition: section 4 of R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of
    Deep Features as a Perceptual Metric", CVPR 2018; `score_2afc_dataset` of the official code. Papers give it in
    percent, for each part of BAPPS and as the mean over parts.

    Examples
    --------
    >>> from sklearn_iqa.metrics import two_afc_score
    >>> two_afc_score([1.0, 0.75], [0.3, 0.2], [0.1, 0.4])  # all agree in the first triplet, a quarter in the second
    0.625
    """
    share, first, second, weight = _judgements(sample_weight, y_true=y_true, first=first, second=second)
    agreeing = np.where(second < first, share, np.where(first < second, 1 - share, 0.5))
    return float(np.average(agreeing, weights=weight))


def jnd_average_precision(y_true: Any, distance: Any, *, sample_weight: Any = None) -> float:
    r"""Average precision of a distance in finding the pairs that look the same; its mean over parts is the JND mAP.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        Fraction of people, 0 to 1, who found the two images of a pair the same: the difference is not noticeable.
    distance : array-like of shape (n_pairs,)
        Distance of the two images, in any unit, lower is more alike. Of a quality, where higher is better, give the
        negative.
    sample_weight : array-like of shape (n_pairs,), default=None
        How many pairs each counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [0, 1], higher is better. 0.0, with an `sklearn.exceptions.UndefinedMetricWarning`, where nobody found any
        pair the same.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN, infinity or negative weights, or a fraction
        is not in 0..1.

    See Also
    --------
    two_afc_score : the other metric of BAPPS.

    Notes
    -----
    Pairs are sorted by distance. Those up to a threshold hold :math:`\sum s_i` of the judgements "same" and
    :math:`\sum (1 - s_i)` of the others, which gives precision and recall; the result is the area under the curve of
    precision over recall, where precision is replaced by its maximum at the same or higher recall (PASCAL VOC since
    2010). Definition: section 4 of R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable
    Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018; `score_jnd_dataset` of the official code, which
    sorts equal distances at random, while here a threshold takes all or none of them.

    Examples
    --------
    >>> from sklearn_iqa.metrics import jnd_average_precision
    >>> jnd_average_precision([1.0, 1.0, 0.0], [0.01, 0.02, 0.5])
    1.0
    """
    same, distance, weight = _judgements(sample_weight, y_true=y_true, distance=distance)
    weight = np.ones(len(same)) if weight is None else weight
    place = np.unique(distance, return_inverse=True)[1]
    found = np.cumsum(np.bincount(place, weights=weight * same))
    taken = np.cumsum(np.bincount(place, weights=weight))
    if found[-1] == 0:
        warnings.warn(
            "Average precision is not defined where nobody found any pair the same, 0.0 is returned.",
            UndefinedMetricWarning,
            stacklevel=2,
        )
        return 0.0
    precision = np.maximum.accumulate((found / taken)[::-1])[::-1]
    return float(np.diff(found / found[-1], prepend=0.0) @ precision)


def _judgements(sample_weight, **inputs):
    """Give fractions of people, distances and weights of the rows that count, or raise."""
    columns = _columns(**inputs)
    outside = np.flatnonzero((columns[0] < 0) | (columns[0] > 1))
    if outside.size:
        raise ValueError(
            f"y_true[{outside[0]}] is {columns[0][outside[0]]}, but a fraction of people lies in 0..1; divide counts "
            "by the number of judgements."
        )
    *columns, weight = _counting(sample_weight, *columns)
    if len(columns[0]) == 0:
        counting = "" if sample_weight is None else " that weighs more than 0"
        raise ValueError(f"Agreement needs at least 1 sample{counting}, got 0.")
    return *columns, weight


@validate_params(_CURVE_CONSTRAINTS, prefer_skip_nested_validation=True)
def plcc_logistic(y_true: Any, y_pred: Any, *, n_parameters: int = 5, sample_weight: Any = None) -> float:
    """Pearson's linear correlation between MOS and scores after the fitted logistic curve.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit and direction.
    n_parameters : {4, 5}, default=5
        Form of the curve, see `fit_logistic`.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    float
        In [0, 1], higher is better, and never below ``abs(plcc(y_true, y_pred))``. Where either input is constant:
        0.0, with an `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If `n_parameters` is neither 4 nor 5, or the inputs differ in length, are not one-dimensional, hold NaN,
        infinity or negative weights, or fewer than 2 values weigh more than 0.

    Notes
    -----
    The curve may fall as well as rise, so the direction of the scores is lost, as usual in the field: a distance and
    its negative get the same value, and so does a model that takes bad for good. `srcc` shows the direction. The curve
    is fitted to the values that it is evaluated on, which flatters small samples.
    """
    linear = abs(plcc(y_true, y_pred, sample_weight=sample_weight))
    mapping = fit_logistic(y_true, y_pred, n_parameters=n_parameters, sample_weight=sample_weight)
    if mapping.is_line:
        return linear
    # The maximum guards against rounding only, see Notes.
    return max(linear, plcc(y_true, mapping(column_or_1d(y_pred)), sample_weight=sample_weight))


@dataclass(frozen=True)
class LogisticMapping:
    """Curve from scores to MOS: ``b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5``.

    Calling it with scores of any shape returns an array of this shape, in the unit of the MOS.

    Parameters
    ----------
    b1, b2, b3, b4, b5 : float
        Height, steepness (positive) and centre of the logistic step, gradient and offset of the line. The
        four-parameter form is the case ``b4 = 0``: its asymptotes are ``b5 + b1 / 2`` and ``b5 - b1 / 2``, its width
        is ``1 / b2``. The straight line is the case ``b1 = 0``.
    """

    b1: float
    b2: float
    b3: float
    b4: float
    b5: float

    def __call__(self, scores: Any) -> np.ndarray:
        return _curve(np.asarray(scores, dtype=np.float64), self.b1, self.b2, self.b3, self.b4, self.b5)

    @property
    def is_line(self) -> bool:
        """Whether the curve is a straight line."""
        return self.b1 == 0


@validate_params(_CURVE_CONSTRAINTS, prefer_skip_nested_validation=True)
def fit_logistic(y_true: Any, y_pred: Any, *, n_parameters: int = 5, sample_weight: Any = None) -> LogisticMapping:
    """Least-squares fit of a logistic curve that maps scores to the MOS.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit and direction.
    n_parameters : {4, 5}, default=5
        4: ``b2 + (b1 - b2) / (1 + exp(-(x - b3) / abs(b4)))`` (VQEG).
        5: ``b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5`` (Sheikh et al.).
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts as, relative to the others, not negative; None counts each once.

    Returns
    -------
    LogisticMapping
        The curve, in the notation of the five-parameter form. It rises or falls, whichever fits better. Constant
        scores or constant MOS give the flat line at the mean MOS.

    Raises
    ------
    ValueError
        If `n_parameters` is neither 4 nor 5, or the inputs differ in length, are not one-dimensional, hold NaN,
        infinity or negative weights, or fewer than 2 values weigh more than 0.

    Warns
    -----
    ConvergenceWarning
        Where the least-squares straight line is returned instead: if there are no more samples than parameters, or
        if no four-parameter curve is better than the line.

    Notes
    -----
    `scipy.optimize.curve_fit` runs from several starts, on scores and MOS brought to unit deviation; the best curve is
    kept. The five-parameter form is not forced to be monotone, as in published results.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa.metrics import fit_logistic
    >>> scores = np.linspace(0, 1, 50)
    >>> mos = 1 + 4 / (1 + np.exp(-(scores - 0.6) / 0.1))
    >>> fit_logistic(mos, scores, n_parameters=4)(0.6).round(4).item()
    3.0
    """
    mos, scores, weight = _checked(y_true, y_pred, sample_weight)
    if _is_constant(mos) or _is_constant(scores):
        return _straight_line(mos, scores, weight)
    if len(mos) <= n_parameters:
        _warn_of_line(f"{len(mos)} samples cannot determine the {n_parameters} parameters of the logistic curve")
        return _straight_line(mos, scores, weight)

    line = _straight_line(mos, scores, weight)
    (mos_mean, mos_scale), (mean, scale) = (_mean_and_deviation(values, weight) for values in (mos, scores))
    x, y = (scores - mean) / scale, (mos - mos_mean) / mos_scale
    root = 1.0 if weight is None else np.sqrt(weight)
    sigma = None if weight is None else 1 / root
    best, best_error = None, np.sum((root * (mos - line(scores))) ** 2) / mos_scale**2
    for steepness, centre in _STARTS:
        start = [plcc(y, x, sample_weight=weight), steepness, centre, 0.0, 0.0]
        if n_parameters == 4:
            start.pop(3)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optimize.OptimizeWarning)  # on the covariance, which is not used
                found, _ = optimize.curve_fit(
                    _curve if n_parameters == 5 else _step, x, y, start, sigma=sigma, maxfev=2000
                )
        except RuntimeError:  # this start does not converge
            continue
        found = found if n_parameters == 5 else np.insert(found, 3, 0.0)
        error = np.sum((root * (y - _curve(x, *found))) ** 2)
        if error < best_error * (1 - 1e-9):
            best, best_error = found, error
    if best is None:
        if n_parameters == 4:  # the line is one of the five-parameter curves
            _warn_of_line("The four-parameter logistic curve fits no better than a straight line")
        return line
    b1, b2, b3, b4, b5 = best if best[1] > 0 else best * (-1, -1, 1, 1, 1)
    gradient = b4 * mos_scale / scale
    offset = mos_mean + b5 * mos_scale - gradient * mean
    return LogisticMapping(*map(float, (b1 * mos_scale, b2 / scale, b3 * scale + mean, gradient, offset)))


def _curve(x, b1, b2, b3, b4, b5):
    """Five-parameter form; 1/2 - 1 / (1 + exp(t)) = expit(t) - 1/2, which cannot overflow."""
    return b1 * (expit(b2 * (x - b3)) - 0.5) + b4 * x + b5


def _step(x, b1, b2, b3, b5):
    """Four-parameter form."""
    return _curve(x, b1, b2, b3, 0.0, b5)


def _straight_line(mos, scores, weight):
    mean, deviation = _mean_and_deviation(scores, weight)
    mos_mean = np.average(mos, weights=weight)
    covariance = np.cov(scores, mos, bias=True, aweights=weight)[0, 1]
    gradient = 0.0 if _is_constant(scores) else covariance / deviation**2
    return LogisticMapping(0.0, 1.0, 0.0, float(gradient), float(mos_mean - gradient * mean))


def _mean_and_deviation(values, weight):
    if weight is None:
        return values.mean(), values.std()
    mean = np.average(values, weights=weight)
    return mean, np.sqrt(np.average((values - mean) ** 2, weights=weight))


def _weighted_pearson(x, y, weight) -> float:
    x, y = (values - np.average(values, weights=weight) for values in (x, y))
    correlation = (weight * x) @ y / np.sqrt(((weight * x) @ x) * ((weight * y) @ y))
    return float(np.clip(correlation, -1, 1))  # rounding may leave the range


def _weighted_ranks(values, weight) -> np.ndarray:
    """Weight below each value, and half the weight at it; whole weights give mid-ranks, but for a constant."""
    place = np.unique(values, return_inverse=True)[1]
    at = np.bincount(place, weights=weight)
    return (np.cumsum(at) - at / 2)[place]


def _weighted_tau_b(x, y, weight) -> float:
    x, y = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    agreement = 0.0
    for start in range(0, len(x), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        same_order = np.sign(x[some, None] - x) * np.sign(y[some, None] - y)
        agreement += weight[some] @ (same_order @ weight)
    # Pairs that differ: all but those of equal values, among them each row with itself.
    differing = [weight.sum() ** 2 - np.sum(np.bincount(values, weights=weight) ** 2) for values in (x, y)]
    return float(np.clip(agreement / np.sqrt(differing[0] * differing[1]), -1, 1))


def _warn_of_line(reason):
    # The caller of `fit_logistic`, whose decorator adds a frame.
    warnings.warn(f"{reason}; a straight line is used instead.", ConvergenceWarning, stacklevel=4)


def _checked(y_true, y_pred, sample_weight=None):
    """Give MOS, scores and weights of the rows that count, or raise; weights are None where all are equal."""
    mos, scores = _columns(y_true=y_true, y_pred=y_pred)
    mos, scores, weight = _counting(sample_weight, mos, scores)
    if len(mos) < 2:
        counting = "" if sample_weight is None else " that weigh more than 0"
        raise ValueError(f"Agreement needs at least 2 samples{counting}, got {len(mos)}.")
    return mos, scores, weight


def _columns(**inputs):
    """Give inputs as float64 arrays (n,) of the length of the first, or raise."""
    columns, (first, *_) = [], inputs
    for name, values in inputs.items():
        column = column_or_1d(values, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            raise ValueError(
                f"{name}[{bad[0]}] is {column[bad[0]]}, only finite numbers can be compared: drop such rows."
            )
        columns.append(column)
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{first} has {len(columns[0])} values and {name} has {len(column)}, give one of each for each row."
            )
    return columns


def _counting(sample_weight, *columns):
    """Give the rows of the columns that weigh more than 0, and their weights; None where these are equal."""
    if sample_weight is None:
        return *columns, None
    _, weight = _columns(y_true=columns[0], sample_weight=sample_weight)
    negative = np.flatnonzero(weight < 0)
    if negative.size:
        raise ValueError(
            f"sample_weight[{negative[0]}] is {weight[negative[0]]}, but weights are not negative; give 0 to leave a "
            "row out."
        )
    kept = weight > 0
    equal = np.ptp(weight[kept]) == 0 if kept.any() else True
    return *(column[kept] for column in columns), None if equal else weight[kept]


def _is_constant(values):
    return bool(np.all(values == values[0]))


def _undefined(mos, scores, metric):
    """Whether a correlation is undefined; warns if so."""
    constant = [name for name, values in (("y_true", mos), ("y_pred", scores)) if _is_constant(values)]
    if constant:
        warnings.warn(
            f"{metric} is not defined where {' and '.join(constant)} is constant, 0.0 is returned.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
    return bool(constant)


class _QualityScorer(_Scorer):
    """A scorer of `make_scorer` that first lets the estimator turn a y of several columns into one quality a row."""

    def _score(self, method_caller, estimator, X, y_true, **kwargs):
        method = _innermost(estimator)
        if hasattr(method, "_label_quality"):
            y_true = method._label_quality(y_true)
        return super()._score(method_caller, estimator, X, y_true, **kwargs)


def _innermost(estimator):
    """Give what predicts in pipelines, searches and frozen estimators."""
    while True:
        if hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "estimator"):
            estimator = estimator.estimator
        else:
            return estimator


def _scorer(metric, sign=1):
    return _QualityScorer(metric, sign, {})


srcc_scorer = _scorer(srcc)
krcc_scorer = _scorer(krcc)
plcc_scorer = _scorer(plcc)
plcc_logistic_scorer = _scorer(plcc_logistic)
rmse_scorer = _scorer(rmse, sign=-1)


def quality_scoring() -> dict[str, Callable]:
    """All metrics at once, for ``scoring=`` of `cross_validate` and `GridSearchCV`.

    Returns
    -------
    dict of str to scorer
        ``"srcc"``, ``"krcc"``, ``"plcc"``, ``"plcc_logistic"`` and ``"neg_rmse"``; for each, higher is better. A
        search must name the one that decides: ``refit="srcc"``.

    Notes
    -----
    Published weights of a distance, used without `fit`, get negative correlations; ``scoring=None`` uses the
    estimator's own `score`, which knows its direction. A y of several columns, such as NIMA's counts of ratings, is
    compared by the quality that it means. ``scorer(estimator, X, y, sample_weight=w)`` counts rows by weight; in
    cross-validation that takes metadata routing, ``srcc_scorer.set_score_request(sample_weight=True)``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_iqa.metrics import quality_scoring
    >>> search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, scoring=quality_scoring(), refit="srcc")
    >>> search.fit(*load_diabetes(return_X_y=True)).best_params_
    {'alpha': 0.1}
    """
    return {
        "srcc": srcc_scorer,
        "krcc": krcc_scorer,
        "plcc": plcc_scorer,
        "plcc_logistic": plcc_logistic_scorer,
        "neg_rmse": rmse_scorer,
    }

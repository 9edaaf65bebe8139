# SPDX-License-Identifier: BSD-3-Clause
"""Agreement of scores with people: rank and linear correlation, error, and scorers for scikit-learn's searches.

The four metrics of the field are SRCC (do they rank alike?), KRCC (how many pairs are ordered alike?), PLCC (do they
lie on one line?) and RMSE (how far apart, in units of the MOS?). Published PLCC values are mostly computed after a
monotone logistic curve has mapped the scores to the MOS: that is `plcc_logistic`.

References
----------
Video Quality Experts Group, "Final report from the VQEG on the validation of objective models of video quality
assessment", 2000 (four parameters). H. R. Sheikh, M. F. Sabir, A. C. Bovik, "A statistical evaluation of recent full
reference image quality assessment algorithms", IEEE Transactions on Image Processing 15(11), 2006 (five parameters).
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
from sklearn.metrics import make_scorer, root_mean_squared_error
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Options, validate_params

__all__ = [
    "LogisticMapping",
    "fit_logistic",
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
]

# Steepness and centre from which fits start, for scores and MOS of mean 0 and deviation 1.
_STARTS = [(steepness, centre) for steepness in (0.5, 2.0, 8.0) for centre in (-1.0, 0.0, 1.0)]
_CURVE_CONSTRAINTS = {"n_parameters": [Options(Integral, {4, 5})]}


def srcc(y_true: Any, y_pred: Any) -> float:
    """Spearman's rank correlation between MOS and scores.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.

    Returns
    -------
    float
        In [-1, 1], higher is better; ties share their mean rank. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN or infinity, or have fewer than 2 values.

    Examples
    --------
    >>> from sklearn_iqa.metrics import srcc
    >>> srcc([1, 2, 3, 4], [0.1, 0.2, 0.3, 40])
    1.0
    """
    mos, scores = _checked(y_true, y_pred)
    if _undefined(mos, scores, "SRCC"):
        return 0.0
    return float(stats.spearmanr(mos, scores).statistic)


def krcc(y_true: Any, y_pred: Any) -> float:
    """Kendall's rank correlation (tau-b) between MOS and scores.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.

    Returns
    -------
    float
        In [-1, 1], higher is better. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN or infinity, or have fewer than 2 values.
    """
    mos, scores = _checked(y_true, y_pred)
    if _undefined(mos, scores, "KRCC"):
        return 0.0
    return float(stats.kendalltau(mos, scores, variant="b").statistic)


def plcc(y_true: Any, y_pred: Any) -> float:
    """Pearson's linear correlation between MOS and scores as they are.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit.

    Returns
    -------
    float
        In [-1, 1], higher is better. Where either input is constant: 0.0, with an
        `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN or infinity, or have fewer than 2 values.

    See Also
    --------
    plcc_logistic : the same after a logistic curve, as most papers report it.
    """
    mos, scores = _checked(y_true, y_pred)
    if _undefined(mos, scores, "PLCC"):
        return 0.0
    return float(stats.pearsonr(mos, scores).statistic)


def rmse(y_true: Any, y_pred: Any) -> float:
    """Root mean squared error between MOS and scores, which must be in one unit.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS).
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in the unit of the MOS.

    Returns
    -------
    float
        At least 0, in the unit of the MOS; lower is better.

    Raises
    ------
    ValueError
        If the inputs differ in length, are not one-dimensional, hold NaN or infinity, or have fewer than 2 values.

    See Also
    --------
    fit_logistic : maps scores in another unit to the MOS before RMSE is taken.
    """
    return float(root_mean_squared_error(*_checked(y_true, y_pred)))


@validate_params(_CURVE_CONSTRAINTS, prefer_skip_nested_validation=True)
def plcc_logistic(y_true: Any, y_pred: Any, *, n_parameters: int = 5) -> float:
    """Pearson's linear correlation between MOS and scores after the fitted logistic curve.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit and direction.
    n_parameters : {4, 5}, default=5
        Form of the curve, see `fit_logistic`.

    Returns
    -------
    float
        In [0, 1], higher is better, and never below ``abs(plcc(y_true, y_pred))``. Where either input is constant:
        0.0, with an `sklearn.exceptions.UndefinedMetricWarning`.

    Raises
    ------
    ValueError
        If `n_parameters` is neither 4 nor 5, or the inputs differ in length, are not one-dimensional, hold NaN or
        infinity, or have fewer than 2 values.

    Notes
    -----
    The curve may fall as well as rise, so the direction of the scores is lost, as usual in the field: a distance and
    its negative get the same value, and so does a model that takes bad for good. `srcc` shows the direction. The curve
    is fitted to the values that it is evaluated on, which flatters small samples.
    """
    linear = abs(plcc(y_true, y_pred))
    mapping = fit_logistic(y_true, y_pred, n_parameters=n_parameters)
    if mapping.is_line:
        return linear
    # The maximum guards against rounding only, see Notes.
    return max(linear, plcc(y_true, mapping(column_or_1d(y_pred))))


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
def fit_logistic(y_true: Any, y_pred: Any, *, n_parameters: int = 5) -> LogisticMapping:
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

    Returns
    -------
    LogisticMapping
        The curve, in the notation of the five-parameter form. It rises or falls, whichever fits better. Constant
        scores or constant MOS give the flat line at the mean MOS.

    Raises
    ------
    ValueError
        If `n_parameters` is neither 4 nor 5, or the inputs differ in length, are not one-dimensional, hold NaN or
        infinity, or have fewer than 2 values.

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
    mos, scores = _checked(y_true, y_pred)
    if _is_constant(mos) or _is_constant(scores):
        return _straight_line(mos, scores)
    if len(mos) <= n_parameters:
        _warn_of_line(f"{len(mos)} samples cannot determine the {n_parameters} parameters of the logistic curve")
        return _straight_line(mos, scores)

    line = _straight_line(mos, scores)
    mos_mean, mos_scale, mean, scale = mos.mean(), mos.std(), scores.mean(), scores.std()
    x, y = (scores - mean) / scale, (mos - mos_mean) / mos_scale
    best, best_error = None, np.sum((mos - line(scores)) ** 2) / mos_scale**2
    for steepness, centre in _STARTS:
        start = [plcc(y, x), steepness, centre, 0.0, 0.0]
        if n_parameters == 4:
            start.pop(3)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optimize.OptimizeWarning)  # on the covariance, which is not used
                found, _ = optimize.curve_fit(_curve if n_parameters == 5 else _step, x, y, start, maxfev=2000)
        except RuntimeError:  # this start does not converge
            continue
        found = found if n_parameters == 5 else np.insert(found, 3, 0.0)
        error = np.sum((y - _curve(x, *found)) ** 2)
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


def _straight_line(mos, scores):
    gradient = 0.0 if _is_constant(scores) else np.cov(scores, mos, bias=True)[0, 1] / scores.var()
    return LogisticMapping(0.0, 1.0, 0.0, float(gradient), float(mos.mean() - gradient * scores.mean()))


def _warn_of_line(reason):
    # The caller of `fit_logistic`, whose decorator adds a frame.
    warnings.warn(f"{reason}; a straight line is used instead.", ConvergenceWarning, stacklevel=4)


def _checked(y_true, y_pred):
    """Give MOS and scores as two float64 arrays of equal length, or raise."""
    checked = []
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        column = column_or_1d(values, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            raise ValueError(
                f"{name}[{bad[0]}] is {column[bad[0]]}, only finite numbers can be compared: drop such rows."
            )
        checked.append(column)
    mos, scores = checked
    if len(mos) != len(scores):
        raise ValueError(f"y_true has {len(mos)} values and y_pred has {len(scores)}, give one score for each MOS.")
    if len(mos) < 2:
        raise ValueError(f"Agreement needs at least 2 samples, got {len(mos)}.")
    return mos, scores


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


srcc_scorer = make_scorer(srcc)
krcc_scorer = make_scorer(krcc)
plcc_scorer = make_scorer(plcc)
plcc_logistic_scorer = make_scorer(plcc_logistic)
rmse_scorer = make_scorer(rmse, greater_is_better=False)


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
    estimator's own `score`, which knows its direction.

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

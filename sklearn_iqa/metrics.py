# SPDX-License-Identifier: BSD-3-Clause
"""Agreement of scores with people: rank and linear correlation, error, and scorers for scikit-learn's searches.

The four figures of the field are SRCC (do they rank alike?), KRCC (how many pairs are ordered alike?), PLCC (do they
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
from typing import Any

import numpy as np
from scipy import ndimage, optimize, stats
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import make_scorer, root_mean_squared_error
from sklearn.utils import column_or_1d

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

# Grid of starts for the two parameters that enter the curve non-linearly, for scores scaled into [-1, 1]. To rank the
# starts, about a thousand samples, even in rank, are enough.
_N_STEEPNESS = 16
_N_CENTRES = 21
_N_REFINED = 4
_N_THINNED = 1000
# At the flattest the curve is a line to 0.1 % over the scores' range; at the steepest it rises by 90 % within 6 % of
# their interquartile range: beyond that a fit no longer sees a curve but a step between two neighbouring scores.
_FLATTEST = 0.1
_STEEPEST = 100
# Centres beyond the outermost scores, in widths of the curve: what remains inside is one tail, an exponential.
_TAIL_CENTRES = np.array([2.0, 5.0, 10.0])


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
    its negative get the same figure, and so does a model that takes bad for good. Judge direction by `srcc`.

    The curve is fitted to the values that it is judged by, which flatters small samples.

    Why never below: the curve's squared error is at most that of the best line, and no rescaling of the curve's
    values raises the squared error beyond it; squared correlation is one minus the share of what then remains.
    """
    linear = abs(plcc(y_true, y_pred))
    mapping = fit_logistic(y_true, y_pred, n_parameters=n_parameters)
    if mapping.is_line:
        return linear
    # The maximum guards against rounding only, see Notes.
    return max(linear, plcc(y_true, mapping(column_or_1d(y_pred))))


@dataclass(frozen=True)
class LogisticMapping:
    """Monotone curve from scores to MOS: ``b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5``.

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
        scores = np.asarray(scores, dtype=np.float64)
        return self.b1 * _step(scores, self.b2, self.b3) + self.b4 * scores + self.b5

    @property
    def is_line(self) -> bool:
        """Whether the curve is a straight line."""
        return self.b1 == 0


def fit_logistic(y_true: Any, y_pred: Any, *, n_parameters: int = 5) -> LogisticMapping:
    """Least-squares fit of a monotone logistic curve that maps scores to the MOS.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit and direction.
    n_parameters : {4, 5}, default=5
        4: ``b2 + (b1 - b2) / (1 + exp(-(x - b3) / abs(b4)))`` (VQEG).
        5: ``b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5`` (Sheikh et al.), constrained to be monotone:
        ``b4`` and ``b4 + b1 * b2 / 4`` have one sign.

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
        if the four-parameter curve is no better than the line. (The line is a member of the five-parameter family.)

    Notes
    -----
    For a given steepness and centre the curve is linear in its other parameters. These are solved exactly, so the
    optimiser sees two parameters (variable projection: G. Golub, V. Pereyra, "Separable nonlinear least squares",
    Inverse Problems 19, 2003). It descends from the four deepest valleys of a grid over both, so that nobody need
    give start values. A descent that stops early still gives a usable curve, never worse than its start; the curve
    has to beat the straight line in any case.

    Programs that leave out the constraint may report a slightly higher PLCC from a curve that turns at its ends.

    The curve rises by 90 % in no less than 6 % of the scores' interquartile range, lest it follow single images.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa.metrics import fit_logistic
    >>> scores = np.linspace(0, 1, 50)
    >>> mos = 1 + 4 / (1 + np.exp(-(scores - 0.6) / 0.1))
    >>> fit_logistic(mos, scores, n_parameters=4)(0.6).round(4).item()
    3.0
    """
    if n_parameters not in (4, 5):
        raise ValueError(f"The logistic curve has 4 or 5 parameters, got n_parameters={n_parameters!r}.")
    mos, scores = _checked(y_true, y_pred)
    if _is_constant(mos) or _is_constant(scores):
        return _straight_line(mos, scores)
    if len(mos) <= n_parameters:
        _warn_of_line(f"{len(mos)} samples cannot determine the {n_parameters} parameters of the logistic curve")
        return _straight_line(mos, scores)

    mos_scale, unit_mos = _standardized(mos)
    scores_scale, unit_scores = _standardized(scores)
    with_line = n_parameters == 5
    theta = _best_theta(unit_mos, unit_scores, with_line)
    height, gradient, error = _linear_part(theta, unit_mos, unit_scores, with_line)
    if not with_line and error >= 1 - plcc(mos, scores) ** 2:
        _warn_of_line("The four-parameter logistic curve fits no better than a straight line")
        return _straight_line(mos, scores)
    b1 = height * mos_scale
    b2 = np.exp(theta[0]) / scores_scale
    b3 = theta[1] * scores_scale + scores.mean()
    b4 = gradient * mos_scale / scores_scale
    b5 = np.mean(mos - b1 * _step(scores, b2, b3) - b4 * scores)
    return LogisticMapping(*map(float, (b1, b2, b3, b4, b5)))


def _best_theta(mos, scores, with_line):
    """Logarithm of the steepness, and centre, of the best monotone curve."""
    grid = _grid_of_thetas(scores)
    thinned = np.argsort(scores, kind="stable")[:: 1 + len(scores) // _N_THINNED]
    errors = np.stack([_linear_part(row.T, mos[thinned], scores[thinned], with_line)[2] for row in grid])
    valleys = errors == ndimage.minimum_filter(errors, size=3, mode="nearest")
    starts = grid[valleys][np.argsort(errors[valleys], kind="stable")[:_N_REFINED]]
    bounds = ((grid[0, 0, 0], grid[-1, 0, 0]), (grid[0, 0, 1], grid[0, -1, 1]))

    def descend(start, size, tolerance):
        # The error has kinks where the constraint starts to bind, and two parameters are few: hence a simplex.
        return optimize.minimize(
            lambda theta: _linear_part(theta, mos, scores, with_line)[2],
            start,
            method="Nelder-Mead",
            bounds=bounds,
            options={"initial_simplex": _simplex(start, size), "xatol": tolerance, "fatol": tolerance**2},
        )

    runs = [descend(start, size=0.3, tolerance=1e-2) for start in starts]
    return descend(min(runs, key=lambda run: run.fun).x, size=0.01, tolerance=1e-6).x


def _grid_of_thetas(scores):
    """Grid of (log of the steepness, centre), of shape (n_steepness, n_centres, 2), ascending in both."""
    spread = stats.iqr(scores) or scores.std()
    steepness = np.geomspace(_FLATTEST, _STEEPEST / spread, _N_STEEPNESS)[:, None]
    even = np.linspace(scores.min(), scores.max(), _N_CENTRES)
    inner = np.union1d(even, np.quantile(scores, np.linspace(0, 1, _N_CENTRES)))
    tails = _TAIL_CENTRES / steepness
    centres = np.concatenate(
        [inner[0] - tails[:, ::-1], np.broadcast_to(inner, (_N_STEEPNESS, len(inner))), inner[-1] + tails], axis=1
    )
    return np.stack(np.broadcast_arrays(np.log(steepness), centres), axis=-1)


def _simplex(start, size):
    """Triangle at `start`, of a size in units of the logarithm of the steepness and of the curve's width."""
    log_steepness, centre = start
    return [start, (log_steepness + size, centre), (log_steepness, centre + size * min(1, np.exp(-log_steepness)))]


def _linear_part(theta, mos, scores, with_line):
    """Height of the step, gradient of the line, and share of the MOS's variance that the monotone curve leaves.

    `theta` holds the logarithm of the steepness and the centre, two numbers or two arrays; each result has their
    shape. Everything follows from the inner products of step, line and MOS.
    """
    steepness = np.exp(theta[0])
    step = _step(scores, steepness[..., None], theta[1][..., None])  # (..., n)
    # A flatter tail needs a height that cancels against the offset: this bound leaves seven digits.
    curved = step.max(axis=-1) - step.min(axis=-1) > 1e-9
    step = step - step.mean(axis=-1, keepdims=True)
    line, target = scores - scores.mean(), mos - mos.mean()
    # Sums, not `@`: threads of a BLAS wait for each other where several fits share few cores.
    step_step, step_line, step_target = ((step * other).sum(axis=-1) for other in (step, line, target))
    line_target = (line * target).sum()
    # Positive, as a thinned sample may be constant where the whole is not.
    line_line, target_target = (max((column * column).sum(), np.finfo(float).tiny) for column in (line, target))

    with np.errstate(divide="ignore", invalid="ignore"):
        candidates = [(step_target / step_step, 0.0, curved)]
        if with_line:
            determinant = step_step * line_line - step_line**2
            height = (step_target * line_line - line_target * step_line) / determinant
            gradient = (line_target * step_step - step_target * step_line) / determinant
            # The curve's slope runs from the line's, far away, to this one in the centre: one sign is monotone.
            monotone = gradient * (gradient + height * steepness / 4) >= 0
            # With but two distinct scores, step and line are the same.
            distinct = determinant > 1e-12 * step_step * line_line
            candidates.append((height, gradient, monotone & distinct & curved))
            # Beyond the constraint the optimum of this convex problem is on its edge: slope zero far away, which is
            # the step alone, or slope zero in the centre.
            ratio = -4 / steepness
            edge_edge = line_line + 2 * ratio * step_line + ratio**2 * step_step
            gradient = (line_target + ratio * step_target) / edge_edge
            candidates.append((ratio * gradient, gradient, edge_edge > 1e-12 * line_line))
        # The line alone, or nothing, is always allowed.
        best_gradient = line_target / line_line if with_line else 0.0
        best_height, best_gain = 0.0, best_gradient * line_target
        for height, gradient, allowed in candidates:
            # For a least-squares solution the squares gained are its inner product with the target.
            gain = height * step_target + gradient * line_target
            better = allowed & (gain > best_gain)
            best_height = np.where(better, height, best_height)
            best_gradient = np.where(better, gradient, best_gradient)
            best_gain = np.where(better, gain, best_gain)
    return best_height, best_gradient, 1 - best_gain / target_target


def _step(scores, steepness, centre):
    """The logistic part, 1/2 - 1 / (1 + exp(t)) = expit(t) - 1/2, in a form that cannot overflow."""
    return expit(steepness * (scores - centre)) - 0.5


def _standardized(values):
    """The largest distance from the mean, and the centred values in units of it."""
    centred = values - values.mean()
    scale = np.abs(centred).max()
    return scale, centred / scale


def _straight_line(mos, scores):
    gradient = 0.0 if _is_constant(mos) or _is_constant(scores) else stats.linregress(scores, mos).slope
    return LogisticMapping(0.0, 1.0, 0.0, float(gradient), float(mos.mean() - gradient * scores.mean()))


def _warn_of_line(reason):
    warnings.warn(f"{reason}: a straight line is used instead.", ConvergenceWarning, stacklevel=3)


def _checked(y_true, y_pred):
    """MOS and scores as two float64 arrays of equal length, or the error that says why not."""
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


def _undefined(mos, scores, figure):
    """Whether a correlation is undefined; warns if so."""
    constant = [name for name, values in (("y_true", mos), ("y_pred", scores)) if _is_constant(values)]
    if constant:
        warnings.warn(
            f"{figure} is not defined where {' and '.join(constant)} is constant, 0.0 is returned.",
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
    """All figures at once, for ``scoring=`` of `cross_validate` and `GridSearchCV`.

    Returns
    -------
    dict of str to scorer
        ``"srcc"``, ``"krcc"``, ``"plcc"``, ``"plcc_logistic"`` and ``"neg_rmse"``; for each, higher is better. A
        search needs to know which one decides: ``refit="srcc"``.

    Notes
    -----
    The scorers take scores for quality, which holds for every estimator that was fitted to MOS. Published weights of
    a distance, used without `fit`, get negative correlations; ``scoring=None`` uses the estimator's own `score`,
    which knows its direction.

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

# SPDX-License-Identifier: BSD-3-Clause
"""Methods compared on rated images: the papers' protocol within a data set, and training on one, testing on another."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import validate_parameter_constraints

from sklearn_iqa._base.parameters import one_of, within
from sklearn_iqa.evaluation._results import BenchmarkResult, CrossBenchmarkResult
from sklearn_iqa.evaluation._runs import Outcome, Part, RatedImages, Run, check_estimators, execute_runs
from sklearn_iqa.evaluation._splits import ContentSplit
from sklearn_iqa.metrics import fit_logistic, krcc, plcc, plcc_logistic, rmse, srcc

__all__ = ["benchmark", "cross_benchmark"]


def _rmse_logistic(y_true, y_pred):
    """RMSE after the curve of `plcc_logistic`, so that scores in any unit have one."""
    return rmse(y_true, fit_logistic(y_true, y_pred)(y_pred))


OPTIONS: dict[str, list[Any]] = {
    "metrics": [Mapping, None],
    "results_dir": [str, os.PathLike, None],
    "confidence_level": [within(0, 1, closed="neither")],
    "error_score": [one_of("raise"), Real],
    "n_jobs": [Integral, None],
    "verbose": ["verbose"],
}
METRICS = {"srcc": srcc, "krcc": krcc, "plcc": plcc, "plcc_logistic": plcc_logistic, "rmse_logistic": _rmse_logistic}


def benchmark(
    estimators: Any,
    dataset: Any,
    *,
    cv: Any = None,
    metrics: Mapping[str, Callable] | None = None,
    results_dir: Any = None,
    confidence_level: float = 0.95,
    error_score: Any = np.nan,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> BenchmarkResult:
    """Compare methods on one data set by the papers' protocol: ten random splits by content, medians of the metrics.

    Parameters
    ----------
    estimators : dict of str to estimator, list of (str, estimator), list of estimators, or one estimator
        The methods. They are cloned and trained in each split; what is wrapped in
        :class:`~sklearn.frozen.FrozenEstimator`, such as ``FrozenEstimator(LPIPS(weights="alex-v0.1"))``, is used as
        it is. Methods that compare get pairs with `references`; everything else gets `images`.
    dataset : :class:`~sklearn.utils.Bunch`
        As :mod:`sklearn_iqa.datasets` gives them: `images`, `target` (higher is better) and, where there are any,
        `references`, `groups` and `distortion`. Paths are best: little memory, and cheap for other processes. Without
        `groups`, rows that share a reference are one content; without `references` every row is its own.
    cv : splitter or iterable of (train, test), default=None
        The splits; None takes ``ContentSplit(random_state=0)``.
    metrics : mapping of str to callable(y_true, y_pred), default=None
        The metrics, each a number. None takes `srcc`, `krcc`, `plcc` and `plcc_logistic` of
        :mod:`sklearn_iqa.metrics`, and "rmse_logistic": RMSE after the curve of `plcc_logistic`, in the unit of the
        target.
    results_dir : path, default=None
        Folder of finished runs, one for each method and split: an interrupted benchmark is resumed from there, and no
        run in it is computed again. See Notes. `~` is the user's folder.
    confidence_level : float, default=0.95
        Level of the bootstrap intervals of the medians.
    error_score : "raise" or number, default=np.nan
        Value of the metrics where a method fails, given with a warning; "raise" raises the method's error.
    n_jobs : int, default=None
        How many processes; None is 1 unless in a :func:`joblib.parallel_config`.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    result : BenchmarkResult
        Medians with intervals, and the metrics and predictions of every split.

    Raises
    ------
    TypeError, ValueError
        If the data set, the estimators or an option cannot be used, a split has contents on both sides, or a test part
        has fewer than two rows.

    Warns
    -----
    FitFailedWarning
        Where a method fails in a split: which, and why.

    See Also
    --------
    cross_benchmark : Training on one data set, testing on another.
    ContentSplit : The splits.

    Notes
    -----
    A run is identified by the estimator's class and parameters (without `verbose`, `n_jobs`, `cache` and `memory`), its
    fitted state if it is frozen, the version of this package, and the images, references, ratings and groups of its
    training rows and images of its test rows: arrays by their pixels, paths by name, size and modification time.
    Functions among the parameters count by name, and files, such as weights, by size and modification time; changed
    code is not noticed. Failed runs are not kept, and are tried again.

    The sign of a frozen method's predictions follows its `higher_is_better`, so that its correlations are positive too.
    It predicts each image once, for all splits.

    :class:`~sklearn.model_selection.GridSearchCV` and `RandomizedSearchCV` get the `groups` of their rows, for searches
    by content inside a split.

    The intervals describe the spread of the median over other splits of these images. Splits share images, so that they
    do not describe the spread over other images.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_iqa import ContentSplit, TimmFeatures, benchmark
    >>> from sklearn_iqa.datasets import load_photographs, make_distorted
    >>> data = make_distorted(load_photographs(size=64).images, distortions=["gaussian_blur"], random_state=0)
    >>> features = TimmFeatures("test_resnet", pooling="std", backbone_weights=None, random_state=0)
    >>> splits = ContentSplit(n_splits=3, random_state=0)
    >>> result = benchmark({"blur": make_pipeline(features, Ridge())}, data, cv=splits)
    >>> result.values["srcc"].shape
    (1, 3)
    """
    options = {"results_dir": results_dir, "n_jobs": n_jobs, "error_score": error_score, "verbose": verbose}
    _check_options("benchmark", metrics=metrics, confidence_level=confidence_level, **options)
    named, data = check_estimators(estimators), RatedImages(dataset, "The data set")
    metrics, splits = METRICS if metrics is None else dict(metrics), _splits(cv, data)
    _check_inputs(named, [data])
    runs: list[Run] = []
    places = {}
    for name, estimator in named.items():
        places[name] = _add_splits(runs, name, estimator, data, splits)
    outcomes = execute_runs(runs, **options)
    grid = [_of_splits(outcomes, runs, places[name], splits) for name in named]
    return _result(named, data, splits, grid, metrics, confidence_level, error_score)


def cross_benchmark(
    estimators: Any,
    datasets: Mapping[str, Any],
    *,
    cv: Any = None,
    metrics: Mapping[str, Callable] | None = None,
    results_dir: Any = None,
    confidence_level: float = 0.95,
    error_score: Any = np.nan,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> CrossBenchmarkResult:
    """Train methods on each data set, and test them on all others: the hardest test, and the most honest.

    A method is trained once on the whole of a data set for all others. Within a data set it is tested by splits, as
    `benchmark` does. A frozen method is not trained, and its metrics off the diagonal depend on the test set alone.

    Parameters
    ----------
    estimators : dict of str to estimator, list of (str, estimator), list of estimators, or one estimator
        As in `benchmark`.
    datasets : dict of str to :class:`~sklearn.utils.Bunch`
        Names and data sets, each as in `benchmark`. Their units may differ. Common contents are not checked: LIVE, CSIQ
        and TID2013 have originals in common.
    cv, metrics, results_dir, confidence_level, error_score, n_jobs, verbose
        As in `benchmark`; `cv` is a splitter, which splits each data set.

    Returns
    -------
    result : CrossBenchmarkResult
        A matrix for each method and metric.

    Raises
    ------
    TypeError, ValueError
        As in `benchmark`; also if there are fewer than two data sets.

    See Also
    --------
    benchmark : Splits within one data set.
    """
    options = {"results_dir": results_dir, "n_jobs": n_jobs, "error_score": error_score, "verbose": verbose}
    _check_options("cross_benchmark", metrics=metrics, confidence_level=confidence_level, **options)
    named = check_estimators(estimators)
    if not isinstance(datasets, Mapping) or len(datasets) < 2:
        raise ValueError("cross_benchmark needs a dict of at least 2 data sets by name; benchmark takes a single one.")
    sets = {key: RatedImages(dataset, f"The data set {key!r}") for key, dataset in datasets.items()}
    metrics = METRICS if metrics is None else dict(metrics)
    splits = {key: _splits(cv, data) for key, data in sets.items()}
    _check_inputs(named, list(sets.values()))
    runs: list[Run] = []
    inside, across = {}, {}
    whole = {key: Part(data, np.arange(len(data))) for key, data in sets.items()}
    for name, estimator in named.items():
        for key, data in sets.items():
            inside[name, key] = _add_splits(runs, name, estimator, data, splits[key], f" of {key}")
        for key, other in permutations(sets, 2):
            frozen = isinstance(estimator, FrozenEstimator)
            source = other if frozen else key  # untrained, it needs one run for a test set
            if (name, source, other) not in across:
                across[name, source, other] = len(runs)
                train, label = (None, other) if frozen else (whole[key], f"{key} -> {other}")
                runs.append(Run(name, estimator, train, whole[other], label))
            across[name, key, other] = across[name, source, other]
    outcomes = execute_runs(runs, **options)
    within = {}
    for key, data in sets.items():
        grid = [_of_splits(outcomes, runs, inside[name, key], splits[key]) for name in named]
        within[key] = _result(named, data, splits[key], grid, metrics, confidence_level, error_score)
    values = {metric: np.full((len(named), len(sets), len(sets)), np.nan) for metric in metrics}
    errors = {}
    for i, name in enumerate(named):
        for j, key in enumerate(sets):
            for k, (other, data) in enumerate(sets.items()):
                outcome = outcomes[across[name, key, other]] if key != other else None
                for metric, function in metrics.items():
                    if outcome is None:
                        values[metric][i, j, k] = within[key].medians[metric][i]
                    elif outcome.predictions is None:
                        values[metric][i, j, k] = error_score
                        errors[name, key, other] = outcome.error
                    else:
                        values[metric][i, j, k] = function(data.target, outcome.predictions)
    return CrossBenchmarkResult(names=list(named), datasets=list(sets), values=values, within=within, errors=errors)


def _splits(cv: Any, data: RatedImages) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of each split, none of whose contents is on both sides."""
    if cv is None:
        cv = ContentSplit(random_state=0)
    if isinstance(cv, Integral):
        raise TypeError(f"cv={cv!r} does not say how to split by content; write ContentSplit({cv!r}, random_state=0).")
    pairs = cv.split(np.zeros(len(data)), data.target, data.groups) if hasattr(cv, "split") else cv
    splits = [(np.asarray(train), np.asarray(test)) for train, test in pairs]
    contents = np.arange(len(data)) if data.groups is None else data.groups
    for number, (train, test) in enumerate(splits):
        shared = np.intersect1d(contents[train], contents[test])
        if len(shared):
            raise ValueError(
                f"Split {number} of {data.name} has {len(shared)} contents on both sides, the first of them "
                f"{shared[0]}, which flatters; split by groups, as ContentSplit and GroupKFold do."
            )
        if len(train) == 0 or len(test) < 2:
            raise ValueError(
                f"Split {number} of {data.name} has {len(train)} training and {len(test)} test rows, but "
                "at least 1 and 2 are needed; give more images, or larger parts."
            )
    if not splits:
        raise ValueError(f"cv gives no split of {data.name}; give at least one.")
    return splits


def _check_options(caller: str, **options: Any) -> None:
    # Not the decorator `validate_params`: it would put the name of the function into errors of the user's estimators.
    validate_parameter_constraints(OPTIONS, options, caller_name=caller)


def _check_inputs(named: dict[str, Any], sets: list[RatedImages]) -> None:
    """Refuse before the work begins data that an estimator cannot use."""
    for estimator in named.values():
        for data in sets:
            data.rows_for(estimator)


def _add_splits(runs: list[Run], name: str, estimator: Any, data: RatedImages, splits, where: str = "") -> list[int]:
    """Add the runs of one method within one data set; gives the number of each split's run."""
    first = len(runs)
    if isinstance(estimator, FrozenEstimator):  # untrained, it predicts each row once for all splits
        tested = np.unique(np.concatenate([test for _, test in splits]))
        runs.append(Run(name, estimator, None, Part(data, tested), f"all splits{where}"))
        return [first] * len(splits)
    runs += [
        Run(name, estimator, Part(data, train), Part(data, test), f"split {number}{where}")
        for number, (train, test) in enumerate(splits)
    ]
    return list(range(first, len(runs)))


def _of_splits(outcomes: list[Outcome], runs: list[Run], numbers: list[int], splits) -> list[Outcome]:
    """Outcome of each split, with scores of its own test rows in their order."""
    found = []
    for number, (_, test) in zip(numbers, splits, strict=True):
        outcome, tested = outcomes[number], runs[number].test.rows
        if runs[number].train is None and outcome.predictions is not None:
            outcome = replace(outcome, predictions=outcome.predictions[np.searchsorted(tested, test)])
        found.append(outcome)
    return found


def _result(named, data: RatedImages, splits, grid, metrics, confidence_level, error_score) -> BenchmarkResult:
    """Metrics of all outcomes, a list of those of the splits for each method."""
    values = {
        metric: np.array(
            [
                [
                    error_score if outcome.predictions is None else function(data.target[test], outcome.predictions)
                    for outcome, (_, test) in zip(outcomes, splits, strict=True)
                ]
                for outcomes in grid
            ],
            dtype=np.float64,
        )
        for metric, function in metrics.items()
    }
    of_method = dict(zip(named, grid, strict=True))
    return BenchmarkResult(
        names=list(named),
        splits=splits,
        values=values,
        predictions={name: [outcome.predictions for outcome in outcomes] for name, outcomes in of_method.items()},
        fit_seconds=np.array([[outcome.fit_seconds for outcome in outcomes] for outcomes in grid]),
        errors={
            (name, split): outcome.error
            for name, outcomes in of_method.items()
            for split, outcome in enumerate(outcomes)
            if outcome.error is not None
        },
        confidence_level=confidence_level,
        metrics=metrics,
        data=data,
    )

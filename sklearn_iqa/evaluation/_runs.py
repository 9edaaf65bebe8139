# SPDX-License-Identifier: BSD-3-Clause
"""Runs of a benchmark: an estimator that is trained on some rated images and tested on others; kept on disk when done.

A run's file is named by what determines its numbers: the estimator's class and parameters, the images and ratings of
the training rows, the images of the test rows. It is written under another name and then renamed, so that an
interrupted benchmark leaves whole files only, from which the next one resumes.
"""

import copy
import json
import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import xxhash
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d
from sklearn.utils.validation import _num_samples
from tqdm.auto import tqdm

import sklearn_iqa
from sklearn_iqa._base.rows import check_images, image_name, make_pairs

__all__ = ["Outcome", "Part", "RatedImages", "Run", "check_estimators", "execute_runs"]

SILENT = ("verbose", "n_jobs", "cache", "memory")  # parameters that change no number


class RatedImages:
    """A data set of `sklearn_iqa.datasets`, checked.

    Parameters
    ----------
    dataset : mapping
        With `images` and `target`, and, where there are any, `references`, `groups` and `distortion`.
    name : str
        How error messages call it.
    """

    def __init__(self, dataset: Any, name: str):
        if not isinstance(dataset, Mapping) or not {"images", "target"} <= set(dataset):
            raise TypeError(
                f"{name} must be a data set as sklearn_iqa.datasets gives them, with images and target, but came as a "
                f"{type(dataset).__name__}; write sklearn.utils.Bunch(images=paths, target=mos)."
            )
        self.name = name
        images, self.references = dataset["images"], dataset.get("references")
        # Arrays and lists go to the estimator as they are, so that regressors of scikit-learn may take their arrays.
        self.images = images if isinstance(images, np.ndarray) else check_images(images).items
        self.target = column_or_1d(dataset["target"], dtype=np.float64)
        self.distortion = None if dataset.get("distortion") is None else np.asarray(dataset["distortion"])
        groups = dataset.get("groups")
        if groups is None and self.references is not None:
            groups = _image_names(self.references)  # rows that share their reference share their content
        self.groups = None if groups is None else np.asarray(groups)
        check_consistent_length(self.images, self.target, self.references, self.groups, self.distortion)
        if not np.isfinite(self.target).all():
            row = np.flatnonzero(~np.isfinite(self.target))[0]
            raise ValueError(f"The target of {name} is {self.target[row]} in row {row}; leave unrated rows out.")

    def __len__(self) -> int:
        return len(self.target)

    def rows_for(self, estimator: Any) -> Any:
        """Give X: images, or pairs for an estimator that compares."""
        if not any(_compares(part) for part in _parts(estimator)):
            return self.images
        if self.references is None:
            raise ValueError(
                f"{_class_name(estimator)} compares images with references, but {self.name} has none; give a data set "
                "with references, or leave the method out."
            )
        return make_pairs(self.images, self.references)

    @cached_property
    def identity(self) -> np.ndarray:
        """Text of each row that changes with its image, reference, rating or group."""
        columns = [_image_names(self.images), [rating.hex() for rating in self.target.tolist()]]
        columns += [] if self.references is None else [_image_names(self.references)]
        columns += [] if self.groups is None else [self.groups.tolist()]
        return np.array(["\t".join(map(str, row)) for row in zip(*columns, strict=True)], dtype=object)


@dataclass(frozen=True)
class Part:
    """Some rows of a data set."""

    data: RatedImages
    rows: np.ndarray

    @property
    def identity(self) -> str:
        """Text that changes with what the rows hold."""
        return "\n".join(self.data.identity[self.rows])


@dataclass(frozen=True)
class Run:
    """An estimator, its training rows (None where it is frozen) and its test rows."""

    name: str
    estimator: Any
    train: Part | None
    test: Part
    label: str  # for messages: which split, or which data sets


@dataclass(frozen=True)
class Outcome:
    """Scores of a run's test rows, higher is better; without them, the error in one sentence."""

    predictions: np.ndarray | None
    fit_seconds: float = float("nan")
    predict_seconds: float = float("nan")
    error: str | None = None


def check_estimators(estimators: Any) -> dict[str, Any]:
    """Names and estimators from a mapping, a list of either, or one estimator.

    Raises
    ------
    TypeError, ValueError
        When something cannot fit and predict, or two have one name.
    """
    if hasattr(estimators, "predict"):
        estimators = [estimators]
    items = estimators.items() if isinstance(estimators, Mapping) else estimators
    named: dict[str, Any] = {}
    for item in items:
        name, estimator = item if isinstance(item, tuple) else (_class_name(item), item)
        if isinstance(estimator, type) or not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
            raise TypeError(
                f"{name!r} is {estimator!r}, but a benchmark compares estimators with fit and predict; give an "
                "instance, features with a regressor behind them."
            )
        if name in named:
            raise ValueError(
                f"Two estimators are called {name!r}; give each a name, as in {{'wide': ..., 'deep': ...}}."
            )
        named[name] = estimator
    if not named:
        raise ValueError("There is no estimator to compare; give at least one.")
    return named


def execute_runs(runs: list[Run], *, results_dir: Any, n_jobs: Any, error_score: Any, verbose: int) -> list[Outcome]:
    """Carry out the runs that `results_dir` does not hold; runs of one estimator and training part share one fit.

    Raises
    ------
    Exception
        What a run raises, with ``error_score="raise"``.
    """
    paths: list[Path | None] = [None] * len(runs)
    if results_dir is not None:
        folder = Path(os.path.expanduser(results_dir))
        folder.mkdir(parents=True, exist_ok=True)
        estimators = {run.name: run.estimator for run in runs}
        identities = {name: _estimator_identity(name, estimator) for name, estimator in estimators.items()}
        paths = [folder / f"{_key(identities[run.name], run)}.json" for run in runs]
    outcomes = [_kept(path, len(run.test.rows)) for path, run in zip(paths, runs, strict=True)]
    missing: dict[tuple, list[int]] = {}
    for number, run in enumerate(runs):
        if outcomes[number] is None:
            train = None if run.train is None else (run.train.data.name, run.train.rows.tobytes())
            missing.setdefault((run.name, train), []).append(number)
    results = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
        joblib.delayed(_fit_and_predict)(
            *_job([runs[i] for i in numbers]), numbers, [paths[i] for i in numbers], error_score
        )
        for numbers in missing.values()
    )
    for numbers, found in tqdm(results, total=len(missing), disable=not verbose, desc="Benchmark", unit="fit"):
        for number, outcome in zip(numbers, found, strict=True):
            outcomes[number] = outcome
            if outcome.error is not None:
                run = runs[number]
                warnings.warn(
                    f"{run.name} failed in {run.label}: {outcome.error} Its metrics there are {error_score}; the "
                    "others are kept.",
                    FitFailedWarning,
                    stacklevel=3,
                )
    return [outcome for outcome in outcomes if outcome is not None]


# Fitting --------------------------------------------------------------------------------------------------------------


def _job(runs: list[Run]) -> tuple:
    """What a worker needs: the estimator, training X, y and groups, and X of all test parts."""
    first = runs[0]
    X: dict[int, Any] = {}

    def some_rows(part):
        everything = X.setdefault(id(part.data), part.data.rows_for(first.estimator))
        return _safe_indexing(everything, part.rows)

    train = None
    if first.train is not None:
        data, rows = first.train.data, first.train.rows
        train = some_rows(first.train), data.target[rows], None if data.groups is None else data.groups[rows]
    notes = [{"estimator": run.name, "run": run.label, "repr": repr(run.estimator)} for run in runs]
    return first.estimator, train, [some_rows(run.test) for run in runs], notes


def _fit_and_predict(estimator, train, tests, notes, numbers, paths, error_score) -> tuple[list[int], list[Outcome]]:
    start = time.perf_counter()
    try:
        model = _fitted(estimator, train)
    except Exception as error:
        if error_score == "raise":
            raise
        return numbers, [Outcome(None, error=_sentence(error)) for _ in tests]
    fit_seconds = time.perf_counter() - start
    outcomes = []
    for X, note, path in zip(tests, notes, paths, strict=True):
        start = time.perf_counter()
        try:
            scores = _scores(model, X)
        except Exception as error:
            if error_score == "raise":
                raise
            outcomes.append(Outcome(None, fit_seconds, error=_sentence(error)))
            continue
        outcome = Outcome(scores, fit_seconds, time.perf_counter() - start)
        if path is not None:
            _keep(path, outcome, note)
        outcomes.append(outcome)
    return numbers, outcomes


def _fitted(estimator, train):
    if train is None:
        return copy.deepcopy(estimator)  # `clone` would share it, and some load their weights when they first predict
    X, y, groups = train
    searches = isinstance(estimator, GridSearchCV | RandomizedSearchCV) and groups is not None
    return clone(estimator).fit(X, y, **({"groups": groups} if searches else {}))


def _scores(model, X) -> np.ndarray:
    """Predictions, with the sign by which higher is better."""
    scores = column_or_1d(model.predict(X), dtype=np.float64)
    if len(scores) != _num_samples(X) or not np.isfinite(scores).all():
        raise ValueError(
            f"{_class_name(model)} predicted {len(scores)} scores for {_num_samples(X)} rows, "
            f"{np.count_nonzero(~np.isfinite(scores))} of which are NaN or infinite; give one finite score for each."
        )
    last = model
    while isinstance(last, FrozenEstimator | Pipeline):
        last = last.steps[-1][1] if isinstance(last, Pipeline) else last.estimator
    # After `fit` every method predicts in the unit of y; a published number has the direction of `higher_is_better`.
    published = not hasattr(last, "label_scale_")
    return -scores if published and not getattr(last, "higher_is_better", True) else scores


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" + ("" if text.endswith(".") else ".")


# Storage --------------------------------------------------------------------------------------------------------------


def _key(estimator: str, run: Run) -> str:
    train = "frozen" if run.train is None else run.train.identity
    text = "\0".join([sklearn_iqa.__version__, estimator, train, run.test.identity])
    return xxhash.xxh3_128_hexdigest(text.encode())


def _estimator_identity(name: str, estimator: Any) -> str:
    """Text that changes with the class, the parameters and, where it is frozen, the fitted state."""
    bare = clone(estimator)
    if not isinstance(bare, FrozenEstimator):
        own = [parameter for parameter in bare.get_params() if parameter.rpartition("__")[2] in SILENT]
        bare.set_params(**dict.fromkeys(own))
    files = []
    for part in _parts(estimator):
        for parameter, value in part.get_params(deep=False).items():
            path = os.path.expanduser(value) if isinstance(value, str | os.PathLike) else ""
            if os.path.isfile(path) and parameter not in SILENT:
                status = os.stat(path)  # weights may be overwritten under their name
                files.append(f"{parameter} {status.st_size} {status.st_mtime_ns}")
    try:
        return " ".join([joblib.hash(bare), *files])
    except Exception as error:  # whatever the pickling of a user's object raises
        raise ValueError(
            f"{name} cannot be kept in a folder, as its parameters cannot be pickled ({_sentence(error)[:-1]}); use "
            "functions of a module in place of lambdas, or leave results_dir out."
        ) from error


def _keep(path: Path, outcome: Outcome, note: dict[str, str]) -> None:
    """Write a finished run, all of it or nothing."""
    scores = [] if outcome.predictions is None else outcome.predictions.tolist()
    record = {**note, "version": sklearn_iqa.__version__, "predictions": scores}
    record |= {"fit_seconds": outcome.fit_seconds, "predict_seconds": outcome.predict_seconds}
    part = path.with_suffix(f".{uuid.uuid4().hex}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _kept(path: Path | None, n_rows: int) -> Outcome | None:
    """A finished run as it was written; None where there is none, or a damaged one."""
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        scores = np.array(record["predictions"], dtype=np.float64)
        outcome = Outcome(scores, float(record["fit_seconds"]), float(record["predict_seconds"]))
    except (ValueError, KeyError, TypeError):
        return None
    return outcome if scores.shape == (n_rows,) and np.isfinite(scores).all() else None


# Estimators -----------------------------------------------------------------------------------------------------------


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and all that it holds."""
    yield estimator
    if isinstance(estimator, FrozenEstimator):
        yield from _parts(estimator.estimator)
        return
    for value in estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ():
        if isinstance(value, FrozenEstimator):
            yield from _parts(value)
        elif hasattr(value, "get_params") and not isinstance(value, type):
            yield value


def _compares(part: Any) -> bool:
    """Whether an estimator takes pairs: methods say so by `inputs`, features by `comparison`."""
    inputs = getattr(part, "inputs", None)
    return (isinstance(inputs, tuple) and len(inputs) == 2) or getattr(part, "comparison", None) is not None


def _class_name(estimator: Any) -> str:
    if isinstance(estimator, FrozenEstimator):
        return _class_name(estimator.estimator)
    if isinstance(estimator, Pipeline):
        return " + ".join(type(step).__name__ for _, step in estimator.steps)
    return type(estimator).__name__


def _image_names(images: Any) -> list[str]:
    items = check_images(images).items
    return [image_name(items[row], f"Row {row}")[0] for row in range(len(items))]

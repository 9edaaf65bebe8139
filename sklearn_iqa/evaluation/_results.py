# SPDX-License-Identifier: BSD-3-Clause
"""Results of benchmarks: metrics of every split, medians with bootstrap intervals, matrices across data sets."""

from typing import Any

import numpy as np
from scipy.stats import bootstrap

__all__ = ["BenchmarkResult", "CrossBenchmarkResult", "known"]


class BenchmarkResult:
    """Result of `benchmark`, which makes it. All parameters are stored as attributes.

    Parameters
    ----------
    names : list of str
        The methods.
    splits : list of tuple of ndarray
        Training and test rows of each split.
    values : dict of str to ndarray of shape (n_methods, n_splits)
        The metrics in every split.
    predictions : dict of str to list of ndarray
        Scores of the test rows of each split, higher is better; None where a method failed.
    fit_seconds : ndarray of shape (n_methods, n_splits)
        Duration of training in seconds; about zero for frozen methods.
    errors : dict of (str, int) to str
        Method and split -> the error that left it without scores, in one sentence.
    confidence_level : float
        Level of the intervals.
    metrics : dict of str to callable
        The functions behind the names of `values`.
    data : RatedImages
        The rated images, with `target` and `distortion`.

    Attributes
    ----------
    medians : dict of str to ndarray of shape (n_methods,)
        Median of each metric over the splits; NaN is left out.
    intervals : dict of str to ndarray of shape (n_methods, 2)
        Bootstrap interval of the median; NaN with fewer than two splits.
    table : dict of str to list
        Columns of the summary, a row for each method: "method", "n_splits" (those that did not fail), each metric's
        median and, with "_low" and "_high", its interval, and "fit_seconds", the median.
    """

    def __init__(self, *, names, splits, values, predictions, fit_seconds, errors, confidence_level, metrics, data):
        self.names = names
        self.splits = splits
        self.values = values
        self.predictions = predictions
        self.fit_seconds = fit_seconds
        self.errors = errors
        self.confidence_level = confidence_level
        self.metrics = metrics
        self.data = data
        self.medians = {metric: np.array([median(row) for row in rows]) for metric, rows in values.items()}
        self.intervals = {
            metric: np.array([_interval(row, confidence_level) for row in rows]) for metric, rows in values.items()
        }

    @property
    def table(self) -> dict[str, list]:
        """Columns of the summary, a row for each method."""
        columns: dict[str, list] = {"method": self.names}
        failed = [name for name, _ in self.errors]
        columns["n_splits"] = [len(self.splits) - failed.count(name) for name in self.names]
        for metric, medians in self.medians.items():
            columns[metric] = medians.tolist()
            columns[f"{metric}_low"], columns[f"{metric}_high"] = self.intervals[metric].T.tolist()
        columns["fit_seconds"] = [median(row) for row in self.fit_seconds]
        return columns

    def to_frame(self):
        """Give the summary as a pandas data frame.

        Returns
        -------
        frame : pandas.DataFrame
            The columns of `table`, but "method" as index.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return _pandas().DataFrame(self.table).set_index("method")

    def splits_to_frame(self):
        """Give the metrics of every split as a pandas data frame in long form.

        Returns
        -------
        frame : pandas.DataFrame
            A row for each method and split, with the columns "method", "split", the metrics and "fit_seconds".

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        n_splits = len(self.splits)
        columns = {"method": np.repeat(self.names, n_splits), "split": np.tile(np.arange(n_splits), len(self.names))}
        columns |= {metric: rows.ravel() for metric, rows in self.values.items()}
        return _pandas().DataFrame({**columns, "fit_seconds": self.fit_seconds.ravel()})

    def by_distortion(self, metric: str = "srcc") -> dict[str, list]:
        """Give a metric for each kind of distortion alone.

        Parameters
        ----------
        metric : str, default="srcc"
            One of the metrics of the benchmark.

        Returns
        -------
        table : dict of str to list
            "distortion", and for each method the median over the splits; NaN where no test part has two images of a
            kind with different targets.

        Raises
        ------
        ValueError
            If the data set does not state the distortions, or the metric is none of the benchmark.
        """
        kinds = self.data.distortion
        if kinds is None:
            raise ValueError(f"{self.data.name} does not state the distortion of its images; it lacks `distortion`.")
        function = self.metrics[known(metric, self.metrics)]
        table: dict[str, list] = {"distortion": np.unique(kinds).tolist()}
        for name in self.names:
            table[name] = []
            for kind in table["distortion"]:
                values = []
                for scores, (_, test) in zip(self.predictions[name], self.splits, strict=True):
                    own = kinds[test] == kind
                    target = self.data.target[test][own]
                    if scores is not None and len(np.unique(target)) > 1:
                        values.append(float(function(target, scores[own])))
                table[name].append(median(np.array(values)))
        return table

    def __repr__(self) -> str:
        rows = [["method", *self.medians]]
        for row, name in enumerate(self.names):
            rows.append([name, *(f"{medians[row]:.3f}" for medians in self.medians.values())])
        return f"Medians over {len(self.splits)} splits\n" + _aligned(rows)


class CrossBenchmarkResult:
    """Result of `cross_benchmark`, which makes it. All parameters are stored as attributes.

    Parameters
    ----------
    names : list of str
        The methods.
    datasets : list of str
        The data sets.
    values : dict of str to ndarray of shape (n_methods, n_datasets, n_datasets)
        The metrics: second axis training set, third test set. On the diagonal the median over the splits within the
        data set.
    within : dict of str to BenchmarkResult
        Data set -> the benchmark within it.
    errors : dict of (str, str, str) to str
        Method, training set, test set -> the error that left it without scores, in one sentence.
    """

    def __init__(self, *, names, datasets, values, within, errors):
        self.names = names
        self.datasets = datasets
        self.values = values
        self.within = within
        self.errors = errors

    def to_frame(self, metric: str = "srcc"):
        """Give one metric as a pandas data frame.

        Parameters
        ----------
        metric : str, default="srcc"
            One of the metrics of the benchmark.

        Returns
        -------
        frame : pandas.DataFrame
            A row for each method and training set, a column for each test set.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            If the metric is none of the benchmark.
        """
        pandas = _pandas()
        index = pandas.MultiIndex.from_product([self.names, self.datasets], names=["method", "trained on"])
        values = self.values[known(metric, self.values)].reshape(len(index), -1)
        return pandas.DataFrame(values, index=index, columns=pandas.Index(self.datasets, name="tested on"))

    def __repr__(self) -> str:
        metric = next(iter(self.values))
        rows = [["method", "trained on", *self.datasets]]
        for name, matrix in zip(self.names, self.values[metric], strict=True):
            for trained_on, row in zip(self.datasets, matrix, strict=True):
                rows.append([name, trained_on, *(f"{value:.3f}" for value in row)])
        return f"{metric}, tested on\n" + _aligned(rows)


def median(values: np.ndarray) -> float:
    """Median of what is no NaN; NaN of nothing."""
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _interval(values: np.ndarray, confidence_level: float) -> tuple[float, float]:
    """Percentile bootstrap of the median; always the same resamples, so that equal results have equal intervals."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    # Not BCa: its correction is not defined where the median does not move, as when most splits agree.
    found = bootstrap(
        (values,),
        np.median,
        confidence_level=confidence_level,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return found.confidence_interval


def known(metric: str, metrics: Any) -> str:
    """Give back the name of a metric that a benchmark has."""
    if metric not in metrics:
        raise ValueError(f"metric={metric!r} is none of the benchmark's: take one of {', '.join(metrics)}.")
    return metric


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _pandas():
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "Data frames need pandas, which is not installed: pip install pandas, or take the plain columns of `table` "
            "and `values`."
        ) from error
    return pandas

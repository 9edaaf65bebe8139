# SPDX-License-Identifier: BSD-3-Clause
"""Plots of benchmarks in scikit-learn's Display pattern: methods side by side, and data sets against each other."""

from typing import Any

import numpy as np

from sklearn_iqa.displays import new_axes
from sklearn_iqa.evaluation._results import known

__all__ = ["BenchmarkDisplay", "CrossBenchmarkDisplay"]


class BenchmarkDisplay:
    """One metric of all methods: a point for every split, the median and its interval.

    Use `from_result` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    values : array-like of shape (n_methods, n_splits)
        The metric in every split; NaN where a method failed.
    medians : array-like of shape (n_methods,)
        Median of each method.
    intervals : array-like of shape (n_methods, 2)
        Lower and upper end of the interval of each median; NaN draws none.
    names : list of str
        The methods, from top to bottom.
    metric : str, default=None
        Label of the axis of values.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    points_ : list of matplotlib PathCollection
        Of each method, a point for each split.
    medians_ : matplotlib Line2D
        The medians.
    intervals_ : matplotlib LineCollection
        The intervals.

    See Also
    --------
    sklearn_iqa.benchmark : makes the result.

    Examples
    --------
    >>> from sklearn_iqa import BenchmarkDisplay
    >>> display = BenchmarkDisplay(
    ...     values=[[0.8, 0.9, 0.7]], medians=[0.8], intervals=[[0.7, 0.9]], names=["NIMA"], metric="srcc"
    ... ).plot()
    >>> display.ax_.get_xlabel()
    'srcc'
    """

    def __init__(self, *, values: Any, medians: Any, intervals: Any, names: list[str], metric: str | None = None):
        self.values = values
        self.medians = medians
        self.intervals = intervals
        self.names = names
        self.metric = metric

    def plot(
        self,
        ax: Any = None,
        *,
        point_kwargs: dict[str, Any] | None = None,
        median_kwargs: dict[str, Any] | None = None,
        interval_kwargs: dict[str, Any] | None = None,
    ) -> "BenchmarkDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        point_kwargs : dict, default=None
            Keywords for `matplotlib.axes.Axes.scatter`, for the splits.
        median_kwargs : dict, default=None
            Keywords for `matplotlib.axes.Axes.plot`, for the medians.
        interval_kwargs : dict, default=None
            Keywords for `matplotlib.axes.Axes.hlines`, for the intervals.

        Returns
        -------
        display : BenchmarkDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        values, medians = np.asarray(self.values, dtype=float), np.asarray(self.medians, dtype=float)
        low, high = np.asarray(self.intervals, dtype=float).T
        places = np.arange(len(values))
        ax = new_axes("BenchmarkDisplay") if ax is None else ax
        # Splits are drawn apart, so that equal values do not hide each other.
        offsets = np.linspace(-0.2, 0.2, values.shape[1]) if values.shape[1] > 1 else np.zeros(1)
        style = {"s": 14, "alpha": 0.5, **(point_kwargs or {})}
        self.points_ = [ax.scatter(row, place + offsets, **style) for place, row in zip(places, values, strict=True)]
        self.intervals_ = ax.hlines(
            places, low, high, **{"color": "black", "linewidth": 1.5, **(interval_kwargs or {})}
        )
        style = {"color": "black", "marker": "|", "markersize": 14, "linestyle": "", **(median_kwargs or {})}
        self.medians_ = ax.plot(medians, places, **style)[0]
        ax.set_yticks(places, self.names)
        ax.set(xlabel=self.metric, ylim=(len(values) - 0.5, -0.5))
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_result(
        cls,
        result: Any,
        metric: str = "srcc",
        *,
        ax: Any = None,
        point_kwargs: dict[str, Any] | None = None,
        median_kwargs: dict[str, Any] | None = None,
        interval_kwargs: dict[str, Any] | None = None,
    ) -> "BenchmarkDisplay":
        """Draw the result of `benchmark`.

        Parameters
        ----------
        result : BenchmarkResult
            Result of :func:`sklearn_iqa.benchmark`.
        metric : str, default="srcc"
            One of its metrics.
        ax, point_kwargs, median_kwargs, interval_kwargs
            See `plot`.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the metric is none of the benchmark.
        """
        metric = known(metric, result.values)
        display = cls(
            values=result.values[metric],
            medians=result.medians[metric],
            intervals=result.intervals[metric],
            names=result.names,
            metric=metric,
        )
        return display.plot(ax, point_kwargs=point_kwargs, median_kwargs=median_kwargs, interval_kwargs=interval_kwargs)


class CrossBenchmarkDisplay:
    """One metric of one method as a matrix: a row for each training set, a column for each test set.

    Use `from_result` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    matrix : array-like of shape (n_datasets, n_datasets)
        The metric.
    datasets : list of str
        Names of the data sets.
    metric : str, default=None
        Label of the colour bar.
    name : str, default=None
        Title of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    image_ : matplotlib AxesImage
        The coloured matrix.
    text_ : ndarray of shape (n_datasets, n_datasets) of matplotlib Text
        The numbers in it.
    colorbar_ : matplotlib Colorbar
        The scale.

    See Also
    --------
    sklearn_iqa.cross_benchmark : makes the result.

    Examples
    --------
    >>> from sklearn_iqa import CrossBenchmarkDisplay
    >>> display = CrossBenchmarkDisplay(matrix=[[0.9, 0.6], [0.7, 0.8]], datasets=["TID2013", "CSIQ"]).plot()
    >>> display.text_[0, 1].get_text()
    '0.60'
    """

    def __init__(self, *, matrix: Any, datasets: list[str], metric: str | None = None, name: str | None = None):
        self.matrix = matrix
        self.datasets = datasets
        self.metric = metric
        self.name = name

    def plot(self, ax: Any = None, *, cmap: Any = "viridis", values_format: str = ".2f") -> "CrossBenchmarkDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours, from low to high.
        values_format : str, default=".2f"
            Format of the numbers.

        Returns
        -------
        display : CrossBenchmarkDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        matrix = np.asarray(self.matrix, dtype=float)
        ax = new_axes("CrossBenchmarkDisplay") if ax is None else ax
        self.image_ = ax.imshow(matrix, cmap=cmap)
        self.text_ = np.empty(matrix.shape, dtype=object)
        for (row, column), value in np.ndenumerate(matrix):
            red, green, blue, _ = self.image_.cmap(self.image_.norm(value))
            # Luma of ITU-R BT.601 of the background decides the colour of the text.
            colour = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 or np.isnan(value) else "white"
            self.text_[row, column] = ax.text(
                column, row, format(value, values_format), ha="center", va="center", color=colour
            )
        places = np.arange(len(matrix))
        ax.set_xticks(places, self.datasets)
        ax.set_yticks(places, self.datasets)
        ax.set(xlabel="Tested on", ylabel="Trained on", title=self.name)
        self.colorbar_ = ax.figure.colorbar(self.image_, ax=ax, label=self.metric)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_result(
        cls,
        result: Any,
        name: str,
        metric: str = "srcc",
        *,
        ax: Any = None,
        cmap: Any = "viridis",
        values_format: str = ".2f",
    ) -> "CrossBenchmarkDisplay":
        """Draw the result of `cross_benchmark` for one method.

        Parameters
        ----------
        result : CrossBenchmarkResult
            Result of :func:`sklearn_iqa.cross_benchmark`.
        name : str
            The method.
        metric : str, default="srcc"
            One of the metrics.
        ax, cmap, values_format
            See `plot`.

        Returns
        -------
        display : CrossBenchmarkDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the method or the metric is none of the benchmark.
        """
        if name not in result.names:
            raise ValueError(f"name={name!r} is no method of the benchmark: take one of {', '.join(result.names)}.")
        matrix = result.values[known(metric, result.values)][result.names.index(name)]
        display = cls(matrix=matrix, datasets=result.datasets, metric=metric, name=name)
        return display.plot(ax, cmap=cmap, values_format=values_format)

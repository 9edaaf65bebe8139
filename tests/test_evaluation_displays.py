# SPDX-License-Identifier: BSD-3-Clause
"""Displays of benchmarks: what is drawn is what was found, and what the words say."""

import sys

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from sklearn_iqa import BenchmarkDisplay, ContentSplit, CrossBenchmarkDisplay, benchmark, cross_benchmark

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def plt():
    """A backend without windows, and no figure left behind."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(40, 4, 4, 3))
    return {
        name: Bunch(images=images, target=images.mean(axis=(1, 2, 3)) + rng.normal(0, noise, 40))
        for name, noise in (("clear", 0.02), ("noisy", 0.05))
    }


MEANS = make_pipeline(FunctionTransformer(np.mean, kw_args={"axis": (2, 3)}), Ridge(0.01))
FIRST = make_pipeline(FunctionTransformer(np.max, kw_args={"axis": (2, 3)}), Ridge(0.01))
SPLITS = ContentSplit(5, random_state=0)


@pytest.fixture(scope="module")
def result(sets):
    return benchmark({"means": MEANS, "maxima": FIRST}, sets["clear"], cv=SPLITS)


def test_splits_medians_and_intervals_are_drawn(result):
    display = BenchmarkDisplay.from_result(result, "plcc")
    for row, points in enumerate(display.points_):
        drawn = np.asarray(points.get_offsets())
        np.testing.assert_array_equal(drawn[:, 0], result.values["plcc"][row])
        assert (np.abs(drawn[:, 1] - row) <= 0.2).all()  # on the method's line
    np.testing.assert_array_equal(display.medians_.get_xdata(), result.medians["plcc"])
    ends = [segment[:, 0] for segment in display.intervals_.get_segments()]
    np.testing.assert_array_equal(ends, result.intervals["plcc"])
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == ["means", "maxima"]
    assert display.ax_.get_xlabel() == "plcc"
    assert display.ax_.yaxis_inverted()  # the first method is on top
    assert display.figure_ is display.ax_.figure
    display.figure_.canvas.draw()


def test_axes_and_styles_are_taken(result, plt):
    _, ax = plt.subplots()
    display = BenchmarkDisplay.from_result(
        result,
        ax=ax,
        point_kwargs={"s": 3},
        median_kwargs={"color": "red"},
        interval_kwargs={"linewidth": 4},
    )
    assert display.ax_ is ax
    assert display.points_[0].get_sizes().tolist() == [3]
    assert display.medians_.get_color() == "red"
    assert display.intervals_.get_linewidths().tolist() == [4]


def test_failed_splits_are_left_out():
    display = BenchmarkDisplay(
        values=[[0.5, np.nan]], medians=[0.5], intervals=[[np.nan, np.nan]], names=["one"]
    ).plot()
    display.figure_.canvas.draw()
    assert np.ma.compressed(display.points_[0].get_offsets()[:, 0]).tolist() == [0.5]


def test_matrix_has_its_numbers_and_names(sets, plt):
    result = cross_benchmark({"means": MEANS, "maxima": FIRST}, sets, cv=SPLITS)
    display = CrossBenchmarkDisplay.from_result(result, "maxima", values_format=".3f")
    np.testing.assert_array_equal(display.image_.get_array(), result.values["srcc"][1])
    for place, text in np.ndenumerate(display.text_):
        assert text.get_text() == f"{result.values['srcc'][1][place]:.3f}"
        assert text.get_position() == place[::-1]  # x is the column: tested on
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Tested on", "Trained on")
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["clear", "noisy"]
    assert (display.ax_.get_title(), display.colorbar_.ax.get_ylabel()) == ("maxima", "srcc")
    display.figure_.canvas.draw()


def test_text_stands_out_and_nan_is_shown():
    display = CrossBenchmarkDisplay(matrix=[[0.0, 1.0], [np.nan, 0.5]], datasets=["a", "b"]).plot(cmap="gray")
    assert [display.text_[0, column].get_color() for column in (0, 1)] == ["white", "black"]
    assert (display.text_[1, 0].get_text(), display.text_[1, 0].get_color()) == ("nan", "black")


def test_unknown_names_are_refused(result, sets):
    with pytest.raises(ValueError, match="metric='r2' is none of the benchmark's: take one of srcc"):
        BenchmarkDisplay.from_result(result, "r2")
    crossed = cross_benchmark({"means": MEANS}, sets, cv=SPLITS)
    with pytest.raises(ValueError, match="name='medians' is no method of the benchmark: take one of means"):
        CrossBenchmarkDisplay.from_result(crossed, "medians")


@pytest.mark.parametrize("name", ["BenchmarkDisplay", "CrossBenchmarkDisplay"])
def test_missing_matplotlib_says_what_to_install(name, monkeypatch):
    displays = {
        "BenchmarkDisplay": BenchmarkDisplay(values=[[1]], medians=[1], intervals=[[1, 1]], names=["one"]),
        "CrossBenchmarkDisplay": CrossBenchmarkDisplay(matrix=[[1]], datasets=["one"]),
    }
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=rf"^{name} draws with matplotlib.*pip install 'sklearn-iqa\[plot\]'"):
        displays[name].plot()

# SPDX-License-Identifier: BSD-3-Clause
"""An interruption reaches the caller, leaves a usable estimator, and is never kept as a result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tqdm.std
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from test_common import MOS, rows, tiny

from sklearn_iqa import CVRKDIQA, NIMA, ContentSplit, benchmark
from sklearn_iqa._base.callbacks import EpochTasks
from sklearn_iqa.datasets import load_photographs, make_distorted

ROOT = Path(__file__).parents[1]
X = rows("NIMA")


@pytest.fixture
def interrupt_at(monkeypatch):
    """Interrupt the n-th call, from now on, of a function."""

    def patch(owner, function, n):
        original, calls = getattr(owner, function), []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, function, interrupted)

    return patch


@pytest.mark.parametrize(
    "run",
    [
        lambda: cross_val_score(tiny("NIMA", max_epochs=4), X, MOS, cv=2),
        lambda: GridSearchCV(tiny("NIMA", max_epochs=4), {"lr": [1e-3, 1e-4]}, cv=2).fit(X, MOS),
        lambda: tiny("NIMA", max_epochs=4, early_stopping=True, validation_fraction=0.5).fit(X, MOS),
    ],
    ids=["cross_val_score", "GridSearchCV", "early_stopping"],
)
def test_interruption_reaches_the_caller(run, interrupt_at):
    interrupt_at(NIMA, "_train_view", 8)
    with pytest.raises(KeyboardInterrupt):
        run()


def test_benchmark_keeps_nothing_of_an_interrupted_run(interrupt_at, monkeypatch, tmp_path):
    data = make_distorted(load_photographs(size=48).images[:4], distortions=["jpeg"], random_state=0)
    model, splits = tiny("NIMA", max_epochs=2), ContentSplit(n_splits=2, random_state=0)
    unbroken = benchmark({"nima": model}, data, cv=splits)
    with monkeypatch.context():
        interrupt_at(NIMA, "_train_view", 50)  # 15 rows a run and epoch: in the second run
        with pytest.raises(KeyboardInterrupt):
            benchmark({"nima": model}, data, cv=splits, results_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    again = benchmark({"nima": model}, data, cv=splits, results_dir=tmp_path)
    np.testing.assert_array_equal(again.values["srcc"], unbroken.values["srcc"])


def test_interrupted_bar_ends_the_training(interrupt_at):
    interrupt_at(tqdm.std.tqdm, "update", 3)  # two batches an epoch: the first of the second one
    estimator = tiny("NIMA", max_epochs=4, verbose=1)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, MOS)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 1
    assert estimator.interrupted_


def test_interrupted_callback_ends_the_training(interrupt_at):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")
    interrupt_at(EpochTasks, "on_epoch_end", 2)
    estimator = tiny("NIMA", max_epochs=4).set_callbacks(callback.ScoringMonitor(scoring="r2"))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, MOS)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 2
    assert np.isfinite(estimator.predict(X)).all()


def test_loop_of_steps_can_be_interrupted_and_goes_on(interrupt_at, monkeypatch):
    whole = tiny("NIMA")
    for _ in range(3):
        whole.partial_fit(X, MOS)
    estimator = tiny("NIMA").partial_fit(X, MOS)
    before = estimator.predict(X)
    with monkeypatch.context():
        interrupt_at(NIMA, "_train_view", 1)  # before the first step: nothing is learned
        with pytest.raises(KeyboardInterrupt):
            estimator.partial_fit(X, MOS)
    assert estimator.interrupted_
    np.testing.assert_array_equal(estimator.predict(X), before)
    for _ in range(2):
        estimator.partial_fit(X, MOS)
    assert not estimator.interrupted_
    np.testing.assert_array_equal(estimator.predict(X), whole.predict(X))  # as if nothing had happened


def test_interrupted_stage_leaves_no_epoch(interrupt_at):
    estimator = tiny("CVRKDIQA", teacher_epochs=2)
    interrupt_at(CVRKDIQA, "_normalized", 20)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(rows("CVRKDIQA"), MOS)
    assert estimator.n_iter_ == 0
    assert np.isfinite(estimator.predict(rows("CVRKDIQA"))).all()
    fresh = clone(estimator)
    np.testing.assert_array_equal(
        estimator.fit(rows("CVRKDIQA"), MOS).predict(rows("CVRKDIQA")),
        fresh.fit(rows("CVRKDIQA"), MOS).predict(rows("CVRKDIQA")),
    )


SEARCH = """
import signal
import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn_iqa import NIMA

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
X = np.random.default_rng(0).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
tiny = {"backbone": "test_resnet", "image_size": 40, "backbone_weights": None, "batch_size": 4, "random_state": 0}
NIMA(**tiny, max_epochs=1).fit(X, np.arange(12.0))  # what is loaded at first use is loaded
print("training", flush=True)
cross_val_score(NIMA(**tiny, max_epochs=100_000), X, np.arange(12.0), cv=2)
print("a result", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_signal_ends_a_search():
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCH],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout.readline() == "training\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT

# SPDX-License-Identifier: BSD-3-Clause
"""Stages of training: their order, what they see, and what an interruption leaves."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._base.training import Stage, hold_out
from sklearn_iqa.metrics import srcc

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
Y = np.arange(6.0)


class MeanSquare(nn.Module):
    def forward(self, output, target):
        return (output - target).square().mean()


class Staged(QualityRegressor):
    """A straight line on the mean of an image, in two stages: each notes what it sees."""

    def __init__(self, *, n_before=2, weights=None, lr=0.1, max_epochs=3, early_stopping=False, random_state=0):
        self.n_before = n_before
        self.weights = weights
        self.lr = lr
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.random_state = random_state

    batch_size, device, verbose, validation_fraction, n_iter_no_change = 3, "cpu", 0, 0.34, 5

    def _network(self):
        return nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))

    def _loss(self):
        return MeanSquare()

    def _views(self, x):
        return torch.as_tensor(x.mean() / 255, dtype=torch.float32)[None, None]

    def _train_view(self, x):
        self.seen.append("training")
        return self._views(x)[0]

    def _stages_before(self, rows, targets, sample_weight):
        self.seen, self.drawn = [], []

        def view(x, target):
            self.seen.append("stage")
            self.drawn.append(int(x[0, 0, 0]))
            return self._views(x)[0]

        self.n_rows = len(rows)
        settings = {"view": view, "lr": 0.01, "sample_weight": sample_weight}
        yield Stage("first", self.network_, MeanSquare(), self.n_before, rows, 0 * targets, **settings)
        self.after = [parameter.detach().clone() for parameter in self.network_.parameters()]


def test_stages_run_before_training():
    staged = Staged().fit(X, Y)
    assert staged.seen == ["stage"] * 2 * 6 + ["training"] * 3 * 6
    assert staged.n_iter_ == len(staged.loss_curve_) == 3  # of the ordinary training
    assert any(not torch.equal(a, b) for a, b in zip(staged.after, staged.network_.parameters(), strict=True))


def test_training_that_goes_on_skips_the_stages():
    staged = Staged().partial_fit(X, Y)
    staged.seen.clear()
    staged.partial_fit(X, Y)
    assert set(staged.seen) == {"training"}


def test_stages_do_not_see_what_is_held_out():
    staged = Staged(early_stopping=True).fit(X, Y)
    assert staged.n_rows == 4


NUMBERED = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 8, 8, 3))


def test_stages_draw_rows_by_their_weight():
    staged = Staged(n_before=200).fit(NUMBERED, Y, sample_weight=[0, 1, 1, 2, 4, 2])
    counts = np.bincount(staged.drawn, minlength=6)
    assert counts.sum() == 200 * 5  # the row without weight is left out
    # 5 deviations of a binomial count of 1000 draws are below 80.
    np.testing.assert_allclose(counts, [0, 100, 100, 200, 400, 200], atol=80)
    assert set(Staged(n_before=3).fit(NUMBERED, Y).drawn[:6]) == set(range(6))  # without weights each once per epoch


def test_weights_of_rows_go_to_stages_without_those_held_out():
    staged = Staged(n_before=50, early_stopping=True).fit(NUMBERED, Y, sample_weight=[1, 2, 3, 4, 5, 6])
    assert len(set(staged.drawn)) == staged.n_rows == 4
    weight = 1 + np.unique(staged.drawn)
    expected = 50 * 4 * weight / weight.sum()
    np.testing.assert_allclose(np.unique(staged.drawn, return_counts=True)[1], expected, atol=40)


def test_held_out_score_counts_rows_by_their_weight():
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    y, weight = np.random.default_rng(1).normal(size=30), 1.0 + np.arange(30) % 3
    staged = Staged(early_stopping=True, max_epochs=1).fit(images, y, sample_weight=weight)
    _, held_out = hold_out(staged._rows(images), 0.34, staged._drawn_seed())
    expected = srcc(y[held_out], staged.predict(images[held_out]), sample_weight=weight[held_out])
    assert staged.validation_scores_ == [expected]
    assert abs(expected - srcc(y[held_out], staged.predict(images[held_out]))) > 1e-3


def test_stage_of_its_own_learning_rate(monkeypatch):
    rates = []
    net = Staged._net

    def recorded(self, module, loss, lr, params):
        rates.append(lr)
        return net(self, module, loss, lr, params)

    monkeypatch.setattr(Staged, "_net", recorded)
    Staged().fit(X, Y)
    assert rates == [0.01, 0.1]


def test_progress_counts_the_batches_of_each_stage(monkeypatch):
    bars = []
    monkeypatch.setattr("sklearn_iqa._base.training.tqdm", lambda **bar: bars.append(bar) or Bar())
    Staged(max_epochs=3).fit(X, Y)
    # Two epochs of the stage and three of the training, of six rows in batches of three.
    assert [(bar["desc"], bar["total"]) for bar in bars] == [("Staged, first.fit", 4), ("Staged.fit", 6)]


class Bar:
    """Stands in for a progress bar."""

    def update(self):
        """Nothing."""

    def set_postfix(self, **values):
        """Nothing."""

    def close(self):
        """Nothing."""


def test_interrupted_stage_ends_training(monkeypatch):
    def interrupted(self, output, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MeanSquare, "forward", interrupted)
        staged = Staged()
        with pytest.raises(KeyboardInterrupt):
            staged.fit(X, Y)
    assert staged.interrupted_
    assert set(staged.seen) == {"stage"}
    assert staged.n_iter_ == 0
    assert np.isfinite(staged.predict(X)).all()


def test_diverging_stage_says_which(monkeypatch):
    monkeypatch.setattr(MeanSquare, "forward", lambda self, output, target: output.sum() * float("nan"))
    with pytest.raises(ValueError, match=r"loss of Staged, first became nan in epoch 1; lower lr \(now 0.01\)"):
        Staged().fit(X, Y)

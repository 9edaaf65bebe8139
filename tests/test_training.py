# SPDX-License-Identifier: BSD-3-Clause
"""Stages of training: their order, what they see, and what an interruption leaves; and how batches are drawn."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._base.training import Batches, EvenBatches, Stage, TrainingSet, drawn, hold_out
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


# Batches --------------------------------------------------------------------------------------------------------------


def numbers(n, sample_weight=None, members=None, **state):
    """A training set whose views and targets are the numbers of its rows."""
    members = np.arange(n) if members is None else members
    return TrainingSet(torch.tensor, np.arange(float(n)), members, sample_weight, **state)


def test_rows_are_drawn_in_rounds():
    torch.manual_seed(0)
    rounds = drawn(torch.tensor([2, 5, 7]), 8, None).tolist()
    assert sorted(rounds[:3]) == sorted(rounds[3:6]) == [2, 5, 7]
    assert set(rounds[6:]) < {2, 5, 7}
    assert len(set(rounds[6:])) == 2
    many = drawn(torch.arange(4), 400, None).view(100, 4).tolist()
    assert len({tuple(one) for one in many}) == 24  # all orders: each is missed once in 70 times


def test_weights_draw_some_places_of_a_set():
    torch.manual_seed(0)
    weight = torch.tensor([9.0, 1, 9, 2, 9, 1])
    places = drawn(torch.tensor([1, 3, 5]), 8000, weight)
    # 2000, 4000, 2000; five deviations are 224.
    np.testing.assert_allclose(np.bincount(places), [0, 2000, 0, 4000, 0, 2000], atol=224)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(7, 3, [3, 2, 2]), (9, 4, [3, 3, 3]), (5, 2, [3, 2]), (2, 1, [1, 1])]
)
def test_batches_are_even(n, batch_size, sizes):
    batches = EvenBatches(numbers(n), batch_size)
    torch.manual_seed(0)
    found = list(batches)
    assert [len(batch) for batch in found] == sizes
    assert len(batches) == len(sizes)
    assert sorted(np.concatenate(found)) == list(range(n))


def test_a_tuple_of_places_is_stacked():
    data = numbers(6, members=np.array([1, 3, 5]))
    views, targets = data[2, 0]
    assert views.tolist() == targets.tolist() == [5, 1]
    batch = next(iter(Batches(data, [[(0, 1), (2, 2)]])))
    assert [one.tolist() for one in batch] == [[[1, 3], [5, 5]]] * 2


class Growing:
    """One batch more in each epoch, of the row that the epoch has as its number."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 1 + self.data.epoch

    def __iter__(self):
        seen.append((self.data.epoch, self.data.seed, len(self.data)))
        yield from [[self.data.epoch % len(self.data)]] * len(self)


seen: list = []


class Drawing(Staged):
    """Draws the batches of its epochs itself."""

    def _net_params(self):
        return {"iterator_train__sampler": lambda data, batch_size: Growing(data)}


@pytest.fixture
def bars(monkeypatch):
    made = []
    monkeypatch.setattr("sklearn_iqa._base.training.tqdm", lambda **bar: made.append(bar) or Bar())
    seen.clear()
    return made


def test_a_method_draws_the_batches_of_each_epoch(bars):
    estimator = Drawing(n_before=0).fit(X, Y)
    assert [epoch for epoch, _, _ in seen] == [0, 1, 2]
    assert estimator.n_steps_ == 1 + 2 + 3
    assert [bar["total"] for bar in bars] == [0, 6]


def test_going_on_draws_the_next_epochs(bars):
    estimator = Drawing(n_before=0)
    for _ in range(3):
        estimator.partial_fit(X, Y)
    assert [epoch for epoch, _, _ in seen] == [0, 1, 2]
    assert {seed for _, seed, _ in seen} == {estimator._drawn_seed()}  # what is drawn once stays
    assert [bar["total"] for bar in bars] == [0, 1, 2, 3]
    at_once = Drawing(n_before=0).fit(X, Y)
    for own, other in zip(estimator.network_.parameters(), at_once.network_.parameters(), strict=True):
        assert torch.equal(own, other)


def test_drawn_batches_hold_no_rows_that_are_held_out(bars):
    Drawing(n_before=0, early_stopping=True).fit(X, Y)
    assert {n for _, _, n in seen} == {4}


def test_epochs_of_a_stage_count_from_zero_and_draw_for_themselves(monkeypatch):
    epochs = []

    def watched(self, net, data, n_epochs, callbacks, name, run=Staged._run):
        epochs.append((name, data.epoch, data.seed))
        run(self, net, data, n_epochs, callbacks, name)

    monkeypatch.setattr(Staged, "_run", watched)
    estimator = Staged().fit(X, Y).partial_fit(X, Y)
    seed = estimator._drawn_seed()
    assert epochs == [("Staged, first", 0, seed + 2**20), ("Staged", 0, seed), ("Staged", 3, seed)]


@pytest.mark.filterwarnings("error")
def test_labels_may_be_read_only():
    y = np.arange(3.0)
    y.setflags(write=False)  # as a column of pandas gives them
    assert TrainingSet(torch.tensor, y, np.arange(3)).targets.tolist() == [0, 1, 2]

# SPDX-License-Identifier: BSD-3-Clause
"""Training that goes on: changed parameters count or are refused, and a journey forgets no more than it must."""

import pickle

import numpy as np
import pytest
import torch
from test_common import ESTIMATORS, MOS, TINY, output, rows, tiny

import sklearn_iqa
from sklearn_iqa._base import training

TRAINED = [name for name in ESTIMATORS if "max_epochs" in tiny(name).get_params()]
every_trained = pytest.mark.parametrize("name", TRAINED)
goes_on = pytest.mark.parametrize(
    "go_on",
    [
        lambda estimator, X: estimator.partial_fit(X, MOS),
        lambda estimator, X: estimator.set_params(warm_start=True).fit(X, MOS),
    ],
    ids=["partial_fit", "warm_start"],
)
travels = pytest.mark.parametrize("travels", [False, True], ids=["stays", "travels"])


def state(estimator):
    return {key: tensor.clone() for key, tensor in estimator.network_.state_dict().items()}


def way(before, estimator):
    """How far the trained weights have gone."""
    own = dict(estimator.network_.named_parameters())
    return float(sum((before[key] - tensor).abs().sum() for key, tensor in own.items() if tensor.requires_grad))


@every_trained
@goes_on
@travels
def test_new_learning_rate_counts(name, go_on, travels):
    estimator, X = tiny(name).fit(rows(name), MOS), rows(name)
    if travels:
        estimator = pickle.loads(pickle.dumps(estimator))
    before = state(estimator)
    go_on(estimator.set_params(lr=1e-30), X)
    still = way(before, estimator)
    go_on(estimator.set_params(lr=TINY[name].get("lr", 1e-3)), X)
    assert still < 1e-6 * way(before, estimator)


@goes_on
@travels
def test_new_batch_size_counts(go_on, travels):
    estimator, X = tiny("NIMA").fit(rows("NIMA"), MOS), rows("NIMA")
    if travels:
        estimator = pickle.loads(pickle.dumps(estimator))
    go_on(estimator.set_params(batch_size=1), X)
    assert len(estimator.net_.history[-1]["batches"]) == len(MOS)


def test_new_weight_decay_counts():
    X = rows("HyperIQA")
    plain, decayed = (tiny("HyperIQA").fit(X, MOS) for _ in range(2))
    plain.partial_fit(X, MOS)
    decayed.set_params(weight_decay=10.0).partial_fit(X, MOS)
    assert not np.array_equal(plain.predict(X), decayed.predict(X))


@pytest.mark.parametrize("name", ["LPIPS", "STLPIPS", "ContentDiverseIQA"])
@goes_on
def test_backbone_may_be_thawed_and_frozen(name, go_on):
    estimator, X = tiny(name, trainable="heads").fit(rows(name), MOS), rows(name)
    backbone = {key: tensor.clone() for key, tensor in estimator.network_.net.state_dict().items()}
    go_on(estimator.set_params(trainable="all"), X)
    own = estimator.network_.net.state_dict()
    assert any(not torch.equal(own[key], tensor) for key, tensor in backbone.items())
    thawed = {key: tensor.clone() for key, tensor in own.items()}
    go_on(estimator.set_params(trainable="heads"), X)
    assert all(torch.equal(own[key], tensor) for key, tensor in thawed.items())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("NIMA", {"backbone": "test_efficientnet"}),
        ("NIMA", {"dropout": 0.5}),
        ("MUSIQ", {"depth": 2}),
        ("GIQA", {"n_channels": 4}),
        ("HyperIQA", {"weights": "other.safetensors"}),
        ("DBCNN", {"scnn_weights": "other.pth"}),
        ("CLIPIQA", {"pos_embedding": True}),
    ],
)
@goes_on
def test_what_the_network_is_made_of_cannot_change(name, parameters, go_on):
    estimator, X = tiny(name).fit(rows(name), MOS), rows(name)
    before, parameter = output(estimator, X), next(iter(parameters))
    original = {parameter: estimator.get_params()[parameter]}
    with pytest.raises(ValueError, match=rf"{name} was built with other values of {parameter}, which cannot change"):
        go_on(estimator.set_params(**parameters), X)
    np.testing.assert_array_equal(output(estimator.set_params(**original), X), before)
    assert estimator.n_iter_ == 1


@every_trained
def test_unchanged_parameters_are_those_of_one_long_run(name):
    X = rows(name)
    whole = tiny(name, max_epochs=3).fit(X, MOS)
    steps = tiny(name, max_epochs=3).partial_fit(X, MOS)
    for _ in range(2):
        steps.partial_fit(X, MOS)
    assert (steps.n_iter_, steps.n_steps_) == (whole.n_iter_, whole.n_steps_)
    np.testing.assert_array_equal(steps.loss_curve_, whole.loss_curve_)


@every_trained
def test_schedules_go_on_after_a_journey(name, monkeypatch):
    rates = []
    note = training.Record.on_batch_end

    def on_batch_end(self, net, **kwargs):
        note(self, net, **kwargs)
        rates.append([group["lr"] for group in net.optimizer_.param_groups])

    monkeypatch.setattr(training.Record, "on_batch_end", on_batch_end)
    X = rows(name)
    tiny(name, max_epochs=4).fit(X, MOS)
    whole = rates.copy()
    rates.clear()
    estimator = tiny(name, max_epochs=4).partial_fit(X, MOS)
    for _ in range(3):
        estimator = pickle.loads(pickle.dumps(estimator)).partial_fit(X, MOS)
    np.testing.assert_allclose(rates, whole, rtol=1e-12)
    assert (estimator.n_iter_, estimator.n_steps_) == (4, len(whole))


def test_pseudo_scores_travel():
    y = np.where(np.arange(len(MOS)) < 3, MOS, np.nan)
    estimator = tiny("JSPL", warmup=0.0, batch_size=6).fit(rows("JSPL"), y)
    assert set(estimator.pseudo_scores_) == {3, 4, 5}
    travelled = pickle.loads(pickle.dumps(estimator))
    assert travelled.pseudo_scores_ == estimator.pseudo_scores_
    travelled.partial_fit(rows("JSPL"), y)
    assert travelled.pseudo_scores_ != estimator.pseudo_scores_


def test_every_trained_estimator_is_here():
    assert {name for name in ESTIMATORS if hasattr(getattr(sklearn_iqa, name)(), "partial_fit")} == set(TRAINED)

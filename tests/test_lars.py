# SPDX-License-Identifier: BSD-3-Clause
"""LARS, and the learning rate that warms up and falls: against numbers worked out by hand."""

import numpy as np
import pytest
import skorch
import torch
from torch import nn

from sklearn_iqa.pair_input._lars import LARS, WarmUpAndCosine


def stepped(value, gradient, n_steps=1, **parameters):
    tensor = torch.tensor(value, requires_grad=True)
    optimizer = LARS([tensor], **{"lr": 2.0, "momentum": 0.0, "trust": 0.001, **parameters})
    for _ in range(n_steps):
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
    return tensor.detach()


def test_step_is_in_proportion_to_the_tensor():
    # |w| = 5, so the step has the length 2 * 0.001 * 5 = 0.01, along g = (0, 1), however long g is.
    for scale in (1e-3, 1.0, 1e6):
        got = stepped([[3.0, 4.0]], [[0.0, scale]])
        torch.testing.assert_close(got, torch.tensor([[3.0, 3.99]]))


def test_weight_decay_turns_the_step():
    # g + 0.5 w = (1.5, -2) + (1.5, 2) = (3, 0), of length 3, brought to 0.005; times 2.
    got = stepped([[3.0, 4.0]], [[1.5, -2.0]], weight_decay=0.5)
    torch.testing.assert_close(got, torch.tensor([[2.99, 4.0]]))


def test_biases_and_gains_take_their_gradient():
    got = stepped([3.0, 4.0], [0.5, -1.0], weight_decay=0.5)
    torch.testing.assert_close(got, torch.tensor([2.0, 6.0]))


def test_momentum_adds_up():
    # Steps 1, 1 + 0.9, 1 + 0.9 * 1.9 = 2.71 along a constant gradient: 5.61 times 2 in all.
    got = stepped([0.0], [1.0], n_steps=3, momentum=0.9)
    torch.testing.assert_close(got, torch.tensor([-11.22]))


def test_zeros_are_not_scaled():
    torch.testing.assert_close(stepped([[0.0, 0.0]], [[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]]))
    torch.testing.assert_close(stepped([[1.0, 2.0]], [[0.0, 0.0]]), torch.tensor([[1.0, 2.0]]))


def test_tensors_without_gradient_stay_and_closures_are_called():
    tensor, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    optimizer = LARS([tensor, frozen], lr=0.5, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = (3 * tensor).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 6.0
    torch.testing.assert_close(tensor.detach(), torch.full((2,), -0.5))
    torch.testing.assert_close(frozen, torch.ones(2))


def test_rates():
    schedule = WarmUpAndCosine(n_epochs=40, warmup_epochs=5)
    # lr 12: the cosine after epoch e is 0.012 + 11.988 (1 + cos(pi e / 40)) / 2; e = 5: 11.543733, e = 20: 6.006.
    assert schedule.rate(12.0, 1, 0.0) == pytest.approx(0.01)
    assert schedule.rate(12.0, 3, 0.5) == pytest.approx((0.01 + 11.543733) / 2, rel=1e-6)
    assert schedule.rate(12.0, 6, 0.0) < 11.543733
    assert schedule.rate(12.0, 20, 0.3) == pytest.approx(6.006)
    assert schedule.rate(12.0, 40, 0.0) == schedule.rate(12.0, 41, 0.0) == pytest.approx(0.012)
    # A rate below the start of the warm-up does not fall to rise again.
    assert schedule.rate(1e-12, 1, 0.0) < 1e-12
    assert WarmUpAndCosine(n_epochs=4).rate(1.0, 1, 0.0) == pytest.approx(0.001 + 0.999 * (1 + np.sqrt(0.5)) / 2)


class Noted(skorch.callbacks.Callback):
    def on_batch_end(self, net, training=False, **kwargs):
        self.rates.append(net.optimizer_.param_groups[0]["lr"])


def test_rates_of_a_net():
    noted = Noted()
    noted.rates = []
    schedule = WarmUpAndCosine(n_epochs=4, warmup_epochs=2, warmup_lr=0.0, n_before=1)
    net = skorch.NeuralNet(
        nn.Linear(1, 1),
        nn.MSELoss(),
        optimizer=LARS,
        lr=1.0,
        batch_size=2,
        max_epochs=2,
        train_split=None,
        verbose=0,
        callbacks=[("schedule", schedule), ("noted", noted)],
    )
    net.fit(np.ones((4, 1), np.float32), np.ones((4, 1), np.float32))
    net.partial_fit(np.ones((4, 1), np.float32), np.ones((4, 1), np.float32))
    expected = [schedule.rate(1.0, epoch, part) for epoch in (2, 3, 4, 5) for part in (0.0, 0.5)]
    assert noted.rates == expected
    assert expected[1] > expected[0] > expected[2] == expected[3]

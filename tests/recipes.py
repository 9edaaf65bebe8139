# SPDX-License-Identifier: BSD-3-Clause
"""What a training does, written down while it runs: optimiser, groups, rates, what trains, which rows and pixels."""

import contextlib
import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import skorch.callbacks
import torch
from torch import nn

from sklearn_iqa._base.estimator import ImageEstimator

MODES = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # modules whose mode matters


@dataclass
class Phase:
    """One run of the training loop: a stage, or the training itself.

    Names are those of the parameters of the module that is trained; parameters of the loss stand behind "loss.".
    """

    name: str
    n_epochs: int
    optimizer: type | None = None
    names: frozenset[str] = frozenset()  # of all parameters, trained or not
    groups: list[frozenset[str]] = field(default_factory=list)  # names in each group of the optimiser
    settings: list[dict[str, Any]] = field(default_factory=list)  # of each group, where they are not torch's defaults
    rates: list[list[float]] = field(default_factory=list)  # of each step and group, as the optimiser takes it
    epochs: list[int] = field(default_factory=list)  # of each step, from 0
    trained: list[frozenset[str]] = field(default_factory=list)  # by epoch: names in a group that had a gradient
    moded: frozenset[str] = frozenset()  # names of all modules of BatchNorm and dropout
    evaluated: frozenset[str] = frozenset()  # those that ran in eval mode at the first step
    rows: list[list[int]] = field(default_factory=list)  # of each step: places in `data`, in their order
    targets: list[torch.Tensor] = field(default_factory=list)  # of each step, as the loss takes them
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of each step: shape of the batch of views


class Recorder(skorch.callbacks.Callback):
    """Fills a `Phase`; rates are read behind all schedules, right before the step."""

    def __init__(self, phase: Phase):
        self.phase = phase

    def on_train_begin(self, net, **kwargs):
        """Note the optimiser and its groups."""
        phase, names = self.phase, self._named(net)
        phase.optimizer, phase.names = type(net.optimizer_), frozenset(names)
        of = {id(parameter): name for name, parameter in names.items()}
        phase.groups = [frozenset(of[id(one)] for one in group["params"]) for group in net.optimizer_.param_groups]

    def on_epoch_begin(self, net, **kwargs):
        """Open an epoch."""
        self.phase.trained.append(frozenset())

    def on_batch_begin(self, net, batch, training=False, **kwargs):
        """Note what the network is given."""
        views, targets = batch
        self.phase.shapes.append(tuple(getattr(views, "shape", ())))
        self.phase.targets.append(targets.clone())

    def on_grad_computed(self, net, **kwargs):
        """Note the step that the optimiser is about to take."""
        phase = self.phase
        if not phase.rates:
            phase.settings = [_unusual(net.optimizer_, group) for group in net.optimizer_.param_groups]
            modes = {name: one for name, one in net.module_.named_modules() if isinstance(one, MODES)}
            phase.moded = frozenset(modes)
            phase.evaluated = frozenset(name for name, one in modes.items() if not one.training)
        phase.rates.append([float(group["lr"]) for group in net.optimizer_.param_groups])
        phase.epochs.append(len(phase.trained) - 1)
        grouped = frozenset().union(*phase.groups)
        moved = {name for name, one in self._named(net).items() if one.grad is not None}
        phase.trained[-1] |= moved & grouped

    @staticmethod
    def _named(net) -> dict[str, nn.Parameter]:
        loss = {f"loss.{name}": one for name, one in net.criterion_.named_parameters()}
        return {**dict(net.module_.named_parameters()), **loss}


def _unusual(optimizer, group) -> dict[str, Any]:
    """Settings of a group that are not the defaults of torch's optimiser; the rate aside."""
    usual = {name: one.default for name, one in inspect.signature(type(optimizer)).parameters.items()}
    return {
        name: value for name, value in group.items() if name in usual.keys() - {"params", "lr"} and value != usual[name]
    }


@contextlib.contextmanager
def recorded():
    """Record the phases of all training inside the block.

    Yields
    ------
    phases : list of Phase
        In the order in which they ran.
    """
    phases: list[Phase] = []
    run = ImageEstimator._run

    def watched(self, net, data, n_epochs, callbacks, name):
        phase = Phase(name, n_epochs)
        phases.append(phase)
        make_iterator = net.iterator_train

        def iterator(data, *args, **kwargs):
            loader = make_iterator(data, *args, **kwargs)
            if not getattr(loader.batch_sampler, "recorded", False):
                loader.batch_sampler = _Noted(loader.batch_sampler, phase.rows)
            return loader

        net.iterator_train = iterator
        try:
            run(self, net, data, n_epochs, [*callbacks, Recorder(phase)], name)
        finally:
            net.iterator_train = make_iterator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageEstimator, "_run", watched)
        yield phases


class _Noted:
    """A batch sampler that notes what it gives."""

    recorded = True

    def __init__(self, sampler, rows: list[list[int]]):
        self.sampler, self.rows = sampler, rows

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        for batch in self.sampler:
            self.rows.append(list(batch))
            yield batch


def coordinate_maps(view, height: int, width: int, n: int = 64, seed: int = 0) -> np.ndarray:
    """Where each of n random views of an image looks.

    Parameters
    ----------
    view : callable
        uint8 image (height, width, 3) -> tensor (3, h, w): linear in the pixels, such as `_train_view` of a method
        without photometric augmentation.
    height, width : int
        Size of the image, at most 256 each.

    Returns
    -------
    maps : ndarray of shape (n, 2, 3)
        The pixel of a view in column c and row r shows the place `m @ (c, r, 1)` = (x, y) of the image. A crop has
        m[0, 2] and m[1, 2] as its corner, a mirrored one m[0, 0] < 0, one turned by 90 degrees m[0, 0] = 0.
    """
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        black, white = (view(np.full_like(image, value)).double().mean((1, 2)) for value in (0, 255))
        maps = []
        for _ in range(n):
            pixels = (view(image).double() - black[:, None, None]) / (white - black)[:, None, None]
            h, w = pixels.shape[1:]
            rows, columns = np.mgrid[:h, :w]
            places = np.stack([columns.ravel(), rows.ravel(), np.ones(h * w)], axis=1)
            seen = np.stack([pixels[0].ravel() * (width - 1), pixels[1].ravel() * (height - 1)], axis=1)
            maps.append(np.linalg.lstsq(places, seen, rcond=None)[0].T)
    return np.array(maps)


def assert_cut_anywhere_and_mirrored(view, side: int, height: int = 200, width: int = 230) -> None:
    """Check that views are squares of `side` pixels of the image as it is, anywhere in it, half of them mirrored."""
    maps = coordinate_maps(view, height, width, n=200)
    mirrored = maps[:, 0, 0] < 0
    np.testing.assert_allclose(np.abs(maps[:, 0, 0]), 1, atol=0.02)
    np.testing.assert_allclose(maps[:, 1, 1], 1, atol=0.02)  # neither scaled nor upside down
    assert mirrored.mean() == pytest.approx(0.5, abs=0.15)
    left = np.where(mirrored, maps[:, 0, 2] - (side - 1), maps[:, 0, 2])
    for place, free in ((left, width - side), (maps[:, 1, 2], height - side)):
        assert -1 < place.min() < 0.1 * free < 0.9 * free < place.max() < free + 1
        assert place.mean() == pytest.approx(free / 2, abs=0.1 * free)  # 200 draws: a standard error of 2 %

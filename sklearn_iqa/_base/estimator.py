# SPDX-License-Identifier: BSD-3-Clause
"""image -> views -> network -> score, and fit -> loss -> optimiser: what all methods share, written once.

A method says five things: `_network`, `_loss`, `_train_view`, `_views` and, where the mean over views is not its score,
`_score`. Training runs in a skorch net that the estimator holds as `net_`.
"""

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import skorch
import skorch.callbacks
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa._base.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from sklearn_iqa._base.devices import prepare, resolve_device, seeded
from sklearn_iqa._base.images import check_min_size
from sklearn_iqa._base.inference import Job, by_reference, infer
from sklearn_iqa._base.pickling import PicklingMixin
from sklearn_iqa._base.rows import check_images, check_tuples
from sklearn_iqa._base.training import (
    EpochSeed,
    HeldOutScore,
    Progress,
    Stage,
    StopWhenAsked,
    Subset,
    TrainingSet,
    batches,
    hold_out,
)
from sklearn_iqa._weights.mixin import WeightsMixin

MOST_EPOCHS = 2**20  # of one stage of training, for seeds


class ImageEstimator(WeightsMixin, PicklingMixin, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta):
    """Builds, trains and runs the network of a method; not for direct use.

    Class attributes are the facts of a method that nobody tunes; parameters are plain values.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image",)  # what one row of X holds
    same_size: ClassVar[bool] = True  # whether the images of one row must have one size
    min_size: ClassVar[int] = 1  # shortest side that the network takes
    optimizer: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    net_class: ClassVar[type[skorch.NeuralNet]] = skorch.NeuralNet
    _parameter_constraints: ClassVar[dict[str, list]] = {}  # of every parameter, see `parameters`
    # For the contract tests: parameters with which a fit takes a moment; height and width of images, unequal
    # so that exchanged axes show.
    _test_params: ClassVar[dict[str, Any]] = {}
    _test_size: ClassVar[tuple[int, int]] = (40, 48)

    _doc_link_module = "sklearn_iqa"
    _doc_link_template = "https://sklearn-iqa.readthedocs.io/en/latest/generated/sklearn_iqa.{estimator_name}.html"

    # What a method says -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _network(self) -> nn.Module:
        """Build the network with random weights; reads parameters only, downloads nothing."""

    @abstractmethod
    def _loss(self) -> nn.Module:
        """Build the loss: (output, target) -> number."""

    @abstractmethod
    def _train_view(self, x) -> torch.Tensor:
        """One row's images as the network sees them in training; randomness from torch's generator."""

    @abstractmethod
    def _views(self, x) -> torch.Tensor:
        """One row's images -> views (v, ...) for inference, each of which the network sees alone; no randomness."""

    def _load_backbone(self, network: nn.Module) -> None:
        """Load the backbone's own pretraining into a new network; a method without one does nothing."""

    def _training_module(self, network: nn.Module) -> nn.Module:
        """Give the module that training runs: the network itself, or one around it that forms pairs or queues."""
        return network

    def _stages_before(self, rows, targets) -> Iterator[Stage]:
        """Yield stages that are trained before `_training_module`; what stands behind a yield runs after that stage.

        `targets` are in the user's unit; `_encode_targets` turns them into those of a loss.
        """
        yield from ()

    def _net_params(self) -> dict[str, Any]:
        """Give further arguments of the skorch net: weight decay, parameter groups, schedules."""
        return {}

    def _training_rows(self, X):
        return self._rows(X)

    @abstractmethod
    def _check_targets(self, rows, y) -> np.ndarray:
        """Check y and give one target row per row of X, in the user's unit."""

    def _encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Targets in the user's unit -> what the loss compares with."""
        return targets

    # Building ---------------------------------------------------------------------------------------------------------

    def initialize(self):
        """Build `network_` without data: from `weights` when given, otherwise from the backbone's pretraining.

        Returns
        -------
        self : estimator
            With `network_`, a differentiable `torch.nn.Module` in eval mode.

        Raises
        ------
        FileNotFoundError, ValueError
            When weights are named that do not exist or do not fit.
        """
        self._validate_params()
        self._check_combinations()
        with seeded(self._drawn_seed()):
            self._build()
        return self

    def _drawn_seed(self) -> int:
        return check_random_state(self.random_state).randint(2**31 - 1)

    def _build(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)  # what an earlier fit learned
        device = resolve_device(self.device)
        network = self._network()
        if self.weights is None:
            self._load_backbone(network)
        else:
            self._load_weights(network)
        self.device_, self.network_ = device, prepare(network, device)
        self._built_from = self.get_params(deep=False)

    def _check_combinations(self) -> None:
        """Check what holds across parameters; each by itself is checked by `_parameter_constraints`."""

    def _rows(self, X):
        if len(self.inputs) == 1:
            return check_images(X)
        return check_tuples(X, self.inputs, type(self).__name__, self.same_size)

    def _open(self, rows, row: int):
        x = rows[row]
        for image in x if isinstance(x, tuple) else (x,):
            check_min_size(image, self.min_size, f"Row {rows.number(row)} of X", type(self).__name__)
        return x

    # Running ----------------------------------------------------------------------------------------------------------

    def _ensure_network(self) -> None:
        if not hasattr(self, "network_"):  # weights are given and nothing was fitted
            self.initialize()

    def _infer(self, rows) -> Iterator[tuple[int, Any]]:
        """Yield (row, output of the network for all views of the row), as they become known."""
        self._ensure_network()
        shared = hasattr(self.network_, "encode_reference")
        order = by_reference(rows) if shared else ((row, None) for row in range(len(rows)))
        jobs = (Job(row, self._views(self._open(rows, row)), reference) for row, reference in order)
        yield from infer(self.network_, jobs, batch_size=self.batch_size, device=self.device_)

    def _infer_all(self, rows) -> Iterator[tuple[int, Any]]:
        """Run `_infer` behind a progress bar."""
        return tqdm(
            self._infer(rows), total=len(rows), disable=not self.verbose, desc=type(self).__name__, unit="image"
        )

    # Training ---------------------------------------------------------------------------------------------------------

    def _fit(self, X, y, sample_weight=None, **labels):
        """Train anew, or go on with `warm_start`; `labels` is what the `fit` of a method takes beside y."""
        resume = getattr(self, "warm_start", False)
        return self._learn(X, y, sample_weight, labels, n_epochs=getattr(self, "max_epochs", 1), resume=resume)

    def _partial_fit(self, X, y, sample_weight=None, **labels):
        """Go on for one epoch."""
        return self._learn(X, y, sample_weight, labels, n_epochs=1, resume=True)

    @with_callbacks
    def _learn(self, X, y, sample_weight, labels: dict[str, Any], *, n_epochs: int, resume: bool):
        self._validate_params()
        self._check_combinations()
        rows = self._training_rows(X)
        targets = self._check_targets(rows, y, **labels)
        if sample_weight is not None:
            kept, sample_weight = _checked_weight(sample_weight, len(rows))
            rows, targets = Subset(rows, kept), targets[kept]
        seed = self._drawn_seed()
        with seeded(seed):
            if not (resume and hasattr(self, "n_iter_")):
                self._build()
                self._start(targets, sample_weight)
            tasks = [EpochTasks(self, X, y, n_epochs)] if getattr(self, "_skl_callbacks", ()) else []
            self._train(rows, targets, sample_weight, n_epochs, seed, tasks)
            self._finish(rows, targets)
            for one in tasks:
                one.close()
        return self

    def _start(self, targets, sample_weight) -> None:
        """Learn from the labels what training needs to know of them."""

    def _finish(self, rows, targets) -> None:
        """Learn what can only be known after training."""

    def _train(self, rows, targets, sample_weight, n_epochs: int, seed: int, tasks: list[EpochTasks]) -> None:
        """Change `network_` by gradient descent; a method without `max_epochs` learns here in its own way."""
        if not hasattr(self, "n_iter_"):
            self.n_iter_ = 0
            self.loss_curve_: list[float] = []
        members = np.arange(len(rows))
        callbacks: list[skorch.callbacks.Callback] = [EpochSeed(seed, self.n_iter_)]
        if getattr(self, "early_stopping", False):
            members, held_out = hold_out(rows, self.validation_fraction, seed)
            callbacks.append(HeldOutScore(self, rows, targets, held_out))
        if not hasattr(self, "net_"):
            if self.n_iter_ == 0 and not self._run_stages(Subset(rows, members), targets[members], seed):
                return
            self.net_ = self._net(self._training_module(self.network_), self._loss(), self.lr, self._net_params())

        def view(row):
            return self._train_view(self._open(rows, row))

        data = TrainingSet(view, self._encode_targets(targets), members, sample_weight)
        losses = self._run(self.net_, data, n_epochs, [*callbacks, *tasks], type(self).__name__)
        self.loss_curve_ += losses
        self.n_iter_ += len(losses)

    def _run_stages(self, rows, targets, seed: int) -> bool:
        """Run the stages before the ordinary training; False when the user interrupted them."""
        for number, stage in enumerate(self._stages_before(rows, targets), start=1):

            def view(row, stage=stage):
                x = self._open(stage.rows, row)
                return self._train_view(x) if stage.view is None else stage.view(x, stage.targets[row])

            net = self._net(stage.module, stage.loss, self.lr if stage.lr is None else stage.lr, stage.net_params)
            data = TrainingSet(view, stage.targets, np.arange(len(stage.rows)))
            apart = EpochSeed(seed, number * MOST_EPOCHS)  # no epoch draws what one of another stage draws
            losses = self._run(net, data, stage.n_epochs, [apart], f"{type(self).__name__}, {stage.name}")
            if len(losses) < stage.n_epochs:
                return False
        return True

    def _run(self, net: skorch.NeuralNet, data: TrainingSet, n_epochs: int, callbacks: list, name: str) -> list[float]:
        """Train for some epochs and give the loss of each that was finished."""
        n_batches = n_epochs * len(net.get_iterator(data, training=True))
        progress = Progress(name, n_batches, getattr(self, "verbose", 0))
        stop = StopWhenAsked(callbacks)
        n_before, own_callbacks = len(net.history), net.callbacks_
        net.callbacks_ = own_callbacks + [(type(one).__name__, one) for one in [*callbacks, progress, stop]]
        try:
            net.partial_fit(data, epochs=n_epochs)
        finally:
            net.callbacks_ = own_callbacks
            self.network_.eval()
        losses = [epoch["train_loss"] for epoch in net.history[n_before:] if "train_loss" in epoch]
        if len(losses) < n_epochs and not stop.stopped_:
            warnings.warn("Training was interrupted; the estimator keeps what it has learned.", stacklevel=6)
        if losses and not np.isfinite(losses[-1]):
            raise ValueError(
                f"The loss of {name} became {losses[-1]} in epoch {n_before + len(losses)}; lower lr "
                f"(now {net.lr:g}) or check the labels."
            )
        return losses

    def _net(self, module: nn.Module, loss: nn.Module, lr: float, params: dict[str, Any]) -> skorch.NeuralNet:
        return self.net_class(
            module=module,
            criterion=loss,
            lr=lr,
            batch_size=self.batch_size,
            iterator_train=batches,
            train_split=None,
            device=str(self.device_),
            verbose=0,
            **{"optimizer": self.optimizer, **params},
        ).initialize()

    # scikit-learn -----------------------------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_") or self.weights is not None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _checked_weight(sample_weight, n_rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows that count at all, and their weights; None when those are equal. A row that weighs nothing is left out."""
    weight = _check_sample_weight(sample_weight, np.empty((n_rows, 1)), dtype=np.float64)
    if (weight < 0).any() or weight.sum() <= 0:
        raise ValueError("sample_weight must be non-negative with a positive sum; leave out rows that must not count.")
    kept = np.flatnonzero(weight)
    return kept, None if np.ptp(weight[kept]) == 0 else weight[kept]


__all__ = ["ImageEstimator"]

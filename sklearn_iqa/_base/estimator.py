# SPDX-License-Identifier: BSD-3-Clause
"""image -> views -> network -> score, and fit -> loss -> optimiser: what all methods share, written once.

A method says five things: `_network`, `_loss`, `_train_view`, `_views` and, where the mean over views is not its score,
`_score`. Training runs in a skorch net that the estimator holds as `net_`.
"""

import contextlib
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Generator, Iterator
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

from sklearn_iqa._base.ahead import n_threads
from sklearn_iqa._base.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from sklearn_iqa._base.continuation import carry_over, changed_parameters
from sklearn_iqa._base.devices import alone, let_compile, prepare, resolve_device, seeded
from sklearn_iqa._base.failures import RAISE, Failures, check_ready, explained_memory, size_of
from sklearn_iqa._base.images import check_min_size
from sklearn_iqa._base.inference import Job, by_reference, infer, prepared
from sklearn_iqa._base.pickling import PicklingMixin
from sklearn_iqa._base.rows import KeptImages, check_images, check_tuples
from sklearn_iqa._base.training import (
    DeadNetwork,
    EpochSeed,
    FiniteLoss,
    HeldOutScore,
    Net,
    Progress,
    Record,
    Stage,
    StopWhenAsked,
    Subset,
    TrainingEnded,
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
    net_class: ClassVar[type[Net]] = Net
    _parameter_constraints: ClassVar[dict[str, list]] = {}  # of every parameter, see `parameters`
    # Parameters of every method; these are for subclasses that leave them out.
    precision: str = "float32"
    compile: bool = False
    n_jobs: int | None = None
    _held_out_score: Callable[..., Callable[[], float]]  # of a method with `early_stopping`, see `QualityRegressor`
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

    def _stages_before(self, rows, targets, sample_weight) -> Iterator[Stage]:
        """Yield stages that are trained before `_training_module`; what stands behind a yield runs after that stage.

        `targets` are in the user's unit; `_encode_targets` turns them into those of a loss. `sample_weight` is None or
        the weight of each row: a stage draws its rows by it, through `Stage.sample_weight` or by itself.
        """
        yield from ()

    def _net_params(self) -> dict[str, Any]:
        """Give further arguments of the skorch net: weight decay, parameter groups, schedules.

        "iterator_train__sampler" names the batches of a method that forms them in its own way; see `batches`.
        """
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
        with seeded(self._drawn_seed(), resolve_device(self.device)):
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
        self._built_from = self.get_params(deep=False)
        self.device_, self.network_ = device, prepare(network, device)  # the network last: other threads wait for it

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
            with alone():  # of several threads the first one builds
                if not hasattr(self, "network_"):
                    self.initialize()

    def _infer(self, rows, failures: Failures = RAISE) -> Iterator[tuple[int, Any]]:
        """Yield (row, output of the network for all views of the row), as they become known."""
        self._ensure_network()
        shared = hasattr(self.network_, "encode_reference")
        order = by_reference(rows, failures) if shared else ((row, None) for row in range(len(rows)))
        jobs = prepared(lambda item: self._job(rows, *item).pinned(self.device_), order, self._n_threads, failures)
        yield from self._run_network(jobs, failures)

    @property
    def _n_threads(self) -> int:
        """Threads that open images ahead of the network."""
        return n_threads(self.n_jobs, self.device_)

    def _run_network(self, jobs: Generator[Job, None, None], failures: Failures) -> Iterator[tuple[Any, Any]]:
        """Yield the name of each job and the output of the network."""
        let_compile(self.network_, self.compile)
        yield from infer(self.network_, jobs, device=self.device_, precision=self.precision, failures=failures)

    def _job(self, rows, row: int, reference: Any = None) -> Job:
        """Open one row; in threads."""
        x = self._open(rows, row)
        where = f"Row {rows.number(row)} of X ({size_of(x)})"
        with explained_memory(where):
            return Job(row, self._views(x), reference, where)

    def _infer_all(self, rows, failures: Failures = RAISE) -> Iterator[tuple[int, Any]]:
        """Run `_infer` behind a progress bar."""
        found = self._infer(rows, failures)
        return tqdm(found, total=len(rows), disable=not self.verbose, desc=type(self).__name__, unit="image")

    def _tabulate(self, X, function: Callable[[Any], Any], on_error: str = "raise", shape: tuple[int, ...] = ()):
        """Array (n, ...) of what a function makes of the network's output for each row of X; see `predict` on errors.

        `function` gives a float, or an array of one shape for all rows: `shape`, where no row can be used.
        """
        check_ready(self)
        failures, rows = Failures(on_error), self._rows(X)
        table, missing = None, np.ones(len(rows), dtype=bool)
        for row, output in self._infer_all(rows, failures):
            values = np.asarray(function(output))
            if table is None:
                table = np.full((len(rows), *values.shape), np.nan, values.dtype)
            table[row] = failures.finite(row, values)
            missing[row] = np.isnan(table[row]).any()
        failures.report(np.flatnonzero(missing), len(rows))
        return np.full((len(rows), *shape), np.nan) if table is None else table

    # Training ---------------------------------------------------------------------------------------------------------

    def _fit(self, X, y, sample_weight=None, **labels):
        """Train anew, or go on with `warm_start`; `labels` is what the `fit` of a method takes beside y."""
        resume = getattr(self, "warm_start", False)
        n_epochs = getattr(self, "max_epochs", 1)
        return self._learn(X, y, sample_weight, labels, n_epochs=n_epochs, resume=resume, finish=self._finish)

    def _partial_fit(self, X, y, sample_weight=None, **labels):
        """Go on for one epoch."""
        return self._learn(X, y, sample_weight, labels, n_epochs=1, resume=True, finish=self._finish_epoch)

    @with_callbacks
    def _learn(
        self,
        X,
        y,
        sample_weight,
        labels: dict[str, Any],
        *,
        n_epochs: int,
        resume: bool,
        finish: Callable[..., None],
    ):
        self._validate_params()
        self._check_combinations()
        rows = self._training_rows(X)
        rows.read = KeptImages()
        targets = self._check_targets(rows, y, **labels)
        if sample_weight is not None:
            kept, sample_weight = _checked_weight(sample_weight, len(rows))
            rows, targets = Subset(rows, kept), targets[kept]
        seed = self._drawn_seed()
        with seeded(seed, resolve_device(self.device)):
            if resume and hasattr(self, "n_iter_"):
                self._take_changes()
            else:
                self._build()
                self._start(targets, sample_weight)
            self.interrupted_ = True  # until the end is reached
            tasks = [EpochTasks(self, X, y, n_epochs)] if getattr(self, "_skl_callbacks", ()) else []
            for one in tasks:
                one.open()
            self._train(rows, targets, sample_weight, n_epochs, seed, tasks)
            finish(rows, targets, sample_weight)
            for one in tasks:
                one.close()
            self.interrupted_ = False
        return self

    def _take_changes(self) -> None:
        """Let parameters that were changed since the network was built count, or refuse them."""
        now = self.get_params(deep=False)
        if changed := changed_parameters(self._built_from, now):
            carry_over(self.network_, self._network, changed, type(self).__name__)
            self._built_from = now

    def _start(self, targets, sample_weight) -> None:
        """Learn from the labels what training needs to know of them."""

    def _finish(self, rows, targets, sample_weight) -> None:
        """Learn what can only be known after training."""

    def _finish_epoch(self, rows, targets, sample_weight) -> None:
        """Learn it after the epoch of `partial_fit`; a method whose `_finish` opens all rows again says how else."""
        self._finish(rows, targets, sample_weight)

    def _train(self, rows, targets, sample_weight, n_epochs: int, seed: int, tasks: list[EpochTasks]) -> None:
        """Change `network_` by gradient descent; a method without `max_epochs` learns here in its own way."""
        if not hasattr(self, "n_iter_"):
            self.n_iter_ = self.n_steps_ = 0
            self.loss_curve_: list[float] = []
        members = np.arange(len(rows))
        callbacks: list[skorch.callbacks.Callback] = [EpochSeed(seed, self.n_iter_), Record(self)]
        if getattr(self, "early_stopping", False):
            members, held_out = hold_out(rows, self.validation_fraction, seed)
            callbacks.append(HeldOutScore(self, self._held_out_score(rows, targets, held_out, sample_weight)))
        if self.n_iter_ == 0 and not hasattr(self, "net_"):
            weight = None if sample_weight is None else sample_weight[members]
            self._run_stages(Subset(rows, members), targets[members], weight, seed)
        let_compile(self.network_, self.compile)
        self.net_ = self._renewed_net()
        view = self._row_view(rows, members)
        state = {"seed": seed, "epoch": self.n_iter_}
        data = TrainingSet(view, self._encode_targets(targets), members, sample_weight, **state)
        self._run(self.net_, data, n_epochs, [*callbacks, *tasks], type(self).__name__)

    def _row_view(self, rows, members: np.ndarray) -> Callable[[int], torch.Tensor]:
        """Give the function of a row that makes its view for training, in threads; `members` are trained on."""
        return lambda row: self._train_view(self._open(rows, row))

    def _renewed_net(self) -> skorch.NeuralNet:
        """Make a net of the parameters as they are now, with what an earlier one has learned beside the network."""
        if not hasattr(self, "net_"):
            return self._net(self._training_module(self.network_), self._loss(), self.lr, self._net_params())
        module, loss, optimizer = self.net_.module_, self.net_.criterion_, self.net_.optimizer_
        if next(loss.parameters(), None) is None:  # a loss that learns stays; another one may have other parameters now
            loss = self._loss()
        net = self._net(module, loss, self.lr, self._net_params())
        net.optimizer_.state.update(optimizer.state)  # its memory of the weights, which are the same
        net.scaler_ = self.net_.scaler_
        return net

    def _run_stages(self, rows, targets, sample_weight, seed: int) -> None:
        """Run the stages before the ordinary training."""
        for number, stage in enumerate(self._stages_before(rows, targets, sample_weight), start=1):

            def view(row, stage=stage):
                x = self._open(stage.rows, row)
                return self._train_view(x) if stage.view is None else stage.view(x, stage.targets[row])

            net = self._net(stage.module, stage.loss, self.lr if stage.lr is None else stage.lr, stage.net_params)
            apart = seed + number * MOST_EPOCHS  # no epoch draws what one of another stage draws
            data = TrainingSet(view, stage.targets, np.arange(len(stage.rows)), stage.sample_weight, seed=apart)
            self._run(net, data, stage.n_epochs, [EpochSeed(apart, 0)], f"{type(self).__name__}, {stage.name}")

    def _run(self, net: skorch.NeuralNet, data: TrainingSet, n_epochs: int, callbacks: list, name: str) -> None:
        """Train for some epochs; an interruption reaches the caller."""
        n_batches = sum(_epoch_lengths(net, data, n_epochs))
        extra = [
            FiniteLoss(name),
            DeadNetwork(name),
            *callbacks,
            Progress(name, n_batches, getattr(self, "verbose", 0)),
        ]
        own_callbacks = net.callbacks_
        net.callbacks_ = own_callbacks + [(type(one).__name__, one) for one in [*extra, StopWhenAsked(callbacks)]]
        net.notify("on_train_begin", X=data, y=None)
        try:
            # Not `partial_fit`, which takes an interruption for an end.
            with contextlib.suppress(TrainingEnded):
                net.fit_loop(data, epochs=n_epochs)
        finally:
            net.notify("on_train_end", X=data, y=None)
            net.callbacks_ = own_callbacks
            if net.history and "train_loss" not in net.history[-1]:
                net.history.pop()  # an epoch that was not finished counts for no schedule
            self.network_.eval()

    def _net(self, module: nn.Module, loss: nn.Module, lr: float, params: dict[str, Any]) -> skorch.NeuralNet:
        return self.net_class(
            module=module,
            criterion=loss,
            lr=lr,
            batch_size=self.batch_size,
            train_split=None,
            device=str(self.device_),
            verbose=0,
            precision=self.precision,
            iterator_train=batches,
            iterator_train__n_threads=self._n_threads,
            iterator_train__device=str(self.device_),
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


def _epoch_lengths(net: skorch.NeuralNet, data: TrainingSet, n_epochs: int) -> Iterator[int]:
    """Number of batches of each of the next epochs."""
    first = data.epoch
    for data.epoch in range(first, first + n_epochs):
        yield len(net.get_iterator(data, training=True))
    data.epoch = first


def _checked_weight(sample_weight, n_rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows that count at all, and their weights; None when those are equal. A row that weighs nothing is left out."""
    weight = _check_sample_weight(sample_weight, np.empty((n_rows, 1)), dtype=np.float64)
    if (weight < 0).any() or weight.sum() <= 0:
        raise ValueError("sample_weight must be non-negative with a positive sum; leave out rows that must not count.")
    kept = np.flatnonzero(weight)
    return kept, None if np.ptp(weight[kept]) == 0 else weight[kept]


__all__ = ["ImageEstimator"]

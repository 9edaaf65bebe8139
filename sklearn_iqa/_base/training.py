# SPDX-License-Identifier: BSD-3-Clause
"""What a skorch net needs to train an estimator: the data in batches, and what happens around epochs."""

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import skorch.callbacks
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.dataset import unpack_data
from skorch.utils import TeeGenerator
from torch import nn
from torch.utils.data import BatchSampler, Dataset, Sampler
from tqdm.auto import tqdm

from sklearn_iqa._base.ahead import ahead, numbers_in
from sklearn_iqa._base.devices import DrawsFrom, computing, seed_generators
from sklearn_iqa._base.failures import user_depth

T_MAX = 50  # batches from the full learning rate of `CosineAnnealing` to zero, and as many back


class EvenBatches(BatchSampler):
    """Shuffled batches whose sizes differ by one at most: a last batch of one breaks BatchNorm and pair losses.

    Where batches of two leave one row over, it joins another batch.
    """

    def __init__(self, data, batch_size: int):
        self.data, self.batch_size = data, batch_size

    def __len__(self) -> int:
        n_batches = -(-len(self.data) // self.batch_size)
        return n_batches if self.batch_size == 1 else max(1, min(n_batches, len(self.data) // 2))

    def __iter__(self):
        order = drawn(torch.arange(len(self.data)), len(self.data), self.data.weight)
        for batch in order.tensor_split(len(self)):
            yield batch.tolist()


class Batches:
    """The batches of one epoch, made ahead of the network: views and targets, stacked.

    Batches are drawn from a seed of the epoch and every view from a seed of its own, so that all is the same however
    many threads make them, and whatever the network draws.

    Parameters
    ----------
    data : TrainingSet
        Rows.
    batch_sampler : iterable of lists
        Batches of an epoch: lists of places in `data`, or of tuples of places, see `TrainingSet`.
    n_threads : int, default=0
        Threads that make views; 0 for none but the caller's.
    device : str, default="cpu"
        Where batches are put: copies to a GPU are made while it computes.
    stack_class : type, default=None
        What batches are put together in: `Apart`, or None for `Together`.
    """

    def __init__(self, data, batch_sampler, n_threads: int = 0, device: str = "cpu", stack_class=None):
        self.data, self.batch_sampler, self.n_threads = data, batch_sampler, n_threads
        self.device, self.stack_class = torch.device(device), stack_class or Together

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self):
        with contextlib.closing(ahead(_put, self._items(), self.n_threads, lambda stack: stack.numbers)) as ready:
            for first in ready:
                stack = first.result()
                for _ in range(stack.n_rows - 1):
                    next(ready).result()
                yield stack.on(self.device)

    def _items(self) -> Iterator[tuple["Together", int, Any, int]]:
        """Draw the batches, and a seed for each row: stack, place there, place in the data, seed."""
        draws, batch_sampler = DrawsFrom(self.data.seed + self.data.epoch), iter(self.batch_sampler)
        while True:
            with draws:
                places = next(batch_sampler, None)
                seeds = () if places is None else torch.randint(2**63 - 1, (len(places),)).tolist()
            if places is None:
                return
            stack = self.stack_class(self.data, len(places), pinned=self.device.type == "cuda")
            yield from ((stack, number, *one) for number, one in enumerate(zip(places, seeds, strict=True)))


def _put(item: tuple["Together", int, Any, int]) -> "Together":
    stack, number, place, seed = item
    stack.put(number, place, seed)
    return stack


class Together:
    """Stacked views and targets of a batch, into which threads put one row after the other.

    Rows lie in their place as soon as they are made: a list of them, stacked in the end, would need twice the memory.
    """

    def __init__(self, data, n_rows: int, *, pinned: bool):
        self.data, self.n_rows, self.pinned = data, n_rows, pinned
        self.whole: Any = None
        self.lock = threading.Lock()

    @property
    def numbers(self) -> int:
        """How many numbers a row has."""
        return numbers_in(self.whole) // self.n_rows

    def put(self, number: int, place, seed: int) -> None:
        """Make the views of a place in the data, and copy them."""
        with DrawsFrom(seed):
            row = _mapped(torch.as_tensor, self.data[place])
        with self.lock:  # the first one makes room for all
            if self.whole is None:
                self.whole = _mapped(
                    lambda one: torch.empty((self.n_rows, *one.shape), dtype=one.dtype, pin_memory=self.pinned), row
                )
        _mapped(lambda one, whole: whole[number].copy_(_of_shape(one, whole.shape[1:])), row, self.whole)

    def on(self, device: torch.device):
        """Give the batch."""
        return _moved(self.whole, device)


class Apart(Together):
    """Views of a batch, row by row, and its stacked targets: no memory holds all views in one piece.

    For methods with many views of each image, whose network takes a `RowsApart` and puts parts of it on the device.
    """

    def put(self, number: int, place, seed: int) -> None:
        """Make the views of a place in the data."""
        with DrawsFrom(seed):
            views, target = _mapped(torch.as_tensor, self.data[place])
        with self.lock:
            if self.whole is None:
                self.whole = [None] * self.n_rows, torch.empty((self.n_rows, *target.shape), dtype=target.dtype)
            rows, targets = self.whole
        rows[number], targets[number] = views.pin_memory() if self.pinned else views, target

    @property
    def numbers(self) -> int:
        """How many numbers a row has."""
        return numbers_in(next(row for row in self.whole[0] if row is not None))

    def on(self, device: torch.device):
        """Give the batch, the targets on the device."""
        rows, targets = self.whole
        return RowsApart(rows), _moved(targets, device)


class RowsApart:
    """Views of the rows of a batch: its length, and one tensor after the other, where they were made."""

    def __init__(self, rows: list[torch.Tensor]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)


def _moved(batch, device: torch.device):
    return batch if device.type == "cpu" else _mapped(lambda one: one.to(device, non_blocking=True), batch)


def _mapped(function, *rows):
    """Apply a function to the tensors of tuples or dicts of tensors."""
    first = rows[0]
    if isinstance(first, dict):
        return {key: _mapped(function, *(row[key] for row in rows)) for key in first}
    if isinstance(first, tuple | list):
        make = getattr(type(first), "_make", tuple)
        return make(_mapped(function, *ones) for ones in zip(*rows, strict=True))
    return function(*rows)


def _of_shape(view: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if view.shape != shape:
        raise ValueError(
            f"The views of a batch have the shapes {tuple(shape)} and {tuple(view.shape)}, but must have one."
        )
    return view


def batches(
    data,
    batch_size: int,
    *,
    sampler: Callable[..., Sampler] = EvenBatches,
    n_threads=0,
    device="cpu",
    stack_class=None,
    **facts,
):
    """Give the batches of all epochs; a method with batches of its own names their class at "iterator_train__sampler".

    That is called with `data`, `batch_size` and what else stands behind "iterator_train__". Batches are lists of places
    in `data`, or of tuples of places, see `TrainingSet`. Each epoch is drawn when it begins and may have its own number
    of batches: `data.epoch` tells which one it is. Draws are by torch, whose generator is that of the epoch meanwhile;
    what must be the same in all epochs is drawn from `data.seed`.
    """
    return Batches(data, sampler(data, batch_size, **facts), n_threads, device, stack_class)


def drawn(places: torch.Tensor, n: int, weight: torch.Tensor | None) -> torch.Tensor:
    """Draw n of some places (k,) in a `TrainingSet`, from torch's generator.

    Without weights each comes as often as the others, in a new order each time round; `weight` holds those of the whole
    set, and draws with replacement.
    """
    if weight is not None:
        return places[torch.multinomial(weight[places], n, replacement=True)]
    rounds = [torch.randperm(len(places)) for _ in range(-(-n // len(places)))]
    return places[torch.cat(rounds)[:n]]


class Stage(NamedTuple):
    """What comes before the ordinary training of a method: a teacher, a pretraining, the head alone.

    Parameters
    ----------
    name : str
        What the progress bar calls it.
    module : nn.Module
        What is trained: the network, a part of it, or a module around it.
    loss : nn.Module
        (output of the module, target) -> number.
    n_epochs : int
        Passes over the rows.
    rows : sequence
        Rows as `check_images` or `check_tuples` give them, or a `Subset` of them.
    targets : ndarray of shape (n, ...)
        What the loss compares with, one entry per row.
    view : callable, default=None
        (images of the row, target) -> tensor; None takes the method's `_train_view`.
    lr : float, default=None
        Learning rate; None takes the method's `lr`.
    net_params : dict, default={}
        Further arguments of the skorch net, in place of the method's `_net_params`.
    sample_weight : ndarray of shape (n,), default=None
        How often each of the rows is drawn, relative to the others; None takes each once per epoch.
    """

    name: str
    module: nn.Module
    loss: nn.Module
    n_epochs: int
    rows: Any
    targets: np.ndarray
    view: Callable | None = None
    lr: float | None = None
    net_params: dict[str, Any] = {}
    sample_weight: np.ndarray | None = None


class TrainingSet(Dataset):
    """Views of rows and their targets.

    An index is a place in `members`, or a tuple of places: a pair, whose views and targets are stacked.

    Parameters
    ----------
    view : callable
        Number of the row -> tensor.
    targets : array-like of shape (n_rows, ...)
        One target per row.
    members : ndarray of shape (n,)
        Rows that are trained on.
    sample_weight : ndarray of shape (n_rows,), default=None
        How often each row is drawn.
    seed : int, default=0
        Seed of what a sampler draws for all epochs at once.
    epoch : int, default=0
        Number of the epoch to be drawn, over all calls of fit; `EpochSeed` sets it.
    """

    def __init__(self, view: Callable, targets, members: np.ndarray, sample_weight=None, *, seed=0, epoch=0):
        self.view, self.members = view, members
        if not isinstance(targets, torch.Tensor):
            targets = torch.from_numpy(np.array(targets, dtype=np.float32))  # a copy: pandas gives what is read-only
        self.targets = targets.float()
        self.weight = None if sample_weight is None else torch.as_tensor(sample_weight[members])
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i):
        if isinstance(i, tuple):
            views, targets = zip(*(self[place] for place in i), strict=True)
            return torch.stack(views), torch.stack(targets)
        row = int(self.members[i])
        return self.view(row), self.targets[row]


class Net(skorch.NeuralNet):
    """A skorch net whose module computes with numbers of some precision; the loss sees float32.

    Parameters
    ----------
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        As in the estimators. Gradients of float16 are scaled while they are computed, as they would vanish.
    """

    def __init__(self, *args, precision="float32", **kwargs):
        super().__init__(*args, **kwargs)
        self.precision = precision

    def initialize_optimizer(self, *args, **kwargs):
        """Make the scaler of gradients with the optimiser."""
        super().initialize_optimizer(*args, **kwargs)
        self.scaler_ = torch.amp.GradScaler(torch.device(self.device).type, enabled=self.precision == "float16")
        return self

    def infer(self, x, **fit_params):
        """Run the module."""
        with computing(torch.device(self.device), self.precision):
            # Skorch would make one tensor of rows that are kept apart.
            output = self.module_(x) if isinstance(x, RowsApart) else super().infer(x, **fit_params)
        return output if self.precision == "float32" else _mapped(_in_float32, output)

    def train_step_single(self, batch, **fit_params):
        """Compute the gradients of a batch."""
        if not self.scaler_.is_enabled():
            return super().train_step_single(batch, **fit_params)
        self._set_training(True)
        views, targets = unpack_data(batch)
        output = self.infer(views, **fit_params)
        loss = self.get_loss(output, targets, X=views, training=True)
        self.scaler_.scale(loss).backward()
        return {"loss": loss, "y_pred": output}

    def train_step(self, batch, **fit_params):
        """Take a step, unless scaled gradients overflow: the scale then falls."""
        if not self.scaler_.is_enabled():
            return super().train_step(batch, **fit_params)
        self._zero_grad_optimizer()
        step = self.train_step_single(batch, **fit_params)
        self.scaler_.unscale_(self.optimizer_)
        named = TeeGenerator(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()
        return step


def _in_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


class EpochSeed(skorch.callbacks.Callback):
    """Seeds every epoch by its number, so that going on after a pause draws what one long run would draw."""

    def __init__(self, seed: int, n_before: int):
        self.seed, self.n_before = seed, n_before

    def on_train_begin(self, net, **kwargs):
        """Start to count where an earlier run ended."""
        self.epoch_ = self.n_before

    def on_epoch_begin(self, net, dataset_train: Any = None, **kwargs):
        """Seed torch's generators, and tell the data which epoch it is."""
        seed_generators(self.seed + self.epoch_, torch.device(net.device))
        dataset_train.epoch = self.epoch_
        self.epoch_ += 1


class CosineAnnealing(skorch.callbacks.Callback):
    """Learning rate of step t, counted over all calls of fit: lr (1 + cos(pi t / 50)) / 2.

    Parameters
    ----------
    n_before : int
        Steps before those of the net.
    """

    def __init__(self, n_before: int):
        self.n_before = n_before

    def on_batch_begin(self, net, **kwargs):
        """Set the rate; the history has a place for this batch already."""
        t = self.n_before + sum(len(batches) for batches in net.history[:, "batches"]) - 1
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr * (1 + math.cos(math.pi * t / T_MAX)) / 2


class TrainingEnded(Exception):
    """Ends training when a callback asked for it."""


class FiniteLoss(skorch.callbacks.Callback):
    """Refuses to go on when the loss of an epoch is no finite number."""

    def __init__(self, name: str):
        self.name = name

    def on_epoch_end(self, net, **kwargs):
        """Check the mean loss."""
        loss = net.history[-1, "train_loss"]
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss of {self.name} became {loss} in epoch {len(net.history)}; lower lr (now {net.lr:g}) or "
                "check the labels."
            )


class DeadNetwork(skorch.callbacks.Callback):
    """Warns when an epoch gave one and the same output for all rows, as behind a ReLU that lets nothing through."""

    def __init__(self, name: str):
        self.name = name

    def on_train_begin(self, net, **kwargs):
        """Warn once."""
        self.warned_ = False

    def on_epoch_begin(self, net, **kwargs):
        """Start without an output."""
        self.first_, self.n_rows_, self.equal_ = None, 0, True

    def on_batch_end(self, net, training=False, y_pred=None, **kwargs):
        """Compare with the first output of the epoch, on the device: to look at each batch would make it wait."""
        output = y_pred
        while isinstance(output, tuple):
            output = output[0]
        if not (training and isinstance(output, torch.Tensor) and output.ndim):
            return
        output = output.detach()
        self.first_ = output[:1] if self.first_ is None else self.first_
        self.n_rows_ += len(output)
        self.equal_ = self.equal_ & (output == self.first_).all()

    def on_epoch_end(self, net, **kwargs):
        """Say it."""
        if self.n_rows_ < 2 or self.warned_ or not self.equal_:
            return
        self.warned_ = True
        warnings.warn(
            f"All outputs of {self.name} were {self.first_.flatten()[0].item():g} in epoch {len(net.history)}, "
            "whatever the image: training has died and will not recover; fit anew with a lower lr "
            f"(now {net.lr:g}) or another random_state.",
            ConvergenceWarning,
            stacklevel=user_depth(),
        )


class Record(skorch.callbacks.Callback):
    """Keeps what an estimator says of its training true after every epoch, however training ends."""

    def __init__(self, estimator):
        self.estimator = estimator

    def on_batch_end(self, net, training=False, **kwargs):
        """Count the step."""
        self.estimator.n_steps_ += bool(training)

    def on_epoch_end(self, net, **kwargs):
        """Count the epoch and note its loss."""
        self.estimator.n_iter_ += 1
        self.estimator.loss_curve_.append(net.history[-1, "train_loss"])


class HeldOutScore(skorch.callbacks.Callback):
    """Scores held-out rows after every epoch, asks to stop when that no longer helps, brings back the best weights."""

    def __init__(self, estimator, score: Callable[[], float]):
        self.estimator, self.score = estimator, score

    def on_train_begin(self, net, **kwargs):
        """Start without a best, behind the scores of an earlier run that goes on."""
        self.estimator.validation_scores_ = getattr(self.estimator, "validation_scores_", [])
        self.best_, self.best_epoch_, self.stopped_ = -np.inf, 0, False
        self.best_state_ = None

    def on_epoch_end(self, net, **kwargs):
        """Score, and remember the weights when they are the best so far."""
        estimator, score = self.estimator, self.score()
        estimator.validation_scores_.append(score)
        if score > self.best_:
            self.best_ = score
            self.best_state_ = {name: tensor.clone() for name, tensor in estimator.network_.state_dict().items()}
            self.best_epoch_ = len(estimator.validation_scores_)
        self.stopped_ = len(estimator.validation_scores_) - self.best_epoch_ >= estimator.n_iter_no_change

    def on_train_end(self, net, **kwargs):
        """Bring back the best weights."""
        if self.best_state_ is not None:
            self.estimator.network_.load_state_dict(self.best_state_)


class Subset:
    """Some of the rows; errors name the places that they have in X."""

    def __init__(self, rows, members):
        self.rows, self.members = rows, members

    def __len__(self):
        return len(self.members)

    def __getitem__(self, i):
        return self.rows[int(self.members[i])]

    def number(self, i: int) -> int:
        """Give the place of a row in X."""
        return self.rows.number(int(self.members[i]))

    def same(self, i: int):
        """Give a key that rows of equal content share."""
        return self.rows.same(int(self.members[i]))


def hold_out(rows, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and held out, always alike for one seed; pairs that share a reference stay together.

    The generator is its own: training that goes on must not see what was held out before.
    """
    groups = [rows.same(row) for row in range(len(rows))]
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).numpy()
    n_held_out = max(1, round(fraction * len(names)))
    chosen = np.isin([names[group] for group in groups], order[:n_held_out])
    if chosen.all() or chosen.sum() < 2:
        raise ValueError(
            f"early_stopping with validation_fraction={fraction} holds out {chosen.sum()} of {len(rows)} rows, but at "
            "least 2 must be held out and some must remain; give more rows (pairs that share a reference count as one) "
            "or another fraction."
        )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


class Progress(skorch.callbacks.Callback):
    """A progress bar over the batches of all epochs."""

    def __init__(self, name: str, n_batches: int, verbose):
        self.name, self.n_batches, self.verbose = name, n_batches, verbose

    def on_train_begin(self, net, **kwargs):
        """Open the bar."""
        self.bar_ = tqdm(total=self.n_batches, disable=not self.verbose, desc=f"{self.name}.fit", unit="batch")

    def on_batch_end(self, net, **kwargs):
        """Move on by one batch."""
        self.bar_.update()

    def on_epoch_end(self, net, **kwargs):
        """Show epoch and loss."""
        self.bar_.set_postfix(epoch=len(net.history), loss=f"{net.history[-1, 'train_loss']:.4g}")

    def on_train_end(self, net, **kwargs):
        """Close the bar."""
        self.bar_.close()


class StopWhenAsked(skorch.callbacks.Callback):
    """Ends training when another callback has set `stopped_`; stands last, so that all see the epoch's end."""

    def __init__(self, callbacks):
        self.callbacks = callbacks

    @property
    def stopped_(self) -> bool:
        """Whether a callback asked to stop."""
        return any(getattr(callback, "stopped_", False) for callback in self.callbacks)

    def on_epoch_end(self, net, **kwargs):
        """End when one of them asks for it."""
        if self.stopped_:
            raise TrainingEnded

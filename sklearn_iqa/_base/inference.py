# SPDX-License-Identifier: BSD-3-Clause
"""Views -> network -> outputs: batches of equal size, in memory that does not grow with the number of images."""

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._base.ahead import ahead
from sklearn_iqa._base.devices import computing
from sklearn_iqa._base.failures import ADVICE, RAISE, Failures, is_out_of_memory

# Pixels that go through a network at once. On a CPU larger batches cost memory and time: one image of 512 x 512. A GPU
# is busy with some eighty crops of 224 x 224.
PIXELS_PER_PASS = {"cpu": 2**18, "mps": 2**21, "cuda": 2**22}
# Larger views go through networks in tiles where the score is exact so: of the maps of two megapixels, some gigabytes.
PIXELS_AT_ONCE = 2**21
# Numbers that wait for company of their own size before a pass is made without: bounds memory for mixed sizes.
NUMBERS_IN_WAIT = 2**24


class Job(NamedTuple):
    """What goes through a network for one row."""

    name: Hashable
    views: torch.Tensor  # (v, ...), of one shape
    reference: Hashable = None  # equal for rows whose views hold the same reference
    where: str = "An image"  # how sentences call it

    def pinned(self, device: torch.device) -> "Job":
        """Give the job with its views where a GPU fetches them while the processor does other things."""
        return self._replace(views=self.views.pin_memory()) if device.type == "cuda" else self


def prepared(
    make: Callable[[Any], Any], items: Iterable, n_threads: int, failures: Failures
) -> Generator[Any, None, None]:
    """What a function makes of each item, in their order, in threads ahead of the network; failures are left out.

    `make` takes an item and gives a job or several, and may raise the error of a row.
    """
    with contextlib.closing(ahead(make, items, n_threads)) as futures:
        for future in futures:
            made = failures.attempt(future.result)
            if made is not None:
                yield made


def by_reference(rows, failures: Failures = RAISE) -> list[tuple[int, Hashable]]:
    """(row, key of its reference) of all rows, those that share a reference one behind the other."""
    rows_of: dict[Hashable, list[int]] = {}
    for row in range(len(rows)):
        key = failures.attempt(rows.same, row)
        if key is not None:
            rows_of.setdefault(key, []).append(row)
    return [(row, reference) for reference, members in rows_of.items() for row in members]


def infer(
    network: nn.Module,
    jobs: Generator[Job, None, None],
    *,
    device: torch.device,
    precision: str = "float32",
    failures: Failures = RAISE,
) -> Iterator[tuple[Any, Any]]:
    """Run a network over the views of many images.

    A network with the methods `encode_reference` and `compare` encodes a reference once for all rows that follow each
    other and share it. One with the method `in_tiles` as well sees views of more than two megapixels by it.
    `pixels_per_pass`, a dict, replaces `PIXELS_PER_PASS` of kinds of devices on which a network likes larger passes.

    Parameters
    ----------
    network : nn.Module
        Takes views (n, ...), returns a tensor (n, ...) or a named tuple of them.
    jobs : generator of Job
        Consumed as needed, and closed in the end.
    device : torch.device
        Where the network is.
    precision : str, default="float32"
        Torch's name of the numbers that it computes with, as far as autocasting goes.
    failures : Failures
        Notes jobs that memory does not suffice for, and outputs that are not finite.

    Yields
    ------
    name, output
        As they become known: what the network gives for all views of the row, on the CPU, as float32.
    """
    network.eval()
    passes = (_SharedReferences if hasattr(network, "encode_reference") else _Passes)(network, device, precision)

    begun: deque[tuple[list[Job], Any]] = deque()
    n_late = int(device.type == "cuda")  # it computes on while the host makes ready what it has next

    def run(group, n_views):
        begun.extend(_outputs(passes, group, n_views, failures))
        yield from finished(n_late)

    def finished(n_left: int = 0):
        while len(begun) > n_left:
            group, output = begun.popleft()
            output = _map(lambda tensor: tensor.cpu(), output)
            n_views = len(group[0].views)
            for number, job in enumerate(group):
                own = slice(number * n_views, (number + 1) * n_views)
                found = _map(lambda tensor, own=own: tensor[own], output)
                if _is_finite(found):
                    yield job.name, found
                else:
                    failures.note(ValueError(f"{job.where} makes the network give NaN or infinity; {ADVICE}."))

    waiting: dict[tuple, list[Job]] = {}
    held = 0
    with contextlib.closing(jobs):
        for job in jobs:
            shape = tuple(job.views.shape)
            group = waiting.setdefault(shape, [])
            group.append(job)
            held += job.views.numel()
            n_views = _views_per_pass(network, job.views, device)
            if len(group) >= max(1, n_views // len(job.views)):
                held -= len(group) * job.views.numel()
                yield from run(waiting.pop(shape), n_views)
            elif held > NUMBERS_IN_WAIT:
                held = 0
                for group in waiting.values():
                    yield from run(group, _views_per_pass(network, group[0].views, device))
                waiting.clear()
    for group in waiting.values():
        yield from run(group, _views_per_pass(network, group[0].views, device))
    yield from finished()


def weighted_map(pixels: torch.Tensor, size: int, positions: Callable, shape: tuple[int, int]) -> np.ndarray:
    """Scores of positions laid over an image, the mean by their weights where crops overlap.

    Parameters
    ----------
    pixels : Tensor of shape (..., 3, height, width)
        The image, or images at the same place; no side is shorter than `size`.
    size : int
        Side of the crops, which cover the image: one more per axis than would do, so that they overlap.
    positions : callable
        Crop (..., 3, size, size) -> score and weight of each of its positions, both (1, rows, columns).
    shape : tuple of int
        Height and width of the map: those of the image before it was enlarged to the size of a crop.

    Returns
    -------
    scores : ndarray of the given shape
    """
    sides = pixels.shape[-2:]
    weighted, total = torch.zeros(2, *sides)
    counts = (1 + math.ceil(side / size) * (side > size) for side in sides)
    starts = [np.linspace(0, side - size, n).astype(int) for side, n in zip(sides, counts, strict=True)]
    for top, left in itertools.product(*starts):
        place = (..., slice(top, top + size), slice(left, left + size))
        with torch.inference_mode():
            maps = torch.stack(positions(pixels[place]))
        scores, weights = F.interpolate(maps.float().cpu(), (size, size))[:, 0]  # nearest
        weighted[place] += scores * weights
        total[place] += weights
    mean = weighted / total.clamp_min(torch.finfo(total.dtype).tiny)  # a sigmoid may underflow to zero
    return F.interpolate(mean[None, None], shape, mode="area")[0, 0].numpy()


def _views_per_pass(network: nn.Module, views: torch.Tensor, device: torch.device) -> int:
    pixels = max(1, views[0].numel() // 3)
    own: Any = getattr(network, "pixels_per_pass", {})
    return max(1, own.get(device.type, PIXELS_PER_PASS[device.type]) // pixels)


def _outputs(passes: "_Passes", group: list[Job], n_per_pass: int, failures: Failures) -> list[tuple[list[Job], Any]]:
    """Jobs of one shape and their output together; where memory does not suffice for all, one job after the other."""
    try:
        return [(group, passes(group, n_per_pass))]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, which would keep the tensors of the failed pass alive.
    if len(group) > 1:
        return [pair for job in group for pair in _outputs(passes, [job], n_per_pass, failures)]
    (job,) = group
    if min(n_per_pass, len(job.views)) > 1:
        return _outputs(passes, [job], 1, failures)
    failures.note(MemoryError(f"{job.where} needs more memory than there is, for one view alone; shrink the image."))
    return []


def _channels_last(views: torch.Tensor) -> torch.Tensor:
    """Give views (..., 3, h, w) in the layout of the networks, see `devices.prepare`; others as they are."""
    if views.ndim < 4:
        return views
    return views.movedim(-3, -1).contiguous().movedim(-1, -3)


def _is_finite(output: Any) -> bool:
    if isinstance(output, torch.Tensor):
        return bool(output.isfinite().all())
    return all(map(_is_finite, output))


class _Passes:
    """Runs a network over jobs whose views have one shape, a number of views at a time."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str):
        self.network, self.device, self.precision = network, device, precision

    def __call__(self, group: list[Job], n_per_pass: int) -> Any:
        """Give the outputs for all views, one job's behind the other's, on the device and as float32."""
        keys = [(job.reference, number) for job in group for number in range(len(job.views))]
        with torch.inference_mode(), computing(self.device, self.precision):
            each = [job.views.to(self.device, non_blocking=True) for job in group]
            views = each[0] if len(each) == 1 else torch.cat(each)
            parts = [
                self.output(_channels_last(views[start : start + n_per_pass]), keys[start : start + n_per_pass])
                for start in range(0, len(views), n_per_pass)
            ]
            return _map(lambda *tensors: torch.cat(tensors).float(), *parts)

    def output(self, views, keys: list[tuple[Hashable, int]]):
        return self.network(views)


class _SharedReferences(_Passes):
    """Keeps the encoded views of the last reference, for the rows to come."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str):
        super().__init__(network, device, precision)
        self.kept: dict[tuple[Hashable, int], Any] = {}

    def output(self, views, keys):
        if hasattr(self.network, "in_tiles") and views.shape[-2:].numel() > PIXELS_AT_ONCE:
            return self.network.in_tiles(views)
        places = {key: place for place, key in enumerate(keys) if key not in self.kept}
        if places:
            new = slice(None) if len(places) == len(keys) else list(places.values())  # a list copies
            encoded = self.network.encode_reference(views[new, 1])
            for number, key in enumerate(places):
                self.kept[key] = _map(lambda tensor, number=number: tensor[number], encoded)
        if len(places) < len(keys):  # otherwise `encoded` is in order already
            encoded = _map(lambda *tensors: torch.stack(tensors), *(self.kept[key] for key in keys))
        self.kept = {key: value for key, value in self.kept.items() if key[0] == keys[-1][0]}
        return self.network.compare(views[:, 0], encoded)


def _map(function, *outputs):
    """Apply a function to outputs, be they tensors or tuples, named or not, of tensors."""
    if isinstance(outputs[0], tuple):
        make = getattr(type(outputs[0]), "_make", tuple)
        return make(function(*tensors) for tensors in zip(*outputs, strict=True))
    return function(*outputs)

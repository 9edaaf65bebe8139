# SPDX-License-Identifier: BSD-3-Clause
"""Views -> network -> outputs: batches of equal size, in memory that does not grow with the number of images."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

Name = TypeVar("Name", bound=Hashable)
# Pixels that go through a network at once. On a CPU larger batches cost memory and time: one image of 512 x 512.
PIXELS_PER_PASS = {"cpu": 2**18, "mps": 2**22, "cuda": 2**24}
# Numbers that wait for company of their own size before a pass is made without: bounds memory for mixed sizes.
NUMBERS_IN_WAIT = 2**24


def infer(
    network: nn.Module, jobs: Iterable[tuple[Name, torch.Tensor]], *, batch_size: int, device: torch.device
) -> Iterator[tuple[Name, Any]]:
    """Run a network over the views of many images.

    Parameters
    ----------
    network : nn.Module
        Takes views (n, ...), returns a tensor (n, ...) or a named tuple of them.
    jobs : iterable of (name, views)
        `views` (v, ...) are all views of one image; consumed as needed.
    batch_size : int
        The most views in one pass; fewer when they are large.
    device : torch.device
        Where the network is.

    Yields
    ------
    name, output
        As they become known: what the network gives for all views of the image, on the CPU, as float32.
    """
    network.eval()
    waiting: dict[tuple, list] = {}
    held = 0
    for job in jobs:
        shape = tuple(job[1].shape)
        group = waiting.setdefault(shape, [])
        group.append(job)
        held += job[1].numel()
        n_views = _views_per_pass(job[1], batch_size, device)
        if len(group) >= max(1, n_views // len(job[1])):
            held -= len(group) * job[1].numel()
            yield from _run(network, waiting.pop(shape), n_views, device)
        elif held > NUMBERS_IN_WAIT:
            held = 0
            for group in waiting.values():
                yield from _run(network, group, n_views, device)
            waiting.clear()
    for group in waiting.values():
        yield from _run(network, group, _views_per_pass(group[0][1], batch_size, device), device)


def _views_per_pass(views: torch.Tensor, batch_size: int, device: torch.device) -> int:
    pixels = max(1, views[0].numel() // 3)
    return max(1, min(batch_size, PIXELS_PER_PASS[device.type] // pixels))


def _run(network, group, n_per_pass: int, device) -> Iterator[tuple[Name, Any]]:
    views = torch.cat([views for _, views in group])
    with torch.inference_mode():
        parts = [network(part.to(device)) for part in views.split(n_per_pass)]
    output = _map(lambda *tensors: torch.cat(tensors).float().cpu(), *parts)
    n_views = len(group[0][1])
    for number, (name, _) in enumerate(group):
        start = number * n_views
        yield name, _map(lambda tensor, start=start: tensor[start : start + n_views], output)


def _map(function, *outputs):
    """Apply a function to outputs, be they tensors or named tuples of tensors."""
    if isinstance(outputs[0], tuple):
        return type(outputs[0])(*(function(*tensors) for tensors in zip(*outputs, strict=True)))
    return function(*outputs)

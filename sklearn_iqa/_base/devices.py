# SPDX-License-Identifier: BSD-3-Clause
"""Where networks run, and from which seed."""

import contextlib

import torch
from torch import nn


@contextlib.contextmanager
def seeded(seed: int):
    """Run a block from its own seed and leave torch's global generators as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def resolve_device(device: str) -> torch.device:
    """'auto' -> the first of cuda, mps, cpu that is there; any other name is checked."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch built without CUDA asserts
        raise ValueError(f"device={device!r} is not usable on this machine; take 'auto' or 'cpu'.") from error


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels-last convolutions are faster on every device that we run on, and exact to rounding.
    return network.to(device).to(memory_format=torch.channels_last).eval()

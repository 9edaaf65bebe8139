# SPDX-License-Identifier: BSD-3-Clause
"""Where networks run, and from which seed."""

import contextlib
import os
import threading
from types import ModuleType
from typing import ClassVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
# Initialisation and dropout draw from torch's generators, of which a process has one for each device: what draws from a
# seed of its own has them for itself meanwhile. In threads such blocks wait for each other; inference needs none.
_turn = threading.RLock()


def _new_turn() -> None:
    """A forked process has no thread that would give the turn back."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_new_turn)


def alone() -> threading.RLock:
    """Give the turn of the process, to be held by `with`: one thread at a time builds a network or trains."""
    return _turn


@contextlib.contextmanager
def seeded(seed: int, device: torch.device = CPU):
    """Run a block from its own seed, one block of the process at a time, and leave torch's generators as they were.

    Parameters
    ----------
    seed : int
        For the generator of the CPU, and that of `device`.
    device : torch.device, default=CPU
        Where the block computes; generators of other devices stay untouched.
    """
    with alone():
        backend = _backend(device)
        of_cpu, of_device = torch.get_rng_state(), backend.get_rng_state() if backend else None
        seed_generators(seed, device)
        try:
            yield
        finally:
            torch.set_rng_state(of_cpu)
            if backend:
                backend.set_rng_state(of_device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generator of the CPU and that of a device; `torch.manual_seed` would reach out to all others."""
    torch.default_generator.manual_seed(seed)
    if backend := _backend(device):
        backend.manual_seed(seed)


class DrawsFrom(TorchFunctionMode):
    """Context in which a thread draws from a generator of its own wherever torch would take that of the process.

    As `with torch.device(...)` does with the device, it hands the generator to the functions that torch is called by,
    those of torchvision's transforms among them; other threads notice nothing.

    Parameters
    ----------
    seed : int
        Of the generator.
    """

    FUNCTIONS: ClassVar[frozenset] = frozenset(
        {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial}
        | {getattr(torch.Tensor, name) for name in ("bernoulli", "multinomial")}
        | {getattr(torch.Tensor, f"{name}_") for name in ("bernoulli", "exponential", "normal", "random", "uniform")}
    )

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func in self.FUNCTIONS and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


def _backend(device: torch.device) -> ModuleType | None:
    """The module of torch whose functions read and seed the generator of the current device of its kind."""
    return None if device.type == "cpu" else getattr(torch, device.type)


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


def computing(device: torch.device, precision: str):
    """Context in which networks on a device compute with numbers of a precision: torch's name of a dtype."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def let_compile(network: nn.Module, on: bool) -> None:
    """Let `torch.compile` make what a network runs from its next call on, or undo it.

    Of a network that encodes references by themselves it is these two methods, which inference calls.
    """
    if on == (network._compiled_call_impl is not None):
        return
    if on:
        network.compile()
    else:
        network._compiled_call_impl = None
    for name in ("encode_reference", "compare"):
        if on and hasattr(network, name):
            setattr(network, name, torch.compile(getattr(network, name)))
        elif name in vars(network):
            delattr(network, name)


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels-last convolutions are faster on every device that we run on, and exact to rounding.
    return network.to(device).to(memory_format=torch.channels_last).eval()

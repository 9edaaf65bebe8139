# SPDX-License-Identifier: BSD-3-Clause
"""Going on with training under changed parameters: which can change, and what of a network depends on them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from sklearn_iqa._base.devices import seeded

# Parameters that are read at every call of `fit`, whatever the method.
FREE = {
    *("batch_size", "max_epochs", "lr", "warm_start", "early_stopping", "validation_fraction", "n_iter_no_change"),
    *("random_state", "verbose", "precision", "compile", "n_jobs"),
}
PLAIN = (bool, int, float, str, tuple, type(None))


def changed_parameters(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """Names of the parameters that were changed since a network was built, apart from those that are always free."""
    return {name for name in now if name not in FREE and repr(now[name]) != repr(before[name])}


def carry_over(network: nn.Module, build: Callable[[], nn.Module], changed: set[str], name: str) -> None:
    """Let a trained network take what changed parameters say of it: which of its weights are trained.

    Parameters
    ----------
    network : nn.Module
        Trained; only `requires_grad` of its parameters is changed.
    build : callable
        Builds the network of the new parameters.
    changed : set of str
        The changed parameters, for the message.
    name : str
        Of the estimator, for the message.

    Raises
    ------
    ValueError
        When a changed parameter is one that the network, its weights or its place were made by.
    """
    loaded = {one for one in changed if one == "device" or one.endswith("weights")}
    if not loaded:
        new = _without_weights(build)
        if list(_blueprint(new)) == list(_blueprint(network)):
            own = dict(network.named_parameters())
            for key, parameter in new.named_parameters():
                own[key].requires_grad_(parameter.requires_grad)
            return
    listed = ", ".join(sorted(loaded or changed))
    raise ValueError(
        f"{name} was built with other values of {listed}, which cannot change while training goes on; set them back, "
        "or train anew with fit and warm_start=False."
    )


def _without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """A network of no storage, where its constructor reads no number out of a tensor."""
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):
        with seeded(0):
            return build()


def _blueprint(network: nn.Module) -> Iterator[tuple]:
    """What a network is made of, but the values and the states of training of its weights."""
    for name, module in network.named_modules():
        # Attributes of one underscore and `training` say how a module stands, not what it is.
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, PLAIN) and not key.startswith("_") and key != "training"
        }
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        yield name, type(module), module.extra_repr(), plain, [(key, tuple(tensor.shape)) for key, tensor in tensors]

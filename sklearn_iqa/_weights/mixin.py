# SPDX-License-Identifier: BSD-3-Clause
"""Weights as a parameter of an estimator: `weights=` of a file or a published name, and `save_weights`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_iqa._weights import pretrained, state_dicts


class WeightsMixin:
    """Loads and saves the weights of an estimator's network."""

    key_map: ClassVar[tuple] = ()  # official tensor names -> ours, see `state_dicts.rename_keys`
    published: ClassVar[tuple[pretrained.PublishedWeights, ...]] = ()

    weights: Any
    verbose: Any
    network_: nn.Module
    _ensure_network: Callable[[], None]
    _load_backbone: Callable[[nn.Module], None]
    get_params: Callable[..., dict[str, Any]]

    def save_weights(self, path) -> None:
        """Write the network's weights as a `.safetensors` file that `weights=path` reads.

        Parameters
        ----------
        path : path
            A file name that ends in `.safetensors`; replaced when it exists. `~` is the user's folder.
        """
        check_is_fitted(self)
        self._ensure_network()
        state_dicts.save_state(self.network_, path, metadata={"estimator": type(self).__name__})

    @property
    def _chosen(self) -> SimpleNamespace:
        """The parameters; those left at their defaults are what belongs to published `weights`."""
        parameters, entry = self.get_params(deep=False), self._entry()
        followed = {} if entry is None else entry.parameters
        defaults = _defaults(type(self)) if followed else {}  # type: ignore[arg-type]  # classes are hashable
        parameters |= {name: value for name, value in followed.items() if _alike(parameters[name], defaults[name])}
        return SimpleNamespace(**parameters)

    def _entry(self) -> pretrained.PublishedWeights | None:
        """The entry that `weights` names; None for a file or no weights."""
        return pretrained.find_published(str(self.weights), self.published)

    def _renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state in any published layout -> under the names of the network."""
        return state_dicts.rename_keys(state, self.key_map)

    def _load_weights(self, network: nn.Module) -> None:
        """Load `weights` into a new network, strictly: all of it, or its trained parts where a file holds no more.

        A network whose backbones are published apart names its other parts in `trained`.
        """
        entry, origin = self._entry(), f"weights={str(self.weights)!r}"
        if entry is None:
            state = state_dicts.read_state(self._weights_path())
        else:
            self._check_parameters(entry)
            state = pretrained.read_published(entry, verbose=self.verbose)
        state, parts = self._renamed(state), getattr(network, "trained", ())
        if parts and {name.partition(".")[0] for name in state} <= set(parts):
            trained = TrainedParts({name: network.get_submodule(name) for name in parts})
            state_dicts.load_state(trained, state, origin=origin)
            self._load_backbone(network)
        else:
            state_dicts.load_state(network, state, origin=origin)

    def _check_parameters(self, entry: pretrained.PublishedWeights) -> None:
        """Refuse parameters that the user set to other values than those of the weights."""
        chosen = vars(self._chosen)
        for name, value in entry.parameters.items():
            if not _alike(chosen[name], value):
                raise ValueError(
                    f"The weights {entry.name!r} belong to {name}={value!r}, but {type(self).__name__} has "
                    f"{name}={getattr(self, name)!r}; set {name}={value!r}, or leave it out."
                )

    def _weights_path(self) -> str:
        known = ", ".join(repr(entry.name) for entry in self.published)
        try:
            pretrained.sha256(self.weights)
        except OSError as error:
            raise FileNotFoundError(
                f"{type(self).__name__} has no weights {str(self.weights)!r}: neither a file nor a published name; "
                f"published are: {f'{pretrained.DEFAULT!r}, {known}' if known else 'none'}."
            ) from error
        return self.weights


class TrainedParts(nn.ModuleDict):
    """The parts of a network that training changes."""


@functools.cache
def _defaults(estimator: type) -> dict[str, Any]:
    """Defaults of an estimator's parameters."""
    return {name: parameter.default for name, parameter in inspect.signature(estimator).parameters.items()}


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are equal, where a list, a tuple and an array of equal entries are."""
    if isinstance(one, list | tuple | np.ndarray) and isinstance(other, list | tuple | np.ndarray):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)

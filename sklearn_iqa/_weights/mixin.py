# SPDX-License-Identifier: BSD-3-Clause
"""Weights as a parameter of an estimator: `weights=` of a file or a published name, and `save_weights`."""

from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_iqa._weights import pretrained, state_dicts


class WeightsMixin:
    """Loads and saves the weights of an estimator's network."""

    key_map: ClassVar[tuple] = ()  # official tensor names -> ours, see `state_dicts.rename_keys`
    published: ClassVar[tuple[pretrained.PublishedWeights, ...]] = ()

    weights: Any
    verbose: Any
    network_: nn.Module
    _ensure_network: Callable[[], None]

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

    def _load_weights(self, network: nn.Module) -> None:
        """Load `weights` into a new network, strictly."""
        if str(self.weights) in {entry.name for entry in self.published}:
            entry = pretrained.find_published(str(self.weights), self.published)
            for name, value in entry.parameters.items():
                if getattr(self, name) != value:
                    raise ValueError(
                        f"The weights {entry.name!r} belong to {name}={value!r}, but {type(self).__name__} has "
                        f"{name}={getattr(self, name)!r}; set {name}={value!r}."
                    )
            state = pretrained.read_published(entry, verbose=self.verbose)
        else:
            state = state_dicts.read_state(self._weights_path())
        state_dicts.load_state(network, state, key_map=self.key_map, origin=f"weights={str(self.weights)!r}")

    def _weights_path(self) -> str:
        known = ", ".join(repr(entry.name) for entry in self.published) or "none"
        try:
            pretrained.sha256(self.weights)
        except OSError as error:
            raise FileNotFoundError(
                f"{type(self).__name__} has no weights {str(self.weights)!r}: neither a file nor a published name; "
                f"published are: {known}."
            ) from error
        return self.weights

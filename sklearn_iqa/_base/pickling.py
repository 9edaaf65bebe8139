# SPDX-License-Identifier: BSD-3-Clause
"""How an estimator with a network travels: as plain parameters and NumPy arrays."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_iqa._base.devices import prepare, resolve_device, seeded


class PicklingMixin:
    """Pickles and copies an estimator without torch objects; stands left of `BaseEstimator`.

    The network becomes its state as arrays and is built anew from `_built_from`, the parameters that it was built with,
    also on a machine without the device it was trained on.
    """

    network_: nn.Module
    device_: torch.device
    _built_from: dict[str, Any]

    def _fitted_attributes(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name.endswith("_") and name != "net_"} | {
            "_built_from": self._built_from
        }

    def __getstate__(self):
        state = dict(super().__getstate__())  # type: ignore[arg-type]  # of `BaseEstimator`, a dictionary
        state.pop("net_", None)  # the optimiser's memory stays behind
        if "network_" in state:
            tensors = state.pop("network_").state_dict()
            state["_arrays"] = {name: np.array(tensor.cpu().numpy()) for name, tensor in tensors.items()}
            state["device_"] = str(state["device_"])
        return state

    def __setstate__(self, state):
        state = dict(state)
        arrays = state.pop("_arrays", None)
        super().__setstate__(state)  # type: ignore[misc]  # of `BaseEstimator`
        if arrays is None:
            return
        try:
            self.device_ = resolve_device(str(state["device_"]))
        except ValueError as error:
            warnings.warn(f"{error} The estimator continues on the CPU.", stacklevel=2)
            self.device_ = torch.device("cpu")
        with seeded(0):
            network = type(self)(**self._built_from)._network()  # type: ignore[attr-defined]  # of `ImageEstimator`
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        self.network_ = prepare(network, self.device_)

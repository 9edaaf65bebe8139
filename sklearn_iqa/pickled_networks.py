# SPDX-License-Identifier: BSD-3-Clause
"""Networks that were pickled whole: their tensors are read, and none of the code that they name is run or imported.

`states.read_state` opens no such file. A method whose authors published nothing else asks here.
"""

import os
import pickle
import warnings
from typing import Any

import torch

__all__ = ["PickledModule", "tensors_alone"]

TENSOR_BUILDERS = (
    *("collections.OrderedDict", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
)


class PickledModule(dict):
    """Takes the place of everything that a pickled network names but tensors: the state of a module, and no code."""

    dump_patches = False  # torch asks modules for it

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, contents):
        contents = contents if isinstance(contents, dict) else {}
        for part in ("_parameters", "_buffers"):
            self.update({name: tensor for name, tensor in contents.get(part, {}).items() if tensor is not None})
        for outer, module in contents.get("_modules", {}).items():
            self.update({f"{outer}.{name}": tensor for name, tensor in (module or {}).items()})


class TensorPickle:
    """What `torch.load` needs in place of the module `pickle`."""

    class Unpickler(pickle.Unpickler):
        """Imports nothing but what builds tensors; torch's own unpickler, around this one, knows their storages."""

        def find_class(self, module, name):
            """Give what builds tensors, and `PickledModule` for everything else."""
            return super().find_class(module, name) if f"{module}.{name}" in TENSOR_BUILDERS else PickledModule

    @classmethod
    def load(cls, file, **kwargs):
        """Open the head of a file of old versions of PyTorch."""
        return cls.Unpickler(file, **kwargs).load()


def tensors_alone(path: str | os.PathLike[str]) -> dict[str, Any]:
    """State of the network in a file that ``torch.save(network, path)`` wrote, in the new format or the old one.

    Parameters
    ----------
    path : str or Path
        A file of PyTorch.

    Returns
    -------
    dict of str to Tensor
        Empty when the file holds no network.

    Raises
    ------
    pickle.UnpicklingError, RuntimeError, EOFError
        When the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)  # of classes that are not run
        network = torch.load(path, map_location="cpu", weights_only=False, pickle_module=TensorPickle)
    return network if isinstance(network, PickledModule) else {}

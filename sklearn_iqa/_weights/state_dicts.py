# SPDX-License-Identifier: BSD-3-Clause
"""States of networks: read from files safely, renamed, loaded strictly, saved in one step.

A *state* is a dictionary from names to tensors. No file is ever unpickled: `torch.load(weights_only=True)`, safetensors
and NumPy's plain arrays only.
"""

import os
import pickle
import re
import threading
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

__all__ = [
    "FORMATS",
    "PickledObjectsError",
    "is_html",
    "load_state",
    "package_version",
    "read_state",
    "rename_keys",
    "save_state",
]

FORMATS = ".pth, .pt, .safetensors, .npz"
# Entries under which training scripts keep the state, beside optimiser, epoch and losses. Where a file has both, the
# running average (..._ema) is the one that was published.
_WRAPPERS = (
    *("params_ema", "state_dict_ema", "model_ema"),
    *("state_dict", "params", "model_state_dict", "model", "net"),
)
# What torch.nn.DataParallel, torch.compile and modules of Lightning put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_N_NAMED = 3  # names that an error sentence lists
# Some files were pickled together with a loss, a float64 of NumPy: what such a number is made of, under the names of
# NumPy 2 and 1. No file is opened with more.
_MAKE_NUMBER = np.float64().__reduce__()[0]
_NUMPY_FLOAT: list[Any] = [
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]
_allowing = threading.Lock()  # what torch allows is a list of the process


class PickledObjectsError(ValueError):
    """A file holds pickled Python objects, which are never opened here."""


def read_state(path: str | os.PathLike[str], *, entry: str | None = None) -> dict[str, Tensor]:
    """The state in a file of PyTorch (.pth, .pt, .pkl, ...), safetensors or NumPy (.npz), on the CPU.

    The format is told by the content. A wrapper (`params_ema`, `state_dict_ema`, `model_ema`, else `state_dict`,
    `params`, `model_state_dict`, `model`, `net`) is taken off together with what is beside the state, and so are the
    prefixes `module.`, `_orig_mod.` and `model.` where all names have them. A file with several states under other
    names gives them all, each name behind its entry's and a dot; a file with one bare tensor gives it under the empty
    name.

    Parameters
    ----------
    path : str or Path
        A file of weights; `~` is the user's folder.
    entry : str, default=None
        The wrapper that is taken off where there are several, in place of the first one above.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If it is a folder, empty, a web page, cut off, without tensors, or if it holds pickled objects.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}: give the path of a weights file ({FORMATS}).")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of one weights file ({FORMATS}).")
    return _without_prefixes(_state_in(_read(path), path, entry))


def _read(path: Path) -> object:
    """What is in the file, by the format that its first bytes tell."""
    head = _head(path)
    if not head:
        raise ValueError(f"{path} is empty: download or copy it again.")
    if is_html(path):
        raise ValueError(f"{path} is an HTML page, not weights: download the file itself, not the page about it.")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not weights: fetch the file itself with `git lfs pull`.")
    # Eight bytes of length, which may look like another format's mark, then a JSON object:
    # https://github.com/huggingface/safetensors#format
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head.startswith(pickle.PROTO):
        return _read_torch(path)
    raise ValueError(f"{path} is in no known format: give a weights file ({FORMATS}).")


def _read_zip(path: Path) -> object:
    if not zipfile.is_zipfile(path):
        raise ValueError(_damaged(path))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if all(name.endswith(".npy") for name in names):
        return _read_npz(path)
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(
            f"{path} is a TorchScript program, not a state: convert it once where you trust it, with "
            "torch.save(torch.jit.load(path, map_location='cpu').state_dict(), 'converted.pth')."
        )
    return _read_torch(path)


def _read_torch(path: Path) -> object:
    try:
        with _allowing:
            # What the user allows stays so behind this.
            ours = [one for one in _NUMPY_FLOAT if one not in torch.serialization.get_safe_globals()]
            with torch.serialization.safe_globals(ours):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise PickledObjectsError(
            f"{path} holds pickled Python objects ({found[1] if found else 'of unknown kind'}), which are never opened "
            "here: convert it once where you trust it and its classes can be imported, with "
            "torch.save(module.state_dict(), 'converted.pth')."
        ) from error
    # A file that is cut off fails anywhere in torch: RuntimeError, EOFError, IndexError, struct.error and others.
    except Exception as error:
        raise ValueError(_damaged(path)) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(_damaged(path)) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds arrays of other things than numbers ({error}): save numbers only.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return f"{path} is cut off or damaged ({path.stat().st_size} bytes): download or copy it again."


def _head(path: Path) -> bytes:
    with open(path, "rb") as source:
        return source.read(256)


def is_html(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a web page, as servers send it in place of what was asked for.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    bool
    """
    head = _head(Path(path))
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _state_in(content: object, path: Path, entry: str | None) -> dict[str, Tensor]:
    """The tensors of a file's content, without wrappers."""
    if isinstance(content, Tensor):
        return {"": content.detach()}
    wrapped, wrappers = False, _WRAPPERS if entry is None else (entry, *_WRAPPERS)
    while isinstance(content, Mapping):
        wrapper = next((name for name in wrappers if _holds_state(content.get(name))), None)
        if wrapper is None:
            break
        content, wrapped = content[wrapper], True
    entries = content if isinstance(content, Mapping) else {}
    state = _tensors(entries)
    if not state:
        states = {name: _tensors(entry) for name, entry in entries.items() if _is_state(entry)}
        state = {f"{outer}.{name}": tensor for outer, inner in states.items() for name, tensor in inner.items()}
    elif len(state) < len(entries) and not wrapped:
        others = [str(name) for name in entries if name not in state]
        raise ValueError(
            f"{path} mixes {len(state)} tensors with {len(others)} other entries ({_some(others)}): save the tensors "
            "alone, or under the name 'state_dict'."
        )
    if not state:
        raise ValueError(f"{path} holds no tensors: give what torch.save(module.state_dict(), path) writes.")
    return state


def _tensors(entries: Mapping) -> dict[str, Tensor]:
    return {str(name): entry.detach() for name, entry in entries.items() if isinstance(entry, Tensor)}


def _is_state(entry: object) -> bool:
    return isinstance(entry, Mapping) and len(entry) > 0 and all(isinstance(value, Tensor) for value in entry.values())


def _holds_state(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return False
    return bool(_tensors(entry)) or any(_holds_state(entry.get(name)) for name in _WRAPPERS)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def rename_keys(state: Mapping[str, Tensor], key_map: Iterable[tuple[str, str | None]]) -> dict[str, Tensor]:
    """A state under other names.

    Parameters
    ----------
    state : mapping of str to Tensor
    key_map : iterable of (str, str or None)
        Pairs of a regular expression and what replaces it (as in `re.sub`), applied to each name one after the other.
        None in place of the replacement drops the entries whose names match.

    Returns
    -------
    dict of str to Tensor
        The same tensors. Of two entries that end under one name the later one stays.
    """
    rules = [(re.compile(pattern), replacement) for pattern, replacement in key_map]
    moved = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            if replacement is not None:
                name = pattern.sub(replacement, name)
            elif pattern.search(name):
                break
        else:
            moved[name] = tensor
    return moved


def load_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    key_map: Iterable[tuple[str, str | None]] = (),
    origin: str = "the given state",
) -> None:
    """Copy a state into a network, all of it or nothing.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place; its devices and types stay (half precision is converted).
    state : mapping of str to Tensor
        Exactly the entries of `network.state_dict()` after renaming, except that the counters `num_batches_tracked` of
        batch normalisation may be absent, as in files of old versions of PyTorch; the network then keeps its own.
    key_map : iterable of (str, str or None), default=()
        Rules of `rename_keys`.
    origin : str, default="the given state"
        What an error sentence calls the state: a path or a published name.

    Raises
    ------
    ValueError
        If names or shapes differ, or a number is NaN or infinite where the network's own is not. Nothing has been
        copied then.
    """
    own = network.state_dict()
    given = rename_keys(state, key_map)
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name}: {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {problem} ({_some(names)})"
        for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise ValueError(
            f"{origin} does not fit {type(network).__name__} and its {len(own)} entries: {'; '.join(problems)}; give "
            "weights of this architecture, or the parameters that the weights were trained with."
        )
    # Converting everything first leaves nothing that can fail half-way through the copying.
    converted = {name: given.get(name, value).to(value.dtype) for name, value in own.items()}
    broken = next((name for name, tensor in converted.items() if not _is_sound(tensor, own[name])), None)
    if broken is not None:
        raise ValueError(
            f"{origin} holds NaN or infinity in {broken}; the training that wrote it has diverged or the file is "
            "damaged, so take an earlier checkpoint."
        )
    network.load_state_dict(converted, strict=True)


def _is_sound(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor is finite; bounds that the network itself begins as infinite may be infinite."""
    if not tensor.is_floating_point() or tensor.isfinite().all():
        return True
    return bool(own.isinf().any()) and not bool(tensor.isnan().any())


def save_state(network: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Save the state of a network as safetensors, in one step: the file is whole or as it was before.

    Parameters
    ----------
    network : torch.nn.Module
    path : str or Path
        Ends in `.safetensors`; an older file is replaced; `~` is the user's folder.
    metadata : mapping of str to str, default=None
        Kept in the file's header, beside `sklearn_iqa_version`.

    Raises
    ------
    ValueError
        If the path has another ending.
    FileNotFoundError
        If its folder does not exist.
    TypeError
        If the metadata are not strings.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"Weights are saved as safetensors: {path.name!r} must end in '.safetensors'.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to save {path.name} in: make it first.")
    header = {**(metadata or {}), "sklearn_iqa_version": package_version()}
    if not all(isinstance(text, str) for pair in header.items() for text in pair):
        raise TypeError(f"metadata must map strings to strings, got {dict(metadata or {})!r}.")
    # safetensors refuses tensors that share memory (tied weights, views): each is saved as a copy of its own.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    part = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        safetensors.torch.save_file(state, part, metadata=header)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_N_NAMED]) + (", ..." if len(names) > _N_NAMED else "")


def package_version() -> str:
    """Version of this package as installed, "unknown" in a bare checkout.

    Returns
    -------
    str
    """
    try:
        return distributions.version("sklearn-iqa")
    except distributions.PackageNotFoundError:  # run from a checkout
        return "unknown"

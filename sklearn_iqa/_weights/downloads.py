# SPDX-License-Identifier: BSD-3-Clause
"""Files from the network: from plain addresses, resumed where they broke off, and from the Hugging Face hub.

An address `hf://<owner>/<repository>/<file>` is a file of the hub. Its client, `huggingface_hub`, honours mirrors
(`HF_ENDPOINT`), tokens, its own cache and its offline mode, which callers keep for plain addresses too.
"""

import contextlib
import errno
import logging
import re
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import huggingface_hub
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm import tqdm

from sklearn_iqa._weights.state_dicts import package_version

__all__ = [
    "DownloadError",
    "ask_hub",
    "cached_from_hub",
    "download",
    "download_from_hub",
    "is_offline",
    "is_on_hub",
    "quiet_hub",
    "reach_hub",
    "reason",
    "web_address",
]

_HUB = "hf://"
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_hiding = threading.Lock()
_n_hiding = 0  # calls of `quiet_hub` in all threads that want no progress bars


class DownloadError(Exception):
    """A file could not be fetched from one address; the message is the reason, without a full stop."""

    status: int | None = None  # of the server's answer


def is_offline() -> bool:
    """Whether the user forbids downloads, by the environment variable HF_HUB_OFFLINE."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def is_on_hub(url: str) -> bool:
    """Whether an address is one of the Hugging Face hub."""
    return url.startswith(_HUB)


def web_address(url: str) -> str:
    """An address as a browser takes it: of the hub, or of its mirror, in place of `hf://`."""
    return huggingface_hub.hf_hub_url(*_hub_names(url)) if is_on_hub(url) else url


def _hub_names(url: str) -> tuple[str, str]:
    """Repository and file of an address `hf://owner/repository/file`."""
    owner, repository, filename = url.removeprefix(_HUB).split("/", 2)
    return f"{owner}/{repository}", filename


def cached_from_hub(url: str) -> Path | None:
    """Path of a file that the hub's client has in its cache, else None."""
    found = huggingface_hub.try_to_load_from_cache(*_hub_names(url))
    return Path(found) if isinstance(found, str) else None


def download_from_hub(url: str, *, verbose: int = 0) -> Path:
    """Path of a file in the hub's cache, fetched again when one is there.

    Raises
    ------
    DownloadError
        If it cannot be had.
    """
    repository, filename = _hub_names(url)
    ask_hub(repository, filename)
    again = cached_from_hub(url) is not None  # the caller has found that the file there is another
    try:
        with quiet_hub(progress=bool(verbose)):
            return Path(
                huggingface_hub.hf_hub_download(
                    repository,
                    filename,
                    force_download=again,
                    library_name="sklearn-iqa",
                    library_version=package_version(),
                )
            )
    except Exception as error:  # which exceptions the hub's client lets out changes with its version
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise  # no other address helps
        raise DownloadError(reason(error)) from error


def ask_hub(repository: str, filename: str, *, revision: str | None = None) -> None:
    """Ask the hub once whether it has a file; the client itself tries for half a minute where there is no network.

    Raises
    ------
    DownloadError
        If it does not answer, or answers that it does not give the file.
    """
    if is_offline():
        raise DownloadError("offline mode is enabled by HF_HUB_OFFLINE")
    url = huggingface_hub.hf_hub_url(repository, filename, revision=revision)
    try:
        with quiet_hub():
            huggingface_hub.get_hf_file_metadata(url)
    except Exception as error:  # as above
        failed = DownloadError(reason(error))
        failed.status = _status(error)
        raise failed from error


def reach_hub(repository: str, *filenames: str, revision: str | None = None) -> None:
    """Find out at once whether another library, whose client tries for half a minute, would get its file.

    `filenames` are those that it accepts: one of them is in the hub's cache, or the hub answers.

    Raises
    ------
    DownloadError
        If none is in the cache and the hub does not answer.
    """
    names = [huggingface_hub.try_to_load_from_cache(repository, name, revision=revision) for name in filenames]
    if any(isinstance(name, str) for name in names):
        return
    try:
        ask_hub(repository, filenames[0], revision=revision)
    except DownloadError as error:
        if error.status != 404:  # there may be another of the files
            raise


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: Exception) -> str:
    """What went wrong, as a part of a sentence: the status of an answer, else the first sentence of the message."""
    if (status := _status(error)) is not None:
        return f"HTTP Error {status}"
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if of_the_system := re.search(r"\[Errno -?\d+\] [\w ]+", str(error)):  # deep in the messages of `requests`
        return of_the_system[0].strip()
    text = re.split(r"[.!?](?:\s|$)|\n", str(error), maxsplit=1)[0].strip()
    return text or type(error).__name__


@contextlib.contextmanager
def quiet_hub(*, progress: bool = False) -> Iterator[None]:
    """Keep the hub's client from writing a line for each of its attempts, and its progress bars unless `progress`."""
    silence = _Silence(threading.get_ident())
    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(silence)
    try:
        with contextlib.nullcontext() if progress else _hidden_bars():
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(silence)


@contextlib.contextmanager
def _hidden_bars() -> Iterator[None]:
    """Hide the bars of the hub's client, whose switch belongs to the process, until the last thread is ready.

    What the environment variable HF_HUB_DISABLE_PROGRESS_BARS says goes before.
    """
    global _n_hiding
    with _hiding:
        ours = huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is None and (
            _n_hiding > 0 or not are_progress_bars_disabled()
        )
        if ours:
            disable_progress_bars()
            _n_hiding += 1
    try:
        yield
    finally:
        with _hiding:
            if ours:
                _n_hiding -= 1
                if not _n_hiding:
                    enable_progress_bars()


class _Silence(logging.Filter):
    """Stops what is no error of one thread."""

    def __init__(self, thread: int):
        super().__init__()
        self.thread = thread

    def filter(self, record):
        return record.levelno >= logging.ERROR or record.thread != self.thread


def download(url: str, part: Path, *, verbose: int = 0) -> None:
    """Append to `part` what it lacks of the file at an address.

    Raises
    ------
    DownloadError
        If it cannot be had whole; what has come stays in `part`.
    """
    try:
        _append(url, part, verbose=verbose)
    except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise DownloadError(reason(error)) from error


def _append(url: str, part: Path, *, verbose: int) -> None:
    n_bytes = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"sklearn-iqa/{package_version()}"}
    if n_bytes:
        headers["Range"] = f"bytes={n_bytes}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and n_bytes:  # nothing lies behind what is here already: its digest decides
            return
        raise
    with response:
        if response.status != 206:  # the server starts from the beginning, whatever it was asked
            n_bytes = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else n_bytes + int(length)
        name = url.rpartition("/")[2]
        bar = tqdm(desc=name, total=total, initial=n_bytes, unit="B", unit_scale=True, disable=not verbose)
        with open(part, "ab" if n_bytes else "wb") as sink, bar:
            while chunk := response.read(_CHUNK):
                sink.write(chunk)
                n_bytes += len(chunk)
                bar.update(len(chunk))
    if total is not None and n_bytes < total:
        raise ConnectionError(f"the connection broke off after {n_bytes} of {total} bytes")

# SPDX-License-Identifier: BSD-3-Clause
"""Cached vectors of images: on disk, and the latest ones in memory."""

import os
import tempfile
import threading
from collections import OrderedDict
from typing import ClassVar

import joblib
import numpy as np

MEMORY_LIMIT = 2**28  # bytes of vectors in the memory of a process


class Store:
    """Vectors by the image's name: on disk through joblib, and the latest ones in memory, shared by all instances."""

    recent: ClassVar[OrderedDict[tuple[str, str], np.ndarray]] = OrderedDict()
    n_bytes: ClassVar[int] = 0
    lock: ClassVar = threading.Lock()  # of both

    def __init__(self, cache, identity: str):
        memory = cache if isinstance(cache, joblib.Memory) else _memory(os.path.expanduser(cache))
        self.call = memory.cache(_kept, ignore=["make"])
        self.prefix = f"{memory.location} {identity}"
        self.identity = identity

    def find(self, name: str) -> np.ndarray | None:
        key = (self.prefix, name)
        vector = Store.recent.get(key)
        if vector is None and self.call.check_call_in_cache(self.identity, name, None):
            vector = self.call(self.identity, name, None)
            self._remember(key, vector)
        return vector

    def keep(self, name: str, vector: np.ndarray) -> None:
        self.call(self.identity, name, lambda: vector)
        self._remember((self.prefix, name), vector)

    def _remember(self, key: tuple[str, str], vector: np.ndarray) -> None:
        with Store.lock:
            if key in Store.recent:  # another thread computed it as well
                return
            Store.recent[key] = vector
            Store.n_bytes += vector.nbytes
            while Store.n_bytes > MEMORY_LIMIT:
                Store.n_bytes -= Store.recent.popitem(last=False)[1].nbytes


def _memory(folder: str) -> joblib.Memory:
    """A cache in a folder that this user may write to."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return joblib.Memory(folder, verbose=0)
    except OSError as error:
        raise type(error)(
            f"The folder cache={folder!r} cannot be written ({error.strerror}); name one that can, or leave cache=None."
        ) from error


def _kept(identity: str, name: str, make):
    """One vector; joblib stores the result under the first two arguments."""
    return make()

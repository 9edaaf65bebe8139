# SPDX-License-Identifier: BSD-3-Clause
"""Work done in threads ahead of who consumes it: images are opened and cut while the network computes.

Pillow, NumPy and torch release the interpreter's lock, so that threads decode side by side; they need no pickling, no
shared memory and no start-up, and work inside joblib's and Dask's workers, whose processes may have no children.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import threadpoolctl
import torch

from sklearn_iqa._base.devices import CPU

__all__ = ["ahead", "n_threads", "numbers_in"]

# Numbers, of 4 bytes mostly, that lie ready at once: what bounds memory. A step of training on 16 crops of 448 x 448
# has a seventh of them.
NUMBERS_AHEAD = 2**26


def n_threads(n_jobs: int | None, device: torch.device = CPU) -> int:
    """Threads that scikit-learn's `n_jobs` stands for: None is 1, or what `joblib.parallel_config` says around it.

    One job beside a network on the processor is none: its thread and those of the network would take turns, which was
    up to a quarter slower than one after the other. Beside a GPU it is a thread.
    """
    n = joblib.effective_n_jobs(n_jobs)
    if n_jobs is None:
        n = min(n, joblib.cpu_count())  # a cluster's cores are not this machine's
    return 0 if n == 1 and device.type == "cpu" else n


def ahead(
    function: Callable[[Any], Any],
    items: Iterable,
    n_threads: int,
    numbers: Callable[[Any], int] | None = None,
) -> Generator[Future, None, None]:
    """Call a function of each item in threads, and yield what comes of it in the order of the items.

    As many results lie ready as `NUMBERS_AHEAD` allows, and one at least for each thread. The end of the consumer, be
    it an error, an interruption or `close`, ends the threads, once each has finished the item that it works on.

    Parameters
    ----------
    function : callable
        Item -> result, of tensors and arrays; must neither draw from generators of the process nor write to what
        others read.
    items : iterable
        Consumed in the caller's thread, as needed.
    n_threads : int
        As `n_threads` gives it; without any, each call is made when its result is asked for.
    numbers : callable, default=None
        Result -> how many numbers it holds; None counts those of tensors and arrays.

    Yields
    ------
    future : Future
        Finished; its `result` gives the result or raises the error of the function.
    """
    if n_threads == 0:
        for item in items:
            yield _called(function, item)
        return
    items, count, n_ahead = iter(items), numbers or numbers_in, n_threads + 1
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(n_threads, "sklearn_iqa", initializer=_one_thread)
    try:
        while True:
            waiting.extend(pool.submit(function, item) for item in itertools.islice(items, n_ahead - len(waiting)))
            if not waiting:
                return
            future = waiting.popleft()
            if future.exception() is None:
                n_ahead = max(n_threads + 1, NUMBERS_AHEAD // max(1, count(future.result())))
            yield future
            del future  # its result may be large
    finally:
        pool.shutdown(cancel_futures=True)


def _called(function: Callable[[Any], Any], item: Any) -> Future:
    future: Future = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def numbers_in(result: Any) -> int:
    """Numbers in tensors and arrays, which may lie in tuples, lists and dicts."""
    if isinstance(result, torch.Tensor):
        return result.numel()
    if isinstance(result, np.ndarray):
        return result.size
    if isinstance(result, dict):
        return numbers_in(list(result.values()))
    return sum(map(numbers_in, result)) if isinstance(result, tuple | list) else 0


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController().select(user_api="openmp")


def _one_thread() -> None:
    """Let torch compute with this thread alone: OpenMP would give each thread a team of its own, one thread a core."""
    torch.get_num_threads()  # torch sets the number of a new thread when it is first asked
    _libraries().limit(limits=1)  # OpenMP counts for each thread of the program by itself

# SPDX-License-Identifier: BSD-3-Clause
"""Rows that cannot be used: an error at once, or NaN in their place and one warning for all of them."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

__all__ = [
    *("ADVICE", "OF_A_ROW", "RAISE", "Failures", "check_ready", "explained_memory", "is_out_of_memory", "size_of"),
    "user_depth",
]

# What a row may raise: a wrong image or file, or too little memory; every other error is one of the program.
OF_A_ROW = (ValueError, TypeError, OSError, MemoryError)
# In the messages of RuntimeErrors of torch where memory ends: on the CPU, on a GPU, in cuBLAS and cuDNN.
SIGNS_OF_MEMORY = ("not enough memory", "DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
N_LISTED = 5  # rows that a warning names
FRAMES = ("sklearn_iqa", "sklearn", "skorch")  # packages that stand between a user and what warns


class Failures:
    """What happens to a row that cannot be used.

    Parameters
    ----------
    on_error : {"raise", "nan"}, default="raise"
        "raise" raises the row's error; "nan" keeps it for one warning, and the caller puts NaN in the row's place.
    late : bool, default=False
        Whether "raise" keeps the first error until `report`, so that what was computed before can be kept; the caller
        then stops where `stopped` says so.

    Raises
    ------
    ValueError
        When `on_error` is something else.
    """

    def __init__(self, on_error: str = "raise", *, late: bool = False):
        if on_error not in ("raise", "nan"):
            raise ValueError(f"on_error is {on_error!r}; take 'raise' or 'nan'.")
        self.raises, self.late = on_error == "raise", late
        self.errors: list[Exception] = []

    @property
    def stopped(self) -> bool:
        """Whether an error waits for `report` to raise it."""
        return self.raises and bool(self.errors)

    def note(self, error: Exception) -> None:
        """Raise an error, or keep it."""
        if self.raises and not self.late:
            raise error
        self.errors.append(error)

    def attempt(self, function: Callable, *args) -> Any:
        """What a function of one row gives; None where the row cannot be used."""
        try:
            return function(*args)
        except OF_A_ROW as error:
            if self.raises and not self.late:
                raise
            self.errors.append(error)
            return None

    def finite(self, row: int, values: np.ndarray) -> np.ndarray:
        """Results of a row, or NaN in their place where they are not finite."""
        if np.isfinite(values).all():
            return values
        self.note(ValueError(f"Row {row} of X gets NaN or infinity as its result; {ADVICE}."))
        return np.full_like(values, np.nan)

    def report(self, rows: Sequence[int] | np.ndarray, n_rows: int) -> None:
        """Raise the error that waits, or warn of the rows that became NaN."""
        if not self.errors:
            return
        if self.raises:
            raise self.errors[0]
        listed = ", ".join(map(str, rows[:N_LISTED])) + (", ..." if len(rows) > N_LISTED else "")
        warnings.warn(
            f"{len(rows)} of {n_rows} rows of X cannot be used and are NaN (row {listed}); the first error: "
            f"{self.errors[0]}",
            stacklevel=user_depth(),
        )


def check_ready(estimator: Any) -> None:
    """Refuse a method that was not fitted and has no weights.

    Raises
    ------
    NotFittedError
        Says how it gets weights.
    """
    published = "take published weights, weights='default'," if estimator.published else "give weights= a file"
    check_is_fitted(
        estimator, msg=f"This %(name)s instance is not fitted yet and has no weights: {published} or call fit."
    )


def user_depth() -> int:
    """Frames between the caller and the code of a user, for `stacklevel` of a warning."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in FRAMES:
        frame, depth = frame.f_back, depth + 1
    return depth


RAISE = Failures()  # keeps nothing, so that all may share it
ADVICE = "check the weights, from a training that may have diverged, and the image"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of NumPy, Pillow or torch says that memory has ended."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in SIGNS_OF_MEMORY)
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def explained_memory(where: str) -> Iterator[None]:
    """Say in one sentence that there is too little memory for what a network sees of an image."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"{where} needs more memory than there is, before the network sees it; shrink it.") from error


def size_of(x: np.ndarray | tuple[np.ndarray, ...]) -> str:
    """Height and width of an image, or of the largest image of a tuple, for sentences."""
    height, width = max((image.shape[:2] for image in (x if isinstance(x, tuple) else (x,))), key=np.prod)
    return f"{height} x {width} pixels"

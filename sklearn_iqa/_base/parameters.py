# SPDX-License-Identifier: BSD-3-Clause
"""What parameters may be, in the form of scikit-learn's `_parameter_constraints`.

A class puts the groups of its shared parameters together and adds its own:

>>> from sklearn_iqa._base.parameters import RUNNING, at_least
>>> class Method:
...     _parameter_constraints = {**RUNNING, "n_crops": [at_least(1)]}
"""

import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, make_constraint

__all__ = [
    "CROPS",
    "POSITIVE",
    "PRETRAINED",
    "PROTOCOL",
    "RUNNING",
    "STOPPING",
    "TRAINING",
    "SequenceOf",
    "at_least",
    "non_negative",
    "one_of",
    "within",
]

Constraints = dict[str, list[Any]]


def at_least(lowest: int) -> Interval:
    """Whole numbers from `lowest` on."""
    return Interval(Integral, lowest, None, closed="left")


def non_negative() -> Interval:
    """Finite numbers from 0 on."""
    return Interval(Real, 0, None, closed="left")


def within(lowest: float, highest: float, *, closed: str = "both") -> Interval:
    """Numbers between two bounds, which belong to them as `closed` says."""
    return Interval(Real, lowest, highest, closed=closed)


def one_of(*options: str) -> StrOptions:
    """Some texts."""
    return StrOptions(set(options))


class SequenceOf(HasMethods):
    """A list, tuple or array each of whose members satisfies one of some constraints; a text is none.

    Parameters
    ----------
    *constraints : constraints
        As in `_parameter_constraints`.
    min_length, max_length : int or None
        Bounds of the number of members.
    """

    def __init__(self, *constraints: Any, min_length: int = 1, max_length: int | None = None):
        super().__init__(["__len__", "__getitem__"])
        self.constraints = [make_constraint(one) for one in constraints]
        self.min_length, self.max_length = min_length, max_length

    def is_satisfied_by(self, value: Any) -> bool:
        """Whether a value is such a sequence."""
        if isinstance(value, str | bytes | Mapping) or not super().is_satisfied_by(value):
            return False
        longest = float("inf") if self.max_length is None else self.max_length
        return self.min_length <= len(value) <= longest and all(
            any(constraint.is_satisfied_by(member) for constraint in self.constraints) for member in value
        )

    def __str__(self) -> str:
        if self.min_length == self.max_length:
            number = str(self.min_length)
        elif self.max_length is None:
            number = f"{self.min_length} or more"
        else:
            number = f"{self.min_length} to {self.max_length}"
        return f"a sequence of {number} members, each {' or '.join(map(str, self.constraints))}"


POSITIVE = Interval(Real, 0, None, closed="neither")

RUNNING: Constraints = {
    "device": [str],
    "precision": [one_of("float32", "bfloat16", "float16")],
    "n_jobs": [Integral, None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}
TRAINING: Constraints = {
    **RUNNING,
    "compile": ["boolean"],
    "batch_size": [at_least(1)],
    "weights": [str, os.PathLike, None],
    "max_epochs": [at_least(1)],
    "lr": [POSITIVE],
    "warm_start": ["boolean"],
}
STOPPING: Constraints = {
    "early_stopping": ["boolean"],
    "validation_fraction": [within(0, 1, closed="neither")],
    "n_iter_no_change": [at_least(1)],
}
PRETRAINED: Constraints = {"backbone_weights": [str, os.PathLike, None]}
CROPS: Constraints = {"n_crops": [at_least(1)], "crops": [one_of("grid", "random")]}
PROTOCOL: Constraints = {"protocol": [one_of("official", "pyiqa")]}

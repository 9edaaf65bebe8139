# SPDX-License-Identifier: BSD-3-Clause
"""Tasks: sets of rows that share a distortion, and the stage of training that draws its batches from them.

Labels of `fit` define the tasks. Without labels every kind of distortion is a task of all rows, whose images the method
distorts when it opens them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from torch.utils.data import BatchSampler

__all__ = ["Episodes", "TasksMixin", "draw", "has_quality", "task_numbers", "task_rows", "without_labels"]


class TasksMixin:
    """Learns from targets (n, k), quality in the first column and task in the second; left of `QualityRegressor`.

    The quality may be missing, NaN throughout, for a method that can train its stage of tasks alone.
    """

    def _quality(self, targets: np.ndarray) -> np.ndarray:
        return targets[:, 0] if targets.ndim == 2 else targets

    def _start(self, targets: np.ndarray, sample_weight) -> None:
        if has_quality(targets):
            super()._start(targets, sample_weight)  # type: ignore[misc]  # of `QualityRegressor`

    def _train(self, rows, targets: np.ndarray, sample_weight, *args) -> None:
        if not hasattr(self, "label_scale_"):  # every call before was without quality
            TasksMixin._start(self, targets, sample_weight)
        super()._train(rows, targets, sample_weight, *args)  # type: ignore[misc]  # of `ImageEstimator`

    def _encode_targets(self, targets: np.ndarray) -> np.ndarray:
        quality = self._quality(targets)
        if not has_quality(targets):
            return quality
        return super()._encode_targets(quality)  # type: ignore[misc]  # of `QualityRegressor`


class Episodes(BatchSampler):
    """Batches of a stage of tasks: each is an episode, drawn when it is its turn, so that none is held before.

    Parameters
    ----------
    data : TrainingSet
        An image of a task is a row of it: the same image under another distortion, or in another part of an episode, is
        another row.
    batch_size : int
        Not used.
    lengths : sequence of int
        Episodes of each epoch.
    draw : callable
        Number of episodes -> iterator over the places (m,) of their images, by torch's generator.
    """

    def __init__(self, data, batch_size: int, *, lengths: Sequence[int], draw: Callable[[int], Iterator[np.ndarray]]):
        self.data, self.lengths, self.draw = data, lengths, draw

    def __len__(self) -> int:
        return self.lengths[self.data.epoch]

    def __iter__(self) -> Iterator[list[int]]:
        for places in self.draw(len(self)):
            yield places.tolist()


def task_numbers(rows, *labels) -> np.ndarray:
    """Check one or more labels (n,) of each row and number their combinations: rows of one number are a task.

    Raises
    ------
    ValueError
        When a label has other than one entry per row.
    """
    check_consistent_length(rows, *labels)
    numbers = [np.unique(column_or_1d(label), return_inverse=True)[1] for label in labels]
    return np.unique(np.stack(numbers), axis=1, return_inverse=True)[1].ravel()


def draw(members: np.ndarray, n: int, sample_weight: np.ndarray | None) -> np.ndarray:
    """Draw n of some rows, with replacement; by `sample_weight`, where it holds the weights of all rows."""
    if sample_weight is None:
        return members[torch.randint(len(members), (n,))]
    return members[torch.multinomial(torch.as_tensor(sample_weight[members]), n, replacement=True)]


def has_quality(targets: np.ndarray) -> bool:
    """Whether `fit` was given y, so that the first column holds it and not NaN."""
    return not np.isnan(targets[0, 0])


def without_labels(targets: np.ndarray) -> bool:
    """Whether `fit` was given no labels, so that the column of task numbers is NaN."""
    return bool(np.isnan(targets[0, 1]))


def task_rows(targets: np.ndarray, n_kinds: int) -> list[np.ndarray]:
    """Rows of each task; without labels all of them for each of `n_kinds` distortions."""
    if without_labels(targets):
        return [np.arange(len(targets))] * n_kinds
    return [np.flatnonzero(targets[:, 1] == number) for number in np.unique(targets[:, 1])]

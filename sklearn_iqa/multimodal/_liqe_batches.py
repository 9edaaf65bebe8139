# SPDX-License-Identifier: BSD-3-Clause
"""Batches that hold a fixed number of images of each data set, as in the official code of LIQE."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import BatchSampler

from sklearn_iqa._base.training import TrainingSet, drawn

LEAST = 2  # images of a domain in a batch, so that they make a pair


class DomainBatches(BatchSampler):
    """Batches with so many rows of each domain; the rows of each are gone through again and again.

    Parameters
    ----------
    data : TrainingSet
        Its targets hold the number of the domain in the second column.
    batch_size : int
        Rows in a batch that are divided among the domains, see `shares`.
    sizes : sequence of int or None
        Rows of each domain in a batch, by its number, in place of `batch_size`.
    n_batches : int or None
        Batches in an epoch; None takes as many as the rows fill.
    """

    def __init__(self, data: TrainingSet, batch_size: int, *, sizes: Sequence[int] | None, n_batches: int | None):
        self.data, self.n_batches = data, n_batches
        domain = data.targets[torch.as_tensor(data.members), 1]
        numbers = domain.unique()
        self.places = [(domain == number).nonzero().flatten() for number in numbers]
        if sizes is None:
            self.sizes = shares([len(places) for places in self.places], batch_size)
        else:
            self.sizes = [sizes[number] for number in numbers.int().tolist()]

    def __len__(self) -> int:
        return -(-len(self.data) // sum(self.sizes)) if self.n_batches is None else self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        n = len(self)
        parts = [
            drawn(places, n * size, self.data.weight).view(n, size)
            for places, size in zip(self.places, self.sizes, strict=True)
        ]
        yield from torch.cat(parts, dim=1).tolist()


def shares(counts: Sequence[int], batch_size: int) -> list[int]:
    """Divide a batch among domains of some numbers of rows, in proportion to the square roots of these.

    Each gets two rows at least, and none more than it has. The official code takes 4 of each set of about 1,000 images,
    and 16 of each of about 10,000.
    """
    rows = np.asarray(counts)
    sizes = np.minimum(rows, LEAST)
    while sizes.sum() < min(batch_size, rows.sum()):
        # Sainte-Lague's method: the next place goes to the domain that is the farthest below its part.
        sizes[np.argmax(np.where(sizes < rows, np.sqrt(rows) / (sizes + 0.5), 0))] += 1
    return sizes.tolist()

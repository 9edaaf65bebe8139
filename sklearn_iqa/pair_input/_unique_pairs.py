# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of images of one data set, drawn before training as in the official code of UNIQUE, and their batches."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from torch.utils.data import Sampler

from sklearn_iqa._base.training import TrainingSet

# "auto": the official code draws 40 to 50 pairs for each image of a small data set, 50,000 or 90,000 of a large one.
PAIRS_PER_IMAGE, MOST_PAIRS = 40, 70_000


class PairBatches(Sampler[list[tuple[int, ...]]]):
    """Shuffled batches of pairs of places, whose sizes differ by one at most; the pairs are those of all epochs.

    Parameters
    ----------
    data : TrainingSet
        Its targets hold the number of the domain in the last column.
    batch_size : int
        The most pairs in a batch.
    n_pairs : sequence of int or "auto"
        Pairs of each domain, by its number; "auto" goes by its size. A domain gives no more than it has.
    warmup_epochs, warmup_batch_size : int
        First epochs, and the most pairs in one of their batches.
    """

    def __init__(
        self,
        data: TrainingSet,
        batch_size: int,
        *,
        n_pairs: Sequence[int | str],
        warmup_epochs: int,
        warmup_batch_size: int,
    ):
        self.data, self.batch_size, self.n_pairs = data, batch_size, n_pairs
        self.warmup_epochs, self.warmup_batch_size = warmup_epochs, warmup_batch_size
        domain = data.targets[torch.as_tensor(data.members), -1].numpy().astype(int)
        self.places = {number: np.flatnonzero(domain == number) for number in np.unique(domain).tolist()}
        if np.bincount(domain).max() < 2:
            raise ValueError(
                f"UNIQUE learns from pairs of one domain, but the {len(domain)} rows to be trained on, without those "
                "that are held out or weigh nothing, make none; give more rows, or a lower validation_fraction."
            )

    def __len__(self) -> int:
        n = sum(map(self._number, self.places))
        size = self.warmup_batch_size if self.data.epoch < self.warmup_epochs else self.batch_size
        return n if size == 1 else max(1, min(-(-n // size), n // 2))  # no pair alone, which has no batch statistics

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        generator = np.random.RandomState(self.data.seed)
        pairs = np.concatenate([self._pairs(number, generator) for number in self.places])
        for batch in torch.randperm(len(pairs)).tensor_split(len(self)):
            yield [tuple(pair) for pair in pairs[batch.numpy()].tolist()]

    def _number(self, domain: int) -> int:
        n, wanted = len(self.places[domain]), self.n_pairs[domain]
        return min(min(PAIRS_PER_IMAGE * n, MOST_PAIRS) if wanted == "auto" else int(wanted), n * (n - 1) // 2)

    def _pairs(self, domain: int, generator: np.random.RandomState) -> np.ndarray:
        places, n = self.places[domain], self._number(domain)
        if n == 0:
            return np.empty((0, 2), dtype=int)
        if self.data.weight is None:
            chosen = different_pairs(len(places), n, generator)
        else:
            chosen = weighted_pairs(self.data.weight.numpy()[places], n, generator)
        return places[chosen]


def different_pairs(n_rows: int, n: int, generator: np.random.RandomState) -> np.ndarray:
    """Draw n of all unordered pairs of rows, each once at most, in either order: (n, 2)."""
    codes = sample_without_replacement(n_rows * (n_rows - 1) // 2, n, random_state=generator)
    # Code j (j - 1) / 2 + i stands for the pair i < j.
    larger = (1 + np.sqrt(1 + 8.0 * codes)).astype(int) // 2
    pairs = np.stack([codes - larger * (larger - 1) // 2, larger], axis=1)
    # Sorted rows, the better ones last, would else have the better ones in one pass, with batch statistics of its own.
    turned = generator.random_sample(n) < 0.5
    pairs[turned] = pairs[turned, ::-1]
    return pairs


def weighted_pairs(weight: np.ndarray, n: int, generator: np.random.RandomState) -> np.ndarray:
    """Draw n pairs (n, 2) of two different rows: the first by weight, the second by weight among the others."""
    edges = weight.cumsum()
    first = np.searchsorted(edges[:-1], generator.random_sample(n) * edges[-1], side="right")
    without = generator.random_sample(n) * (edges[-1] - weight[first])
    without += np.where(without >= edges[first] - weight[first], weight[first], 0)  # leaves the first one's range out
    return np.stack([first, np.searchsorted(edges[:-1], without, side="right")], axis=1)

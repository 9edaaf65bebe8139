# SPDX-License-Identifier: BSD-3-Clause
"""Learning from rows with and without labels at once: labels with gaps, halved batches, pseudo scores, their choice."""

from typing import NamedTuple

import numpy as np
import skorch
import torch
from sklearn.utils import column_or_1d
from torch import nn

from sklearn_iqa._base.quality import check_quality
from sklearn_iqa._base.training import EvenBatches, drawn

LEAST_UNLABELLED = 2  # in a batch: with one alone, "at least one is negative" would mean that one


class JudgedScores(NamedTuple):
    """Output of a network for n rows: predicted quality, and the probability that a row resembles labelled ones."""

    score: torch.Tensor
    positive: torch.Tensor


def check_partial_quality(rows, y, name: str, batch_size: int) -> np.ndarray:
    """Check y, in which NaN stands for an unlabelled row; float64 of shape (n,).

    Raises
    ------
    ValueError
        As `check_quality`, and when no row has a label, or when some have none, but half a batch cannot hold two.
    """
    if y is None:
        return check_quality(rows, y, name)
    labels = column_or_1d(y, dtype=np.float64)
    unknown = np.isnan(labels)
    check_quality(rows, np.where(unknown, 0, labels), name)
    n_unknown = int(unknown.sum())
    if n_unknown == len(rows):
        raise ValueError("y labels no row, it is NaN everywhere; give the quality of some rows at least.")
    if n_unknown and min(n_unknown, batch_size // 2) < LEAST_UNLABELLED:
        raise ValueError(
            f"y contains NaN in {n_unknown} of {len(rows)} rows, first in row {int(np.argmax(unknown))}; leave "
            f"unlabelled rows out, or give {LEAST_UNLABELLED} or more, and batch_size={2 * LEAST_UNLABELLED} or more "
            f"(now {batch_size}), one half of which is unlabelled."
        )
    return labels


# How many rows of a batch have a label is known on the device alone. To ask for it, or to take these rows out, would
# make every step wait for the device: all rows go through all terms, and those that do not count are masked.


def positive_unlabelled_losses(positive, known):
    """Probabilities (n,), which rows are labelled (n,) -> cross-entropy, entropy and negative enforcing loss.

    Labelled rows are positive, each unlabelled one is to be decided either way, and one of these at least is negative.
    """
    h = positive.clamp(1e-6, 1 - 1e-6)
    entropy = -h * h.log() - (1 - h) * (1 - h).log()
    lowest = h.masked_fill(known, 1 - 1e-6).amin()
    return -_mean(h.log(), known), _mean(entropy, ~known), -(1 - lowest).log()


def _mean(values, counted):
    """Mean over the rows that count; 0 where none does."""
    return values.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


class SemiSupervisedLoss(nn.Module):
    """Squared errors to labels and to pseudo scores, and the losses of the classifier that picks the latter.

    A pseudo score is the running mean of the scores predicted for an unlabelled row, from its first use on.

    Parameters
    ----------
    threshold : float
        Probability of being positive from which a pseudo score is used.
    unlabelled_weight : float
        Weight of the squared error to pseudo scores.
    decay : float
        Weight of the old pseudo score in the new one.
    pu_weights : tuple of three floats
        Weights of `positive_unlabelled_losses`.
    pseudo : ndarray of shape (n_rows,)
        Pseudo scores by the number of the row, NaN where there is none; the loss goes on with a copy.
    """

    def __init__(self, *, threshold, unlabelled_weight, decay, pu_weights, pseudo):
        super().__init__()
        self.threshold, self.unlabelled_weight, self.decay = threshold, unlabelled_weight, decay
        self.pu_weights = pu_weights
        self.register_buffer("pseudo", torch.tensor(pseudo, dtype=torch.float32))
        self.warm = True  # whether pseudo scores are in use, see PseudoScoreWarmUp

    def forward(self, output: JudgedScores, target):
        """Output for n rows, target (n, 2): label or NaN, number of the row -> loss."""
        mos, rows = target.unbind(1)
        known = ~mos.isnan()
        loss = _mean((output.score - mos.masked_fill(~known, 0)).square(), known)
        if self.warm:
            pseudo = self.update(rows.long(), output.score.detach(), ~known)
            loss = loss + self.unlabelled_weight * self.pseudo_error(output.score, pseudo, output.positive, ~known)
        terms = positive_unlabelled_losses(output.positive, known)
        of_classifier = sum(weight * term for weight, term in zip(self.pu_weights, terms, strict=True))
        # With no unlabelled row it is exactly supervised training.
        return loss + torch.where((~known).sum() >= LEAST_UNLABELLED, of_classifier, 0)

    def update(self, rows, scores, unlabelled):
        """Move the pseudo scores of the unlabelled rows towards their scores; give them, and other scores as they are.

        All are (n,). A row that is in the batch twice takes both scores, one after the other.
        """
        decay = self.decay
        same = (rows[:, None] == rows) & unlabelled  # (n, n)
        old, first = self.pseudo[rows], scores[same.int().argmax(1)]
        share = (1 - decay) * decay ** same.triu(1).sum(1)  # of each score in what the batch makes of its row
        new = decay ** same.sum(1) * torch.where(old.isnan(), first, old) + same.to(scores) @ (share * scores)
        self.pseudo[rows] = torch.where(unlabelled, new, old)
        return torch.where(unlabelled, new, scores)

    def pseudo_error(self, scores, pseudo, positive, unlabelled):
        """Mean squared error over the unlabelled rows that the classifier predicts to be positive; 0 without any."""
        picked = unlabelled & (positive.detach() >= self.threshold)
        return _mean((scores - pseudo).square(), picked)


class PseudoScoreWarmUp(skorch.callbacks.Callback):
    """Leaves pseudo scores out in a first part of the steps of all epochs, counted over all calls of fit."""

    def __init__(self, part: float, n_epochs: int, n_before: int):
        self.part, self.n_epochs, self.n_before = part, n_epochs, n_before

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Note how many steps an epoch has."""
        self.n_batches_ = len(net.get_iterator(dataset_train, training=True))

    def on_batch_begin(self, net, **kwargs):
        """Switch; the history has a place for this batch already."""
        step = (self.n_before + len(net.history) - 1) * self.n_batches_ + len(net.history[-1, "batches"]) - 1
        net.criterion_.warm = step >= self.part * self.n_epochs * self.n_batches_


class KeptPseudoScores(skorch.callbacks.Callback):
    """Gives the pseudo scores to an estimator, as a dict by the number of the row, however training ends."""

    def __init__(self, estimator):
        self.estimator = estimator

    def on_train_end(self, net, **kwargs):
        """Copy them from the device."""
        scores = net.criterion_.pseudo.tolist()
        self.estimator.pseudo_scores_ = {row: score for row, score in enumerate(scores) if score == score}


class HalvedBatches(EvenBatches):
    """Batches of as many labelled as unlabelled rows; where all are of one kind, `EvenBatches`.

    An epoch goes through the rows of the larger kind once, and through the others as often as it takes.
    """

    def __init__(self, data, batch_size: int):
        super().__init__(data, batch_size)
        known = ~torch.isnan(data.targets[torch.as_tensor(data.members), 0])
        self.kinds = known.nonzero().flatten(), (~known).nonzero().flatten()
        self.n_larger = max(map(len, self.kinds))

    def __len__(self) -> int:
        if self.n_larger == len(self.data):
            return super().__len__()
        return max(1, min(-(-self.n_larger // (self.batch_size // 2)), self.n_larger // LEAST_UNLABELLED))

    def __iter__(self):
        if self.n_larger == len(self.data):
            yield from super().__iter__()
            return
        halves = [drawn(kind, self.n_larger, self.data.weight).tensor_split(len(self)) for kind in self.kinds]
        for both in zip(*halves, strict=True):
            yield torch.cat(both).tolist()

# SPDX-License-Identifier: BSD-3-Clause
"""Losses that two or more methods use: modules that see (prediction, target) and nothing else."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logsumexp, softmax
from torch import nn


class TwoAlternativeForcedChoiceLoss(nn.Module):
    r"""Cross-entropy of two-alternative judgements, through a small learned psychometric network.

    A network :math:`G` sees :math:`(d_0, d_1, d_0-d_1, d_0/(d_1+0.1), d_1/(d_0+0.1))` and says how likely people
    prefer the second image; the loss is the binary cross-entropy of that with the share who did. :math:`G` is trained
    together with the distance and thrown away.

    Source: Zhang et al., CVPR 2018 (LPIPS), `BCERankingLoss` of richzhang/PerceptualSimilarity.
    """

    def __init__(self):
        super().__init__()
        # 1x1 convolutions over one pixel, so that tensors carry the official names and shapes.
        self.net = nn.Module()
        self.net.model = nn.Sequential(
            nn.Conv2d(5, 32, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 32, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, 1),
            nn.Sigmoid(),
        )

    def preference(self, distances: torch.Tensor) -> torch.Tensor:
        """Distances (n, 2) of two images to their reference -> share (n,) expected to prefer the second."""
        d0, d1 = distances.unbind(1)
        seen = torch.stack([d0, d1, d0 - d1, d0 / (d1 + 0.1), d1 / (d0 + 0.1)], dim=1)
        return self.net.model(seen[:, :, None, None]).flatten()

    def forward(self, distances: torch.Tensor, judgement: torch.Tensor) -> torch.Tensor:
        """Distances (n, 2), fractions (n,) in [0, 1] of people who preferred the second image -> loss."""
        return F.binary_cross_entropy(self.preference(distances), judgement)


class FidelityLoss(nn.Module):
    r"""Distance of two Bernoulli distributions, bounded and without a singular gradient where they are sure.

    .. math:: 1 - \sqrt{p\,g + \epsilon} - \sqrt{(1 - p)(1 - g) + \epsilon}, \qquad \epsilon = 10^{-8},

    averaged over all elements. For probabilities p and g in [0, 1] it is 0 when they are equal and 1 when both are sure
    and disagree, less what :math:`\epsilon` adds under the roots, :math:`2 \cdot 10^{-4}` at most.

    Source: Tsai et al., "FRank: A Ranking Method with Fidelity Loss", SIGIR 2007; epsilon as in the official code of
    UNIQUE and of LIQE.
    """

    def forward(self, p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Predicted and true probabilities of one shape -> loss."""
        return (1 - (p * g + 1e-8).sqrt() - ((1 - p) * (1 - g) + 1e-8).sqrt()).mean()


def pairs_within(group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs i < j of rows that belong to one group.

    Parameters
    ----------
    group : Tensor of shape (n,)
        Number of each row's group.

    Returns
    -------
    first, second : Tensor of shape (n_pairs,), int64
        Row numbers i and j of each pair.
    """
    first, second = torch.triu_indices(len(group), len(group), offset=1, device=group.device)
    together = group[first] == group[second]
    return first[together], second[together]


class EarthMoversLoss(nn.Module):
    r"""Distance of histograms over ordered bins, through their cumulative sums.

    For each row :math:`\big(\frac1K \sum_{k=1}^{K} |P_k - Q_k|^r\big)^{1/r}` with :math:`P_k = \sum_{i \le k} p_i`,
    then the mean over rows. In [0, 1), 0 for equal histograms. With r = 1 it is the least work, mass times bins, that
    turns one histogram into the other, divided by K.

    Parameters
    ----------
    r : float, default=2
        Exponent, at least 1.

    Notes
    -----
    The root is taken of each row. truskovskiyk/nima.pytorch takes one root over the whole batch, so that its number
    depends on batch mates.

    Source: Talebi and Milanfar, "NIMA: Neural Image Assessment", IEEE TIP 2018: trained with r = 2, tables with r = 1.
    """

    def __init__(self, r: float = 2):
        super().__init__()
        self.r = r

    def forward(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Predicted and true histograms (n, k), rows summing to 1 -> loss."""
        apart = (p - q).cumsum(1)
        # A norm, since the root by itself has no gradient where histograms are equal.
        return (torch.linalg.vector_norm(apart, self.r, dim=1) / apart.shape[1] ** (1 / self.r)).mean()


def rating_histograms(mean, std, n_bins: int) -> np.ndarray:
    r"""Histograms of largest entropy on the ratings 1..n_bins with given mean and standard deviation.

    They are :math:`p_i \propto \exp(a i + b i^2)`; a and b minimise a convex function, by damped Newton steps.

    Parameters
    ----------
    mean, std : array-like of shape (n,)
        Clipped to what such histograms can have: the mean stays 0.05 away from the ends, the variance between that of
        ratings at the two nearest bins and that at the two ends.
    n_bins : int
        Number of ratings, at least 3.

    Returns
    -------
    probabilities : ndarray of shape (n, n_bins)
        Each row sums to 1.
    """
    mean = np.clip(np.asarray(mean, dtype=np.float64), 1.05, n_bins - 0.05)
    low = (mean - np.floor(mean)) * (np.floor(mean) + 1 - mean)
    high = (mean - 1) * (n_bins - mean)
    room = 1e-3 * (high - low)  # at the bounds themselves a and b are infinite
    variance = np.clip(np.square(np.asarray(std, dtype=np.float64)), low + room, high - room)
    distance = np.arange(1, n_bins + 1) - mean[:, None]
    terms = np.stack([distance, distance**2 - variance[:, None]], axis=-1)  # (n, n_bins, 2), to be zero on average
    factors = np.stack([np.zeros_like(mean), -0.5 / np.maximum(variance, 0.25)], axis=-1)  # (n, 2), from Gaussians

    def exponents(factors):
        return np.einsum("nkj,nj->nk", terms, factors)

    for _ in range(100):
        probabilities = softmax(exponents(factors), axis=1)
        gradient = np.einsum("nk,nkj->nj", probabilities, terms)
        if np.abs(gradient).max() < 1e-9:
            break
        centred = terms - gradient[:, None]
        covariance = np.einsum("nk,nki,nkj->nij", probabilities, centred, centred)
        step = np.linalg.solve(covariance, gradient[..., None])[..., 0]
        potential, gain = logsumexp(exponents(factors), axis=1), (step * gradient).sum(1)
        length = np.ones_like(mean)
        for _ in range(40):  # Armijo's rule; the last term lets rounding pass
            allowed = potential - 1e-4 * length * gain + 1e-12
            too_far = logsumexp(exponents(factors - length[:, None] * step), axis=1) > allowed
            if not too_far.any():
                break
            length[too_far] /= 2
        factors = factors - length[:, None] * step
    return probabilities


class NormInNormLoss(nn.Module):
    r"""Distance of scores and labels after both were centred and brought to length one: their units are gone.

    For n rows, with :math:`\hat s = (s - \bar s) / \lVert s - \bar s \rVert_2` and the same for labels, it is

    .. math:: \lVert \hat s - \hat y \rVert_1 / (2 \sqrt n),

    0 when a rising line leads from scores to labels, and at most 1. Labels that are all equal say nothing: 0.

    Parameters
    ----------
    monotonicity : float, default=0.0
        Weight of a second term for ordered pairs (i, j): how much the score of i is above that of j although its label
        is below. It is the mean over all pairs, divided by 1 plus the largest.

    Source: Li, Jiang, Jiang, "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", ACM MM 2020, with p = 1 and q = 2; the second term as in the official code of KonIQ++.
    """

    def __init__(self, monotonicity: float = 0.0):
        super().__init__()
        self.monotonicity = monotonicity

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores and labels (n, k), each column for itself -> loss of each column (k,)."""
        apart = _centred_and_scaled(scores) - _centred_and_scaled(labels)
        losses = apart.abs().sum(0) / (2 * len(scores) ** 0.5)
        if self.monotonicity:
            losses = losses + self.monotonicity * self._disorder(scores, labels)
        # NOTE[DIFF] official: equal labels, centred, leave rounding errors, and scores are pulled towards those.
        return losses * (labels.amax(0) > labels.amin(0))

    def _disorder(self, scores, labels):
        wrong = ((scores[:, None] - scores) * torch.sign(labels - labels[:, None])).relu()  # (n, n, k)
        return wrong.sum((0, 1)) / (len(scores) * max(len(scores) - 1, 1) * (1 + wrong.amax((0, 1))))


def _centred_and_scaled(columns):
    centred = columns - columns.mean(0)
    return centred / (1e-8 + torch.linalg.vector_norm(centred, dim=0))

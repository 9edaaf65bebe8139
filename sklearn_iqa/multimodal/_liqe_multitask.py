# SPDX-License-Identifier: BSD-3-Clause
"""Learning quality, scene and distortion at once (Zhang et al., CVPR 2023): losses of the tasks and their weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import skorch.callbacks
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._nn.losses import FidelityLoss, pairs_within

TEMPERATURE = 2.0  # of the weights of tasks


class TaskProbabilities(NamedTuple):
    """Probabilities of n images: quality levels (n, n_levels), scenes (n, n_scenes), distortions (n, n_distortions)."""

    quality: torch.Tensor
    scene: torch.Tensor
    distortion: torch.Tensor


def expected_level(quality):
    """Probabilities (n, k) of the quality levels, worst first -> quality (n,) in 1..k."""
    return quality @ torch.arange(1, quality.shape[1] + 1, dtype=quality.dtype, device=quality.device)


class MultitaskLoss(nn.Module):
    """Fidelity of preferences, scenes and distortions, weighted; what has no labels is left out.

    `weights` holds the weight of each task; `sums` and `n_batches` accumulate the losses of an epoch.
    """

    weights: torch.Tensor
    sums: torch.Tensor

    def __init__(self):
        super().__init__()
        self.fidelity = FidelityLoss()
        self.register_buffer("weights", torch.ones(3))
        self.register_buffer("sums", torch.zeros(3))
        self.n_batches = 0

    def quality(self, output: TaskProbabilities, mos, domain):
        """Loss over all pairs of one domain, mean over the domains that have pairs in the batch."""
        scores = expected_level(output.quality)
        losses = []
        for one in domain.unique():
            members = (domain == one).nonzero().flatten()
            first, second = (members[place] for place in pairs_within(domain[members]))
            if len(first):
                p = torch.special.ndtr(scores[first] - scores[second])
                losses.append(self.fidelity(p, (torch.sign(mos[first] - mos[second]) + 1) / 2))
        return torch.stack(losses).mean() if losses else 0 * scores.sum()

    def scene(self, output: TaskProbabilities, scene):
        """`scene` (n, n_scenes): 1 for each scene that an image shows."""
        return self.fidelity(output.scene, scene)

    def distortion(self, output: TaskProbabilities, distortion):
        """`distortion` (n,): number of the distortion of each image."""
        true = F.one_hot(distortion.long(), output.distortion.shape[1])
        return (1 - (output.distortion * true + 1e-8).sqrt().sum(1)).mean()

    def forward(self, output: TaskProbabilities, target):
        """Output for n images; target (n, 3 + n_scenes): MOS, domain, distortion, scenes; -1 unknown -> loss."""
        mos, domain, distortion, scene = target[:, 0], target[:, 1], target[:, 2], target[:, 3:]
        losses = {0: self.quality(output, mos, domain)}
        if scene.shape[1] and (scene >= 0).all():
            losses[1] = self.scene(output, scene)
        if (distortion >= 0).all():
            losses[2] = self.distortion(output, distortion)
        places, values = list(losses), torch.stack(list(losses.values()))
        gathered = torch.full_like(self.sums, math.nan)
        gathered[places] = values.detach()
        self.sums += gathered
        self.n_batches += 1
        return (values * self.weights[places]).sum()


def task_weights(before: Sequence[float], last: Sequence[float]) -> np.ndarray:
    """Mean losses of the tasks in the last two epochs -> their weights: larger for those that fall more slowly."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a task without labels, or without pairs
        ratio = np.asarray(last) / np.asarray(before)
    weights, known = np.ones(len(ratio)), np.isfinite(ratio)
    risen = np.exp(ratio[known] / TEMPERATURE)
    weights[known] = known.sum() * risen / risen.sum()
    return weights


class TaskWeights(skorch.callbacks.Callback):
    """Weighs the tasks by their losses in the two epochs before, which `curve` collects."""

    def __init__(self, curve: list):
        self.curve = curve

    def on_epoch_begin(self, net, **kwargs):
        """Set the weights and reset the sums."""
        loss = net.criterion_
        weights = task_weights(*self.curve[-2:]) if len(self.curve) > 1 else np.ones(3)
        loss.weights.copy_(torch.as_tensor(weights))
        loss.sums.zero_()
        loss.n_batches = 0

    def on_epoch_end(self, net, **kwargs):
        """Append the mean losses."""
        loss = net.criterion_
        self.curve.append(tuple((loss.sums / loss.n_batches).tolist()))


def distortion_numbers(distortion, names: Sequence[str], n: int) -> np.ndarray:
    """Distortion of each image, or None -> its place (n,) among the names; -1 where none is given."""
    return np.full(n, -1) if distortion is None else np.array(_places(distortion, names, "distortion"))


def shown_scenes(scene, names: Sequence[str], n: int) -> np.ndarray:
    """Scene or scenes of each image, or None -> table (n, n_names) of 1 shown, 0 not shown; -1 where none is given."""
    if scene is None:
        return np.full((n, len(names)), -1)
    shown = np.zeros((n, len(names)), dtype=int)
    for row, one in enumerate(scene):
        shown[row, _places([one] if isinstance(one, str) else one, names, "scene")] = 1
    return shown


def _places(labels, names: Sequence[str], what: str) -> list[int]:
    known = {name: place for place, name in enumerate(names)}
    for label in labels:
        if label not in known:
            raise ValueError(
                f"{what} holds {label!r}, but the prompts name {', '.join(names) or 'none'}; give one of these, or "
                f"set {what}s."
            )
    return [known[label] for label in labels]

# SPDX-License-Identifier: BSD-3-Clause
"""Losses that two or more methods use: modules that see (prediction, target) and nothing else."""

import torch
import torch.nn.functional as F
from torch import nn


class JudgementLoss(nn.Module):
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
        """Distances (n, 2), shares (n,) in [0, 1] of people who preferred the second image -> loss."""
        return F.binary_cross_entropy(self.preference(distances), judgement)

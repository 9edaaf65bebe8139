# SPDX-License-Identifier: BSD-3-Clause
"""Images of any size and shape as tokens: patches of several scales with their position, and layers to embed them.

Source: Ke et al., "MUSIQ: Multi-scale Image Quality Transformer", ICCV 2021.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["GRID", "PATCH", "PIXELS", "Bottleneck", "StandardizedConv", "multiscale_tokens"]

PATCH, GRID = 32, 10  # side of a patch in pixels; cells per axis of the grid to which positions are hashed
PIXELS = 3 * PATCH**2  # values of a token; position, scale and mask follow


def multiscale_tokens(
    image: torch.Tensor, longer_sides: Iterable[int], lengths: Sequence[int] | None = None
) -> torch.Tensor:
    """Tokens of an image and of its resized copies, the smallest copy first.

    Parameters
    ----------
    image : Tensor of shape (3, h, w)
        In -1..1; patches beyond the border are padded with zeros, mid grey.
    longer_sides : iterable of int
        Longer side of each copy in pixels; smaller images are enlarged. Bicubic, not antialiased.
    lengths : sequence of int, default=None
        Number of tokens of each scale: longer sequences are truncated, shorter ones padded with zeros, whose mask is 0.
        None keeps all tokens and pads none.

    Returns
    -------
    tokens : Tensor of shape (t, 3075)
        3072 pixels of a patch (channel, row, column), index of its position (10 row + column of a grid of 10 x 10 that
        covers the image), index of its scale, mask 1.
    """
    height, width = image.shape[1:]
    scales = []
    for side in sorted(longer_sides):
        size = [max(1, round(side * pixels / max(height, width))) for pixels in (height, width)]
        scales.append(F.interpolate(image[None], size, mode="bicubic")[0])
    tokens = [_tokens(one, scale) for scale, one in enumerate([*scales, image])]
    if lengths is not None:
        tokens = [
            F.pad(one[:length], (0, 0, 0, max(0, length - len(one))))
            for one, length in zip(tokens, lengths, strict=True)
        ]
    return torch.cat(tokens)


def _tokens(image: torch.Tensor, scale: int) -> torch.Tensor:
    """Patches of an image (3, h, w), row by row: (t, 3075), pixels (channel, row, column), position, scale, mask 1."""
    rows, columns = (math.ceil(side / PATCH) for side in image.shape[1:])
    down, right = rows * PATCH - image.shape[1], columns * PATCH - image.shape[2]
    padded = F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2))  # zero: mid grey
    patches = padded.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # (3, rows, columns, 32, 32)
    row, column = (F.interpolate(torch.arange(GRID * 1.0)[None, None], count)[0, 0] for count in (rows, columns))
    position = (GRID * row[:, None] + column).flatten()
    about = torch.stack([position, torch.full_like(position, scale), torch.ones_like(position)], dim=1)
    return torch.cat([patches.permute(1, 2, 0, 3, 4).reshape(-1, PIXELS), about], dim=1)


class StandardizedConv(nn.Conv2d):
    """A convolution whose filters are standardised: mean 0, standard deviation 1."""

    def forward(self, maps):
        """As `nn.Conv2d`."""
        # NOTE[DIFF] flax: the variance has n, in pyiqa and here n - 1; GroupNorm cancels all but 4e-7 of it.
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(maps, (self.weight - mean) / (std + 1e-5), stride=self.stride, padding=self.padding)


class Bottleneck(nn.Module):
    """The first block of a ResNet with GroupNorm."""

    def __init__(self, width: int, width_out: int):
        super().__init__()
        self.conv1 = StandardizedConv(width, width, 1, bias=False)
        self.gn1 = nn.GroupNorm(32, width, eps=1e-4)
        self.conv2 = StandardizedConv(width, width, 3, padding=1, bias=False)
        self.gn2 = nn.GroupNorm(32, width, eps=1e-4)
        self.conv3 = StandardizedConv(width, width_out, 1, bias=False)
        self.gn3 = nn.GroupNorm(32, width_out, eps=1e-4)
        self.conv_proj = StandardizedConv(width, width_out, 1, bias=False)
        self.gn_proj = nn.GroupNorm(32, width_out, eps=1e-4)

    def forward(self, maps):  # (t, 64, 8, 8)
        shortcut = self.gn_proj(self.conv_proj(maps))  # (t, 256, 8, 8)
        maps = F.relu(self.gn1(self.conv1(maps)))
        maps = F.relu(self.gn2(self.conv2(maps)))
        return F.relu(shortcut + self.gn3(self.conv3(maps)))

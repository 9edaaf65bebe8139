# SPDX-License-Identifier: BSD-3-Clause
"""How pyiqa (IQA-PyTorch 0.1.16) cuts and resizes, for `protocol="pyiqa"`.

It works on tensors in 0..1 from beginning to end, where official codes resize 8-bit images with Pillow. Written from
what it does; its code, under the PolyForm Noncommercial licence, is not here.
"""

import math

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from sklearn_iqa._nn.transforms import center_crop

__all__ = ["resized_center", "uniform_crops"]


def uniform_crops(tensor: torch.Tensor, size: int, n_crops: int) -> torch.Tensor:
    """Squares on a grid that begins at the top left corner: (..., 3, h, w) -> (n_crops, ..., 3, size, size).

    The grid has as many rows as columns, the root of `n_crops` rounded up, and its first places are taken, row by row.
    Their distance is the free length divided by the root rounded down: 25 crops end before the border, 20 leave out the
    lowest row. An image with a side of `size` pixels or less is enlarged to `size` + 1, bilinearly.
    """
    height, width = tensor.shape[-2:]
    if min(height, width) <= size:
        factor = (size + 1) / min(height, width)
        images = tensor.reshape(-1, *tensor.shape[-3:])
        enlarged = F.interpolate(images, scale_factor=factor, mode="bilinear")
        tensor = enlarged.reshape(*tensor.shape[:-2], *enlarged.shape[-2:])
        height, width = tensor.shape[-2:]
    root = math.isqrt(n_crops)
    n_columns = root if root**2 == n_crops else root + 1
    down, right = (height - size) // root, (width - size) // root
    corners = [(i // n_columns * down, i % n_columns * right) for i in range(n_crops)]
    return torch.stack([tensor[..., top : top + size, left : left + size] for top, left in corners])


def resized_center(tensor: torch.Tensor, shorter_side: int, size: int, interpolation: InterpolationMode):
    """Resize so that the shorter side is `shorter_side`, unrounded and unbounded, and cut out the central square."""
    return center_crop(resize(tensor, [shorter_side], interpolation), size)

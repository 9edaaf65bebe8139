# SPDX-License-Identifier: BSD-3-Clause
"""How pyiqa (IQA-PyTorch 0.1.16) cuts and resizes, for `protocol="pyiqa"`.

It works on tensors in 0..1 from beginning to end, where official codes resize 8-bit images with Pillow. Written from
what it does; its code, under the PolyForm Noncommercial licence, is not here.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from sklearn_iqa._nn.transforms import Images, center_crop, crop_at, height_and_width, squares

__all__ = ["resized_center", "uniform_crops"]


def uniform_crops(images: Images, size: int, n_crops: int, convert: Callable[[Images], torch.Tensor]) -> torch.Tensor:
    """Squares on a grid that begins at the top left corner: images (h, w, 3) -> (n_crops, ..., 3, size, size).

    The grid has as many rows as columns, the root of `n_crops` rounded up, and its first places are taken, row by row.
    Their distance is the free length divided by the root rounded down: 25 crops end before the border, 20 leave out the
    lowest row. An image with a side of `size` pixels or less is enlarged to `size` + 1, bilinearly, behind `convert`,
    which is that of `squares`.
    """
    height, width = height_and_width(images)
    if min(height, width) > size:
        return squares(images, _uniform_places(height, width, size, n_crops), size, convert)
    tensor = convert(images)
    factor = (size + 1) / min(height, width)
    enlarged = F.interpolate(tensor.reshape(-1, 3, height, width), scale_factor=factor, mode="bilinear")
    tensor = enlarged.reshape(*tensor.shape[:-2], *enlarged.shape[-2:])
    height, width = enlarged.shape[-2:]
    places = _uniform_places(height, width, size, n_crops)
    return torch.stack([crop_at(tensor, place, size) for place in places])


def _uniform_places(height: int, width: int, size: int, n_crops: int) -> list[tuple[int, int]]:
    root = math.isqrt(n_crops)
    n_columns = root if root**2 == n_crops else root + 1
    down, right = (height - size) // root, (width - size) // root
    return [(i // n_columns * down, i % n_columns * right) for i in range(n_crops)]


def resized_center(tensor: torch.Tensor, shorter_side: int, size: int, interpolation: InterpolationMode):
    """Resize so that the shorter side is `shorter_side`, unrounded and unbounded, and cut out the central square."""
    return center_crop(resize(tensor, [shorter_side], interpolation), size)

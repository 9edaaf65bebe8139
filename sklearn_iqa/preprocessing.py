# SPDX-License-Identifier: BSD-3-Clause
"""Images -> tensor views: resize, scale, normalise, crop.

Functions on images take arrays (height, width, 3) as `images.read_image` gives them; functions on tensors act on the
last three axes (..., 3, height, width), so that one call cuts an image, a pair or a stack alike.
"""

import numpy as np
import torch
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # maps [0, 1] to [-1, 1]


def resize(image: np.ndarray, height: int, width: int, resample: Image.Resampling) -> np.ndarray:
    """Resize as Pillow does (antialiased), uint8 staying uint8 and float32 staying float32 in 0..1.

    Official pipelines resize 8-bit images with Pillow, which rounds to 8 bits; only the same call gives their number.
    """
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize((width, height), resample))
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image[..., c])).resize((width, height), resample))
        for c in range(3)
    ]
    return np.clip(np.stack(planes, axis=-1), 0.0, 1.0)  # bicubic and Lanczos overshoot


def resize_shorter(image: np.ndarray, side: int, resample: Image.Resampling) -> np.ndarray:
    """Resize so that the shorter side is `side` pixels; the longer one is cut to a whole number, as in torchvision."""
    height, width = image.shape[:2]
    if height <= width:
        return resize(image, side, int(side * width / height), resample)
    return resize(image, int(side * height / width), side, resample)


def to_tensor(image: np.ndarray | tuple[np.ndarray, ...]) -> torch.Tensor:
    """Image -> float32 tensor (3, height, width) in 0..1; a tuple of k images of one size -> (k, 3, height, width).

    Always a copy: joblib hands out read-only memory maps, and writing to one kills the worker.
    """
    if isinstance(image, tuple):
        return torch.stack([to_tensor(one) for one in image])
    channels_first = torch.from_numpy(np.array(np.moveaxis(image, -1, 0), order="C"))
    return channels_first.float().div_(255) if image.dtype == np.uint8 else channels_first


def normalize(tensor: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """(x - mean) / std per channel, on (..., 3, height, width)."""
    return (tensor - tensor.new_tensor(mean).view(3, 1, 1)) / tensor.new_tensor(std).view(3, 1, 1)


def random_crop(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """A square of `size` pixels cut at random, one place for all leading axes, from torch's generator."""
    height, width = tensor.shape[-2:]
    top = int(torch.randint(0, height - size + 1, ()))
    left = int(torch.randint(0, width - size + 1, ()))
    return tensor[..., top : top + size, left : left + size]


def center_crop(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """The central square of `size` pixels; an odd rest is split as torchvision splits it."""
    height, width = tensor.shape[-2:]
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return tensor[..., top : top + size, left : left + size]


def random_flip(tensor: torch.Tensor, p: float = 0.5, axis: int = -1) -> torch.Tensor:
    """Mirror with probability `p`: axis -1 exchanges left and right, axis -2 top and bottom."""
    return tensor.flip(axis) if float(torch.rand(())) < p else tensor


def grid_positions(height: int, width: int, size: int, n_crops: int) -> list[tuple[int, int]]:
    """Top-left corners of `n_crops` squares spread evenly over an image, in row-major order.

    The grid has as few more places than `n_crops` as its shape allows, its aspect follows the image's, its outer
    squares touch the borders; when places are left over, evenly spaced ones are taken. One crop is the central one.
    """
    if n_crops == 1:
        return [((height - size) // 2, (width - size) // 2)]
    free_height, free_width = height - size, width - size
    n_rows = max(1, min(n_crops, round(np.sqrt(n_crops * (free_height + 1) / (free_width + 1)))))
    n_columns = -(-n_crops // n_rows)
    tops = np.linspace(0, free_height, n_rows) if n_rows > 1 else np.array([free_height / 2])
    lefts = np.linspace(0, free_width, n_columns) if n_columns > 1 else np.array([free_width / 2])
    places = [(int(top), int(left)) for top in tops for left in lefts]
    return [places[i] for i in np.linspace(0, len(places) - 1, n_crops).round().astype(int)]


def grid_crops(tensor: torch.Tensor, size: int, n_crops: int) -> torch.Tensor:
    """`n_crops` squares spread evenly: (..., 3, height, width) -> (n_crops, ..., 3, size, size); see grid_positions."""
    height, width = tensor.shape[-2:]
    places = grid_positions(height, width, size, n_crops)
    return torch.stack([tensor[..., top : top + size, left : left + size] for top, left in places])

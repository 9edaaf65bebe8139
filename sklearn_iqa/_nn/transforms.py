# SPDX-License-Identifier: BSD-3-Clause
"""Images -> tensor views: resize, crop, scale, normalise.

Functions on images take arrays (height, width, 3) as `images.read_image` gives them; those that cut squares also take
tuples of arrays of one size, all cut at the same places, and give views without a copy. Functions on tensors act on the
last three axes (..., 3, height, width). Where nothing but crops is needed, squares are cut from the image as it came,
so that only they become float tensors.
"""

import math
import zlib
from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from PIL import Image

Images = np.ndarray | tuple[np.ndarray, ...]

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


def reduce_area(image: np.ndarray, max_pixels: int, resample: Image.Resampling) -> np.ndarray:
    """Reduce an image of more than `max_pixels` pixels to about so many, keeping its shape; smaller ones stay."""
    height, width = image.shape[:2]
    if height * width <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (height * width))
    return resize(image, max(1, round(scale * height)), max(1, round(scale * width)), resample)


def to_tensor(image: Images) -> torch.Tensor:
    """Image -> float32 tensor (3, height, width) in 0..1; a tuple of k images of one size -> (k, 3, height, width).

    Numbers stay in the order of the image, channels last, as networks like them. Always a copy: joblib hands out
    read-only memory maps, and writing to one kills the worker.
    """
    arrays = torch.from_numpy(np.stack(image) if isinstance(image, tuple) else np.array(image, order="C"))
    return (arrays.float().div_(255) if arrays.dtype == torch.uint8 else arrays).movedim(-1, -3)


def normalize(tensor: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """(x - mean) / std per channel, on (..., 3, height, width)."""
    return (tensor - tensor.new_tensor(mean).view(3, 1, 1)) / tensor.new_tensor(std).view(3, 1, 1)


def random_crop(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """A square of `size` pixels cut at random, one place for all leading axes."""
    height, width = tensor.shape[-2:]
    return crop_at(tensor, _random_place(height, width, size), size)


def random_square(images: Images, size: int) -> Images:
    """A square of `size` pixels cut at random, by torch's generator."""
    return square_at(images, _random_place(*height_and_width(images), size), size)


def random_places(
    images: Images, size: int, n_places: int, generator: torch.Generator | None = None
) -> list[tuple[int, int]]:
    """Top-left corners of `n_places` squares of `size` pixels, drawn independently; None takes torch's generator."""
    height, width = height_and_width(images)
    return [_random_place(height, width, size, generator) for _ in range(n_places)]


def _random_place(height: int, width: int, size: int, generator: torch.Generator | None = None) -> tuple[int, int]:
    _check_fits(height, width, size)
    top = int(torch.randint(0, height - size + 1, (), generator=generator))
    left = int(torch.randint(0, width - size + 1, (), generator=generator))
    return top, left


def overlapping_pair(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Two squares that share 10 to 30 % of their area: (..., 3, height, width) -> (..., 2, 3, size, size).

    The second lies 0.7 to 0.9 sides further down, and as far to the right as the overlap allows; one place for all
    leading axes, from torch's generator. Source: the official code of Re-IQA, for a size of 8 or more.
    """
    down = int(torch.randint(math.ceil(0.7 * size), math.ceil(0.9 * size), ()))
    # They share (size - down) (size - right) pixels.
    nearest, farthest = (size - share * size**2 / (size - down) for share in (0.3, 0.1))
    right = int(torch.randint(max(0, math.ceil(nearest)), math.floor(farthest) + 1, ()))
    square = random_crop(tensor, size + max(down, right))
    shifted = square[..., down : down + size, right : right + size]
    return torch.stack([square[..., :size, :size], shifted], dim=-4)


def side_of_overlapping_pair(size: int) -> int:
    """Side of the square that holds every `overlapping_pair`."""
    return size + math.ceil(0.9 * size) - 1


def center_crop(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """The central square of `size` pixels; an odd rest is split as torchvision splits it."""
    height, width = tensor.shape[-2:]
    return crop_at(tensor, _central_place(height, width, size), size)


def central_square(images: Images, size: int) -> Images:
    """The central square of `size` pixels, at the place of `center_crop`."""
    return square_at(images, _central_place(*height_and_width(images), size), size)


def _central_place(height: int, width: int, size: int) -> tuple[int, int]:
    _check_fits(height, width, size)
    return round((height - size) / 2.0), round((width - size) / 2.0)


def random_flip(tensor: torch.Tensor, p: float = 0.5, axis: int = -1) -> torch.Tensor:
    """Mirror with probability `p`: axis -1 exchanges left and right, axis -2 top and bottom."""
    return tensor.flip(axis) if float(torch.rand(())) < p else tensor


def grid_positions(height: int, width: int, size: int, n_crops: int) -> list[tuple[int, int]]:
    """Top-left corners of `n_crops` squares spread evenly over an image, in row-major order.

    An even number of squares lies on a grid whose aspect follows the image's and whose outer squares touch the
    borders; where the grid has more places than squares, evenly spaced ones are taken. An odd number is the central
    square and the grid for the others. Turned by 180 degrees the places are the same, to the pixel of rounding, unless
    the image is hardly larger than a square.
    """
    _check_fits(height, width, size)
    free_height, free_width = height - size, width - size
    places = _grid(free_height, free_width, n_crops - n_crops % 2)
    if n_crops % 2:
        center = (free_height // 2, free_width // 2)
        # On an image hardly larger than a square, different places matter more than symmetric ones.
        places = _grid(free_height, free_width, n_crops) if center in places else [*places, center]
    return sorted(places)


def _grid(free_height: int, free_width: int, n_crops: int) -> list[tuple[int, int]]:
    """Of a grid with `n_crops` places, or as few more as its shape allows, `n_crops` evenly spaced ones."""
    if n_crops == 0:
        return []
    n_rows = min(n_crops, round(math.sqrt(n_crops * (free_height + 1) / (free_width + 1))))
    n_rows = max(n_rows, math.ceil(n_crops / (free_width + 1)))  # no more columns than there are different ones
    n_columns = math.ceil(n_crops / n_rows)
    places = [(top, left) for top in _spread(free_height, n_rows) for left in _spread(free_width, n_columns)]
    return [places[round(i)] for i in np.linspace(0, len(places) - 1, n_crops)]


def _spread(free: int, n_places: int) -> list[int]:
    """From 0 to `free` in equal steps, in whole numbers; one place is the middle."""
    return [i * free // (n_places - 1) for i in range(n_places)] if n_places > 1 else [free // 2]


def _check_fits(height: int, width: int, size: int) -> None:
    if size > min(height, width):
        raise ValueError(
            f"An image of {height} x {width} pixels (height x width) came where a crop of {size} x {size} is due; "
            "enlarge the image first, or leave it out."
        )


def height_and_width(images: Images) -> tuple[int, int]:
    """Size in pixels of an image, or of the images of a tuple."""
    height, width, _ = (images[0] if isinstance(images, tuple) else images).shape
    return height, width


def square_at(images: Images, place: tuple[int, int], size: int) -> Images:
    """The square of `size` pixels whose top-left corner is `place`."""
    top, left = place
    if isinstance(images, tuple):
        return tuple(image[top : top + size, left : left + size] for image in images)
    return images[top : top + size, left : left + size]


def crop_at(tensor: torch.Tensor, place: tuple[int, int], size: int) -> torch.Tensor:
    """The same of (..., 3, height, width)."""
    top, left = place
    return tensor[..., top : top + size, left : left + size]


def squares(
    images: Images, places: list[tuple[int, int]], size: int, convert: Callable[[Images], torch.Tensor]
) -> torch.Tensor:
    """Squares of an image as tensors, stacked.

    Parameters
    ----------
    images : array of shape (height, width, 3), or tuple of such arrays of one size
    places : list of n tuples
        Top-left corners.
    size : int
        Side of the squares, in pixels.
    convert : callable
        Images -> tensor (..., 3, height, width), each number from its own pixel alone, such as `to_tensor`.

    Returns
    -------
    squares : Tensor of shape (n, ..., 3, size, size)
    """
    height, width = height_and_width(images)
    if len(places) * size**2 < height * width:
        return torch.stack([convert(square_at(images, place, size)) for place in places])
    # Squares overlap so much that the whole image has fewer pixels to convert than they have.
    tensor = convert(images)
    return torch.stack([crop_at(tensor, place, size) for place in places])


def places_to_score(
    images: Images, size: int, n_crops: int, *, crops: str, content: np.ndarray, random_state
) -> list[tuple[int, int]]:
    """Top-left corners of `n_crops` squares of `size` pixels, the same at every call.

    They lie on a grid (`crops` is "grid", see `grid_positions`), or at random places that depend on the pixels of
    `content`, an image, and on an integer `random_state` (0 for any other) alone ("random"). Official codes draw all
    from one generator, so that a score there depends on the images before it.
    """
    if crops == "grid":
        return grid_positions(*height_and_width(images), size, n_crops)
    seed = int(random_state) if isinstance(random_state, Integral) else 0
    generator = torch.Generator().manual_seed(zlib.crc32(np.ascontiguousarray(content).data, seed))
    return random_places(images, size, n_crops, generator)

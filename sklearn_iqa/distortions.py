# SPDX-License-Identifier: BSD-3-Clause
"""The 25 kinds of distortion of KADID-10k, each in five levels of rising severity [1]_.

`DISTORTIONS` names them in KADID's order and :func:`distort` applies one. The kinds are KADID's; the operations are
reimplemented on Pillow, SciPy and scikit-image, so an image made here is not bit for bit one of KADID's.

The amounts are those of KADID's generator (for JPEG those of Re-IQA [2]_), except where a level of KADID's does nothing
or is weaker than the one before, since here a higher level is always worse:

- ``gaussian_blur``: standard deviations start at 0.4 px; KADID's 0.1 px changes no 8-bit value.
- ``color_saturation_2``: factors start at 1.5; KADID's 1 is the identity.
- ``mean_shift``: 0.03 to 0.15 away from the nearer end of the range; KADID goes from +0.15 through 0 to -0.15.
- ``contrast_change``: 15 % to 75 % of the contrast is lost; KADID goes from more contrast through none to less.

Where KADID's generator has another operation under the same name:

- ``quantization`` takes equal steps instead of Otsu's thresholds.
- ``denoise`` uses an adaptive Wiener filter on the noise instead of a trained network, with less noise (the amounts of
  ``white_noise``, as Re-IQA has it).
- ``color_diffusion`` blurs the chroma and does not also multiply it.
- ``brighten`` and ``darken`` map the lightness by a power curve instead of a spline.
- ``non_eccentricity_patch`` and ``color_block`` have patches of 16 and 32 px in KADID's 512 x 384 images; elsewhere the
  side follows the square root of the image's area, so that a level covers the same fraction of every image.

References
----------
.. [1] H. Lin, V. Hosu, D. Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019.
.. [2] A. Saha, S. Mishra, A. C. Bovik, "Re-IQA: Unsupervised Learning for Image Quality Assessment in the Wild",
   CVPR 2023.
"""

import io
import math
import warnings
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage, signal
from skimage import color, draw, morphology
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from sklearn_iqa._base.images import read_image
from sklearn_iqa._base.parameters import one_of

__all__ = ["DISTORTIONS", "distort"]

KADID_AREA = 512 * 384

# Every operation below takes an image (h, w, 3) float32 in [0, 1], the amount of one level and a RandomState, and
# returns a new image of the same shape whose values may leave [0, 1]: `distort` clips and rounds once, at the end.


def _gaussian_blur(image, sigma, rng):
    return ndimage.gaussian_filter(image, sigma, axes=(0, 1))


def _lens_blur(image, radius, rng):
    return _convolve(image, morphology.disk(radius))


def _motion_blur(image, radius, rng):
    angle = rng.uniform(0, math.pi)
    center = radius + 1  # one spare pixel: an antialiased line may reach beyond its ends
    down, right = round(radius * math.sin(angle)), round(radius * math.cos(angle))
    rows, columns, coverage = draw.line_aa(center - down, center - right, center + down, center + right)
    kernel = np.zeros((2 * center + 1, 2 * center + 1))
    kernel[rows, columns] = coverage
    return _convolve(image, kernel)


def _color_diffusion(image, sigma, rng):
    lab = color.rgb2lab(image)
    lab[..., 1:] = ndimage.gaussian_filter(lab[..., 1:], sigma, axes=(0, 1))
    return _lab_to_rgb(lab)


def _color_shift(image, distance, rng):
    angle = rng.uniform(0, 2 * math.pi)
    green = image[..., 1]
    displaced = ndimage.shift(green, (distance * math.sin(angle), distance * math.cos(angle)), order=1, mode="nearest")
    edges = ndimage.gaussian_filter(ndimage.gaussian_gradient_magnitude(image.mean(axis=2), 1), 4)
    blend = edges / max(edges.max(), np.finfo(edges.dtype).tiny)
    shifted = image.copy()
    shifted[..., 1] = green + blend * (displaced - green)
    return shifted


def _color_quantization(image, n_colors, rng):
    picture = _to_pillow(image)
    sample = picture.copy()
    sample.thumbnail((128, 128), Image.Resampling.NEAREST)  # median cut of all pixels takes six times as long
    palette = sample.quantize(n_colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return _from_pillow(picture.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))


def _color_saturation_1(image, factor, rng):
    # Multiplying S of HSV while H and V stay moves each channel along the line to V, the largest of the three.
    value = image.max(axis=2, keepdims=True)
    return value + factor * (image - value)


def _color_saturation_2(image, factor, rng):
    lab = color.rgb2lab(image)
    lab[..., 1:] *= factor
    return _lab_to_rgb(lab)


def _jpeg2000(image, ratio, rng):
    return _recompress(image, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def _jpeg(image, quality, rng):
    return _recompress(image, format="JPEG", quality=quality)


def _white_noise(image, variance, rng):
    return image + _noise(image.shape, variance, rng)


def _white_noise_color_component(image, variance, rng):
    return color.ycbcr2rgb(color.rgb2ycbcr(image) + 255 * _noise(image.shape, variance, rng))


def _impulse_noise(image, density, rng):
    draws = rng.random_sample(image.shape)
    return np.where(draws < density, draws < density / 2, image)


def _multiplicative_noise(image, variance, rng):
    return image * (1 + _noise(image.shape, variance, rng))


def _denoise(image, variance, rng):
    noisy = _white_noise(image, variance, rng)
    return np.stack([signal.wiener(noisy[..., channel], 5, variance) for channel in range(3)], axis=2)


def _brighten(image, amount, rng):
    return _map_lightness(image, 1 / (1 + amount))


def _darken(image, amount, rng):
    return _map_lightness(image, 1 + amount)


def _mean_shift(image, shift, rng):
    # Away from the nearer end of the range: a dark image made darker still would hardly change.
    return image + (shift if image.mean() < 0.5 else -shift)


def _jitter(image, deviation, rng):
    places = np.indices(image.shape[:2]) + deviation * rng.standard_normal((2, *image.shape[:2]))
    return np.stack([ndimage.map_coordinates(image[..., c], places, order=1, mode="reflect") for c in range(3)], axis=2)


def _non_eccentricity_patch(image, n_patches, rng):
    side = _patch_side(image, 16)
    last = np.subtract(image.shape[:2], side)
    patched = image.copy()
    for _ in range(n_patches):
        row, column = rng.randint(last + 1)
        from_row, from_column = np.clip((row, column) + rng.randint(-side, side + 1, 2), 0, last)
        patched[row : row + side, column : column + side] = image[
            from_row : from_row + side, from_column : from_column + side
        ]
    return patched


def _pixelate(image, amount, rng):
    height, width = image.shape[:2]
    scale = 0.95 - amount**0.6  # the generator's rule
    small = (max(1, round(scale * width)), max(1, round(scale * height)))
    shrunk = _to_pillow(image).resize(small, Image.Resampling.BOX)
    return _from_pillow(shrunk.resize((width, height), Image.Resampling.NEAREST))


def _quantization(image, n_steps, rng):
    return np.rint(image * (n_steps - 1)) / (n_steps - 1)


def _color_block(image, n_blocks, rng):
    side = _patch_side(image, 32)
    blocked = image.copy()
    for _ in range(n_blocks):
        row, column = rng.randint(np.subtract(image.shape[:2], side) + 1)
        blocked[row : row + side, column : column + side] = rng.random_sample(3)
    return blocked


def _high_sharpen(image, amount, rng):
    lab = color.rgb2lab(image)
    lab[..., 0] += amount * (lab[..., 0] - ndimage.gaussian_filter(lab[..., 0], 1))
    return _lab_to_rgb(lab)


def _contrast_change(image, loss, rng):
    mean = image.mean()
    return mean + (1 - loss) * (image - mean)


def _convolve(image, kernel):
    kernel = (kernel / kernel.sum()).astype(np.float32)
    margin = [(size // 2, size // 2) for size in kernel.shape]
    return signal.fftconvolve(np.pad(image, [*margin, (0, 0)], mode="symmetric"), kernel[..., None], "valid", (0, 1))


def _noise(shape, variance, rng):
    return math.sqrt(variance) * rng.standard_normal(shape).astype(np.float32)


def _map_lightness(image, exponent):
    lab = color.rgb2lab(image)
    lab[..., 0] = 100 * (lab[..., 0] / 100).clip(0, 1) ** exponent
    return _lab_to_rgb(lab)


def _lab_to_rgb(lab):
    with warnings.catch_warnings():
        # Colours outside the RGB cube are expected here, and clipped.
        warnings.filterwarnings("ignore", message=".*negative Z values", category=UserWarning)
        return color.lab2rgb(lab)


def _patch_side(image, side_in_kadid):
    height, width = image.shape[:2]
    side = round(side_in_kadid * math.sqrt(height * width / KADID_AREA))
    return min(max(1, side), height, width)


def _recompress(image, **encoding):
    buffer = io.BytesIO()
    _to_pillow(image).save(buffer, **encoding)
    return _from_pillow(Image.open(buffer))


def _to_pillow(image):
    return Image.fromarray(_to_uint8(image))


def _from_pillow(picture):
    return np.asarray(picture, dtype=np.float32) / 255


def _to_uint8(image):
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


# name -> (operation, its amounts at the levels 1 to 5), in KADID's order
_BANK = {
    "gaussian_blur": (_gaussian_blur, (0.4, 0.5, 1, 2, 5)),  # standard deviation, px
    "lens_blur": (_lens_blur, (1, 2, 4, 6, 8)),  # radius, px
    "motion_blur": (_motion_blur, (1, 2, 4, 6, 10)),  # half the length of the path, px
    "color_diffusion": (_color_diffusion, (1, 3, 6, 8, 12)),  # standard deviation, px
    "color_shift": (_color_shift, (1, 3, 6, 8, 12)),  # distance, px
    "color_quantization": (_color_quantization, (64, 48, 32, 16, 8)),  # colours
    "color_saturation_1": (_color_saturation_1, (0.4, 0.2, 0.1, 0, -0.4)),  # factor of S in HSV
    "color_saturation_2": (_color_saturation_2, (1.5, 2, 3, 6, 9)),  # factor of the chroma in Lab
    "jpeg2000": (_jpeg2000, (16, 32, 45, 120, 400)),  # compression ratio
    "jpeg": (_jpeg, (70, 43, 36, 24, 7)),  # quality
    "white_noise": (_white_noise, (0.001, 0.002, 0.003, 0.005, 0.01)),  # variance
    "white_noise_color_component": (_white_noise_color_component, (0.0001, 0.0005, 0.001, 0.002, 0.003)),  # variance
    "impulse_noise": (_impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03)),  # fraction of the values
    "multiplicative_noise": (_multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05)),  # variance
    "denoise": (_denoise, (0.001, 0.002, 0.003, 0.005, 0.01)),  # variance of the noise before
    "brighten": (_brighten, (0.1, 0.2, 0.4, 0.7, 1.1)),  # lightness to the power 1 / (1 + amount)
    "darken": (_darken, (0.05, 0.1, 0.2, 0.4, 0.8)),  # lightness to the power 1 + amount
    "mean_shift": (_mean_shift, (0.03, 0.06, 0.09, 0.12, 0.15)),  # fraction of the range
    "jitter": (_jitter, (0.05, 0.1, 0.2, 0.5, 1)),  # standard deviation of the displacement, px
    "non_eccentricity_patch": (_non_eccentricity_patch, (20, 40, 60, 80, 100)),  # patches
    "pixelate": (_pixelate, (0.01, 0.05, 0.1, 0.2, 0.5)),  # shrunk to 0.95 - amount ** 0.6
    "quantization": (_quantization, (20, 16, 13, 10, 7)),  # values of each channel
    "color_block": (_color_block, (2, 4, 6, 8, 10)),  # blocks
    "high_sharpen": (_high_sharpen, (1, 2, 3, 6, 12)),  # factor of the detail added to the lightness
    "contrast_change": (_contrast_change, (0.15, 0.3, 0.45, 0.6, 0.75)),  # fraction of the contrast lost
}

DISTORTIONS = tuple(_BANK)


@validate_params(
    {
        "distortion": [one_of(*DISTORTIONS)],
        "level": [Interval(Integral, 0, 5, closed="both")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def distort(image: Any, distortion: str, level: int, *, random_state: Any = None) -> np.ndarray:
    """Apply one kind of distortion at one level of severity.

    Parameters
    ----------
    image : array of shape (h, w, 3), (h, w, 1) or (h, w)
        uint8 in 0..255 or float in [0, 1], RGB; grey is repeated to three channels. Also a path, a PIL image and
        whatever else is an image in the user guide, "What X and y are". Not modified.

    distortion : str
        One of `DISTORTIONS`.

    level : int
        Severity: 1 (weakest) to 5 (strongest); 0 gives the image undistorted.

    random_state : int, RandomState instance or None, default=None
        Seeds the noise, the places of the patches and the directions of motion and shift. Equal integers give equal
        bytes, and the same draws at all levels of one kind. With None every call draws anew. The global generator of
        NumPy is not used.

    Returns
    -------
    ndarray of shape (h, w, 3), dtype uint8
        A new array.

    Raises
    ------
    ValueError
        If `distortion` or `level` is not one of the above, or the image cannot be used (shape, range, dtype).

    TypeError
        If the image is of no accepted kind.

    Notes
    -----
    The kinds that alter colour alone (``color_diffusion``, ``color_saturation_1``, ``color_saturation_2``) do nothing
    to a grey image. Lengths are in pixels: distort an image at the size at which it will be viewed.

    Examples
    --------
    >>> from sklearn_iqa.datasets import load_photographs
    >>> from sklearn_iqa.distortions import distort
    >>> coffee = load_photographs().images[3]
    >>> distort(coffee, "jpeg", 5).shape
    (400, 600, 3)
    """
    rgb = read_image(image)
    rgb = rgb.copy() if rgb.dtype == np.uint8 else _to_uint8(rgb)
    if level == 0:
        return rgb
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    operation, amounts = _BANK[distortion]
    return _to_uint8(operation(rgb.astype(np.float32) / 255, amounts[level - 1], rng))

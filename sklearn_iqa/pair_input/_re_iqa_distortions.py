# SPDX-License-Identifier: BSD-3-Clause
"""The 26 kinds of distortion of Re-IQA in its order, and stacks of images that are distorted by them [1]_.

Twenty kinds are those of :mod:`sklearn_iqa.distortions`, with its amounts: there a higher level is always worse, while
in the official code level 1 of two kinds and level 3 of two others change nothing, and contrast and mean go both ways.
Six are operations of their own: down- and upsampling with four filters, noise that is smoothed away, and motion along a
row or a column.

References
----------
.. [1] A. Saha, S. Mishra, A. C. Bovik, "Re-IQA: Unsupervised Learning for Image Quality Assessment in the Wild",
   CVPR 2023. https://github.com/avinabsaha/ReIQA
"""

from functools import partial

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from sklearn_iqa.distortions import distort

__all__ = ["BANK", "distort_by", "distorted_stack", "draw_steps"]

N_LEVELS = 5
SMOOTHERS = (ImageFilter.GaussianBlur(3), ImageFilter.BoxBlur(2))

# Operations on an image (h, w, 3) uint8 and the amount of one level, with a RandomState -> the same form.


def _resample(image, factor, rng, *, by):
    height, width = image.shape[:2]
    small = (max(1, width // factor), max(1, height // factor))
    return np.asarray(Image.fromarray(image).resize(small, by).resize((width, height), by))


def _smoothed_noise(image, level, rng):
    noisy = distort(image, "white_noise", level, random_state=rng)
    return np.asarray(Image.fromarray(noisy).filter(SMOOTHERS[rng.randint(2)]))


def _straight_motion(image, length, rng):
    return ndimage.uniform_filter1d(image, length, axis=rng.randint(2), mode="nearest", output=np.float32)


def _as_bytes(operation, image, amount, rng):
    return np.rint(operation(image, amount, rng)).astype(np.uint8)


_OWN = {
    "smoothed_noise": (_smoothed_noise, (1, 2, 3, 4, 5)),  # level of the white noise
    "resample_bicubic": (partial(_resample, by=Image.Resampling.BICUBIC), (2, 3, 4, 8, 16)),  # times smaller
    "resample_bilinear": (partial(_resample, by=Image.Resampling.BILINEAR), (2, 3, 4, 8, 16)),
    "resample_nearest": (partial(_resample, by=Image.Resampling.NEAREST), (2, 3, 4, 5, 6)),
    "resample_lanczos": (partial(_resample, by=Image.Resampling.LANCZOS), (2, 3, 4, 8, 16)),
    "straight_motion": (_straight_motion, (12, 16, 20, 24, 28)),  # length, px
}

BANK = (
    *("gaussian_blur", "lens_blur", "color_diffusion", "color_shift", "color_saturation_1", "color_saturation_2"),
    *("jpeg", "white_noise", "white_noise_color_component", "impulse_noise", "multiplicative_noise", "smoothed_noise"),
    *("brighten", "darken", "mean_shift", "resample_bicubic", "high_sharpen", "contrast_change", "color_block"),
    *("pixelate", "non_eccentricity_patch", "jitter", "resample_bilinear", "resample_nearest", "resample_lanczos"),
    "straight_motion",
)


def distort_by(image: np.ndarray, kind: str, level: int, rng: np.random.RandomState) -> np.ndarray:
    """Apply one kind of the bank.

    Parameters
    ----------
    image : ndarray of shape (h, w, 3), uint8
        Not modified.
    kind : str
        One of `BANK`.
    level : int
        Severity, 1 to 5.
    rng : RandomState
        Draws noise, places and directions.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
    """
    if kind not in _OWN:
        return distort(image, kind, level, random_state=rng)
    operation, amounts = _OWN[kind]
    return _as_bytes(operation, image, amounts[level - 1], rng)


def draw_steps(n: int, rng: np.random.RandomState, second: float = 0.0) -> list[tuple[tuple[str, int], ...]]:
    """Draw n different kinds of the bank, and what is done with each.

    Parameters
    ----------
    n : int
        At most 26.
    rng : RandomState
        Its draws.
    second : float, default=0.0
        Probability that another kind follows; the two share the level that one would have had, plus one.

    Returns
    -------
    list of n tuples
        Of one or two steps, (kind, level).
    """
    steps: list[tuple[tuple[str, int], ...]] = []
    for kind in rng.permutation(len(BANK))[:n]:
        level = rng.randint(1, N_LEVELS + 1)
        if rng.random_sample() >= second:
            steps.append(((BANK[kind], level),))
            continue
        part = rng.randint(1, level + 1)
        steps.append(((BANK[kind], level + 1 - part), (BANK[rng.randint(len(BANK))], part)))
    return steps


def distorted_stack(image: np.ndarray, n: int, rng: np.random.RandomState, second: float = 0.0) -> list[np.ndarray]:
    """An image and n distorted versions of it, each by another kind; `second` as in `draw_steps`.

    Parameters
    ----------
    image : ndarray of shape (h, w, 3)
        uint8, or float in 0..1.
    n : int
        At most 26.
    rng : RandomState
        Its draws.
    second : float, default=0.0
        See `draw_steps`.

    Returns
    -------
    list of n + 1 ndarrays of shape (h, w, 3), uint8
        The image first.
    """
    image = distort(image, BANK[0], 0)  # level 0: a copy as uint8
    stack = [image]
    for steps in draw_steps(n, rng, second):
        distorted = image
        for kind, level in steps:
            distorted = distort_by(distorted, kind, level, rng)
        stack.append(distorted)
    return stack

# SPDX-License-Identifier: BSD-3-Clause
"""Degradations: random compositions of distortions, as values that can be kept, compared and applied again.

A degradation is a tuple of :class:`Step`, each a kind of :data:`~sklearn_iqa.distortions.DISTORTIONS`, its level and a
seed. So two images can receive the same one, and one image two different ones, as contrastive learning of quality
needs them [1]_. `GROUPS` sorts the kinds by what they change: places, colours or textures.

The paper composes more operations than the generators of training data for super-resolution [2]_, in random order,
with random skips, in several rounds. Its list of operations and its probabilities are not published; ours are the 25
kinds and five levels of :mod:`sklearn_iqa.distortions`, two rounds, and one half. No level of these kinds is the
identity, so that what differs as a value differs in the image, but for colour on grey images.

References
----------
.. [1] K. Zhao, K. Yuan, M. Sun, M. Li, X. Wen, "Quality-aware Pre-trained Models for Blind Image Quality Assessment",
   CVPR 2023.
.. [2] X. Wang, L. Xie, C. Dong, Y. Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
   Data", ICCV Workshops 2021.
"""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from sklearn_iqa.distortions import DISTORTIONS, distort

__all__ = ["GROUPS", "Step", "degrade", "draw_degradation", "draw_different", "same_degradation"]

GROUPS = {
    "geometric": ("color_shift", "jitter", "non_eccentricity_patch", "pixelate", "color_block"),
    "colour": (
        *("color_diffusion", "color_quantization", "color_saturation_1", "color_saturation_2", "brighten", "darken"),
        *("mean_shift", "quantization", "contrast_change"),
    ),
    "texture": (
        *("gaussian_blur", "lens_blur", "motion_blur", "jpeg2000", "jpeg", "white_noise"),
        *("white_noise_color_component", "impulse_noise", "multiplicative_noise", "denoise", "high_sharpen"),
    ),
}
N_LEVELS = 5


class Step(NamedTuple):
    """One distortion of a degradation.

    Parameters
    ----------
    distortion : str
        One of :data:`~sklearn_iqa.distortions.DISTORTIONS`.
    level : int
        Severity, 1 (weakest) to 5 (strongest).
    seed : int
        Seeds the noise, the places of patches and the directions of motion.
    """

    distortion: str
    level: int
    seed: int


def degrade(image: Any, degradation: Iterable[tuple[str, int, int]]) -> np.ndarray:
    """Apply the steps of a degradation in their order.

    Parameters
    ----------
    image : array of shape (h, w, 3), (h, w, 1) or (h, w)
        uint8 in 0..255 or float in [0, 1], and all else that :func:`~sklearn_iqa.distortions.distort` takes. Not
        modified.
    degradation : iterable of Step, or of tuples (distortion, level, seed)
        An empty one gives the image itself, as uint8.

    Returns
    -------
    ndarray of shape (h, w, 3), dtype uint8
        A new array. Values are clipped to 0..255 and rounded after each step.

    Raises
    ------
    ValueError, TypeError
        If a step or the image is none that :func:`~sklearn_iqa.distortions.distort` accepts.

    Examples
    --------
    >>> from sklearn_iqa.datasets import load_photographs
    >>> from sklearn_iqa.degradations import degrade, draw_degradation
    >>> coffee = load_photographs().images[3]
    >>> degradation = draw_degradation(random_state=5)
    >>> [(step.distortion, step.level) for step in degradation]
    [('color_shift', 2), ('lens_blur', 1)]
    >>> bool((degrade(coffee, degradation) == degrade(coffee, degradation)).all())
    True
    """
    degraded = distort(image, DISTORTIONS[0], 0)  # level 0: a copy as uint8
    for distortion, level, seed in degradation:
        degraded = distort(degraded, distortion, level, random_state=seed)
    return degraded


@validate_params(
    {
        "random_state": ["random_state"],
        "n_rounds": [Interval(Integral, 0, None, closed="left")],
        "skip": [Interval(Real, 0, 1, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def draw_degradation(random_state: Any = None, *, n_rounds: int = 2, skip: float = 0.5) -> tuple[Step, ...]:
    """Draw a degradation.

    Each round takes the groups in random order, leaves each out with a certain probability, and draws one kind and one
    level from each that is left, all with equal probability.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        An integer gives equal degradations; None draws anew. The global generator of NumPy is not used.
    n_rounds : int, default=2
        Rounds, 0 or more.
    skip : float, default=0.5
        Probability with which a group is left out, in [0, 1]; 1 gives the empty degradation.

    Returns
    -------
    tuple of Step
        At most three steps per round; with the defaults three on average, and none in one draw of 64.

    Raises
    ------
    ValueError, TypeError
        If `n_rounds` or `skip` is out of range.

    Examples
    --------
    >>> from sklearn_iqa.degradations import draw_degradation
    >>> len(draw_degradation(0, n_rounds=1, skip=0))
    3
    """
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    names = list(GROUPS)
    steps = []
    for _ in range(n_rounds):
        for group in rng.permutation(len(names)):
            if rng.random_sample() >= skip:
                kinds = GROUPS[names[group]]
                steps.append(Step(kinds[rng.randint(len(kinds))], rng.randint(1, N_LEVELS + 1), rng.randint(2**31 - 1)))
    return tuple(steps)


def same_degradation(one: Iterable[tuple[str, int, int]], other: Iterable[tuple[str, int, int]]) -> bool:
    """Whether two degradations are equal but for their seeds.

    Parameters
    ----------
    one, other : iterable of Step, or of tuples (distortion, level, seed)
        The degradations.

    Returns
    -------
    bool
        True when they take the same kinds at the same levels in the same order: other seeds give other noise of the
        same quality.
    """
    return [step[:2] for step in one] == [step[:2] for step in other]


@validate_params(
    {
        "random_state": ["random_state"],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "skip": [Interval(Real, 0, 1, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def draw_different(
    random_state: Any = None, *, n_rounds: int = 2, skip: float = 0.5
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Draw two degradations that are not the same, see `same_degradation`.

    Parameters
    ----------
    random_state, n_rounds, skip
        As for `draw_degradation`, but at least one round, and `skip` below 1.

    Returns
    -------
    two tuples of Step
        The second is drawn again as long as it equals the first.

    Raises
    ------
    ValueError, TypeError
        If `n_rounds` or `skip` is out of range.
    """
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    one, other = (draw_degradation(rng, n_rounds=n_rounds, skip=skip) for _ in range(2))
    while same_degradation(one, other):
        other = draw_degradation(rng, n_rounds=n_rounds, skip=skip)
    return one, other

# SPDX-License-Identifier: BSD-3-Clause
"""A distorted set with known severities, made from pristine photographs."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from sklearn_iqa.datasets._photographs import load_photographs
from sklearn_iqa.distortions import DISTORTIONS, distort


def make_distorted(
    images: Sequence | None = None,
    *,
    distortions: Sequence[str] | None = None,
    levels: Sequence[int] = (1, 2, 3, 4, 5),
    random_state: Any = None,
) -> Bunch:
    """Distort photographs in known kinds and levels, as the synthetic databases of image quality do.

    **The target is a level of distortion, not an opinion of people.** Level 3 of one kind need not look as bad as level
    3 of another, so agreement with this target shows that a model has learned severity, not that it agrees with people.

    Parameters
    ----------
    images : sequence of arrays or paths, or None, default=None
        The pristine photographs, as in :func:`~sklearn_iqa.distortions.distort`. None takes
        :func:`load_photographs` at ``size=256``: 1250 images in all, about 250 MB.

    distortions : sequence of str or None, default=None
        Some of :data:`~sklearn_iqa.distortions.DISTORTIONS`; None takes all 25.

    levels : sequence of int, default=(1, 2, 3, 4, 5)
        Severities, 1 to 5; a 0 among them adds the undistorted photograph once for each kind.

    random_state : int, RandomState instance or None, default=None
        An integer makes the set reproducible. Every row has a seed of its own, drawn from this, the position of its
        photograph, its kind and its level: it stays the same when kinds, levels or photographs at the end are added.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        One row for each photograph, kind and level, in this order, the level running fastest.

        images : list of ndarray of shape (h, w, 3), dtype uint8
            The distorted images.
        references : list
            The photograph of each row: the object given in `images`, not a copy.
        target : ndarray of shape (n_rows,), float64
            Minus the level, -5 to 0; higher is better.
        groups : ndarray of shape (n_rows,), int
            Position of the photograph: pass it to :class:`~sklearn.model_selection.GroupKFold`, since a model that has
            seen a photograph in training knows part of the answer.
        distortion : ndarray of shape (n_rows,), str
            Kind.
        level : ndarray of shape (n_rows,), int
            Severity.

    Raises
    ------
    ValueError
        If a kind, a level or an image is not accepted by :func:`~sklearn_iqa.distortions.distort`.

    See Also
    --------
    sklearn_iqa.distortions.distort : One distortion of one image.

    Examples
    --------
    >>> from sklearn_iqa.datasets import load_photographs, make_distorted
    >>> photographs = load_photographs(size=64)
    >>> distorted = make_distorted(photographs.images, distortions=["jpeg", "white_noise"], random_state=0)
    >>> len(distorted.images), distorted.distortion[0], distorted.target[:5]
    (100, np.str_('jpeg'), array([-1., -2., -3., -4., -5.]))
    """
    photographs = load_photographs(size=256).images if images is None else list(images)
    kinds = DISTORTIONS if distortions is None else tuple(distortions)
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    root = rng.randint(2**31 - 1)
    rows = [(group, kind, level) for group in range(len(photographs)) for kind in kinds for level in levels]
    level = np.array([level for _, _, level in rows], dtype=int)
    return Bunch(
        images=[
            distort(photographs[group], kind, level, random_state=_row_seed(root, group, kind, level))
            for group, kind, level in rows
        ],
        references=[photographs[group] for group, _, _ in rows],
        target=-level.astype(np.float64),
        groups=np.array([group for group, _, _ in rows], dtype=int),
        distortion=np.array([kind for _, kind, _ in rows], dtype=str),
        level=level,
    )


def _row_seed(root, group, kind, level):
    # By the kind's name, not its place: other kinds may come and go.
    return np.random.SeedSequence((root, group, zlib.crc32(kind.encode()), level)).generate_state(1)[0]

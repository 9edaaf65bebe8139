# SPDX-License-Identifier: BSD-3-Clause
"""What learning tests learn from: pieces of photographs at known levels of distortion, three photographs held out."""

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets import load_photographs, make_distorted

HELD_OUT = (1, 4, 7)  # photographs


def pieces(side, per_side):
    """Each of the ten photographs as per_side^2 squares of this side, in their order."""
    return [
        np.ascontiguousarray(image[top : top + side, left : left + side])
        for image in load_photographs(size=side * per_side).images
        for top in range(0, side * per_side, side)
        for left in range(0, side * per_side, side)
    ]


def levels(distortions, *, side, per_side=2, levels=(1, 3, 5)):
    """Distorted pieces: images X and levels y of seven photographs, X_new and y_new of the three others.

    `distortion` and `level` are those of X, `distortion_new` those of X_new.
    """
    made = make_distorted(pieces(side, per_side), distortions=distortions, levels=levels, random_state=0)
    new = np.isin(made.groups // per_side**2, HELD_OUT)
    return Bunch(
        X=[made.images[row] for row in np.flatnonzero(~new)],
        y=made.target[~new],
        X_new=[made.images[row] for row in np.flatnonzero(new)],
        y_new=made.target[new],
        distortion=made.distortion[~new],
        level=made.level[~new],
        distortion_new=made.distortion[new],
    )

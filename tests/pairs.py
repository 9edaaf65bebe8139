# SPDX-License-Identifier: BSD-3-Clause
"""What perceptual distances learn in tests: which of blur and noise is mild, from a start that says the opposite.

With positive channel weights of any kind a distance on random features finds the order of distortions, and with random
signs it may: the start must be the worst, not one that a seed gives.
"""

import itertools

import numpy as np
import torch
from held_out import HELD_OUT, pieces
from sklearn.utils import Bunch

from sklearn_iqa.datasets import make_distorted

SIDE = 32


def mild_and_strong(levels=(1, 5)):
    """Pairs (query, reference) X of seven photographs with their quality y, and X_new and y_new of three others.

    Four pieces of `SIDE` pixels of each photograph, blurred and noisy, at each level. Behind two levels no order agrees
    with y by more than 0.866, as half of the rows have the same y.
    """
    made = make_distorted(pieces(SIDE, 2), distortions=["gaussian_blur", "white_noise"], levels=levels, random_state=0)
    pairs, new = list(zip(made.images, made.references, strict=True)), np.isin(made.groups // 4, HELD_OUT)
    return Bunch(
        X=[pairs[row] for row in np.flatnonzero(~new)],
        y=made.target[~new],
        X_new=[pairs[row] for row in np.flatnonzero(new)],
        y_new=made.target[new],
    )


def judged_versions(X, y):
    """Triplets of two versions of each piece at different levels, in both orders; nine of ten people are right."""
    rows = range(len(X))
    couples = [(a, b) for a, b in itertools.permutations(rows, 2) if X[a][1] is X[b][1] and y[a] != y[b]]
    triplets = [(X[a][0], X[b][0], X[a][1]) for a, b in couples]
    return triplets, np.array([0.9 if y[b] > y[a] else 0.1 for a, b in couples])


def turned_round(estimator, folder):
    """Give the estimator weights whose distance is large where images are alike: all channel weights below zero."""
    network = estimator.initialize().network_
    with torch.no_grad():
        for head in network.heads:
            getattr(network, head).model[1].weight.abs_().neg_()
    estimator.save_weights(folder / "turned.safetensors")
    return estimator.set_params(weights=folder / "turned.safetensors")

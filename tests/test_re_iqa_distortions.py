# SPDX-License-Identifier: BSD-3-Clause
"""The 26 kinds of Re-IQA: their order, their levels, and stacks of them."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from sklearn_iqa.pair_input._re_iqa_distortions import BANK, distort_by, distorted_stack, draw_steps

IMAGE = load_sample_image("china.jpg")[100:228, 200:360]
OWN = ("smoothed_noise", "resample_bicubic", "resample_bilinear", "resample_nearest", "resample_lanczos")


def error(image):
    return float(np.square(image.astype(float) - IMAGE).mean())


def test_order_of_the_official_numbers():
    assert len(BANK) == len(set(BANK)) == 26
    # Numbers of the official code, counted from 1.
    numbers = {"gaussian_blur": 1, "jpeg": 7, "impulse_noise": 10, "resample_bicubic": 16, "jitter": 22}
    numbers |= {"smoothed_noise": 12, "contrast_change": 18, "resample_bilinear": 23, "straight_motion": 26}
    assert {kind: BANK.index(kind) + 1 for kind in numbers} == numbers


@pytest.mark.parametrize("kind", BANK)
def test_every_kind_changes_the_image_and_repeats(kind):
    before = IMAGE.copy()
    for level in (1, 5):
        one, other = (distort_by(IMAGE, kind, level, np.random.RandomState(3)) for _ in range(2))
        assert one.shape == IMAGE.shape
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
        assert error(one) > 0
    np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize("kind", [*OWN, "straight_motion"])
def test_higher_levels_are_worse(kind):
    errors = [error(distort_by(IMAGE, kind, level, np.random.RandomState(1))) for level in range(1, 6)]
    assert errors == sorted(errors)
    assert len(set(errors)) == 5


def test_resampling_by_hand():
    stripes = np.zeros((4, 16, 3), np.uint8)
    stripes[:, ::2] = 200  # columns 200, 0: half the size takes one of two, or their mean
    nearest = distort_by(stripes, "resample_nearest", 1, np.random.RandomState(0))
    assert len(np.unique(nearest)) == 1
    bilinear = distort_by(stripes, "resample_bilinear", 1, np.random.RandomState(0))
    np.testing.assert_allclose(bilinear[:, 5:-5].astype(float), 100, atol=1)


def test_motion_is_along_one_axis():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 240
    moved = [distort_by(point, "straight_motion", 1, np.random.RandomState(seed)) for seed in range(8)]
    spreads = {(int(one[..., 0].any(1).sum()), int(one[..., 0].any(0).sum())) for one in moved}
    assert spreads == {(12, 1), (1, 12)}
    assert all(one.max() == 20 for one in moved)  # 240 over 12 pixels


def test_a_stack_holds_the_image_and_different_kinds():
    stack = distorted_stack(IMAGE, 11, np.random.RandomState(0))
    assert len(stack) == 12
    np.testing.assert_array_equal(stack[0], IMAGE)
    steps = draw_steps(26, np.random.RandomState(0))
    assert {kind for ((kind, _),) in steps} == set(BANK)
    floats = distorted_stack(IMAGE / np.float32(255), 3, np.random.RandomState(0))
    for one, other in zip(floats, distorted_stack(IMAGE, 3, np.random.RandomState(0)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(distorted_stack(IMAGE, 0, np.random.RandomState(0))) == 1


def test_draws_are_even_and_two_kinds_share_a_level():
    rng = np.random.RandomState(0)
    steps = [step for _ in range(400) for step in draw_steps(11, rng, second=0.1)]
    assert {len(step) for step in steps} == {1, 2}
    # 4400 draws of probability 0.1: 440 with a standard deviation of 20.
    assert abs(sum(len(step) == 2 for step in steps) - 440) < 80
    levels = np.bincount([step[0][1] for step in steps if len(step) == 1], minlength=6)
    assert levels[0] == 0
    assert np.abs(levels[1:] / 792 - 1).max() < 0.15  # 3960 / 5; four standard deviations are 13 %
    shared = [one[1] + other[1] - 1 for one, other in (step for step in steps if len(step) == 2)]
    assert set(shared) == {1, 2, 3, 4, 5}

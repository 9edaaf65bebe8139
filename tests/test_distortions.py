# SPDX-License-Identifier: BSD-3-Clause
"""The 25 distortions: graded in severity, reproducible, and what each one's name says."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from sklearn.utils import check_random_state

from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.distortions import DISTORTIONS, distort

# The kinds that draw random numbers; the others give the same bytes for every seed.
RANDOM = {
    "motion_blur",
    "color_shift",
    "white_noise",
    "white_noise_color_component",
    "impulse_noise",
    "multiplicative_noise",
    "denoise",
    "jitter",
    "non_eccentricity_patch",
    "color_block",
}


@cache
def photographs():
    return load_photographs(size=128).images


def flat(value, shape=(64, 64, 3)):
    return np.full(shape, value, dtype=np.uint8)


def test_the_names_are_the_25_of_kadid_in_its_order():
    # Lin, Hosu, Saupe 2019: numbers 1, 10, 25 of the database; 25 kinds in all.
    assert len(DISTORTIONS) == len(set(DISTORTIONS)) == 25
    assert (DISTORTIONS[0], DISTORTIONS[9], DISTORTIONS[24]) == ("gaussian_blur", "jpeg", "contrast_change")


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_psnr_falls_with_the_level(distortion):
    # PSNR to the photograph serves all kinds: each replaces pixel values, and those that move pixels (shift, jitter,
    # patches) are compared in place.
    psnr = np.array(
        [
            [
                peak_signal_noise_ratio(image, distort(image, distortion, level, random_state=seed))
                for level in range(1, 6)
            ]
            for seed, image in enumerate(photographs())
        ]
    )
    assert np.isfinite(psnr).all()  # level 1 is no identity
    assert (np.diff(psnr.mean(axis=0)) < 0).all()
    # 8 of 10: a shift by 12 px may meet the next star, and colours at the end of the range cannot be more saturated.
    assert (np.diff(psnr, axis=1) < 0).all(axis=1).sum() >= 8


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_one_seed_gives_the_same_bytes_and_others_differ_only_where_there_is_chance(distortion):
    image = photographs()[0]
    first = distort(image, distortion, 3, random_state=0)
    np.testing.assert_array_equal(distort(image, distortion, 3, random_state=0), first)
    np.testing.assert_array_equal(distort(image, distortion, 3, random_state=np.random.RandomState(0)), first)
    assert (distort(image, distortion, 3, random_state=1) != first).any() == (distortion in RANDOM)
    # Without a seed; more than once, since few pixels have few directions of motion, and two draws may meet.
    assert any((distort(image, distortion, 3) != first).any() for _ in range(20)) == (distortion in RANDOM)


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_input_and_global_generator_stay_as_they_were(distortion):
    image = photographs()[1].copy()
    before = image.copy()
    image.setflags(write=False)
    state = check_random_state(None).get_state()
    for random_state in (0, None):
        distort(image, distortion, 5, random_state=random_state)
    after = check_random_state(None).get_state()
    np.testing.assert_array_equal(image, before)
    assert state[2] == after[2]
    np.testing.assert_array_equal(state[1], after[1])


@pytest.mark.parametrize("level", range(6))
@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_any_shape_gives_an_rgb_image_of_the_same_size(distortion, level):
    textured = np.random.RandomState(0).randint(0, 256, (97, 97, 3), dtype=np.uint8)
    for height, width in ((16, 16), (8, 97), (97, 8)):
        distorted = distort(textured[:height, :width], distortion, level, random_state=0)
        assert distorted.shape == (height, width, 3)
        assert distorted.dtype == np.uint8


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_grey_is_repeated_and_float_is_the_same_image(distortion):
    image = photographs()[3]
    expected = distort(image, distortion, 4, random_state=0)
    np.testing.assert_array_equal(distort(image / 255, distortion, 4, random_state=0), expected)
    np.testing.assert_array_equal(
        distort(image[..., 0], distortion, 4, random_state=0),
        distort(np.repeat(image[..., :1], 3, axis=2), distortion, 4, random_state=0),
    )


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_level_0_is_an_unchanged_copy(distortion):
    image = photographs()[2]
    unchanged = distort(image, distortion, 0)
    np.testing.assert_array_equal(unchanged, image)
    assert not np.shares_memory(unchanged, image)


def test_an_unknown_name_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'distortion' parameter of distort must be a str among .* 'blur'") as caught:
        distort(photographs()[0], "blur", 1)
    assert all(f"'{distortion}'" in str(caught.value) for distortion in DISTORTIONS)


@pytest.mark.parametrize("level", [-1, 6, 2.5, "3", None])
def test_an_unknown_level_is_refused(level):
    with pytest.raises(ValueError, match=r"'level' parameter of distort must be an int in the range \[0, 5\]"):
        distort(photographs()[0], "jpeg", level)


@pytest.mark.parametrize("image", [np.ones((9, 9, 3)) * 1.5, np.ones((9, 9, 2), np.uint8), np.full((9, 9), np.nan)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"The image"):
        distort(image, "jpeg", 1)


# What moves, mixes or blurs values cannot change a flat image.
@pytest.mark.parametrize(
    "distortion",
    [
        "gaussian_blur",
        "lens_blur",
        "motion_blur",
        "color_shift",
        "color_quantization",
        "jitter",
        "non_eccentricity_patch",
        "pixelate",
        "high_sharpen",
        "contrast_change",
    ],
)
def test_a_flat_image_stays_flat(distortion):
    np.testing.assert_array_equal(distort(flat(77), distortion, 5, random_state=0), flat(77))


@pytest.mark.parametrize("distortion", ["color_diffusion", "color_saturation_1", "color_saturation_2"])
def test_color_alone_is_altered(distortion):
    grey = np.repeat(photographs()[0][..., :1], 3, axis=2)
    # 1: Lab has no exact grey, and the largest factor (9) magnifies its residue to less than half a step.
    np.testing.assert_allclose(distort(grey, distortion, 5).astype(int), grey, atol=1)


def test_lens_blur_spreads_a_point_to_a_disk():
    point = flat(0)
    point[32, 32] = 255
    # Radius 8 holds 197 lattice points (Gauss's circle problem, OEIS A000328); 255 / 197 rounds to 1.
    assert distort(point, "lens_blur", 5).sum() == 3 * 197


def test_motion_blur_spreads_a_point_along_a_line():
    point = flat(0)
    point[32, 32] = 255
    rows, columns, _ = np.nonzero(distort(point, "motion_blur", 5, random_state=0))
    # 10 px to each side and one for antialiasing; the smaller singular value is the width across the line.
    assert max(np.ptp(rows), np.ptp(columns)) <= 22
    length, width = np.linalg.svd(np.stack([rows - 32, columns - 32]), compute_uv=False)
    assert width < length / 5


def test_color_quantization_leaves_so_many_colors():
    for level, n_colors in enumerate((64, 48, 32, 16, 8), start=1):
        colors = np.unique(distort(photographs()[0], "color_quantization", level).reshape(-1, 3), axis=0)
        assert n_colors / 2 < len(colors) <= n_colors


def test_quantization_leaves_so_many_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for level, n_values in enumerate((20, 16, 13, 10, 7), start=1):
        assert len(np.unique(distort(ramp, "quantization", level))) == n_values


def test_color_saturation_1_removes_and_inverts_saturation():
    orange = flat(0) + np.array([200, 100, 50], dtype=np.uint8)
    # V = 200 of HSV stays. Factor 0 puts all channels at V, -0.4 at V + 0.4 (V - channel): 240 and 260, clipped to 255.
    np.testing.assert_array_equal(distort(orange, "color_saturation_1", 4), flat(200))
    np.testing.assert_array_equal(distort(orange, "color_saturation_1", 5)[0, 0], [200, 240, 255])


@pytest.mark.parametrize(("distortion", "factor"), [("white_noise", 1), ("multiplicative_noise", 128 / 255)])
def test_noise_has_the_stated_variance(distortion, factor):
    # Level 4: variances 0.005 and 0.02, whose 6 (3) standard deviations stay inside the range around 128.
    variance = {"white_noise": 0.005, "multiplicative_noise": 0.02}[distortion]
    noise = distort(flat(128, (256, 256, 3)), distortion, 4, random_state=0) / 255 - 128 / 255
    # Standard error of a deviation from 196608 draws: 1 / sqrt(2 n) = 0.16 %; 4 of them.
    assert noise.std() == pytest.approx(factor * variance**0.5, rel=0.0064)


def test_noise_of_the_color_components_has_the_stated_variance_in_luma():
    # Level 5, variance 0.003; luma of BT.601 in 16..235: Y' = 219 / 255 of 0.299 R + 0.587 G + 0.114 B.
    noisy = distort(flat(128, (256, 256, 3)), "white_noise_color_component", 5, random_state=0) / 255
    luma = 219 / 255 * (noisy @ np.array([0.299, 0.587, 0.114]))
    # Standard error from 65536 draws 0.28 %; 4 of them.
    assert luma.std() == pytest.approx(0.003**0.5, rel=0.011)


def test_impulse_noise_hits_the_stated_fraction():
    noisy = distort(flat(128, (256, 256, 3)), "impulse_noise", 5, random_state=0)
    assert set(np.unique(noisy)) == {0, 128, 255}
    # Binomial with n = 196608, p = 0.015 for each end: standard deviation 54; 4 of them.
    for end in (0, 255):
        assert (noisy == end).sum() == pytest.approx(0.015 * noisy.size, abs=4 * 54)


def test_denoise_leaves_less_noise_than_was_added():
    image = flat(128)
    noisy = distort(image, "white_noise", 5, random_state=0)
    denoised = distort(image, "denoise", 5, random_state=0)
    # A mean of 25 values has a fifth of the deviation; half leaves room for what the adaptive filter keeps.
    assert denoised.std() < noisy.std() / 2


def test_mean_shift_moves_all_values_away_from_the_nearer_end():
    # 0.15 * 255 = 38.25
    np.testing.assert_array_equal(distort(flat(100), "mean_shift", 5), flat(138))
    np.testing.assert_array_equal(distort(flat(200), "mean_shift", 5), flat(162))


def test_contrast_change_draws_values_to_the_mean():
    image = flat(50)
    image[:32] = 200
    # Mean 125; a quarter of the distance 75 remains: 18.75.
    changed = distort(image, "contrast_change", 5)
    np.testing.assert_array_equal(changed[:32], flat(144)[:32])
    np.testing.assert_array_equal(changed[32:], flat(106)[32:])


@pytest.mark.parametrize(("distortion", "direction"), [("brighten", 1), ("darken", -1)])
def test_brighten_and_darken_change_greys_and_keep_black_and_white(distortion, direction):
    greys = np.array([[0, 30, 128, 220, 255]], dtype=np.uint8)
    change = distort(greys, distortion, 5)[0, :, 0].astype(int) - greys[0]
    np.testing.assert_array_equal(np.sign(change), [0, direction, direction, direction, 0])


def test_high_sharpen_overshoots_at_an_edge():
    image = flat(100)
    image[:, 32:] = 150
    sharpened = distort(image, "high_sharpen", 3)
    assert sharpened[:, 31].max() < 100
    assert sharpened[:, 32].min() > 150


def test_patches_cover_the_same_fraction_of_every_size():
    for shape in ((384, 512, 3), (192, 256, 3)):
        blocked = distort(flat(128, shape), "color_block", 1, random_state=0)
        # Two blocks of 32 x 32 in 512 x 384 are 1.04 %; side 16 in a quarter of the area is the same.
        assert (blocked != 128).any(axis=2).mean() == pytest.approx(2 * 32**2 / (512 * 384))


def test_pixelate_makes_blocks():
    # Level 5 shrinks to 0.95 - 0.5^0.6 = 0.29 of the side: 128 * 0.29 = 37 columns.
    pixelated = distort(photographs()[0], "pixelate", 5).astype(int)
    assert np.any(np.diff(pixelated, axis=1), axis=(0, 2)).sum() == 36


def test_neither_module_imports_torch_or_timm():
    code = "import sys, sklearn_iqa.distortions, sklearn_iqa.datasets; print({'torch', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

# SPDX-License-Identifier: BSD-3-Clause
"""Degradations: replayable, drawn as stated, compared by what they look like."""

import pickle

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.degradations import GROUPS, Step, degrade, draw_degradation, draw_different, same_degradation
from sklearn_iqa.distortions import DISTORTIONS, distort

GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
N_DRAWS = 1000


@pytest.fixture(scope="module")
def photographs():
    return load_photographs(size=96).images


@pytest.fixture(scope="module")
def draws():
    rng = np.random.RandomState(0)
    return [draw_degradation(rng) for _ in range(N_DRAWS)]


def test_every_kind_is_in_one_group():
    assert sorted(kind for kinds in GROUPS.values() for kind in kinds) == sorted(DISTORTIONS)


@pytest.mark.parametrize("seed", range(5))
def test_equal_values_give_equal_bytes_and_no_step_sees_another_image(photographs, seed):
    degradation = draw_degradation(seed, skip=0)
    assert degradation == draw_degradation(seed, skip=0)
    by_hand = photographs[0]
    for kind, level, step_seed in degradation:
        by_hand = distort(by_hand, kind, level, random_state=step_seed)
    degraded = degrade(photographs[0], degradation)
    np.testing.assert_array_equal(degraded, by_hand)
    kept = [tuple(step) for step in pickle.loads(pickle.dumps(degradation))]
    np.testing.assert_array_equal(degrade(photographs[0], kept), degraded)
    assert degraded.shape == photographs[0].shape
    assert degraded.dtype == np.uint8


def test_draws_leave_the_image_and_the_global_generator_alone(photographs):
    image = photographs[0].copy()
    image.setflags(write=False)
    before = np.random.mtrand._rand.get_state()
    for random_state in (0, None):
        degrade(image, draw_degradation(random_state, skip=0))
    after = np.random.mtrand._rand.get_state()
    np.testing.assert_array_equal(image, photographs[0])
    assert before[2] == after[2]
    np.testing.assert_array_equal(before[1], after[1])


def test_without_rounds_or_groups_left_nothing_changes(photographs):
    for seed in range(20):
        assert draw_degradation(seed, skip=1) == draw_degradation(seed, n_rounds=0) == ()
    unchanged = degrade(photographs[0], ())
    np.testing.assert_array_equal(unchanged, photographs[0])
    assert not np.shares_memory(unchanged, photographs[0])


def test_nothing_skipped_takes_each_group_once_in_a_round():
    orders = set()
    for seed in range(50):
        groups = [GROUP_OF[step.distortion] for step in draw_degradation(seed, n_rounds=2, skip=0)]
        assert sorted(groups[:3]) == sorted(groups[3:]) == sorted(GROUPS)
        orders |= {tuple(groups[:3]), tuple(groups[3:])}
    assert len(orders) == 6  # of 3!; that 100 rounds miss one of them has a probability of 6 (5/6)^100 = 7e-8


def test_a_group_is_skipped_half_of_the_time(draws):
    # 6 N draws of one half: standard deviation sqrt(6 N) / 2 = 39 steps; 4 of them.
    assert sum(map(len, draws)) == pytest.approx(3 * N_DRAWS, abs=4 * 39)
    # All six left out: N / 64 = 15.6, of a binomial with standard deviation 3.9; 4 of them.
    assert draws.count(()) == pytest.approx(N_DRAWS / 64, abs=4 * 3.9)


def test_kinds_and_levels_are_drawn_evenly_and_none_is_an_identity(draws, photographs):
    steps = [step for draw in draws for step in draw]
    # About 3000 steps, 600 of each level: standard deviation sqrt(3000 * 0.2 * 0.8) = 22; 4 of them.
    counts = np.bincount([step.level for step in steps], minlength=6)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], len(steps) / 5, atol=4 * 22)
    for group, kinds in GROUPS.items():
        counts = [sum(step.distortion == kind for step in steps) for kind in kinds]
        # N of each group, N / n of each kind: standard deviation at most sqrt(N / n); 4 of them.
        np.testing.assert_allclose(counts, N_DRAWS / len(kinds), atol=4 * (N_DRAWS / len(kinds)) ** 0.5, err_msg=group)
    for kind in DISTORTIONS:
        assert (degrade(photographs[1], [(kind, 1, 0)]) != photographs[1]).any()


@pytest.mark.parametrize("kind", ["gaussian_blur", "white_noise", "jpeg", "pixelate"])
def test_psnr_falls_with_the_level(photographs, kind):
    psnr = [peak_signal_noise_ratio(photographs[0], degrade(photographs[0], [(kind, n, 0)])) for n in range(1, 6)]
    assert (np.diff(psnr) < 0).all()


def test_seeds_make_no_difference_of_kind():
    noise, other = [("white_noise", 3, 0), ("jpeg", 2, 1)], [Step("white_noise", 3, 5), Step("jpeg", 2, 1)]
    assert same_degradation(noise, other)
    assert not same_degradation(noise, other[::-1])
    assert not same_degradation(noise, other[:1])
    assert not same_degradation(noise, [("white_noise", 2, 0), ("jpeg", 2, 1)])


def test_different_ones_differ_by_more_than_their_seeds():
    # One round with a skip of 0.9 leaves nothing in 73 % of the draws: most first draws of two are the same.
    pairs = [draw_different(seed, n_rounds=1, skip=0.9) for seed in range(100)]
    assert sum(one == () for one, _ in pairs) > 50
    assert not any(same_degradation(*pair) for pair in pairs)
    assert draw_different(3) == draw_different(3)


@pytest.mark.parametrize(
    ("draw", "settings", "message"),
    [
        (draw_degradation, {"n_rounds": -1}, r"'n_rounds' .* int in the range \[0, inf\)"),
        (draw_degradation, {"skip": 1.1}, r"'skip' .* float in the range \[0.0, 1.0\]"),
        (draw_degradation, {"skip": "0.5"}, r"'skip' .* float in the range \[0.0, 1.0\]"),
        (draw_different, {"n_rounds": 0}, r"'n_rounds' .* int in the range \[1, inf\)"),
        (draw_different, {"skip": 1.0}, r"'skip' .* float in the range \[0.0, 1.0\)"),  # no draw would end
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, settings, message):
    with pytest.raises(ValueError, match=message):
        draw(0, **settings)


def test_an_unknown_step_is_refused(photographs):
    with pytest.raises(ValueError, match="'distortion' parameter of distort must be a str among"):
        degrade(photographs[0], [("blur", 1, 0)])

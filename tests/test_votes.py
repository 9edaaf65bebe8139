# SPDX-License-Identifier: BSD-3-Clause
"""Votes to mean opinion scores: BT.500's rule by hand, biases of simulated observers, limits, errors."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sklearn_iqa.votes import mos_from_votes, screen_observers, votes_table

RECOVERING = ("p913", "bias")
# Mean 0, squares 24, fourth powers 168: m2 = 2, m4 = 14, kurtosis 14 / 4 = 3.5, which is normal; the sample deviation
# is sqrt(24 / 11) = 1.477, so that the outer votes, 3 away, are beyond 2 S = 2.95, but not beyond sqrt(20) S = 6.6.
NORMAL = np.array([-3, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 3.0])


def simulated(seed, n_images=40, n_observers=24, missing=0.5, spread=(0.5, 1.2)):
    """True scores, biases of mean zero, inconsistencies, and votes."""
    rng = np.random.default_rng(seed)
    quality, bias = rng.uniform(1, 5, n_images), rng.normal(0, 0.6, n_observers)
    bias -= bias.mean()
    inconsistency = rng.uniform(*spread, n_observers)
    votes = quality[:, None] + bias + inconsistency * rng.normal(size=(n_images, n_observers))
    votes[rng.random(votes.shape) < missing] = np.nan
    return quality, bias, inconsistency, votes


def rms(difference):
    return np.sqrt(np.mean(np.square(difference)))


# Means ----------------------------------------------------------------------------------------------------------------


def test_mean_deviation_and_interval_by_hand():
    found = mos_from_votes([[1, 2, 3, np.nan], [4, 4, 4, 4]], grades=[1, 2, 3, 4, 5])
    np.testing.assert_allclose(found.mean, [2, 4])
    np.testing.assert_allclose(found.std, [1, 0])  # squares 1 + 0 + 1 over 3 - 1
    # 2 -+ 1.96 / sqrt(3), as BT.500 has it.
    np.testing.assert_allclose(found.interval, [[2 - 1.96 / 3**0.5, 2 + 1.96 / 3**0.5], [4, 4]], atol=1e-4)
    np.testing.assert_array_equal(found.histogram, [[1, 1, 1, 0, 0], [0, 0, 0, 4, 0]])
    np.testing.assert_array_equal(found.n_votes, [3, 4])
    # Deviations of the first observer from the means: -1 and 0.
    assert (found.bias[0], found.inconsistency[0]) == (-0.5, 0.5)
    assert not found.rejected.any()


def test_one_vote_has_no_deviation():
    found = mos_from_votes([[3.0], [4.0]])
    np.testing.assert_array_equal(found.mean, [3, 4])
    assert np.isnan(found.std).all()
    assert np.isnan(found.interval).all()


def test_histogram_takes_whole_votes_or_given_grades():
    assert mos_from_votes([[2, 4]]).grades.tolist() == [2, 3, 4]
    assert mos_from_votes([[2, 4.5]]).histogram is None
    np.testing.assert_array_equal(mos_from_votes([[2, 4.5]], grades=[2, 3, 4.5]).histogram, [[1, 0, 1]])


def test_table_from_a_list():
    found = votes_table(["b", "a", "b"], [7, 7, 3], [1, 2, 3])
    np.testing.assert_array_equal(found.votes, [[np.nan, 2], [3, 1]])
    assert (found.images.tolist(), found.observers.tolist()) == (["a", "b"], [3, 7])


# BT.500 ---------------------------------------------------------------------------------------------------------------


def test_normal_votes_are_far_at_two_deviations():
    # First and last observer are far above on one image and far below on the other: 2 of 2 votes, |1 - 1| / 2 = 0.
    votes = np.stack([NORMAL, NORMAL[::-1]])
    assert np.flatnonzero(screen_observers(votes)).tolist() == [0, 11]
    # Far on one side only is a bias: |2 - 0| / 2 = 1.
    assert not screen_observers(np.stack([NORMAL, NORMAL])).any()


@pytest.mark.parametrize(("n_observers", "rejected"), [(21, []), (22, [5])])
def test_other_votes_are_far_at_root_twenty(n_observers, rejected):
    # A lone dissenter is (n - 1) / sqrt(n) deviations away: 4.36 of 21, 4.48 of 22; sqrt(20) = 4.47. The kurtosis,
    # (n**2 - 3 n + 3) / (n - 1), is about n - 2 and not normal.
    votes = np.full((2, n_observers), 3.0)
    votes[:, 5] = 5, 1
    assert np.flatnonzero(screen_observers(votes)).tolist() == rejected


@pytest.mark.parametrize(("n_images", "rejected"), [(39, True), (40, False)])
def test_five_percent_of_the_own_votes_may_be_far(n_images, rejected):
    # Two far votes are 5.1 % of 39 and 5 % of 40, which is not more than 5 %. The other images are voted on alike.
    votes = np.full((n_images, 12), 3.0)
    votes[:2] = NORMAL, NORMAL[::-1]
    assert screen_observers(votes)[[0, 11]].tolist() == [rejected] * 2
    # Of a missing vote the others are more.
    votes[-1, 0] = np.nan
    assert screen_observers(votes)[0]


def test_rejected_observers_do_not_count():
    votes = np.stack([NORMAL, NORMAL[::-1], np.arange(12.0)])
    found = mos_from_votes(votes, method="bt500")
    assert np.flatnonzero(found.rejected).tolist() == [0, 11]
    np.testing.assert_allclose(found.mean, votes[:, 1:11].mean(axis=1))
    assert found.n_votes.tolist() == [10, 10, 10]
    assert found.histogram.sum(axis=1).tolist() == [10, 10, 10]
    assert found.bias[0] == pytest.approx((-3 + 3 + 0 - 5.5) / 3)  # beside the others' means 0, 0 and 5.5


def test_equal_votes_reject_nobody():
    votes = np.full((4, 30), 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("mean", "bt500", *RECOVERING):
            found = mos_from_votes(votes, method=method)
            np.testing.assert_array_equal(found.mean, 2.0)
            np.testing.assert_array_equal(found.bias, 0.0)
            assert not found.rejected.any()


# Biases ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RECOVERING)
def test_votes_of_model_without_noise_are_recovered(method):
    rng = np.random.default_rng(0)
    quality, bias = rng.uniform(1, 5, 12), rng.normal(size=8)
    bias -= bias.mean()
    votes = quality[:, None] + bias
    votes[np.arange(12), np.arange(12) % 8] = np.nan
    found = mos_from_votes(votes, method=method)
    np.testing.assert_allclose(found.mean, quality, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, atol=1e-6)


@pytest.mark.parametrize("method", RECOVERING)
def test_without_bias_it_is_the_plain_mean(method):
    # Noise of which rows and columns sum to zero, and columns have equal squares: 1, -1 and zeros, rotated.
    noise = np.stack([np.roll([1.0, -1, 0, 0, 0, 0], shift) for shift in range(6)])
    votes = np.arange(6.0)[:, None] + noise
    found = mos_from_votes(votes, method=method)
    np.testing.assert_allclose(found.mean, votes.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.bias, 0, atol=1e-12)
    if method == "p913":  # two squares of 1 over six votes
        np.testing.assert_allclose(found.inconsistency, (2 / 6) ** 0.5)
        half = 1.959964 * (2 / 6 / 6) ** 0.5
        np.testing.assert_allclose(found.interval, found.mean[:, None] + [-half, half], atol=1e-6)
    else:  # the same squares over 6 (1 - 1/6) less one sixth: 25/6 degrees of freedom; all observers are alike
        np.testing.assert_allclose(found.inconsistency, (2 / (25 / 6)) ** 0.5)


def test_recommendation_satisfies_its_equations():
    # At the end of the alternation each estimate follows from the others, see P.913.
    _, _, _, votes = simulated(0, missing=0.2)
    found = mos_from_votes(votes, method="p913")
    residuals = votes - found.mean[:, None] - found.bias
    np.testing.assert_allclose(np.nanmean(residuals, axis=0), np.nanmean(residuals), atol=1e-6)
    np.testing.assert_allclose(np.nanstd(residuals, axis=0), found.inconsistency, atol=1e-6)
    weights = np.where(np.isnan(votes), 0, found.inconsistency**-2)
    scores = np.nansum(weights * (votes - found.bias), axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(scores, found.mean, atol=1e-6)
    assert found.bias.mean() == pytest.approx(0, abs=1e-12)


def test_biases_are_within_sampling_error_and_scores_better_than_means():
    inside, errors = [], []
    for seed in range(10):
        quality, bias, inconsistency, votes = simulated(seed)
        found = mos_from_votes(votes, method="bias")
        # A bias is a mean over n votes, each as uncertain as the observer and, less so, as the image's score.
        error = np.hypot(inconsistency, 0.85 / 12**0.5) / np.isfinite(votes).sum(axis=0) ** 0.5
        inside += (np.abs(found.bias - bias) < 1.96 * error).tolist()
        errors.append([rms(mos_from_votes(votes, method=method).mean - quality) for method in ("mean", "bias")])
    # 240 biases: 95 % of them, with a binomial deviation of 1.4 %.
    assert np.mean(inside) > 0.95 - 3 * 0.014
    plain, recovered = np.mean(errors, axis=0)
    # Per image 12 votes: the mean keeps biases of 0.6 beside noise of 0.87 (0.29), without them 0.25 is left.
    assert recovered < 0.92 * plain


def test_intervals_cover_the_scores():
    covered = []
    for seed in range(10):
        quality, _, _, votes = simulated(seed)
        low, high = mos_from_votes(votes, method="bias").interval.T
        covered += ((low < quality) & (quality < high)).tolist()
    # 400 intervals that take the inconsistencies for known and the biases for zero: a little under 95 %.
    assert 0.90 < np.mean(covered) < 0.98


def test_recommendation_says_when_one_observer_decides():
    _, _, _, votes = simulated(2, missing=0.7, spread=(0.2, 1.2))
    with pytest.warns(ConvergenceWarning, match="Observer .* decides them alone"):
        mos_from_votes(votes, method="p913")


def test_single_observer_is_nobody_to_differ_from():
    found = mos_from_votes([[3.0], [4.0]], method="bias")
    np.testing.assert_array_equal(found.mean, [3, 4])
    np.testing.assert_array_equal(found.bias, [0])
    assert np.isnan(found.interval).all()


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "arguments", "message"),
    [
        ([1, 2, 3], {}, r"table \(n_images, n_observers\), got shape \(3,\); votes_table"),
        (np.ones((0, 3)), {}, r"got shape \(0, 3\)"),
        ([[1, 2], [np.nan, np.nan]], {}, "Image 1 has no vote, the whole row is NaN"),
        ([[1, np.nan], [2, np.nan]], {}, "Observer 1 has no vote, the whole column is NaN"),
        ([[1, np.inf]], {}, "observer 1 on image 0 is infinite"),
        (
            [[1, 2]],
            {"method": "median"},
            "'method' parameter of mos_from_votes must be a str among .*'bt500'.* Got 'median'",
        ),
        ([[1, 2]], {"grades": [2, 1]}, "must be increasing numbers"),
        ([[1, 6]], {"grades": [1, 2, 3, 4, 5]}, "A vote is 6, which is not among the grades"),
        ([[1, 2, 3]], {"method": "p913"}, "needs 4 votes per image or more, but half of the images have 3 or fewer"),
        (
            [[1, 2, np.nan, np.nan], [np.nan, np.nan, 3, 4]],
            {"method": "bias"},
            "Observers 0 and 2 belong to groups that voted on no common image",
        ),
    ],
)
def test_unusable_votes_are_refused_in_one_sentence(votes, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        mos_from_votes(votes, **arguments)
    assert "\n" not in str(error.value)


def test_image_of_rejected_observers_is_refused():
    votes = np.full((3, 12), np.nan)
    votes[:2] = NORMAL, NORMAL[::-1]
    votes[2, [0, 11]] = 1, 2
    with pytest.raises(ValueError, match="Image 2 has votes of rejected observers only"):
        mos_from_votes(votes, method="bt500")


def test_second_vote_of_an_observer_is_refused():
    with pytest.raises(ValueError, match="Observer Ann voted 2 times on image cat"):
        votes_table(["cat", "dog", "cat"], ["Ann", "Ann", "Ann"], [1, 2, 3])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        votes_table(["cat"], ["Ann", "Bob"], [1, 2])

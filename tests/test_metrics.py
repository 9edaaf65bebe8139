# SPDX-License-Identifier: BSD-3-Clause
"""Agreement metrics: closed forms, SciPy's numbers, the logistic curve, scorers inside scikit-learn's searches."""

import copy
import pickle
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import config_context
from sklearn.datasets import make_regression
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate

from sklearn_iqa import metrics
from sklearn_iqa.metrics import (
    fit_logistic,
    jnd_average_precision,
    krcc,
    plcc,
    plcc_logistic,
    quality_scoring,
    rmse,
    srcc,
    two_afc_score,
)

CORRELATIONS = [srcc, krcc, plcc, plcc_logistic]
METRICS = [*CORRELATIONS, rmse, fit_logistic]


def vqeg_4(x, b1, b2, b3, b4):
    """The four-parameter curve as printed in VQEG's report."""
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def sheikh_5(x, b1, b2, b3, b4, b5):
    """The five-parameter curve as printed by Sheikh, Sabir and Bovik."""
    return b1 * (1 / 2 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


@pytest.fixture
def noisy():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 2, size=200)
    return vqeg_4(scores, 90, 10, 3.5, 0.8) + rng.normal(0, 8, size=200), scores


def test_closed_forms():
    mos, scores = [1, 2, 3, 4], [2, 1, 4, 3]
    # Rank differences are 1, 1, 1, 1: 1 - 6 * 4 / (4 * 15).
    assert srcc(mos, scores) == pytest.approx(0.6, abs=1e-12)
    # Of 6 pairs, 2 are discordant: (4 - 2) / 6.
    assert krcc(mos, scores) == pytest.approx(1 / 3, abs=1e-12)
    # Deviations (-1.5, -0.5, 0.5, 1.5) and (-0.5, -1.5, 1.5, 0.5): products sum to 3, squares to 5 and 5.
    assert plcc(mos, scores) == pytest.approx(0.6, abs=1e-12)
    # Every difference is 1.
    assert rmse(mos, scores) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scipy(noisy, ties):
    mos, scores = (np.round(values) for values in noisy) if ties else noisy
    assert srcc(mos, scores) == pytest.approx(stats.spearmanr(mos, scores).statistic, abs=1e-12)
    assert krcc(mos, scores) == pytest.approx(stats.kendalltau(mos, scores).statistic, abs=1e-12)
    assert plcc(mos, scores) == pytest.approx(stats.pearsonr(mos, scores).statistic, abs=1e-12)
    assert rmse(mos, scores) == pytest.approx(np.sqrt(np.mean((mos - scores) ** 2)), abs=1e-12)


def test_rank_correlations_ignore_monotone_maps(noisy):
    mos, scores = noisy
    for metric in (srcc, krcc):
        assert metric(np.exp(mos / 50), scores**3) == metric(mos, scores)


@pytest.mark.parametrize("metric", [srcc, krcc, plcc])
def test_correlations_are_odd_and_symmetric(noisy, metric):
    mos, scores = noisy
    assert metric(mos, -scores) == pytest.approx(-metric(mos, scores), abs=1e-12)
    assert metric(scores, mos) == pytest.approx(metric(mos, scores), abs=1e-12)


@pytest.mark.parametrize("n_parameters", [4, 5])
def test_plcc_logistic_ignores_unit_and_direction(noisy, n_parameters):
    mos, scores = noisy
    expected = plcc_logistic(mos, scores, n_parameters=n_parameters)
    # The family of curves is closed under these maps, so that only the optimiser's tolerance is left.
    for mapped_mos, mapped_scores in ((mos, -scores), (-mos, scores), (mos / 100 - 7, 1e6 + 40 * scores)):
        assert plcc_logistic(mapped_mos, mapped_scores, n_parameters=n_parameters) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", CORRELATIONS)
@pytest.mark.parametrize(("mos", "scores"), [([1, 2, 3], [5, 5, 5]), ([5, 5, 5], [1, 2, 3]), ([5, 5, 5], [5, 5, 5])])
def test_constant_input_gives_zero_with_one_warning(metric, mos, scores):
    with pytest.warns(UndefinedMetricWarning, match="constant, 0.0 is returned") as caught:
        assert metric(mos, scores) == 0.0
    assert len(caught) == 1
    assert caught[0].filename == __file__ or metric is plcc_logistic


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("mos", "scores", "message"),
    [
        ([1, 2, np.nan], [1, 2, 3], r"y_true\[2\] is nan, only finite"),
        ([1, 2, 3], [1, -np.inf, 3], r"y_pred\[1\] is -inf, only finite"),
        ([1, 2, 3], [1, 2], "y_true has 3 values and y_pred has 2"),
        ([1], [1], "at least 2 samples, got 1"),
        ([], [], "at least 2 samples, got 0"),
        (np.ones((3, 2)), [1, 2, 3], "should be a 1d array"),
        ([1, 2, 3], np.ones((1, 3)), "should be a 1d array"),
        (["a", "b"], [1, 2], "could not convert"),
    ],
)
def test_unusable_input_is_refused_in_one_sentence(metric, mos, scores, message):
    with pytest.raises(ValueError, match=message) as error:
        metric(mos, scores)
    assert "\n" not in str(error.value)


def test_columns_and_series_are_taken(noisy):
    pandas = pytest.importorskip("pandas")
    mos, scores = noisy
    for metric in CORRELATIONS:
        assert metric(mos[:, None], pandas.Series(scores)) == metric(mos, scores)


@pytest.mark.parametrize("n_parameters", [3, 6, None, "5"])
def test_other_numbers_of_parameters_are_refused(n_parameters):
    for metric in (fit_logistic, plcc_logistic):
        with pytest.raises(
            ValueError, match=rf"'n_parameters' parameter of {metric.__name__} must be an? int among {{4, 5}}"
        ):
            metric([1, 2, 3], [1, 2, 3], n_parameters=n_parameters)


# The centre, width and direction of the known curves vary; scores lie in 0..1 and in 0..1e5.
@pytest.mark.parametrize("unit", [1.0, 1e5])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("centre", "width"), [(0.5, 0.05), (0.7, 0.02), (0.1, 0.1), (1.2, 0.15)])
def test_recovers_known_four_parameter_curve(unit, direction, centre, width):
    scores = np.linspace(0, 1, 80) * unit
    mos = vqeg_4(direction * scores, 5, 1, direction * centre * unit, width * unit)
    for n_parameters in (4, 5):  # the five-parameter family contains it, with b4 = 0
        mapping = fit_logistic(mos, scores, n_parameters=n_parameters)
        np.testing.assert_allclose(mapping(scores), mos, atol=1e-5)
        agreement = plcc_logistic(mos, scores, n_parameters=n_parameters)
        assert agreement > 0.9999 > abs(plcc(mos, scores))


@pytest.mark.parametrize("direction", [1, -1])
# The last curve has step and line of opposite direction, yet 8 * 10 / 4 < 30: it is monotone.
@pytest.mark.parametrize(("b1", "b2", "b4"), [(60, 12, 20), (80, 30, 5), (30, 6, 0), (-8, 10, 30)])
def test_recovers_known_five_parameter_curve(direction, b1, b2, b4):
    scores = np.random.default_rng(0).uniform(0, 1, size=150)
    mos = direction * sheikh_5(scores, b1, b2, 0.4, b4, 7)
    np.testing.assert_allclose(fit_logistic(mos, scores)(scores), mos, atol=1e-4)
    assert plcc_logistic(mos, scores) > 0.9999 > abs(plcc(mos, scores))


def test_mapping_states_its_parameters():
    scores = np.linspace(0, 1, 80)
    mapping = fit_logistic(sheikh_5(scores, 60, 12, 0.4, 20, 7), scores)
    np.testing.assert_allclose(
        (mapping.b1, mapping.b2, mapping.b3, mapping.b4, mapping.b5), (60, 12, 0.4, 20, 7), rtol=1e-4
    )
    # Its asymptotes and width are those of the four-parameter form.
    mapping = fit_logistic(vqeg_4(scores, 5, 1, 0.4, 0.1), scores, n_parameters=4)
    asymptotes = (mapping.b5 + mapping.b1 / 2, mapping.b5 - mapping.b1 / 2)
    np.testing.assert_allclose((*asymptotes, mapping.b3, 1 / mapping.b2), (5, 1, 0.4, 0.1), rtol=1e-4)
    assert mapping.b4 == 0


@pytest.mark.parametrize(("n_parameters", "curve"), [(4, vqeg_4), (5, sheikh_5)])
def test_no_worse_than_free_least_squares(noisy, n_parameters, curve):
    mos, scores = noisy
    # Near the values that generated the data.
    start = (90, 10, 3.5, 0.8)
    if n_parameters == 5:
        mos, start = mos + 5 * scores, (80, 1.25, 3.5, 5, 50)
    free, _ = optimize.curve_fit(curve, scores, mos, start)
    fitted = fit_logistic(mos, scores, n_parameters=n_parameters)(scores)
    assert np.sum((mos - fitted) ** 2) == pytest.approx(np.sum((mos - curve(scores, *free)) ** 2), rel=1e-8)


@pytest.mark.parametrize("n_parameters", [4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_curve_beats_the_line(n_parameters, seed):
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=60)) * rng.choice([-1, 1])  # a long tail to one side
    mos = rng.normal(size=60) + rng.normal() * scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mapping = fit_logistic(mos, scores, n_parameters=n_parameters)
        agreement = plcc_logistic(mos, scores, n_parameters=n_parameters)
    line = np.polynomial.Polynomial.fit(scores, mos, 1)
    assert np.sum((mos - mapping(scores)) ** 2) <= np.sum((mos - line(scores)) ** 2) * (1 + 1e-12)
    assert 1 >= agreement >= abs(plcc(mos, scores))


@pytest.mark.parametrize("seed", range(10))
def test_two_distinct_scores_get_their_means(seed):
    # Least squares of any family that passes through two given points.
    rng = np.random.default_rng(seed)
    mos, scores = rng.normal(size=21), rng.permutation(np.arange(21) < 5 + seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for n_parameters in (4, 5):
            mapping = fit_logistic(mos, scores, n_parameters=n_parameters)
            np.testing.assert_allclose(mapping([0, 1]), [mos[~scores].mean(), mos[scores].mean()], atol=1e-6)


@pytest.mark.parametrize("n_parameters", [4, 5])
def test_few_samples_get_the_line(n_parameters):
    mos, scores = np.array([1.0, 2.0, 2.0, 4.0, 4.5])[:n_parameters], np.arange(n_parameters)
    with pytest.warns(
        ConvergenceWarning, match=f"{n_parameters} samples cannot determine the {n_parameters}"
    ) as caught:
        mapping = fit_logistic(mos, scores, n_parameters=n_parameters)
    assert caught[0].filename == __file__
    np.testing.assert_allclose((mapping.b5, mapping.b4), np.polynomial.polynomial.polyfit(scores, mos, 1), atol=1e-12)
    with pytest.warns(ConvergenceWarning):
        assert plcc_logistic(mos, -scores, n_parameters=n_parameters) == pytest.approx(plcc(mos, scores), abs=1e-12)


@pytest.mark.parametrize("n_parameters", [4, 5])
@pytest.mark.parametrize(
    ("mos", "scores"),
    [
        (np.random.default_rng(0).normal(size=40), np.arange(40) % 2),  # two distinct scores: step and line coincide
        (np.eye(1, 40).ravel(), np.arange(40.0)),  # all opinions but one are equal
        (np.arange(40.0), np.eye(1, 40).ravel()),  # all scores but one are equal
        (
            np.eye(1, 5000, 1).ravel(),
            np.arange(5000.0),
        ),  # constant opinions in the thinned sample that ranks the starts
        (np.arange(5000.0), np.eye(1, 5000, 4999).ravel()),  # nearly constant scores there
        (1e9 + np.sin(np.arange(40)), 1e-9 * np.arange(40)),  # far from unit scale
        (np.tile([1, 1, 0, 0], 5), np.tile([0, 1, 0, 1], 5)),  # no relation at all
    ],
)
def test_odd_data_get_a_finite_curve(mos, scores, n_parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        mapping = fit_logistic(mos, scores, n_parameters=n_parameters)
        agreement = plcc_logistic(mos, scores, n_parameters=n_parameters)
    assert np.isfinite(mapping(scores)).all()
    assert abs(plcc(mos, scores)) <= agreement <= 1


def test_constant_input_gets_the_mean_without_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_logistic([1, 2, 3, 6], [5, 5, 5, 5])(5) == 3.0
        assert fit_logistic([4, 4, 4, 4], [1, 2, 3, 4])([0, 9]).tolist() == [4.0, 4.0]


def test_mapping_keeps_shape_and_pickles(noisy):
    mapping = fit_logistic(*noisy)
    assert mapping(np.zeros((2, 3), np.float32)).shape == (2, 3)
    assert mapping(np.zeros(2, np.float32)).dtype == np.float64
    assert pickle.loads(pickle.dumps(mapping)) == mapping


def test_same_data_same_bits(noisy):
    assert fit_logistic(*noisy) == fit_logistic(*noisy)


# Weights --------------------------------------------------------------------------------------------------------------


def test_closed_forms_with_weights():
    # Weights 2, 1, 1 of rows with the values 1, 2, 3 and 1, 3, 2: the rows (1, 1), (1, 1), (2, 3), (3, 2).
    mos, scores, weight = [1, 2, 3], [1, 3, 2], [2.0, 1.0, 1.0]
    # Mid-ranks 1.5, 1.5, 3, 4 and 1.5, 1.5, 4, 3, of mean 2.5: products 1 + 1 + 0.75 + 0.75, squares 4.5 and 4.5.
    assert srcc(mos, scores, sample_weight=weight) == pytest.approx(3.5 / 4.5, abs=1e-12)
    # Of 6 pairs one is tied in both, four are concordant, one is discordant: (4 - 1) / 5.
    assert krcc(mos, scores, sample_weight=weight) == pytest.approx(3 / 5, abs=1e-12)
    # Deviations from 1.75: -0.75, -0.75, 0.25, 1.25 and -0.75, -0.75, 1.25, 0.25.
    assert plcc(mos, scores, sample_weight=weight) == pytest.approx(1.75 / 2.75, abs=1e-12)
    # Errors 0, 0, 1, 1.
    assert rmse(mos, scores, sample_weight=weight) == pytest.approx(np.sqrt(0.5), abs=1e-12)


@pytest.mark.parametrize("metric", [*CORRELATIONS, rmse], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("ties", [False, True])
def test_whole_weights_equal_repeated_rows(noisy, metric, ties):
    mos, scores = (np.round(values / 4) for values in noisy) if ties else noisy
    weight = np.random.default_rng(0).integers(0, 4, len(mos))
    repeated = metric(mos.repeat(weight), scores.repeat(weight))
    # The logistic curve is fitted by an optimiser, the others are sums.
    within = 1e-6 if metric is plcc_logistic else 1e-12
    assert metric(mos, scores, sample_weight=weight) == pytest.approx(repeated, abs=within)
    # Only the proportions count.
    assert metric(mos, scores, sample_weight=weight / 7) == pytest.approx(repeated, abs=within)
    assert abs(metric(mos, scores) - repeated) > 100 * within


def test_whole_weights_equal_repeated_rows_in_the_curve(noisy):
    mos, scores = noisy
    weight = np.random.default_rng(0).integers(1, 4, len(mos))
    for n_parameters in (4, 5):
        weighted = fit_logistic(mos, scores, n_parameters=n_parameters, sample_weight=weight)
        repeated = fit_logistic(mos.repeat(weight), scores.repeat(weight), n_parameters=n_parameters)
        np.testing.assert_allclose(weighted(scores), repeated(scores), rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_equal_weights_are_no_weights(noisy, metric):
    assert metric(*noisy, sample_weight=np.full(200, 0.3)) == metric(*noisy)


def test_weighted_krcc_of_many_rows_needs_little_memory():
    rng = np.random.default_rng(0)
    mos, weight = rng.normal(size=5000), rng.integers(1, 3, 5000)  # a table of all pairs would take 200 MB
    scores = mos + rng.normal(size=5000)
    tracemalloc.start()
    weighted = krcc(mos, scores, sample_weight=weight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert weighted == pytest.approx(krcc(mos.repeat(weight), scores.repeat(weight)), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, 1], "y_true has 3 values and sample_weight has 2"),
        ([1, np.nan, 1], r"sample_weight\[1\] is nan, only finite"),
        ([1, -1, 1], r"sample_weight\[1\] is -1.0, but weights are not negative"),
        ([0, 0, 1], "at least 2 samples that weigh more than 0, got 1"),
        (np.ones((3, 2)), "should be a 1d array"),
    ],
)
def test_unusable_weights_are_refused_in_one_sentence(metric, weight, message):
    with pytest.raises(ValueError, match=message) as error:
        metric([1, 2, 3], [1, 3, 2], sample_weight=weight)
    assert "\n" not in str(error.value)


# Judgements of triplets and pairs -------------------------------------------------------------------------------------


def test_two_afc_score_of_hand_computed_triplets():
    share = [0.8, 0.8, 0.8, 0.0, 1.0]
    first, second = [2.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 2.0, 2.0]
    # The second query is nearer: 0.8 agree; the first: 0.2; a tie: a half; the first: 1.0 and 0.0.
    assert two_afc_score(share, first, second) == pytest.approx((0.8 + 0.2 + 0.5 + 1.0 + 0.0) / 5, abs=1e-15)
    assert two_afc_score(share, first, second, sample_weight=[3, 0, 0, 1, 0]) == pytest.approx(3.4 / 4, abs=1e-15)
    # Distances count by their order only, and exchanged queries change nothing.
    assert two_afc_score(share, np.square(first), np.square(second)) == two_afc_score(share, first, second)
    assert two_afc_score(1 - np.array(share), second, first) == pytest.approx(two_afc_score(share, first, second))
    assert two_afc_score([0.4], [1.0], [2.0]) == 0.6  # one triplet is enough


def test_jnd_average_precision_of_hand_computed_pairs():
    # By distance: same, different, same, different. Precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1; the envelope
    # is 1 up to recall 1/2 and 2/3 up to 1.
    assert jnd_average_precision([1, 0, 1, 0], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1 / 2 + 1 / 3, abs=1e-15)
    assert jnd_average_precision([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]) == 1.0
    # Fractions count as so many of each: 2/3 of 1, then 1 of 2 pairs: precision 2/3, 1/2.
    assert jnd_average_precision([2 / 3, 1 / 3], [1.0, 2.0]) == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 1 / 2, abs=1e-15)
    # Of all pairs that are equally distant none is before the other: precision 1/2 at recall 1.
    assert jnd_average_precision([1, 0], [0.5, 0.5]) == jnd_average_precision([0, 1], [0.5, 0.5]) == 0.5


def test_jnd_average_precision_weights_equal_repeated_rows():
    rng = np.random.default_rng(0)
    same, distance, weight = rng.choice([0, 1 / 3, 2 / 3, 1], 60), rng.normal(size=60), rng.integers(0, 3, 60)
    repeated = jnd_average_precision(same.repeat(weight), distance.repeat(weight))
    assert jnd_average_precision(same, distance, sample_weight=weight) == pytest.approx(repeated, abs=1e-12)


def test_jnd_average_precision_is_the_official_one():
    voc_ap = pytest.importorskip("lpips", reason="the official code is not installed: pip install lpips").voc_ap
    rng = np.random.default_rng(0)
    same, distance = rng.choice([0, 1 / 3, 2 / 3, 1], 500), rng.normal(size=500)
    by_distance = same[np.argsort(distance)]
    hits, misses = np.cumsum(by_distance), np.cumsum(1 - by_distance)
    official = voc_ap(hits / by_distance.sum(), hits / (hits + misses))
    assert jnd_average_precision(same, distance) == pytest.approx(official, abs=1e-12)


def test_no_pair_that_looks_the_same_gives_zero_with_a_warning():
    with pytest.warns(UndefinedMetricWarning, match="nobody found any pair the same, 0.0 is returned") as caught:
        assert jnd_average_precision([0, 0], [1.0, 2.0]) == 0.0
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: two_afc_score([0.5, 80], [1, 2], [2, 1]),
            r"y_true\[1\] is 80.0, but a fraction of people lies in 0..1",
        ),
        (lambda: two_afc_score([0.5, 1], [1, 2, 3], [2, 1]), "y_true has 2 values and first has 3"),
        (lambda: two_afc_score([0.5, 1], [1, 2], [2, np.nan]), r"second\[1\] is nan, only finite"),
        (lambda: two_afc_score([], [], []), "at least 1 sample, got 0"),
        (lambda: jnd_average_precision([-1, 1], [1, 2]), r"y_true\[0\] is -1.0, but a fraction of people"),
        (lambda: jnd_average_precision([0, 1], [1]), "y_true has 2 values and distance has 1"),
    ],
)
def test_unusable_judgements_are_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# Scorers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["srcc", "krcc", "plcc", "plcc_logistic", "rmse"])
def test_scorers_take_weights(name):
    X, y = make_regression(60, 4, noise=20, random_state=0)
    weight, estimator = np.arange(60.0), Ridge().fit(X, y)
    sign = -1 if name == "rmse" else 1
    expected = sign * getattr(metrics, name)(y, estimator.predict(X), sample_weight=weight)
    scorer = getattr(metrics, f"{name}_scorer")
    assert scorer(estimator, X, y, sample_weight=weight) == expected
    with pytest.raises(ValueError, match="y_true has 60 values and sample_weight has 59"):
        scorer(estimator, X, y, sample_weight=weight[1:])
    with config_context(enable_metadata_routing=True):
        routed = copy.deepcopy(scorer).set_score_request(sample_weight=True)
        given = {"params": {"sample_weight": weight}, "cv": [(np.arange(60), np.arange(60))]}
        result = cross_validate(Ridge().set_fit_request(sample_weight=False), X, y, scoring=routed, **given)
    assert result["test_score"] == [pytest.approx(expected)]


@pytest.mark.parametrize("name", ["srcc", "krcc", "plcc", "plcc_logistic", "rmse"])
def test_scorers_pickle_and_point_upwards(name):
    X, y = make_regression(60, 4, noise=20, random_state=0)
    estimator = Ridge().fit(X, y)
    scorer = pickle.loads(pickle.dumps(getattr(metrics, f"{name}_scorer")))
    sign = -1 if name == "rmse" else 1
    assert scorer(estimator, X, y) == sign * getattr(metrics, name)(y, estimator.predict(X))


def test_cross_validate_in_two_processes():
    X, y = make_regression(90, 4, noise=20, random_state=0)
    scoring = quality_scoring()
    assert list(scoring) == ["srcc", "krcc", "plcc", "plcc_logistic", "neg_rmse"]
    alone, together = (
        cross_validate(Ridge(), X, y, cv=3, scoring=scoring, n_jobs=n_jobs, error_score="raise") for n_jobs in (1, 2)
    )
    for name in scoring:
        # processes may use other numbers of threads, so that sums differ in their last bits
        np.testing.assert_allclose(alone[f"test_{name}"], together[f"test_{name}"], rtol=1e-6)
    assert (together["test_neg_rmse"] < 0).all()
    assert (together["test_plcc_logistic"] >= together["test_plcc"]).all()


def test_grid_search_refits_by_rank_correlation():
    X, y = make_regression(90, 4, noise=5, random_state=0)
    # At 1e9 the coefficients vanish but keep their ranks; strong noise columns make a large penalty lose.
    X = np.hstack([X, 1e3 * np.random.default_rng(0).normal(size=(90, 4))])
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 1e9]}, scoring=quality_scoring(), refit="srcc", error_score="raise")
    search.fit(X, y)
    assert search.best_params_ == {"alpha": 1.0}
    assert search.best_score_ == search.cv_results_["mean_test_srcc"].max()


def test_search_over_constant_predictions_has_no_nan():
    X, y = make_regression(30, 2, random_state=0)
    with pytest.warns(UndefinedMetricWarning):
        results = cross_validate(DummyRegressor(), X, y, cv=3, scoring=quality_scoring(), error_score="raise")
    for name in ("srcc", "krcc", "plcc", "plcc_logistic"):
        np.testing.assert_array_equal(results[f"test_{name}"], 0.0)


def test_import_needs_neither_torch_nor_matplotlib():
    code = "import sys, sklearn_iqa.metrics; print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_sorted_and_exist():
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)

# SPDX-License-Identifier: BSD-3-Clause
"""The seam itself, with the smallest methods that it allows."""

import copy
import pickle
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sentences import one_sentence
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_iqa import CLIPIQA, LIQE, MUSIQ, NIMA, UNIQUE
from sklearn_iqa._base.quality import FeatureLearner, QualityRegressor, check_quality
from sklearn_iqa._base.training import hold_out
from sklearn_iqa._nn.transforms import random_crop, to_tensor
from sklearn_iqa.metrics import krcc, plcc, plcc_logistic, quality_scoring, rmse, srcc, srcc_scorer

IMAGES = [
    np.full((16, 16 + side, 3), level, np.uint8) for side, level in enumerate(np.linspace(0, 255, 12).astype(int))
]
BRIGHTNESS = np.linspace(0, 255, 12)


class Mean(nn.Module):
    """Brightness through a line."""

    def __init__(self, n_out):
        super().__init__()
        self.line = nn.Linear(3, n_out)

    def forward(self, images):
        """(n, 3, h, w) -> (n, n_out)."""
        return self.line(images.mean((2, 3)))


class Brightness(QualityRegressor):
    """A method in four short methods."""

    optimizer = torch.optim.SGD

    def __init__(self, *, lr=0.5, max_epochs=40, batch_size=4, weights=None, device="cpu", random_state=0, verbose=0):
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weights = weights
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _network(self):
        return nn.Sequential(Mean(1), nn.Flatten(0))

    def _loss(self):
        return nn.MSELoss()

    def _train_view(self, x):
        return random_crop(to_tensor(x), 8)

    def _views(self, x):
        return to_tensor(x)[None]


class Codes(FeatureLearner):
    """Features learned without labels: three numbers that give the image's mean colour back."""

    def __init__(self, *, lr=0.1, max_epochs=3, batch_size=4, weights=None, device="cpu", random_state=0, verbose=0):
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weights = weights
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    _n_features_out = 5

    def _network(self):
        return Mean(5)

    def _training_module(self, network):
        return nn.Sequential(network, nn.Linear(5, 3))

    def _loss(self):
        return _FromOutput()

    def _train_view(self, x):
        return random_crop(to_tensor(x), 8)

    def _views(self, x):
        return torch.stack([to_tensor(x), to_tensor(x).flip(-1)])


class _FromOutput(nn.Module):
    def forward(self, output, target):
        return output.pow(2).mean()


def test_a_regressor_learns_in_the_unit_of_y():
    estimator = Brightness().fit(IMAGES, 1000 + BRIGHTNESS)
    # brightness is linear in y, but for grey levels in whole numbers; 1 % of the range is for 40 epochs of descent
    np.testing.assert_allclose(estimator.predict(IMAGES), 1000 + BRIGHTNESS, atol=2.55)
    assert estimator.score(IMAGES, BRIGHTNESS) == pytest.approx(1)


def test_label_scale_is_mean_and_deviation():
    estimator = Brightness(max_epochs=1).fit(IMAGES, BRIGHTNESS)
    assert estimator.label_scale_ == pytest.approx((BRIGHTNESS.std(), BRIGHTNESS.mean()))
    constant = Brightness(max_epochs=1).fit(IMAGES, np.full(12, 7.0))
    assert constant.label_scale_ == (1.0, 7.0)


def test_weight_moves_the_mean():
    # twice the weight on the brighter half: mean of labels 0 and 1 is 2/3
    y, weight = np.repeat([0.0, 1.0], 6), np.repeat([1.0, 2.0], 6)
    assert Brightness(max_epochs=1).fit(IMAGES, y, sample_weight=weight).label_scale_[1] == pytest.approx(2 / 3)


def test_a_transformer_trains_without_labels_and_stands_in_pipelines():
    codes = Codes().fit(IMAGES)
    features = codes.transform(IMAGES)
    assert features.shape == (12, 5)
    assert features.dtype == np.float32
    assert codes.loss_curve_[-1] < codes.loss_curve_[0]
    assert list(codes.get_feature_names_out()) == [f"codes{i}" for i in range(5)]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(codes)).transform(IMAGES), features)
    search = GridSearchCV(
        make_pipeline(Codes(), Ridge(1e-3)), {"codes__max_epochs": [1, 2]}, cv=3, error_score="raise"
    ).fit(IMAGES, BRIGHTNESS)
    assert search.best_score_ > 0.9


def test_a_loss_that_explodes_says_so():
    with pytest.raises(ValueError, match=r"The loss of Brightness became .* lower lr"):
        Brightness(lr=1e30).fit(IMAGES, BRIGHTNESS)


# Scores ---------------------------------------------------------------------------------------------------------------

NOISY = [np.random.default_rng(row).integers(0, 256, (32, 40, 3), dtype=np.uint8) // (1 + row % 3) for row in range(8)]
MOS = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])
SMALL = {"backbone": "test_resnet", "backbone_weights": None, "batch_size": 4, "max_epochs": 1, "random_state": 0}
COUNTS = np.random.default_rng(0).integers(1, 9, (8, 5))
COUNT_MEANS = COUNTS @ np.arange(1, 6) / COUNTS.sum(1)
# Estimators with a y of several columns, and the quality that y means.
COLUMNS = {
    "counts of ratings": (NIMA(n_bins=5, image_size=32, **SMALL), COUNTS, COUNT_MEANS),
    "counts of ratings, tokens": (MUSIQ(**{**MUSIQ._test_params, "n_bins": 5}), COUNTS, COUNT_MEANS),
    "means and deviations": (NIMA(n_bins=5, image_size=32, **SMALL), np.column_stack([MOS, MOS[::-1]]), MOS),
    "opinions and deviations": (UNIQUE(crop_size=32, **SMALL), np.column_stack([MOS, MOS[::-1]]), MOS),
    "attributes": (
        CLIPIQA(
            prompts=[("Good photo.", "Bad photo."), ("Bright photo.", "Dark photo.")],
            attribute=1,
            n_context=2,
            **{**SMALL, "backbone": str(Path(__file__).parent / "clip_tiny_resnet.json")},
        ),
        np.column_stack([MOS[::-1], MOS]),
        MOS,
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_scorers_take_a_y_of_several_columns(kind):
    estimator, y, quality = COLUMNS[kind]
    folds = list(KFold(2).split(NOISY))
    given = {"scoring": quality_scoring(), "cv": folds, "error_score": "raise"}
    result = cross_validate(estimator, NOISY, y, return_estimator=True, **given)
    for number, (_, test) in enumerate(folds):
        predicted = result["estimator"][number].predict([NOISY[row] for row in test])
        for name, metric in {"srcc": srcc, "krcc": krcc, "plcc": plcc, "plcc_logistic": plcc_logistic}.items():
            assert result[f"test_{name}"][number] == pytest.approx(metric(quality[test], predicted), abs=1e-12)
        assert result["test_neg_rmse"][number] == pytest.approx(-rmse(quality[test], predicted), abs=1e-12)
    search = GridSearchCV(estimator, {"lr": [1e-4, 1e-2]}, refit="srcc", **given).fit(NOISY, y)
    expected = srcc(quality, search.predict(NOISY))
    pipeline = Pipeline([("same", FunctionTransformer()), ("quality", search.best_estimator_)])
    for fitted in (search, search.best_estimator_, FrozenEstimator(search), pipeline):
        assert srcc_scorer(fitted, NOISY, y) == expected
    assert pickle.loads(pickle.dumps(srcc_scorer))(search, NOISY, y) == expected
    assert search.best_estimator_.score(NOISY, y) == expected


def test_scorers_predict_once(monkeypatch):
    estimator, calls = Brightness(max_epochs=1).fit(IMAGES, BRIGHTNESS), []
    original = Brightness.predict

    def predict(self, X):
        calls.append(len(X))
        return original(self, X)

    monkeypatch.setattr(Brightness, "predict", predict)
    split = [(np.arange(12), np.arange(12))]
    cross_validate(estimator, IMAGES, BRIGHTNESS, cv=split, scoring=quality_scoring(), error_score="raise")
    assert calls == [12]


def test_columns_without_a_meaning_are_refused():
    estimator, y = Brightness(max_epochs=1).fit(IMAGES, BRIGHTNESS), np.column_stack([BRIGHTNESS, BRIGHTNESS])
    for score in (estimator.score, partial(srcc_scorer, estimator)):
        with pytest.raises(ValueError, match="should be a 1d array"):
            score(IMAGES, y)
    with pytest.raises(ValueError, match="should be a 1d array"):
        srcc_scorer(LinearRegression().fit(y, y), y, y)


def test_score_counts_rows_by_weight():
    estimator, weight = Brightness(max_epochs=1).fit(IMAGES, BRIGHTNESS), np.arange(12) % 3
    y = np.random.default_rng(0).permutation(BRIGHTNESS)
    repeated = estimator.score([IMAGES[row] for row in np.arange(12).repeat(weight)], y.repeat(weight))
    assert estimator.score(IMAGES, y, weight) == pytest.approx(repeated, abs=1e-12)
    assert estimator.score(IMAGES, y) != pytest.approx(repeated, abs=1e-3)
    with pytest.raises(ValueError, match="y_true has 12 values and sample_weight has 3"):
        estimator.score(IMAGES, y, [1, 2, 3])


# Rows that cannot be used ---------------------------------------------------------------------------------------------

SIZED = [image[:, :side] for image, side in zip(IMAGES, [16, 16, 8, 16, 20, 8, 16, 8, 20, 16, 8, 16], strict=True)]
ALLOCATION = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.fixture(scope="module")
def brightness():
    return Brightness().fit(IMAGES, BRIGHTNESS)


@pytest.fixture(scope="module")
def codes():
    return Codes().fit(IMAGES)


def starved(estimator, monkeypatch, error, too_large):
    """Let the network of an estimator run out of memory where the images (n, 3, h, w) of a pass are too large."""
    forward = type(estimator.network_).forward

    def limited(self, images):
        if too_large(images):
            raise error
        return forward(self, images)

    monkeypatch.setattr(type(estimator.network_), "forward", limited)


@pytest.mark.parametrize(
    "error", [RuntimeError(ALLOCATION), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to"), MemoryError()]
)
def test_too_little_memory_for_an_image_is_one_sentence(brightness, codes, monkeypatch, error):
    starved(brightness, monkeypatch, error, lambda images: images.shape[-1] == 20)
    parts = "Row 4 of X (16 x 20 pixels) needs more memory than there is", "one view alone"
    with one_sentence(MemoryError, *parts, "shrink the image"):
        brightness.predict(SIZED)
    with one_sentence(MemoryError, *parts):
        list(brightness.predict_iter(SIZED))
    starved(codes, monkeypatch, error, lambda images: images.shape[-1] == 20)
    with one_sentence(MemoryError, *parts):
        codes.transform(SIZED)


def test_images_that_do_not_fit_together_pass_one_by_one(brightness, monkeypatch):
    expected, passes = brightness.predict(IMAGES[:1] * 4), []
    error = RuntimeError(ALLOCATION)
    starved(brightness, monkeypatch, error, lambda images: passes.append(len(images)) or len(images) > 1)
    np.testing.assert_allclose(brightness.predict(IMAGES[:1] * 4), expected, rtol=1e-5)
    assert passes == [4, 1, 1, 1, 1]


def test_views_that_do_not_fit_together_pass_one_by_one(codes, monkeypatch):
    expected, passes = codes.transform(IMAGES[:2]), []
    error = RuntimeError(ALLOCATION)
    starved(codes, monkeypatch, error, lambda images: passes.append(len(images)) or len(images) > 1)
    np.testing.assert_allclose(codes.transform(IMAGES[:2]), expected, rtol=1e-5)
    assert passes == [2, 1, 1, 2, 1, 1]


def test_too_little_memory_before_the_network_is_one_sentence(brightness, monkeypatch):
    def views(self, image):
        raise RuntimeError(ALLOCATION)

    monkeypatch.setattr(Brightness, "_views", views)
    with one_sentence(MemoryError, "Row 0 of X (16 x 16 pixels) needs more memory than there is", "shrink"):
        brightness.predict(IMAGES)


def test_other_errors_of_a_network_keep_their_traceback(brightness, monkeypatch):
    starved(brightness, monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), lambda images: True)
    for on_error in ("raise", "nan"):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            brightness.predict(IMAGES, on_error=on_error)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_given(brightness, codes, value):
    broken, broken_codes = copy.deepcopy(brightness), copy.deepcopy(codes)
    for line in (broken.network_[0].line, broken_codes.network_.line):
        line.bias.data[0] = value  # one number is enough
    for call in (broken.predict, lambda X: list(broken.predict_iter(X)), broken_codes.transform):
        with one_sentence(ValueError, "Row 0 of X (16 x 16 pixels)", "NaN or infinity", "check the weights"):
            call(IMAGES)


def test_a_score_that_is_not_finite_is_never_given(brightness, codes, monkeypatch):
    # A network's output is finite, and what is made of it is not.
    monkeypatch.setattr(Brightness, "_score", lambda self, output: np.inf)
    for call in (brightness.predict, lambda X: list(brightness.predict_iter(X))):
        with one_sentence(ValueError, "Row 0 of X", "NaN or infinity", "check the weights"):
            call(IMAGES)
    monkeypatch.setattr(Codes, "_features", lambda self, output: np.full(5, np.nan, np.float32))
    with one_sentence(ValueError, "Row 0 of X", "NaN or infinity"):
        codes.transform(IMAGES)


BAD = {2: "/nowhere/a.png", 5: np.full((16, 16, 3), np.nan), 7: 5, 9: (IMAGES[0], IMAGES[0])}


def with_bad_rows():
    return [BAD.get(row, image) for row, image in enumerate(IMAGES)]


def warns_of_bad_rows(rows="2, 5, 7, 9"):
    return pytest.warns(
        UserWarning, match=rf"^\d+ of 12 rows of X cannot be used and are NaN \(row {rows}\); the first error"
    )


def test_rows_that_cannot_be_used_are_nan_on_request(brightness, codes):
    good = [row for row in range(12) if row not in BAD]
    expected = brightness.predict(IMAGES)
    with warns_of_bad_rows() as caught:
        scores = brightness.predict(with_bad_rows(), on_error="nan")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message).endswith("check the path, relative ones start at " + repr(str(Path.cwd())) + ".")
    np.testing.assert_allclose(scores[good], expected[good], rtol=1e-5)
    assert np.isnan(scores[list(BAD)]).all()
    with warns_of_bad_rows() as caught:
        known = dict(brightness.predict_iter(with_bad_rows(), on_error="nan"))
    assert len(caught) == 1
    np.testing.assert_array_equal([known[row] for row in range(12)], scores)
    features = codes.transform(IMAGES)
    with warns_of_bad_rows() as caught:
        found = codes.transform(with_bad_rows(), on_error="nan")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[good], features[good], rtol=1e-5)
    assert np.isnan(found[list(BAD)]).all()


def test_without_a_request_the_first_row_that_cannot_be_used_is_an_error(brightness, codes):
    for call in (brightness.predict, codes.transform, lambda X: list(brightness.predict_iter(X))):
        with pytest.raises(FileNotFoundError, match="Row 2 of X"):
            call(with_bad_rows())


def test_good_rows_give_no_warning(brightness, codes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(brightness.predict(IMAGES, on_error="nan"), brightness.predict(IMAGES))
        np.testing.assert_array_equal(codes.transform(IMAGES, on_error="nan"), codes.transform(IMAGES))


def test_rows_may_all_be_bad(brightness, codes):
    with pytest.warns(UserWarning, match=r"^3 of 3 rows"):
        assert np.isnan(brightness.predict(["a.png"] * 3, on_error="nan")).all()
    with pytest.warns(UserWarning, match=r"^8 of 8 rows of X .* \(row 0, 1, 2, 3, 4, \.\.\.\);"):
        assert codes.transform(["a.png"] * 8, on_error="nan").shape == (8, 5)


def test_too_little_memory_and_numbers_that_are_not_finite_are_nan_on_request(brightness, monkeypatch):
    starved(brightness, monkeypatch, RuntimeError(ALLOCATION), lambda images: images.shape[-1] == 20)
    with warns_of_bad_rows("4, 8") as caught:
        scores = brightness.predict(SIZED, on_error="nan")
    assert len(caught) == 1
    assert np.flatnonzero(np.isnan(scores)).tolist() == [4, 8]
    monkeypatch.undo()
    score = Brightness._score
    monkeypatch.setattr(Brightness, "_score", lambda self, output: np.inf if score(self, output) > 0 else 0.0)
    with pytest.warns(UserWarning, match=r"^6 of 12 rows of X cannot be used and are NaN"):
        scores = brightness.predict(IMAGES, on_error="nan")
    assert np.isnan(scores).tolist() == [False] * 6 + [True] * 6  # standardised labels: half of them are below 0


def test_what_on_error_takes(brightness, codes):
    for call in (brightness.predict, codes.transform, lambda X, **how: list(brightness.predict_iter(X, **how))):
        with one_sentence(ValueError, "on_error is 'ignore'", "'raise' or 'nan'"):
            call(IMAGES, on_error="ignore")


def test_what_concerns_no_row_is_an_error_at_any_request(brightness):
    with pytest.raises(ValueError, match="X holds dicts"):
        brightness.predict([{"image": image} for image in IMAGES], on_error="nan")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        Brightness(weights="none.pth").predict(IMAGES, on_error="nan")


def test_pipelines_hand_the_request_on_by_metadata_routing(codes):
    with config_context(enable_metadata_routing=True):
        pipeline = Pipeline([("codes", copy.deepcopy(codes).set_transform_request(on_error=True))])
        with warns_of_bad_rows():
            found = pipeline.transform(with_bad_rows(), on_error="nan")
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == list(BAD)


# Domains --------------------------------------------------------------------------------------------------------------

CLIP_VIT = str(Path(__file__).parent / "clip_tiny_vit.json")
OF_DOMAINS = {
    "UNIQUE": UNIQUE(crop_size=48, **SMALL),
    "LIQE": LIQE(**{**LIQE._test_params, "backbone": CLIP_VIT, "random_state": 0}),
}
# Ranks are reversed within both data sets, whose units lie so far apart that all together agree well.
DOMAINS = ["a"] * 4 + ["b"] * 4
UNITS = np.array([1.0, 2, 3, 4, 101, 102, 103, 104])
REVERSED = np.array([4.0, 3, 2, 1, 14, 13, 12, 11])


@pytest.mark.parametrize("name", OF_DOMAINS)
def test_score_of_several_domains_is_the_mean_over_them(name, monkeypatch):
    estimator = clone(OF_DOMAINS[name]).fit(NOISY, UNITS, domains=DOMAINS)
    monkeypatch.setattr(type(estimator), "predict", lambda self, X: REVERSED[: len(X)])
    assert estimator.score(NOISY, UNITS) == srcc(UNITS, REVERSED) > 0.5  # of one data set, as far as it is told
    assert estimator.score(NOISY, UNITS, domains=DOMAINS) == pytest.approx(-1)
    # One domain agrees, one does not; then the second alone counts, with whole weights as with repeated rows.
    assert estimator.score(NOISY, np.r_[UNITS[:4], -UNITS[4:]], domains=DOMAINS) == pytest.approx(0)
    y, weight = [1, 2, 3, 4, 1, 3, 2, 4], [1, 1, 1, 1, 2, 1, 1, 1]
    in_second = srcc([1, 1, 3, 2, 4], [14, 14, 13, 12, 11])
    assert estimator.score(NOISY, y, weight, domains=DOMAINS) == pytest.approx((-1 + in_second) / 2)
    with pytest.warns(UndefinedMetricWarning, match="Domain c has fewer than two rows that count"):
        assert estimator.score(NOISY, UNITS, domains=[*DOMAINS[:-1], "c"]) == pytest.approx(-1)
    with pytest.raises(ValueError, match="no domain has two rows that count"):
        estimator.score(NOISY, UNITS, domains=list("abcdefgh"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.score(NOISY, UNITS, domains=DOMAINS[1:])


@pytest.mark.parametrize("name", OF_DOMAINS)
def test_early_stopping_ranks_within_each_domain(name, monkeypatch):
    estimator = clone(OF_DOMAINS[name]).set_params(early_stopping=True, validation_fraction=0.75)
    _, held_out = hold_out(estimator._rows(NOISY), 0.75, estimator._drawn_seed())
    assert len(held_out) == 6  # of both domains at least two
    monkeypatch.setattr(
        type(estimator), "_scores", lambda self, rows: REVERSED[[rows.number(i) for i in range(len(rows))]]
    )
    estimator.fit(NOISY, UNITS, domains=DOMAINS)
    assert estimator.validation_scores_ == pytest.approx([-1])
    assert srcc(UNITS[held_out], REVERSED[held_out]) > 0  # what all together would have given


@pytest.mark.parametrize("name", OF_DOMAINS)
def test_held_out_domains_of_one_row_each_are_refused(name):
    estimator = clone(OF_DOMAINS[name]).set_params(early_stopping=True, validation_fraction=0.25)
    _, held_out = hold_out(estimator._rows(NOISY), 0.25, estimator._drawn_seed())
    domains = np.zeros(8)
    domains[held_out] = 1, 2
    with pytest.raises(ValueError, match="holds out 2 rows, but no domain has two among them"):
        estimator.fit(NOISY, UNITS, domains=domains)


def test_domains_go_through_a_search():
    with config_context(enable_metadata_routing=True):
        unique = clone(OF_DOMAINS["UNIQUE"]).set_fit_request(domains=True).set_score_request(domains=True)
        folds = list(KFold(2, shuffle=True, random_state=0).split(NOISY))
        given = {"cv": folds, "return_estimator": True, "params": {"domains": np.array(DOMAINS)}}
        result = cross_validate(unique, NOISY, UNITS, **given)
        for (_, test), fitted, score in zip(folds, result["estimator"], result["test_score"], strict=True):
            of_test = {"X": [NOISY[row] for row in test], "y": UNITS[test], "domains": np.array(DOMAINS)[test]}
            assert score == fitted.score(**of_test)


# Labels that are no numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "parts"),
    [
        (["bad", "good", "bad", "good"], ("y holds text ('bad')", "quality is a number", "turn grades into numbers")),
        ([1.0, np.nan, 2.0, 3.0], ("y contains NaN, first in row 1", "leave rows")),
        ([1.0, 2.0, -np.inf, np.nan], ("y contains infinity (inf), first in row 2",)),
    ],
)
def test_labels_say_what_is_wrong_with_them(y, parts):
    with one_sentence(ValueError, *parts):
        NIMA(**NIMA._test_params).fit(NOISY[:4], y)


def test_grades_that_are_numbers_in_text_are_numbers():
    assert check_quality(range(3), np.array(["1", "2.5", "3"]), "NIMA").tolist() == [1, 2.5, 3]

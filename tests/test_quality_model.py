# SPDX-License-Identifier: BSD-3-Clause
"""The model that comes with the package: its file, what it says of sharp and of spoiled photographs, and its head."""

import copy
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

import sklearn_iqa
from sklearn_iqa import load_quality_model
from sklearn_iqa._base.images import read_image
from sklearn_iqa._weights import pretrained
from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.distortions import DISTORTIONS, distort
from sklearn_iqa.metrics import srcc
from sklearn_iqa.quality_model._file import read_head, write_head
from sklearn_iqa.quality_model._head import NORMAL_QUANTILE, QualityHead
from sklearn_iqa.quality_model._loader import FILE, MAX_PIXELS

PATH = Path(sklearn_iqa.__file__).parent / "quality_model" / FILE
REPORT = Path(__file__).parents[1] / "benchmarks" / "train_default.md"
needs_wheel = pytest.mark.usefixtures("lite0_wheel")


@pytest.fixture(scope="module")
def model():
    return load_quality_model()


# The model that ships -------------------------------------------------------------------------------------------------


def test_file_is_small_and_holds_numbers_alone():
    assert PATH.stat().st_size < 800_000
    with safetensors.safe_open(PATH, framework="numpy") as file:  # a format without code
        assert {"name", "version", "backbone", "trained_on", "scores"} <= set(file.metadata())
    assert all(array.dtype.kind == "f" for array in safetensors.numpy.load_file(PATH).values())


def test_report():
    """What the training script measured: agreement by cross-validation, coverage, kinds whose mean falls."""
    text = REPORT.read_text(encoding="utf-8")
    header = [cell.strip() for cell in re.search(r"^\|.*SRCC.*$", text, flags=re.MULTILINE)[0].split("|")]
    means = [cell.strip() for cell in re.search(r"^\| mean \|.*$", text, flags=re.MULTILINE)[0].split("|")]
    figures = dict(zip(header, means, strict=True))
    assert float(figures["SRCC"]) >= 0.86  # a ridge on the same set: 0.850
    assert 0.88 <= float(figures["coverage"]) <= 0.92
    assert len(re.findall(r"\| yes \|$", text, flags=re.MULTILINE)) >= 20


def test_file_is_the_one_that_the_report_measured():
    text, metadata = REPORT.read_text(encoding="utf-8"), read_head(PATH).metadata_
    assert metadata["version"] == re.search(r"model version (\S+?)\.", text)[1]
    assert f"File: {PATH.stat().st_size:,} bytes" in text
    stated = float(re.search(r"^\| mean \| (\S+)", text, flags=re.MULTILINE)[1])
    assert abs(stated - float(metadata["srcc_5_folds"])) < 6e-4  # three digits beside four


@needs_wheel
def test_is_an_ordinary_pipeline(model):
    image = load_photographs(size=64).images[0]
    assert isinstance(model, Pipeline)
    expected = model.predict([image])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict([image]), expected)
    copy = clone(model)
    assert copy.get_params()["head__alpha"] == model["head"].alpha
    with pytest.raises(NotFittedError):
        copy.predict([image])


@needs_wheel
def test_paths_arrays_and_large_images(model, tmp_path):
    image = load_photographs().images[0]  # 512 x 512: native
    assert image.shape[0] * image.shape[1] == MAX_PIXELS
    large = np.kron(image, np.ones((2, 2, 1), np.uint8))
    Image.fromarray(image).save(tmp_path / "a.png")
    native, path, twice = model.predict([image, tmp_path / "a.png", large])
    assert native == path
    # Reducing is not the inverse of repeating pixels: the filter is wider than one pixel. A tenth of the standard
    # deviation of an error is far below what the model can tell.
    assert abs(native - twice) < 0.05


@needs_wheel
def test_sharp_is_better_than_spoiled(model):
    photographs = load_photographs(size=256).images  # the size at which distortions were learned
    sharp, std = model.predict(photographs, return_std=True)
    # Scores are not clipped: a very good photograph (here the cat, 1.03) may pass 1, by less than its deviation.
    assert ((sharp > 0) & (sharp < 1 + std)).all()
    assert ((std > 0.03) & (std < 0.3)).all()  # ratings of the set have a standard deviation of 0.19
    for kind in ("gaussian_blur", "jpeg2000", "motion_blur"):
        spoiled = model.predict([distort(one, kind, 5, random_state=0) for one in photographs])
        assert (spoiled < sharp).all(), kind
        assert (spoiled < sharp - 0.1).mean() >= 0.8, kind


@needs_wheel
def test_mean_falls_with_the_level(model):
    """On photographs that were not trained on; all 25 kinds at a larger size are in the report."""
    photographs = load_photographs(size=128).images[:5]
    kinds = ("gaussian_blur", "lens_blur", "motion_blur", "jpeg2000", "jpeg", "pixelate")
    assert set(kinds) <= set(DISTORTIONS)
    for kind in kinds:
        images = [distort(one, kind, level, random_state=0) for level in (0, 1, 3, 5) for one in photographs]
        means = model.predict(images).reshape(4, -1).mean(1)
        assert (np.diff(means) < 0).all(), (kind, means)


@needs_wheel
def test_fit_trains_on_ones_own_ratings():
    # Ratings that say the opposite of the model that ships: the more blur, the better. Its scores are compared within
    # a photograph, as contents differ more than levels do; galaxy field and medical pictures are no photographs.
    photographs = load_photographs(size=128)
    strange = ("hubble_deep_field", "immunohistochemistry", "retina")
    ordinary = [one for one, name in zip(photographs.images, photographs.names, strict=True) if name not in strange]
    levels = (0, 2, 4, 5)
    images = [distort(one, "gaussian_blur", level) for one in ordinary for level in levels]
    model = load_quality_model()
    assert np.mean([srcc(levels, scores) for scores in model.predict(images).reshape(-1, 4)]) < -0.5
    model.fit(images[:20], np.tile(levels, 5))
    assert np.mean([srcc(levels, scores) for scores in model.predict(images[20:]).reshape(-1, 4)]) > 0.5


@needs_wheel
def test_rated_photographs(model, rated_data):
    """A check that the file belongs to its features: these images were in training, so it says nothing of accuracy."""
    folder = rated_data("biq2021")
    table = pd.read_csv(folder / "scores.csv").sample(24, random_state=0)
    predicted = model.predict([read_image(folder / image) for image in table["image"]])
    assert srcc(table["score"], predicted) > 0.8


def test_missing_backbone_is_one_sentence(monkeypatch):
    monkeypatch.setattr(pretrained, "is_cached", lambda file: False)
    with pytest.raises(FileNotFoundError, match=r'not installed: run `pip install "sklearn-iqa\[demo\]"`\.$'):
        load_quality_model()


@needs_wheel
def test_files_that_cannot_be_used_are_nan_on_request(model, tmp_path):
    images = load_photographs(size=128).images[:3]
    X = [images[0], tmp_path / "none.png", images[1], np.full((64, 64, 3), np.nan), images[2]]
    good = [0, 2, 4]
    mean, std = model.predict(list(images), return_std=True)
    with pytest.raises(FileNotFoundError, match="Row 1 of X"):
        model.predict(X)
    sentence = r"^2 of 5 rows of X cannot be used and are NaN \(row 1, 3\); the first error: Row 1 of X .*none\.png"
    with pytest.warns(UserWarning, match=sentence) as caught:
        found = model.predict(X, on_error="nan")
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_allclose(found[good], mean, rtol=1e-5)
    assert np.isnan(found).tolist() == [False, True, False, True, False]
    with pytest.warns(UserWarning, match=sentence):
        found = model.predict(X, on_error="nan", return_std=True)
    for values, expected in zip(found, (mean, std), strict=True):
        np.testing.assert_allclose(values[good], expected, rtol=1e-5)
        assert np.isnan(values[[1, 3]]).all()
    with pytest.warns(UserWarning, match="^2 of 2 rows of X"):
        mean, std = model.predict([X[1], X[3]], on_error="nan", return_std=True)
    assert mean.shape == std.shape == (2,)
    assert np.isnan([mean, std]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(model.predict(list(images), on_error="nan"), model.predict(list(images)))
    with pytest.raises(ValueError, match="on_error is 'skip'"):
        model.predict(list(images), on_error="skip")


@needs_wheel
def test_what_is_made_of_the_model_takes_the_request_too(model, tmp_path):
    images = load_photographs(size=64).images
    X = [images[0], tmp_path / "none.png"]
    own = clone(model).set_params(head=Ridge()).fit(list(images), np.arange(len(images)))
    for made in (own, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        with pytest.warns(UserWarning, match="^1 of 2 rows of X"):
            assert np.isnan(made.predict(X, on_error="nan")).tolist() == [False, True]
    assert isinstance(model, Pipeline)
    assert not hasattr(model[:-1], "predict")


# The head -------------------------------------------------------------------------------------------------------------


@parametrize_with_checks([QualityHead(alpha=0.01)])
def test_head_is_a_scikit_learn_regressor(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        *(
            (name, 0, r"an int in the range \[1, inf\)")
            for name in ("n_components", "n_kernel_components", "n_landmarks")
        ),
        *((name, 0.0, r"a float in the range \(0.0, inf\)") for name in ("gamma", "linear_weight", "alpha")),
        ("n_landmarks", "800", r"an int in the range \[1, inf\)"),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused_at_fit(parameter, value, accepted):
    sentence = rf"^The '{parameter}' parameter of QualityHead must be {accepted}\. Got {value!r} instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        QualityHead(**{parameter: value}).fit(*_waves(20, 0))


def _waves(n, seed):
    """A sine of one of five features, with noise of standard deviation 0.1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)


def test_head_learns_what_is_not_linear():
    X, y = _waves(400, 0)
    X_test, y_test = _waves(200, 1)
    head, ridge = QualityHead(alpha=0.1).fit(X, y), Ridge().fit(X, y)
    assert r2_score(y_test, head.predict(X_test)) > ridge.score(X_test, y_test) + 0.2


def test_score_of_the_head_is_rank_correlation():
    X, y = _waves(60, 0)
    X_test, y_test = _waves(40, 1)
    head, weight = QualityHead(alpha=0.1).fit(X, y), np.arange(40) % 3
    assert head.score(X_test, y_test) == srcc(y_test, head.predict(X_test))
    assert head.score(X_test, y_test, weight) == srcc(y_test, head.predict(X_test), sample_weight=weight)
    assert head.score(X_test, np.exp(y_test)) == head.score(X_test, y_test)
    with pytest.raises(ValueError, match="40 values and sample_weight has 39"):
        head.score(X_test, y_test, weight[1:])
    search = GridSearchCV(QualityHead(), {"alpha": [0.1, 10.0]}, cv=3, error_score="raise").fit(X, y)
    assert -1 <= search.best_score_ <= 1
    assert search.score(X_test, y_test) == search.best_estimator_.score(X_test, y_test)


@needs_wheel
def test_score_of_the_model_is_rank_correlation(model):
    photographs = load_photographs(size=64).images
    images = [distort(image, "gaussian_blur", level) for image in photographs[:3] for level in (0, 3, 5)]
    mos = [4.0, 2.0, 1.0] * 3
    assert model.score(images, mos) == pytest.approx(srcc(mos, model.predict(images)), abs=1e-12)
    weight = [1, 0, 1, 2, 1, 1, 3, 1, 1]
    expected = srcc(mos, model.predict(images), sample_weight=weight)
    assert model.score(images, mos, sample_weight=weight) == pytest.approx(expected, abs=1e-12)


def test_without_kernels_it_is_a_ridge():
    """Kernels that are flat as far as the data reach leave the ridge on standardised features."""
    X, y = _waves(50, 0)
    z = (X - X.mean(0)) / X.std(0)
    # linear_weight / mean squared length of z, which is 5, is the prior variance of each weight.
    weights_ = np.linalg.solve(z.T @ z + 0.5 / (2.0 / 5) * np.eye(5), z.T @ (y - y.mean()))
    head = QualityHead(alpha=0.5, linear_weight=2.0, gamma=1e4, n_landmarks=1).fit(X, y)
    # One landmark with a needle of a kernel touches its own row alone.
    others = np.abs(head.predict(X) - (z @ weights_ + y.mean()))
    assert np.sort(others)[:-1].max() < 0.05


def test_intervals_cover_nine_of_ten():
    X, y = _waves(600, 0)
    covered = []
    for train, test in KFold(5).split(X):
        mean, std = QualityHead(alpha=0.1).fit(X[train], y[train]).predict(X[test], return_std=True)
        covered.append(np.abs(y[test] - mean) <= NORMAL_QUANTILE * std)
    # 600 draws at 0.9 have a standard deviation of 0.012.
    assert abs(np.concatenate(covered).mean() - 0.9) < 0.04


def test_pseudo_rows_teach_order_inside_their_groups_alone():
    X, y = _waves(200, 0)
    rng = np.random.default_rng(2)
    base = np.repeat(rng.normal(size=(40, 5)), 3, axis=0)
    base[:, 4] += np.tile([0.0, 1.0, 2.0], 40)  # nothing in y depends on feature 4
    groups = np.repeat(np.arange(40), 3)
    labels = -np.tile([0.0, 1.0, 2.0], 40)
    plain = QualityHead(alpha=0.1).fit(X, y)
    taught = QualityHead(alpha=0.1).fit(X, y, pseudo_X=base, pseudo_y=labels, pseudo_groups=groups)
    assert np.diff(taught.predict(base).reshape(40, 3), axis=1).mean() < -0.4
    assert abs(np.diff(plain.predict(base).reshape(40, 3), axis=1).mean()) < 0.2
    # A constant for each group changes nothing.
    moved = labels + np.repeat(rng.normal(size=40), 3)
    again = QualityHead(alpha=0.1).fit(X, y, pseudo_X=base, pseudo_y=moved, pseudo_groups=groups)
    np.testing.assert_allclose(again.predict(X), taught.predict(X), atol=1e-4)


def test_head_file_round_trip(tmp_path):
    X, y = _waves(100, 0)
    head = QualityHead(alpha=0.1, n_landmarks=20).fit(X, y)
    write_head(head, tmp_path / "head.safetensors", {"version": "7"})
    again = read_head(tmp_path / "head.safetensors")
    assert again.metadata_ == {"version": "7"}
    assert again.get_params() == head.get_params()
    for one, other in zip(head.predict(X, return_std=True), again.predict(X, return_std=True), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "other.safetensors").write_bytes(safetensors.numpy.save({"a": np.zeros(2)}))
    with pytest.raises(ValueError, match="holds no quality head; give a file of write_head"):
        read_head(tmp_path / "other.safetensors")


def test_naming_the_function_brings_no_torch():
    code = "import sys; from sklearn_iqa import load_quality_model; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "False"

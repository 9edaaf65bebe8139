# SPDX-License-Identifier: BSD-3-Clause
"""The protocol: splits by content, metrics of every split, finished runs that are never computed again."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import FitFailedWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from sklearn_iqa import STLPIPS, ContentSplit, TimmFeatures, benchmark, cross_benchmark
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import fit_logistic, krcc, plcc, plcc_logistic, rmse, srcc, srcc_scorer


def statistics(images):
    """Mean, deviation and contrast between neighbours of each image: features in a microsecond."""
    pixels = [
        np.asarray(image if isinstance(image, np.ndarray) else Image.open(image), dtype=float) for image in images
    ]
    return np.array([[one.mean(), one.std(), np.abs(np.diff(one, axis=1)).mean()] for one in pixels])


def differences(pairs):
    """Mean absolute difference of each pair, as one column."""
    return np.array([[np.abs(query.astype(float) - reference).mean()] for query, reference in pairs])


class Counted(RegressorMixin, BaseEstimator):
    """Ridge on statistics that notes each fit and predict in a file of the folder `log`; `breaks_at` ends it there."""

    def __init__(self, log=None, alpha=1.0, breaks_at=None, error="fit", verbose=0):
        self.log = log
        self.alpha = alpha
        self.breaks_at = breaks_at
        self.error = error
        self.verbose = verbose

    def _note(self, what, X):
        with open(Path(self.log, "log"), "a", encoding="utf-8") as file:
            file.write(f"{what} {len(X)}\n")

    def fit(self, X, y):
        self._note("fit", X)
        if self.breaks_at is not None and lines(self.log).count("fit") > self.breaks_at:
            raise {"fit": ValueError("the fit\nfailed"), "stop": KeyboardInterrupt()}[self.error]
        self.ridge_ = Ridge(self.alpha).fit(statistics(X), y)
        return self

    def predict(self, X):
        self._note("predict", X)
        return self.ridge_.predict(statistics(X))


class Distance(BaseEstimator):
    """A published distance: nothing to learn, lower is better, pairs."""

    inputs = ("query", "reference")
    higher_is_better = False

    def fit(self, X, y):
        raise RuntimeError("a frozen estimator is not fitted")

    def predict(self, X):
        return differences(X)[:, 0]

    def __sklearn_is_fitted__(self):
        return True


def lines(log):
    path = Path(log, "log")
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def data():
    photographs = load_photographs(size=32).images
    return make_distorted(photographs, distortions=["gaussian_blur", "white_noise"], random_state=0)


@pytest.fixture
def counted(tmp_path):
    (tmp_path / "calls").mkdir()
    return Counted(str(tmp_path / "calls"))


SPLITS = ContentSplit(n_splits=4, random_state=0)
SIMPLE = make_pipeline(FunctionTransformer(statistics), Ridge())


# Splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_contents", "test_size", "n_test"),
    # Nearest to a fifth: LIVE's 29 originals give 5.8, KADID-10k's 81 give 16.2; at least one on either side.
    [(25, 0.2, 5), (29, 0.2, 6), (81, 0.2, 16), (2, 0.2, 1), (3, 0.9, 2)],
)
def test_parts_have_the_nearest_number_of_contents(n_contents, test_size, n_test):
    groups = np.repeat(np.arange(n_contents), 3)
    for train, test in ContentSplit(test_size=test_size, random_state=0).split(groups, groups=groups):
        assert len(np.unique(groups[test])) == n_test
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(len(groups)))


def test_splits_are_ten_random_and_repeatable():
    rows = np.zeros(50)
    first, second = (list(ContentSplit(random_state=0).split(rows)) for _ in range(2))
    assert len(first) == ContentSplit().get_n_splits() == 10
    assert len({tuple(test) for _, test in first}) == 10
    assert all(
        np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )
    other = list(ContentSplit(random_state=1).split(rows))
    assert any(not np.array_equal(one[1], two[1]) for one, two in zip(first, other, strict=True))
    assert all(len(test) == 10 for _, test in first)  # without groups a row is a content


def test_labels_of_any_kind_and_searches_of_scikit_learn(data):
    names = np.array([f"photograph {group}" for group in data.groups])
    by_number, by_name = (list(SPLITS.split(data.images, groups=groups)) for groups in (data.groups, names))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(by_number, by_name, strict=True))
    assert len(cross_val_score(SIMPLE, data.images, data.target, groups=names, cv=SPLITS, scoring=srcc_scorer)) == 4
    assert repr(ContentSplit(3, random_state=1)) == "ContentSplit(n_splits=3, random_state=1, test_size=0.2)"


@pytest.mark.parametrize(
    ("splitter", "groups", "message"),
    [
        (ContentSplit(), [1, 1, 1, 1], "needs at least 2 contents.* the groups name 1"),
        (
            ContentSplit(test_size=1.5),
            [1, 2, 3, 4],
            r"'test_size' parameter of ContentSplit must be a float in the range \(0.0, 1.0\)",
        ),
        (
            ContentSplit(n_splits=0),
            [1, 2, 3, 4],
            r"'n_splits' parameter of ContentSplit must be an int in the range \[1",
        ),
        (ContentSplit(), [1, 2, 3], "inconsistent numbers of samples"),
    ],
)
def test_unusable_splits_are_refused(splitter, groups, message):
    with pytest.raises(ValueError, match=message):
        list(splitter.split(np.zeros(4), groups=groups))


# Metrics --------------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_a_loop_by_hand(data):
    result = benchmark({"simple": SIMPLE}, data, cv=SPLITS)
    functions = {
        "srcc": srcc,
        "krcc": krcc,
        "plcc": plcc,
        "plcc_logistic": plcc_logistic,
        "rmse_logistic": lambda y, scores: rmse(y, fit_logistic(y, scores)(scores)),
    }
    assert list(result.values) == list(functions)
    expected = {metric: [] for metric in functions}
    for train, test in SPLITS.split(data.images, groups=data.groups):
        model = clone(SIMPLE).fit([data.images[row] for row in train], data.target[train])
        scores = model.predict([data.images[row] for row in test])
        for metric, function in functions.items():
            expected[metric].append(function(data.target[test], scores))
    for metric, values in expected.items():
        np.testing.assert_allclose(result.values[metric], [values], rtol=1e-12)
        assert result.medians[metric] == pytest.approx(np.median(values))
        interval = bootstrap((values,), np.median, method="percentile", random_state=np.random.default_rng(0))
        np.testing.assert_allclose(result.intervals[metric][0], interval.confidence_interval)
    assert result.table["method"] == ["simple"]
    assert result.table["srcc_low"] == [result.intervals["srcc"][0, 0]]
    assert result.table["n_splits"] == [4]
    assert "simple  " + f"{result.medians['srcc'][0]:.3f}" in repr(result)


def test_own_metrics_and_level(data):
    narrow, wide = (
        benchmark(SIMPLE, data, cv=SPLITS, metrics={"error": rmse}, confidence_level=level) for level in (0.5, 0.99)
    )
    assert narrow.names == ["FunctionTransformer + Ridge"]
    assert list(narrow.values) == ["error"]
    assert np.ptp(narrow.intervals["error"]) < np.ptp(wide.intervals["error"])
    one = benchmark(SIMPLE, data, cv=ContentSplit(1, random_state=0), metrics={"error": rmse})
    assert np.isnan(one.intervals["error"]).all()


def test_metrics_of_each_distortion(data):
    result = benchmark({"simple": SIMPLE}, data, cv=SPLITS)
    table = result.by_distortion("plcc")
    assert table["distortion"] == ["gaussian_blur", "white_noise"]
    own = [test[data.distortion[test] == "white_noise"] for _, test in result.splits]
    figures = [
        plcc(data.target[rows], scores[data.distortion[test] == "white_noise"])
        for rows, scores, (_, test) in zip(own, result.predictions["simple"], result.splits, strict=True)
    ]
    assert table["simple"][1] == pytest.approx(np.median(figures))
    with pytest.raises(ValueError, match="metric='r2' is none of the benchmark's: take one of srcc, krcc"):
        result.by_distortion("r2")
    with pytest.raises(ValueError, match="does not state the distortion"):
        benchmark(SIMPLE, Bunch(images=data.images, target=data.target), cv=SPLITS).by_distortion()


def test_data_frames(data):
    pandas = pytest.importorskip("pandas")
    result = benchmark(
        {"simple": SIMPLE, "constant": make_pipeline(FunctionTransformer(statistics), DummyRegressor())}, data
    )
    frame, splits = result.to_frame(), result.splits_to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["simple", "srcc"] == result.medians["srcc"][0]
    assert frame.loc["constant", "srcc"] == 0
    assert splits.shape == (20, 8)
    assert splits.query("method == 'simple'")["krcc"].tolist() == result.values["krcc"][0].tolist()


def test_without_pandas_one_sentence_says_what_to_do(data, monkeypatch):
    result = benchmark(SIMPLE, data, cv=SPLITS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas, or take the plain columns"):
        result.to_frame()


# What goes in ---------------------------------------------------------------------------------------------------------


def test_methods_that_compare_get_pairs_and_distances_change_sign(data):
    frozen = FrozenEstimator(Distance())
    features = TimmFeatures("test_resnet", comparison="difference", backbone_weights=None, random_state=0)
    few = Bunch(**{key: data[key][:40] for key in ("images", "references", "target", "groups")})
    result = benchmark({"distance": frozen, "features": make_pipeline(features, Ridge())}, few, cv=SPLITS)
    for scores, (_, test) in zip(result.predictions["distance"], result.splits, strict=True):
        by_hand = [np.abs(data.images[row].astype(float) - data.references[row]).mean() for row in test]
        np.testing.assert_allclose(scores, np.negative(by_hand))  # lower is better
    assert result.values["srcc"][1].shape == (4,)
    with pytest.raises(ValueError, match="Distance compares images with references, but The data set has none"):
        benchmark(frozen, Bunch(images=data.images, target=data.target))


def test_frozen_method_predicts_each_image_once(data, counted):
    fitted = counted.fit(data.images, data.target)
    Path(counted.log, "log").unlink()
    result = benchmark({"frozen": FrozenEstimator(fitted)}, data, cv=SPLITS)
    n_judged = len(np.unique(np.concatenate([test for _, test in result.splits])))
    assert Path(counted.log, "log").read_text() == f"predict {n_judged}\n"
    for scores, (_, test) in zip(result.predictions["frozen"], result.splits, strict=True):
        np.testing.assert_allclose(scores, fitted.predict([data.images[row] for row in test]))


def test_published_distance_changes_sign_and_the_estimator_stays_unloaded(data, tmp_path):
    few = Bunch(**{key: data[key][:10] for key in ("images", "references", "target")})
    weights = tmp_path / "distance.safetensors"
    STLPIPS(random_state=0).initialize().save_weights(weights)
    distance = STLPIPS(weights=str(weights), batch_size=4)
    splits = [(np.arange(5), np.arange(5, 10))]
    # Rows of one reference are one content unless the groups say otherwise.
    with pytest.raises(ValueError, match="has 1 contents on both sides"):
        benchmark(FrozenEstimator(distance), few, cv=splits)
    few.groups = np.arange(10)
    result = benchmark(FrozenEstimator(distance), few, cv=splits)
    assert result.names == ["STLPIPS"]
    assert not hasattr(distance, "network_")
    pairs = list(zip(few.images[5:], few.references[5:], strict=True))
    np.testing.assert_allclose(result.predictions["STLPIPS"][0], -distance.predict(pairs), rtol=1e-5)


def test_searches_split_by_content_inside(data):
    search = GridSearchCV(SIMPLE, {"ridge__alpha": [0.1, 10]}, cv=GroupKFold(2), error_score="raise")
    result = benchmark({"search": search}, data, cv=SPLITS)
    assert not result.errors


@pytest.mark.parametrize("form", ["array", "paths", "series"])
def test_images_in_any_container(data, tmp_path, form):
    images = np.stack(data.images)
    if form != "array":
        images = [str(tmp_path / f"{row}.png") for row in range(len(images))]
        for image, path in zip(data.images, images, strict=True):
            Image.fromarray(image).save(path)
    if form == "series":
        images = pytest.importorskip("pandas").Series(images)
    same = Bunch(images=images, target=data.target, groups=data.groups)
    result, expected = (benchmark(SIMPLE, one, cv=SPLITS, results_dir=tmp_path / "runs") for one in (same, data))
    np.testing.assert_array_equal(result.values["srcc"], expected.values["srcc"])


# Leakage --------------------------------------------------------------------------------------------------------------


def test_no_content_is_on_both_sides(data):
    by_reference = Bunch(**{key: data[key] for key in ("images", "references", "target")})
    for one in (data, by_reference):  # whose references are the contents
        result = benchmark(SIMPLE, one)
        assert len(result.splits) == 10
        assert not any(set(data.groups[train]) & set(data.groups[test]) for train, test in result.splits)
        with pytest.raises(ValueError, match="Split 0 of The data set has 8 contents on both sides"):
            benchmark(SIMPLE, one, cv=KFold(5, shuffle=True, random_state=0))
    alone = Bunch(images=data.images, target=data.target)
    with pytest.raises(ValueError, match="has 1 contents on both sides, the first of them 3"):
        benchmark(SIMPLE, alone, cv=[([0, 1, 3], [3, 4])])


# Resuming -------------------------------------------------------------------------------------------------------------


def test_interrupted_benchmark_is_resumed(data, counted, tmp_path):
    folder = tmp_path / "runs"
    whole = benchmark(SIMPLE, data, cv=SPLITS)
    with pytest.raises(KeyboardInterrupt):
        benchmark(Counted(counted.log, breaks_at=2, error="stop"), data, cv=SPLITS, results_dir=folder)
    assert lines(counted.log).count("fit") == 3  # the third broke
    kept = sorted(folder.iterdir())
    assert len(kept) == 2
    assert all(path.suffix == ".json" for path in kept)
    Path(counted.log, "log").unlink()
    again = benchmark(Counted(counted.log, breaks_at=2, error="stop"), data, cv=SPLITS, results_dir=folder)
    assert lines(counted.log) == ["fit", "predict"] * 2
    np.testing.assert_allclose(again.values["srcc"], whole.values["srcc"])
    third = benchmark(Counted(counted.log, breaks_at=2, error="stop"), data, cv=SPLITS, results_dir=folder)
    assert lines(counted.log) == ["fit", "predict"] * 2  # nothing anew
    np.testing.assert_array_equal(third.values["plcc"], again.values["plcc"])
    np.testing.assert_array_equal(third.fit_seconds, again.fit_seconds)


KILLED = """
import os, sys
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Bunch
from sklearn_iqa import ContentSplit, benchmark

class Killed(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        if os.environ.get("KILL") and len(os.listdir(sys.argv[1])) == 2:
            os._exit(9)  # as when the machine goes down
        print("fit", flush=True)
        return self

    def predict(self, X):
        return np.arange(len(X), dtype=float)

images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
data = Bunch(images=images, target=np.arange(20.0))
benchmark(Killed(), data, cv=ContentSplit(5, random_state=0), results_dir=sys.argv[1])
"""


def test_killed_process_is_resumed(tmp_path):
    script, folder = tmp_path / "killed.py", tmp_path / "runs"
    script.write_text(KILLED)
    runs = [
        subprocess.run(
            [sys.executable, script, folder],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "KILL": kill, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for kill in ("yes", "")
    ]
    assert [run.returncode for run in runs] == [9, 0], runs[1].stderr
    assert [run.stdout.count("fit") for run in runs] == [2, 3]


@pytest.mark.parametrize("damage", ["cut", "empty", "short", "nan", "list"])
def test_damaged_run_is_computed_again(data, counted, tmp_path, damage):
    folder = tmp_path / "runs"
    expected = benchmark(counted, data, cv=SPLITS, results_dir=folder)
    path = sorted(folder.iterdir())[1]
    text = path.read_text()
    record = json.loads(text)
    texts = {"cut": text[: len(text) // 2], "empty": "", "list": "[]"}
    texts["short"] = json.dumps({**record, "predictions": record["predictions"][:-1]})
    texts["nan"] = json.dumps({**record, "predictions": [float("nan")] * len(record["predictions"])})
    path.write_text(texts[damage])
    Path(counted.log, "log").unlink()
    found = benchmark(counted, data, cv=SPLITS, results_dir=folder)
    assert lines(counted.log) == ["fit", "predict"]
    assert json.loads(path.read_text())["predictions"] == record["predictions"]
    np.testing.assert_array_equal(found.values["srcc"], expected.values["srcc"])


def changed(data, key):
    """The data set with another image, reference, rating or group in row 7."""
    other = Bunch(**data)
    other[key] = list(data[key])
    other[key][7] = {"images": 255 - data.images[7], "references": data.images[7], "target": 9.0, "groups": 99}[key]
    return other


@pytest.mark.parametrize("key", ["images", "target", "groups", "references"])
def test_other_data_are_other_runs(data, counted, tmp_path, key):
    splits = list(SPLITS.split(data.images, groups=data.groups))
    benchmark(counted, data, cv=splits, results_dir=tmp_path / "runs")
    Path(counted.log, "log").unlink()
    benchmark(counted, changed(data, key), cv=splits, results_dir=tmp_path / "runs")
    assert lines(counted.log) == ["fit", "predict"] * 4  # row 7 is on one side of every split


@pytest.mark.parametrize(
    ("parameters", "n_fits"), [({"alpha": 2.0}, 4), ({"verbose": 1}, 0), ({"breaks_at": 99}, 4), ({"alpha": 1.0}, 0)]
)
def test_runs_are_identified_by_parameters_that_matter(data, counted, tmp_path, parameters, n_fits):
    benchmark(counted, data, cv=SPLITS, results_dir=tmp_path / "runs")
    Path(counted.log, "log").unlink()
    benchmark({"other name": clone(counted).set_params(**parameters)}, data, cv=SPLITS, results_dir=tmp_path / "runs")
    assert lines(counted.log).count("fit") == n_fits


def test_frozen_runs_are_identified_by_the_fitted_state(data, counted, tmp_path):
    models = [clone(counted).set_params(alpha=1.0).fit(data.images[:half], data.target[:half]) for half in (50, 60)]
    Path(counted.log, "log").unlink()
    for model, n_calls in ((models[0], 1), (models[0], 1), (models[1], 2)):
        benchmark(FrozenEstimator(model), data, cv=SPLITS, results_dir=tmp_path / "runs")
        assert lines(counted.log) == ["predict"] * n_calls


def test_new_weights_under_an_old_name_are_other_runs(data, counted, tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("old")
    model = counted.set_params(verbose=0, breaks_at=None, error=str(weights))
    benchmark(model, data, cv=SPLITS, results_dir=tmp_path / "runs")
    weights.write_text("newer")
    benchmark(model, data, cv=SPLITS, results_dir=tmp_path / "runs")
    assert len(list((tmp_path / "runs").iterdir())) == 8


def test_a_tilde_is_the_users_folder(data, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = counted.set_params(verbose=0, breaks_at=None, error="~/weights")
    for n_files, content in ((4, "old"), (8, "newer")):
        (tmp_path / "weights").write_text(content)
        benchmark(model, data, cv=SPLITS, results_dir="~/runs")
        assert len(list((tmp_path / "runs").iterdir())) == n_files


def test_what_cannot_be_pickled_cannot_be_kept(data, tmp_path):
    model = make_pipeline(FunctionTransformer(lambda images: statistics(images)), Ridge())
    assert not benchmark(model, data, cv=SPLITS).errors
    with pytest.raises(ValueError, match="cannot be kept in a folder, as its parameters cannot be pickled"):
        benchmark(model, data, cv=SPLITS, results_dir=tmp_path)


# Processes, errors ----------------------------------------------------------------------------------------------------


def test_two_processes_find_the_same(data, tmp_path):
    # Functions of this file are not known to other processes.
    pixels = make_pipeline(FunctionTransformer(np.reshape, kw_args={"shape": (-1, 32 * 32 * 3)}), Ridge())
    array = Bunch(images=np.stack(data.images) / 255, target=data.target, groups=data.groups)
    one, two = (
        benchmark({"pixels": pixels}, array, cv=SPLITS, n_jobs=n_jobs, results_dir=tmp_path / str(n_jobs))
        for n_jobs in (1, 2)
    )
    for metric, values in one.values.items():
        np.testing.assert_array_equal(values, two.values[metric])
    names = [sorted(path.name for path in (tmp_path / str(n_jobs)).iterdir()) for n_jobs in (1, 2)]
    assert names[0] == names[1]


def test_failure_is_one_sentence_and_the_rest_is_kept(data, counted, tmp_path):
    broken = counted.set_params(breaks_at=3)
    with pytest.warns(FitFailedWarning) as caught:
        result = benchmark({"broken": broken, "simple": SIMPLE}, data, cv=SPLITS, results_dir=tmp_path / "runs")
    (message,) = [str(one.message) for one in caught]
    assert message == (
        "broken failed in split 3: ValueError: the fit failed. Its metrics there are nan; the others are kept."
    )
    assert result.errors == {("broken", 3): "ValueError: the fit failed."}
    assert np.isnan(result.values["srcc"]).tolist() == [[False, False, False, True], [False] * 4]
    assert result.medians["srcc"][0] == np.median(result.values["srcc"][0, :3])
    assert result.table["n_splits"] == [3, 4]
    assert result.predictions["broken"][3] is None
    assert len(list((tmp_path / "runs").iterdir())) == 7
    Path(counted.log, "log").unlink()
    again = benchmark({"broken": broken, "simple": SIMPLE}, data, cv=SPLITS, results_dir=tmp_path / "runs")
    assert not again.errors  # what failed is tried again


def test_failure_may_have_a_number_or_be_raised(data, counted):
    with pytest.warns(FitFailedWarning, match="Its metrics there are 0"):
        result = benchmark(counted.set_params(breaks_at=0), data, cv=SPLITS, error_score=0)
    assert result.medians["srcc"].tolist() == [0]
    with pytest.raises(ValueError, match="the fit\nfailed"):
        benchmark(counted, data, cv=SPLITS, error_score="raise")


class Nan(Ridge):
    """Predicts NaN."""

    def predict(self, X):
        return super().predict(X) * np.nan


def test_scores_that_are_no_numbers_are_a_failure(data):
    with pytest.warns(FitFailedWarning, match="predicted 20 scores for 20 rows, 20 of which are NaN or infinite"):
        benchmark(make_pipeline(FunctionTransformer(statistics), Nan()), data, cv=SPLITS)


@pytest.mark.parametrize(
    ("estimators", "options", "error", "message"),
    [
        ({}, {}, ValueError, "There is no estimator to compare"),
        ([SIMPLE, SIMPLE], {}, ValueError, "Two estimators are called 'FunctionTransformer . Ridge'"),
        (
            {"features": TimmFeatures()},
            {},
            TypeError,
            "'features' is TimmFeatures.*, but a benchmark compares estimators",
        ),
        ({"class": Ridge}, {}, TypeError, "'class' is .*give an instance"),
        (SIMPLE, {"cv": 5}, TypeError, r"cv=5 does not say how to split by content; write ContentSplit\(5"),
        (SIMPLE, {"cv": []}, ValueError, "cv gives no split"),
        (SIMPLE, {"cv": [(range(90), [95])]}, ValueError, "has 90 training and 1 test rows"),
        (
            SIMPLE,
            {"error_score": "nan"},
            ValueError,
            "'error_score' parameter of benchmark must be .*'raise'.* Got 'nan'",
        ),
        (SIMPLE, {"confidence_level": 95}, ValueError, r"'confidence_level' .* float in the range \(0.0, 1.0\)"),
        (SIMPLE, {"metrics": ["srcc"]}, TypeError, "'metrics' parameter of benchmark must be .*Mapping"),
    ],
)
def test_wrong_use_is_refused_in_one_sentence(data, estimators, options, error, message):
    with pytest.raises(error, match=message) as caught:
        benchmark(estimators, data, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (None, TypeError, "must be a data set .*, but came as a ndarray"),
        ({"target": np.zeros(3)}, ValueError, "inconsistent numbers of samples"),
        (
            {"target": np.full(100, np.nan)},
            ValueError,
            "target of The data set is nan in row 0; leave unrated rows out",
        ),
        ({"images": "folder"}, TypeError, "X is a single str"),
    ],
)
def test_wrong_data_are_refused_in_one_sentence(data, change, error, message):
    with pytest.raises(error, match=message):
        benchmark(SIMPLE, np.zeros(3) if change is None else Bunch(**{**data, **change}))


def test_progress_is_shown_when_asked(data, capsys):
    benchmark(SIMPLE, data, cv=SPLITS)
    assert capsys.readouterr().err == ""
    benchmark(SIMPLE, data, cv=SPLITS, verbose=1)
    assert "4/4" in capsys.readouterr().err


# Across data sets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(data):
    kinds = {kind: np.flatnonzero(data.distortion == kind) for kind in ("gaussian_blur", "white_noise")}
    found = {
        kind: Bunch(
            images=[data.images[row] for row in rows],
            references=[data.references[row] for row in rows],
            target=data.target[rows],
            groups=data.groups[rows],
        )
        for kind, rows in kinds.items()
    }
    found["white_noise"].target = 10 * found["white_noise"].target  # another unit
    return found


def test_matrix_is_that_of_a_loop_by_hand(sets, counted, tmp_path):
    methods = {"learned": counted, "frozen": FrozenEstimator(Distance())}
    result = cross_benchmark(methods, sets, cv=SPLITS, results_dir=tmp_path / "runs")
    # In each of two sets four splits and one fit on everything.
    assert lines(counted.log).count("fit") == 2 * (4 + 1)
    blur, noise = sets.values()
    model = clone(counted).fit(blur.images, blur.target)
    assert result.values["srcc"][0, 0, 1] == srcc(noise.target, model.predict(noise.images))
    model.fit(noise.images, noise.target)
    assert result.values["plcc"][0, 1, 0] == plcc(blur.target, model.predict(blur.images))
    for column, (name, one) in enumerate(sets.items()):
        within = benchmark(methods, one, cv=SPLITS)
        np.testing.assert_array_equal(result.values["krcc"][:, column, column], within.medians["krcc"])
        np.testing.assert_array_equal(result.within[name].values["srcc"], within.values["srcc"])
        pairs = list(zip(one.images, one.references, strict=True))
        expected = srcc(one.target, -Distance().predict(pairs))
        assert result.values["srcc"][1, 1 - column, column] == expected
    Path(counted.log, "log").unlink()
    again = cross_benchmark(methods, sets, cv=SPLITS, results_dir=tmp_path / "runs")
    assert lines(counted.log) == []
    np.testing.assert_array_equal(again.values["srcc"], result.values["srcc"])


def test_further_data_set_leaves_finished_runs(sets, data, counted, tmp_path):
    cross_benchmark(counted, sets, cv=SPLITS, results_dir=tmp_path / "runs")
    Path(counted.log, "log").unlink()
    three = {**sets, "half": Bunch(images=data.images[:50], target=data.target[:50], groups=data.groups[:50])}
    result = cross_benchmark(counted, three, cv=SPLITS, results_dir=tmp_path / "runs")
    # Two old sets are trained on once more for the new one; it is trained on in four splits, and once for both others.
    calls = lines(counted.log)
    assert (calls.count("fit"), calls.count("predict")) == (2 + 4 + 1, 2 + 4 + 2)
    pandas = pytest.importorskip("pandas")
    frame = result.to_frame("plcc")
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[("Counted", "half"), "white_noise"] == result.values["plcc"][0, 2, 1]
    assert repr(result).splitlines()[1].split() == ["method", "trained", "on", *three]


def test_failure_across_data_sets(sets, counted):
    with pytest.warns(FitFailedWarning, match="Counted failed in gaussian_blur -> white_noise: ValueError"):
        result = cross_benchmark(counted.set_params(breaks_at=0), sets, cv=SPLITS)
    assert np.isnan(result.values["srcc"]).all()
    assert set(result.errors) == {
        ("Counted", "gaussian_blur", "white_noise"),
        ("Counted", "white_noise", "gaussian_blur"),
    }
    with pytest.raises(ValueError, match="at least 2 data sets by name; benchmark takes a single one"):
        cross_benchmark(counted, {"one": next(iter(sets.values()))})


def test_import_is_light():
    code = "import sys, sklearn_iqa; sklearn_iqa.benchmark, sklearn_iqa.votes; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "False"


def test_equal_splits_need_no_warning(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = benchmark(
            SIMPLE, data, cv=list(ContentSplit(1, random_state=0).split(data.images, groups=data.groups)) * 2
        )
    assert np.ptp(result.intervals["srcc"]) == 0

# SPDX-License-Identifier: BSD-3-Clause
"""What every public estimator promises (design: "The estimator's promises"), and scikit-learn's own checks.

A new estimator says in `_test_params` how it is fitted in a moment; everything below then runs for it.
"""

import copy
import functools
import inspect
import json
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from numpydoc.docscrape import NumpyDocString
from PIL import Image
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, estimator_html_repr, get_tags
from sklearn.utils._param_validation import Interval, InvalidParameterError, make_constraint
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import has_fit_parameter
from sklearn_adaptor import TableRegressor, TableTransformer

import sklearn_iqa
from sklearn_iqa._base import training
from sklearn_iqa._base.estimator import ImageEstimator
from sklearn_iqa._base.parameters import SequenceOf
from sklearn_iqa.metrics import srcc

FOLDER = Path(__file__).parent
MOS = np.array([4.5, 3.9, 3.1, 2.6, 1.8, 1.2])


def _is_estimator(name):
    member = getattr(sklearn_iqa, name)
    return isinstance(member, type) and issubclass(member, BaseEstimator)


ESTIMATORS = sorted(name for name in sklearn_iqa.__all__ if _is_estimator(name))
# Settings under which a fit takes a moment; configurations of small CLIPs stand beside the tests.
TINY = {
    name: {key: str(FOLDER / value) if str(value).endswith(".json") else value for key, value in params.items()}
    for name in ESTIMATORS
    if (params := getattr(sklearn_iqa, name)._test_params)
}
LISTED = list(TINY)  # without settings: one failure, not a hundred
REGRESSORS = [name for name in LISTED if is_regressor(getattr(sklearn_iqa, name)())]
TRANSFORMERS = [name for name in LISTED if name not in REGRESSORS]


def _with(*parameters, among=LISTED):
    return [name for name in among if set(parameters) <= set(getattr(sklearn_iqa, name)().get_params())]


every_estimator = pytest.mark.parametrize("name", LISTED)
every_regressor = pytest.mark.parametrize("name", REGRESSORS)
WEIGHTED = [name for name in REGRESSORS if has_fit_parameter(getattr(sklearn_iqa, name), "sample_weight")]
every_weighted = pytest.mark.parametrize("name", WEIGHTED)
every_transformer = pytest.mark.parametrize("name", TRANSFORMERS)
every_trained = pytest.mark.parametrize("name", _with("max_epochs"))
every_resumable = pytest.mark.parametrize(
    "name", [name for name in LISTED if hasattr(getattr(sklearn_iqa, name)(), "partial_fit")]
)
every_warm_starter = pytest.mark.parametrize("name", _with("warm_start"))
EARLY_STOPPERS = _with("early_stopping")
every_early_stopper = pytest.mark.parametrize("name", EARLY_STOPPERS)


# Estimators, data, and what is asked of them -------------------------------------------------------------------------


def tiny(name, **parameters):
    """Give an estimator in its tiny configuration, seeded; on the CPU unless the environment says otherwise."""
    cls = getattr(sklearn_iqa, name)
    seed = {"random_state": 0} if "random_state" in inspect.signature(cls).parameters else {}
    return cls(**{**TINY[name], "device": os.environ.get("SKLEARN_IQA_TEST_DEVICE", "cpu"), **seed, **parameters})


def compares(name):
    return len(getattr(getattr(sklearn_iqa, name), "inputs", ("image",))) == 2


def size(name):
    return getattr(sklearn_iqa, name)._test_size


@functools.cache
def photographs(height, width):
    """Six uint8 images of coloured blocks, and the same with more and more noise, as MOS falls."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(30, 226, (len(MOS), height // 8, width // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    noise = rng.normal(size=blocks.shape) * np.linspace(2, 40, len(MOS))[:, None, None, None]
    return blocks.astype(np.uint8), np.clip(blocks + noise, 0, 255).astype(np.uint8)


def rows(name):
    """X of six rows as one array: images (6, height, width, 3), or pairs (6, 2, height, width, 3)."""
    references, queries = photographs(*size(name))
    return np.stack([queries, references], axis=1) if compares(name) else queries.copy()


def with_unequal_sizes(name):
    """The same as a list, two rows of which have lost eight pixels of their height or width."""
    X = list(rows(name))
    X[1], X[4] = X[1][..., :-8, :, :], X[4][..., :-8, :]
    return X


def in_rows(name, image, reference=None):
    """X of three rows, the second of which holds an image of one's own (as the query of a pair)."""
    X = [tuple(row) if compares(name) else row for row in rows(name)[:3]]
    X[1] = (image, X[1][1] if reference is None else reference) if compares(name) else image
    return X


@functools.cache
def fitted(name):
    """Give the estimator after one fit; shared, so tests that change it take a deep copy."""
    return tiny(name).fit(rows(name), MOS)


def output(estimator, X):
    return estimator.predict(X) if hasattr(estimator, "predict") else estimator.transform(X)


def use(estimator, X, y):
    """Let bad input be seen: where images are opened in training, by `fit` alone."""
    estimator.fit(X, y)
    if not hasattr(estimator, "max_epochs"):
        output(estimator, X)


def assert_equal_outputs(one, other, X):
    np.testing.assert_array_equal(output(one, X), output(other, X))


def sentence(error):
    """The message of an error, which must be one line that ends like a sentence."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def generators():
    """State of the three global random generators."""
    of_numpy = np.random.mtrand._rand.get_state()  # what `check_random_state(None)` gives
    return torch.get_rng_state().tolist(), repr(of_numpy), random.getstate()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny networks are faster on one thread, and two processes then do not fight for two cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


# scikit-learn's own checks --------------------------------------------------------------------------------------------

# All checks, about 59 each, run for one estimator of every kind: on pairs, on single images, learning from ranks,
# transforming. That takes 13, 15, 8 and 1 seconds on one core; others take up to 67 (MANIQA, 24 would take ten minutes)
# and share their code from the base class on. For them the checks that need no table run below, like all else here.
FULLY_CHECKED = ("LPIPS", "NIMA", "UNIQUE", "TimmFeatures")
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights are frequencies of drawing: a row of weight 2 is drawn twice as often on average, but not twice in "
        "every epoch, and batches are shuffled; scikit-learn's own SGD estimators fail here for the same reason"
    )
}


def adapted(name):
    adaptor = TableRegressor if name in REGRESSORS else TableTransformer
    large = {"batch_size": 64} if name in _with("batch_size") else {}  # for the checks with 200 rows
    return adaptor(tiny(name, **large))


def expected_failures(estimator):
    return EXPECTED_FAILURES if isinstance(estimator, TableRegressor) else {}


@parametrize_with_checks(
    [adapted(name) for name in FULLY_CHECKED if name in LISTED],
    expected_failed_checks=expected_failures,  # strict by the setting of pytest
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# The checks that need no table, on the estimators themselves.
TABLELESS = (
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
)


@every_estimator
@pytest.mark.parametrize("check", TABLELESS, ids=lambda check: check.__name__)
def test_scikit_learn_checks_without_table(name, check):
    check(name, tiny(name))


# Construction and parameters ------------------------------------------------------------------------------------------


def test_every_public_estimator_is_tested():
    assert LISTED == ESTIMATORS


@every_estimator
def test_every_parameter_is_checked_by_type_and_value(name):
    # scikit-learn's own check: a constraint for each parameter, and its sentence for a wrong type and a wrong value.
    estimator_checks.check_param_validation(name, tiny(name))


@every_estimator
def test_wrong_parameters_are_refused_before_the_network_is_built(name):
    estimator = tiny(name)
    for parameter, constraints in type(estimator)._parameter_constraints.items():
        wrong: list = []
        if "boolean" in constraints:
            wrong += ["False", "no", 2]
        if any(isinstance(one, SequenceOf) for one in constraints):
            wrong += [0.5, "64", []]
        if any(isinstance(one, Interval) for one in constraints):
            wrong += ["64"]
        for value in wrong:
            if any(make_constraint(one).is_satisfied_by(value) for one in constraints):
                continue  # an empty sequence may be allowed, or a text beside a number
            refused = clone(estimator).set_params(**{parameter: value})
            sentence = rf"'{parameter}' parameter of {name} must be .*Got {re.escape(repr(value))}"
            with pytest.raises(InvalidParameterError, match=sentence):
                refused.fit(rows(name), MOS)
            assert not hasattr(refused, "network_")


@every_estimator
def test_construction_only_stores(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the constructor went to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    cls = getattr(sklearn_iqa, name)
    given = {parameter: object() for parameter in inspect.signature(cls).parameters}
    before = generators()
    estimator = cls(**given)
    assert generators() == before
    assert vars(estimator) == given  # objects are equal only to themselves


@every_estimator
def test_parameters_round_trip(name):
    parameters = tiny(name).get_params()
    assert getattr(sklearn_iqa, name)().set_params(**parameters).get_params() == parameters
    with pytest.raises(ValueError, match="Invalid parameter 'wrong'"):
        tiny(name).set_params(wrong=1)


@every_estimator
def test_clone_is_unfitted(name):
    for estimator in (tiny(name), fitted(name)):
        copied = clone(estimator)
        assert copied.get_params() == estimator.get_params()
        assert vars(copied) == vars(tiny(name))


@every_regressor
def test_unfitted_says_so(name):
    estimator, X = tiny(name), rows(name)
    calls = (
        lambda: estimator.predict(X),
        lambda: list(estimator.predict_iter(X)),
        lambda: estimator.score(X, MOS),
    )
    cure = "weights='default'" if getattr(sklearn_iqa, name).published else "give weights= a file"
    for call in calls:
        with pytest.raises(NotFittedError, match=f"This {name} instance is not fitted yet.*{cure}.*call fit"):
            call()
    with pytest.raises(NotFittedError, match=f"This {name} instance is not fitted yet"):
        estimator.save_weights("never.safetensors")


@every_transformer
def test_unfitted_transformer_says_so(name):
    with pytest.raises(NotFittedError, match=f"This {name} instance is not fitted yet"):
        tiny(name).transform(rows(name))


BAD_PARAMETERS = [
    ("batch_size", 0),
    ("batch_size", 1.5),
    ("max_epochs", 0),
    ("max_epochs", -1),
    ("lr", 0.0),
    ("lr", "fast"),
    ("device", "cuda:99"),  # on no machine of ours
    ("device", "abacus"),
]


GOOD_ELSEWHERE = {("MetaIQA", "max_epochs", 0)}  # the meta-learned prior alone


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        (name, *bad)
        for name in LISTED
        for bad in BAD_PARAMETERS
        if name in _with(bad[0]) and (name, *bad) not in GOOD_ELSEWHERE
    ],
)
def test_bad_parameter_is_named(name, parameter, value):
    with pytest.raises((ValueError, TypeError), match=f"{parameter}\\b.*{re.escape(str(value))}|instance of") as error:
        use(tiny(name, **{parameter: value}), rows(name), MOS)
    assert parameter in sentence(error)


@every_early_stopper
@pytest.mark.parametrize(("parameter", "value"), [("validation_fraction", 1.0), ("n_iter_no_change", 0)])
def test_bad_early_stopping_is_named(name, parameter, value):
    with pytest.raises(ValueError, match=parameter):
        tiny(name, early_stopping=True, **{parameter: value}).fit(rows(name), MOS)


# What fit and predict give --------------------------------------------------------------------------------------------


@every_estimator
def test_fit_returns_self(name):
    estimator = tiny(name)
    assert estimator.fit(rows(name), MOS) is estimator


@every_estimator
def test_equal_seeds_give_equal_bits(name):
    again = tiny(name).fit(rows(name), MOS)
    assert_equal_outputs(again, fitted(name), rows(name))
    assert_equal_outputs(again.fit(rows(name), MOS), fitted(name), rows(name))


@pytest.mark.parametrize("name", _with("random_state"))
def test_random_state_may_be_a_generator(name):
    one, other = (tiny(name, random_state=np.random.RandomState(5)).fit(rows(name), MOS) for _ in range(2))
    assert_equal_outputs(one, other, rows(name))


@every_trained
def test_another_seed_gives_another_fit(name):
    other = tiny(name, random_state=1).fit(rows(name), MOS)
    assert not np.array_equal(output(other, rows(name)), output(fitted(name), rows(name)))


@every_estimator
def test_global_generators_are_left_alone(name):
    before = generators()
    estimator = tiny(name).fit(rows(name), MOS)
    assert generators() == before
    output(estimator, rows(name))
    assert generators() == before


@every_regressor
def test_predictions_are_finite_float64(name):
    scores = fitted(name).predict(rows(name))
    assert scores.shape == (len(MOS),)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(MOS)  # and no constant


@every_transformer
def test_features_are_finite_float32(name):
    features = fitted(name).transform(rows(name))
    assert features.ndim == 2
    assert features.shape == (len(MOS), len(fitted(name).get_feature_names_out()))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


@every_estimator
def test_output_depends_on_no_other_row(name):
    X = rows(name)
    expected = output(fitted(name), X)
    order = np.array([3, 0, 5, 1, 4, 2])
    # 1e-5: float32 sums in another order.
    np.testing.assert_allclose(output(fitted(name), X[order]), expected[order], rtol=1e-5, atol=1e-5)
    alone = np.concatenate([output(fitted(name), X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-5)


@every_estimator
def test_nothing_depends_on_n_jobs(name):
    X = rows(name)
    for n_jobs in (2, 5):
        other = copy.deepcopy(fitted(name)).set_params(n_jobs=n_jobs)
        np.testing.assert_array_equal(output(other, X), output(fitted(name), X))
        assert_equal_outputs(tiny(name, n_jobs=n_jobs).fit(X, MOS), fitted(name), X)


@pytest.mark.parametrize("name", _with("precision"))
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_shorter_numbers_keep_scores_in_float32(name, precision):
    X = rows(name)
    other = copy.deepcopy(fitted(name)).set_params(precision=precision)
    found, expected = output(other, X), output(fitted(name), X)
    assert not np.array_equal(found, expected)
    spread = np.std(expected)
    if name != "KNNGIQA":  # images of the bank itself, whose distance to it is 0
        assert np.abs(found - expected).max() < max(0.1 * np.abs(expected).max(), spread)
    # Gradients of convolutions over maps of one pixel are NaN now and then, in torch 2.14 with bfloat16 on a CPU.
    larger = {"patch_size": 64} if name == "ReIQA" else {}
    trained = tiny(name, precision=precision, **larger).fit(X, MOS)
    assert np.isfinite(output(trained, X)).all()
    if hasattr(trained, "network_"):
        kinds = {tensor.dtype for tensor in trained.network_.state_dict().values() if tensor.is_floating_point()}
        assert kinds <= {torch.float32, torch.float64}
    if name in REGRESSORS:  # what a head in short numbers gives is one of these
        raw = torch.tensor([other._score(one) for _, one in other._infer(other._rows(X))])
        assert not torch.equal(raw, raw.to(getattr(torch, precision)).double())


# SRIF has no network; test_srif.py counts the features that it computes.
@pytest.mark.parametrize("name", [name for name in REGRESSORS if compares(name) and name != "SRIF"])
def test_shared_references_run_through_the_network_once(name, monkeypatch):
    estimator = fitted(name)
    encode, counts = estimator.network_.encode_reference, {}
    references, queries = photographs(*size(name))
    X = {"apart": list(zip(queries, references, strict=True)), "shared": [(query, references[0]) for query in queries]}
    for way, pairs in X.items():

        def counted(images, way=way):
            counts[way] = counts.get(way, 0) + len(images)
            return encode(images)

        monkeypatch.setattr(estimator.network_, "encode_reference", counted)
        estimator.predict(pairs)
    # Some methods encode queries in the same way; those are as many in both. Views of one row count each.
    n_views = len(estimator._views(X["shared"][0]))
    assert counts["apart"] - counts["shared"] == (len(MOS) - 1) * n_views


@every_estimator
def test_sizes_may_be_mixed(name):
    X = with_unequal_sizes(name)
    alone = np.concatenate([output(fitted(name), [x]) for x in X])
    np.testing.assert_allclose(output(fitted(name), X), alone, rtol=1e-5, atol=1e-5)
    tiny(name).fit(X, MOS)


@every_estimator
def test_fitted_attributes_are_documented(name):
    estimator = tiny(name, early_stopping=True, validation_fraction=0.34) if name in EARLY_STOPPERS else tiny(name)
    estimator.fit(rows(name), MOS)
    documented = {
        attribute.name for attribute in NumpyDocString(inspect.cleandoc(type(estimator).__doc__))["Attributes"]
    }
    # net_ is the skorch net with the optimiser, of use to those who debug.
    assert {key for key in vars(estimator) if key.endswith("_")} - {"net_"} == documented


@every_estimator
def test_predict_changes_nothing(name):
    estimator = copy.deepcopy(fitted(name))
    before = dict(vars(estimator))
    state = joblib.hash(estimator.__getstate__())
    output(estimator, rows(name))
    assert vars(estimator) == before
    assert joblib.hash(estimator.__getstate__()) == state


@every_regressor
def test_predict_iter_gives_the_same(name):
    X = with_unequal_sizes(name)
    scores = dict(fitted(name).predict_iter(X))
    np.testing.assert_array_equal([scores[row] for row in range(len(X))], fitted(name).predict(X))


@every_regressor
def test_score_is_rank_correlation(name):
    estimator, X = fitted(name), rows(name)
    assert estimator.score(X, MOS) == srcc(MOS, estimator.predict(X))


@every_regressor
def test_direction_and_range_are_stated(name):
    estimator = fitted(name)
    assert estimator.higher_is_better in (True, False)
    low, high = estimator.score_range
    assert low < high


# Forms of X -----------------------------------------------------------------------------------------------------------


def _files(images, folder):
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def _object_array(images, folder):
    array = np.empty(len(images), dtype=object)
    array[:] = list(images)
    return array


def _object_pairs(queries, references):
    array = np.empty((len(queries), 2), dtype=object)
    for row, pair in enumerate(zip(queries, references, strict=True)):
        array[row, 0], array[row, 1] = pair
    return array


SINGLE_FORMS = {
    "list": lambda images, folder: list(images),
    "tuple": lambda images, folder: tuple(images),
    "object_array": _object_array,
    "paths": _files,
    "strings": lambda images, folder: [str(path) for path in _files(images, folder)],
    "string_array": lambda images, folder: np.array([str(path) for path in _files(images, folder)]),
    "pil": lambda images, folder: [Image.fromarray(image) for image in images],
    "tensor": lambda images, folder: torch.from_numpy(images.copy()),
    "tensor_channels_first": lambda images, folder: torch.from_numpy(images.copy()).permute(0, 3, 1, 2),
    "pandas_series": lambda images, folder: pd.Series(_files(images, folder)),
}
PAIR_FORMS = {
    "list_of_tuples": lambda queries, references: list(zip(queries, references, strict=True)),
    "object_array": _object_pairs,
    "pandas_frame": lambda queries, references: pd.DataFrame({"query": queries, "reference": references}),
    "make_pairs": sklearn_iqa.make_pairs,
}


def _in_every_form(name, folder):
    """Yield the same X in all forms that an estimator accepts."""
    references, queries = photographs(*size(name))
    if not compares(name):
        for form, make in SINGLE_FORMS.items():
            yield form, make(queries, folder)
        return
    yield "list_of_arrays", list(rows(name))
    yield "tensor", torch.from_numpy(rows(name))
    (folder / "references").mkdir()
    for element in ("paths", "strings", "pil"):
        pair = SINGLE_FORMS[element](queries, folder), SINGLE_FORMS[element](references, folder / "references")
        for form, make in PAIR_FORMS.items():
            yield f"{form}_of_{element}", make(*pair)
    yield "make_pairs_of_arrays", sklearn_iqa.make_pairs(queries, references)


@every_estimator
def test_all_forms_of_X_give_the_same(name, tmp_path):
    expected = output(fitted(name), rows(name))
    for form, X in _in_every_form(name, tmp_path):
        np.testing.assert_array_equal(output(fitted(name), X), expected, err_msg=form)


@every_estimator
def test_fit_on_files_equals_fit_on_arrays(name, tmp_path):
    X = dict(_in_every_form(name, tmp_path))["make_pairs_of_paths" if compares(name) else "paths"]
    assert_equal_outputs(tiny(name).fit(X, MOS), fitted(name), rows(name))


@every_estimator
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_in_0_1_equal_bytes(name, dtype):
    X = rows(name)
    as_floats = X.astype(dtype) / dtype(255)
    np.testing.assert_allclose(output(fitted(name), as_floats), output(fitted(name), X), rtol=1e-5, atol=1e-5)


@every_estimator
def test_read_only_memory_map_is_unharmed(name, tmp_path):
    X = (rows(name) / 255).astype(np.float32)  # floats are the ones that in-place arithmetic would hit
    np.save(tmp_path / "X.npy", X)
    before = (tmp_path / "X.npy").read_bytes()
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns when it wraps memory that must not be written
        output(tiny(name).fit(mapped, MOS), mapped)
    assert (tmp_path / "X.npy").read_bytes() == before


@every_estimator
def test_data_are_not_modified(name):
    X, y = (rows(name) / 255).astype(np.float32), MOS.copy()
    weight = np.array([1.0, 2, 1, 2, 1, 2])
    X_before, y_before, weight_before = X.copy(), y.copy(), weight.copy()
    more = {"sample_weight": weight} if name in WEIGHTED else {}
    output(tiny(name).fit(X, y, **more), X)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    np.testing.assert_array_equal(weight, weight_before)


# Errors: one sentence that names the row and the remedy ---------------------------------------------------------------


NOT_FINITE = np.full((40, 48, 3), 0.5, dtype=np.float32)
NOT_FINITE[0, 0, 0] = np.nan

BAD_IMAGES = {
    "nan": (NOT_FINITE, "NaN.*repair"),
    "beyond_one": (np.full((40, 48, 3), 200.0), "0..1; divide by 255"),
    "transparent": (np.full((40, 48, 4), 128, np.uint8), "transparent.*composite"),
    "two_channels": (np.zeros((40, 48, 2), np.uint8), r"\(40, 48, 2\).*pass grey or RGB"),
    "channels_first": (np.zeros((3, 40, 48), np.uint8), "channels come first.*moveaxis"),
    "int64": (np.zeros((40, 48, 3), np.int64), "int64.*convert"),
    "no_pixel": (np.zeros((0, 48, 3), np.uint8), "no pixel; leave"),
    "missing_file": ("/nowhere/at/all.png", "does not exist; check the path"),
    "no_image": (7, "is a int; an image is"),
}


@every_estimator
@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_named(name, kind):
    image, remedy = BAD_IMAGES[kind]
    X = in_rows(name, image)
    for call in (lambda: use(tiny(name), X, MOS[:3]), lambda: output(fitted(name), X)):
        with pytest.raises((ValueError, TypeError, OSError), match=f"[Rr]ow 1 of X.*{remedy}") as error:
            call()
        sentence(error)


@every_estimator
@pytest.mark.parametrize("kind", ["nan", "missing_file", "no_image"])
def test_bad_image_is_nan_on_request(name, kind):
    X, estimator = in_rows(name, BAD_IMAGES[kind][0]), fitted(name)
    expected = output(estimator, [X[0], X[2]])
    answer = estimator.predict if hasattr(estimator, "predict") else estimator.transform
    with pytest.warns(UserWarning, match=r"^1 of 3 rows of X .* NaN \(row 1\); .*[Rr]ow 1 of X") as caught:
        found = answer(X, on_error="nan")
    assert [warning.filename for warning in caught] == [__file__]
    assert "\n" not in str(caught[0].message)
    assert found.shape == (3, *expected.shape[1:])
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-5, atol=1e-6)
    if hasattr(estimator, "predict_iter"):
        with pytest.warns(UserWarning, match=r"^1 of 3 rows of X .* NaN \(row 1\)"):
            known = dict(estimator.predict_iter(X, on_error="nan"))
        np.testing.assert_allclose([known[row] for row in range(3)], found, rtol=1e-5, atol=1e-6)
    if "return_std" in inspect.signature(answer).parameters:
        with pytest.warns(UserWarning, match=r"^1 of 3 rows of X"):
            mean_and_std = estimator.predict(X, return_std=True, on_error="nan")
        assert np.isnan(mean_and_std).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("name", _with("weights"))
def test_network_that_is_not_finite_is_an_error(name):
    estimator = copy.deepcopy(fitted(name))
    for tensor in estimator.network_.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(np.nan)
    with pytest.raises(ValueError, match=r"[Rr]ow \d of X .*NaN or infini.*check the weights") as error:
        output(estimator, rows(name))
    sentence(error)


@pytest.mark.parametrize("name", [name for name in LISTED if getattr(tiny(name), "min_size", 1) > 1])
def test_too_small_image_is_named(name):
    shortest = tiny(name).min_size
    small = np.zeros((shortest - 1, 64, 3), np.uint8)
    X = in_rows(name, small, reference=small)
    message = f"Row 1 of X.*{shortest - 1} x 64 .*at least {shortest}.*enlarge"
    for call in (lambda: use(tiny(name), X, MOS[:3]), lambda: output(fitted(name), X)):
        with pytest.raises(ValueError, match=message) as error:
            call()
        sentence(error)


@pytest.mark.parametrize("name", [name for name in REGRESSORS if tiny(name).min_size > 1])
def test_rows_keep_their_number_behind_one_left_out(name):
    small = np.zeros((tiny(name).min_size - 1, 64, 3), np.uint8)
    X = in_rows(name, small, reference=small)
    with pytest.raises(ValueError, match="Row 1 of X"):
        tiny(name).fit(X, MOS[:3], sample_weight=[0.0, 1.0, 1e-6])


@every_estimator
def test_smallest_image_is_enough(name):
    side = getattr(tiny(name), "min_size", 32)
    smallest = np.full((side, side, 3), 100, np.uint8)
    assert np.isfinite(output(fitted(name), [(smallest, smallest)] if compares(name) else [smallest])).all()


def _bad_containers(name):
    good = rows(name)
    yield "empty", good[:0], "empty.*at least one"
    yield "empty_list", [], "empty.*at least one"
    yield "table", np.zeros((3, 4)), "X.*(images|make_pairs)"
    yield "dictionary", {"image": good}, "X is a dict; give a list"
    yield "iterator", iter(good), "X is a .*iterator; give a list"
    yield "path", "folder/image.png", r"X is a single str.*write \[image\]"
    if compares(name):
        yield "single_images", good[:, 0], r"query, reference.*build X with make_pairs"
        yield "list_of_single_images", list(good[:, 0]), r"each row of X.*query, reference.*build X with make_pairs"
        if getattr(sklearn_iqa, name).same_size:
            unequal = [(q, r[:-8]) for q, r in good]
            height, width = size(name)
            sizes = f"query {height} x {width}, reference {height - 8} x {width}"
            yield "unequal_pair", unequal, rf"Row \d of X.*{sizes}.*resize"
    else:
        pairs = np.stack([good, good], axis=1)
        yield "pairs", pairs, r"2 images in each row.*take X\[:, 0\]"
        yield "list_of_pairs", [tuple(pair) for pair in pairs], r"X holds .*one image is due here.*takes a list"
        yield "one_image", good[0], r"one image; write \[image\]"


@every_estimator
def test_bad_container_is_named(name):
    for kind, X, remedy in _bad_containers(name):
        for call in (lambda X=X: use(tiny(name), X, MOS), lambda X=X: output(fitted(name), X)):
            with pytest.raises((ValueError, TypeError), match=remedy) as error:
                call()
            assert "\n" not in str(error.value), kind
            assert str(error.value).endswith("."), kind


BAD_LABELS = {
    "nan": (np.where(np.arange(6) == 2, np.nan, MOS), "NaN.*row 2; leave"),
    "infinite": (np.where(np.arange(6) == 2, np.inf, MOS), "infinity.*row 2; leave"),
    "none": (None, "requires y.*give one quality per row"),
    "too_short": (MOS[:-1], r"\b6\b.*\b5\b|\b5\b.*\b6\b"),
    "words": (np.array(["good", "bad"] * 3), "number|float"),
}


@every_regressor
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_label_is_named(name, kind):
    y, remedy = BAD_LABELS[kind]
    if y is None and not get_tags(tiny(name)).target_tags.required:
        pytest.skip("learns from images alone")
    with pytest.raises(ValueError, match=remedy) as error:
        tiny(name).fit(rows(name), y)
    assert "\n" not in str(error.value)


# Weights of rows ------------------------------------------------------------------------------------------------------


@every_weighted
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(5), "sample_weight"),
        (np.ones((6, 2)), "Sample weights must be 1D"),
        (np.zeros(6), "sample_weight|weights"),
        (-np.ones(6), "sample_weight|weights"),
        (np.full(6, np.nan), "sample_weight contains NaN|NaN"),
    ],
    ids=["short", "two_columns", "zero", "negative", "nan"],
)
def test_bad_sample_weight_is_named(name, weight, message):
    with pytest.raises(ValueError, match=message):
        tiny(name).fit(rows(name), MOS, weight)


@every_weighted
def test_equal_weights_are_no_weights(name):
    assert_equal_outputs(tiny(name).fit(rows(name), MOS, np.full(6, 2.0)), fitted(name), rows(name))


@every_weighted
def test_weight_zero_is_leaving_out(name):
    X, y = list(rows(name)), MOS.copy()
    weight = np.array([1.0, 1, 0, 2, 1, 2])
    kept = weight > 0
    without = tiny(name).fit([x for x, keep in zip(X, kept, strict=True) if keep], y[kept], weight[kept])
    X[2] = in_rows(name, "/nowhere/at/all.png")[1]  # would raise if it were opened
    y[2] = 1e6
    assert_equal_outputs(tiny(name).fit(X, y, weight), without, rows(name))


@every_weighted
def test_sample_weight_changes_the_fit(name):
    weighted = tiny(name).fit(rows(name), MOS, np.array([9.0, 1, 1, 1, 1, 1]))
    assert not np.array_equal(weighted.predict(rows(name)), fitted(name).predict(rows(name)))


@pytest.mark.parametrize("name", _with("max_epochs", among=WEIGHTED))
def test_every_stage_draws_rows_by_weight(name, monkeypatch):
    estimator, opened = tiny(name, max_epochs=4, batch_size=2), []
    run, open_row, train_view = type(estimator)._run, type(estimator)._open, type(estimator)._train_view

    def recorded_run(self, net, *args):
        opened.append([])
        return run(self, net, *args)

    def recorded_open(self, rows, row):
        if opened:
            opened[-1].append(rows.number(row))
        return open_row(self, rows, row)

    def recorded_view(self, row):  # all rows were opened before
        opened[-1].append(row)
        return train_view(self, row)

    monkeypatch.setattr(type(estimator), "_run", recorded_run)
    if name == "CLIPIQA":
        monkeypatch.setattr(type(estimator), "_train_view", recorded_view)
    else:
        monkeypatch.setattr(type(estimator), "_open", recorded_open)
    X = list(rows(name))
    if compares(name):  # of one content, which some methods compare with each other
        X = [(query, X[0][1]) for query, _ in X]
    estimator.fit(X, MOS, [1e9, 1, 1, 1, 1, 1])
    assert opened
    for rows_of_stage in opened:
        # The heavy row alone; a stage that takes different rows at once fills up with others. Without weights: 1 / 6.
        assert np.mean(np.array(rows_of_stage) == 0) > 0.4


@every_regressor
def test_score_takes_weights(name):
    estimator, X = fitted(name), rows(name)
    weight = np.array([3, 1, 2, 0, 1, 1])
    repeated = np.arange(6).repeat(weight)
    # Predictions of equal images in other batches differ in their last bits.
    expected = srcc(MOS[repeated], estimator.predict(X)[repeated])
    assert estimator.score(X, MOS, sample_weight=weight) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="6 values and sample_weight has 5") as error:
        estimator.score(X, MOS, sample_weight=weight[1:])
    sentence(error)


@pytest.mark.parametrize("name", _with("max_epochs", among=REGRESSORS))
def test_partial_fit_takes_what_fit_takes(name):
    fit, partial_fit = (inspect.signature(getattr(tiny(name), way)) for way in ("fit", "partial_fit"))
    assert fit.parameters == partial_fit.parameters


# Training: stopping, going on, interruption ---------------------------------------------------------------------------


@every_early_stopper
def test_early_stopping_brings_back_the_best(name, monkeypatch):
    planned = [0.1, 0.8, 0.3, 0.2, 0.9]  # the best before two epochs without a better one is the second
    estimator = tiny(name, max_epochs=5, early_stopping=True, validation_fraction=0.34, n_iter_no_change=2)
    states = []

    def scripted():
        if estimator.n_iter_ == 0:
            return 0.0  # a stage before the epochs that count
        states.append({name: tensor.clone() for name, tensor in estimator.network_.state_dict().items()})
        return planned[len(states) - 1]

    monkeypatch.setattr(type(estimator), "_held_out_score", lambda *args: scripted)
    estimator.fit(rows(name), MOS)
    assert estimator.validation_scores_ == planned[:4]
    assert estimator.n_iter_ == 4
    best = estimator.network_.state_dict()
    assert all(torch.equal(best[key], states[1][key]) for key in best)
    assert any(not torch.equal(best[key], states[3][key]) for key in best)


@every_early_stopper
def test_early_stopping_scores_real_rows(name):
    estimator = tiny(name, max_epochs=2, early_stopping=True, validation_fraction=0.34, warm_start=True)
    estimator.fit(rows(name), MOS)
    assert len(estimator.validation_scores_) == estimator.n_iter_ == 2
    assert all(-1 <= score <= 1 for score in estimator.validation_scores_)
    assert len(estimator.fit(rows(name), MOS).validation_scores_) == estimator.n_iter_ == 4


@every_early_stopper
def test_training_that_goes_on_holds_out_the_same(name, monkeypatch):
    splits = []

    def recorded(*args):
        splits.append(training.hold_out(*args))
        return splits[-1]

    monkeypatch.setattr("sklearn_iqa._base.estimator.hold_out", recorded)
    estimator = tiny(name, early_stopping=True, validation_fraction=0.34)
    for _ in range(2):
        estimator.partial_fit(rows(name), MOS)
    np.testing.assert_array_equal(splits[0][1], splits[1][1])


@every_early_stopper
def test_early_stopping_needs_rows(name):
    estimator = tiny(name, early_stopping=True, validation_fraction=0.1)
    with pytest.raises(ValueError, match=r"holds out 1 of 6 rows.*give more rows") as error:
        estimator.fit(rows(name), MOS)
    sentence(error)


@pytest.mark.parametrize("name", [name for name in EARLY_STOPPERS if compares(name)])
def test_held_out_references_are_not_trained_on(name):
    references, queries = photographs(*size(name))
    X = sklearn_iqa.make_pairs(queries, references[[0, 1, 2, 0, 1, 2]])
    trained, held_out = training.hold_out(tiny(name)._rows(X), 0.34, seed=0)
    assert sorted([*trained, *held_out]) == list(range(6))
    assert len(held_out) == 2  # one of three references, with its two queries
    assert not {row % 3 for row in trained} & {row % 3 for row in held_out}


# Four epochs, so that schedules over the epochs have room to differ.
@every_resumable
def test_partial_fit_goes_on_exactly(name):
    X = rows(name)
    at_once = tiny(name, max_epochs=4).fit(X, MOS)
    in_steps = tiny(name, max_epochs=4)
    for _ in range(4):
        in_steps.partial_fit(X, MOS)
    assert in_steps.n_iter_ == at_once.n_iter_ == 4
    assert in_steps.loss_curve_ == at_once.loss_curve_
    take_exact_line(in_steps, at_once)
    assert_equal_outputs(in_steps, at_once, X)


def take_exact_line(in_steps, at_once):
    """Give the line of `fit` to what ends `partial_fit` with that of its steps."""
    if type(in_steps)._finish_epoch is not ImageEstimator._finish_epoch:
        in_steps.label_scale_ = at_once.label_scale_


@every_warm_starter
def test_warm_start_goes_on(name):
    X = rows(name)
    estimator = tiny(name, max_epochs=2, warm_start=True)
    by_hand = tiny(name, max_epochs=2)
    estimator.fit(X, MOS).fit(X, MOS)
    for _ in range(4):
        by_hand.partial_fit(X, MOS)
    assert estimator.n_iter_ == 4
    take_exact_line(by_hand, estimator)
    assert_equal_outputs(estimator, by_hand, X)
    assert estimator.set_params(warm_start=False).fit(X, MOS).n_iter_ == 2


@every_warm_starter
def test_training_goes_on_after_a_journey(name):
    estimator = pickle.loads(pickle.dumps(fitted(name))).set_params(warm_start=True)
    n_before = estimator.n_iter_
    estimator.fit(rows(name), MOS)
    assert estimator.n_iter_ == 2 * n_before
    assert len(estimator.loss_curve_) == 2 * n_before


@every_trained
def test_interruption_leaves_a_usable_estimator(name, monkeypatch):
    estimator = tiny(name, max_epochs=3)
    original, calls = type(estimator)._train_view, []

    def interrupt(self, x):
        if self.n_iter_ == 1:
            calls.append(x)
        if len(calls) == 2:  # in the second epoch
            raise KeyboardInterrupt
        return original(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(type(estimator), "_train_view", interrupt)
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(rows(name), MOS)
    assert estimator.interrupted_
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 1
    assert np.isfinite(output(estimator, rows(name))).all()
    assert_equal_outputs(copy.deepcopy(estimator), estimator, rows(name))
    assert_equal_outputs(estimator.fit(rows(name), MOS), tiny(name, max_epochs=3).fit(rows(name), MOS), rows(name))
    assert not estimator.interrupted_


@every_trained
def test_failed_fit_does_not_spoil_the_next(name):
    estimator = tiny(name)
    with pytest.raises(ValueError, match=r"[Rr]ow 1 of X"):
        estimator.fit(in_rows(name, NOT_FINITE), MOS[:3])
    assert_equal_outputs(estimator.fit(rows(name), MOS), fitted(name), rows(name))


@every_resumable
def test_failed_step_does_not_spoil_the_next(name):
    estimator = tiny(name).partial_fit(rows(name), MOS)
    callbacks = [own for own, _ in estimator.net_.callbacks_]
    with pytest.raises(ValueError, match=r"[Rr]ow 1 of X"):
        estimator.partial_fit(in_rows(name, NOT_FINITE), MOS[:3])
    assert [own for own, _ in estimator.net_.callbacks_] == callbacks  # none of the call that failed
    assert np.isfinite(output(estimator, rows(name))).all()


# Travelling -----------------------------------------------------------------------------------------------------------


def _by_skops(estimator):
    data = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=data)
    # Whoever trusts the estimator's class needs to trust nothing else.
    cls = type(estimator)
    assert untrusted == [f"{cls.__module__}.{cls.__name__}"]
    return skops.io.loads(data, trusted=untrusted)


JOURNEYS = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "deepcopy": copy.deepcopy,
    "skops": _by_skops,
}


@every_estimator
@pytest.mark.parametrize("journey", JOURNEYS)
def test_journeys_change_nothing(name, journey):
    arrived = JOURNEYS[journey](fitted(name))
    assert_equal_outputs(arrived, fitted(name), rows(name))
    assert arrived.get_params() == fitted(name).get_params()
    unfitted = JOURNEYS[journey](tiny(name))
    assert vars(unfitted) == vars(tiny(name))


@every_estimator
def test_joblib_file_changes_nothing(name, tmp_path):
    joblib.dump(fitted(name), tmp_path / "estimator.joblib")
    assert_equal_outputs(joblib.load(tmp_path / "estimator.joblib", mmap_mode="r"), fitted(name), rows(name))


@every_warm_starter
def test_copies_are_independent(name):
    before = output(fitted(name), rows(name))
    copy.deepcopy(fitted(name)).set_params(warm_start=True).fit(rows(name), MOS[::-1])
    np.testing.assert_array_equal(output(fitted(name), rows(name)), before)


@pytest.mark.parametrize("name", _with("weights"))
def test_estimator_of_a_lost_device_continues_on_the_cpu(name):
    state = {**fitted(name).__getstate__(), "device_": "cuda:99"}
    arrived = tiny(name)
    with pytest.warns(UserWarning, match="cuda:99.*continues on the CPU"):
        arrived.__setstate__(state)
    assert_equal_outputs(arrived, fitted(name), rows(name))


ELSEWHERE = """
    import json, pathlib, pickle, sys, warnings
    import joblib
    import numpy as np
    import torch
    from sklearn.base import clone

    torch.set_num_threads(1)
    report = {}
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pickle")):
        estimator, X, y = pickle.loads(path.read_bytes())
        apply = lambda one: (one.predict if hasattr(one, "predict") else one.transform)(X).tolist()
        report[path.stem] = {
            "hash": joblib.hash(estimator.__getstate__()),
            "loaded": apply(estimator),
            "refitted": apply(clone(estimator).fit(X, y)),
        }
    print(json.dumps(report))
"""


# One test for all estimators, as starting a process costs more than what it does.
def test_another_process_gives_the_same(tmp_path):
    for name in LISTED:
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps((fitted(name), rows(name), MOS)))
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(ELSEWHERE), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr  # every warning is an error there
    reports = json.loads(run.stdout)
    assert sorted(reports) == sorted(LISTED)
    for name, report in reports.items():
        expected = output(fitted(name), rows(name))
        # Another number of threads may add in another order.
        np.testing.assert_allclose(report["loaded"], expected, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(report["refitted"], expected, rtol=1e-3, atol=1e-3, err_msg=name)
        assert report["hash"] == joblib.hash(fitted(name).__getstate__()), name


@every_estimator
def test_hash_of_a_copy_is_the_same(name):
    assert joblib.hash(copy.deepcopy(fitted(name)).__getstate__()) == joblib.hash(fitted(name).__getstate__())


# scikit-learn's tools -------------------------------------------------------------------------------------------------


def _in_search(name):
    """Give an estimator with a score, the grid of two candidates, and how its steps are called."""
    if name in REGRESSORS:
        grids = ({"lr": [1e-4, 1e-3]}, {"weighting": ["equal", "df"]})
        return tiny(name), next(
            (grid for grid in grids if set(grid) <= set(TINY[name])),
            {"n_jobs": [1, 2]},
        )
    return Pipeline([("features", tiny(name)), ("ridge", Ridge())]), {"ridge__alpha": [0.1, 1.0]}


@every_estimator
def test_grid_search_in_two_processes(name):
    estimator, grid = _in_search(name)
    X, groups = rows(name), [0, 0, 1, 1, 0, 1]
    search = GridSearchCV(estimator, grid, cv=GroupKFold(2), n_jobs=2, error_score="raise")
    with joblib.parallel_config("loky", max_nbytes=1000):  # so that workers get X as a read-only memory map
        search.fit(X, MOS, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = clone(estimator).set_params(**search.best_params_).fit(X, MOS)
    np.testing.assert_array_equal(search.predict(X), best.predict(X))


def test_grid_search_on_a_dask_cluster():
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    name = LISTED[0]
    estimator, grid = _in_search(name)
    search = GridSearchCV(estimator, grid, cv=2, error_score="raise")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        search.fit(rows(name), MOS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@every_regressor
def test_regressor_ends_a_pipeline(name, tmp_path):
    pipeline = Pipeline([("same", FunctionTransformer()), ("quality", tiny(name))], memory=str(tmp_path))
    assert_equal_outputs(pipeline.fit(rows(name), MOS), fitted(name), rows(name))
    assert pipeline.score(rows(name), MOS) == fitted(name).score(rows(name), MOS)


@every_transformer
def test_pipeline_memory_spares_a_second_fit(name, tmp_path, monkeypatch):
    pipeline = Pipeline([("features", tiny(name)), ("ridge", Ridge())], memory=str(tmp_path))
    first = pipeline.fit(rows(name), MOS).predict(rows(name))

    def refuse(*args, **kwargs):
        raise AssertionError("the transformer was fitted although its features are in the cache")

    monkeypatch.setattr(getattr(sklearn_iqa, name), "fit", refuse)
    np.testing.assert_array_equal(clone(pipeline).fit(rows(name), MOS).predict(rows(name)), first)


@every_transformer
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_features_have_names(name, container):
    transformer = copy.deepcopy(fitted(name)).set_output(transform=container)
    frame = transformer.transform(rows(name))
    assert list(frame.columns) == list(transformer.get_feature_names_out())
    assert len(set(frame.columns)) == frame.shape[1]
    np.testing.assert_array_equal(frame.to_numpy(), fitted(name).transform(rows(name)))


@every_estimator
def test_tags_say_what_comes_in(name):
    tags = get_tags(tiny(name))
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.string  # paths
    assert not tags.non_deterministic
    y = inspect.signature(getattr(sklearn_iqa, name).fit).parameters["y"]
    assert tags.target_tags.required == (y.default is inspect.Parameter.empty)


@every_estimator
def test_representations_name_the_class_and_link_to_its_page(name):
    estimator = tiny(name)
    assert repr(estimator).startswith(f"{name}(")
    page = f"https://sklearn-iqa.readthedocs.io/en/latest/generated/sklearn_iqa.{name}.html"
    assert page in estimator_html_repr(estimator)
    assert page in estimator_html_repr(fitted(name))


@pytest.fixture
def callback():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")


def _monitored(callback, name, n_epochs):
    estimator = tiny(name, max_epochs=n_epochs)
    monitor = callback.ScoringMonitor(scoring="neg_mean_squared_error")
    return estimator.set_callbacks(monitor), monitor


@pytest.mark.parametrize("name", _with("max_epochs", among=REGRESSORS))
def test_scoring_monitor_sees_every_epoch(name, callback):
    estimator, monitor = _monitored(callback, name, 3)
    estimator.fit(rows(name), MOS)
    epochs = [entry for entry in monitor.get_logs().data if entry["task_name"] == "epoch"]
    assert len(epochs) == 3
    silent = tiny(name, max_epochs=3).fit(rows(name), MOS)
    assert_equal_outputs(estimator, silent, rows(name))  # being watched changes nothing
    mse = -np.mean((silent.predict(rows(name)) - MOS) ** 2)
    whole = [entry for entry in monitor.get_logs().data if entry["task_name"] == "fit"]
    assert whole[-1]["neg_mean_squared_error"] == pytest.approx(mse)


WITHOUT_EPOCHS = {
    name: {}
    for name in LISTED
    if "max_epochs" not in TINY[name] and hasattr(getattr(sklearn_iqa, name), "set_callbacks")
}
WITHOUT_EPOCHS |= {"CLIPIQA": {"n_context": 0}, "ReIQA": {"trained": "none"}}


@pytest.mark.parametrize("name", WITHOUT_EPOCHS)
def test_callbacks_see_a_fit_without_epochs(name, callback, capfd):
    estimator = tiny(name, **WITHOUT_EPOCHS[name])
    monitor = callback.ScoringMonitor(scoring="neg_mean_squared_error") if name in REGRESSORS else None
    callbacks = [callback.ProgressBar(), *([monitor] if monitor else [])]
    estimator.set_callbacks(*callbacks).fit(rows(name), MOS)
    assert_equal_outputs(estimator, tiny(name, **WITHOUT_EPOCHS[name]).fit(rows(name), MOS), rows(name))
    assert name in capfd.readouterr().out
    if monitor:
        (whole,) = monitor.get_logs().data
        mse = -np.mean((estimator.predict(rows(name)) - MOS) ** 2)
        assert whole["task_name"] == "fit"
        assert whole["neg_mean_squared_error"] == pytest.approx(mse)


@pytest.mark.parametrize("name", _with("max_epochs", among=REGRESSORS))
def test_callbacks_pass_through_a_search(name, callback, capfd):
    estimator, monitor = _monitored(callback, name, 2)
    search = GridSearchCV(estimator, {"batch_size": [2, 3]}, cv=2, error_score="raise", scoring="r2")
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=4))
    search.fit(rows(name), MOS)
    epochs = [entry for entry in monitor.get_logs().data if entry["task_name"] == "epoch"]
    assert len(epochs) == (2 * 2 + 1) * 2  # candidates x folds and the last fit, two epochs each
    assert name in capfd.readouterr().out


def test_callbacks_pass_through_a_search_in_two_processes(callback):
    name = REGRESSORS[0]
    estimator, monitor = _monitored(callback, name, 2)
    GridSearchCV(estimator, {"batch_size": [2, 3]}, cv=2, n_jobs=2, error_score="raise").fit(rows(name), MOS)
    epochs = [entry for entry in monitor.get_logs().data if entry["task_name"] == "epoch"]
    assert len(epochs) == (2 * 2 + 1) * 2


@every_trained
def test_progress_bar_shows_epochs(name, capfd, callback):
    tiny(name, max_epochs=2).set_callbacks(callback.ProgressBar(max_propagation_depth=4)).fit(rows(name), MOS)
    assert name in capfd.readouterr().out


# Silence, weights, the network itself ---------------------------------------------------------------------------------


@every_estimator
def test_bars_only_when_asked_for(name, capfd):
    X = rows(name)
    output(tiny(name).fit(X, MOS), X)
    assert capfd.readouterr() == ("", "")
    loud = tiny(name, verbose=1).fit(X, MOS)
    capfd.readouterr()
    output(loud, X)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert name in printed.err
    assert "6/6" in printed.err


@every_trained
def test_fit_shows_epoch_and_loss_when_asked(name, capfd):
    tiny(name, verbose=1).fit(rows(name), MOS)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.search(rf"{name}\.fit.*epoch=1, loss=", printed.err)


@pytest.mark.parametrize("name", _with("weights", among=REGRESSORS))
def test_saved_weights_come_back(name, tmp_path):
    estimator, X = fitted(name), rows(name)
    path = tmp_path / f"{name}.safetensors"
    estimator.save_weights(path)
    published = tiny(name, weights=path)
    scores = published.predict(X)  # without fit: the network's own number
    slope, intercept = estimator.label_scale_
    np.testing.assert_allclose(slope * scores + intercept, estimator.predict(X), rtol=1e-12)
    low, high = published.score_range
    assert ((scores >= low) & (scores <= high)).all()
    sign = 1 if published.higher_is_better else -1
    assert published.score(X, MOS) == srcc(MOS, sign * scores)
    assert_equal_outputs(tiny(name, weights=str(path)).initialize(), published, X)


@pytest.mark.parametrize("name", _with("weights", "max_epochs"))
def test_fit_goes_on_from_weights(name, tmp_path):
    path = tmp_path / f"{name}.safetensors"
    fitted(name).save_weights(path)
    tuned = tiny(name, weights=path, lr=1e-12).fit(rows(name), MOS)  # a step too small to be seen
    started, kept = fitted(name).network_.state_dict(), tuned.network_.state_dict()
    for key in kept:
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(kept[key], started[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", _with("weights"))
def test_missing_weights_say_what_there_is(name):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*neither a file nor a published name; published") as error:
        tiny(name, weights="/nowhere/at/all.pth").initialize()
    sentence(error)


@pytest.mark.parametrize("name", _with("weights"))
def test_weights_of_another_network_are_refused(name, tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        tiny(name, weights=tmp_path / "other.pth").initialize()


@pytest.mark.parametrize("name", REGRESSORS)
def test_initialized_network_is_differentiable(name):
    estimator = tiny(name).initialize()
    assert not estimator.network_.training
    row = estimator._views(estimator._open(estimator._rows(rows(name)), 3))
    views = row.clone().requires_grad_()
    result = estimator.network_(views)
    first = result[0] if isinstance(result, tuple) else result
    assert len(first) == len(views)
    first.square().sum().backward()  # squared, as the shares of a histogram sum to a constant
    assert torch.isfinite(views.grad).all()
    assert (views.grad != 0).any()
    if estimator.__sklearn_is_fitted__():  # a density needs images beside the network
        assert np.isfinite(estimator.predict(rows(name))).all()

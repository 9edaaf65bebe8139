# SPDX-License-Identifier: BSD-3-Clause
"""The number of pyiqa: every method that it shares with this package gives it, on request where that is another.

The kit holds what pyiqa itself gave, see `benchmarks/pyiqa_parity.py`, from which this file takes its images and
estimators. pyiqa's crops lie on a grid, so that nothing is drawn anywhere.
"""

import importlib
import sys
from pathlib import Path

import kits
import numpy as np
import pytest
import torch

import sklearn_iqa
from sklearn_iqa._nn import pyiqa_views, transforms
from sklearn_iqa._weights.pretrained import find_published

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "benchmarks"))
pyiqa_parity = importlib.import_module("pyiqa_parity")

KIT = kits.read("pyiqa")
METRICS = KIT["metrics"]
ATOL = 1e-5
WITH_PROTOCOL = sorted(
    name
    for name in sklearn_iqa.__all__
    if "protocol" in getattr(getattr(sklearn_iqa, name), "_parameter_constraints", ())
)


def tiny(name, **parameters):
    """An estimator in its tiny configuration, whose files stand beside this one."""
    cls = getattr(sklearn_iqa, name)
    given = {**cls._test_params, "random_state": 0, "device": "cpu", **parameters}
    if str(given.get("backbone")).endswith(".json"):
        given["backbone"] = str(TESTS / given["backbone"])
    return cls(**given)


def images(cls, size=(161, 170), n_rows=2):
    """Rows of X: images, or pairs, of one size."""
    rows = np.random.default_rng(0).integers(0, 256, (n_rows, len(cls.inputs), *size, 3), dtype=np.uint8)
    return rows if len(cls.inputs) > 1 else rows[:, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_same_number(metric):
    entry = METRICS[metric]
    estimator = pyiqa_parity.estimator(entry, **entry.get("same", {}))
    found = pyiqa_parity.scores(entry, estimator)
    kits.assert_parity("pyiqa", metric, list(found.values()), list(entry["scores"].values()), atol=ATOL)


def test_protocol_is_where_numbers_differ():
    for entry in METRICS.values():
        differs = max(entry["apart"].values()) > ATOL
        assert differs == ("same" in entry)
    with_protocol = {entry["estimator"] for entry in METRICS.values() if "protocol" in entry.get("same", {})}
    assert sorted(with_protocol) == WITH_PROTOCOL


def test_weights_are_published_names():
    for metric, entry in METRICS.items():
        cls = getattr(sklearn_iqa, entry["estimator"])
        for name in ({metric: entry.get("weights")} | entry.get("also", {})).values():
            assert name is None or find_published(name, cls.published).name == name


@pytest.mark.parametrize(
    ("n_crops", "corners"),
    [
        (1, [(0, 0)]),
        (2, [(0, 0), (0, 90)]),
        (3, [(0, 0), (0, 90), (60, 0)]),  # two columns, a step of the whole free length
        (4, [(0, 0), (0, 45), (30, 0), (30, 45)]),  # before the border
        (20, [(15 * row, 22 * column) for row in range(4) for column in range(5)]),
        (25, [(12 * row, 18 * column) for row in range(5) for column in range(5)]),
    ],
)
def test_grid_of_crops(n_crops, corners):
    place = np.arange(100 * 130, dtype=np.float32).reshape(100, 130, 1).repeat(3, axis=2)
    crops = pyiqa_views.uniform_crops((place, place), 40, n_crops, transforms.to_tensor)
    assert crops.shape == (n_crops, 2, 3, 40, 40)
    assert [divmod(int(crop[1, 2, 0, 0]), 130) for crop in crops] == corners


def test_small_images_are_enlarged_for_crops():
    pair = tuple(np.random.default_rng(0).random((2, 30, 60, 3), dtype=np.float32))
    (crop,) = pyiqa_views.uniform_crops(pair, 40, 1, transforms.to_tensor)
    enlarged = torch.nn.functional.interpolate(transforms.to_tensor(pair), (41, 82), mode="bilinear")
    torch.testing.assert_close(crop, enlarged[..., :40, :40])
    image = np.zeros((40, 60, 3), np.uint8)
    assert pyiqa_views.uniform_crops(image, 40, 2, transforms.to_tensor)[1].shape == (3, 40, 40)  # enlarged as well


def test_resized_center_is_not_bounded():
    edge = torch.zeros(3, 40, 60)
    edge[..., 30:] = 1.0
    resized = pyiqa_views.resized_center(edge, 30, 24, pyiqa_views.InterpolationMode.BICUBIC)
    assert resized.shape == (3, 24, 24)
    assert resized.min() < 0
    assert resized.max() > 1


@pytest.mark.parametrize("name", WITH_PROTOCOL)
def test_training_does_not_depend_on_it(name):
    cls = getattr(sklearn_iqa, name)
    X = images(cls, cls._test_size if hasattr(cls, "_test_size") else (64, 72), n_rows=4)
    states = [
        tiny(name, protocol=one).fit(X, [1.0, 2.0, 3.0, 4.0]).network_.state_dict() for one in ("official", "pyiqa")
    ]
    equal = all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))
    assert equal == (name != "AHIQ")  # there the network is trained for what it will see


def test_ahiq_normalises_alike_in_training_and_prediction():
    estimator = tiny("AHIQ", protocol="pyiqa").initialize()
    pair = tuple(np.full((170, 180, 3), 255, np.uint8) for _ in range(2))
    for views in (estimator._views(pair), estimator._train_view(pair)):
        white = views[..., 0, 0].reshape(-1, 3)[0]
        torch.testing.assert_close(white, torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)


def test_maniqa_weights_the_patches_of_all_crops_together():
    estimator = tiny("MANIQA", protocol="pyiqa", n_crops=3).initialize()
    (image,) = images(sklearn_iqa.MANIQA, (170, 200), n_rows=1)
    (crops,) = estimator._views(image)
    with torch.no_grad():
        scores, weights = estimator.network_.position_scores(crops)
    expected = float((scores * weights).sum() / weights.sum())
    assert estimator.predict([image])[0] == pytest.approx(expected, rel=1e-5)


def test_liqe_sees_native_images_in_windows_as_close_as_on_small_ones():
    official, pyiqa = (tiny("LIQE", protocol=one).initialize() for one in ("official", "pyiqa"))
    side = official.network_.side
    image = np.zeros((800, 1100, 3), np.uint8)
    assert official._resized(image).shape == (768, 1056, 3)
    n_rows, n_columns = ((length - side) // 32 + 1 for length in (800, 1100))
    assert len(pyiqa._places(pyiqa._resized(image, longest=np.inf), wide_step=32)) == n_rows * n_columns
    assert len(pyiqa._views(image)) == pyiqa.n_crops


def test_clip_iqa_mean_of_pairs():
    pairs = pyiqa_parity.PROMPTS[:2]
    X = images(sklearn_iqa.CLIPIQA, (64, 72))
    estimator = tiny("CLIPIQA", n_context=0, prompts=pairs, attribute="mean").initialize()
    each = list(estimator.predict_attributes(X).values())
    np.testing.assert_allclose(estimator.predict(X), np.mean(each, axis=0), rtol=1e-6)
    y = np.array([[1.0, 3.0], [2.0, 8.0]])
    fitted = tiny("CLIPIQA", prompts=pairs, attribute="mean").fit(X, y)
    np.testing.assert_allclose(fitted.score(X, y), fitted.score(X, y.mean(1)))

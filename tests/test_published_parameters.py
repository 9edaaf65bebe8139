# SPDX-License-Identifier: BSD-3-Clause
"""Parameters that belong to published weights follow them where they are left at their defaults; else they are refused.

The networks are small: stand-in entries of the published names, with small files, or small sizes that no entry names.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_iqa import CLIPIQA, LIQE, MANIQA, MUSIQ, NIMA
from sklearn_iqa._weights import pretrained

TESTS = Path(__file__).parent
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 72, 3), dtype=np.uint8)
Y = np.array([1.0, 2.0, 3.0, 4.0])
VIT = {"backbone": "test_vit", "layers": (1, 2), "embed_dim": 16, "dim_mlp": 16, "n_heads": 2, "window_size": 5}
# Estimator, name, parameters of the stand-in entry besides those of the real one, parameters that are given, parameters
# that are refused.
CASES = {
    "NIMA": (NIMA, "koniq", {"backbone": "test_resnet"}, {}, {"n_bins": 5}),
    "MUSIQ": (MUSIQ, "ava", {}, {"embed_dim": 24, "depth": 2, "n_heads": 2, "dim_mlp": 24}, {"n_bins": 5}),
    "MANIQA": (MANIQA, "pipal22", {}, {**VIT, "n_crops": 1}, {"scale": 0.5}),
    "CLIPIQA": (
        *(CLIPIQA, "default", {"backbone": str(TESTS / "clip_tiny_resnet.json")}),
        *({"backbone_weights": None}, {"n_context": 4}),
    ),
    "CLIPIQA, own context": (
        *(CLIPIQA, "plus-vitl14-512", {"backbone": str(TESTS / "clip_tiny_vit.json")}),
        *({"backbone_weights": None}, {"n_context": 4}),
    ),
    "LIQE": (
        LIQE,
        "koniq",
        {"backbone": str(TESTS / "clip_tiny_vit.json")},
        {},
        {"scenes": ("indoor",), "distortions": ("blur",)},
    ),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path, monkeypatch):
    """Class, name, given and refused parameters, and an estimator of the same weights with all parameters given."""
    cls, name, small, given, refused = CASES[request.param]
    entry = pretrained.find_published(name, cls.published)
    belonging = {**entry.parameters, **small}
    common = {**given, "random_state": 0, "device": "cpu"}
    expected = cls(**{**common, **belonging, "backbone_weights": None}).initialize()
    path = tmp_path / "stand_in.safetensors"
    expected.save_weights(path)
    file = pretrained.WeightsFile(path.name, pretrained.sha256(path))
    stand_in = dataclasses.replace(entry, files=(file,), parameters=belonging)
    others = [one for one in cls.published if one.name != entry.name]
    first = [stand_in, *others] if name == "default" else [*others, stand_in]
    monkeypatch.setattr(cls, "published", tuple(first))
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path))
    return cls, {**common, "weights": name}, refused, expected


def test_parameters_follow_the_weights(case):
    cls, given, _, expected = case
    estimator = cls(**given)
    before = estimator.get_params()
    np.testing.assert_array_equal(estimator.predict(IMAGES), expected.predict(IMAGES))
    np.testing.assert_array_equal(clone(estimator).predict(IMAGES), expected.predict(IMAGES))
    assert estimator.get_params() == before


def test_training_goes_on_from_the_weights(case):
    cls, given, _, expected = case
    recipe = {"max_epochs": 1, "lr": 1e-6, "batch_size": 4}
    fitted = cls(**given, **recipe).fit(IMAGES, Y)
    own, theirs = fitted.network_.state_dict(), expected.network_.state_dict()
    assert own.keys() == theirs.keys()
    for name, tensor in own.items():
        assert tensor.shape == theirs[name].shape
        if not name.endswith(("num_batches_tracked", "running_mean", "running_var")):
            np.testing.assert_allclose(tensor.numpy(), theirs[name].numpy(), atol=1e-3)
    assert np.isfinite(fitted.predict(IMAGES)).all()


def test_other_parameters_are_refused(case):
    cls, given, refused, _ = case
    name = next(iter(refused))
    with pytest.raises(ValueError, match=rf"belong to {name}=.*, but {cls.__name__} has {name}="):
        cls(**given, **refused).initialize()

# SPDX-License-Identifier: BSD-3-Clause
"""Files of fitted models: what comes back is what was written, and nothing of other packages."""

import zipfile

import numpy as np
import pytest
import skops.io
from sentences import one_sentence
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from sklearn_iqa import NIMA, TimmFeatures, load_model, model_card, save_model

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
MOS = np.linspace(1, 5, 6)
FEATURES = {"backbone": "test_resnet", "backbone_weights": None, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    return make_pipeline(TimmFeatures(**FEATURES), Ridge()).fit(IMAGES, MOS)


def test_what_comes_back_predicts_alike(model, tmp_path):
    path = tmp_path / "model.skops"
    save_model(model, path, card={"rows": 6})
    np.testing.assert_array_equal(load_model(path).predict(IMAGES), model.predict(IMAGES))
    card = model_card(path)
    assert (card["class"], card["rows"]) == ("Pipeline", 6)
    assert "torch" in card["versions"]
    assert [one.name for one in tmp_path.iterdir()] == ["model.skops"]


def test_the_device_may_be_another_one(tmp_path):
    nima = NIMA(**NIMA._test_params, device="cpu", random_state=0).initialize()
    save_model(nima, tmp_path / "nima.skops")
    moved = load_model(tmp_path / "nima.skops", device="auto")
    assert moved.device == "auto"
    assert str(moved.device_).startswith(("cpu", "cuda", "mps"))
    assert next(moved.network_.parameters()).device == moved.device_
    np.testing.assert_allclose(moved.predict(IMAGES), nima.predict(IMAGES), rtol=1e-4)


def test_an_error_leaves_the_file_as_it_was(model, tmp_path):
    path = tmp_path / "model.skops"
    save_model(model, path, card={"version": 1})
    with pytest.raises(TypeError):
        save_model(model, path, card={"version": object()})
    assert model_card(path)["version"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["model.skops"]


class Foreign(Ridge):
    """Of no package that is trusted."""


def test_objects_of_others_are_refused(model, tmp_path):
    path = tmp_path / "foreign.skops"
    save_model(make_pipeline(TimmFeatures(**FEATURES), Foreign()).fit(IMAGES, MOS), path)
    with one_sentence(ValueError, "foreign.skops holds objects", "Foreign", "skops.io.load"):
        load_model(path)


def test_other_files_are_refused(model, tmp_path):
    with one_sentence(FileNotFoundError, "There is no file"):
        load_model(tmp_path / "none.skops")
    (tmp_path / "text.skops").write_text("text")
    skops.io.dump(model, tmp_path / "bare.skops")
    with zipfile.ZipFile(tmp_path / "odd.skops", "w") as file:
        file.writestr("card.json", "{")
    for name in ("text", "bare", "odd"):
        for read in (load_model, model_card):
            with one_sentence(ValueError, f"{name}.skops is no model"):
                read(tmp_path / f"{name}.skops")

# SPDX-License-Identifier: BSD-3-Clause
"""The unit of y for networks that learn order alone: an exact line after `fit`, one from the steps of `partial_fit`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_iqa import GIQA, LIQE, UNIQUE, ContentDiverseIQA, KonIQPlusPlus
from sklearn_iqa.multimodal._liqe_multitask import expected_level

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 2, 40, 48, 3), dtype=np.uint8)
MOS = np.array([30.0, 45.0, 80.0, 60.0, 35.0, 50.0, 75.0, 65.0])
TINY = {"backbone_weights": None, "batch_size": 4, "max_epochs": 2, "lr": 0.001, "random_state": 0}
# Of a batch the scores of the network and the labels, in the unit of y.
METHODS = {
    "UNIQUE": (
        lambda: UNIQUE(backbone="test_resnet", crop_size=32, warmup_epochs=0, **TINY),
        lambda output, target: (output.mean, target[..., 0]),
    ),
    "ContentDiverseIQA": (
        lambda: ContentDiverseIQA(net="squeeze", crop_size=32, **TINY),
        lambda output, target: (output, 30 + (target - 1) * 50 / 4),  # training maps 30..80 to 1..5
    ),
    "ContentDiverseIQA, Elo": (
        lambda: ContentDiverseIQA(net="squeeze", crop_size=32, pair_loss="elo", **TINY),
        lambda output, target: (output, target),
    ),
    "LIQE": (
        lambda: LIQE(
            **{"backbone": str(Path(__file__).parent / "clip_tiny_vit.json"), "steps_per_epoch": 2},
            **{"scenes": (), "distortions": ()},
            **TINY,
        ),
        lambda output, target: (expected_level(output.quality), target[:, 0]),
    ),
    "GIQA": (
        lambda: GIQA(
            n_thresholds=3,
            input_size=32,
            n_channels=4,
            batch_size=4,
            max_epochs=2,
            lr=0.01,
            random_state=0,
            device="cpu",
        ),
        lambda output, target: (output.probabilities.sum(1), target[:, -1]),
    ),
    "KonIQPlusPlus": (
        lambda: KonIQPlusPlus(backbone="test_resnet", image_size=(64, 64), n_defects=2, lr_step=2, **TINY),
        lambda output, target: (output[:, 0], target[:, 0]),
    ),
}
every_method = pytest.mark.parametrize("name", METHODS)


def images(name):
    return IMAGES if name.startswith("ContentDiverseIQA") else IMAGES[:, 0]


@every_method
def test_partial_fit_takes_the_line_from_its_own_steps(name, monkeypatch):
    make, numbers = METHODS[name]
    estimator, kept = make(), []
    loss = type(estimator)._loss

    def noted(self):
        made = loss(self)
        made.register_forward_hook(lambda module, given, value: kept.append(given))
        return made

    monkeypatch.setattr(type(estimator), "_loss", noted)
    monkeypatch.setattr(type(estimator), "_infer", None)  # no pass beside them
    estimator.partial_fit(images(name), MOS)
    for _ in range(2):
        kept.clear()
        estimator.partial_fit(images(name), MOS)
        scores, labels = (
            torch.cat([one.detach().flatten() for one in part]).double().numpy()
            for part in zip(*(numbers(*step) for step in kept), strict=True)
        )
        assert len(scores) >= 8
        np.testing.assert_allclose(estimator.label_scale_, np.polyfit(scores, labels, 1), rtol=1e-4)


@every_method
def test_fit_ends_with_the_line_of_the_images_as_predict_sees_them(name):
    make, _ = METHODS[name]
    estimator = make().fit(images(name), MOS)
    line = np.polyfit(estimator._scores(estimator._rows(images(name))), MOS, 1)
    np.testing.assert_allclose(estimator.label_scale_, line, rtol=1e-6)
    near = make().partial_fit(images(name), MOS).partial_fit(images(name), MOS)
    state = near.network_.state_dict()  # the same network
    assert all(torch.equal(tensor, state[name]) for name, tensor in estimator.network_.state_dict().items())
    assert near.label_scale_ != estimator.label_scale_


def test_data_sets_of_several_units_have_no_line():
    estimator = METHODS["UNIQUE"][0]().partial_fit(IMAGES[:, 0], MOS, domains=["a", "b"] * 4)
    assert estimator.label_scale_ == (1.0, 0.0)

# SPDX-License-Identifier: BSD-3-Clause
"""UNIQUE: parity with the official code, the losses, pairs within domains, the two stages, and that it learns."""

import pickle

import kits
import numpy as np
import pytest
import sklearn
import torch
from held_out import levels
from scipy.special import ndtri
from sklearn.model_selection import GridSearchCV

from sklearn_iqa import UNIQUE
from sklearn_iqa._nn.losses import FidelityLoss, pairs_within
from sklearn_iqa._nn.timm_backbones import layer_outputs
from sklearn_iqa.metrics import srcc
from sklearn_iqa.pair_input.unique import UNIQUELoss, UNIQUENetwork, UNIQUEOutput, bilinear_features

KIT = kits.read("unique")
ATOL = KIT["tolerance"]["abs"]  # 2e-5
TINY = {"backbone": "test_resnet", "backbone_weights": None, "crop_size": 48, "max_epochs": 2, "random_state": 0}


def kit_images():
    first, second = kits.images(0)
    return [first, second, first // 4, np.repeat(np.repeat(first, 3, axis=0), 3, axis=1)]


@pytest.fixture(scope="module")
def official():
    estimator = UNIQUE(backbone_weights=None, random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def small_set():
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    return images, np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])


# Parity ---------------------------------------------------------------------------------------------------------------


def test_outputs_are_official(official):
    layer, pre_activation = official.network_.fc, []
    hook = layer.register_forward_hook(lambda module, inputs, output: pre_activation.append(output))
    outputs = [official.predict([image], return_std=True) for image in kit_images()]  # the fourth is resized to 768
    hook.remove()
    mean, std = np.concatenate(outputs, axis=1)
    kits.assert_parity("unique", "mean", mean, KIT["output"], atol=ATOL)
    kits.assert_parity("unique", "std", std, KIT["std"], atol=ATOL)
    kits.assert_parity("unique", "pre_activation", torch.cat(pre_activation), KIT["pre_activation"], atol=ATOL)
    np.testing.assert_array_equal(official.predict(kit_images()[2:3]), mean[2:3])  # without return_std


def test_stages_are_official(official):
    network = official.network_
    with torch.inference_mode():
        layer1, layer4 = layer_outputs(network.backbone, ["layer1", "layer4"], official._views(kit_images()[0]))
        stages = {
            "layer1": layer1,
            "layer4": layer4,
            "representation (1,262144)": bilinear_features(layer4),
        }
    for stage in KIT["stages"]:
        values = stages[stage["name"]].double().numpy()
        assert list(values.shape) == stage["shape"]
        # The kit's bound is for scores; maps reach 1e6, so that the bound of all methods holds: 1e-4 of the number.
        for what, got in (("mean", values.mean()), ("std", values.std()), ("first5", values.ravel()[:5])):
            kits.assert_parity("unique", f"{stage['name']} {what}", got, stage[what], rtol=1e-4)


def test_losses_are_official():
    case = {name: torch.tensor(value) for name, value in KIT["losses"].items()}
    output = UNIQUEOutput(torch.cat([case["y1"], case["y2"]]), torch.cat([case["std1"], case["std2"]]))
    # Three domains of two images; the MOS is what gives the kit's g: Phi((m1 - 0) / sqrt(s1^2 + s2^2)) = g.
    mos = ndtri(KIT["losses"]["g"]) * np.hypot(KIT["losses"]["gt_std1"], KIT["losses"]["gt_std2"])
    mos = torch.cat([torch.tensor(mos, dtype=torch.float32), torch.zeros(3)])
    mos_std, domain = torch.cat([case["gt_std1"], case["gt_std2"]]), torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    loss = UNIQUELoss()
    p = loss.preference(output, torch.arange(3), torch.arange(3, 6))
    kits.assert_parity("unique", "p", p, case["p"], atol=ATOL)
    fidelity = FidelityLoss()(p, case["g"])
    kits.assert_parity("unique", "fidelity", fidelity, case["fidelity"], atol=ATOL)
    total = loss(output, torch.stack([mos, mos_std, domain], dim=1))
    kits.assert_parity("unique", "total", total, case["total"], atol=ATOL)
    kits.assert_parity("unique", "hinge", total - fidelity, case["hinge"], atol=ATOL)


def test_the_official_file_loads_by_path(official, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(kits.fill(KIT), path)  # with the prefix module. and the unused backbone.fc, as published
    estimator = UNIQUE(weights=path)
    # Without fit, in the network's own unit: the first number of the kit.
    np.testing.assert_allclose(estimator.predict(kit_images()[:1]), KIT["output"][:1], atol=ATOL, rtol=0)


# The loss -------------------------------------------------------------------------------------------------------------


def random_output(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return UNIQUEOutput(
        torch.randn(n, generator=generator, requires_grad=True),
        torch.rand(n, generator=generator).add_(0.1).requires_grad_(),
    )


def test_preferences_of_a_pair_sum_to_one():
    output = random_output(20)
    first, second = pairs_within(torch.zeros(20))
    loss = UNIQUELoss()
    both = loss.preference(output, first, second) + loss.preference(output, second, first)
    torch.testing.assert_close(both, torch.ones(190), atol=2e-7, rtol=0)  # 20 * 19 / 2 pairs; two roundings of 2^-24


def test_fidelity_is_zero_when_the_probabilities_agree():
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    loss = torch.stack([FidelityLoss()(one, one) for one in p])
    # At p = 0 the epsilon under the roots takes off sqrt(1e-8) + (sqrt(1 + 1e-8) - 1) = 1.00005e-4, elsewhere less.
    assert loss.max() <= 0
    assert loss.min() > -1.0001e-4
    assert abs(loss[50]) < 2.1e-8  # at 0.5: 2 (sqrt(0.25 + 1e-8) - 0.5) = 2e-8
    # Sure and wrong: 1 - 2 sqrt(1e-8).
    torch.testing.assert_close(FidelityLoss()(p[:1], 1 - p[:1]), torch.tensor(1 - 2e-4, dtype=torch.float64))


def test_fidelity_does_not_train_the_deviation():
    output = random_output(6)
    mos = torch.arange(6.0)
    UNIQUELoss()(output, torch.stack([mos, torch.zeros(6), torch.zeros(6)], dim=1)).backward()
    assert output.mean.grad.abs().min() > 0
    assert output.std.grad is None


def test_only_the_hinge_trains_the_deviation_and_it_ranks():
    output = UNIQUEOutput(torch.zeros(2, requires_grad=True), torch.full((2,), 0.5, requires_grad=True))
    UNIQUELoss()(output, torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])).backward()
    # Equal MOS: p = g = 0.5, no gradient on the means. The first opinion is the less certain: its deviation must grow.
    np.testing.assert_allclose(output.mean.grad, [0, 0], atol=1e-6)
    np.testing.assert_array_equal(output.std.grad, [-1, 1])


@pytest.mark.parametrize("std", [(0.2, 0.9), (0.9, 0.2)])
def test_a_tie_of_deviations_costs_the_margin(std):
    output = UNIQUEOutput(torch.zeros(2), torch.tensor(std))
    tie = torch.tensor([[1.0, 3.0, 0.0], [1.0, 3.0, 0.0]])
    # p = g = 0.5: fidelity -2e-8; max(0, -0 (std difference) + 0.025) = 0.025.
    torch.testing.assert_close(UNIQUELoss()(output, tie), torch.tensor(0.025), atol=1e-7, rtol=0)


def test_pairs_of_different_domains_teach_nothing():
    output = random_output(7)
    mos, mos_std = torch.randn(7), torch.rand(7) + 1
    domain = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0])
    first, second = pairs_within(domain)
    # Three pairs of domain 0, three of domain 1, none of domain 2 with its one image.
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (0, 6), (1, 3), (1, 5), (2, 6), (3, 5)]
    shifted = mos + 100 * domain  # another unit in each domain
    loss = UNIQUELoss()
    want, got = (loss(output, torch.stack([one, mos_std, domain], dim=1)) for one in (mos, shifted))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)  # float32 loses 2^-17 of a MOS near 200
    alone = loss(output, torch.stack([mos, mos_std, torch.arange(7.0)], dim=1))
    alone.backward()
    assert alone == 0
    assert output.mean.grad.abs().max() == 0


def test_without_deviations_the_better_image_is_better_for_sure():
    output = random_output(3)
    target = torch.tensor([[5.0, 0.0, 0.0], [3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    first, second = pairs_within(torch.zeros(3))
    p = UNIQUELoss().preference(output, first, second)  # pairs (0, 1), (0, 2), (1, 2)
    want = FidelityLoss()(p, torch.tensor([1.0, 1.0, 0.5]))
    torch.testing.assert_close(UNIQUELoss()(output, target), want, atol=0, rtol=0)


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("size", [(32, 32), (33, 97)])
def test_any_backbone_and_size_give_a_positive_deviation(backbone, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    estimator = UNIQUE(backbone=backbone, backbone_weights=None, random_state=0).initialize()
    mean, std = estimator.predict([image], return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_representation_ignores_where_things_are():
    torch.manual_seed(0)
    features = torch.rand(2, 5, 4, 6)
    shuffled = features.flatten(2)[..., torch.randperm(24)].unflatten(2, (4, 6))
    torch.testing.assert_close(bilinear_features(shuffled), bilinear_features(features), atol=1e-6, rtol=0)
    torch.testing.assert_close(bilinear_features(features).norm(dim=1), torch.ones(2))


def test_the_last_layer_starts_as_in_the_paper():
    torch.manual_seed(0)
    fc = UNIQUENetwork("test_resnet").fc
    # Kaiming: sqrt(2 / fan-in) with 96 * 96 inputs; 18,432 draws give 0.5 % standard error.
    assert fc.weight.std().item() == pytest.approx((2 / 96**2) ** 0.5, rel=0.03)
    assert not fc.bias.any()


@pytest.mark.parametrize(
    ("size", "view"),
    [((768, 1024), (768, 1024)), ((800, 1000), (768, 960)), ((767, 1500), (767, 1500)), ((1536, 769), (1534, 768))],
)
def test_only_images_with_two_long_sides_are_resized(size, view):
    # 768 * 1000 / 800 = 960; 768 * 1536 / 769 = 1534.003, cut to 1534
    estimator = UNIQUE(**TINY)
    assert estimator._views(np.zeros((*size, 3), np.uint8)).shape == (1, 3, *view)


@pytest.mark.parametrize("size", [(20, 90), (600, 900), (384, 400)])
@pytest.mark.parametrize("crop_size", [384, 640])
def test_training_crops_have_one_size(size, crop_size):
    estimator = UNIQUE(crop_size=crop_size)
    assert estimator._train_view(np.zeros((*size, 3), np.uint8)).shape == (3, crop_size, crop_size)


def test_training_sees_large_images_at_512():
    ramp = np.repeat(np.linspace(0, 1, 2048, dtype=np.float32)[None, :, None], 1024, axis=0).repeat(3, axis=2)
    view = UNIQUE(crop_size=512)._train_view(ramp)
    # Halved to 512 x 1024, a crop of 512 spans half of the ramp, whose red channel is divided by ImageNet's 0.229.
    assert (view[0].max() - view[0].min()).item() == pytest.approx(0.5 / 0.229, rel=0.01)


# Training -------------------------------------------------------------------------------------------------------------


def test_the_backbone_is_frozen_first_but_its_statistics_move(small_set):
    X, y = small_set
    before = UNIQUE(**TINY).initialize().network_.state_dict()
    frozen = UNIQUE(**TINY, warmup_epochs=2).fit(X, y).network_
    for name, tensor in frozen.state_dict().items():
        if name.startswith("backbone.") and "running_" not in name and "num_batches" not in name:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(frozen.state_dict()["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"])
    assert not torch.equal(frozen.fc.weight, before["fc.weight"])
    assert all(parameter.requires_grad for parameter in frozen.parameters())
    freed = UNIQUE(**TINY, warmup_epochs=1).fit(X, y).network_
    assert any(
        not torch.equal(tensor, before[f"backbone.{name}"]) for name, tensor in freed.backbone.named_parameters()
    )


def test_the_learning_rate_falls_by_steps_also_across_calls_and_pickles(small_set):
    X, y = small_set
    recipe = {**TINY, "lr": 1e-2, "lr_step": 2, "max_epochs": 5, "warmup_epochs": 1}
    at_once = UNIQUE(**recipe).fit(X, y)
    # Epochs 0, 1 | 2, 3 | 4: a tenth after every second one.
    np.testing.assert_allclose(at_once.net_.history[:, "event_lr"], [1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    in_parts = UNIQUE(**recipe)
    for _ in range(5):
        in_parts.partial_fit(X, y)
    np.testing.assert_array_equal(in_parts.predict(X), at_once.predict(X))
    travelled = pickle.loads(pickle.dumps(in_parts)).partial_fit(X, y)
    np.testing.assert_allclose(travelled.net_.history[:, "event_lr"], [1e-4])  # epoch 5 of lr_step 2
    pairs = zip(travelled.network_.backbone.parameters(), in_parts.network_.backbone.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)  # no second warm-up


def test_scores_speak_the_unit_of_y(small_set):
    X, y = small_set
    y2 = np.column_stack([y, np.linspace(1, 2, 8)])
    own = UNIQUE(**TINY).fit(X, y2)
    other = UNIQUE(**TINY).fit(X, 10 * y2 + [50, 0])
    mean, std = own.predict(X, return_std=True)
    # A least-squares line has residuals of mean zero.
    assert mean.mean() == pytest.approx(y.mean(), abs=1e-9)
    # Ten times opinions and deviations leave every probability as it is, up to the rounding of MOS to float32.
    other_mean, other_std = other.predict(X, return_std=True)
    np.testing.assert_allclose(other_mean, 10 * mean + 50, rtol=1e-3)
    np.testing.assert_allclose(other_std, 10 * std, rtol=1e-2)
    assert own.score(X, y2) == own.score(X, y)


def test_groups_keep_their_own_units(small_set):
    X, y = small_set
    domains = np.array(["a", "b"] * 4)
    together = UNIQUE(**TINY, batch_size=4).fit(X, y, domains=domains)
    apart = UNIQUE(**TINY, batch_size=4).fit(X, y + 64.0 * (domains == "b"), domains=domains)
    # 64 is a power of two: the halves in y stay exact in float32, so that differences within b are equal to the bit.
    np.testing.assert_array_equal(apart.predict(X), together.predict(X))
    assert together.label_scale_ == (1.0, 0.0)  # no common unit
    assert not np.array_equal(
        UNIQUE(**TINY, batch_size=4).fit(X, y).network_.fc.weight.detach(), together.network_.fc.weight.detach()
    )
    numbered = UNIQUE(**TINY, batch_size=4).partial_fit(X, y, domains=[1, 7] * 4).partial_fit(X, y, domains=[1, 7] * 4)
    np.testing.assert_array_equal(numbered.predict(X), together.predict(X))


def test_a_grid_search_can_hand_on_the_data_set(small_set):
    X, y = small_set
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = UNIQUE(**{**TINY, "max_epochs": 1}).set_fit_request(domains="data_set")
        search = GridSearchCV(estimator, {"lr": [1e-4, 1e-3]}, cv=2, error_score="raise")
        search.fit(X, y, data_set=["a", "a", "b", "b"] * 2)
        assert search.best_estimator_.label_scale_ == (1.0, 0.0)  # the sign of several domains
        with pytest.raises(ValueError, match="learns from pairs"):  # every image a data set of its own
            search.fit(X, y, data_set=list("abcdefgh"))


# Two kinds of distortion at levels 1, 3, 5 on ten photographs of 64 pixels, three photographs held out.
def test_it_learns_from_pairs():
    known = levels(["gaussian_blur", "white_noise"], side=64)
    recipe = {"crop_size": 48, "batch_size": 14, "max_epochs": 20, "warmup_epochs": 0, "lr_step": 14, "lr": 1e-3}
    estimator = UNIQUE(**{**TINY, **recipe})
    before = estimator.initialize().score(known.X_new, known.y_new)
    after = estimator.fit(known.X, known.y).score(known.X_new, known.y_new)
    # measured on held-out photographs: -0.06 before, 0.86 after training, from random numbers
    assert after >= 0.80 > 0.60 > before


def test_it_learns_from_data_sets_of_different_units():
    # Blur in one unit and noise in another are two data sets; only images of one are compared.
    known = levels(["gaussian_blur", "white_noise"], side=64)
    noise = known.distortion == "white_noise"
    y = np.where(noise, 1000 + 200 * known.y, known.y)
    recipe = {"crop_size": 48, "batch_size": 14, "max_epochs": 20, "warmup_epochs": 0, "lr_step": 14, "lr": 1e-3}
    estimator = UNIQUE(**{**TINY, **recipe})
    before = estimator.initialize().predict(known.X_new)
    after = estimator.fit(known.X, y, domains=known.distortion).predict(known.X_new)
    for kind in ("gaussian_blur", "white_noise"):
        rows = known.distortion_new == kind
        # measured on held-out photographs: blur -0.44 before, 0.82 after; noise 0.32 and 0.86
        assert srcc(known.y_new[rows], after[rows]) >= 0.80 > 0.60 > srcc(known.y_new[rows], before[rows])


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "domains", "parameters", "sentence"),
    [
        ([[1, 2], [3, 0], [2, 1]], None, {}, "standard deviation 0"),
        ([[1, 2], [3, np.nan], [2, 1]], None, {}, "NaN"),
        ([[1, 2, 3], [3, 2, 1], [2, 1, 1]], None, {}, "shape"),
        ([1, 2, 3], [0, 1, 2], {}, "no|none"),
        ([1, 2, 3], [0, 1], {}, "inconsistent"),
        ([1, 2, 3], None, {"batch_size": 1}, "batch_size"),
        ([1, 2, 3], None, {"lr_step": 0}, r"'lr_step' parameter of UNIQUE must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"warmup_epochs": -1}, r"'warmup_epochs' .* must be an int in the range \[0, inf\)"),
        ([1, 2, 3], None, {"crop_size": 0}, r"'crop_size' .* must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"weight_decay": -1}, r"'weight_decay' .* must be a float in the range \[0.0, inf\)"),
        ([1, 2, 3], None, {"backbone": "vit_tiny_patch16_224"}, "convolutional"),
    ],
)
def test_unusable_input_is_refused(small_set, y, domains, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        UNIQUE(**{**TINY, **parameters}).fit(small_set[0][:3], y, domains=domains)

# SPDX-License-Identifier: BSD-3-Clause
"""UNIQUE: parity with the official code, the losses, the pairs that are drawn, the recipe, and that it learns."""

import pickle

import kits
import numpy as np
import pytest
import sklearn
import torch
from held_out import levels
from recipes import coordinate_maps, recorded
from scipy.special import ndtri
from sentences import one_sentence
from sklearn.model_selection import GridSearchCV

from sklearn_iqa import UNIQUE
from sklearn_iqa._base.training import TrainingSet, hold_out
from sklearn_iqa._nn.losses import FidelityLoss
from sklearn_iqa._nn.timm_backbones import layer_outputs
from sklearn_iqa.metrics import srcc
from sklearn_iqa.pair_input._unique_pairs import PairBatches, different_pairs, weighted_pairs
from sklearn_iqa.pair_input.unique import PairTraining, UNIQUELoss, UNIQUENetwork, UNIQUEOutput, bilinear_features

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


# Recipe ---------------------------------------------------------------------------------------------------------------

# Images of the official six sets that are trained on, 80 %, and the pairs that the official code draws of each.
OFFICIAL_SIZES = {"LIVE": 623, "CSIQ": 693, "KADID-10k": 8100, "BID": 469, "CLIVE": 930, "KonIQ-10k": 8058}
OFFICIAL_PAIRS = {
    **{"LIVE": 25_000, "CSIQ": 35_000, "KADID-10k": 50_000, "BID": 20_000, "CLIVE": 40_000, "KonIQ-10k": 90_000}
}


def training_set(domain, sample_weight=None, **state):
    targets = np.stack([np.zeros(len(domain)), np.zeros(len(domain)), domain], axis=1)
    return TrainingSet(lambda row: torch.tensor(row), targets, np.arange(len(domain)), sample_weight, **state)


def sampler(data, n_pairs, batch_size=32, **warmup):
    return PairBatches(data, batch_size, n_pairs=n_pairs, **{"warmup_epochs": 3, "warmup_batch_size": 128, **warmup})


@pytest.mark.parametrize(
    ("n_pairs", "counts", "steps"),
    [
        # 40 for each image, 70,000 at most: 248,580 pairs
        (["auto"] * 6, [24_920, 27_720, 70_000, 18_760, 37_200, 70_000], (1943, 7769)),
        # 260,000 / 128 = 2031.25, 260,000 / 32 = 8125
        (list(OFFICIAL_PAIRS.values()), list(OFFICIAL_PAIRS.values()), (2032, 8125)),
    ],
)
def test_pairs_of_each_domain_and_steps_at_the_official_sizes(n_pairs, counts, steps):
    domain = np.repeat(np.arange(6), list(OFFICIAL_SIZES.values()))
    data = training_set(domain, epoch=2)
    batches = sampler(data, n_pairs)
    assert len(batches) == steps[0]
    data.epoch = 3
    assert len(batches) == steps[1]
    torch.manual_seed(0)
    drawn = list(batches)
    assert len(drawn) == steps[1]
    assert {len(batch) for batch in drawn} <= {31, 32}
    pairs = np.concatenate(drawn)
    np.testing.assert_array_equal(domain[pairs[:, 0]], domain[pairs[:, 1]])
    np.testing.assert_array_equal(np.bincount(domain[pairs[:, 0]]), counts)


def test_pairs_are_different_and_those_of_all_epochs():
    domain = np.repeat([0, 1, 2], [40, 30, 1])
    data = training_set(domain, seed=5)
    batches = sampler(data, [600, 1000, 7], batch_size=64, warmup_epochs=0)
    torch.manual_seed(0)
    first, second = ([pair for batch in batches for pair in batch] for _ in range(2))
    # 600 of 780 pairs of the first domain, all 435 of the second, none of the single image.
    assert len({frozenset(pair) for pair in first}) == len(first) == 600 + 435
    assert min(len(set(pair)) for pair in first) == 2
    assert sorted(first) == sorted(second)
    assert first != second
    # Either order as likely: five deviations of a binomial count of 1035 are 80.
    assert abs(sum(i < j for i, j in first) - 1035 / 2) < 80
    data.seed = 6
    assert sorted(pair for batch in batches for pair in batch) != sorted(first)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 15), (2, [3] + [2] * 6), (4, [4, 4, 4, 3]), (99, [15])])
def test_batches_of_pairs_are_even(batch_size, sizes):
    batches = sampler(training_set(np.zeros(6)), ["auto"], batch_size, warmup_epochs=0)
    assert [len(batch) for batch in batches] == sizes  # of 15 pairs


@pytest.mark.parametrize("n_rows", [2, 3, 50])
def test_all_pairs_are_reached(n_rows):
    n = n_rows * (n_rows - 1) // 2
    pairs = different_pairs(n_rows, n, np.random.RandomState(0))
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(i, j) for j in range(n_rows) for i in range(j)}


def test_weights_draw_rows_into_pairs():
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    pairs = weighted_pairs(weight, 40_000, np.random.RandomState(0))
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs.T), 1)
    expected = 40_000 * weight[:, None] / 10 * weight / (10 - weight[:, None])
    np.fill_diagonal(expected, 0)
    # 5 deviations of the largest count, 8,000 of 40,000, are 400.
    np.testing.assert_allclose(counts, expected, atol=400)
    assert not counts.diagonal().any()
    batches = sampler(training_set(np.zeros(4), weight), [6])
    assert sum(map(len, batches)) == 6


def test_both_images_of_a_pair_pass_by_themselves():
    passes = []

    class Network(torch.nn.Module):
        def forward(self, images):
            passes.append(images)
            return UNIQUEOutput(images.mean((1, 2, 3)), images.amax((1, 2, 3)))

    pairs = torch.rand(5, 2, 3, 4, 6)
    output = PairTraining(Network())(pairs)
    torch.testing.assert_close(passes, [pairs[:, 0], pairs[:, 1]])
    torch.testing.assert_close(output.mean, pairs.mean((2, 3, 4)))
    torch.testing.assert_close(output.std, pairs.amax((2, 3, 4)))
    module = UNIQUE(**TINY)._training_module(UNIQUENetwork("test_resnet"))
    assert isinstance(module, PairTraining)


def test_a_fit_goes_through_all_pairs_in_each_epoch(small_set):
    X, _ = small_set
    y = np.column_stack([10.0 + np.arange(8), 20.0 + np.arange(8)])
    domains = np.array(["a", "b"] * 4)
    recipe = {**TINY, "max_epochs": 3, "warmup_epochs": 1, "warmup_batch_size": 6, "batch_size": 4}
    with recorded() as phases:
        estimator = UNIQUE(**recipe).fit(X, y, domains=domains)
    # 6 pairs of the four images of each domain: 2 steps of 6 pairs while the backbone is frozen, then 3 of 4.
    (phase,) = phases
    assert phase.epochs == [0] * 2 + [1] * 3 + [2] * 3
    assert phase.shapes == [(6, 2, 3, 48, 48)] * 2 + [(4, 2, 3, 48, 48)] * 6
    assert estimator.n_steps_ == 8
    targets = torch.cat(phase.targets).numpy()
    np.testing.assert_array_equal(targets[..., 1], targets[..., 0] + 10)  # each with its own deviation and domain
    np.testing.assert_array_equal(targets[..., 2], targets[..., 0] % 2)
    epochs = [{frozenset(mos) for mos in one[..., 0].tolist()} for one in targets.reshape(3, 12, 2, 3)]
    assert [len(one) for one in epochs] == [12] * 3
    assert [one for batch in phase.rows[:2] for one in batch] != [one for batch in phase.rows[2:5] for one in batch]


def test_the_number_of_pairs_can_be_chosen(small_set):
    X, y = small_set
    domains = np.array(["a", "a", "a", "b", "b", "b", "b", "b"])
    drawn = {}
    for n_pairs in (2, {"b": 9, "a": 1, "elsewhere": 5}):
        with recorded() as phases:
            UNIQUE(**{**TINY, "max_epochs": 1}, n_pairs=n_pairs).fit(X, y, domains=domains)
        drawn[str(n_pairs)] = torch.cat(phases[0].targets)[:, 0, 2].int().bincount().tolist()
    assert list(drawn.values()) == [[2, 2], [1, 9]]


def test_going_on_draws_what_one_fit_draws(small_set):
    X, y = small_set
    recipe = {**TINY, "max_epochs": 3, "n_pairs": 11, "batch_size": 4, "warmup_batch_size": 8, "warmup_epochs": 2}
    with recorded() as at_once:
        UNIQUE(**recipe).fit(X, y)
    with recorded() as in_parts:
        estimator = UNIQUE(**recipe)
        for _ in range(3):
            estimator = pickle.loads(pickle.dumps(estimator.partial_fit(X, y)))
    assert [phase.rows for phase in in_parts] == [at_once[0].rows[:2], at_once[0].rows[2:4], at_once[0].rows[4:]]


def test_held_out_images_form_no_pairs(small_set):
    X, y = small_set
    recipe = {**TINY, "early_stopping": True, "validation_fraction": 0.5, "max_epochs": 1}
    members, held_out = hold_out(UNIQUE()._rows(X), 0.5, UNIQUE(**TINY)._drawn_seed())
    domains = np.zeros(8)
    domains[members[:2]] = 1  # one pair of these, one of the two others
    with recorded() as phases:
        estimator = UNIQUE(**recipe).fit(X, y, domains=domains)
    mos = torch.cat(phases[0].targets)[..., 0].tolist()
    assert {frozenset(pair) for pair in mos} == {frozenset(y[members[:2]]), frozenset(y[members[2:]])}
    assert set(y[held_out]).isdisjoint(np.ravel(mos))
    assert estimator.n_steps_ == 1


def test_rows_without_a_pair_are_refused(small_set):
    X, y = small_set
    with one_sentence(ValueError, "the 2 rows to be trained on", "give more rows, or a lower validation_fraction"):
        UNIQUE(**TINY).fit(X, y, sample_weight=[1, 0, 0, 0, 0, 0, 0, 1], domains=list("aaaabbbb"))


def test_crops_lie_anywhere_and_are_mirrored():
    maps = coordinate_maps(UNIQUE(**TINY)._train_view, 72, 90)
    left = np.where(maps[:, 0, 0] < 0, maps[:, 0, 2] - 47, maps[:, 0, 2])
    # 43 and 25 places for a square of 48: of 64 draws all but the outermost hundredth are reached, each side.
    assert left.min() < 5
    assert left.max() > 37
    assert maps[:, 1, 2].min() < 3
    assert maps[:, 1, 2].max() > 21
    # Half are mirrored; five deviations of 64 draws are 20.
    assert abs(np.sum(maps[:, 0, 0] < 0) - 32) < 20
    np.testing.assert_allclose(np.abs(maps[:, 0, 0]), 1, atol=0.02)
    np.testing.assert_allclose(maps[:, 1, 1], 1, atol=0.02)


def test_images_are_normalised_as_the_pretraining_says():
    white = np.full((48, 48, 3), 255, np.uint8)
    view = UNIQUE(**{**TINY, "backbone": "resnet34.tv_in1k"})._train_view(white)
    want = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(view.mean((1, 2)), want)


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
    output = UNIQUEOutput(torch.stack([case["y1"], case["y2"]], 1), torch.stack([case["std1"], case["std2"]], 1))
    # The MOS is what gives the kit's g: Phi((m1 - 0) / sqrt(s1^2 + s2^2)) = g.
    mos = ndtri(KIT["losses"]["g"]) * np.hypot(KIT["losses"]["gt_std1"], KIT["losses"]["gt_std2"])
    mos = torch.tensor(np.stack([mos, np.zeros(3)], axis=1), dtype=torch.float32)
    mos_std = torch.stack([case["gt_std1"], case["gt_std2"]], 1)
    loss = UNIQUELoss()
    p = loss.preference(output)
    kits.assert_parity("unique", "p", p, case["p"], atol=ATOL)
    fidelity = FidelityLoss()(p, case["g"])
    kits.assert_parity("unique", "fidelity", fidelity, case["fidelity"], atol=ATOL)
    total = loss(output, torch.stack([mos, mos_std], dim=2))
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
        torch.randn(n, 2, generator=generator, requires_grad=True),
        torch.rand(n, 2, generator=generator).add_(0.1).requires_grad_(),
    )


def test_preferences_of_a_pair_sum_to_one():
    output, loss = random_output(190), UNIQUELoss()
    both = loss.preference(output) + loss.preference(UNIQUEOutput(*(one.flip(1) for one in output)))
    torch.testing.assert_close(both, torch.ones(190), atol=2e-7, rtol=0)  # two roundings of 2^-24


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
    mos = torch.arange(12.0).view(6, 2)
    UNIQUELoss()(output, torch.stack([mos, torch.zeros(6, 2)], dim=2)).backward()
    assert output.mean.grad.abs().min() > 0
    assert output.std.grad is None


def test_only_the_hinge_trains_the_deviation_and_it_ranks():
    output = UNIQUEOutput(torch.zeros(1, 2, requires_grad=True), torch.full((1, 2), 0.5, requires_grad=True))
    UNIQUELoss()(output, torch.tensor([[[1.0, 2.0], [1.0, 1.0]]])).backward()
    # Equal MOS: p = g = 0.5, no gradient on the means. The first opinion is the less certain: its deviation must grow.
    np.testing.assert_allclose(output.mean.grad, [[0, 0]], atol=1e-6)
    np.testing.assert_array_equal(output.std.grad, [[-1, 1]])


@pytest.mark.parametrize("std", [(0.2, 0.9), (0.9, 0.2)])
def test_a_tie_of_deviations_costs_the_margin(std):
    output = UNIQUEOutput(torch.zeros(1, 2), torch.tensor([std]))
    tie = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])
    # p = g = 0.5: fidelity -2e-8; max(0, -0 (std difference) + 0.025) = 0.025.
    torch.testing.assert_close(UNIQUELoss()(output, tie), torch.tensor(0.025), atol=1e-7, rtol=0)


def test_without_deviations_the_better_image_is_better_for_sure():
    output, loss = random_output(3), UNIQUELoss()
    target = torch.tensor([[[5.0, 0.0], [3.0, 0.0]], [[3.0, 0.0], [5.0, 0.0]], [[3.0, 0.0], [3.0, 0.0]]])
    want = FidelityLoss()(loss.preference(output), torch.tensor([1.0, 0.0, 0.5]))
    torch.testing.assert_close(loss(output, target), want, atol=0, rtol=0)


def test_worked_numbers_of_a_pair():
    # p = Phi((1 - 0) / sqrt(0.6^2 + 0.8^2)) = 0.841345, g = Phi((4 - 1) / sqrt(9 + 16)) = 0.725747; fidelity
    # 1 - sqrt(p g) - sqrt((1 - p)(1 - g)) = 0.0099943. The second opinion is the less certain and so is its prediction,
    # by more than the margin: no hinge.
    output = UNIQUEOutput(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))
    got = UNIQUELoss()(output, torch.tensor([[[4.0, 3.0], [1.0, 4.0]]]))
    assert got.item() == pytest.approx(0.0099943, abs=1e-6)
    # The other way round the hinge is 0.8 - 0.6 + 0.025, and g = Phi(3 / 5) stays.
    got = UNIQUELoss()(output, torch.tensor([[[4.0, 4.0], [1.0, 3.0]]]))
    assert got.item() == pytest.approx(0.0099943 + 0.225, abs=1e-6)


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
    in_parts.label_scale_ = at_once.label_scale_  # the exact line, and not that of the steps
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


# Two kinds of distortion at levels 1, 3, 5 on ten photographs of 64 pixels, three photographs held out. 376 steps of
# eight pairs, from random numbers.
LEARNING = {"crop_size": 48, "batch_size": 8, "max_epochs": 2, "warmup_epochs": 0, "lr_step": 1, "lr": 2e-3}


def test_it_learns_from_pairs():
    known = levels(["gaussian_blur", "white_noise"], side=64)
    estimator = UNIQUE(**{**TINY, **LEARNING}, n_pairs=1500)
    before = estimator.initialize().score(known.X_new, known.y_new)
    after = estimator.fit(known.X, known.y).score(known.X_new, known.y_new)
    # Measured on held-out photographs with random_state 0, 1, 2: -0.06, 0.18, 0.00 before; 0.84, 0.76, 0.83 after.
    assert before < 0.3
    assert after > 0.65


def test_it_learns_from_data_sets_of_different_units():
    # Blur in one unit and noise in another are two data sets; only images of one are compared.
    known = levels(["gaussian_blur", "white_noise"], side=64)
    noise = known.distortion == "white_noise"
    y = np.where(noise, 1000 + 200 * known.y, known.y)
    estimator = UNIQUE(**{**TINY, **LEARNING}, n_pairs=750)
    before = estimator.initialize().predict(known.X_new)
    after = estimator.fit(known.X, y, domains=known.distortion).predict(known.X_new)
    for kind in ("gaussian_blur", "white_noise"):
        rows = known.distortion_new == kind
        # Measured on held-out photographs with random_state 0, 1, 2: blur -0.44, 0.08, -0.23 before, 0.89, 0.80, 0.85
        # after; noise 0.32, 0.29, 0.19 and 0.79, 0.75, 0.75.
        assert srcc(known.y_new[rows], before[rows]) < 0.4
        assert srcc(known.y_new[rows], after[rows]) > 0.65


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "domains", "parameters", "sentence"),
    [
        ([[1, 2], [3, 0], [2, 1]], None, {}, "y holds the standard deviation 0; give positive ones or one column"),
        ([[1, 2], [3, np.nan], [2, 1]], None, {}, "y contains NaN, first in row 1"),
        ([[1, 2, 3], [3, 2, 1], [2, 1, 1]], None, {}, r"y should be a 1d array, got an array of shape \(3, 3\)"),
        ([1, 2, 3], [0, 1, 2], {}, r"n_samples=3 in 3 domain\(s\) make none; give at least two images of a domain"),
        ([1, 2, 3], [0, 1], {}, r"inconsistent numbers of samples: \[3, 2\]"),
        ([1, 2, 3], list("aab"), {"n_pairs": {"a": 1}}, "n_pairs={'a': 1} has no number for the domain 'b'"),
        ([1, 2, 3], None, {"n_pairs": {0: 0.5}}, "n_pairs holds 0.5 for the domain 0; give a whole number from 1 on"),
        ([1, 2, 3], None, {"n_pairs": 0}, r"'n_pairs' parameter of UNIQUE must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"warmup_batch_size": 0}, r"'warmup_batch_size' .* must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"lr_step": 0}, r"'lr_step' parameter of UNIQUE must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"warmup_epochs": -1}, r"'warmup_epochs' .* must be an int in the range \[0, inf\)"),
        ([1, 2, 3], None, {"crop_size": 0}, r"'crop_size' .* must be an int in the range \[1, inf\)"),
        ([1, 2, 3], None, {"weight_decay": -1}, r"'weight_decay' .* must be a float in the range \[0.0, inf\)"),
        ([1, 2, 3], None, {"backbone": "vit_tiny_patch16_224"}, "images of one size; give a convolutional network"),
    ],
)
def test_unusable_input_is_refused(small_set, y, domains, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        UNIQUE(**{**TINY, **parameters}).fit(small_set[0][:3], y, domains=domains)

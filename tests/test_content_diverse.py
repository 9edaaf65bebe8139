# SPDX-License-Identifier: BSD-3-Clause
"""Content-diverse comparisons: parity with the official code, properties of the distances, and learning."""

import kits
import numpy as np
import pairs
import pytest
import recipes
import torch

from sklearn_iqa import ContentDiverseIQA
from sklearn_iqa._nn.layers import SLICED_BACKBONES, L2Pool
from sklearn_iqa.reduced_reference import content_diverse

KITS = {
    "dists": kits.read("content_diverse"),
    "lpips": kits.read("content_diverse_lpips"),
    "lpips-l2pool": kits.read("content_diverse_l2pool"),
}
NAMES = {"dists": "content_diverse", "lpips": "content_diverse_lpips", "lpips-l2pool": "content_diverse_l2pool"}
LOSSES = KITS["dists"]["losses"]


def kit_pairs():
    """The kits' three queries for each of two references, as their `input` describes."""
    pairs = []
    for image in kits.images(0):
        reference = image[:192, :224]
        pixels = reference.astype(np.float64)
        blurred = np.mean([np.roll(pixels, shift, axis=(0, 1)) for shift in ((0, 0), (1, 0), (0, 1), (1, 1))], axis=0)
        noise = np.random.default_rng([11, 0]).normal(0, 12, reference.shape)
        noisy = np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)
        pairs += [(query, reference) for query in (noisy, (reference // 48) * 48 + 24, reference)]
    return pairs


PAIRS = kit_pairs()


@pytest.fixture(scope="module", params=KITS)
def official(request):
    """The three forms with their kit's weights; those of channels made positive, as the kits state in `post_fill`."""
    state = kits.fill(KITS[request.param])
    for number in range(5 if "lpips" in request.param else 0):
        state[f"lin{number}.model.1.weight"] = state[f"lins.{number}.model.1.weight"]  # one tensor, the latter wins
    state = {
        name: tensor.abs() if name.startswith(("lin", "alpha", "beta")) else tensor for name, tensor in state.items()
    }
    estimator = ContentDiverseIQA(distance=request.param, backbone_weights=None)
    kits.load(estimator, state)
    return estimator


def test_parity(official):
    kit, name = KITS[official.distance], NAMES[official.distance]
    kits.assert_parity(name, "output", official.predict(PAIRS), kit["output"], rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        feature_maps = official.network_.encode_reference(official._views(PAIRS[0])[:, 1])
        # LPIPS keeps its maps normalised to length one
        feature_maps = (
            feature_maps[1:] if official.distance == "dists" else official.network_.net(official._views(PAIRS[0])[:, 1])
        )
    assert len(kit["stages"]) == len(feature_maps) == 5
    for (stage, wanted), feature_map in zip(kit["stages"].items(), feature_maps, strict=True):
        assert list(feature_map.shape) == wanted["shape"]
        got = [feature_map.mean(), feature_map.std(unbiased=False)]
        kits.assert_parity(name, stage, got, [wanted["mean"], wanted["std"]], rtol=1e-4)


def test_identity_symmetry_and_map(official):
    query, reference = (image[:64, :80] for image in PAIRS[0])
    same, forth, back = official.predict([(reference, reference), (query, reference), (reference, query)])
    assert abs(same) <= 1e-6
    # float32 sums in another order
    assert forth == pytest.approx(back, rel=1e-5)
    distance_map = official.quality_map((query, reference))
    assert distance_map.shape == query.shape[:2]
    # bilinear resizing of the coarse maps keeps their mean up to the borders
    assert distance_map.mean() == pytest.approx(forth, rel=0.02)
    np.testing.assert_allclose(official.quality_map((reference, reference)), 0, atol=1e-6)


def test_map_shows_the_place(official):
    reference = PAIRS[1][1][:128, :160]
    query = reference.copy()
    query[32:64, 64:96] = 255 - query[32:64, 64:96]
    distance_map = official.quality_map((query, reference))
    around = np.zeros_like(distance_map, dtype=bool)
    around[16:80, 48:112] = True
    assert distance_map[around].mean() > 5 * abs(distance_map[~around].mean())


def gaps():
    scores, labels = torch.tensor(LOSSES["scores"]), torch.tensor(LOSSES["labels"])
    first, second = torch.triu_indices(6, 6, 1)
    return scores, labels, scores[first] - scores[second], labels[first] - labels[second]


# `invert` of the official classes turns the direction of a distance on in BCE and Elo, and off in ranking: where the
# direction is right, the kit's second number (the fraction of pairs in order) is 0.8.
@pytest.mark.parametrize(
    ("kind", "entry", "lower_is_better"),
    [
        (kind, f"pairwise {form} invert={invert}", invert != (kind == "ranking"))
        for invert in (True, False)
        for kind, form in (
            ("bce", "BCE temperature=0.01"),
            ("bce", "BCE temperature=0.05"),
            ("ranking", "ranking margin=0.2"),
            ("elo", "sigmoid (Elo, M=400) temperature=0.05"),
        )
    ],
)
def test_parity_pair_losses(kind, entry, lower_is_better):
    _, _, gap, mos_gap = gaps()
    wanted = -mos_gap if lower_is_better else mos_gap
    temperature = 0.01 if "temperature=0.01" in entry else 0.05
    got = content_diverse.PAIR_LOSSES[kind](gap, wanted, temperature, 0.2)
    in_order = ((gap > 0) == (wanted > 0)).float().mean()
    kits.assert_parity("content_diverse", entry, [got, in_order], LOSSES[entry], rtol=1e-5)


def test_parity_correlations():
    scores, labels, gap, mos_gap = gaps()
    got = {"pearson": content_diverse.pearson(scores, labels)}
    for temperature in (0.01, 0.1):
        got[f"spearman temperature={temperature}"] = content_diverse.soft_spearman(scores, labels, temperature)
        got[f"kendall temperature={temperature}"] = content_diverse.soft_kendall(gap, mos_gap, temperature)
    for name, value in got.items():
        kits.assert_parity("content_diverse", name, value, LOSSES[name], rtol=1e-5)
    (fitted,) = [name for name in LOSSES if "logistic" in name]
    value = content_diverse.pearson(content_diverse.on_logistic(scores, labels), labels)
    kits.assert_parity("content_diverse", "pearson, logistic", value, LOSSES[fitted], rtol=1e-2)  # the kit's tolerance


def test_soft_correlations_become_exact_ones():
    scores, labels, gap, mos_gap = gaps()
    exact = LOSSES["exact scipy (pearson, spearman, kendall) for comparison"]
    # for distances far above the temperature sigmoids are 0 or 1
    assert content_diverse.soft_spearman(scores, labels, 1e-5).item() == pytest.approx(exact[1], abs=1e-6)
    assert content_diverse.soft_kendall(gap, mos_gap, 1e-5).item() == pytest.approx(exact[2], abs=1e-6)


def loss_of(distances, mos, **parameters):
    return ContentDiverseIQA(**parameters)._loss()(torch.tensor(distances), torch.tensor(mos))


def test_total_is_the_weighted_sum():
    scores, labels = LOSSES["scores"], LOSSES["labels"]
    # the kit's numbers: weight times BCE, then 1 + correlation for a distance, squared for "mse"
    bce = LOSSES["pairwise BCE temperature=0.01 invert=True"][0]
    r, rho, tau = (LOSSES[name] for name in ("pearson", "spearman temperature=0.01", "kendall temperature=0.01"))
    weights = {"pair_weight": 0.5, "pearson_weight": 2.0, "spearman_weight": 3.0, "kendall_weight": 4.0}
    total = loss_of(scores, labels, logistic=False, **weights)
    assert total.item() == pytest.approx(0.5 * bce + 2 * (1 + r) + 3 * (1 + rho) + 4 * (1 + tau), rel=1e-5)
    total = loss_of(scores, labels, logistic=False, correlation_error="mse", **weights)
    assert total.item() == pytest.approx(
        0.5 * bce + 2 * (1 + r) ** 2 + 3 * (1 + rho) ** 2 + 4 * (1 + tau) ** 2, rel=1e-5
    )
    on_curve = loss_of(scores, labels, pair_weight=0.0, spearman_weight=0.0, kendall_weight=0.0)
    # the kit's correlation behind the curve, 0.7826 (rtol 1e-2): 0.2174 from its best
    assert on_curve.item() == pytest.approx(1 - 0.7826433, abs=0.01)


@pytest.mark.parametrize("pair_loss", ["bce", "ranking", "mse", "elo"])
def test_better_order_costs_less(pair_loss):
    mos = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0] if pair_loss != "elo" else [1500.0, 1400.0, 1300.0, 1200.0, 1100.0, 1000.0]
    costs = [
        loss_of(distances, mos, pair_loss=pair_loss).item()
        for distances in (
            [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
            [0.1, 0.0, 0.2, 0.3, 0.4, 0.5],
            [0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
        )
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("pair_loss", ["bce", "ranking", "mse", "elo"])
@pytest.mark.parametrize("distances", [[0.3], [0.3, 0.3], [0.2] * 7, [0.0, 300.0], [300.0, 0.0]])
def test_degenerate_batches_have_finite_gradients(pair_loss, distances):
    scores = torch.tensor(distances, requires_grad=True)
    loss = ContentDiverseIQA(pair_loss=pair_loss)._loss()(scores, torch.linspace(1, 5, len(distances)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_l2_pool_of_constants():
    # sqrt of a blur whose weights sum to 1; at the border zeros come in: 3/4 of the weight in a row, 9/16 in a corner
    pooled = L2Pool()(torch.full((1, 3, 6, 8), -2.0))
    assert pooled.shape == (1, 3, 3, 4)
    torch.testing.assert_close(pooled[0, 0, 1:, 1:], torch.full((2, 3), 2.0))
    assert pooled[0, 0, 0, 0].item() == pytest.approx(2 * 0.75)


@pytest.mark.parametrize("distance", ["dists", "lpips"])
def test_a_pass_copies_nothing_to_the_device(distance, monkeypatch):
    network = ContentDiverseIQA(distance=distance, net="squeeze", backbone_weights=None).initialize().network_
    pairs_of_noise = torch.rand(2, 2, 3, 32, 32)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    with torch.inference_mode():
        assert network(pairs_of_noise).shape == (2,)


def test_unit_of_labels_does_not_matter():
    for pair_loss, ends in (("bce", (1, 5)), ("ranking", (1, 5)), ("mse", (0, 1)), ("elo", (20, 70))):
        estimator = ContentDiverseIQA(pair_loss=pair_loss)
        targets = np.array([20.0, 70.0, 45.0])
        estimator._start(targets, None)
        np.testing.assert_allclose(estimator._encode_targets(targets), [*ends, np.mean(ends)])


def test_trainable_and_non_negative():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (6, 2, 40, 40, 3), dtype=np.uint8), np.arange(6.0)
    tiny = {"net": "squeeze", "backbone_weights": None, "crop_size": 32, "max_epochs": 2, "random_state": 0}
    before = ContentDiverseIQA(distance="lpips-l2pool", **tiny).initialize().network_
    tuned = ContentDiverseIQA(distance="lpips-l2pool", trainable="heads", non_negative=True, lr=0.05, **tiny)
    after = tuned.fit(X, y).network_
    assert torch.equal(before.net.slice1[0].weight, after.net.slice1[0].weight)
    assert (before.lin0.model[1].weight < 0).any()
    assert (after.lin0.model[1].weight >= 0).all()


@pytest.mark.parametrize("name", ["distance", "net", "trainable", "pair_loss", "correlation_error"])
def test_unknown_options(name):
    with pytest.raises(ValueError, match=f"'{name}' parameter of ContentDiverseIQA must be a str among"):
        ContentDiverseIQA(backbone_weights=None, **{name: "none"}).initialize()


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("temperature", 0.0, r"\(0.0, inf\)"),
        ("kendall_weight", -1.0, r"\[0.0, inf\)"),
        ("margin", -0.1, r"\[0.0, inf\)"),
    ],
)
def test_bad_numbers(name, value, range_):
    message = rf"'{name}' parameter of ContentDiverseIQA must be a float in the range {range_}\. Got {value} instead"
    with pytest.raises(ValueError, match=message):
        ContentDiverseIQA(backbone_weights=None, **{name: value}).initialize()


def one_channel_counts(estimator, folder):
    """Give DISTS weights by which only the image's mean colours count, which blur and noise leave alone."""
    network = estimator.initialize().network_
    with torch.no_grad():
        network.alpha.zero_()
        network.beta.zero_()
        network.alpha[:, :3] = 10.0  # enough for their sum to stay positive in the first steps
    estimator.save_weights(folder / "colours.safetensors")
    return estimator.set_params(weights=folder / "colours.safetensors")


@pytest.mark.parametrize(
    ("distance", "start", "highest"),
    # Measured on held-out photographs with random_state=0 to 4: from -0.87 to 0.86 or 0.87 ("lpips"), and from 0.11 to
    # 0.86 or 0.87 ("dists"); 0.866 is the most that is possible.
    [("lpips", pairs.turned_round, -0.7), ("dists", one_channel_counts, 0.3)],
    ids=["lpips", "dists"],
)
def test_learns(tmp_path, distance, start, highest):
    known = pairs.mild_and_strong()
    recipe = {"distance": distance, "net": "squeeze", "trainable": "heads", "backbone_weights": None, "lr": 1e-2}
    recipe |= {"crop_size": pairs.SIDE, "batch_size": 16, "max_epochs": 4, "random_state": 0}
    estimator = start(ContentDiverseIQA(**recipe), tmp_path)
    before = estimator.initialize().score(known.X_new, known.y_new)
    estimator.fit(known.X, known.y)
    assert estimator.score(known.X_new, known.y_new) > 0.8 > highest > before
    predicted = estimator.predict(known.X_new)
    assert -5.5 < predicted.mean() < -0.5  # the unit of y, -5 and -1, not a distance
    assert not estimator.higher_is_better
    assert estimator.label_scale_[0] < 0


# Recipe ---------------------------------------------------------------------------------------------------------------
# The optimiser, its rates and what trains are in test_recipes.py.


SMALL = {"net": "squeeze", "backbone_weights": None, "crop_size": 32, "batch_size": 4, "random_state": 0}


def some_pairs(n, height=40, width=48):
    return np.random.default_rng(0).integers(0, 256, (n, 2, height, width, 3), dtype=np.uint8)


def recorded_fit(X, y, **parameters):
    """The phase of a fit."""
    with recipes.recorded() as phases:
        estimator = ContentDiverseIQA(**{**SMALL, **parameters}).fit(X, y)
    (phase,) = phases
    return estimator, phase


@pytest.mark.parametrize("distance", KITS)
def test_views_are_random_crops_in_all_eight_positions(distance):
    estimator = ContentDiverseIQA(**SMALL, distance=distance)

    def view(image):
        query, reference = estimator._train_view((image // 2, image))
        low = 0.0 if distance == "dists" else -1.0
        torch.testing.assert_close(query, (reference + low) / 2, rtol=0, atol=0.01)  # one place for both
        return reference

    maps = recipes.coordinate_maps(view, 40, 48, n=400)
    turns, counts = np.unique(maps[..., :2].round().astype(int), axis=0, return_counts=True)
    assert len(turns) == 8  # four directions, each also mirrored
    # 5 deviations of a binomial count of 400 draws with probability 1/8 are 33.
    np.testing.assert_allclose(counts, 50, atol=33)
    np.testing.assert_allclose(np.abs(maps[..., :2]).sum(-1), 1, atol=0.02)  # nothing is scaled
    middle = maps @ [15.5, 15.5, 1.0]
    x, y = (middle - 15.5).round().T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 16, 0, 8)
    assert len(set(zip(x, y, strict=True))) > 100
    white = np.full((40, 48, 3), 255, np.uint8)
    values = estimator._train_view((white, 0 * white)).unique().tolist()
    assert values == ([0, 1] if distance == "dists" else [-1, 1])


def test_smaller_images_are_enlarged_to_a_crop():
    estimator = ContentDiverseIQA(**SMALL)
    for height, width in ((24, 30), (40, 20), (32, 32)):
        assert estimator._train_view(tuple(some_pairs(1, height, width)[0])).shape == (2, 3, 32, 32)


def test_batches_are_random_over_all_contents():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    X = [(np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8), image) for image in contents] * 4
    _, phase = recorded_fit(X, np.arange(16.0), max_epochs=3)
    epochs = np.array(phase.rows).reshape(3, 4, 4)
    assert [sorted(epoch.ravel()) for epoch in epochs] == [list(range(16))] * 3
    assert len({tuple(epoch.ravel()) for epoch in epochs}) == 3  # each in an order of its own
    n_contents = [len(set(batch % 4)) for batch in epochs.reshape(-1, 4)]
    assert max(n_contents) > 2  # row i shows content i modulo 4; a batch is neither of one content nor in their order
    assert not all(n == 4 for n in n_contents)
    assert phase.shapes == [(4, 2, 3, 32, 32)] * 12


@pytest.mark.parametrize(("pair_loss", "lowest", "highest"), [("bce", 1, 5), ("ranking", 1, 5), ("mse", 0, 1)])
def test_labels_come_to_the_loss_in_the_range_of_the_pair_loss(pair_loss, lowest, highest):
    _, phase = recorded_fit(some_pairs(4), [20.0, 30.0, 40.0, 60.0], pair_loss=pair_loss, max_epochs=1)
    expected = lowest + (highest - lowest) * np.array([0, 0.25, 0.5, 1])
    np.testing.assert_allclose(sorted(phase.targets[0].tolist()), expected, atol=1e-6)


def test_the_parameters_reach_the_loss():
    options = {"correlation_error": "mse", "logistic": False, "temperature": 0.5, "margin": 0.7}
    weights = {"pair_weight": 1.5, "pearson_weight": 2.5, "spearman_weight": 3.5, "kendall_weight": 4.5}
    distances, mos = torch.tensor([0.1, 0.5, 0.2, 0.9]), torch.tensor([5.0, 3.0, 1.0, 2.0])
    first, second = torch.triu_indices(4, 4, 1)
    gap, mos_gap = distances[first] - distances[second], mos[first] - mos[second]
    hinge = (0.7 + gap * mos_gap.sign()).clamp(min=0)  # the larger distance belongs to the lower label
    rho = content_diverse.soft_spearman(distances, mos, 0.5)
    tau = (torch.tanh(gap / 0.5) * torch.tanh(mos_gap / 0.5)).mean()
    r = np.corrcoef(distances, mos)[0, 1]
    expected = 1.5 * hinge[hinge > 0].mean() + 2.5 * (1 + r) ** 2 + 3.5 * (1 + rho) ** 2 + 4.5 * (1 + tau) ** 2
    loss = ContentDiverseIQA(pair_loss="ranking", **options, **weights)._loss()
    assert loss(distances, mos).item() == pytest.approx(expected.item(), rel=1e-5)


def test_pearson_is_behind_a_curve_from_five_rows_on():
    for n, fitted in ((4, False), (5, True)):
        distances, mos = torch.tensor([0.0, 0.2, 0.3, 3.0, 0.1][:n]), torch.tensor([5.0, 3.0, 2.0, 1.5, 4.5][:n])
        alone = {"pair_weight": 0.0, "spearman_weight": 0.0, "kendall_weight": 0.0}
        loss = ContentDiverseIQA(**alone)._loss()(distances, mos).item()
        plain = 1 + np.corrcoef(distances, mos)[0, 1]
        on_curve = 1 - content_diverse.pearson(content_diverse.on_logistic(distances, mos), mos).item()
        assert loss == pytest.approx(on_curve if fitted else plain, abs=1e-6)
        assert abs(on_curve - plain) > 1e-3


def test_a_batch_is_read_from_the_device_once_and_only_where_a_curve_is_fitted(monkeypatch):
    options = {"correlation_error": "abs", "temperature": 0.1, "margin": 0.2}
    make = content_diverse.ContentDiverseLoss
    copy, copies = torch.Tensor.cpu, []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or copy(tensor))
    distances, mos = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    make("bce", (1, 1, 1, 1), logistic=True, **options)(distances, mos)
    assert copies == [(2, 8)]
    for weights, logistic in (((1, 1, 1, 1), False), ((1, 0, 1, 1), True)):
        loss = make("bce", weights, logistic=logistic, **options)
        on_meta = torch.rand(2, 8, device="meta")  # whose numbers cannot be read
        loss(*on_meta)
        once, again = (make("bce", weights, logistic=one, **options) for one in (logistic, False))
        torch.testing.assert_close(once(distances, mos), again(distances, mos), rtol=0, atol=0)
    assert len(copies) == 1


@pytest.mark.parametrize(("distance", "n_heads"), [("lpips", 7), ("lpips-l2pool", 7), ("dists", 0)])
def test_dropout_of_the_heads(distance, n_heads):
    estimator, phase = recorded_fit(some_pairs(4), np.arange(4.0), distance=distance, max_epochs=1)
    assert [one.p for one in estimator.network_.modules() if isinstance(one, torch.nn.Dropout)] == [0.5] * n_heads
    assert not phase.evaluated  # on
    assert phase.trained == [phase.names]  # the backbone too


def test_the_rate_falls_to_a_tenth_and_stays_there():
    estimator, phase = recorded_fit(some_pairs(8), np.arange(8.0), max_epochs=2)
    np.testing.assert_allclose(phase.rates, [[1e-4], [1e-4], [0.55e-4], [0.55e-4]], rtol=1e-9)
    for _ in range(2):
        with recipes.recorded() as phases:
            estimator.partial_fit(some_pairs(8), np.arange(8.0))
        np.testing.assert_allclose(phases[0].rates, 1e-5, rtol=1e-9)


def test_weight_decay_is_that_of_adam():
    _, phase = recorded_fit(some_pairs(4), np.arange(4.0), weight_decay=0.25, max_epochs=1)
    assert phase.settings == [{"weight_decay": 0.25}]
    assert phase.optimizer is torch.optim.Adam


def test_dists_starts_from_weights_near_a_tenth():
    network = ContentDiverseIQA(**SMALL).initialize().network_
    for weights in (network.alpha, network.beta):
        assert weights.shape == (1, 3 + sum(SLICED_BACKBONES["squeeze"].n_channels), 1, 1)
        assert weights.mean().item() == pytest.approx(0.1, abs=1e-3)  # 5 deviations: 0.01 / 50 each
        assert weights.std().item() == pytest.approx(0.01, rel=0.08)

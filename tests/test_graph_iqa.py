# SPDX-License-Identifier: BSD-3-Clause
"""GraphIQA: parity with the official code, graphs, the two stages, the noise, and learning."""

import kits
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from held_out import levels
from recipes import coordinate_maps, recorded
from sklearn.exceptions import NotFittedError

from sklearn_iqa import GraphIQA
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from sklearn_iqa.distortions import DISTORTIONS
from sklearn_iqa.pair_input.graph_iqa import DistortionLoss, DistortionModule, SampledSquaredError, normalized_adjacency

KIT = kits.read("graph_iqa")
RTOL = KIT["tolerance"]["rel"]  # 1e-4
TINY = {
    **{"backbone": "test_resnet", "backbone_weights": None, "crop_size": 32, "n_crops": 2, "batch_size": 4},
    **{"pretrain_steps": 0, "max_epochs": 1, "lr": 1e-3, "random_state": 0, "device": "cpu"},
}


def kit_crops():
    first, second = kits.images(0)
    return [first[:224, :224], first[100:324, 200:424], second[:224, :224] // 4, second[200:424, 400:624]]


def assert_parity(what, got, want):
    kits.assert_parity("graph_iqa", what, got, want, rtol=RTOL)


@pytest.fixture(scope="module")
def official():
    estimator = GraphIQA(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def batch():
    return torch.stack([normalize(to_tensor(crop), IMAGENET_MEAN, IMAGENET_STD) for crop in kit_crops()])


@pytest.fixture(scope="module")
def graphs(official, batch):
    """Features, nodes and edges of the kit's crops, each alone, (4, 1, ...), and as one graph, (1, 4, ...)."""
    network = official.network_
    with torch.inference_mode():
        features = network.extractor(batch)
        return [(graph, network.gcn_v(graph), network.edges(graph)) for graph in (features[:, None], features[None])]


def read(head, nodes, edges):
    """Mean and scale that a head reads from nodes and the edges of each, (2, n)."""
    with torch.inference_mode():
        return head(torch.cat([nodes, edges], -1)).flatten(0, 1).T


def own(edges):
    return edges.diagonal(dim1=1, dim2=2).mT


# Official numbers -----------------------------------------------------------------------------------------------------


def test_parity_crops_alone(official, batch, graphs):
    network, (_, nodes, edges) = official.network_, graphs[0]
    with torch.inference_mode():
        means, scales = network(batch).T
    assert_parity("output", means, KIT["output"])
    assert_parity("scale", scales, KIT["scale"])
    assert_parity("level", read(network.hyperpred, nodes, own(edges))[0], KIT["level_mean"])
    means = read(network.hyperpredmos, nodes, edges.mean(2))[0]
    assert_parity("output, pretraining", means, KIT["pretrain_mode"]["mean_each_alone"])


def test_parity_predict(official):
    # An image of the size of a crop: the 25 crops are that one.
    official.set_params(n_crops=1)
    assert_parity("predict", official.predict(kit_crops()), KIT["output"])
    official.set_params(n_crops=25)


def test_parity_one_graph(official, graphs):
    network, (_, nodes, edges), told = official.network_, graphs[1], KIT["batch_of_four"]
    means, scales = read(network.hyperpredmos, nodes, own(edges))
    assert_parity("graph of four, mean", means, told["mean"])
    assert_parity("graph of four, scale", scales, told["scale"])
    assert_parity("graph of four, level", read(network.hyperpred, nodes, own(edges))[0], told["level_mean"])
    with torch.inference_mode():
        codes = network.domain_learner(normalized_adjacency(edges.mean(-1)), nodes)[0]
        logits = network.classifier(codes)[0]
    assert_parity("graph of four, code", codes.mean(0)[:8], told["domain_code first 8 of 256"])
    assert_parity("graph of four, type", logits, told["type_logits row 0 (25)"])


def test_parity_pretraining(official, batch, graphs):
    network, (_, nodes, edges), told = official.network_, graphs[1], KIT["pretrain_mode"]
    means = read(network.hyperpredmos, nodes, edges.mean(2))[0]
    assert_parity("pretraining, mean", means, told["batch_of_four_mean"])
    steps = torch.cat([batch, batch.flip(-1) * 0.5, batch[[1, 0, 3, 2]] * 0.9])  # as the kit says in `losses`
    with torch.inference_mode():
        codes, levels = DistortionModule(network)(steps)
    network.eval()
    assert_parity("pretraining, level", levels[:, 0], told["batch_of_four_level_mean"])
    assert_parity("pretraining, code", codes[0][0, :8], told["domain_code first 8"])
    target = torch.zeros(12, 3)
    target[:4, 0] = torch.tensor([1.0, 3.0, 5.0, 2.0])
    levels = levels * torch.tensor([1.0, 0.0])  # the kit is without noise
    total = DistortionLoss()((codes, levels), target)
    parts = KIT["losses"]
    assert_parity("loss, total", total, parts["total = triplet + 0.25*mse"])
    error = F.mse_loss(levels[:, 0], target[:4, 0])
    assert_parity("loss, level", error, parts["level_mse"])
    assert_parity("loss, triplet", total - 0.25 * error, parts["triplet (margin 0.1, on the three (1,256) codes)"])


def test_parity_stages(official, batch, graphs):
    with torch.inference_mode():
        stages = [official.network_.extractor.forward_features(batch[:1]), graphs[0][1][0], graphs[0][2][0, 0]]
    for values, told in zip(stages, KIT["stages"], strict=True):
        values = values.double().numpy()
        assert list(values.shape) == told["shape"]
        for what, got in (("mean", values.mean()), ("std", values.std()), ("first5", values.ravel()[:5])):
            # A convolution's zeros are exact; what is near zero among sums of 2048 numbers has their rounding.
            kits.assert_parity("graph_iqa", f"{told['name']} {what}", got, told[what], rtol=RTOL, atol=1e-6)


def test_what_nothing_uses_is_left_out(official):
    official_names = {name for name, _, _ in KIT["manifest"]}
    unused = [name for name in official_names if name.startswith(("predictor.", "domainlevelgraph.gcn_v.gcn."))]
    assert len(official.network_.state_dict()) == len(official_names) - len(unused)
    assert len(unused) == 7  # two layers with bias; three without


# Graphs ---------------------------------------------------------------------------------------------------------------


def test_negative_degrees_stay_finite():
    similarity = torch.tensor([[[0.5, -3.0], [-3.0, 0.5]]])  # row sums with the identity: -1.5
    assert torch.isfinite(normalized_adjacency(similarity)).all()
    # Identity alone: each node keeps to itself, whatever its similarity to itself.
    torch.testing.assert_close(normalized_adjacency(torch.eye(3)[None] * 7), torch.eye(3)[None])


def test_alone_in_inference_together_in_training():
    network = GraphIQA(**TINY).initialize().network_
    crops = torch.rand(3, 3, 32, 32)
    alone = torch.cat([network(crops[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(crops), alone, rtol=1e-5, atol=1e-6)
    network.extractor.eval()
    network.training = True  # the graph alone: batch statistics would differ as well
    assert (network(crops) - alone).abs().max() > 1e-6
    torch.testing.assert_close(network(crops[:1]), alone[:1], rtol=1e-5, atol=1e-6)


def test_the_backbone_is_frozen():
    X, y = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8), np.arange(6.0)
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 2, "pretrain_lr": 1e-3})
    before = {name: tensor.clone() for name, tensor in estimator.initialize().network_.state_dict().items()}
    after = estimator.fit(X, y).network_.state_dict()
    for name, tensor in after.items():
        if name.startswith("extractor.") and "running_" not in name and "num_batches" not in name:
            assert torch.equal(tensor, before[name]), name
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"extractor", "gcn_v", "gcn_e", "hyperpred", "hyperpredmos", "domain_learner"}
    assert not torch.equal(after["extractor.bn1.running_mean"], before["extractor.bn1.running_mean"])


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "convnext_atto"])
def test_any_backbone(backbone):
    crop_size = 160 if backbone == "test_vit" else 32
    estimator = GraphIQA(**{**TINY, "backbone": backbone, "crop_size": crop_size}).initialize()
    assert np.isfinite(estimator.predict([np.zeros((170, 180, 3), np.uint8)])).all()


# Stages ---------------------------------------------------------------------------------------------------------------


def first_stage(estimator, X, y, sample_weight=None, **labels):
    estimator.initialize()
    rows = estimator._rows(X)
    targets = estimator._check_targets(rows, y, **labels)
    estimator._start(targets, sample_weight)
    torch.manual_seed(0)
    return list(estimator._stages_before(rows, targets, sample_weight))


def episodes(stage):
    """Of the images of all episodes of a stage the first target, the row, and kind and level of the distortion."""
    lengths, draw = (stage.net_params[f"iterator_train__{name}"] for name in ("lengths", "draw"))
    places = np.stack([one for n in lengths for one in draw(n)])
    first, kind, level = np.moveaxis(stage.targets[places][..., :3].astype(float), -1, 0)
    return np.stack([first, stage.rows.members[places], kind, level], axis=-1)


def test_steps_are_of_one_type_and_of_another():
    X = [np.full((40, 40, 3), 10 * i, np.uint8) for i in range(12)]
    labels = {"distortion": np.array(["jpeg", "blur", "noise"] * 4), "level": np.arange(12) % 5 + 1}
    (stage,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 300}), X, np.arange(12.0), **labels)
    drawn = episodes(stage)
    level, row, _, applied = np.moveaxis(drawn, -1, 0)
    assert level.shape == (300, 12)
    assert (applied == 0).all()
    row = row.astype(int)
    np.testing.assert_array_equal(level, labels["level"][row])
    types = labels["distortion"][row]
    assert (types[:, :8] == types[:, :1]).all()
    assert (types[:, 8:] == types[:, 8:9]).all()
    assert (types[:, 0] != types[:, 8]).all()
    _, counts = np.unique(types[:, [0, 8]], axis=0, return_counts=True)
    np.testing.assert_allclose(counts, np.full(6, 50), atol=26)  # ordered pairs of three types, four standard errors
    crops = torch.stack([stage.view(X[int(one[1])], one[[0, 2, 3]]) for one in drawn[0]])
    assert crops.shape == (12, 3, 32, 32)
    # Given images are cut, not distorted; timm's test_resnet takes (x - 0.5) / 0.5.
    np.testing.assert_allclose(crops[:, 0, 0, 0], row[0] * 10 / 255 * 2 - 1, atol=1e-6)


def test_images_of_a_type_are_drawn_by_weight():
    X, labels = np.zeros((4, 40, 40, 3), np.uint8), {"distortion": ["jpeg", "blur"] * 2, "level": [1, 2, 3, 4]}
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 300})
    (stage,) = first_stage(estimator, X, np.arange(4.0), sample_weight=np.array([1.0, 5.0, 3.0, 5.0]), **labels)
    counts = np.bincount(episodes(stage)[:, :, 1].astype(int).ravel())
    assert counts[0] / (counts[0] + counts[2]) == pytest.approx(1 / 4, abs=0.03)
    assert counts[1] / (counts[1] + counts[3]) == pytest.approx(1 / 2, abs=0.03)


def test_without_types_images_are_distorted():
    X = [image[:40, :48] for image in kits.images(0)]
    (stage,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 200}), X, [1.0, 2.0])
    level, row, kind, applied = np.moveaxis(episodes(stage), -1, 0)
    np.testing.assert_array_equal(applied, level)
    assert set(kind.ravel()) == set(range(len(DISTORTIONS)))
    assert set(level.ravel()) == {1, 2, 3, 4, 5}
    assert set(row.ravel()) == {0, 1}
    assert (kind[:, 0] != kind[:, 8]).all()
    bright = DISTORTIONS.index("brighten")
    weak, strong = (stage.view(X[0], np.array([level, bright, level], dtype=float)) for level in (1, 5))
    assert strong.mean() > weak.mean() + 0.1


def random_images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 40, 48, 3), dtype=np.uint8)


TYPES = {"distortion": ["jpeg", "blur", "jpeg", "blur"], "level": [1, 2, 4, 5]}  # of four images
FIRST, SECOND = "GraphIQA, types and levels", "GraphIQA"


def test_first_stage_alone_is_learned_without_quality(tmp_path):
    X, y = random_images(4), np.arange(4.0)
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 3})
    with recorded() as phases:
        estimator.fit(X, None, **TYPES)
    assert [(phase.name, len(phase.rates)) for phase in phases] == [(FIRST, 3)]
    assert (estimator.n_pretrain_steps_, estimator.n_iter_, estimator.loss_curve_) == (3, 0, [])
    with pytest.raises(NotFittedError, match="was fitted without y and predicts no quality; call fit with one"):
        estimator.predict(X)
    estimator.save_weights(tmp_path / "distortions.safetensors")
    state = {name: tensor.clone() for name, tensor in estimator.network_.state_dict().items()}
    # One first stage serves several databases.
    for labels in (y, -y):
        later = GraphIQA(**TINY, weights=tmp_path / "distortions.safetensors")
        started = later.initialize().network_.state_dict()
        assert all(torch.equal(started[name], tensor) for name, tensor in state.items())
        with recorded() as phases:
            later.fit(X, labels)
        assert [phase.name for phase in phases] == [SECOND]
        assert np.isfinite(later.predict(X)).all()


@pytest.mark.parametrize("go_on", [GraphIQA.partial_fit, GraphIQA.fit], ids=["partial_fit", "warm_start"])
def test_quality_goes_on_from_the_first_stage(go_on):
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 3}, warm_start=True).fit(random_images(4), None, **TYPES)
    codes = estimator.network_.domain_learner.W1.weight.clone()
    with recorded() as phases:
        go_on(estimator, random_images(6, seed=1), np.arange(6.0))
    assert [phase.name for phase in phases] == [SECOND]
    assert torch.equal(estimator.network_.domain_learner.W1.weight, codes)  # not built anew, not trained by the second
    np.testing.assert_allclose(estimator.label_scale_, (np.arange(6.0).std(), 2.5))
    assert (estimator.n_pretrain_steps_, estimator.n_iter_) == (3, 1)
    assert np.isfinite(estimator.predict(random_images(2))).all()


def test_first_stage_goes_on_with_other_draws_on_another_set():
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 3})
    with recorded() as phases:
        for seed in range(3):
            estimator.partial_fit(random_images(4, seed), None, **TYPES)
    assert [phase.name for phase in phases] == [FIRST] * 3
    assert estimator.n_pretrain_steps_ == 9
    steps = [{tuple(step) for step in phase.rows} for phase in phases]
    assert len(set.union(*steps)) == 9
    with recorded() as phases:
        estimator.fit(random_images(4), None)  # anew
    assert (estimator.n_pretrain_steps_, [phase.name for phase in phases]) == (3, [FIRST])


def test_first_stage_goes_on_from_weights(tmp_path):
    saved = GraphIQA(**TINY).initialize()
    saved.save_weights(tmp_path / "graph.safetensors")
    start = saved.network_.state_dict()
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 1, "random_state": 1, "weights": tmp_path / "graph.safetensors"})
    with recorded() as phases:
        estimator.fit(random_images(4), None, **TYPES)
    assert [phase.name for phase in phases] == [FIRST]
    for name, tensor in estimator.network_.state_dict().items():  # one step of Adam at 1e-5
        if not name.startswith("extractor."):
            torch.testing.assert_close(tensor, start[name], rtol=0, atol=1.1e-5)


def test_types_that_nothing_would_learn_from_are_refused(tmp_path):
    X, y = random_images(4), np.arange(4.0)
    pretrained = GraphIQA(**{**TINY, "pretrain_steps": 1}).fit(X, None, **TYPES)
    pretrained.save_weights(tmp_path / "graph.safetensors")
    with_weights = GraphIQA(**{**TINY, "pretrain_steps": 1}, weights=tmp_path / "graph.safetensors")
    for estimator, reason in (
        (with_weights, "was trained already"),
        (pretrained, "was trained already"),
        (GraphIQA(**TINY), "pretrain_steps=0 leaves out"),
    ):
        with pytest.raises(ValueError, match=f"distortion and level are for the first stage, which {reason}; leave"):
            estimator.partial_fit(X, y, **TYPES)
    # Later calls may repeat the arguments of the first one, which used them.
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 1}).partial_fit(X, y, **TYPES).partial_fit(X, y, **TYPES)
    assert (estimator.n_pretrain_steps_, estimator.n_iter_) == (1, 2)


def test_quality_is_needed_where_the_first_stage_is_not_trained():
    X = random_images(4)
    with pytest.raises(ValueError, match="y is None, which trains the first stage alone, and pretrain_steps=0 leaves"):
        GraphIQA(**TINY).fit(X, None)
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 1}).fit(X, np.arange(4.0))
    with pytest.raises(
        ValueError, match="y is None, which trains the first stage, but this estimator is in the second"
    ):
        estimator.partial_fit(X, None)


def test_weights_replace_the_first_stage(tmp_path):
    X, y = [image[:40, :48] for image in kits.images(0)], [1.0, 2.0]
    GraphIQA(**TINY).fit(X, y).save_weights(tmp_path / "graph.safetensors")
    assert first_stage(GraphIQA(**TINY), X, y) == []
    with_weights = {**TINY, "pretrain_steps": 3, "weights": tmp_path / "graph.safetensors"}
    assert first_stage(GraphIQA(**with_weights), X, y) == []


def test_positive_and_negative_graphs_do_not_learn():
    network = GraphIQA(**TINY).initialize().network_
    codes, _ = DistortionModule(network)(torch.rand(9, 3, 32, 32))
    assert [code.requires_grad for code in codes] == [True, False, False]


# Recipe ---------------------------------------------------------------------------------------------------------------


def test_a_step_takes_batch_size_anchors_positives_and_negatives_at_random_levels():
    with recorded() as phases:
        GraphIQA(**{**TINY, "pretrain_steps": 2}).fit(random_images(2), None)
    assert phases[0].shapes == [(3 * 4, 3, 32, 32)] * 2
    (stage,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 100}), random_images(2), None)
    level, row, kind, _ = episodes(stage).astype(int).transpose(2, 0, 1)
    assert (kind[:, :8] == kind[:, :1]).all()
    assert (kind[:, 8:] == kind[:, 8:9]).all()
    # 1200 draws of levels, and of two rows: standard errors of 1.2 % and 1.4 %.
    np.testing.assert_allclose(np.bincount(level.ravel(), minlength=6)[1:] / 1200, 0.2, atol=0.05)
    assert np.mean(row) == pytest.approx(0.5, abs=0.06)
    # Each of the four is drawn for itself: of 300 fours a quarter has equal halves, with a standard error of 2.5 %.
    halves = row.reshape(100, 3, 2, 2)
    assert np.mean((halves[:, :, 0] == halves[:, :, 1]).all(-1)) == pytest.approx(0.25, abs=0.1)
    # Anchors and negatives are of one of 25 types each: with 100 draws one of them comes 13 times in one of 10000 runs.
    for types in (kind[:, 0], kind[:, 8]):
        assert np.bincount(types, minlength=25).max() <= 13


def test_sampled_levels_cost_a_quarter_of_their_square_beside_the_triplet():
    same = torch.zeros(1, 256)
    levels = torch.tensor([[1.0, -3.0]]).repeat(100_000, 1)
    target = torch.zeros(300_000, 3)
    target[:100_000, 0], target[100_000:, 0] = 2.0, 50.0  # of positives and negatives no level counts
    # Equal codes cost the margin, 0.1; levels (1 + 9) / 4, see below: a standard error of 0.011.
    assert DistortionLoss()(((same, same, same), levels), target).item() == pytest.approx(0.1 + 2.5, abs=0.05)
    far = same.clone()
    far[0, 0] = 0.06
    exact = torch.tensor([[2.0, 0.0]]).repeat(100_000, 1)
    codes = {"near": (same, same, far), "wrong": (same, far, same)}
    losses = {name: DistortionLoss()((three, exact), target).item() for name, three in codes.items()}
    assert losses == pytest.approx({"near": 0.1 - 0.06, "wrong": 0.1 + 0.06}, abs=1e-4)


@pytest.mark.parametrize("view", [lambda one: one._train_view, lambda one: lambda x: one._crop(x, 3, 0)])
def test_views_are_cut_anywhere_and_never_flipped(view):
    maps = coordinate_maps(view(GraphIQA(**TINY)), 70, 90, n=200)
    np.testing.assert_allclose(maps[:, [0, 1], [0, 1]], 1, atol=0.05)
    for place, free in ((maps[:, 0, 2], 90 - 32), (maps[:, 1, 2], 70 - 32)):
        assert -1 < place.min() < 0.1 * free < 0.9 * free < place.max() < free + 1
        assert place.mean() == pytest.approx(free / 2, abs=0.1 * free)  # 200 draws: a standard error of 2 %


def test_an_epoch_takes_every_image_once_as_one_graph_with_its_standardised_label():
    X, y = random_images(6), np.array([20.0, 40.0, 60.0, 80.0, 55.0, 30.0])
    with recorded() as phases:
        GraphIQA(**{**TINY, "batch_size": 3, "max_epochs": 2}).fit(X, y)
    (phase,) = phases
    assert set(phase.shapes) == {(3, 3, 32, 32)}
    orders = [phase.rows[0] + phase.rows[1], phase.rows[2] + phase.rows[3]]
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3, 4, 5]] * 2
    assert orders[0] != orders[1]
    np.testing.assert_allclose(torch.cat(phase.targets), ((y - y.mean()) / y.std())[orders[0] + orders[1]], rtol=1e-5)


def test_training_minimises_the_error_of_sampled_scores():
    assert type(GraphIQA()._loss()) is SampledSquaredError


# Noise ----------------------------------------------------------------------------------------------------------------


def test_noise_costs_its_square():
    output = torch.tensor([[1.0, -3.0]]).repeat(100_000, 1)
    loss = SampledSquaredError()(output, torch.full((100_000,), 2.0))
    # E (m + s e - y)^2 = (m - y)^2 + s^2 = 1 + 9; standard error: sqrt(2 81 + 4 9) / sqrt(1e5) = 0.045
    assert loss == pytest.approx(10, abs=0.2)


def test_noise_in_inference_is_asked_for():
    X = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    quiet = GraphIQA(**TINY).initialize()
    np.testing.assert_array_equal(quiet.predict(X), quiet.predict(X))
    noisy = GraphIQA(**TINY, eval_noise=True).initialize()
    scores = noisy.predict(X)
    np.testing.assert_array_equal(noisy.predict(X), scores)
    np.testing.assert_array_equal([score for _, score in sorted(noisy.predict_iter(X))], scores)
    assert (scores != quiet.predict(X)).all()
    # One image many times: its draws scatter by sqrt(s1^2 + s2^2) / 2 around the mean of its two crops.
    with torch.inference_mode():
        means, scales = noisy.network_(noisy._views(X[0])).T
    draws = noisy.predict(np.repeat(X[:1], 400, axis=0))
    spread = float(torch.linalg.vector_norm(scales)) / 2
    assert draws.mean() == pytest.approx(float(means.mean()), abs=4 * spread / 20)  # four standard errors of 400 draws
    assert draws.std() == pytest.approx(spread, rel=0.15)  # 1 / sqrt(800) is a standard error of 3.5 %


def test_random_crops_depend_on_pixels_and_seed():
    X = np.random.default_rng(0).integers(0, 256, (2, 60, 70, 3), dtype=np.uint8)
    drawn = GraphIQA(**TINY, crops="random").initialize()
    scores = drawn.predict(X)
    np.testing.assert_allclose(drawn.predict(X[::-1]), scores[::-1], rtol=1e-5)
    assert (scores != GraphIQA(**TINY).initialize().predict(X)).all()


# Learning -------------------------------------------------------------------------------------------------------------


def test_it_learns():
    known = levels(["gaussian_blur", "white_noise"], side=96)
    recipe = {"crop_size": 64, "n_crops": 4, "batch_size": 14, "max_epochs": 30, "pretrain_steps": 10}
    estimator = GraphIQA(**{**TINY, **recipe, "pretrain_lr": 1e-3})
    before = estimator.initialize().score(known.X_new, known.y_new)
    estimator.fit(known.X, known.y, distortion=known.distortion, level=known.level)
    after = estimator.score(known.X_new, known.y_new)
    # Measured on held-out photographs with random_state 0, 1, 2, 3: 0.03, -0.06, -0.07, -0.09 before, 0.75, 0.73, 0.69,
    # 0.78 after; 0.72 from whole photographs, a quarter as many, in 60 epochs. It falls short of 0.80 because the
    # backbone never learns and is of random numbers here: the layers behind it reach 0.89 on the photographs that they
    # have seen. ImageNet's EfficientNet-Lite0 as the backbone gave 0.56 (0.87 on those seen), as what it tells of an
    # image is what it shows.
    assert before < 0.3
    assert after > 0.65


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "parameters", "sentence"),
    [
        ({"distortion": ["a", "b", "a"]}, {}, "distortion and level belong together"),
        ({"level": [1, 2, 3]}, {}, "distortion and level belong together"),
        ({"distortion": ["a", "b"], "level": [1, 2, 3]}, {}, "inconsistent"),
        ({"distortion": ["a", "b", "a"], "level": [1, np.nan, 3]}, {}, "level contains NaN"),
        ({"distortion": ["a", "a", "a"], "level": [1, 2, 3]}, {}, "distortion has one type"),
        ({}, {"crops": "all"}, "'crops' parameter of GraphIQA must be a str among .*Got 'all'"),
        ({}, {"eval_noise": "no"}, "'eval_noise' parameter of GraphIQA must be an instance of 'bool'"),
        ({}, {"edge_dim": 0}, r"'edge_dim' parameter of GraphIQA must be an int in the range \[1, inf\)"),
        ({}, {"crop_size": 0}, r"'crop_size' parameter of GraphIQA must be an int in the range \[1, inf\)"),
        ({}, {"pretrain_steps": -1}, r"'pretrain_steps' parameter of GraphIQA must be an int in the range \[0, inf\)"),
        ({}, {"pretrain_lr": 0.0}, r"'pretrain_lr' parameter of GraphIQA must be a float in the range \(0.0, inf\)"),
    ],
)
def test_unusable_input_is_refused(labels, parameters, sentence):
    X = np.zeros((3, 40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=sentence):
        GraphIQA(**{**TINY, "pretrain_steps": 1, **parameters}).fit(X, [1.0, 2.0, 3.0], **labels)

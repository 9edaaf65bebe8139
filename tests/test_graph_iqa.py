# SPDX-License-Identifier: BSD-3-Clause
"""GraphIQA: parity with the official code, graphs, the two stages, the noise, and learning."""

import kits
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from held_out import levels

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
    steps = torch.cat([batch, batch.flip(-1) * 0.5, batch[[1, 0, 3, 2]] * 0.9])[None]  # as the kit says in `losses`
    with torch.inference_mode():
        codes, levels = DistortionModule(network)(steps)
    network.eval()
    assert_parity("pretraining, level", levels[:, 0], told["batch_of_four_level_mean"])
    assert_parity("pretraining, code", codes[0][0, :8], told["domain_code first 8"])
    target = torch.zeros(1, 12, 4)
    target[0, :4, 0] = torch.tensor([1.0, 3.0, 5.0, 2.0])
    levels = levels * torch.tensor([1.0, 0.0])  # the kit is without noise
    total = DistortionLoss()((codes, levels), target)
    parts = KIT["losses"]
    assert_parity("loss, total", total, parts["total = triplet + 0.25*mse"])
    error = F.mse_loss(levels[:, 0], target[0, :4, 0])
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
    return list(estimator._stages_before(rows, estimator._check_targets(rows, y, **labels), sample_weight))


def test_steps_are_of_one_type_and_of_another():
    X = [np.full((40, 40, 3), 10 * i, np.uint8) for i in range(12)]
    labels = {"distortion": np.array(["jpeg", "blur", "noise"] * 4), "level": np.arange(12) % 5 + 1}
    (stage,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 30}), X, np.arange(12.0), **labels)
    level, row, _, applied = np.moveaxis(stage.targets, -1, 0)
    assert level.shape == (30, 12)
    assert (applied == 0).all()
    row = row.astype(int)
    np.testing.assert_array_equal(level, labels["level"][row])
    types = labels["distortion"][row]
    assert (types[:, :8] == types[:, :1]).all()
    assert (types[:, 8:] == types[:, 8:9]).all()
    assert (types[:, 0] != types[:, 8]).all()
    assert len(set(zip(types[:, 0], types[:, 8], strict=True))) == 6  # ordered pairs of three types
    crops = stage.view(None, stage.targets[0])
    assert crops.shape == (12, 3, 32, 32)
    # Given images are cut, not distorted; timm's test_resnet takes (x - 0.5) / 0.5.
    np.testing.assert_allclose(crops[:, 0, 0, 0], row[0] * 10 / 255 * 2 - 1, atol=1e-6)


def test_images_of_a_type_are_drawn_by_weight():
    X, labels = np.zeros((4, 40, 40, 3), np.uint8), {"distortion": ["jpeg", "blur"] * 2, "level": [1, 2, 3, 4]}
    estimator = GraphIQA(**{**TINY, "pretrain_steps": 300})
    (stage,) = first_stage(estimator, X, np.arange(4.0), sample_weight=np.array([1.0, 5.0, 3.0, 5.0]), **labels)
    counts = np.bincount(stage.targets[:, :, 1].astype(int).ravel())
    assert counts[0] / (counts[0] + counts[2]) == pytest.approx(1 / 4, abs=0.03)
    assert counts[1] / (counts[1] + counts[3]) == pytest.approx(1 / 2, abs=0.03)


def test_without_types_images_are_distorted():
    X = [image[:40, :48] for image in kits.images(0)]
    (stage,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 200}), X, [1.0, 2.0])
    level, row, kind, applied = np.moveaxis(stage.targets, -1, 0)
    np.testing.assert_array_equal(applied, level)
    assert set(kind.ravel()) == set(range(len(DISTORTIONS)))
    assert set(level.ravel()) == {1, 2, 3, 4, 5}
    assert set(row.ravel()) == {0, 1}
    assert (kind[:, 0] != kind[:, 8]).all()
    step = np.array([[level, 0, DISTORTIONS.index("brighten"), level] for level in (1, 5)], dtype=float)
    weak, strong = stage.view(None, step)
    assert strong.mean() > weak.mean() + 0.1
    (again,) = first_stage(GraphIQA(**{**TINY, "pretrain_steps": 200}), X, [1.0, 2.0])
    assert len(again.rows) == 200


def test_weights_replace_the_first_stage(tmp_path):
    X, y = [image[:40, :48] for image in kits.images(0)], [1.0, 2.0]
    GraphIQA(**TINY).fit(X, y).save_weights(tmp_path / "graph.safetensors")
    assert first_stage(GraphIQA(**TINY), X, y) == []
    with_weights = {**TINY, "pretrain_steps": 3, "weights": tmp_path / "graph.safetensors"}
    assert first_stage(GraphIQA(**with_weights), X, y) == []


def test_positive_and_negative_graphs_do_not_learn():
    network = GraphIQA(**TINY).initialize().network_
    codes, _ = DistortionModule(network)(torch.rand(1, 9, 3, 32, 32))
    assert [code.requires_grad for code in codes] == [True, False, False]


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
    # Measured on held-out photographs: 0.03 before, 0.76 after; 0.72 from whole photographs, a quarter as many, in 60
    # epochs. It falls short of 0.80 because the backbone never learns and is of random numbers here: the layers behind
    # it reach 0.89 on the photographs that they have seen. ImageNet's EfficientNet-Lite0 as the backbone gave 0.56
    # (0.87 on those seen), as what it tells of an image is what it shows.
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

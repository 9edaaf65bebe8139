# SPDX-License-Identifier: BSD-3-Clause
"""DR-IQA: parity with the official code, two references, comparisons, distillation, and learning."""

import kits
import numpy as np
import pytest
import torch
from PIL import Image
from recipes import recorded
from torch import nn

from sklearn_iqa import DRIQA, make_pairs
from sklearn_iqa._base import rows
from sklearn_iqa._base.training import Subset
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.distortions import distort
from sklearn_iqa.full_reference.dr_iqa import (
    ComparisonLoss,
    ReferenceDistillationLoss,
    References,
    win_probability,
)

KIT = kits.read("dr_iqa")
TINY = {"backbone": "test_resnet", "backbone_weights": None, "head_width": 64, "image_size": 32, "random_state": 0}


def queries(reference, number):
    """Queries A and B of the kit: shifted copy with noise, coarse quantisation."""
    shifted = 0.7 * reference + 0.3 * np.roll(reference.astype(np.float64), 4, axis=1)
    noise = 10.0 * np.random.default_rng([0, number, 77]).normal(size=reference.shape)
    return np.clip(np.rint(shifted + noise), 0, 255).astype(np.uint8), (reference // 32) * 32 + 16


@pytest.fixture(scope="module")
def seeded():
    estimator = DRIQA(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def views():
    """Rows (restored, degraded, pristine) of the kit: (4, 3, 3, 288, 288)."""
    rows = []
    for number, image in enumerate(kits.images(0)):
        pristine = image[40:328, 60:348]
        a, b = queries(pristine, number)
        rows += [(a, b, pristine), (b, a, pristine)]
    return torch.stack([normalize(to_tensor(row), IMAGENET_MEAN, IMAGENET_STD) for row in rows])


# The kit's scores of different inputs differ by about 0.005: 1e-5 relative sees that.


def test_parity_outputs(seeded, views):
    network, columns = seeded.network_, np.array(KIT["full_output"]["rows"]).T
    restored, degraded, pristine = views.unbind(1)
    with torch.inference_mode():
        scores = network(views[:, :2])
        distilled, preferred = network.compare_each(views), network.prefer(views[:, :2])
        encoded = [network.encode_reference(one) for one in (degraded, pristine)]
        differences = torch.stack([network.encode_query(restored) - one for one in encoded], 1).flatten(0, 1)
        logits = network.fc_(network.csp(differences).mean((2, 3)))
    kits.assert_parity("dr_iqa", "scores", scores, KIT["output"], rtol=1e-5)
    kits.assert_parity("dr_iqa", "dr", distilled.scores[:, 0], columns[0], rtol=1e-5)
    kits.assert_parity("dr_iqa", "fr", distilled.scores[:, 1], columns[1], rtol=1e-5)
    kits.assert_parity("dr_iqa", "nr", preferred, columns[2], rtol=1e-5)
    kits.assert_parity("dr_iqa", "diff", distilled.apart, columns[3], rtol=1e-4)
    kits.assert_parity("dr_iqa", "logits", logits, KIT["pre_sigmoid_dr_then_fr"], rtol=1e-4)


def test_parity_protocol(seeded):
    pairs = [queries(image, number) for number, image in enumerate(kits.images(0))]
    kits.assert_parity("dr_iqa", "protocol", seeded.predict(pairs), KIT["protocol_output"]["output"], rtol=1e-5)


def test_parity_stages(seeded, views):
    network = seeded.network_
    with torch.inference_mode():
        restored, degraded = views[0, :1], views[0, 1:2]
        difference = network.encode_query(restored) - network.encode_reference(degraded)
        found = {
            "maxpool(qse_1(restored))": network.pool(network.qse_1(restored)),
            "qse_2": network.encode_query(restored),
            "dte_2(degraded)": network.encode_reference(degraded),
            "csp(qse-dte)": network.csp(difference),
            "pooled 512 vector": network.csp(difference).mean((2, 3), keepdim=True),
        }
    assert found.keys() == KIT["stages"].keys()
    for name, stage in KIT["stages"].items():
        assert list(found[name].shape) == stage["shape"]
        got = [found[name].mean(), found[name].std()]
        kits.assert_parity("dr_iqa", name, got, [stage["mean"], stage["std"]], rtol=1e-5)


def test_parity_losses():
    inputs = {name: torch.tensor(values) for name, values in KIT["losses"]["inputs"].items()}
    # A difference of 0.4 is 400 Elo points.
    comparison = ComparisonLoss()(inputs["o3 nr"], win_probability(inputs["t1"], inputs["t2"], 0.4))
    output = References(torch.stack([inputs["o1 dr"], inputs["o2 fr"]], 1), inputs["o4 diff"])
    distillation = ReferenceDistillationLoss()(output, inputs["t1"])
    kits.assert_parity("dr_iqa", "loss, comparisons", comparison, KIT["losses"]["epoch 0..9"], rtol=1e-6)
    kits.assert_parity("dr_iqa", "loss, distillation", distillation, KIT["losses"]["epoch 10+"], rtol=1e-6)


def test_official_names_load_strictly(seeded):
    own = {name: list(tensor.shape) for name, tensor in seeded.network_.state_dict().items()}
    assert own == {name: shape for name, shape, _ in KIT["manifest"]}


def test_roles_and_resizing():
    estimator = DRIQA(**TINY).initialize()
    image = kits.images(0, sizes=((60, 90),))[0]
    query, reference = estimator._views((image, image))[0]
    # 36 = floor(32 / 0.875) on the shorter side, then the centre; the query by bicubic filter, the reference by nearest
    for view, resample in ((query, Image.Resampling.BICUBIC), (reference, Image.Resampling.NEAREST)):
        resized = np.asarray(Image.fromarray(image).resize((54, 36), resample))[2:34, 11:43]
        config = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # timm's for test_resnet
        torch.testing.assert_close(view, normalize(to_tensor(resized), **config), rtol=0, atol=1e-6)
    other = kits.images(1, sizes=((50, 70),))[0]
    forth, back = estimator.predict([(image, other), (other, image)])
    assert forth != back


def test_win_probability():
    # equal images: a half; one scale: ten to one
    first, second = np.array([0.3, 0.2, 0.6]), np.array([0.3, 0.6, 0.2])
    np.testing.assert_allclose(win_probability(first, second, 0.4), [1 / 2, 10 / 11, 1 / 11])


def test_one_reference_has_no_distance(views):
    network = DRIQA(**TINY).initialize().network_
    output = network.compare_each(views[:2, :2, :, :32, :32])
    assert output.scores.shape == (2, 1)
    assert (output.apart == 0).all()


@pytest.fixture(scope="module")
def triplets():
    """Restored, degraded and pristine images of ten photographs: noise of level 4, and restorations of it."""
    X, y, scenes = [], [], []
    for scene, pristine in enumerate(load_photographs(size=40).images):
        degraded = distort(pristine, "white_noise", 4, random_state=scene)
        for level, kind in ((1, "gaussian_blur"), (2, "white_noise"), (3, "gaussian_blur"), (5, "white_noise")):
            X.append((distort(pristine, kind, level, random_state=scene), degraded, pristine))
            y.append(-level)
            scenes.append(scene)
    return X, np.array(y, dtype=float), np.array(scenes)


def comparisons(estimator, X, y):
    """The stage of comparisons."""
    estimator.initialize()._start(y, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (stage,) = estimator._stages_before(estimator._training_rows(X), y, None)
    return stage


def test_comparisons_are_drawn_by_weight(triplets):
    X, y, _ = triplets
    estimator = DRIQA(**TINY, comparison_epochs=500).initialize()
    estimator._start(y[:4], None)
    rows, weight = estimator._training_rows(X[:4]), np.array([1.0, 1.0, 2.0, 6.0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (stage,) = estimator._stages_before(rows, y[:4], weight)
    first, second = stage.rows.first, stage.rows.second
    # The first image of a comparison is drawn by the weight of its row, ...
    np.testing.assert_array_equal(stage.sample_weight, weight[first])
    np.testing.assert_array_equal(np.bincount(first), [500] * 4)
    # ... the second one by weight among the others of its scene.
    np.testing.assert_allclose(np.bincount(second[first == 3], minlength=4) / 500, [1 / 4, 1 / 4, 1 / 2, 0], atol=0.1)
    np.testing.assert_allclose(np.bincount(second[first == 0], minlength=4) / 500, [0, 1 / 9, 2 / 9, 6 / 9], atol=0.1)


def test_predict_takes_the_reference_of_triplets(triplets):
    X, y, _ = triplets
    estimator = DRIQA(**TINY, comparison_epochs=0, max_epochs=1, lr=0.01).fit(X, y)
    scores = estimator.predict(X)
    np.testing.assert_array_equal(scores, estimator.predict([row[:2] for row in X]))
    pristine = estimator.predict(make_pairs([row[0] for row in X], [row[2] for row in X]))
    assert not np.array_equal(scores, pristine)
    np.testing.assert_array_equal(estimator.predict(np.array(X)), scores)


def test_early_stopping_scores_beside_the_degraded_reference(triplets):
    X, y, _ = triplets
    X = [
        (restored, distort(degraded, "brighten", 1 + row % 5), pristine)
        for row, (restored, degraded, pristine) in enumerate(X)
    ]
    estimator = DRIQA(**TINY, comparison_epochs=0, max_epochs=1, lr=0.01, early_stopping=True, validation_fraction=0.3)
    estimator.fit(X, y)
    slope, intercept = estimator.label_scale_
    held_out = slope * estimator._scores(estimator._training_rows(X)) + intercept
    np.testing.assert_allclose(held_out, estimator.predict(X), rtol=1e-5)


def files(triplets, folder):
    """The same as paths, images that are shared under one name."""
    names = {id(image): folder / f"{number}.png" for number, image in enumerate(one for row in triplets for one in row)}
    for image in (one for row in triplets for one in row):
        Image.fromarray(image).save(names[id(image)])
    return [tuple(names[id(image)] for image in row) for row in triplets]


@pytest.fixture
def opened(monkeypatch):
    """What is opened: the image, by its place, and the row."""
    read, found = rows.read_image, []
    monkeypatch.setattr(rows, "read_image", lambda image, where: found.append(where) or read(image, where))
    return found


def test_comparisons_open_restored_images_alone(triplets, opened, tmp_path):
    X, y, _ = triplets
    estimator = DRIQA(**TINY, comparison_epochs=1)
    stage = comparisons(estimator, files(X[:24], tmp_path), y[:24])
    for row in range(len(stage.rows)):
        estimator._open(stage.rows, row)
    assert len(opened) == 48
    assert all(where.startswith("The restored in row") for where in opened)


def test_held_out_triplets_open_no_pristine_image(triplets, opened, tmp_path):
    X, _, _ = triplets
    estimator = DRIQA(**TINY).initialize()
    triplet_rows = estimator._training_rows(files(X[:8], tmp_path))
    estimator._scores(Subset(Subset(triplet_rows, np.arange(8)), np.arange(2, 8)))
    places = [(name, row) for name in ("restored", "degraded") for row in range(2, 8)]
    assert sorted(opened) == sorted(f"The {name} in row {row} of X" for name, row in places)


def test_a_degraded_image_that_rows_share_is_encoded_once(triplets, monkeypatch):
    X, _, _ = triplets
    estimator = DRIQA(**TINY).initialize()
    encode, encoded = estimator.network_.encode_reference, []
    monkeypatch.setattr(estimator.network_, "encode_reference", lambda x: encoded.extend(x) or encode(x))
    estimator._scores(estimator._training_rows(X[:8]))  # of two scenes
    assert len(encoded) == 2


@pytest.mark.parametrize("name", ["comparison_epochs", "distillation_weight", "weight_decay"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}' parameter of DRIQA must be an? (int|float) in the range \[0"):
        DRIQA(**TINY, **{name: -1}).initialize()


def test_other_backbones_are_refused():
    with pytest.raises(ValueError, match="backbone='test_vit' is no ResNet of timm; take one such as 'resnet18'"):
        DRIQA(backbone="test_vit", backbone_weights=None).initialize()


def test_backbone_weights_go_to_both_stems(tmp_path):
    parts = {"conv1": "qse_1", "layer1": "qse_2", "layer2": "csp"}
    source = DRIQA(**{**TINY, "random_state": 5}).initialize().network_
    state = nn.ModuleDict({name: source.get_submodule(part) for name, part in parts.items()}).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    network = DRIQA(**{**TINY, "backbone_weights": tmp_path / "resnet.pth"}).initialize().network_
    for part, other in (("qse_1", "dte_1"), ("qse_2", "dte_2"), ("csp", "aux_csp")):
        for name, tensor in source.get_submodule(part).state_dict().items():
            assert torch.equal(network.get_submodule(part).state_dict()[name], tensor)
            assert torch.equal(network.get_submodule(other).state_dict()[name], tensor)


def test_distillation_makes_references_look_alike(triplets):
    X, y, _ = triplets
    apart = {}
    for weight in (0.0, 3000.0):
        recipe = {"comparison_epochs": 0, "max_epochs": 2, "batch_size": 8, "lr": 0.01, "distillation_weight": weight}
        estimator = DRIQA(**TINY, **recipe).fit(X, y)
        views = torch.stack([estimator._train_view(x) for x in X[::4]])
        with torch.inference_mode():
            apart[weight] = float(estimator.network_.compare_each(views).apart.mean())
    assert apart[3000.0] < 0.5 * apart[0.0]


# Recipe ---------------------------------------------------------------------------------------------------------------
# Optimiser, rates and what trains: test_recipes.py.


def test_comparisons_stay_in_their_scene(triplets):
    X, y, scenes = triplets
    stage = comparisons(DRIQA(**TINY, comparison_epochs=3), X, y)
    first, second = stage.rows.first.reshape(3, -1), stage.rows.second.reshape(3, -1)
    np.testing.assert_array_equal(first, np.tile(np.arange(len(X)), (3, 1)))  # every row in every pass
    assert (scenes[first] == scenes[second]).all()
    assert (first != second).all()
    assert (second[0] != second[1]).any()
    assert (second[1] != second[2]).any()
    restored = [stage.rows[47][place] for place in (0, 1)]
    assert all(one is X[row][0] for one, row in zip(restored, (7, second[1, 7]), strict=True))


def test_what_is_alone_in_its_scene_is_not_compared(triplets):
    X, y, scenes = triplets
    kept = np.flatnonzero(np.diff(scenes, prepend=-1))  # one row of each scene
    estimator = DRIQA(**TINY).initialize()
    estimator._start(y[kept], None)
    assert not list(estimator._stages_before(estimator._training_rows([X[i] for i in kept]), y[kept], None))


def test_elo_ratings_of_pipal_are_encoded_as_in_the_official_code(triplets):
    X, _, _ = triplets
    y = np.array([917.0, 1836.0, 1300.0, 1700.0])
    estimator = DRIQA(**TINY, comparison_epochs=9)
    stage = comparisons(estimator, X[:4], y)
    quality = (y - 900) / 1000
    np.testing.assert_allclose(estimator._encode_targets(y), quality, rtol=1e-9)
    first, second = quality[stage.rows.first], quality[stage.rows.second]
    np.testing.assert_allclose(stage.targets, 1 / (1 + 10 ** ((first - second) * 1000 / 400)), rtol=1e-9)


@pytest.mark.parametrize(
    ("elo_scale", "y", "expected"),
    [
        (400, [1300.0, 1700.0], 10 / 11),  # 400 Elo points: ten to one
        (0.8, [1.0, 5.0], 1 / (1 + 10**-5)),
        (None, [1.0, 5.0], 1 / (1 + 10**-2.2975)),  # a range of 919 points, as PIPAL's: 919 / 400 = 2.2975
        (None, [1300.0, 1700.0], 1 / (1 + 10**-2.2975)),
    ],
)
def test_comparisons_are_in_the_unit_of_elo_scale(triplets, elo_scale, y, expected):
    X, _, _ = triplets
    stage = comparisons(DRIQA(**TINY, comparison_epochs=1, elo_scale=elo_scale), X[:2], np.array(y))
    np.testing.assert_allclose(stage.targets, [expected, 1 - expected], rtol=1e-9)


def test_every_epoch_has_every_row_once(triplets):
    X, y, _ = triplets
    with recorded() as phases:
        DRIQA(**TINY, comparison_epochs=3, max_epochs=2, batch_size=4, lr=0.01).fit(X[:10], y[:10])
    compared, distilled = phases
    for phase, n_epochs, step in ((compared, 3, 10), (distilled, 2, 0)):
        places = np.concatenate(phase.rows).reshape(n_epochs, 10)
        for epoch, order in enumerate(places - step * np.arange(n_epochs)[:, None]):
            assert sorted(order) == list(range(10)), epoch
            assert sorted(order) != order.tolist()
        assert [len(rows) for rows in phase.rows] == [4, 3, 3] * n_epochs


def test_comparisons_leave_what_they_do_not_train(triplets, monkeypatch):
    X, y, _ = triplets
    before, after = DRIQA(**TINY).initialize().network_.state_dict(), {}
    training_module = DRIQA._training_module

    def recording(self, network):  # right behind the comparisons
        after.update({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return training_module(self, network)

    monkeypatch.setattr(DRIQA, "_training_module", recording)
    DRIQA(**TINY, comparison_epochs=2, max_epochs=1, lr=0.01).fit(X[:8], y[:8])
    changed = {name.partition(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"qse_1", "qse_2", "aux_csp", "fc1_"}  # no statistics of BatchNorm elsewhere


def test_only_tensors_of_several_axes_decay():
    estimator = DRIQA(**TINY, weight_decay=0.1).initialize()
    module = estimator._training_module(estimator.network_)
    net = estimator._net(module, estimator._loss(), 0.1, estimator._net_params())
    decayed = {id(p): group["weight_decay"] for group in net.optimizer_.param_groups for p in group["params"]}
    parameters = dict(estimator.network_.named_parameters())
    assert len(decayed) == len(parameters)
    for name, parameter in parameters.items():
        assert decayed[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_both_references_are_judged_in_one_batch(views):
    network, seen = DRIQA(**TINY).initialize().network_, []
    network.csp.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    network.train().compare_each(views[..., :32, :32])
    assert seen == [2 * len(views)]  # whose statistics BatchNorm takes


def test_loss_is_of_both_references_and_of_their_distance():
    estimator = DRIQA(**TINY, distillation_weight=7.0).initialize()
    output = References(torch.tensor([[0.5, 0.3], [1.0, 0.5]]), torch.tensor([0.1, 0.2]))
    loss = estimator._loss()(output, torch.tensor([0.2, 0.9]))
    # Errors .3 and .1, .1 and .4; 7 times the mean of .01 and .04.
    np.testing.assert_allclose(loss, (0.09 + 0.01 + 0.01 + 0.16) / 2 + 7 * 0.025, rtol=1e-6)


def test_views_of_training_are_those_of_inference(triplets):
    X, _, _ = triplets
    estimator = DRIQA(**TINY).initialize()
    views = estimator._train_view(X[0])
    assert torch.equal(views, estimator._train_view(X[0]))  # nothing is random
    assert torch.equal(views[:2], estimator._views(X[0][:2])[0])
    assert torch.equal(views[[0, 2]], estimator._views((X[0][0], X[0][2]))[0])
    compared = comparisons(DRIQA(**TINY, comparison_epochs=1), X[:2], np.arange(2.0)).view((X[0][0], X[1][0]), 0.5)
    assert torch.equal(compared, torch.stack([estimator._views(x)[0, 0] for x in (X[0][:2], X[1][:2])]))


def test_heads_drop_half_of_their_units():
    network = DRIQA(**TINY).initialize().network_
    for head in (network.fc_, network.fc1_):
        assert [one.p for one in head if isinstance(one, nn.Dropout)] == [0.5, 0.5]


def test_learns_from_triplets():
    # A check of the training, no measure of the method. From random weights it needs many scenes, so each photograph is
    # cut into four. With noise in place of darkening the result depends on the seed (0.78 to 0.93).
    quarters = [slice(0, 48), slice(48, 96)]
    scenes = [image[y, x] for image in load_photographs(size=96).images for y in quarters for x in quarters]
    distorted = make_distorted(scenes, distortions=["gaussian_blur", "darken"], random_state=0)
    degraded = [distort(image, "jpeg", 3, random_state=number) for number, image in enumerate(scenes)]
    rows = zip(distorted.images, distorted.groups, distorted.references, strict=True)
    X = [(restored, degraded[scene], pristine) for restored, scene, pristine in rows]
    is_new = np.isin(distorted.groups // 4, [1, 4, 7])
    kept, held_out = np.flatnonzero(~is_new), np.flatnonzero(is_new)
    X_new, y_new = [X[i][:2] for i in held_out], distorted.target[held_out]
    recipe = {"comparison_epochs": 2, "max_epochs": 12, "batch_size": 32, "lr": 0.02, "distillation_weight": 3.0}
    estimator = DRIQA(**{**TINY, "head_width": 256, "image_size": 42}, **recipe)
    before = estimator.initialize().score(X_new, y_new)
    after = estimator.fit([X[i] for i in kept], distorted.target[kept]).score(X_new, y_new)
    beside_pristine = estimator.score([(X[i][0], X[i][2]) for i in held_out], y_new)
    # Measured on held-out photographs with random_state 0, 1, 2: untrained -0.71, -0.49, 0.08; trained 0.90, 0.92, 0.92
    # with degraded and 0.91, 0.93, 0.92 with pristine references.
    assert min(after, beside_pristine) > 0.8 > 0.6 > before

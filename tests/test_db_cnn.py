# SPDX-License-Identifier: BSD-3-Clause
"""DB-CNN: the official numbers, the published S-CNN, the three stages of training, and that it learns."""

import kits
import numpy as np
import pytest
import skorch.callbacks
import torch
from recipes import coordinate_maps, recorded
from torch import nn

from sklearn_iqa import DBCNN
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.distortions import DISTORTIONS
from sklearn_iqa.single_input import db_cnn
from sklearn_iqa.single_input.db_cnn import CLASSES, SCNN, SCNN_FILE, scnn_backbone

KIT = kits.read("db_cnn")
ATOL = KIT["tolerance"]["suggested_abs"]
SMALL = {
    "backbone": "test_resnet",
    "backbone_weights": None,
    "scnn_epochs": 0,
    "head_epochs": 0,
    "max_epochs": 1,
    "crop_size": 32,
    "batch_size": 4,
    "random_state": 0,
    "device": "cpu",
}
MOS = [1.0, 2.0, 3.0, 4.0]


def picture(height, width, seed=0):
    return kits.images(seed, sizes=((height, width),))[0]


def pictures():
    return [picture(40, 48, seed) for seed in range(4)]


def normalized(image):
    """As the kit states: / 255, then ImageNet's mean and deviation."""
    return normalize(to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


# Official numbers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full():
    estimator = DBCNN(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def outputs(full):
    """Scores and products of the kit's two crops, and moments of every layer, taken before the next writes into it."""
    moments = {}

    def keep(name, output):
        moments[name] = [list(output.shape), output.double().mean().item(), output.double().std(correction=0).item()]

    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, module in full.network_.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d)
    ]
    crops = torch.stack([normalized(image[:224, :224]) for image in kits.images(0)])
    with torch.inference_mode():
        scores, products = full.network_(crops), full.network_.bilinear(crops)
        features = full.network_.features(crops)
    for hook in hooks:
        hook.remove()
    keep("bilinear vector", products)
    keep("after sqrt(v+1e-8),", (products.flatten(1) + 1e-8).sqrt())  # of the kit's definition
    keep("after L2", features)
    return scores, features, moments


def test_scores_are_the_official_ones(outputs):
    kits.assert_parity("db_cnn", "output", outputs[0], KIT["output"], atol=ATOL)


@pytest.mark.parametrize("stage", KIT["stages"], ids=lambda stage: stage["at"])
def test_stages_are_the_official_ones(full, outputs, stage):
    moments = outputs[2]
    layer = state_dicts.rename_keys({stage["at"].split()[0] + ".": None}, full.key_map)
    name = next(iter(layer)).removesuffix(".")
    name = name if name in moments else next(name for name in moments if stage["at"].startswith(name))
    shape, mean, std = moments[name]
    assert shape == stage["shape"]
    kits.assert_parity("db_cnn", stage["at"].replace(",", ""), [mean, std], [stage["mean"], stage["std"]], atol=ATOL)


def test_normalised_products_are_the_official_ones(outputs):
    probe = KIT["extra"]["normalised_bilinear_probe"]
    got = outputs[1][:, probe["flat_indices"]]
    kits.assert_parity("db_cnn", "normalised products", got, probe["values"], atol=ATOL)


def test_loss_is_the_official_one(full, outputs):
    loss = full._loss()(outputs[0], torch.tensor([60.0, 30.0]))  # the labels that the kit states
    kits.assert_parity("db_cnn", "mse", loss, KIT["losses"]["mse"], rtol=1e-7)  # the kit has nine digits


@pytest.mark.parametrize("case", KIT["extra"]["other_sizes"], ids=lambda case: case["crop"])
def test_whole_images_of_any_size_have_the_official_score(full, case):
    # The second crop, 300 x 411, gives maps of 18 x 25 and 19 x 26.
    (top, bottom), (left, right) = ((0, 384), (0, 512)) if case["image"] == 0 else ((10, 310), (20, 431))
    assert case["crop"] == f"I[{top}:{bottom}, {left}:{right}]"
    image = kits.images(0)[case["image"]][top:bottom, left:right]
    shapes = []
    with torch.inference_mode():
        shapes = [list(full.network_.features2(normalized(image)[None]).shape[2:])]
    assert shapes == [case["features2_hw"]]
    kits.assert_parity("db_cnn", f"size {image.shape[:2]}", full.predict([image]), [case["score"]], atol=ATOL)


def test_size_and_names(full):
    # The sheet: 15,311,345 parameters with the backbone of the S-CNN alone.
    assert sum(p.numel() for p in full.network_.parameters()) == 15_311_345
    official = dict.fromkeys(name for name, _, _ in KIT["manifest"])
    assert state_dicts.rename_keys(official, full.key_map).keys() == full.network_.state_dict().keys()


def test_official_checkpoint_is_loaded_strictly(full, tmp_path):
    # As the official trainer saves it, behind DataParallel, without counters of BatchNorm.
    state = {f"module.{name}": tensor for name, tensor in kits.fill(KIT).items()}
    torch.save({"params": state}, tmp_path / "db_cnn.pth")
    image = kits.images(0)[0][:224, :224]
    loaded = DBCNN(weights=tmp_path / "db_cnn.pth", device="cpu")
    np.testing.assert_array_equal(loaded.predict([image]), full.predict([image]))


# The published S-CNN --------------------------------------------------------------------------------------------------


def official_crops():
    # The kit rounds an odd rest down.
    places = [((height - 224) // 2, (width - 224) // 2) for height, width in ((384, 512), (427, 640))]
    return [
        normalized(image[top : top + 224, left : left + 224])
        for image, (top, left) in zip(kits.images(0), places, strict=True)
    ]


@pytest.fixture
def scnn_file(rated_data):
    return rated_data("weights/dbcnn_scnn.pth")


def test_published_scnn_gives_the_official_numbers(scnn_file):
    estimator = DBCNN(**{**SMALL, "scnn_weights": scnn_file}).initialize()
    scnn, want = SCNN(scnn_backbone()).eval(), KIT["real_weights"]
    state_dicts.load_state(scnn, state_dicts.read_state(scnn_file), origin="the test")
    with torch.inference_mode():
        for number, (crop, image) in enumerate(zip(official_crops(), kits.images(0), strict=True)):
            logits = scnn(crop[None])[0]
            # 1e-5: float32 has seven digits, and logits reach 10.
            kits.assert_parity("db_cnn", f"S-CNN logits {number}", logits, want["logits"][number], rtol=1e-4, atol=1e-5)
            assert int(logits.argmax()) == want["argmax"][number]
            backbone = estimator.network_.features2  # as DBCNN loads it
            whole = want["features_of_whole_image"][number]
            for maps, stage in (
                (backbone(crop[None]), want["features"][number]),
                (backbone(normalized(image)[None]), whole),
            ):
                assert list(maps.shape) == stage["shape"]
                got = [maps.double().mean(), maps.double().std(correction=0)]
                kits.assert_parity("db_cnn", "S-CNN maps", got, [stage["mean"], stage["std"]], rtol=1e-6)
            means = backbone(crop[None]).mean((0, 2, 3))[:8]
            wanted = want["features"][number]["channel_means_first8"]
            kits.assert_parity("db_cnn", "S-CNN channels", means, wanted, rtol=1e-4)


def test_published_scnn_is_found_by_its_name(scnn_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path))
    (tmp_path / SCNN_FILE.filename).write_bytes(scnn_file.read_bytes())
    named, given = (DBCNN(**{**SMALL, "scnn_weights": one}).initialize() for one in ("published", scnn_file))
    for one, other in zip(named.network_.parameters(), given.network_.parameters(), strict=True):
        assert torch.equal(one, other)


def test_scnn_of_another_kind_is_refused(tmp_path):
    # The variant without BatchNorm has convolutions at 0, 2, 4, ...
    torch.save({"module.features.2.weight": torch.zeros(48, 48, 3, 3)}, tmp_path / "scnn_nobn.pkl")
    with pytest.raises(ValueError, match=r"scnn_weights='.*scnn_nobn.pkl' does not fit SCNN"):
        DBCNN(**{**SMALL, "scnn_weights": tmp_path / "scnn_nobn.pkl"}).initialize()


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return DBCNN(**SMALL).initialize()


def test_features_are_unit_vectors_of_root_products(small):
    image, network = picture(64, 64), small.network_
    pixels, own = normalized(image)[None], to_tensor(image)[None] * 2 - 1  # test_resnet has mean and deviation 0.5
    with torch.inference_mode():
        distortions = network.features2(pixels)[0].flatten(1)  # (128, 16)
        (classes,) = network.features1.forward_intermediates(own, indices=[network.level], intermediates_only=True)
        features = network.features(pixels)
    products = np.einsum("ap,bp->ab", classes[0].flatten(1).relu(), distortions) / 16
    expected = np.sqrt(products + 1e-8).ravel()
    np.testing.assert_allclose(features[0], expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-8)


def test_score_does_not_depend_on_batch_mates(small):
    images = [*pictures(), picture(50, 67)]
    alone = np.concatenate([small.predict([image]) for image in images])
    np.testing.assert_allclose(small.predict(images), alone, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(small.predict(images), small.predict(images))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "convnext_atto", "tf_efficientnet_lite0"])
def test_other_backbones_give_maps_of_stride_16(backbone):
    estimator = DBCNN(**{**SMALL, "backbone": backbone}).initialize()
    with torch.inference_mode():
        maps = estimator.network_.features1.forward_intermediates(
            torch.zeros(1, 3, 64, 96), indices=[estimator.network_.level], intermediates_only=True
        )
    assert maps[0].shape[2:] == (4, 6)
    assert np.isfinite(estimator.predict([picture(64, 96)])).all()


def test_a_pass_copies_nothing_to_the_device(small, monkeypatch):
    images = torch.rand(2, 3, 64, 64)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    with torch.inference_mode():
        assert small.network_(images).shape == (2,)


def test_each_backbone_sees_its_own_normalisation(monkeypatch):
    # tf_efficientnet_lite0 was trained with mean and deviation 0.5 (timm's description of it).
    network = DBCNN(**{**SMALL, "backbone": "tf_efficientnet_lite0"}).initialize().network_
    seen = []
    original = network.features1.forward_intermediates
    monkeypatch.setattr(
        network.features1, "forward_intermediates", lambda x, **kw: (seen.append(x), original(x, **kw))[1]
    )
    image = picture(32, 32)
    with torch.inference_mode():
        network(normalized(image)[None])
    np.testing.assert_allclose(seen[0][0], to_tensor(image) * 2 - 1, atol=1e-6)


# Training -------------------------------------------------------------------------------------------------------------


def changed(before, after):
    """Parts of the network whose parameters differ."""
    return {
        name.partition(".")[0]
        for name in before
        if "num_batches" not in name and "running" not in name
        if not torch.equal(before[name], after[name])
    }


def changes(monkeypatch):
    """Names, modules and optimisers of the stages, and what changed in them, as they run."""
    seen, original = [], DBCNN._run

    def run(self, net, data, n_epochs, callbacks, name):
        before = {key: value.clone() for key, value in self.network_.state_dict().items()}
        losses = original(self, net, data, n_epochs, callbacks, name)
        seen.append((name, type(net.optimizer_), len(data), changed(before, self.network_.state_dict())))
        return losses

    monkeypatch.setattr(DBCNN, "_run", run)
    return seen


def test_stages_train_scnn_then_last_layer_then_all(monkeypatch):
    seen = changes(monkeypatch)
    estimator = DBCNN(**{**SMALL, "scnn_epochs": 1, "head_epochs": 2}).fit(pictures()[:2], MOS[:2])
    assert seen == [
        ("DBCNN, S-CNN", torch.optim.SGD, 2 * 39, {"features2"}),  # every image in every class
        ("DBCNN, last layer", torch.optim.SGD, 2, {"fc"}),
        ("DBCNN", torch.optim.Adam, 2, {"features1", "features2", "fc"}),
    ]
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 1
    estimator.partial_fit(pictures()[:2], MOS[:2])
    assert [name for name, *_ in seen[3:]] == ["DBCNN"]  # it goes on where it stands


@pytest.mark.parametrize("given", ["scnn_weights", "weights"])
def test_what_is_given_is_not_trained_before(given, tmp_path, monkeypatch):
    network = DBCNN(**SMALL).initialize().network_
    state_dicts.save_state(
        SCNN(network.features2) if given == "scnn_weights" else network, tmp_path / "given.safetensors"
    )
    seen = changes(monkeypatch)
    parameters = {**SMALL, "scnn_epochs": 1, "head_epochs": 1, given: tmp_path / "given.safetensors"}
    DBCNN(**parameters).fit(pictures(), MOS)
    assert [name for name, *_ in seen] == ["DBCNN, last layer"] * (given == "scnn_weights") + ["DBCNN"]


def test_classes_are_39_kinds_and_levels():
    # The sheet: nine kinds, seven of five levels and two of two.
    kinds = [kind for kind, _ in CLASSES]
    assert len(set(CLASSES)) == 39
    assert sorted(kinds.count(kind) for kind in set(kinds)) == [2, 2, 5, 5, 5, 5, 5, 5, 5]
    assert set(kinds) <= set(DISTORTIONS)


def test_crops_are_distorted_as_their_class_says():
    estimator = DBCNN(**SMALL).initialize()
    image, views = picture(60, 80), {}
    for number in range(len(CLASSES)):
        torch.manual_seed(0)  # one place and one flip for all
        views[CLASSES[number]] = estimator._distorted_crop(image, np.eye(39)[number])
    assert all(view.shape == (3, 32, 32) for view in views.values())
    deviation = {level: views["white_noise", level].sub(views["jpeg", 1]).std() for level in (1, 5)}
    assert deviation[5] > 2 * deviation[1]
    assert views["brighten", 5].mean() > views["jpeg", 1].mean() > views["darken", 5].mean()
    torch.manual_seed(0)
    again = estimator._distorted_crop(image, np.eye(39)[CLASSES.index(("white_noise", 5))])
    assert torch.equal(again, views["white_noise", 5])
    other = estimator._distorted_crop(image, np.eye(39)[CLASSES.index(("white_noise", 5))])
    assert not torch.equal(again, other)  # another place and other noise: made on the fly


def test_training_crops_are_enlarged_where_images_are_small():
    estimator = DBCNN(**{**SMALL, "crop_size": 64}).initialize()
    assert estimator._train_view(picture(20, 100)).shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"backbone": "test_vit"}, "'test_vit' takes images of one size; give a convolutional network"),
        ({"backbone": "vit_base_patch32_224.augreg_in21k", "crop_size": 32}, "takes images of one size"),
        ({"crop_size": 15}, r"'crop_size' parameter of DBCNN must be an int in the range \[16, inf\)"),
        ({"head_lr": 0.0}, r"'head_lr' parameter of DBCNN must be a float in the range \(0.0, inf\)"),
        ({"scnn_epochs": -1}, r"'scnn_epochs' parameter of DBCNN must be an int in the range \[0, inf\)"),
        ({"scnn_batch_size": 1}, r"'scnn_batch_size' parameter of DBCNN must be an int in the range \[2, inf\)"),
        ({"scnn_lr": 0.0}, r"'scnn_lr' parameter of DBCNN must be a float in the range \(0.0, inf\)"),
        ({"head_epochs": -1}, r"'head_epochs' parameter of DBCNN must be an int in the range \[0, inf\)"),
        ({"weight_decay": -1.0}, r"'weight_decay' parameter of DBCNN must be a float in the range \[0.0, inf\)"),
        ({"scnn_weights": 5}, "'scnn_weights' parameter of DBCNN must be an instance of 'str', .* or None"),
    ],
)
def test_parameters_that_cannot_be(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        DBCNN(**{**SMALL, **parameters}).initialize()


def test_missing_scnn_weights_are_named():
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.pth"):
        DBCNN(**{**SMALL, "scnn_weights": "/nowhere.pth"}).initialize()


# Recipe ---------------------------------------------------------------------------------------------------------------


def places(maps, side, scale=1.0):
    """Left and top of the squares of `side` that views show, in pixels of an image `scale` times as small, flipped?"""
    flipped = maps[:, 0, 0] < 0
    np.testing.assert_allclose(np.abs(maps[:, [0, 1], [0, 1]]), scale, rtol=0.02)
    assert (maps[:, 1, 1] > 0).all()  # never upside down
    first = maps[:, [0, 1], 2] + np.where(flipped, (side - 1) * maps[:, 0, 0], 0)[:, None] * [1, 0]
    return (first + 0.5) / scale - 0.5, flipped


def test_training_crops_are_cut_anywhere_at_native_size_and_flipped():
    lowest, flipped = places(coordinate_maps(DBCNN(**SMALL)._train_view, 36, 40, n=300), 32)
    np.testing.assert_allclose(lowest, lowest.round(), atol=0.1)
    assert [set(axis) for axis in lowest.round().T] == [set(range(9)), set(range(5))]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)


def test_crops_of_the_scnn_are_cut_from_images_resized_a_seventh_larger(monkeypatch):
    seen, seeds = [], set()

    def keep(image, kind, level, random_state):
        seen.append((kind, level))
        seeds.add(random_state)
        return image

    monkeypatch.setattr(db_cnn, "distort", keep)
    estimator = DBCNN(**SMALL).initialize()
    # The shorter side becomes 32 * 256 / 224 = 37 pixels, half of what it is.
    maps = coordinate_maps(lambda image: estimator._distorted_crop(image, np.eye(39)[7]), 74, 80, n=300)
    lowest, flipped = places(maps, 32, scale=2.0)
    np.testing.assert_allclose(lowest, lowest.round(), atol=0.2)
    assert [set(axis) for axis in lowest.round().T] == [set(range(9)), set(range(6))]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)
    assert len(seeds) == len(seen) > 300  # other noise in every crop
    seen.clear()
    for row in np.eye(39):
        estimator._distorted_crop(picture(40, 48), row)
    assert tuple(seen) == CLASSES


def test_crops_of_the_scnn_have_its_own_side_and_the_normalisation_of_imagenet(monkeypatch):
    monkeypatch.setattr(db_cnn, "distort", lambda image, *args, **kwargs: image)
    view = DBCNN()._distorted_crop(np.full((260, 300, 3), 255, np.uint8), np.eye(39)[0])
    assert view.shape == (3, 224, 224)  # not the 384 of the other stages
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(view[:, 0, 0], torch.tensor(white))


def test_scnn_sees_every_image_in_every_class_in_batches_of_its_own():
    with recorded() as phases:
        DBCNN(**{**SMALL, "scnn_epochs": 2, "scnn_batch_size": 40, "scnn_lr": 0.02}).fit(pictures()[:2], MOS[:2])
    scnn = phases[0]
    assert scnn.shapes == [(39, 3, 32, 32)] * 4  # 78 in two batches, and again
    for epoch in (0, 2):
        classes = torch.cat(scnn.targets[epoch : epoch + 2])
        assert set(classes.unique().tolist()) == {0.0, 1.0}
        assert classes.sum(0).tolist() == [2] * 39
        assert (classes.sum(1) == 1).all()
    np.testing.assert_allclose(np.ravel(scnn.rates), [0.02, 0.02, 0.02e-3, 0.02e-3])


def test_losses_are_cross_entropy_and_squared_error_of_labels_in_0_to_1(monkeypatch):
    losses, original = [], DBCNN._net

    def net(self, module, loss, *args):
        losses.append(loss)
        return original(self, module, loss, *args)

    monkeypatch.setattr(DBCNN, "_net", net)
    with recorded() as phases:
        DBCNN(**{**SMALL, "scnn_epochs": 1, "head_epochs": 1}).fit(pictures(), MOS)
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert losses[0](logits, torch.eye(2)).item() == pytest.approx(np.log(2))
    for loss, phase in zip(losses[1:], phases[1:], strict=True):
        assert loss(torch.tensor([0.2, 0.4]), torch.tensor([0.5, 0.5])).item() == pytest.approx(0.05)  # (.09 + .01) / 2
        np.testing.assert_allclose(sorted(torch.cat(phase.targets).tolist()), [0, 1 / 3, 2 / 3, 1], atol=1e-6)
        assert np.sort(np.concatenate(phase.rows)).tolist() == [0, 1, 2, 3]


def test_layers_start_as_kaiming_says():
    network = DBCNN(**SMALL).initialize().network_
    scnn = SCNN(network.features2)
    layers = [one for one in [*scnn.modules(), network.fc] if isinstance(one, nn.Conv2d | nn.Linear)]
    assert len(layers) == 13
    for layer in layers:
        assert not layer.bias.any()
        n_inputs = layer.weight[0].numel()
        # Standard error of a deviation of n numbers: 1 / sqrt(2 n), at most 2 % in the first layer.
        assert layer.weight.std().item() == pytest.approx((2 / n_inputs) ** 0.5, rel=0.06)


class States(skorch.callbacks.Callback):
    """The network after every epoch of the last layer alone, and the training loss."""

    def __init__(self, network):
        self.network, self.states, self.losses = network, [], []

    def on_epoch_end(self, net, **kwargs):
        self.states.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        self.losses.append(net.history[-1, "train_loss"])


def head_alone(monkeypatch, **parameters):
    """Train; states and losses of the stage of the last layer, and the state that the next stage starts from."""
    original, found = DBCNN._run, {}

    def run(self, net, data, n_epochs, callbacks, name):
        if name == "DBCNN":
            found["next"] = {key: tensor.clone() for key, tensor in self.network_.state_dict().items()}
        else:
            found["states"] = States(self.network_)
            callbacks = [*callbacks, found["states"]]
        original(self, net, data, n_epochs, callbacks, name)

    monkeypatch.setattr(DBCNN, "_run", run)
    DBCNN(**{**SMALL, **parameters}).fit(pictures(), MOS)
    return found["states"], found["next"]


def equal(state, other):
    return all(torch.equal(state[name], other[name]) for name in state)


def test_all_layers_start_from_the_epoch_of_the_last_layer_with_the_lowest_loss(monkeypatch):
    # A rate at which the loss rises and falls: 0.38, 0.47, 0.19, 0.47, 0.13, 0.42, 0.04, 0.46.
    seen, start = head_alone(monkeypatch, head_epochs=8, head_lr=0.7)
    best = int(np.argmin(seen.losses))
    assert best not in (0, 7)
    assert [equal(state, start) for state in seen.states] == [epoch == best for epoch in range(8)]


def test_held_out_rows_choose_the_epoch_of_the_last_layer(monkeypatch):
    scores = iter([0.1, 0.7, 0.3, -0.2, 0.5])

    def held_out_score(self, rows, targets, held_out, sample_weight):
        assert len(held_out) == 2
        return lambda: next(scores)

    monkeypatch.setattr(DBCNN, "_held_out_score", held_out_score)
    stopping = {"early_stopping": True, "validation_fraction": 0.5}
    seen, start = head_alone(monkeypatch, head_epochs=4, **stopping)
    assert [equal(state, start) for state in seen.states] == [False, True, False, False]
    assert next(scores, None) is None  # and one for the epoch of all layers


def test_statistics_move_while_the_last_layer_trains_alone(monkeypatch):
    seen, _ = head_alone(monkeypatch, head_epochs=1)
    before = DBCNN(**SMALL).initialize().network_.state_dict()
    moved = {name for name, tensor in seen.states[0].items() if not torch.equal(tensor, before[name])}
    assert {name for name in moved if "running" not in name and "num_batches" not in name} == {"fc.weight", "fc.bias"}
    statistics = {name for name in before if "running" in name}
    assert any(name.startswith("features2") for name in statistics)
    assert statistics <= moved


# Learning -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lite0_wheel")
def test_learns_noise_and_blur():
    photographs = load_photographs(size=72).images
    made = make_distorted(photographs, distortions=["white_noise", "gaussian_blur"], random_state=0)
    held_out = np.isin(made.groups, [1, 4, 7])
    rows, new = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    X_new, y_new = [made.images[i] for i in new], made.target[new]
    estimator = DBCNN(
        backbone="tf_efficientnet_lite0",
        backbone_weights="bundled",
        scnn_epochs=0,
        head_epochs=2,
        head_lr=0.1,
        crop_size=64,
        max_epochs=6,
        lr=1e-3,
        random_state=0,
        device="cpu",
    )
    before = estimator.initialize().score(X_new, y_new)
    after = estimator.fit([made.images[i] for i in rows], made.target[rows]).score(X_new, y_new)
    # measured on three held-out photographs: -0.21 before, 0.88 after training; with random_state=1, -0.04 and 0.85
    assert after >= 0.80 > 0.60 > before

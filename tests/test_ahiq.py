# SPDX-License-Identifier: BSD-3-Clause
"""AHIQ: the official code's numbers, what its parts must do, and that it learns."""

import copy
import math

import kits
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from recipes import coordinate_maps
from recipes import recorded as training_recorded

from sklearn_iqa import AHIQ, make_pairs
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import crop_at, grid_positions, to_tensor
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.full_reference._frozen_backbones import freeze_and_truncate
from sklearn_iqa.full_reference.ahiq import DeformNet

KIT = kits.read("ahiq")
# Tighter than the kit's suggestion (rtol 1e-3, atol 1e-5): measured differences are below 2e-7.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
SIDE, PATCH = 160, 16  # input and patch size of test_vit
SMALL = {
    "vit": "test_vit",
    "vit_layers": (0, 1),
    "cnn": "mobilenetv3_small_050",
    "cnn_layers": ("blocks.1.0",),
    "embed_dim": 8,
    "n_crops": 3,
    "backbone_weights": None,
    "random_state": 0,
    "device": "cpu",
}


def picture(height, width, seed=0):
    return kits.images(seed, sizes=((height, width),))[0]


def pair(height, width, seed=0):
    """A blurred query and its reference."""
    reference = picture(height, width, seed)
    rolled = (np.roll(reference, shift, axis=1).astype(np.float64) for shift in (-1, 0, 1))
    return np.rint(sum(rolled) / 3).astype(np.uint8), reference


@pytest.fixture(scope="module")
def small():
    return AHIQ(**SMALL).initialize()


# Official numbers -----------------------------------------------------------------------------------------------------


def kit_pairs():
    """Pairs of the kit as it describes them, in its order."""
    pairs = []
    for number, image in enumerate(kits.images(0)):
        reference = image[20:244, 100:324]
        shifted = 0.7 * reference + 0.3 * np.roll(reference.astype(np.float64), 4, axis=1)
        noise = 10.0 * np.random.default_rng([0, number, 77]).normal(size=reference.shape)
        pairs.append((np.clip(np.rint(shifted + noise), 0, 255).astype(np.uint8), reference))
        pairs.append(((reference // 32) * 32 + 16, reference))
    return pairs


def kit_scores(estimator):
    """Scores of the kit's four pairs, of which two share a reference each."""
    views = torch.stack([estimator._pixels(one) for one in kit_pairs()])
    scores = []
    with torch.inference_mode():
        for first in (0, 2):
            encoded = estimator.network_.encode_reference(views[first : first + 1, 1])
            scores += [estimator.network_.compare(views[i : i + 1, 0], encoded) for i in (first, first + 1)]
    return torch.cat(scores)


@pytest.fixture(scope="module")
def official_state():
    """What of the kit's state has a place here; the rest would be thrown away behind half a minute of filling."""
    key_map = AHIQ().key_map
    return kits.fill(KIT, [entry for entry in KIT["manifest"] if state_dicts.rename_keys({entry[0]: 0}, key_map)])


@pytest.fixture(scope="module")
def full(official_state):
    estimator = AHIQ(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, official_state)
    return estimator


@pytest.fixture(scope="module")
def recorded(full):
    """Scores, and what the parts gave for the kit's first reference and then for its first query, by name."""
    network, outputs = full.network_, {}
    parts = ("conv_offset", "conv1"), ("down_channel", "feat_smoothing", "conv", "conv_attent")
    modules = {name: network.deform_net.get_submodule(name) for name in parts[0]}
    modules |= {f"regressor.{name}": network.regressor.get_submodule(name) for name in parts[1]}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.setdefault(name, []).append(output))
        for name, module in modules.items()
    ]

    def keep(name, function):
        def kept(images):
            outputs.setdefault(name, []).append(function(images))
            return outputs[name][-1]

        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "_context", keep("context", network._context))
        patch.setattr(network, "_texture", keep("texture", network._texture))
        outputs["score"] = kit_scores(full)
    for hook in hooks:
        hook.remove()
    return outputs


def test_scores_are_the_official_ones(recorded):
    kits.assert_parity("ahiq", "output", recorded["score"], KIT["output"], **TOLERANCE)


STAGES = {  # name in the kit -> part, 0 for the reference and 1 for the query, channels
    "vit feature query (5 blocks concatenated, B C H W)": ("context", 1, slice(None)),
    "vit block 0 slice [0:768]": ("context", 1, slice(0, 768)),
    "vit block 4 slice [3072:3840]": ("context", 1, slice(3072, 3840)),
    "resnet layer1 concat query": ("texture", 1, slice(None)),
    "conv_offset output (from reference ViT)": ("conv_offset", 0, slice(None)),
    "deform_net output query": ("conv1", 1, slice(None)),
    "deform_net output reference": ("conv1", 0, slice(None)),
    "down_channel query": ("regressor.down_channel", 1, slice(None)),
    "feat_smoothing": ("regressor.feat_smoothing", 0, slice(None)),
    "score map f": ("regressor.conv", 0, slice(None)),
    "weight map w": ("regressor.conv_attent", 0, slice(None)),
}


@pytest.mark.parametrize("stage", KIT["stages"])
def test_stages_are_the_official_ones(recorded, stage):
    part, call, channels = STAGES[stage]
    output, expected = recorded[part][call][:, channels].double(), KIT["stages"][stage]
    assert list(output.shape) == expected["shape"]
    moments = [output.mean(), output.std()]
    kits.assert_parity("ahiq", stage, moments, [expected["mean"], expected["std"]], **TOLERANCE)


def test_offsets_are_made_once_for_a_pair(recorded):
    assert len(recorded["conv_offset"]) == 2  # two references, four queries


def test_scores_with_patches_of_16_are_the_official_ones(full, official_state):
    estimator = AHIQ(vit="vit_base_patch16_224.augreg_in21k_ft_in1k", backbone_weights=None, device="cpu")
    # The kit: names and shapes as above, but for these two.
    shapes = {"vit.pos_embed": (1, 197, 768), "vit.patch_embed.proj.weight": (768, 3, 16, 16)}
    other = {
        name: torch.from_numpy(kits.fill_tensor(name, shape, KIT["weights_seed"])) for name, shape in shapes.items()
    }
    kits.load(estimator, {**official_state, **other})
    expected = KIT["variants"]["patch16"]["output"]
    kits.assert_parity("ahiq", "patch 16", kit_scores(estimator), expected, **TOLERANCE)


def test_loss_is_the_official_one(full):
    mse = KIT["losses"]["mse"]
    loss = full._loss()(torch.tensor(mse["inputs"]["pred"]), torch.tensor(mse["inputs"]["label"]))
    kits.assert_parity("ahiq", "mse", loss, mse["value"], **TOLERANCE)


def test_official_state_fits_by_its_names(full):
    official = dict.fromkeys(name for name, _, _ in KIT["manifest"])
    assert state_dicts.rename_keys(official, full.key_map).keys() == full.network_.state_dict().keys()


# Parts ----------------------------------------------------------------------------------------------------------------


def test_score_is_a_weighted_mean_of_positions(small):
    pairs = torch.stack([small._pixels(pair(SIDE, SIDE, seed)) for seed in range(3)])
    with torch.inference_mode():
        output = small.network_(pairs)
        scores, weights = small.network_.positions(pairs[:, 0], small.network_.encode_reference(pairs[:, 1]))
    assert scores.shape == weights.shape == (3, SIDE // PATCH, SIDE // PATCH)
    assert ((weights > 0) & (weights < 1)).all()
    expected = [np.average(s, weights=w) for s, w in zip(scores.numpy(), weights.numpy(), strict=True)]
    np.testing.assert_allclose(output, expected, rtol=1e-5)


def test_deformable_convolution_follows_its_offsets():
    torch.manual_seed(0)
    net, texture = DeformNet(4, 3, 8, 1), torch.randn(2, 3, 12, 12)
    weight, bias = net.deform.weight, net.deform.bias
    still = net.deform(texture, torch.zeros(2, 18, 12, 12))
    torch.testing.assert_close(still, F.conv2d(texture, weight, bias, padding=1))  # no offset: a plain convolution
    # One row down at each of the nine places: the plain convolution of the image moved up by a row. The pairs of an
    # offset are (y, x). The last rows look beyond the border.
    down = torch.zeros(2, 9, 2, 12, 12)
    down[:, :, 0] = 1
    moved = net.deform(texture, down.flatten(1, 2))
    torch.testing.assert_close(moved[:, :, :-2], still[:, :, 1:-1])


def test_the_reference_gives_the_offsets_of_both_images(small, monkeypatch):
    query, reference = small._pixels(pair(SIDE, SIDE))[:, None]
    seen = []
    forward = small.network_.deform_net.deform.forward
    monkeypatch.setattr(
        small.network_.deform_net.deform,
        "forward",
        lambda texture, offsets: seen.append(offsets) or forward(texture, offsets),
    )
    with torch.inference_mode():
        small.network_(torch.stack([query, reference], dim=1))
        small.network_(torch.stack([reference, reference], dim=1))
    assert len(seen) == 4
    assert all(torch.equal(offsets, seen[0]) for offsets in seen)


def test_scores_are_not_symmetric_and_identity_is_not_special(small):
    pairs = [pair(SIDE, SIDE, seed) for seed in range(2)]
    there, back = small.predict(pairs), small.predict([one[::-1] for one in pairs])
    assert (np.abs(there / back - 1) > 1e-4).all()  # rounding is 1e-6 at most
    same = small.predict([(reference, reference) for _, reference in pairs])
    assert abs(same[0] / same[1] - 1) > 1e-4  # the features of the reference enter beside the difference


def test_nothing_behind_the_last_layers_is_kept(small):
    assert len(small.network_.vit.blocks) == 1 + max(SMALL["vit_layers"])
    kept = {".".join(name.split(".")[:3]) for name in small.network_.cnn.state_dict() if name.startswith("blocks")}
    assert kept == {"blocks.0.0", "blocks.1.0"}
    assert not [name for name in small.network_.cnn.state_dict() if name.startswith("conv_head")]


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("test_resnet", ("layer1", "layer1.0")),
        ("test_efficientnet", ("blocks.1.0.conv_exp", "blocks.1.0")),
        ("test_resnet", ("conv1",)),
    ],
)
def test_truncation_changes_no_layer(backbone, layers):
    torch.manual_seed(0)
    backbone, images = timm_backbones.build_backbone(backbone, num_classes=0).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        before = torch.cat(timm_backbones.layer_outputs(backbone, list(layers), images), dim=1)
        n_before = len(backbone.state_dict())
        shape = freeze_and_truncate(backbone, layers, 32)
        after = torch.cat(timm_backbones.layer_outputs(backbone, list(layers), images), dim=1)
    assert torch.equal(before, after)
    assert shape == before.shape[1:]
    assert len(backbone.state_dict()) < n_before
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# Inference ------------------------------------------------------------------------------------------------------------


def test_score_is_the_mean_over_crops_of_both_images(small):
    one = pair(200, 250)
    pixels = small._pixels(one)
    crops = torch.stack([crop_at(pixels, place, SIDE) for place in grid_positions(*one[0].shape[:2], SIDE, 3)])
    with torch.inference_mode():
        each = [small.network_(crops[i : i + 1]).item() for i in (2, 0, 1)]
    assert len(set(each)) == 3
    np.testing.assert_allclose(small.predict([one]), np.mean(each), rtol=1e-5)


def test_random_crops_follow_reference_and_seed(small):
    query, reference = pair(200, 250)
    estimator = copy.copy(small).set_params(crops="random")  # of the same network
    views = estimator._views((query, reference))
    torch.rand(1)
    of_another_query = estimator._views((reference, reference.copy()))
    with_other_seed = estimator.set_params(random_state=1)._views((query, reference))
    without_seed = estimator.set_params(random_state=None)._views((query, reference))
    assert views.shape == (3, 2, 3, SIDE, SIDE)
    assert torch.equal(of_another_query[:, 1], views[:, 1])  # so that queries share what the reference gives
    assert torch.equal(of_another_query[:, 0], views[:, 1])  # and both images are cut at the same places
    assert not torch.equal(with_other_seed, views)
    assert torch.equal(without_seed, views)  # counts as the seed 0


@pytest.mark.parametrize(("shape", "enlarged"), [((80, 100), (160, 200)), ((500, 90), (888, 160))])
def test_small_pairs_are_enlarged(small, shape, enlarged):
    one = pair(*shape)
    # Pillow wants (width, height); 500 * 160 / 90 = 888.9 is cut, not rounded.
    by_hand = [np.asarray(Image.fromarray(x).resize(enlarged[::-1], Image.Resampling.BICUBIC)) for x in one]
    np.testing.assert_array_equal(small.predict([one]), small.predict([by_hand]))


def test_pixels_are_mapped_to_minus_one_to_one_for_both_backbones(small):
    # The sheet: (x / 255 - 0.5) / 0.5.
    black, white = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 255, np.uint8)
    assert small._pixels((black, white)).mean((1, 2, 3)).tolist() == [-1, 1]


# Maps -----------------------------------------------------------------------------------------------------------------


def test_map_of_one_crop_holds_the_scores_of_positions(small):
    one = pair(SIDE, SIDE)
    views = small._pixels(one)[None]
    with torch.inference_mode():
        scores, weights = small.network_.positions(views[:, 0], small.network_.encode_reference(views[:, 1]))
    quality = small.quality_map(one)
    expected = scores[0].numpy().repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    np.testing.assert_allclose(quality, expected, rtol=1e-5, atol=1e-6)
    weights = weights[0].numpy().repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    np.testing.assert_allclose(np.average(quality, weights=weights), small.predict([one]), rtol=1e-5)


def test_map_lies_over_the_image(small, monkeypatch):
    # Blocks of 16 pixels; crops of 160 stand at 0, 16, 32 in a side of 192 and at 0, 32, 64 in one of 224, so that
    # positions and blocks are the same. The query's first channel is the score, so the map must be the query.
    query, reference = np.random.default_rng(0).uniform(size=(2, 12, 14, 3)).astype(np.float32)

    def positions(queries, encoded):
        colours = F.avg_pool2d(queries, PATCH) / 2 + 0.5
        return colours[:, 0], F.avg_pool2d(encoded, PATCH)[:, 1] / 2 + 0.6

    monkeypatch.setattr(small.network_, "encode_reference", lambda references: references)
    monkeypatch.setattr(small.network_, "positions", positions)
    images = [blocks.repeat(PATCH, axis=0).repeat(PATCH, axis=1) for blocks in (query, reference)]
    np.testing.assert_allclose(small.quality_map(images), images[0][:, :, 0], atol=1e-5)


def test_map_averages_overlapping_crops_by_weight(small, monkeypatch):
    # 160 x 192: three crops, at columns 0, 16 and 32. The first scores 1 with weight 1, the others 4 with weight 2.
    answers = iter([(1.0, 1.0), (4.0, 2.0), (4.0, 2.0)])
    full = torch.full
    monkeypatch.setattr(
        small.network_, "positions", lambda *_: tuple(full((1, 10, 10), number) for number in next(answers))
    )
    quality = small.quality_map(pair(SIDE, 192))
    # First alone; first and second: (1 + 8) / 3; all: (1 + 8 + 8) / 5; then the others alone.
    expected = np.repeat([1.0, 3.0, 3.4, 4.0], [16, 16, 128, 32])
    np.testing.assert_allclose(quality, np.tile(expected, (SIDE, 1)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(100, 130), (161, 160), (90, 400)])
def test_map_has_the_size_of_the_image(small, shape):
    quality = small.quality_map(pair(*shape))
    assert quality.shape == shape
    assert quality.dtype == np.float32
    assert np.isfinite(quality).all()


# Training -------------------------------------------------------------------------------------------------------------


def test_training_changes_what_follows_the_frozen_backbones():
    X, y = [pair(SIDE, SIDE, seed) for seed in range(4)], [20.0, 40.0, 60.0, 80.0]
    fresh = AHIQ(**SMALL).initialize().network_.state_dict()
    estimator = AHIQ(**SMALL, max_epochs=1, batch_size=2).fit(X, y)
    for name, tensor in estimator.network_.state_dict().items():
        assert torch.equal(tensor, fresh[name]) == name.startswith(("vit.", "cnn.")), name
    assert estimator.label_scale_ == (60.0, 20.0)  # 0..1 -> 20..80
    with torch.inference_mode():
        raw = estimator.network_(estimator._pixels(X[0])[None]).item()
    np.testing.assert_allclose(estimator.predict(X[:1]), 60 * raw + 20, rtol=1e-6)
    quality = estimator.quality_map(X[0])
    assert quality.min() <= 60 * raw + 20 <= quality.max()


def test_backbones_stay_in_eval_mode(small):
    network = small.network_.train()
    assert network.regressor.training
    assert not any(module.training for backbone in (network.vit, network.cnn) for module in backbone.modules())
    network.eval()


def test_learning_rate_swings_over_all_calls():
    X, y = [pair(SIDE, SIDE, seed) for seed in range(4)], [1.0, 2.0, 3.0, 4.0]
    estimator = AHIQ(**SMALL, batch_size=2)
    for n_epochs in (1, 2):
        estimator.partial_fit(X, y)
        # Two batches per epoch: the last one of n epochs has t = 2 n - 1 before it. As in the official script, the rate
        # is lr (1 + cos(pi t / 50)) / 2: cosine annealing with T_max = 50, stepped per batch.
        t = 2 * n_epochs - 1
        group = estimator.net_.optimizer_.param_groups[0]
        assert group["lr"] == pytest.approx(1e-4 * (1 + math.cos(math.pi * t / 50)) / 2)
        assert group["weight_decay"] == 1e-5


def random_backbones(photographs, path):
    """A file for `backbone_weights`: random numbers, whose batch normalisation has seen photographs.

    Without that the texture of a random CNN is so faint that training takes too long for a test.
    """
    torch.manual_seed(0)
    vit, cnn = (timm_backbones.build_backbone(SMALL[backbone], num_classes=0) for backbone in ("vit", "cnn"))
    for module in cnn.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics are those of the one batch
    with torch.no_grad():
        cnn.train().forward_features(torch.stack([2 * to_tensor(image) - 1 for image in photographs]))
    torch.save({"vit": vit.state_dict(), "cnn": cnn.state_dict()}, path)


def test_ahiq_learns_noise(tmp_path):
    # A check of the training, no measure of the method: one kind of distortion, a small backbone, three photographs
    # that training has not seen.
    photographs = load_photographs(size=SIDE).images
    made = make_distorted(photographs, distortions=["white_noise"], random_state=0)
    X, held_out = make_pairs(made.images, made.references), np.isin(made.groups, [1, 4, 7])
    rows, new = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    X_new, y_new = [X[i] for i in new], made.target[new]
    random_backbones(
        [made.references[i] for i in rows[::5]], tmp_path / "backbones.pth"
    )  # five levels of each photograph
    settings = {"backbone_weights": tmp_path / "backbones.pth", "embed_dim": 32, "n_crops": 1}
    ahiq = AHIQ(**{**SMALL, **settings}, lr=1e-3, batch_size=2, max_epochs=14)
    before = ahiq.initialize().score(X_new, y_new)
    after = ahiq.fit([X[i] for i in rows], made.target[rows]).score(X_new, y_new)
    # Measured on held-out photographs with random_state 0, 1, 2: untrained 0.00, -0.08, 0.08; trained 0.92, 0.97, 0.85.
    assert after > 0.8 > 0.6 > before


# Recipe ---------------------------------------------------------------------------------------------------------------
# Optimiser, rates and what trains: test_recipes.py; the loss: parity.


def test_training_cuts_anywhere_and_flips_left_and_right_only(small):
    maps = coordinate_maps(lambda image: small._train_view((image, image))[0], 168, 176, n=100)
    flipped = maps[:, 0, 0] < 0
    sign = np.where(flipped, -1, 1)[:, None, None]
    expected = np.eye(2) * np.concatenate([sign, np.ones_like(sign)], axis=1)
    np.testing.assert_allclose(maps[:, :, :2], expected, atol=0.01)
    # Corners of the crops, which are 160 wide; a mirrored one counts from its end.
    left = np.where(flipped, maps[:, 0, 2] - (SIDE - 1), maps[:, 0, 2]).round()
    top = maps[:, 1, 2].round()
    assert (left.min(), left.max(), top.min(), top.max()) == (0, 16, 0, 8)


def test_half_of_the_crops_are_flipped(small):
    one = pair(SIDE, SIDE)
    mirrored = small._pixels(one).flip(-1)
    torch.manual_seed(0)
    n_flipped = sum(torch.equal(small._train_view(one), mirrored) for _ in range(400))
    assert 160 <= n_flipped <= 240  # four standard deviations about a half


def test_both_images_are_cut_and_flipped_alike(small):
    reference = picture(176, 200)
    torch.manual_seed(0)
    views = [small._train_view((reference, reference)) for _ in range(10)]
    assert all(torch.equal(*view) for view in views)
    assert len({view[0].numpy().tobytes() for view in views}) > 5


def test_every_epoch_has_one_crop_of_every_pair_and_labels_in_0_to_1():
    X, y = [pair(SIDE, SIDE, seed) for seed in range(6)], [20.0, 40.0, 60.0, 80.0, 100.0, 120.0]
    with training_recorded() as phases:
        AHIQ(**SMALL, max_epochs=2).fit(X, y)
    (phase,) = phases
    assert [len(rows) for rows in phase.rows] == [3, 3, 3, 3]  # the default is batches of four, made even
    np.testing.assert_array_equal(np.sort(np.reshape(phase.rows, (2, 6))), np.tile(np.arange(6), (2, 1)))
    assert set(phase.shapes) == {(3, 2, 3, SIDE, SIDE)}
    for rows, targets in zip(phase.rows, phase.targets, strict=True):
        np.testing.assert_allclose(targets, np.array(rows) / 5, rtol=1e-6)


# Weights and errors ---------------------------------------------------------------------------------------------------


def official_file(network, path, *, numpy_name="numpy._core.multiarray"):
    """The trained parts as the official script saves them, among optimiser, schedule and a loss of NumPy."""
    optimizer = torch.optim.Adam([*network.regressor.parameters(), *network.deform_net.parameters()], lr=1e-4)
    sum(parameter.sum() for group in optimizer.param_groups for parameter in group["params"]).backward()
    optimizer.step()
    content = {
        "epoch": 33,
        "regressor_model_state_dict": network.regressor.state_dict(),
        "deform_net_model_state_dict": network.deform_net.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50).state_dict(),
        "loss": np.mean([0.1, 0.2]),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)  # as a plain pickle, in which a name can be changed
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", numpy_name.encode()))


@pytest.mark.parametrize("numpy_name", ["numpy._core.multiarray", "numpy.core.multiarray"])  # of NumPy 2 and 1
def test_official_file_loads_and_the_backbones_come_from_backbone_weights(tmp_path, numpy_name):
    saved = AHIQ(**SMALL).initialize()
    backbones = {name: saved.network_.get_submodule(name).state_dict() for name in ("vit", "cnn")}
    torch.save(backbones, tmp_path / "backbones.pth")
    official_file(saved.network_, tmp_path / "best.pth", numpy_name=numpy_name)
    parameters = {**SMALL, "random_state": 1, "weights": tmp_path / "best.pth"}
    loaded = AHIQ(**{**parameters, "backbone_weights": tmp_path / "backbones.pth"})
    one = pair(SIDE, SIDE)
    np.testing.assert_array_equal(loaded.predict([one]), saved.predict([one]))
    assert not np.array_equal(AHIQ(**parameters).predict([one]), saved.predict([one]))  # other backbones


def test_official_file_of_other_widths_is_refused(small, tmp_path):
    official_file(AHIQ(**SMALL).initialize().network_, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"best\.pth.*does not fit.*of another shape.*parameters"):
        AHIQ(**{**SMALL, "embed_dim": 4}, weights=tmp_path / "best.pth").initialize()


def test_saved_weights_hold_the_backbones_whatever_the_layers(tmp_path):
    one = pair(SIDE, SIDE)
    parameters = {**SMALL, "vit_layers": (1, 5), "cnn": "test_resnet", "cnn_layers": ("layer2.0",)}
    saved = AHIQ(**parameters).initialize()
    saved.save_weights(tmp_path / "ahiq.safetensors")
    loaded = AHIQ(**{**parameters, "random_state": 1}, weights=tmp_path / "ahiq.safetensors")
    np.testing.assert_array_equal(loaded.predict([one]), saved.predict([one]))


def test_backbones_that_a_file_lacks_are_named(tmp_path):
    torch.save({"vit": AHIQ(**SMALL).initialize().network_.vit.state_dict()}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half\.pth.*mobilenetv3_small_050.*missing \(cnn\."):
        AHIQ(**{**SMALL, "backbone_weights": tmp_path / "half.pth"}).initialize()


def test_published_weights_insist_on_their_backbones():
    with pytest.raises(ValueError, match=r"'pipal22' belong to vit=.*set vit='vit_base_patch8_224\.augreg_in21k_ft"):
        AHIQ(**SMALL, weights="pipal22").initialize()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"vit": "test_resnet"}, "vit='test_resnet' is no plain vision transformer"),
        ({"vit_layers": (2, 1)}, r"vit_layers=\[2, 1\] must ascend within 0..5"),
        ({"vit_layers": (1, 6)}, r"vit_layers=\[1, 6\] must ascend within 0..5"),
        ({"vit_layers": ()}, r"'vit_layers' parameter of AHIQ must be a sequence of 1 or more members, each an int"),
        ({"vit_layers": (-1, 0)}, r"'vit_layers' parameter of AHIQ .* in the range \[0, inf\)"),
        (
            {"cnn_layers": ()},
            "'cnn_layers' parameter of AHIQ must be a sequence of 1 or more members, each an instance of 'str'",
        ),
        ({"cnn_layers": "blocks.1.0"}, "'cnn_layers' parameter of AHIQ must be a sequence"),
        ({"cnn_layers": ("blocks.0.0", "blocks.1.0")}, r"\(8, 40, 40\), \(16, 20, 20\).*have one size"),
        ({"cnn_layers": ("layer1",)}, "has no layer 'layer1'"),
        ({"cnn_layers": ("blocks.2.0",)}, r"cnn_layers=\['blocks.2.0'\] give 10 rows, but a crop has 10 of patches"),
        ({"embed_dim": 0}, r"'embed_dim' parameter of AHIQ must be an int in the range \[1, inf\)"),
        ({"crops": "centre"}, "'crops' parameter of AHIQ must be a str among .*'grid'"),
    ],
)
def test_unusable_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        AHIQ(**{**SMALL, **parameters}).initialize()

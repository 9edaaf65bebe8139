# SPDX-License-Identifier: BSD-3-Clause
"""MANIQA: the official code's numbers, what its parts must do, and that it learns."""

import math
import warnings

import kits
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from recipes import assert_cut_anywhere_and_mirrored, recorded
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from sklearn_iqa import MANIQA
from sklearn_iqa._nn.transforms import crop_at, grid_positions
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.single_input.maniqa import ScaleSwin, TransposedAttention

KIT = kits.read("maniqa")
ATOL = KIT["tolerance"]["suggested_abs"]
SIDE, PATCH = 160, 16  # input and patch size of test_vit
SMALL = {
    "backbone": "test_vit",
    "layers": (1, 2),
    "embed_dim": 16,
    "dim_mlp": 16,
    "n_heads": 2,
    "window_size": 5,
    "n_crops": 3,
    "backbone_weights": None,
    "random_state": 0,
    "device": "cpu",
}


def picture(height, width, seed=0):
    return kits.images(seed, sizes=((height, width),))[0]


@pytest.fixture(scope="module")
def small():
    """A small network whose scores differ between patches: all are above the last ReLU."""
    estimator = MANIQA(**SMALL).initialize()
    with torch.no_grad():
        estimator.network_.fc_score[3].bias.fill_(1.0)
    return estimator


# Official numbers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full():
    estimator = MANIQA(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def stages(full):
    """What the modules give for the kit's two crops, by name: "" is the score, "layers" what the ViT gives."""
    network, outputs = full.network_, {}
    names = ["", *dict.fromkeys(stage["at"].split()[0] for stage in KIT["stages"])]
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for name in names
    ]
    crops = torch.stack([full._pixels(image)[:, :224, :224] for image in kits.images(0)])
    forward = network.vit.forward_intermediates
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            network.vit, "forward_intermediates", lambda *a, **k: outputs.setdefault("layers", forward(*a, **k))
        )
        network(crops)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.fixture
def behind_the_vit(full, stages, monkeypatch):
    """Run the rest of the network on the kit's two crops, without the ViT once more."""

    def run(crops=slice(None)):
        layers = [layer[crops] for layer in stages["layers"]]
        monkeypatch.setattr(full.network_.vit, "forward_intermediates", lambda *_, **__: layers)
        with torch.inference_mode():
            return full.network_(torch.empty(len(layers[0]), 3, 224, 224))

    return run


def test_scores_are_the_official_ones(stages):
    kits.assert_parity("maniqa", "output", stages[""], KIT["output"], atol=ATOL)


@pytest.mark.parametrize("stage", KIT["stages"], ids=lambda stage: stage["at"].split()[0])
def test_stages_are_the_official_ones(stages, stage):
    name = stage["at"].split()[0]
    output = (stages[name][0] if "image 0" in stage["at"] else stages[name]).double()
    assert output.numel() == math.prod(stage["shape"])  # patches are (rows, columns) or one axis
    moments = [output.mean(), output.std(unbiased=False)]
    kits.assert_parity("maniqa", name, moments, [stage["mean"], stage["std"]], atol=ATOL)


def test_loss_is_the_official_one(full, stages):
    loss = full._loss()(stages[""], torch.tensor([0.2, 0.7]))  # the labels that the kit states
    kits.assert_parity("maniqa", "mse", loss, KIT["losses"]["mse"], atol=ATOL)


def test_five_crops_and_their_mean_are_the_official_ones(full, stages):
    extra = KIT["extra"]
    pixels = full._pixels(kits.images(0)[0])
    places = extra["five_crop_positions_top_left"]
    with torch.inference_mode():
        others = [full.network_(pixels[None, :, y : y + 224, x : x + 224]) for y, x in places[1:]]
    output = torch.cat([stages[""][:1], *others])  # the first place is the kit's first crop
    kits.assert_parity("maniqa", "five crops", output, extra["five_crop_scores"], atol=ATOL)
    kits.assert_parity("maniqa", "mean of five crops", full._score(output), extra["five_crop_mean"], atol=ATOL)


def test_scores_with_another_scale_are_the_official_ones(full, behind_the_vit, monkeypatch):
    for module in full.network_.modules():
        if isinstance(module, ScaleSwin):
            monkeypatch.setattr(module, "scale", 0.13)
    kits.assert_parity("maniqa", "scale 0.13", behind_the_vit(), KIT["extra"]["scale_0.13_output"], atol=ATOL)


def test_official_state_fits_by_its_names(full):
    official = dict.fromkeys(name for name, _, _ in KIT["manifest"])
    assert state_dicts.rename_keys(official, full.key_map).keys() == full.network_.state_dict().keys()


def test_size(full):
    # The official module has 135,747,530 parameters. Less blocks 10 and 11 of the ViT (each 7,087,872), its norm
    # (1,536) and head (769,000), and the two unused convolutions (9 * 768**2 + 768 and 9 * 384**2 + 384):
    unused = 2 * 7_087_872 + 1_536 + 769_000 + 9 * (768**2 + 384**2) + 768 + 384
    assert sum(p.numel() for p in full.network_.parameters()) == 135_747_530 - unused


def _without_mask(attention, monkeypatch):
    """Shift by hand around windows whose attention is not masked."""
    (down, right), axes = attention.shift_size, (1, 2)
    forward = attention.forward
    monkeypatch.setattr(attention, "shift_size", [0, 0])
    monkeypatch.setattr(
        attention, "forward", lambda x: forward(x.roll((-down, -right), axes)).roll((down, right), axes)
    )


def _without_shift(attention, monkeypatch):
    monkeypatch.setattr(attention, "shift_size", [0, 0])


def _in_order(attention, monkeypatch):
    """Attention among channels as the paper describes it."""

    def forward(channels):
        weight = attention.c_q(channels) @ attention.c_k(channels).mT / math.sqrt(channels.shape[-1])
        return channels + weight.softmax(-1) @ attention.c_v(channels)

    monkeypatch.setattr(attention, "forward", forward)


@pytest.mark.parametrize(
    ("leave_out", "kind"),
    [
        (_without_mask, ShiftedWindowAttention),
        (_without_shift, ShiftedWindowAttention),
        (_in_order, TransposedAttention),
    ],
    ids=["mask", "shift", "scramble"],
)
def test_quirks_count(full, behind_the_vit, monkeypatch, leave_out, kind):
    for module in list(full.network_.modules()):
        if isinstance(module, kind):
            leave_out(module, monkeypatch)
    # The kit states what its makers measured: leaving out one of them moves a score by 2e-4 or more.
    assert abs(behind_the_vit(crops=slice(1, 2)).item() - KIT["output"][1]) >= 2e-4


# Parts ----------------------------------------------------------------------------------------------------------------


def test_score_is_a_weighted_mean_of_patch_scores(small):
    crops = torch.stack([small._pixels(picture(SIDE, SIDE, seed)) for seed in range(3)])
    with torch.inference_mode():
        output, (scores, patch_weights) = small.network_(crops), small.network_.position_scores(crops)
    assert scores.shape == patch_weights.shape == (3, SIDE // PATCH, SIDE // PATCH)
    assert ((patch_weights > 0) & (patch_weights < 1)).all()
    expected = [np.average(s, weights=w) for s, w in zip(scores.numpy(), patch_weights.numpy(), strict=True)]
    np.testing.assert_allclose(output, expected, rtol=1e-5)
    assert (scores.amin((1, 2)) < output).all()
    assert (output < scores.amax((1, 2))).all()


def test_scores_are_not_negative(small):
    with torch.no_grad():
        small.network_.fc_score[3].bias.fill_(-100.0)
    scores = small.predict([picture(SIDE, SIDE)])
    with torch.no_grad():
        small.network_.fc_score[3].bias.fill_(1.0)
    assert scores == 0


def test_transposed_attention_is_attention_and_a_scramble():
    torch.manual_seed(0)
    layer, channels = TransposedAttention(4, drop=0.0), torch.randn(1, 3, 4)
    query, key, value = (linear(channels[0]).detach() for linear in (layer.c_q, layer.c_k, layer.c_v))
    attended = torch.softmax(query @ key.T / 2, dim=1) @ value  # 2 is the root of four patches
    # Read down the columns of the (3, 4) matrix, written along the rows of another.
    scrambled = np.array([attended[i % 3, i // 3] for i in range(12)]).reshape(3, 4)
    np.testing.assert_allclose(layer(channels)[0].detach(), channels[0].numpy() + scrambled, rtol=1e-5, atol=1e-6)


def test_nothing_behind_the_last_layer_is_computed(small):
    assert len(small.network_.vit.blocks) == 1 + max(SMALL["layers"])


def test_stochastic_depth_rises_over_a_stage(small):
    # Linearly from 0 to 0.1 over four blocks: torch.linspace(0, 0.1, 4) in the official constructor.
    layers = small.network_.swintransformer2.layers
    rates = [block.stochastic_depth.p for layer in layers for block in layer.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 4))


# Inference ------------------------------------------------------------------------------------------------------------


def test_score_is_the_mean_over_crops_in_any_order(small):
    image = picture(200, 250)
    pixels = small._pixels(image)
    crops = torch.stack([crop_at(pixels, place, SIDE) for place in grid_positions(*image.shape[:2], SIDE, 3)])
    with torch.inference_mode():
        each = [small.network_(crops[i : i + 1]).item() for i in (2, 0, 1)]
    assert len(set(each)) == 3
    np.testing.assert_allclose(small.predict([image]), np.mean(each), rtol=1e-6)


@pytest.mark.parametrize("crops", ["grid", "random"])
def test_scores_depend_on_the_image_alone(small, crops):
    images = [picture(200, 250, seed) for seed in range(4)] + [picture(SIDE, SIDE)]
    at_once = {batch: small.set_params(crops=crops, batch_size=batch).predict(images) for batch in (1, 4, 64)}
    backwards = small.predict(images[::-1])[::-1]
    alone = np.concatenate([small.predict([image]) for image in images])
    small.set_params(crops="grid", batch_size=8)
    for scores in (*at_once.values(), backwards):
        np.testing.assert_allclose(scores, alone, rtol=1e-5)
    assert len(set(alone.round(6))) == len(images)


def test_random_crops_follow_pixels_and_seed(small):
    one, other = picture(200, 250), picture(200, 250, seed=1)
    small.set_params(crops="random")
    views = small._views(one)
    torch.rand(1)
    assert torch.equal(small._views(one.copy()), views)
    with_other_seed = small.set_params(random_state=1)._views(one)
    without_seed = [small.set_params(random_state=seed)._views(one) for seed in (None, np.random.RandomState(3))]
    small.set_params(crops="grid", random_state=0)
    assert not torch.equal(with_other_seed, views)
    assert all(torch.equal(one_of, views) for one_of in without_seed)  # they count as the seed 0
    assert small._views(other).shape == views.shape == (3, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("shape", "enlarged"),
    [((SIDE, SIDE), None), ((100, 100), (160, 160)), ((80, 100), (160, 200)), ((500, 90), (888, 160))],
)
def test_small_images_are_enlarged(small, shape, enlarged):
    image = picture(*shape)
    score = small.predict([image])
    if enlarged:
        # Pillow wants (width, height); 500 * 160 / 90 = 888.9 is cut, not rounded.
        image = np.asarray(Image.fromarray(image).resize(enlarged[::-1], Image.Resampling.BICUBIC))
    assert min(image.shape[:2]) == SIDE
    np.testing.assert_array_equal(score, small.predict([image]))


@pytest.mark.parametrize("shape", [(224, 224), (100, 300), (500, 500)])
def test_views_of_the_official_network(full, shape):
    views = full._views(picture(*shape))
    assert views.shape == (20, 3, 224, 224)
    assert len(views.flatten(1).unique(dim=0)) == {224: 1, 100: 20, 500: 20}[shape[0]]


def test_pixels_are_mapped_to_minus_one_to_one(full):
    # The sheet: (x / 255 - 0.5) / 0.5.
    image = np.zeros((224, 224, 3), np.uint8)
    image[0, 0] = 255
    assert full._pixels(image)[:, 0, :2].tolist() == [[1, -1]] * 3


# Maps -----------------------------------------------------------------------------------------------------------------


def test_map_of_one_crop_holds_the_patch_scores(small):
    image = picture(SIDE, SIDE)
    with torch.inference_mode():
        scores, _ = small.network_.position_scores(small._pixels(image)[None])
    expected = scores[0].numpy().repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    np.testing.assert_allclose(small.quality_map(image), expected, rtol=1e-6)


def test_map_lies_over_the_image(small, monkeypatch):
    # Blocks of 16 pixels; crops of 160 stand at 0, 16, 32 in a side of 192 and at 0, 32, 64 in one of 224, so that
    # patches and blocks are the same. The first channel is the score, so the map must be the image.
    blocks = np.random.default_rng(0).uniform(size=(12, 14, 3)).astype(np.float32)
    image = blocks.repeat(PATCH, axis=0).repeat(PATCH, axis=1)

    def position_scores(crops):
        colours = F.avg_pool2d(crops, PATCH) / 2 + 0.5
        return colours[:, 0], colours[:, 1] + 0.1

    monkeypatch.setattr(small.network_, "position_scores", position_scores)
    np.testing.assert_allclose(small.quality_map(image), image[:, :, 0], atol=1e-5)


def test_map_averages_overlapping_crops_by_weight(small, monkeypatch):
    # 160 x 192: three crops, at columns 0, 16 and 32. The first scores 1 with weight 1, the others 4 with weight 2.
    answers = iter([(1.0, 1.0), (4.0, 2.0), (4.0, 2.0)])

    def position_scores(crops):
        score, weight = next(answers)
        return torch.full((1, 10, 10), score), torch.full((1, 10, 10), weight)

    monkeypatch.setattr(small.network_, "position_scores", position_scores)
    quality = small.quality_map(picture(SIDE, 192))
    # First alone; first and second: (1 + 8) / 3; all: (1 + 8 + 8) / 5; then the others alone.
    expected = np.repeat([1.0, 3.0, 3.4, 4.0], [16, 16, 128, 32])
    np.testing.assert_allclose(quality, np.tile(expected, (SIDE, 1)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(100, 130), (161, 160), (170, 500), (90, 400)])
def test_map_covers_the_image(small, shape):
    quality = small.quality_map(picture(*shape))
    assert quality.shape == shape
    assert quality.dtype == np.float32
    assert (quality > 0).all()
    assert quality.std() > 0


# Recipe ---------------------------------------------------------------------------------------------------------------


def test_rate_swings_by_batches_over_all_calls():
    X, y = [picture(SIDE, SIDE, seed) for seed in range(4)], [1.0, 2.0, 3.0, 4.0]
    estimator = MANIQA(**SMALL, batch_size=2, lr=1e-4)
    for n_epochs in (1, 2, 3):
        estimator.partial_fit(X, y)
        # Two batches per epoch: the last one of n epochs has t = 2 n - 1 before it. As in the official script, the rate
        # is lr (1 + cos(pi t / 50)) / 2: cosine annealing with T_max = 50, stepped per batch.
        t = 2 * n_epochs - 1
        rate = estimator.net_.optimizer_.param_groups[0]["lr"]
        assert rate == pytest.approx(1e-4 * (1 + math.cos(math.pi * t / 50)) / 2)
    assert estimator.net_.optimizer_.param_groups[0]["weight_decay"] == 1e-5


def test_views_of_training_are_cut_anywhere_and_flipped_left_and_right(small):
    assert_cut_anywhere_and_mirrored(small._train_view, SIDE)


def test_an_epoch_takes_every_image_once_with_its_label_in_0_1():
    y = np.array([20.0, 40.0, 60.0, 80.0, 50.0])
    with recorded() as phases:
        MANIQA(**SMALL, max_epochs=2, batch_size=2).fit([picture(SIDE, SIDE, seed) for seed in range(5)], y)
    (phase,) = phases
    orders = [[*phase.rows[0], *phase.rows[1]], [*phase.rows[2], *phase.rows[3]]]
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3, 4]] * 2
    assert orders[0] != orders[1]
    np.testing.assert_allclose(torch.cat(phase.targets), ((y - 20) / 60)[orders[0] + orders[1]], rtol=1e-6)


def test_dropout_is_that_of_the_paper():
    # In each stage: two attentions among channels, the map, and both heads.
    dropouts = [
        *("tablock1.0.proj_drop", "tablock1.1.proj_drop", "swintransformer1.dropout"),
        *("tablock2.0.proj_drop", "tablock2.1.proj_drop", "swintransformer2.dropout"),
        *("fc_score.2", "fc_weight.2"),
    ]
    network = MANIQA(**SMALL).initialize().network_
    rates = {name: one.p for name, one in network.named_modules() if type(one) is torch.nn.Dropout}
    assert {name: rate for name, rate in rates.items() if rate > 0} == dict.fromkeys(dropouts, 0.1)


@pytest.mark.parametrize("seed", range(8))
def test_training_starts_above_the_last_relu(seed):
    # With the official start, a random bias around 0, three of these networks give 0 for every image, and no gradient.
    estimator = MANIQA(**{**SMALL, "random_state": seed}).initialize()
    crops = torch.stack([estimator._pixels(picture(SIDE, SIDE, one)) for one in range(3)])
    scores = estimator.network_(crops)
    assert (scores > 0.1).all()
    scores.sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in estimator.network_.fc_score.parameters())


def test_predict_and_map_have_the_unit_of_the_labels():
    X, y = [picture(SIDE, SIDE, seed) for seed in range(4)], [20.0, 40.0, 60.0, 80.0]
    estimator = MANIQA(**SMALL, max_epochs=1).fit(X, y)
    assert estimator.label_scale_ == (60.0, 20.0)  # 0..1 -> 20..80
    with torch.inference_mode():
        raw = estimator.network_(estimator._pixels(X[0])[None]).item()
    np.testing.assert_allclose(estimator.predict(X[:1]), 60 * raw + 20, rtol=1e-6)
    quality = estimator.quality_map(X[0])
    assert quality.min() <= 60 * raw + 20 <= quality.max()


# Weights and errors ---------------------------------------------------------------------------------------------------


def test_saved_weights_come_back_whatever_the_layers(tmp_path):
    image = picture(SIDE, SIDE)
    # Blocks beyond those of the official network are kept too.
    parameters = {**SMALL, "backbone": "vit_tiny_patch16_224", "layers": (2, 11), "window_size": 7}
    saved = MANIQA(**parameters).initialize()
    with torch.no_grad():
        saved.network_.fc_score[3].bias.fill_(1.0)
    saved.save_weights(tmp_path / "maniqa.safetensors")
    loaded = MANIQA(**{**parameters, "random_state": 1}, weights=tmp_path / "maniqa.safetensors")
    np.testing.assert_array_equal(loaded.predict([image]), saved.predict([image]))


@pytest.mark.parametrize(("name", "scale", "right"), [("pipal22", 0.5, 0.13), ("koniq10k", 0.13, 0.8)])
def test_published_weights_insist_on_their_scale(name, scale, right):
    with pytest.raises(ValueError, match=rf"scale={right}.*set scale={right}"):
        MANIQA(**SMALL, scale=scale, weights=name).initialize()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "resnet10t"}, "'resnet10t' is no plain vision transformer"),
        ({"layers": (2, 1)}, r"layers=\[2, 1\] must ascend within 0..5"),
        ({"layers": (1, 6)}, r"layers=\[1, 6\] must ascend within 0..5"),
        ({"layers": ()}, "'layers' parameter of MANIQA must be a sequence of 1 or more members, each an int"),
        ({"window_size": 4}, r"window_size=4 must divide the patches, \(10, 10\)"),
        ({"window_size": 0}, r"'window_size' parameter of MANIQA must be an int in the range \[1, inf\)"),
        ({"drop": 1.0}, r"'drop' parameter of MANIQA must be a float in the range \[0.0, 1.0\)"),
        ({"embed_dim": 18}, r"embed_dim=18 must be a multiple of 2 \* n_heads = 4"),
        ({"crops": "centre"}, "'crops' parameter of MANIQA must be a str among .*'grid'"),
    ],
)
def test_unusable_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MANIQA(**{**SMALL, **parameters}).initialize()


def test_a_training_that_has_died_is_told(monkeypatch):
    X = np.random.default_rng(0).integers(0, 256, (4, *MANIQA._test_size, 3), dtype=np.uint8)
    params = {**MANIQA._test_params, "device": "cpu", "random_state": 0, "max_epochs": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        MANIQA(**params).fit(X, np.arange(4.0))
    build = MANIQA._network

    def dead(self):
        network = build(self)
        nn.init.constant_(network.fc_score[3].bias, -100)  # the last ReLU lets nothing through
        return network

    monkeypatch.setattr(MANIQA, "_network", dead)
    with pytest.warns(
        ConvergenceWarning, match=r"All outputs of MANIQA were 0 in epoch 1.*lower lr.*random_state\.$"
    ) as found:
        MANIQA(**params).fit(X, np.arange(4.0))
    assert [one.filename for one in found if one.category is ConvergenceWarning] == [__file__]  # once, at the call

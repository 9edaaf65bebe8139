# SPDX-License-Identifier: BSD-3-Clause
"""DEIQT: the official code's numbers, the panel and its mean, crops, the recipe of training, and that it learns."""

import kits
import numpy as np
import pytest
import torch
from held_out import levels
from PIL import Image
from recipes import assert_cut_anywhere_and_mirrored, recorded

from sklearn_iqa import DEIQT
from sklearn_iqa._nn.transforms import crop_at, grid_positions
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.single_input.deiqt import PanelLoss

KIT = kits.read("deiqt")
ATOL = KIT["tolerance"]["suggested_abs"]  # 2e-5
SIDE = 160  # input size of test_vit
SMALL = {"backbone": "test_vit", "n_crops": 3, "backbone_weights": None, "random_state": 0, "device": "cpu"}


def picture(height, width, seed=0):
    return kits.images(seed, sizes=((height, width),))[0]


@pytest.fixture(scope="module")
def small():
    return DEIQT(**SMALL).initialize()


# Official numbers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full():
    estimator = DEIQT(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


# Where the kit's stages are here; attention gives its weights beside its output.
STAGES = {
    "patch_embed output": "vit.patch_embed",
    "blocks.0 output": "vit.blocks.0",
    "blocks.5 output": "vit.blocks.5",
    "blocks.11 output": "vit.blocks.11",
    "norm output": "vit.norm",
    "norm output, class token": "vit.norm",
    "decoder layer: self-attention output": "head.bunch_decoder.layers.0.self_attn",
    "decoder layer: cross-attention output": "head.bunch_decoder.layers.0.multihead_attn",
    "bunch_decoder output": "head.bunch_decoder",
    "heads output: the six panel scores": "head.heads",
}


@pytest.fixture(scope="module")
def stages(full):
    """What the modules give for the kit's two crops, by name: "" are the opinions."""
    network, outputs = full.network_, {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for name in ["", *STAGES.values()]
    ]
    with torch.no_grad():  # in inference mode, torch's fused decoder would pass the hooks by
        network(torch.stack([full._normalized(image)[:, :224, :224] for image in kits.images(0)]).requires_grad_())
    for hook in hooks:
        hook.remove()
    return outputs


def test_scores_are_the_official_ones(full, stages):
    opinions = stages[""].detach()
    kits.assert_parity("deiqt", "panel", opinions, KIT["extra"]["panel_scores"], atol=ATOL)
    kits.assert_parity("deiqt", "output", [full._score(one) for one in opinions], KIT["output"], atol=ATOL)


@pytest.mark.parametrize("stage", KIT["stages"], ids=lambda stage: stage["at"])
def test_stages_are_the_official_ones(stages, stage):
    at = stage["at"].partition(" (")[0]
    output = stages[STAGES[at]]
    output = output[0] if isinstance(output, tuple) else output
    output = output[:, 0] if at.endswith("class token") else output
    assert list(output.shape) == stage["shape"]
    moments = [output.double().mean(), output.double().std(unbiased=False)]
    kits.assert_parity("deiqt", at, moments, [stage["mean"], stage["std"]], atol=ATOL)


def test_five_crops_and_their_mean_are_the_official_ones(full):
    extra, pixels = KIT["extra"], full._normalized(kits.images(0)[0])
    crops = [pixels[:, y : y + 224, x : x + 224] for y, x in extra["five_crop_positions_top_left"]]
    with torch.inference_mode():
        opinions = full.network_(torch.stack(crops))
    kits.assert_parity("deiqt", "five crops", opinions.mean(1), extra["five_crop_scores"], atol=ATOL)
    kits.assert_parity("deiqt", "mean of five crops", full._score(opinions), extra["five_crop_mean"], atol=ATOL)


def test_losses_are_the_official_ones(full, stages):
    losses, opinions = KIT["losses"], stages[""].detach()
    loss = full._loss()  # the official one for labels in units of 20

    def in_units_of_one(target):
        return 20 * loss(opinions / 20, target / 20)

    far = in_units_of_one(torch.tensor([60.0, 30.0]))
    kits.assert_parity("deiqt", "smooth l1", far, losses["smooth_l1"], rtol=1e-6)
    near = opinions.mean(1) + torch.tensor([0.5, -2.0])  # half a square of 0.5, and 2 - 1/2: their mean is 0.8125
    kits.assert_parity("deiqt", "smooth l1, small", in_units_of_one(near), losses["smooth_l1_small"], rtol=1e-6)


def test_official_state_fits_by_its_names(full):
    official = dict.fromkeys(name for name, _, _ in KIT["manifest"])
    assert state_dicts.rename_keys(official, full.key_map).keys() == full.network_.state_dict().keys()
    assert sum(p.numel() for p in full.network_.parameters()) == 24_043_776  # the sheet's count


# The panel ------------------------------------------------------------------------------------------------------------


def test_mean_of_the_panel_is_the_score(small):
    images = [picture(200, 250, seed) for seed in range(3)]
    opinions, (score, spread) = small.predict_panel(images), small.predict(images, return_std=True)
    assert opinions.shape == (3, 6)
    np.testing.assert_allclose(opinions.mean(1), small.predict(images), rtol=1e-12)
    np.testing.assert_allclose(score, small.predict(images), rtol=1e-12)
    np.testing.assert_allclose(spread, opinions.std(1), rtol=1e-12)
    assert (spread > 0).all()


def test_members_differ_by_their_vectors_alone():
    estimator = DEIQT(**SMALL, n_members=3).initialize()
    with torch.no_grad():
        estimator.network_.head.bunch_embedding[:, 1] = estimator.network_.head.bunch_embedding[:, 0]
    first, second, third = estimator.predict_panel([picture(SIDE, SIDE)])[0]
    assert first == pytest.approx(second, rel=1e-5)
    assert abs(third - first) > 1e-4 * abs(first)


def test_panel_reads_class_token_and_patches(small):
    """The head against its formula, written out: pre-norm self-attention, attention to the patches, feed-forward."""
    network = small.network_
    layer = network.head.bunch_decoder.layers[0]
    with torch.inference_mode():
        crops = small._views(picture(SIDE, SIDE))[:1]
        tokens = network.vit.forward_features(crops)
        answers = network.head.bunch_embedding + tokens[:, :1]
        answers = answers + layer.self_attn(*[layer.norm1(answers)] * 3, need_weights=False)[0]
        patches = tokens[:, 1:]
        answers = answers + layer.multihead_attn(layer.norm2(answers), patches, patches, need_weights=False)[0]
        answers = answers + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm3(answers))))
        np.testing.assert_allclose(network(crops), answers @ network.head.heads.weight[0], rtol=1e-4, atol=1e-6)


def test_predictions_and_spread_speak_the_unit_of_the_labels():
    X, y = [picture(SIDE, SIDE, seed) for seed in range(4)], np.array([20.0, 40.0, 60.0, 80.0])
    estimator = DEIQT(**SMALL, max_epochs=1).fit(X, y)
    slope, intercept = estimator.label_scale_
    assert (slope, intercept) == pytest.approx((np.sqrt(500), 50))  # deviation and mean of the four labels
    with torch.inference_mode():
        raw = estimator.network_(estimator._views(X[0])[:1])[0].double().numpy()
    score, spread = estimator.predict(X[:1], return_std=True)  # all crops of an image of a crop's size are equal
    np.testing.assert_allclose(score, 50 + slope * raw.mean(), rtol=1e-6)
    np.testing.assert_allclose(spread, slope * raw.std(), rtol=1e-4)


# Crops ----------------------------------------------------------------------------------------------------------------


def test_score_is_the_mean_over_crops(small):
    image = picture(200, 250)
    pixels = small._normalized(image)
    crops = [crop_at(pixels, place, SIDE) for place in grid_positions(200, 250, SIDE, 3)]
    with torch.inference_mode():
        each = [small.network_(crop[None]).mean().item() for crop in crops]
    assert len(set(each)) == 3
    np.testing.assert_allclose(small.predict([image]), np.mean(each), rtol=1e-5)


def test_random_crops_follow_pixels_and_seed():
    estimator, image = DEIQT(**SMALL, crops="random").initialize(), picture(200, 250)
    views = estimator._views(image)
    torch.rand(1)
    assert torch.equal(estimator._views(image.copy()), views)
    assert not torch.equal(estimator.set_params(random_state=1)._views(image), views)
    assert torch.equal(estimator.set_params(random_state=None)._views(image), views)  # counts as the seed 0
    assert len(views.flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize(("shape", "enlarged"), [((100, 100), (160, 160)), ((80, 100), (160, 200))])
def test_small_images_are_enlarged(small, shape, enlarged):
    image = picture(*shape)
    by_hand = Image.fromarray(image).resize(enlarged[::-1], Image.Resampling.BICUBIC)  # Pillow wants (width, height)
    np.testing.assert_array_equal(small.predict([image]), small.predict([np.asarray(by_hand)]))


def test_images_are_resized_before_they_are_cropped(small):
    image = picture(200, 250)
    by_hand = Image.fromarray(image).resize((170, 210), Image.Resampling.BILINEAR)  # (width, height)
    resized = DEIQT(**SMALL, image_size=(210, 170)).initialize().predict([image])
    np.testing.assert_array_equal(resized, small.predict([np.asarray(by_hand)]))
    assert resized != small.predict([image])


# Recipe ---------------------------------------------------------------------------------------------------------------


def test_rates_go_on_after_a_pause():
    X, y = [picture(SIDE, SIDE, seed) for seed in range(2)], [1.0, 2.0]
    estimator = DEIQT(**SMALL, warmup_epochs=2, lr_step=2, lr=1e-4)
    with recorded() as phases:
        for _ in range(5):
            estimator.partial_fit(X, y)
    rates = [rate for phase in phases for rate in phase.rates]
    # Linear from a thousandth in two epochs, full for two more, then a tenth.
    np.testing.assert_allclose(rates, np.outer([1e-7, 5.005e-5, 1e-4, 1e-4, 1e-5], np.ones(5)))


def test_views_of_training_are_cut_anywhere_and_flipped_left_and_right(small):
    assert_cut_anywhere_and_mirrored(small._train_view, SIDE)


def test_loss_is_the_absolute_error_of_the_mean():
    loss = DEIQT()._loss()
    opinions = torch.tensor([[-9.0, 11.0]])  # their mean is 1, however far apart
    # From a twentieth of a standard deviation on it rises with slope 1, as in the paper; below, a square smooths it.
    errors = torch.tensor([0.025, 0.05, 0.5, 1.0, 2.0])
    losses = [loss(opinions, torch.tensor([1.0 + error])).item() for error in errors]
    np.testing.assert_allclose(losses, [0.5 * 0.025**2 / 0.05, 0.025, 0.475, 0.975, 1.975], rtol=1e-5)


def test_an_epoch_takes_every_image_once_with_its_standardised_label():
    y = np.array([20.0, 40.0, 60.0, 80.0, 55.0])
    with recorded() as phases:
        DEIQT(**SMALL, max_epochs=2, batch_size=2).fit([picture(SIDE, SIDE, seed) for seed in range(5)], y)
    (phase,) = phases
    orders = [[*phase.rows[0], *phase.rows[1]], [*phase.rows[2], *phase.rows[3]]]
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3, 4]] * 2
    assert orders[0] != orders[1]
    np.testing.assert_allclose(torch.cat(phase.targets), ((y - y.mean()) / y.std())[orders[0] + orders[1]], rtol=1e-5)


def test_gradients_are_clipped_to_a_norm_of_five(monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def measured(optimizer, *args, **kwargs):
        step(optimizer, *args, **kwargs)
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat(gradients).norm().item())

    class Steep(PanelLoss):
        def forward(self, scores, target):
            return 1e4 * super().forward(scores, target)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    monkeypatch.setattr(DEIQT, "_loss", lambda self: Steep())
    DEIQT(**SMALL, max_epochs=1).fit([picture(SIDE, SIDE, seed) for seed in range(2)], [1.0, 2.0])
    np.testing.assert_allclose(norms, 5, rtol=1e-4)


def test_nothing_is_dropped():
    network = DEIQT(**SMALL).initialize().network_
    rates = {getattr(module, "p", 0.0) for module in network.modules()} | {
        getattr(module, "drop_prob", 0.0) for module in network.modules()
    }
    assert rates == {0.0}


def test_vectors_positions_and_tokens_do_not_decay():
    X, y = [picture(SIDE, SIDE, seed) for seed in range(2)], [1.0, 2.0]
    estimator = DEIQT(**{**SMALL, "backbone": "deit3_small_patch16_224"}, max_epochs=1).fit(X, y)
    names = {parameter: name for name, parameter in estimator.network_.named_parameters()}
    groups = estimator.net_.optimizer_.param_groups
    decayed = {names[p] for group in groups if group["weight_decay"] == 0.05 for p in group["params"]}
    still = {names[p] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert decayed | still == set(names.values())
    kept = {"vit.pos_embed", "vit.cls_token"}
    assert still == kept | {name for p, name in names.items() if p.ndim == 1}
    assert "head.bunch_embedding" in decayed
    assert isinstance(estimator.net_.optimizer_, torch.optim.AdamW)


def test_panel_starts_from_small_numbers():
    head = DEIQT(**SMALL).initialize().network_.head
    assert head.heads.bias is None
    assert not head.bunch_decoder.layers[0].linear1.bias.any()
    # 256 x 64 draws of deviation 0.02: their own deviates by 0.6 % (1 / sqrt(2 n)).
    assert head.bunch_decoder.layers[0].linear1.weight.std().item() == pytest.approx(0.02, rel=0.03)


# Learning -------------------------------------------------------------------------------------------------------------


def test_quality_of_unseen_photographs_is_learned():
    known = levels(["color_saturation_1", "contrast_change"], side=SIDE)
    deiqt = DEIQT(
        backbone="test_vit",
        backbone_weights=None,
        n_crops=1,
        batch_size=8,
        max_epochs=30,
        warmup_epochs=4,
        lr_step=20,
        lr=1e-3,
        random_state=0,
    )
    before = deiqt.initialize().score(known.X_new, known.y_new)
    after = deiqt.fit(known.X, known.y).score(known.X_new, known.y_new)
    # Measured on held-out photographs with random_state 0, 1, 2, 3: 0.21, 0.00, 0.18, -0.05 before training, 0.89,
    # 0.87, 0.84, 0.83 after. The method lives on a pretrained transformer; from random numbers it learns here what a
    # linear map of pixels can nearly see.
    assert after >= 0.80 > 0.60 > before


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"backbone": "resnet10t"}, "'resnet10t' is no plain vision transformer with a class token"),
        ({"crops": "centre"}, "'crops' parameter of DEIQT must be a str among .*Got 'centre'"),
        ({"n_members": 0}, r"'n_members' parameter of DEIQT must be an int in the range \[1, inf\)"),
        ({"warmup_epochs": -1}, r"'warmup_epochs' parameter of DEIQT must be an int in the range \[0, inf\)"),
        ({"lr_step": 0}, r"'lr_step' parameter of DEIQT must be an int in the range \[1, inf\)"),
        ({"image_size": (512,)}, "'image_size' parameter of DEIQT must be a sequence of 2 members"),
        ({"image_size": (0, 5)}, r"'image_size' parameter .* 2 members, each an int in the range \[1, inf\)"),
    ],
)
def test_parameters_that_do_not_fit(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        DEIQT(**{**SMALL, **parameters}).initialize()


def test_weights_of_another_panel_are_refused(small, tmp_path):
    small.save_weights(tmp_path / "deiqt.safetensors")
    with pytest.raises(ValueError, match=r"head\.bunch_embedding: \(1, 6, 64\) instead of \(1, 4, 64\)"):
        DEIQT(**SMALL, n_members=4, weights=tmp_path / "deiqt.safetensors").initialize()

# SPDX-License-Identifier: BSD-3-Clause
"""NIMA: parity of its five known networks, histograms and their loss, the forms of y, the recipe."""

import zlib

import kits
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from recipes import coordinate_maps, recorded
from torch import nn

from sklearn_iqa import NIMA
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.losses import EarthMoversLoss, rating_histograms
from sklearn_iqa._nn.transforms import resize_shorter

VARIANTS = {
    "nima": {},
    "nima_koniq_head": {"n_bins": 1},
    "nima_vgg16_gap": {"backbone": "vgg16"},
    "nima_vgg16_flatten": {"backbone": "vgg16", "pooling": "flatten", "normalize": False},
    "nima_mobilenet_keras": {"backbone": "mobilenetv1_100"},
}
INCEPTION_LEVELS = ("conv2d_2b", "conv2d_4a", "repeat", "repeat_1", "conv2d_7b")
VGG_LEVELS = ("features.3", "features.8", "features.15", "features.22", "features.29", "features.30")
LAYERS = {  # name of a stage in the kits -> layer of the backbone, where both do not have one name
    "nima": {f"backbone_level_{i}": layer for i, layer in enumerate(INCEPTION_LEVELS)},
    "nima_koniq_head": {f"backbone_level_{i}": layer for i, layer in enumerate(INCEPTION_LEVELS)},
    "nima_vgg16_gap": {f"backbone_level_{i}": layer for i, layer in enumerate(VGG_LEVELS)},
    "nima_vgg16_flatten": {"features.4 (first max pool)": "features.4", "features": "features"},
    "nima_mobilenet_keras": {
        "conv1_relu": "bn1",
        "conv_dw_2_relu": "blocks.1.0.bn1",
        "conv_pw_6_relu": "blocks.3.0.bn2",
        "conv_pw_13_relu": "blocks.4.1.bn2",
    },
}
RTOL = 1e-4  # of the kits
RATINGS = np.arange(1, 11)


# Parity ---------------------------------------------------------------------------------------------------------------


def from_keras(arrays):
    """Arrays of a Keras MobileNet by "layer/variable" -> tensors under the names and in the layout that NIMA loads."""
    blocks = [(stage, block) for stage, depth in enumerate((1, 2, 2, 6, 2)) for block in range(depth)]
    layers = {"conv1": "base_model.conv_stem", "conv1_bn": "base_model.bn1", "dense_1": "classifier.2"}
    for k, (stage, block) in enumerate(blocks, start=1):
        for keras, timm in {"dw_{}": "conv_dw", "dw_{}_bn": "bn1", "pw_{}": "conv_pw", "pw_{}_bn": "bn2"}.items():
            layers[f"conv_{keras.format(k)}"] = f"base_model.blocks.{stage}.{block}.{timm}"
    variables = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    variables |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        if variable == "kernel" and array.ndim == 2:
            array = array.T
        elif variable == "kernel":  # (h, w, in, out), and (h, w, channels, 1) where channels stay apart
            array = array.transpose((2, 3, 0, 1) if "_dw_" in layer else (3, 2, 0, 1))
        state[f"{layers[layer]}.{variables[variable]}"] = torch.from_numpy(np.ascontiguousarray(array))
    return state


def fill_keras(kit):
    """The arrays of the Keras kit, by the rule in its `fill`."""
    arrays = {}
    for name, shape, _ in kit["manifest"]:
        layer, _, variable = name.rpartition("/")
        rng = np.random.default_rng([zlib.crc32(name.encode()), 0])
        if variable == "kernel":
            fan = np.prod(shape[:2]) if layer.startswith("conv_dw_") else np.prod(shape[:-1])
            values = kit["weight_scale"] * rng.normal(0, np.sqrt(1 / fan), shape)
        elif variable == "moving_variance":
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = 0.1 * rng.normal(size=shape) + (variable == "gamma")
        arrays[name] = values.astype(np.float32)
    return arrays


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """Name of a kit, the kit, the estimator with its weights, its images."""
    name = request.param
    kit, nima = kits.read(name), NIMA(backbone_weights=None, random_state=0, **VARIANTS[name])
    kits.load(nima, from_keras(fill_keras(kit)) if "keras" in name else kits.fill(kit))
    side = 299 if nima.backbone == "inception_resnet_v2" else 224  # as the kits say under `input`
    return name, kit, nima, [image[:side, :side] for image in kits.images(0)]


def test_parity_of_scores(variant):
    name, kit, nima, images = variant
    kits.assert_parity(name, "output", nima.predict(images), kit["output"], rtol=RTOL)
    if "output_std" in kit:
        mean, std = nima.predict(images, return_std=True)
        kits.assert_parity(name, "output, beside the deviation", mean, kit["output"], rtol=RTOL)
        kits.assert_parity(name, "output_std", std, kit["output_std"], rtol=RTOL)


def test_parity_of_distributions_and_logits(variant):
    name, kit, nima, images = variant
    with torch.inference_mode():
        features = nima.network_.features(torch.cat([nima._views(image) for image in images]))
        logits = nima.network_.classifier(features)
    if "logits" in kit:
        kits.assert_parity(name, "logits", logits, kit["logits"], rtol=RTOL)
    got = logits if nima.n_bins == 1 else nima.predict_distribution(images)
    kits.assert_parity(name, "distribution", got, kit["distribution"], rtol=RTOL)


def test_parity_of_stages(variant):
    name, kit, nima, images = variant
    layers, view = LAYERS[name], nima._views(images[0])
    with torch.inference_mode():
        outputs_of_layers = timm_backbones.layer_outputs(nima.network_.base_model, list(layers.values()), view)
        features = nima.network_.features(view)
        logits = nima.network_.classifier(features)
    outputs = dict(zip(layers, outputs_of_layers, strict=True))
    if name == "nima_mobilenet_keras":
        outputs = {stage: output.permute(0, 2, 3, 1) for stage, output in outputs.items()}  # channels are last there
    outputs |= {"global_pool": features[..., None, None], "global_average_pooling2d": features}
    outputs |= {"logits": logits, "logits_before_softmax": logits}
    assert layers.keys() <= kit["stages"].keys()
    for stage, want in kit["stages"].items():
        output = outputs[stage].numpy()
        assert list(output.shape) == want["shape"], stage
        kits.assert_parity(name, f"mean of {stage}", output.mean(dtype=np.float64), want["mean"], rtol=RTOL)
        kits.assert_parity(name, f"deviation of {stage}", output.std(dtype=np.float64), want["std"], rtol=RTOL)


def test_parity_of_losses():
    losses = kits.read("nima")["losses"]
    rng = np.random.default_rng([7, 0])  # as the kit says under `input`
    target, estimate = (rng.uniform(0.05, 1, (4, 10)).astype(np.float32) for _ in range(2))
    p, q = (torch.from_numpy(values / values.sum(1, keepdims=True)) for values in (estimate, target))
    by_start = {key.partition(" ")[0]: value for key, value in losses.items()}
    rows = [EarthMoversLoss(r=2)(p[i : i + 1], q[i : i + 1]) for i in range(4)]
    kits.assert_parity("nima", "loss per sample", rows, by_start["emd_r2_per_sample"], rtol=RTOL)
    kits.assert_parity("nima", "loss, r = 2", EarthMoversLoss(r=2)(p, q), by_start["emd_r2_batch_mean"], rtol=RTOL)
    kits.assert_parity("nima", "loss, r = 1", EarthMoversLoss(r=1)(p, q), by_start["emd_r1_batch_mean"], rtol=RTOL)
    # One root over the whole batch, as truskovskiyk has it, is another number, which ours must not be.
    at_once = (p.cumsum(1) - q.cumsum(1)).square().mean().sqrt()
    kits.assert_parity(
        "nima", "root over the batch", at_once, by_start["emd_truskovskiyk_root_over_whole_batch"], rtol=RTOL
    )
    assert abs(EarthMoversLoss(r=2)(p, q) - at_once) > 100 * RTOL * at_once


@pytest.mark.parametrize("name", ["nima_koniq_head", "nima_vgg16_gap", "nima_vgg16_flatten"])
def test_losses_of_all_kits_are_those_of_the_first(name):
    assert kits.read(name)["losses"] == kits.read("nima")["losses"]


def test_files_of_truskovskiyk_load():
    # Its network, from torchvision's parts: the children of a ResNet but the last, then ReLU, dropout, linear, softmax.
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None)
    official = nn.Module()
    official.base_model = nn.Sequential(*list(resnet.children())[:-1])
    official.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.75), nn.Linear(512, 10), nn.Softmax(dim=1))
    official.eval()
    nima = NIMA(backbone="resnet18", backbone_weights=None, random_state=0)
    kits.load(nima, official.state_dict())
    image = kits.images(0)[0][:224, :224]
    with torch.inference_mode():
        want = official.head(official.base_model(nima._views(image)).flatten(1))
    np.testing.assert_allclose(nima.predict_distribution([image]), want, rtol=RTOL)


# Views, histograms, loss ----------------------------------------------------------------------------------------------


def tiny(**parameters):
    """Give an estimator with a backbone of 0.4 million random weights and an input of 32 x 32 pixels."""
    defaults = {"backbone": "test_resnet", "backbone_weights": None, "image_size": 32, "random_state": 0}
    return NIMA(**{**defaults, **parameters})


def test_view_is_the_centre_of_the_resized_image():
    image = kits.images(0)[1]  # 427 x 640: the shorter side becomes 160, the longer int(640 * 160 / 427) = 239
    nima = tiny(image_size=160, normalize=False)
    # Pillow resizes float planes by the same antialiased triangle that torch uses, apart from rounding.
    resized = resize_shorter((image / 255).astype(np.float32), 160, Image.Resampling.BILINEAR)
    left = round((239 - 160) / 2)
    view = nima._views(image)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(view, resized[:, left : left + 160], atol=1e-5)
    # test_resnet was pretrained with mean and deviation 0.5
    np.testing.assert_allclose(tiny(image_size=160)._views(image)[0].permute(1, 2, 0), 2 * view - 1, atol=1e-6)


@pytest.mark.parametrize("parameters", [{}, {"n_bins": 5}, {"pooling": "flatten"}, {"pooling": "backbone"}])
def test_histogram_sums_to_one(parameters):
    nima = tiny(**parameters).initialize()
    images = kits.images(0)
    probabilities = nima.predict_distribution(images)
    assert probabilities.shape == (2, nima.n_bins)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)  # float32
    assert (probabilities > 0).all()
    low, high = nima.score_range
    assert ((low < nima.predict(images)) & (nima.predict(images) < high)).all()
    ratings = np.arange(1, nima.n_bins + 1)
    mean, std = nima.predict(images, return_std=True)
    np.testing.assert_allclose(mean, nima.predict(images), rtol=1e-12)
    np.testing.assert_allclose(
        std**2, probabilities @ ratings**2 - (probabilities @ ratings) ** 2, rtol=1e-5
    )  # sums to 1 up to 1e-6


@pytest.mark.parametrize(
    ("backbone", "n_features"),
    [("mobilenetv3_small_050", 1024), ("test_vit", 64)],  # widths before the classifier, from timm's configurations
)
def test_backbone_pooling_keeps_the_head_of_the_backbone(backbone, n_features):
    nima = tiny(backbone=backbone, pooling="backbone", image_size=64).initialize()
    assert nima.network_.classifier[2].in_features == n_features
    assert nima.predict(kits.images(0)).shape == (2,)


def test_loss_of_neighbouring_bins():
    # All mass one bin apart: the cumulative sums differ by 1 in one of 10 bins, so (1/10) ** (1/r).
    p, q = torch.eye(10)[[2]], torch.eye(10)[[3]]
    for r in (1, 2):
        torch.testing.assert_close(EarthMoversLoss(r)(p, q), torch.tensor(0.1 ** (1 / r)))
        torch.testing.assert_close(EarthMoversLoss(r)(q, p), torch.tensor(0.1 ** (1 / r)))


@pytest.mark.parametrize("r", [1, 2, 3])
def test_loss_of_equal_histograms_is_zero_and_so_is_its_gradient(r):
    p = torch.full((2, 10), 0.1, requires_grad=True)
    loss = EarthMoversLoss(r)(p, p.detach())
    loss.backward()
    assert loss == 0
    assert (p.grad == 0).all()


def test_rating_histograms_have_their_mean_and_deviation():
    mean, std = (axis.ravel() for axis in np.meshgrid(np.linspace(2, 9, 15), np.linspace(0.6, 2.5, 9)))
    probabilities = rating_histograms(mean, std, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(probabilities @ RATINGS, mean, atol=1e-8)
    np.testing.assert_allclose(probabilities @ RATINGS**2 - (probabilities @ RATINGS) ** 2, std**2, atol=1e-7)
    # Of largest entropy under two moments is what has a quadratic logarithm: third differences vanish.
    np.testing.assert_allclose(np.diff(np.log(probabilities), 3), 0, atol=1e-6)


def test_rating_histogram_of_the_uniform_moments_is_uniform():
    # Variance of the uniform distribution on 1..10: (10 ** 2 - 1) / 12.
    np.testing.assert_allclose(rating_histograms([5.5], [np.sqrt(99 / 12)], 10), np.full((1, 10), 0.1), atol=1e-9)


def test_impossible_moments_are_clipped():
    probabilities = rating_histograms([5, 5.5, 5.5, -3, 40], [0, 0, 99, 1, 1], 10)
    assert np.isfinite(probabilities).all()
    assert probabilities[0, 4] > 0.98  # no deviation: the mean's own bin, up to 1/1000 of the largest variance, 4 * 5
    np.testing.assert_allclose(probabilities[1, 4:6], 0.5, atol=0.01)  # no deviation, but a mean between two bins
    np.testing.assert_allclose(probabilities[2, [0, 9]], 0.5, atol=0.01)  # as far apart as they can be
    np.testing.assert_allclose(probabilities[3:] @ RATINGS, [1.05, 9.95], atol=1e-6)


# What y may be --------------------------------------------------------------------------------------------------------

GREYS = np.repeat(np.array([40, 215], dtype=np.uint8), 8).reshape(16, 1, 1).repeat(32, 1).repeat(32, 2)
IS_LIGHT = np.arange(16) >= 8
# A transformer, as batch normalisation has little to divide by on plain grey images.
FAST = {"backbone": "test_vit", "pooling": "backbone", "dropout": 0.0, "batch_size": 8, "max_epochs": 20, "lr": 1e-3}


def test_counts_are_learned_as_they_are():
    counts = np.zeros((16, 10))
    counts[~IS_LIGHT, 1:4] = 10, 20, 10  # ratings 2, 3, 4: mean 3, variance 0.5
    counts[IS_LIGHT, 5::2] = 1, 2, 1  # ratings 6, 8, 10: mean 8, variance 2
    nima = tiny(**FAST).fit(list(GREYS), counts)
    assert nima.label_scale_ == (1.0, 0.0)
    mean, std = nima.predict(list(GREYS[[0, -1]]), return_std=True)
    np.testing.assert_allclose(mean, [3, 8], atol=0.2)
    np.testing.assert_allclose(std, np.sqrt([0.5, 2]), atol=0.25)
    assert nima.score(list(GREYS), counts) > 0.8  # two blocks of ties


def test_means_and_deviations_are_learned_in_their_unit():
    y = np.where(IS_LIGHT[:, None], [90.0, 15.0], [20.0, 10.0])
    nima = tiny(**FAST).fit(list(GREYS), y)
    # 20 and 90 become the ratings 2 and 9.
    np.testing.assert_allclose(nima.label_scale_, (10, 0), atol=1e-9)
    mean, std = nima.predict(list(GREYS[[0, -1]]), return_std=True)
    np.testing.assert_allclose(mean, [20, 90], atol=3)
    np.testing.assert_allclose(std, [10, 15], atol=3)


def test_one_bin_learns_a_number():
    nima = tiny(n_bins=1, **FAST).fit(list(GREYS), np.where(IS_LIGHT, 4.5, 1.5))
    np.testing.assert_allclose(nima.label_scale_, (3, 1.5))  # 1.5 and 4.5 become 0 and 1
    np.testing.assert_allclose(nima.predict(list(GREYS[[0, -1]])), [1.5, 4.5], atol=0.3)
    with pytest.raises(ValueError, match="set n_bins=10"):
        nima.predict_distribution(list(GREYS))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((16, 5)), r"shape \(16, 5\)"),
        (np.where(np.arange(16)[:, None] == 3, -1.0, np.ones((16, 10))), "Row 3 of y .* counts"),
        (np.where(np.arange(16)[:, None] == 5, 0.0, np.ones((16, 10))), "Row 5 of y .* not all zero"),
        (np.column_stack([np.arange(16.0), -np.ones(16)]), "Row 0 of y .* standard deviation"),
        (np.full((16, 2), np.nan), "NaN"),
        (np.ones((4, 10)), "inconsistent"),
    ],
)
def test_unusable_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        tiny(max_epochs=1).fit(list(GREYS), y)


def test_the_unit_cannot_change_on_the_way():
    nima = tiny().partial_fit(list(GREYS), np.linspace(0, 100, 16))
    with pytest.raises(ValueError, match="another unit"):
        nima.partial_fit(list(GREYS), np.ones((16, 10)))


# Recipe ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side"),
    [(224, 256), (299, 330), (32, 35)],  # the paper's, pyiqa's, and a tenth more
)
def test_views_of_training_are_cut_anywhere_from_a_larger_image_and_flipped(size, side):
    height, width, n = 70, 82, 150 if size > 32 else 300
    maps = coordinate_maps(tiny(image_size=size)._train_view, height, width, n=n)
    scale = np.array([width / int(side * width / height), height / side])
    flipped = maps[:, 0, 0] < 0
    np.testing.assert_allclose(np.abs(maps[:, [0, 1], [0, 1]]), np.tile(scale, (n, 1)), rtol=0.02)
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.15)
    assert (maps[:, 1, 1] > 0).all()  # never upside down
    first = maps[:, [0, 1], 2] + np.where(flipped, (size - 1) * maps[:, 0, 0], 0)[:, None] * [1, 0]
    places = (first + 0.5) / scale - 0.5
    free = np.array([int(side * width / height), side]) - size
    assert (places > -0.6).all()
    assert (places < free + 0.6).all()
    assert (np.ptp(places, axis=0) > 0.9 * free).all()  # from end to end


def test_losses_are_those_of_the_paper_and_of_pyiqa():
    # One bin apart: (1/10) ** (1/2); two apart: (2/10) ** (1/2).
    p, q = torch.eye(10)[[2, 5]], torch.eye(10)[[3, 7]]
    assert tiny()._loss()(p, q).item() == pytest.approx((0.1**0.5 + 0.2**0.5) / 2)
    scores, labels = torch.tensor([[0.2], [1.0]]), torch.tensor([[0.5], [1.1]])
    assert tiny(n_bins=1)._loss()(scores, labels).item() == pytest.approx(0.2)  # (0.3 + 0.1) / 2


@pytest.mark.parametrize(
    ("y", "mean", "std"),
    [
        (np.linspace(10, 80, 16), np.linspace(2, 9, 16), np.full(16, 1.4)),
        (np.column_stack([np.linspace(10, 80, 16), np.full(16, 12.0)]), np.linspace(2, 9, 16), np.full(16, 1.2)),
    ],
)
def test_training_takes_histograms_of_ratings_2_to_9(y, mean, std):
    with recorded() as phases:
        tiny(batch_size=8, max_epochs=1).fit(list(GREYS), y)
    (phase,) = phases
    order = np.concatenate(phase.rows)
    assert np.sort(order).tolist() == list(range(16))  # every image once
    histograms = torch.cat(phase.targets).double().numpy()
    np.testing.assert_allclose(histograms @ RATINGS, mean[order], atol=1e-5)
    np.testing.assert_allclose(np.sqrt(histograms @ RATINGS**2 - (histograms @ RATINGS) ** 2), std[order], atol=1e-4)


def test_training_takes_numbers_from_0_to_1_for_one_bin():
    with recorded() as phases:
        tiny(n_bins=1, batch_size=8, max_epochs=1).fit(list(GREYS), np.linspace(10, 80, 16))
    (phase,) = phases
    order = np.concatenate(phase.rows)
    np.testing.assert_allclose(torch.cat(phase.targets)[:, 0], np.linspace(0, 1, 16)[order], atol=1e-6)


def test_dropout_is_that_of_the_paper():
    assert [one.p for one in tiny().initialize().network_.modules() if type(one) is nn.Dropout] == [0.75]


def test_recipe_of_the_paper():
    # Momentum 0.9, 3e-6 for the new layer, 3e-7 for the others, 5 % less every ten epochs.
    with recorded() as phases:
        tiny(solver="sgd", lr=3e-7, max_epochs=21).fit(list(GREYS[::8]), [0.0, 1.0])
    (phase,) = phases
    assert phase.optimizer is torch.optim.SGD
    assert phase.settings == [{"momentum": 0.9}] * 2
    factors = np.repeat([1, 0.95, 0.95**2], [10, 10, 1])
    np.testing.assert_allclose(phase.rates, np.outer(factors, [3e-6, 3e-7]))


def test_momentum_is_that_of_the_parameter():
    with recorded() as phases:
        tiny(solver="sgd", momentum=0.5, max_epochs=1).fit(list(GREYS[::8]), [0.0, 1.0])
    assert phases[0].settings == [{"momentum": 0.5}] * 2


def test_rates_go_on_after_a_pause():
    nima = tiny(lr=1e-3, lr_decay=0.5, lr_step=2)
    with recorded() as phases:
        for _ in range(5):
            nima.partial_fit(list(GREYS[::8]), [0.0, 1.0])
    np.testing.assert_allclose([phase.rates[0][1] for phase in phases], [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize(("one", "other"), [("adam", "sgd"), ("sgd", "adam")])
def test_the_solver_may_change_on_the_way(one, other):
    nima = tiny(solver=one).partial_fit(list(GREYS[::8]), [0.0, 1.0])
    with recorded() as phases:
        nima.set_params(solver=other).partial_fit(list(GREYS[::8]), [0.0, 1.0])
    assert phases[0].optimizer is {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[other]
    assert np.isfinite(nima.loss_curve_).all()


# Parameters and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_bins": 2}, r"'n_bins' parameter of NIMA must be a int among \{1\} or an int in the range \[3, inf\)"),
        ({"n_bins": 0}, "'n_bins' parameter"),
        ({"pooling": "max"}, "'pooling' parameter of NIMA must be a str among"),
        ({"dropout": 1.0}, r"'dropout' parameter of NIMA must be a float in the range \[0.0, 1.0\)"),
        ({"image_size": 0}, r"'image_size' parameter of NIMA must be an int in the range \[1, inf\) or None"),
        ({"solver": "lbfgs"}, "'solver' parameter of NIMA must be a str among"),
        ({"momentum": 1.0}, r"'momentum' parameter of NIMA must be a float in the range \[0.0, 1.0\)"),
        ({"lr_decay": 0.0}, r"'lr_decay' parameter of NIMA must be a float in the range \(0.0, 1.0\]"),
        ({"lr_step": 0}, r"'lr_step' parameter of NIMA must be an int in the range \[1, inf\)"),
        ({"rating_std": 0.0}, r"'rating_std' parameter of NIMA must be a float in the range \(0.0, inf\)"),
        ({"backbone": "resnet_of_nobody"}, "resnet_of_nobody"),
        ({"backbone": "test_vit", "pooling": "mean"}, "pooling='backbone'"),
        ({"backbone": "inception_resnet_v2"}, "64 x 64 pixels"),  # its unpadded layers need 75
        ({"weights": "ava-vgg16"}, "backbone='vgg16'"),
    ],
)
def test_unusable_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        tiny(**{"image_size": 64} | parameters).initialize()

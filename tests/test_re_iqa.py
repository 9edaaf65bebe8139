# SPDX-License-Identifier: BSD-3-Clause
"""Re-IQA: parity with the official code, its views and its training, and learning."""

import math

import kits
import numpy as np
import pytest
import torch
from PIL import Image
from recipes import recorded
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from torchvision.transforms import v2

from sklearn_iqa import ReIQA
from sklearn_iqa._base.devices import seeded
from sklearn_iqa._nn.contrastive import MomentumContrast
from sklearn_iqa._nn.transforms import overlapping_pair, side_of_overlapping_pair, to_tensor
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc
from sklearn_iqa.pair_input import re_iqa
from sklearn_iqa.pair_input._lars import LARS

KIT = kits.read("re_iqa")
RTOL = KIT["tolerance"]["rel"]  # 1e-4
PLACES = [0, 1, 2, 3, 2048, 2049, 2050, 2051]
TINY = {
    **{"backbone": "test_resnet", "backbone_weights": None, "patch_size": 16, "n_distorted": 3, "queue_size": 16},
    **{"n_groups": 1, "batch_size": 4, "max_epochs": 1, "random_state": 0, "device": "cpu"},
}


def kit_images():
    first, second = kits.images(0)
    return [first, second, first[32:288, 64:384] // 4]


def official_state(part, prefix="module."):
    state = kits.fill(KIT, seed=KIT["weight_seeds"][part])
    counters = {name: torch.tensor(7) for name, _, dtype in KIT["manifest"] if dtype == "int64"}
    return {name.replace("module.", prefix): tensor for name, tensor in (state | counters).items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The two files in their official form: the state under `model`, beside what training had."""
    folder = tmp_path_factory.mktemp("official")
    for part in ("content", "quality"):
        beside = {
            "epoch": 40,
            "contrast": {"memory": torch.zeros(2, 2)},
            "optimizer": {"state": {}, "param_groups": []},
            # The network of the keys, which is not the one of the published features.
            "model_ema": {name: -tensor for name, tensor in official_state(part).items()},
        }
        torch.save({"model": official_state(part), **beside}, folder / f"{part}_aware_r50.pth")
    return {f"{part}_weights": folder / f"{part}_aware_r50.pth" for part in ("content", "quality")}


@pytest.fixture(scope="module")
def official(files):
    return ReIQA(**files, trained="none", device="cpu").initialize()


@pytest.fixture(scope="module")
def features(official):
    return official.transform(kit_images()).astype(np.float64)


def assert_parity(what, got, want, **tolerance):
    kits.assert_parity("re_iqa", what, got, want, **{"rtol": RTOL, **tolerance})


# Official numbers -----------------------------------------------------------------------------------------------------


def test_parity_output(features):
    coefficients = kits.fill_tensor("regressor.coef", (1, 8192), KIT["seed"])[0].astype(np.float64)
    intercept = kits.fill_tensor("regressor.bias", (1,), KIT["seed"])[0].astype(np.float64)
    assert_parity("output", features @ coefficients + intercept, KIT["output"])


@pytest.mark.parametrize("part", ["content", "quality"])
def test_parity_features(features, part):
    mine = features[:, :4096] if part == "content" else features[:, 4096:]
    for number, told in enumerate(KIT["features"][f"{part} [image]"]):
        assert_parity(f"{part} {number}", mine[number, PLACES], told["at 0,1,2,3,2048,2049,2050,2051"])
        for what in ("mean", "std"):
            assert_parity(f"{part} {number}, {what}", getattr(mine[number], what)(), told[what])


def test_parity_stages(features):
    for number, told in enumerate(KIT["stages"]):  # content full, content half, quality full, quality half
        stage = features[0, 2048 * number : 2048 * (number + 1)]
        assert_parity(f"stage {number}", stage[:5], told["first5"])
        assert_parity(f"stage {number}, mean and std", [stage.mean(), stage.std()], [told["mean"], told["std"]])


def test_parity_projection(files):
    # In double precision: one component is 500 times smaller than the largest, so that float32's rounding, which
    # depends on the processor, takes as much of it as the tolerance allows.
    quality = ReIQA(**files, trained="none", device="cpu").initialize().network_.quality.double()
    with torch.inference_mode():
        heads = [quality(to_tensor(image)[None].double())[0, :6] for image in kit_images()]
    assert_parity("projection", torch.stack(heads), KIT["projection"]["values"])


def test_heads_may_be_left_out(files, official, tmp_path):
    state = official_state("quality", prefix="")
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("head.")}, tmp_path / "bare.pth")
    bare = ReIQA(**{**files, "quality_weights": tmp_path / "bare.pth"}, trained="none", device="cpu").initialize()
    with_heads = official.network_.quality.state_dict()
    for name, tensor in bare.network_.quality.state_dict().items():
        assert torch.equal(tensor, with_heads[name]) != name.startswith("head."), name


def test_other_files_are_refused(files, tmp_path):
    state = official_state("content")
    del state["module.encoder.layer3.2.conv2.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"content_weights=.*cut\.pth.*layer3\.2\.conv2\.weight"):
        ReIQA(**{**files, "content_weights": tmp_path / "cut.pth"}).initialize()
    with pytest.raises(FileNotFoundError, match="missing"):
        ReIQA(**{**files, "quality_weights": tmp_path / "missing.pth"}).initialize()


def test_weights_of_both_and_of_one_are_refused(files):
    with pytest.raises(ValueError, match="weights are those of both encoders, but content_weights"):
        ReIQA(**files, weights="both.pth").initialize()


def test_whole_weights_come_back(tmp_path):
    fitted = ReIQA(**TINY).fit(noise_images())
    fitted.save_weights(tmp_path / "both.safetensors")
    loaded = ReIQA(**TINY, weights=tmp_path / "both.safetensors", trained="none")
    np.testing.assert_array_equal(loaded.transform(noise_images()), fitted.transform(noise_images()))
    np.testing.assert_array_equal(loaded.fit_transform(noise_images()), fitted.transform(noise_images()))


def test_nothing_is_trained_when_asked(official):
    before = {name: tensor.clone() for name, tensor in official.initialize().network_.state_dict().items()}
    image = kit_images()[2]
    ridge = make_pipeline(official, Ridge()).fit([image, image[:, ::-1]], [1.0, 2.0])
    assert ridge.predict([image]).shape == (1,)
    assert official.n_iter_ == 0
    assert official.loss_curve_ == []
    after = official.network_.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


# Features -------------------------------------------------------------------------------------------------------------


def noise_images(n=4, height=72, width=90):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny():
    return ReIQA(**TINY).initialize()


def test_order_of_features(tiny):
    image = noise_images()[0]
    features = tiny.transform([image])[0]
    width = tiny.network_.width
    assert features.shape == (4 * width,)
    half = np.asarray(Image.fromarray(image).resize((45, 36)))  # Pillow's default filter
    pixels = [to_tensor(one)[None] for one in (image, half)]
    with torch.inference_mode():
        # timm's test_resnet was trained on (x - 0.5) / 0.5; the quality encoder takes x.
        blocks = [tiny.network_.content.encoder((x - 0.5) / 0.5)[0] for x in pixels]
        blocks += [tiny.network_.quality.encoder(x)[0] for x in pixels]
    np.testing.assert_allclose(features, torch.cat(blocks).numpy(), rtol=1e-5, atol=1e-6)


def test_parts_are_halves(tiny):
    X = noise_images()
    both = tiny.transform(X)
    for part, half in (("content", both[:, : both.shape[1] // 2]), ("quality", both[:, both.shape[1] // 2 :])):
        tiny.set_params(parts=part)
        np.testing.assert_array_equal(tiny.transform(X), half)
        assert len(tiny.get_feature_names_out()) == half.shape[1]
    tiny.set_params(parts="content+quality")


@pytest.mark.parametrize("backbone", ["test_efficientnet", "convnext_atto", "mobilenetv3_small_050"])
def test_any_backbone(backbone):
    estimator = ReIQA(**{**TINY, "backbone": backbone, "patch_size": 32}).fit(noise_images())
    features = estimator.transform(noise_images()[:1])
    assert np.isfinite(features).all()
    assert features.shape == (1, len(estimator.get_feature_names_out()))


def test_fixed_sizes_are_refused():
    with pytest.raises(ValueError, match=r"backbone='test_vit' takes images of one size.*take a convolutional network"):
        ReIQA(**{**TINY, "backbone": "test_vit"}).initialize()


def test_where_the_encoders_start(tmp_path):
    source = ReIQA(**TINY).initialize().network_.content.encoder.state_dict()
    torch.save(source, tmp_path / "backbone.pth")
    from_file = {**TINY, "backbone_weights": tmp_path / "backbone.pth", "random_state": 1}

    def starts_there(part):
        return all(torch.equal(tensor, source[name]) for name, tensor in part.encoder.state_dict().items())

    network = ReIQA(**from_file).initialize().network_
    assert starts_there(network.content)
    assert not starts_there(network.quality)
    network = ReIQA(**from_file, quality_weights="backbone").initialize().network_
    assert starts_there(network.content)
    assert starts_there(network.quality)


# Views of training ----------------------------------------------------------------------------------------------------


def numbered(height, width):
    """An image (1, 3, h, w) whose values say where a pixel lies: row in the first channel, column in the second."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).float()[None]


@pytest.mark.parametrize("size", [8, 16, 37, 160])
def test_patches_overlap_by_10_to_30_percent(size):
    side = side_of_overlapping_pair(size)
    image = numbered(side, side + 20)
    shifts, corners = set(), []
    torch.manual_seed(0)
    for _ in range(300):
        pair = overlapping_pair(image, size)[0]
        assert pair.shape == (2, 3, size, size)
        first, second = pair[:, :2, 0, 0]
        down, right = (second - first).long().tolist()
        assert 0.7 * size <= down < 0.9 * size
        assert right >= 0
        assert 0.1 <= (size - down) * (size - right) / size**2 <= 0.3
        shifts.add((down, right))
        corners.append(first.tolist())
    # Every shift down, of which a patch of 160 has 32, and the longest one to the right, within a few pixels.
    least, most = math.ceil(0.7 * size), math.ceil(0.9 * size) - 1
    assert {down for down, _ in shifts} == set(range(least, most + 1))
    assert max(right for _, right in shifts) >= 0.95 * math.floor(size - 0.1 * size**2 / (size - least))
    # Anywhere in the image: the square that holds both patches has the side `side` at most.
    assert np.min(corners, axis=0).tolist() == [0, 0]
    assert np.max(corners, axis=0)[1] >= 20


def test_half_of_the_pairs_are_exchanged(monkeypatch):
    estimator = ReIQA(**TINY)
    # Four versions of one brightness each, so that a pair says which it is; with coordinates in two channels.
    image = numbered(64, 64)[0].movedim(0, -1).numpy().astype(np.uint8)
    stack = [image + np.uint8([0, 0, level]) for level in (10, 20, 30, 40)]
    monkeypatch.setattr(re_iqa, "distorted_stack", lambda *args: stack)
    torch.manual_seed(0)
    pairs = estimator._train_view(image) * 255
    assert pairs.shape == (8, 2, 3, 16, 16)
    np.testing.assert_allclose(pairs[:, :, 2].mean((2, 3)), [[level] * 2 for level in (10, 20, 30, 40) * 2], atol=1e-3)
    corners = pairs[:, :, 0, 0, 0]  # row of the upper left pixel
    lower_first = (corners[:, 0] > corners[:, 1]).tolist()
    assert lower_first == [True, True, False, False, False, False, True, True]
    # One place for all versions of a scale; steps of one pixel at full size, of 63/31 at half of it.
    for scale, step in ((pairs[:4], 1.0), (pairs[4:], 63 / 31)):
        assert len({frozenset(pair.tolist()) for pair in (scale[:, :, 0, 0, 0] * 16).round()}) == 1
        np.testing.assert_allclose(scale[:, :, 0, 8, 8] - scale[:, :, 0, 7, 8], step, atol=0.15)


def test_a_step_sees_24_pairs_of_12_versions():
    estimator = ReIQA(**{**TINY, "n_distorted": 11})
    image = noise_images(1, 64, 70)[0]
    with seeded(0):
        pairs = estimator._train_view(image)
    assert pairs.shape == (24, 2, 3, 16, 16)
    with seeded(0):
        assert torch.equal(estimator._train_view(image), pairs)
    with seeded(1):
        assert not torch.equal(estimator._train_view(image), pairs)
    flat = [tuple(pair.flatten().tolist()) for pair in pairs[:12]]
    assert len(set(flat)) == 12


def test_small_images_are_enlarged():
    pairs = ReIQA(**{**TINY, "patch_size": 24})._train_view(np.full((64, 70, 3), 100, np.uint8))
    assert pairs.shape == (8, 2, 3, 24, 24)


def test_queue_holds_the_keys_of_earlier_steps():
    estimator = ReIQA(**{**TINY, "batch_size": 2, "queue_size": 40}).fit(noise_images())
    contrast = estimator.net_.module_
    # Two steps of two images with eight pairs each: 32 keys of 40 places.
    assert int(contrast.pointer) == 32
    torch.testing.assert_close(contrast.queue.norm(dim=1), torch.ones(40))
    assert contrast.encoder is estimator.network_.quality


# What is trained ------------------------------------------------------------------------------------------------------


def changed(estimator, X):
    before = {name: tensor.clone() for name, tensor in estimator.initialize().network_.state_dict().items()}
    after = estimator.fit(X).network_.state_dict()
    return {".".join(name.split(".")[:2]) for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_the_content_encoder_is_frozen_unless_asked():
    quality = {"quality.encoder", "quality.head"}
    assert changed(ReIQA(**TINY), noise_images()) == quality
    both = ReIQA(**TINY, trained="content+quality", content_epochs=1, content_size=32)
    assert changed(both, noise_images()) == quality | {"content.encoder", "content.head"}


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("parts", "style", "a str among .*'content.quality'"),
        ("trained", "all", "a str among .*'none'"),
        ("patch_size", 7, r"an int in the range \[8, inf\)"),
        ("n_distorted", 27, r"an int in the range \[0, 26\]"),
        *((name, 0, r"an int in the range \[1, inf\)") for name in ("queue_size", "n_groups", "content_epochs")),
        ("content_size", 0.5, r"an int in the range \[1, inf\)"),
        ("warmup_epochs", -1, r"an int in the range \[0, inf\)"),
        ("momentum", 1.1, r"a float in the range \[0.0, 1.0\]"),
        ("second_distortion", -0.1, r"a float in the range \[0.0, 1.0\]"),
        *((name, 0.0, r"a float in the range \(0.0, inf\)") for name in ("temperature", "content_lr")),
        ("weight_decay", -1.0, r"a float in the range \[0.0, inf\)"),
        *((name, 5, "'os.PathLike' or None") for name in ("content_weights", "quality_weights")),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused(parameter, value, accepted):
    sentence = rf"^The '{parameter}' parameter of ReIQA must be .*{accepted}.*\. Got {value!r} instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        ReIQA(**{**TINY, parameter: value}).fit(noise_images())


# Recipe ---------------------------------------------------------------------------------------------------------------


def test_settings_of_lars():
    (group,) = ReIQA(**TINY).fit(noise_images()).net_.optimizer_.param_groups
    assert {name: group[name] for name in ("momentum", "weight_decay", "trust")} == {
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "trust": 0.001,
    }


def test_content_is_trained_first_by_the_defaults_of_pycontrast():
    # SGD from 0.03, in batches of 256; a tenth after 120 of 200 epochs and again after 160: here after 3 and 4 of 5.
    recipe = {"trained": "content+quality", "content_epochs": 5, "content_size": 32, "content_batch_size": 3}
    estimator = ReIQA(**{**TINY, **recipe, "batch_size": 6})
    with recorded() as phases:
        estimator.fit(noise_images(6))
    content, quality = phases
    assert (content.name, quality.name) == ("ReIQA, content", "ReIQA")
    assert (content.optimizer, quality.optimizer) == (torch.optim.SGD, LARS)
    assert content.settings == [{"momentum": 0.9, "weight_decay": 1e-4}]
    assert [len(rows) for rows in content.rows] == [3] * 10  # steps of its own size
    assert [len(rows) for rows in quality.rows] == [6]
    assert set(content.shapes) == {(3, 2, 3, 32, 32)}  # two views of each image
    expected = np.repeat([0.03, 0.03, 0.03, 0.003, 0.0003], 2)
    np.testing.assert_allclose(np.ravel(content.rates), expected)
    learned = frozenset(name for name in content.names if name.startswith("encoder."))
    assert content.trained == [learned] * 5


def test_rates_go_on_after_a_pause():
    recipe = {**TINY, "max_epochs": 4, "warmup_epochs": 2, "lr": 12.0}
    estimator, X = ReIQA(**recipe), noise_images()
    with recorded() as phases:
        for _ in range(4):
            estimator.partial_fit(X)
    # The cosine of epochs counted from 1, from 12 to 0.012, behind a warm-up of two steps towards its second value.
    second, third, fourth = (0.012 + 11.988 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (2, 3, 4))
    expected = [0.01, 0.01 + (second - 0.01) / 2, third, fourth]
    np.testing.assert_allclose([phase.rates[0][0] for phase in phases], expected)


def test_content_views_are_those_of_moco_v2():
    crop, mirrored, colours, grey, blurred = re_iqa.augmentation(224).transforms
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.2, 1.0), (3 / 4, 4 / 3))
    assert isinstance(mirrored, v2.RandomHorizontalFlip)
    assert (mirrored.p, colours.p, grey.p, blurred.p) == (0.5, 0.8, 0.2, 0.5)
    assert isinstance(grey, v2.RandomGrayscale)
    (jitter,), (blur,) = colours.transforms, blurred.transforms
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4)
    assert jitter.hue == (-0.1, 0.1)
    assert tuple(blur.sigma) == (0.1, 2.0)


def test_content_views_are_normalised_and_differ():
    estimator = ReIQA(**TINY, trained="content+quality", content_size=32).initialize()
    rows = estimator._rows(noise_images())
    (stage,) = estimator._stages_before(rows, np.zeros(4), None)
    assert not torch.equal(*stage.view(rows[0], None))
    black = stage.view(np.zeros((64, 70, 3), np.uint8), None)
    torch.testing.assert_close(black, torch.full((2, 3, 32, 32), -1.0))  # (0 - 0.5) / 0.5, however it is jittered
    assert stage.module.encoder is estimator.network_.content


def test_parameters_reach_momentum_contrast():
    estimator = ReIQA(**{**TINY, "n_groups": 3, "queue_size": 20}, momentum=0.7, temperature=0.5).initialize()
    contrast = estimator._training_module(estimator.network_)
    assert (contrast.momentum, contrast.n_groups, len(contrast.queue)) == (0.7, 3, 20)
    assert not contrast.batch_negatives  # keys of earlier steps alone
    assert contrast.encoder is estimator.network_.quality
    assert estimator._loss().temperature == 0.5


@pytest.fixture
def stacks(monkeypatch):
    """What `_train_view` distorts and cuts: a list that fills with the versions of each scale."""
    calls, pair = [], overlapping_pair

    def recorded_pair(images, size):
        calls.append(images)
        return pair(images, size)

    monkeypatch.setattr(re_iqa.transforms, "overlapping_pair", recorded_pair)
    return calls


def test_versions_are_the_image_and_distorted_ones_at_two_scales(stacks):
    image = noise_images(1, 64, 70)[0]
    torch.manual_seed(0)
    pairs = ReIQA(**{**TINY, "n_distorted": 5})._train_view(image)
    full, half = stacks
    assert len(full) == len(half) == 6
    assert torch.equal(full[0], to_tensor(image))
    assert not any(torch.equal(full[0], other) for other in full[1:])
    assert half.shape[2:] == (32, 35)
    # With aligned corners, and without antialiasing: the corners of the half are those of the image.
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(half[..., row, column], full[..., row, column])
    assert 0 <= pairs[:6].min() < 0.2 < 0.8 < pairs[:6].max() <= 1  # as they are, in 0..1


def test_versions_are_made_as_the_parameters_say(monkeypatch):
    calls, make = [], re_iqa.distorted_stack

    def recorded_stack(image, n, rng, second):
        calls.append((n, second))
        return make(image, n, rng, second)

    monkeypatch.setattr(re_iqa, "distorted_stack", recorded_stack)
    ReIQA(**{**TINY, "n_distorted": 5}, second_distortion=0.1)._train_view(noise_images(1, 64, 70)[0])
    assert calls == [(5, 0.1)]


def test_distortions_are_drawn_anew(stacks):
    image = noise_images(1, 64, 70)[0]
    estimator = ReIQA(**TINY)
    torch.manual_seed(0)  # a kind may come again at its place and level
    for _ in range(2):
        estimator._train_view(image)
    first, second = stacks[::2]
    assert torch.equal(first[0], second[0])
    assert not any(torch.equal(one, other) for one, other in zip(first[1:], second[1:], strict=True))


# Learning -------------------------------------------------------------------------------------------------------------


# Seven photographs, undistorted, teach the quality encoder; levels of five kinds of distortion of them teach a ridge,
# those of three more judge it: 175 and 75 images.
def test_it_learns():
    photographs = load_photographs(size=128).images
    kinds = ["gaussian_blur", "white_noise", "jpeg", "contrast_change", "pixelate"]
    made = make_distorted(photographs, distortions=kinds, random_state=0)
    held_out = np.isin(made.groups, [1, 4, 7])
    recipe = {"patch_size": 32, "n_distorted": 11, "queue_size": 512, "momentum": 0.9, "batch_size": 1, "lr": 1.0}
    estimator = ReIQA(**{**TINY, **recipe, "parts": "quality", "warmup_epochs": 2, "max_epochs": 22})

    def score():
        X = estimator.transform(made.images)
        ridge = make_pipeline(StandardScaler(), Ridge(100.0)).fit(X[~held_out], made.target[~held_out])
        return srcc(made.target[held_out], ridge.predict(X[held_out]))

    estimator.initialize()
    before = score()
    estimator.fit([photographs[i] for i in (0, 2, 3, 5, 6, 8, 9)])
    after = score()
    # Measured: 0.16 before, 0.59 after; with random_state 1, 2 and 3 0.30 and 0.42, 0.27 and 0.50, 0.20 and 0.58; with
    # PyTorch 2.6, which rounds otherwise, 0.31, 0.40 and 0.43 after with 0, 1 and 2. The copy must follow within these
    # 154 steps: with a momentum of 0.99 the lowest of four rises is 0.06. Of some twenty recipes of this length steps
    # of several images at rates of 3 and 12 gave no such rise.
    assert after > before + 0.08
    assert before < 0.35


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_no_tensor_holds_a_whole_batch(n_jobs, monkeypatch):
    """The default batch would take 9 GB in one piece; rows kept apart are learned from bit by bit alike."""
    images = np.random.default_rng(0).integers(0, 256, (7, 72, 80, 3), dtype=np.uint8)
    seen, forward = [], MomentumContrast.forward

    def noted(self, views):
        seen.append(views)
        return forward(self, views)

    monkeypatch.setattr(MomentumContrast, "forward", noted)
    params = {**ReIQA._test_params, "n_groups": 2, "max_epochs": 2, "random_state": 0, "n_jobs": n_jobs}
    apart = ReIQA(**params).fit(images)
    assert [len(rows) for rows in seen] == [4, 3, 4, 3]
    assert all(row.shape == (4, 2, 3, 16, 16) for rows in seen for row in rows)
    given = ReIQA._net_params
    monkeypatch.setattr(ReIQA, "_net_params", lambda self: given(self) | {"iterator_train__stack_class": None})
    together = ReIQA(**params).fit(images)
    assert isinstance(seen[-1], torch.Tensor)
    assert apart.loss_curve_ == together.loss_curve_
    for one, other in zip(apart.network_.parameters(), together.network_.parameters(), strict=True):
        assert torch.equal(one, other)

# SPDX-License-Identifier: BSD-3-Clause
"""Features of timm and open_clip: what is pooled, what is compared, and that the cache spares the network."""

import json
from pathlib import Path

import joblib
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sentences import one_sentence
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError

from sklearn_iqa import OpenCLIPFeatures, TimmFeatures, make_pairs
from sklearn_iqa._base.inference import PIXELS_PER_PASS
from sklearn_iqa._nn import clip_backbones, timm_backbones
from sklearn_iqa.features import _base

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 48, 40, 3), dtype=np.uint8)


def extractor(**parameters):
    return TimmFeatures(**{"backbone": "test_resnet", "backbone_weights": None, "random_state": 0, **parameters})


@pytest.fixture
def passes(monkeypatch):
    """Counts the images that go through a network."""
    counted = []
    forward = _base.Pooled.forward

    def count(self, images):
        counted.extend(range(len(images)))
        return forward(self, images)

    monkeypatch.setattr(_base.Pooled, "forward", count)
    _base.Store.recent.clear()
    return counted


def by_hand(image, layer=None):
    """Feature map (c, h, w) of one image, spelled out."""
    config = timm_backbones.input_config("test_resnet")
    pixels = (image / 255.0 - config["mean"]) / config["std"]
    tensor = torch.tensor(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    seed = np.random.RandomState(0).randint(2**31 - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = timm_backbones.build_backbone("test_resnet").eval()
    with torch.no_grad():
        return (
            backbone.forward_features(tensor)
            if layer is None
            else timm_backbones.layer_outputs(backbone, [layer], tensor)[0]
        )[0]


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda m: m.mean(1)),
        ("std", lambda m: m.std(1, unbiased=False)),
        ("max", lambda m: m.amax(1)),
        ("mean+std", lambda m: torch.cat([m.mean(1), m.std(1, unbiased=False)])),
    ],
)
def test_pooling(pooling, pool):
    got = extractor(pooling=pooling).fit_transform(IMAGES[:2])
    want = np.stack([pool(by_hand(image).flatten(1)).numpy() for image in IMAGES[:2]])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_layers_are_concatenated():
    both = extractor(layers=["layer1", "layer3"]).fit_transform(IMAGES[:1])[0]
    want = [by_hand(IMAGES[0], layer).mean((1, 2)).numpy() for layer in ("layer1", "layer3")]
    np.testing.assert_allclose(both, np.concatenate(want), rtol=1e-4, atol=1e-5)


def test_class_token_and_fixed_input():
    vit = extractor(backbone="test_vit", pooling="class_token")
    assert vit.fit_transform(IMAGES[:2]).shape == (2, len(vit.get_feature_names_out()))
    mean = extractor(backbone="test_vit").fit_transform(IMAGES[:2])
    assert not np.allclose(mean, vit.transform(IMAGES[:2]))
    with pytest.raises(ValueError, match="class token; take another pooling"):
        extractor(pooling="class_token").fit_transform(IMAGES[:1])


def test_image_size():
    assert extractor(image_size=(32, 64))._views(IMAGES[0]).shape == (1, 3, 32, 64)
    assert extractor(image_size=32)._views(IMAGES[0]).shape == (1, 3, 32, 32)
    assert extractor()._views(IMAGES[0]).shape == (1, 3, 48, 40)


def test_max_pixels():
    # 48 x 40 = 1920 pixels; a quarter of them is half of each side, and 1000 are sqrt(1000 / 1920) = 0.7217 of it.
    assert extractor(max_pixels=480)._views(IMAGES[0]).shape == (1, 3, 24, 20)
    assert extractor(max_pixels=1000)._views(IMAGES[0]).shape == (1, 3, 35, 29)
    assert torch.equal(extractor(max_pixels=1920)._views(IMAGES[0]), extractor()._views(IMAGES[0]))
    assert extractor(max_pixels=480).fit(IMAGES)._identity() != extractor().fit(IMAGES)._identity()


def test_scales():
    both = extractor(scales=(1.0, 0.5)).fit_transform(IMAGES)
    whole, half = np.split(both, 2, axis=1)
    np.testing.assert_allclose(whole, extractor().fit_transform(IMAGES), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(half, extractor(scales=(0.5,)).fit_transform(IMAGES), rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole, half, rtol=0.1)
    assert len(extractor(scales=(1.0, 0.5)).fit(IMAGES).get_feature_names_out()) == both.shape[1]
    assert extractor(scales=(1.0, 0.5)).fit(IMAGES)._identity() != extractor().fit(IMAGES)._identity()
    with pytest.raises(ValueError, match=r"^test_vit takes images of one size, but scales=\(0.5,\) makes others"):
        TimmFeatures("test_vit", scales=(0.5,), backbone_weights=None).fit(IMAGES)


@pytest.mark.parametrize("comparison", ["difference", "product", "difference+product"])
def test_comparison(comparison):
    queries, references = IMAGES[:3], IMAGES[3:]
    pairs = extractor(comparison=comparison)
    got = pairs.fit_transform(make_pairs(queries, references))
    q, r = extractor().fit_transform(queries), extractor().fit_transform(references)
    forms = {"difference": np.abs(q - r), "product": q * r, "difference+product": np.hstack([np.abs(q - r), q * r])}
    np.testing.assert_allclose(got, forms[comparison], rtol=1e-5, atol=1e-6)
    assert len(pairs.get_feature_names_out()) == got.shape[1]


def test_one_reference_passes_once(passes):
    extractor(comparison="difference").fit_transform(make_pairs(IMAGES[:5], IMAGES[5]))
    assert len(passes) == 6


def test_set_output():
    pandas = pytest.importorskip("pandas", reason="set_output needs pandas")
    frame = extractor().set_output(transform="pandas").fit_transform(IMAGES)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.columns[0] == "timmfeatures0"


@pytest.mark.parametrize("kind", ["array", "paths"])
def test_cache_spares_the_network_in_a_search(tmp_path, passes, kind):
    X = IMAGES
    if kind == "paths":
        X = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
        for image, path in zip(IMAGES, X, strict=True):
            Image.fromarray(image).save(path)
    model = make_pipeline(extractor(cache=tmp_path / "cache"), Ridge())
    search = GridSearchCV(model, {"ridge__alpha": [0.1, 1.0, 10.0]}, cv=KFold(3), error_score="raise")
    search.fit(X, np.arange(6.0))
    assert len(passes) == len(IMAGES)
    _base.Store.recent.clear()  # as in another process
    again = clone(search.best_estimator_).fit(X, np.arange(6.0))
    assert len(passes) == len(IMAGES)
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_cache_knows_what_changes_features(tmp_path, passes):
    cache = joblib.Memory(tmp_path, verbose=0)
    extractor(cache=cache).fit_transform(IMAGES)
    for change in ({"pooling": "std"}, {"image_size": 32}, {"layers": ["layer1"]}, {"random_state": 1}):
        passes.clear()
        got = extractor(cache=cache, **change).fit_transform(IMAGES)
        assert len(passes) == len(IMAGES), change
        np.testing.assert_array_equal(got, extractor(**change).fit_transform(IMAGES))
    passes.clear()
    extractor(cache=cache, n_jobs=2).fit_transform(IMAGES[::-1].copy())
    assert passes == []


def test_cache_sees_changed_pixels_and_files(tmp_path, passes):
    images = IMAGES.copy()
    est = extractor(cache=tmp_path / "cache").fit(images)
    before = est.transform(images)
    images[2] = 255 - images[2]
    after = est.transform(images)
    assert len(passes) == len(IMAGES) + 1
    changed = ~np.isclose(before, after).all(axis=1)
    np.testing.assert_array_equal(changed, [False, False, True, False, False, False])
    path = tmp_path / "one.bmp"
    Image.fromarray(images[0]).save(path)
    first = est.transform([path])
    Image.fromarray(np.vstack([images[1], images[0]])).save(path)  # another size in bytes
    assert not np.allclose(first, est.transform([path]))


def test_clones_share_the_network():
    built = _base.frozen_network.cache_info().misses
    for _ in range(3):
        clone(extractor(random_state=123)).fit_transform(IMAGES[:1])
    assert _base.frozen_network.cache_info().misses == built + 1


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("pooling", "sum", "'class_token'"),
        ("comparison", "quotient", "'difference.product'"),
        ("image_size", "64", r"an int in the range \[1, inf\), a sequence of 2 members"),
        ("image_size", (64,), "a sequence of 2 members"),
        ("image_size", (64, 0), r"each an int in the range \[1, inf\)"),
        ("max_pixels", 0, r"an int in the range \[1, inf\) or None"),
        ("scales", 0.5, "a sequence of 1 or more members"),
        ("scales", (), "a sequence of 1 or more members"),
        ("scales", (1.0, 0.0), r"each a float in the range \(0.0, inf\)"),
        ("layers", "layer1", "a sequence of 1 or more members, each an instance of 'str'"),
        ("layers", [], "a sequence of 1 or more members"),
        ("cache", 5, "'joblib.memory.Memory'"),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused_at_fit(parameter, value, accepted):
    sentence = rf"The '{parameter}' parameter of TimmFeatures must be .*{accepted}.*\. Got .* instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        extractor(**{parameter: value}).fit(IMAGES)


def test_a_backbone_that_timm_does_not_have_is_refused_at_fit():
    with one_sentence(ValueError, "timm has no network 'resnet5000'"):
        extractor(backbone="resnet5000").fit(IMAGES)


def test_a_mistyped_layer_is_refused_at_fit_without_weights(monkeypatch):
    monkeypatch.setattr(timm_backbones, "load_backbone", lambda *args: pytest.fail("loaded weights to read names"))
    before, built = torch.get_rng_state(), _base.frozen_network.cache_info().misses
    parts = "ResNet has no layer 'layr4'", "take names of backbone.named_modules(), such as conv1", "layer4"
    for weights in ("imagenet", None):
        with one_sentence(ValueError, *parts):
            extractor(backbone="resnet18", layers=["layer1", "layr4"], backbone_weights=weights).fit(IMAGES)
    assert _base.frozen_network.cache_info().misses == built
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_layers_are_read_once_for_all_clones():
    extractor(layers=["layer1"]).fit(IMAGES)
    read = _base.skeleton.cache_info().misses
    for _ in range(3):
        clone(extractor(layers=["layer2", "layer3"])).fit(IMAGES)
    assert _base.skeleton.cache_info().misses == read
    assert all(tensor.is_meta for tensor in extractor()._skeleton().state_dict().values())


def test_a_network_whose_constructor_reads_tensors_has_names_too(monkeypatch):
    build = timm_backbones.build_backbone

    def build_with_rates(name):  # many a network spreads its rates of stochastic depth in this way
        rates = [float(rate) for rate in torch.linspace(0, 0.1, 4)]
        return build(name, drop_path_rate=rates[-1])

    monkeypatch.setattr(TimmFeatures, "_build", staticmethod(build_with_rates))
    before = torch.get_rng_state()
    with one_sentence(ValueError, "ResNet has no layer 'layr4'"):
        extractor(layers=["layr4"]).fit(IMAGES)
    assert extractor(layers=["layer4"]).fit_transform(IMAGES).shape == (6, 96)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in extractor()._skeleton().state_dict().values())


def test_errors_name_the_row(tmp_path):
    with pytest.raises(ValueError, match="Row 1 of X"):
        extractor().fit_transform([IMAGES[0], np.full((8, 8, 3), np.nan)])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        extractor(cache=tmp_path).fit_transform(["missing.png"])
    with pytest.raises(ValueError, match="make_pairs"):
        extractor(comparison="product").fit_transform([(IMAGES[0],)])


# Networks of open_clip ------------------------------------------------------------------------------------------------

VIT, RESNET = (str(Path(__file__).parent / f"clip_tiny_{kind}.json") for kind in ("vit", "resnet"))


def clip_extractor(**parameters):
    return OpenCLIPFeatures(**{"backbone": VIT, "backbone_weights": None, "random_state": 0, **parameters})


def clip_of(path, tmp_path):
    """A whole model built by open_clip itself, and the file of its state."""
    torch.manual_seed(7)
    clip = open_clip.CLIP(**json.loads(Path(path).read_text())).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    return clip, tmp_path / "clip.pt"


@pytest.mark.parametrize("path", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_numbers_are_those_of_open_clip(path, mode, tmp_path):
    clip, file = clip_of(path, tmp_path)
    got = clip_extractor(backbone=path, backbone_weights=file, resize_mode=mode).fit_transform(IMAGES)
    transform = open_clip.image_transform(32, is_train=False, resize_mode=mode)
    with torch.no_grad():
        want = clip.encode_image(torch.stack([transform(Image.fromarray(image)) for image in IMAGES]))
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-6)


def test_layers_of_open_clip_are_pooled(tmp_path):
    clip, file = clip_of(VIT, tmp_path)
    block, seen = clip.visual.transformer.resblocks[0], []
    block.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    with torch.no_grad():
        clip.encode_image(clip_extractor()._views(IMAGES[0]))
    for pooling, want in (("class_token", seen[0][0]), ("mean", seen[0][1:].mean(0)), ("max", seen[0][1:].amax(0))):
        parameters = {"layers": ["transformer.resblocks.0"], "pooling": pooling, "backbone_weights": file}
        got = clip_extractor(**parameters).fit_transform(IMAGES[:1])[0]
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-6)
    maps = clip_extractor(backbone=RESNET, layers=["layer1", "layer4"], pooling="mean+std")
    assert maps.fit_transform(IMAGES).shape == (6, 2 * (32 + 256))  # eight channels, times 4 and times 32
    assert len(maps.get_feature_names_out()) == 2 * (32 + 256)


def test_pretraining_says_how_images_come_in(monkeypatch):
    siglip = OpenCLIPFeatures("ViT-B-16-SigLIP", backbone_weights="webli")
    views = siglip._views(np.full((300, 200, 3), 255, np.uint8))
    # SigLIP's own: squashed to 224 x 224, mean and deviation 0.5.
    assert views.shape == (1, 3, 224, 224)
    torch.testing.assert_close(views, torch.ones_like(views))
    state = {
        f"visual.{name}": tensor + 1 for name, tensor in clip_backbones.build_clip_image_tower(VIT).state_dict().items()
    }

    class Model:
        def state_dict(self):
            return {**state, "logit_scale": torch.zeros(())}

    calls = []
    monkeypatch.setattr(
        clip_backbones.open_clip, "create_model", lambda name, pretrained: calls.append(pretrained) or Model()
    )
    monkeypatch.setattr(clip_backbones.open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(clip_backbones.open_clip, "get_pretrained_cfg", lambda name, tag: {})
    tower = OpenCLIPFeatures(VIT).fit(IMAGES)._network("cpu")
    assert calls == ["openai"]
    torch.testing.assert_close(tower.state_dict()["proj"], state["visual.proj"])


def test_cache_spares_the_towers_of_open_clip(tmp_path, passes):
    cache = tmp_path / "cache"
    first = clip_extractor(cache=cache).fit_transform(IMAGES)
    _base.Store.recent.clear()  # as in another process
    np.testing.assert_array_equal(clip_extractor(cache=cache).fit_transform(IMAGES), first)
    assert len(passes) == len(IMAGES)
    config = json.loads(Path(VIT).read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(config))
    clip_extractor(backbone=str(other), cache=cache).fit_transform(IMAGES)
    other.write_text(json.dumps({**config, "embed_dim": 16}))  # the same file says something else
    for parameters in ({"backbone": str(other)}, {"resize_mode": "squash"}, {"random_state": 1}):
        passes.clear()
        got = clip_extractor(cache=cache, **parameters).fit_transform(IMAGES)
        assert len(passes) == len(IMAGES), parameters
        np.testing.assert_array_equal(got, clip_extractor(**parameters).fit_transform(IMAGES))


def test_pairs_are_compared_by_open_clip():
    pairs = clip_extractor(comparison="difference+product")
    got = pairs.fit_transform(make_pairs(IMAGES[:3], IMAGES[3:]))
    q, r = (clip_extractor().fit_transform(images) for images in (IMAGES[:3], IMAGES[3:]))
    np.testing.assert_allclose(got, np.hstack([np.abs(q - r), q * r]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("resize_mode", "longest", "a str among .*'squash'"),
        ("pooling", None, "'class_token'"),
        ("layers", "layer1", "a sequence of 1 or more members, each an instance of 'str'"),
        ("backbone_weights", 5, "'os.PathLike' or None"),
    ],
)
def test_values_that_a_parameter_of_open_clip_cannot_have_are_refused_at_fit(parameter, value, accepted):
    sentence = rf"The '{parameter}' parameter of OpenCLIPFeatures must be .*{accepted}.*\. Got .* instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        clip_extractor(**{parameter: value}).fit(IMAGES)


def test_a_model_that_open_clip_does_not_have_is_refused_at_fit():
    with one_sentence(ValueError, "open_clip has no model 'ViT-B-33'"):
        clip_extractor(backbone="ViT-B-33").fit(IMAGES)


@pytest.mark.parametrize(
    ("backbone", "layer", "parts"),
    [
        (VIT, "transformer.resblock.0", ("VisionTransformer has no layer 'transformer.resblock.0'", "transformer")),
        (RESNET, "layr4", ("ModifiedResNet has no layer 'layr4'", "layer4")),
        ("ViT-B-16-SigLIP", "trunk.block.0", ("TimmModel has no layer 'trunk.block.0'", "such as trunk, head")),
    ],
    ids=["vit", "resnet", "tower of timm"],
)
def test_a_mistyped_layer_of_a_tower_is_refused_at_fit_without_weights(backbone, layer, parts, monkeypatch):
    monkeypatch.setattr(clip_backbones, "load_clip", lambda *args, **kwargs: pytest.fail("loaded weights"))
    before, built = torch.get_rng_state(), _base.frozen_network.cache_info().misses
    with one_sentence(ValueError, *parts):
        clip_extractor(backbone=backbone, layers=[layer]).fit(IMAGES)
    assert _base.frozen_network.cache_info().misses == built
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_layers_follow_the_file_of_a_model(tmp_path):
    config = json.loads(Path(VIT).read_text())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config))
    layers = ["transformer.resblocks.1"]
    clip_extractor(backbone=path, layers=layers).fit(IMAGES)
    config["vision_cfg"]["layers"] = 1  # the same file says something else
    path.write_text(json.dumps(config))
    with one_sentence(ValueError, "no layer 'transformer.resblocks.1'"):
        clip_extractor(backbone=path, layers=layers).fit(IMAGES)


# Rows that cannot be used ---------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path):
    """Files of IMAGES; that of row 3 is damaged, and that of row 4 has another size."""
    made = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for i, path in enumerate(made):
        Image.fromarray(IMAGES[i] if i != 4 else IMAGES[i][:40]).save(path)
    made[3].write_bytes(made[3].read_bytes()[:99])
    return made


def limited(monkeypatch, height):
    """Let images of a height run out of memory."""
    forward = _base.Pooled.forward

    def check(self, images):
        if images.shape[-2] == height:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return forward(self, images)

    monkeypatch.setattr(_base.Pooled, "forward", check)


@pytest.mark.parametrize("cached", [False, True])
def test_rows_that_cannot_be_used_are_nan_on_request(paths, tmp_path, cached, monkeypatch):
    model = extractor(cache=tmp_path / "cache" if cached else None).fit(paths)
    good = [0, 1, 2, 4, 5]
    expected = extractor().fit_transform([paths[row] for row in good])
    with pytest.warns(
        UserWarning, match=r"^1 of 6 rows of X .* NaN \(row 3\); the first error: Row 3 of X .*3\.png"
    ) as caught:
        features = model.transform(paths, on_error="nan")
    assert [warning.filename for warning in caught] == [__file__]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[good], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(features[3]).all()
    limited(monkeypatch, height=40)
    fresh = model.set_params(cache=None)
    with pytest.warns(UserWarning, match=r"^2 of 6 rows of X .* NaN \(row 3, 4\)"):
        assert np.isnan(fresh.transform(paths, on_error="nan")).any(axis=1).tolist() == [False] * 3 + [True] * 2 + [
            False
        ]
    with pytest.warns(UserWarning, match="^1 of 1 rows of X"):
        assert fresh.transform([paths[3]], on_error="nan").shape == expected[:1].shape
    with one_sentence(ValueError, "on_error is 'skip'"):
        fresh.transform(paths, on_error="skip")


def test_pairs_that_cannot_be_used_are_nan_on_request(paths):
    model = extractor(comparison="difference").fit([(IMAGES[0], IMAGES[1])])
    pairs = [(IMAGES[0], IMAGES[1]), (IMAGES[0], paths[3]), (paths[3], IMAGES[1]), (IMAGES[2], IMAGES[1])]
    with pytest.warns(
        UserWarning, match=r"^2 of 4 rows of X .* NaN \(row 1, 2\); the first error: Image 1 in row 1 of X"
    ):
        features = model.transform(pairs, on_error="nan")
    expected = model.transform([pairs[0], pairs[3]])
    np.testing.assert_allclose(features[[0, 3]], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(features[1:3]).all()


def test_vectors_before_a_row_that_cannot_be_used_are_kept(paths, tmp_path, passes):
    model = extractor(cache=tmp_path / "cache").fit(paths)
    with pytest.raises(ValueError, match=r"Row 3 of X .*3\.png"):
        model.transform(paths)
    n_passes = len(passes)
    assert n_passes >= 3  # rows 0 to 2, which had waited for a fourth of their size, and what was opened ahead
    _base.Store.recent.clear()  # as in another process
    features = model.transform(paths[:3])
    assert len(passes) == n_passes
    np.testing.assert_allclose(features, extractor().fit_transform(paths[:3]), rtol=1e-5, atol=1e-6)


def test_too_little_memory_keeps_the_vectors_before(paths, tmp_path, passes, monkeypatch):
    limited(monkeypatch, height=40)
    monkeypatch.setitem(PIXELS_PER_PASS, "cpu", 1)  # one image at a time
    model = extractor(cache=tmp_path / "cache").fit(paths)
    parts = "Row 3 of X (40 x 40 pixels) needs more memory than there is", "shrink the image"
    with one_sentence(MemoryError, *parts):
        model.transform([*paths[:3], paths[4], paths[5]])
    n_passes = len(passes)
    assert n_passes >= 3
    model.transform(paths[:3])
    assert len(passes) == n_passes
    with one_sentence(MemoryError, *parts):
        extractor().fit_transform([*paths[:3], paths[4], paths[5]])


def test_vectors_that_are_not_finite_are_never_given_or_kept(paths, tmp_path, passes, monkeypatch):
    forward = _base.Pooled.forward
    monkeypatch.setattr(_base.Pooled, "forward", lambda self, images: forward(self, images) / (images.shape[-2] != 40))
    model = extractor(cache=tmp_path / "cache").fit(paths)
    for _ in range(2):
        with one_sentence(ValueError, "Row 1 of X (40 x 40 pixels)", "NaN or infinity", "check the weights"):
            model.transform([paths[0], paths[4]])
    with pytest.warns(UserWarning, match=r"^1 of 2 rows of X .* NaN \(row 1\)"):
        assert np.isnan(model.transform([paths[0], paths[4]], on_error="nan")[1]).all()


def test_products_that_are_not_finite_are_never_given(monkeypatch):
    forward = _base.Pooled.forward
    monkeypatch.setattr(_base.Pooled, "forward", lambda self, images: 1e30 * forward(self, images).abs() + 1e30)
    with np.errstate(over="ignore"), one_sentence(ValueError, "Row 0 of X gets NaN or infinity"):
        extractor(comparison="product").fit_transform([(IMAGES[0], IMAGES[1])])


def test_weights_that_are_missing_are_an_error_at_any_request(paths):
    model = TimmFeatures("test_resnet", backbone_weights="none.pth").fit(paths)
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        model.transform(paths, on_error="nan")


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "cache")
    with one_sentence(NotADirectoryError, f"The folder cache={folder!r} cannot be written", "leave cache=None"):
        extractor(cache=folder).fit_transform(IMAGES)

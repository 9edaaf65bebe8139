# SPDX-License-Identifier: BSD-3-Clause
"""timm's networks as parts: built by name, loaded strictly, their layers' outputs taken without a trace."""

import hashlib

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from sentences import one_sentence
from skimage.data import chelsea

from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import center_crop, normalize, resize_shorter, to_tensor
from sklearn_iqa._weights import pretrained
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
    monkeypatch.setattr(timm, "create_model", refuse)
    parts = ("ImageNet weights of test_resnet", type(error).__name__, "a file", "None for random weights")
    with one_sentence(ConnectionError, *parts):
        timm_backbones.load_backbone(backbone, "test_resnet", "imagenet")


def test_imagenet_is_what_timm_gives(monkeypatch):
    torch.manual_seed(1)
    fetched = timm.create_model("test_resnet")
    backbone = build("test_resnet", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: fetched)
    timm_backbones.load_backbone(backbone, "test_resnet", "imagenet")
    assert torch.equal(backbone.conv1[0].weight, fetched.conv1[0].weight)


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

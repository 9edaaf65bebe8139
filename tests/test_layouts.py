# SPDX-License-Identifier: BSD-3-Clause
"""Every published file loads, in the layout that its publisher gave it: names and shapes of real files, seeded numbers.

`tests/layouts/<method>-<layout>.json` describes what was published in one layout:

estimator, parameters
    The class, and parameters with which one prediction takes a moment; those that belong to the weights by name are not
    among them.
layout
    Whose layout it is: "official", "pyiqa", ...
weights
    Published name, or names of one layout; null for files that have none here.
files
    For each file "filename", "tensors" (name -> [dtype, shape]) and, where they are needed:
    "wrapper", the entry that the tensors are under, or several one inside the other; "states", the entries that hold a
    state each, with which the names begin; "beside", what stands beside the outermost entry.
path
    Which parameter takes which file by path; without it `weights` takes the only one.
call, size
    Method that gives the output that is compared, without it `predict`; height and width of its images in pixels.
derived_from, documentation_only
    What the names and shapes were taken from; whether that was documentation, not code or a file.

`python tests/test_layouts.py FILE` prints the entry of "files" for a file.
"""

import dataclasses
import functools
import json
import math
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

import sklearn_iqa
from sklearn_iqa._weights import pretrained

FOLDER = Path(__file__).parent / "layouts"
MANIFESTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
PUBLISHED = [
    (name, entry.name) for name in sklearn_iqa.__all__ for entry in getattr(getattr(sklearn_iqa, name), "published", ())
]
SMALL = 5e6  # numbers in a file


def count(name: str) -> int:
    """Numbers in the files of a manifest."""
    return sum(math.prod(shape) for file in MANIFESTS[name]["files"] for _, shape in file["tensors"].values())


def has_names(name: str) -> bool:
    """Whether the files of a manifest are states, not bare tensors."""
    return all("" not in file["tensors"] for file in MANIFESTS[name]["files"])


_BY_SIZE = sorted(filter(has_names, MANIFESTS), key=count, reverse=True)
LIGHTEST = sorted({MANIFESTS[name]["estimator"]: name for name in _BY_SIZE}.values())  # of each method: all dresses


def names_of(manifest: dict) -> list[str]:
    """Published names that a manifest stands for."""
    return [manifest["weights"]] if isinstance(manifest["weights"], str) else manifest["weights"] or []


def fill(name: str, dtype: str, shape, seed: int = 0) -> torch.Tensor:
    """Make a tensor of numbers that depend on name, shape and seed alone.

    Each row repeats the one above, moved by one place: numbers of a network take no more room in a file than a vector.
    """
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.zeros(shape, dtype=kind)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    count, last = 1 + sum(side - 1 for side in shape), name.rpartition(".")[2]
    values = torch.empty(count)
    if last == "running_var":
        values.uniform_(0.5, 1.5, generator=generator)
    elif len(shape) > 1:  # matrices and kernels: variance one over the fan-in
        values.normal_(0, math.prod(shape[1:]) ** -0.5, generator=generator)
    elif last == "weight":  # gains
        values.normal_(1.0, 0.1, generator=generator)
    else:
        values.normal_(0.0, 0.1, generator=generator)
    return values.to(kind).as_strided(tuple(shape), (1,) * len(shape))


def filled(file: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of one file."""
    return {name: fill(name, dtype, shape, seed) for name, (dtype, shape) in file["tensors"].items()}


def write(path: Path, file: dict, state: dict[str, torch.Tensor]) -> Path:
    """Write tensors as the publisher of a file does."""
    content: Any = state.get("", state)
    if "states" in file:
        content = {entry: {} for entry in file["states"]}
        for name, tensor in state.items():
            entry = next(entry for entry in file["states"] if name.startswith(f"{entry}."))
            content[entry][name.removeprefix(f"{entry}.")] = tensor
    wrapper = file.get("wrapper") or []
    for entry in reversed([wrapper] if isinstance(wrapper, str) else wrapper):
        content = {entry: content}
    torch.save(content | file["beside"] if "beside" in file else content, path)
    return path


def images(cls, size) -> np.ndarray:
    """One row of images for `predict`."""
    height, width = size
    rows = np.random.default_rng(0).integers(0, 256, (1, len(cls.inputs), height, width, 3), dtype=np.uint8)
    return rows if len(cls.inputs) > 1 else rows[:, 0]


class WithoutDrawing(TorchFunctionMode):
    """Begins networks with one number in place of random ones, which take longer to draw than all else here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = {"tensor": args[0], **(kwargs or {})} if args else kwargs or {}  # torch.nn.init names its tensor
        if func.__name__ in ("normal_", "uniform_"):
            with torch.no_grad():
                return given["tensor"].fill_(0.01)
        return given["tensor"] if func.__name__ == "erfinv_" else func(*args, **(kwargs or {}))


class Layout:
    """A manifest, its files filled and written, and an estimator that holds them by path."""

    def __init__(self, name: str, folder: Path):
        self.name, self.manifest = name, MANIFESTS[name]
        self.cls, self.names = getattr(sklearn_iqa, self.manifest["estimator"]), names_of(self.manifest)
        self.files = self.manifest["files"]
        self.paths = {file["filename"]: write(folder / file["filename"], file, filled(file)) for file in self.files}
        self.path_of = self.manifest.get("path", {"weights": self.files[0]["filename"]})
        (self.file,) = (file for file in self.files if file["filename"] == self.path_of["weights"])
        self.entries = [self.entry(name) for name in self.names]
        self.parameters = self.entries[0].parameters if self.entries else {}
        self.estimator = self.by_path(self.parameters)
        self.output = self.output_of(self.estimator)

    def by_path(self, parameters):
        """Make an estimator that holds the files by path, with all parameters given."""
        paths = {parameter: self.paths[filename] for parameter, filename in self.path_of.items()}
        return self.made(**parameters, **paths)

    def made(self, **parameters):
        """Make an estimator with the parameters of the manifest and others, and its network."""
        estimator = self.cls(**{**self.manifest["parameters"], **parameters}, random_state=0, device="cpu")
        with WithoutDrawing():
            return estimator.initialize()

    def output_of(self, estimator) -> np.ndarray:
        """What the estimator says of the images."""
        size = self.manifest.get("size", (max(estimator.min_size, 64), max(estimator.min_size, 72)))
        return np.asarray(getattr(estimator, self.manifest.get("call", "predict"))(images(self.cls, size)))

    def entry(self, name: str) -> pretrained.PublishedWeights:
        """The entry of a name, its files those that were filled."""
        (entry,) = (entry for entry in self.cls.published if entry.name == name)
        pairs = zip(entry.files, self.files, strict=True)  # a file of the same layout under another name will do
        digests = [pretrained.sha256(self.paths[described["filename"]]) for _, described in pairs]
        files = [
            dataclasses.replace(file, sha256=digest, urls=()) for file, digest in zip(entry.files, digests, strict=True)
        ]
        return dataclasses.replace(entry, files=tuple(files))

    def reload(self, monkeypatch, path: Path) -> dict[str, torch.Tensor]:
        """State of the network after another file was loaded into it; what is not in the file is zero."""
        network = self.estimator.network_
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
        with monkeypatch.context() as patch:
            patch.setattr(self.cls, "_network", lambda estimator: network)  # building takes longer than loading
            patch.setattr(self.cls, "_load_backbone", lambda estimator, network: None)
            self.made(**self.parameters, weights=path)
        return network.state_dict()


@pytest.fixture(scope="module", params=MANIFESTS)
def layout(request, tmp_path_factory):
    return Layout(request.param, tmp_path_factory.mktemp("layout"))


def test_by_path(layout):
    assert np.isfinite(layout.output).all()


def test_by_name(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path))
    for entry in layout.entries:
        for file, described in zip(entry.files, layout.files, strict=True):
            (tmp_path / file.filename).unlink(missing_ok=True)
            (tmp_path / file.filename).hardlink_to(layout.paths[described["filename"]])
        others = [one for one in layout.cls.published if one.name != entry.name]
        is_first = layout.cls.published[0].name == entry.name
        by_path = layout.output
        if entry.parameters != layout.parameters:
            by_path = layout.output_of(layout.by_path(entry.parameters))
        with monkeypatch.context() as patch:
            patch.setattr(layout.cls, "published", (entry, *others) if is_first else (*others, entry))
            by_name = layout.made(weights=entry.name)
            np.testing.assert_array_equal(layout.output_of(by_name), by_path)
            assert (by_name.set_params(weights="default")._entry() is entry) == is_first


def test_another_name_is_refused(layout, tmp_path, monkeypatch):
    state, path = filled(layout.file), tmp_path / "renamed.pth"
    kept = {id(tensor) for tensor in layout.estimator._renamed(state).values()}  # not what is thrown away
    *_, name = [name for name, tensor in state.items() if id(tensor) in kept] or state
    renamed = {f"{name}_" if one == name else one: tensor for one, tensor in state.items()}
    with pytest.raises(ValueError, match="does not fit"):
        layout.reload(monkeypatch, write(path, layout.file, renamed))


def dressed(state: dict[str, torch.Tensor]) -> dict[str, dict]:
    """The same state as other programs write it; a bare tensor has no names to dress."""

    def behind(prefix):
        return {f"{prefix}{name}": tensor for name, tensor in state.items()}

    if "" in state:
        return {}
    average = {"params": {name: torch.tensor(0.0).expand(tensor.shape) for name, tensor in state.items()}}
    return {
        "bare": state,
        "DataParallel": {"params": behind("module.")},
        "average": average | {"params_ema": state},
        "Lightning": {"state_dict": behind("model."), "epoch": 3},
        "compiled": {"model": behind("_orig_mod.")},
    }


def test_dresses(layout, tmp_path, monkeypatch):
    state, path = filled(layout.file, seed=1), tmp_path / "dressed.pth"
    expected = {
        name: tensor.clone() for name, tensor in layout.reload(monkeypatch, write(path, layout.file, state)).items()
    }

    def different(path, same=torch.equal):
        got = layout.reload(monkeypatch, path)
        return [name for name, one in got.items() if not same(one, expected[name])][:3]

    for dress, content in dressed(state).items():
        if layout.name in LIGHTEST or dress == "DataParallel":
            torch.save(content, path)
            assert not different(path), dress
    if layout.name in LIGHTEST:
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        assert not different(write(path, layout.file, half), functools.partial(torch.allclose, rtol=1e-3, atol=1e-5))


@pytest.mark.parametrize("name", [name for name in LIGHTEST if count(name) < SMALL])
def test_safetensors(name, tmp_path, monkeypatch):
    # safetensors cannot repeat numbers, so that the file is as large as the network; small ones are read by the same
    # lines as large ones.
    layout, path = Layout(name, tmp_path), tmp_path / "same.safetensors"
    original = layout.reload(monkeypatch, layout.paths[layout.file["filename"]])
    expected = {name: tensor.clone() for name, tensor in original.items()}
    state = {name: tensor.contiguous() for name, tensor in filled(layout.file).items()}
    safetensors.torch.save_file(state, path)
    got = layout.reload(monkeypatch, path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items())


def test_every_published_name_has_a_layout():
    covered = {(manifest["estimator"], name) for manifest in MANIFESTS.values() for name in names_of(manifest)}
    assert set(PUBLISHED) <= covered


def test_manifests():
    for name, manifest in MANIFESTS.items():
        assert name.endswith(f"-{manifest['layout']}") or f"-{manifest['layout']}-" in name
        assert manifest["derived_from"].endswith(".")
        assert isinstance(manifest["documentation_only"], bool)


def described(path: Path) -> dict:
    """The entry of "files" for a file of PyTorch or safetensors."""
    is_safe = path.suffix == ".safetensors"
    content: Any = (
        safetensors.torch.load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    )
    file: dict[str, Any] = {"filename": path.name}
    wrapper: list[str] = []
    if isinstance(content, torch.Tensor):
        content = {"": content}
    while not (tensors := {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}):
        inner = {name: value for name, value in content.items() if isinstance(value, dict) and value}
        states = [name for name, value in inner.items() if all(isinstance(one, torch.Tensor) for one in value.values())]
        if len(states) > 1:
            file["states"] = states
            content = {f"{state}.{name}": tensor for state in states for name, tensor in inner[state].items()}
        else:
            wrapper.append((states or [*inner])[0])
            content = inner[wrapper[-1]]
    if wrapper:
        file["wrapper"] = wrapper[0] if len(wrapper) == 1 else wrapper
    shapes = {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()}
    return file | {"tensors": shapes}


def dump(manifest: dict) -> str:
    """A manifest as the text of its file, one tensor a line."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return re.sub(r'\[\s+("\w+"),\s+(\[[^\]]*\])\s+\]', r"[\1, \2]", text) + "\n"


if __name__ == "__main__":
    print(dump(described(Path(sys.argv[1]))), end="")

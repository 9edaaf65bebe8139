# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of pyiqa itself for every method that it shares with this package: the kit `tests/parity/pyiqa.json`.

pyiqa (PolyForm Noncommercial 1.0.0) is installed into an environment of its own and runs there as it is; nothing of its
code is here. Its downloads are replaced: each network is built without pretraining and filled by the rule of
`tests/kits.py`, which makes numbers from names, shapes and a seed. Images and pairs come from there, too. The kit holds
names and shapes of the tensors, pyiqa's scores, and how far from them the default protocol of this package is.

The environment takes about 6 GB. One that stands ready serves as well, if pyiqa and this package can be imported there.
Run: python benchmarks/pyiqa_parity.py [--environment FOLDER] [--only METRIC ...]
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import kits  # noqa: E402  # the rule and the images of all parity kits

import sklearn_iqa  # noqa: E402
from sklearn_iqa._weights import state_dicts  # noqa: E402
from sklearn_iqa._weights.pretrained import find_published  # noqa: E402

PYIQA = "0.1.16"
KIT = kits.FOLDER / "pyiqa.json"
# No multiple of a patch, not square; below a crop of 224; above 768 pixels.
ODD, SMALL, LARGE = (250, 333), (200, 300), (800, 1040)
LOGIT_SCALE = {name: 4.605170249938965 for name in ("clip_model.logit_scale", "clip_model.0.logit_scale")}
PROMPTS = (
    ("Good image", "bad image"),
    ("Sharp image", "blurry image"),
    ("sharp edges", "blurry edges"),
    ("High resolution image", "low resolution image"),
    ("Noise-free image", "noisy image"),
)
CLIPS = {  # OpenAI's: dimension, pixels, layers, width, patch; then of the text tower
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
# Tensors that are no weights: constants, tables, and names of one tensor that has another.
CONSTANT = re.compile(
    r"(^|\.)(filt|attn_mask|relative_position_index|token_prefix|token_suffix|num_batches_tracked)$"
    r"|^(mean|std|scaling_layer\..*|lins\..*)$"
)
TO_PYIQA = {"protocol": "pyiqa"}
# Metric of pyiqa -> class and weights here. "also": metrics that differ by their weights alone, and those weights;
# "options": of pyiqa; "parameters": of the class, for fewer crops; "same": what gives pyiqa's number; "fill": of the
# rule that fills networks; "sizes": of images.
METRICS = {
    "lpips": {"estimator": "LPIPS", "weights": "alex-v0.1", "sizes": [ODD, SMALL]},
    "lpips-vgg": {"estimator": "LPIPS", "weights": "vgg-v0.1", "sizes": [SMALL]},
    "stlpips": {"estimator": "STLPIPS", "weights": "alex-bapps", "sizes": [ODD, SMALL]},
    "stlpips-vgg": {"estimator": "STLPIPS", "weights": "vgg-bapps", "sizes": [SMALL]},
    "ahiq": {
        "estimator": "AHIQ",
        "weights": "pipal22",
        "same": TO_PYIQA,
        "options": {"pretrained": False, "num_crop": 2},
        "parameters": {"n_crops": 2},
        "sizes": [SMALL],
    },
    "ckdn": {"estimator": "DRIQA", "weights": "pipal", "same": TO_PYIQA, "sizes": [ODD, LARGE]},
    "dbcnn": {"estimator": "DBCNN", "weights": "koniq10k", "sizes": [ODD, SMALL]},
    "hyperiqa": {"estimator": "HyperIQA", "weights": "koniq10k-pyiqa", "same": TO_PYIQA, "sizes": [ODD, SMALL]},
    "maniqa": {
        "estimator": "MANIQA",
        "weights": "koniq10k",
        "also": {"maniqa-kadid": "kadid10k", "maniqa-pipal": "pipal22"},
        "same": TO_PYIQA,
        "options": {"test_sample": 3},
        "parameters": {"n_crops": 3},
        "fill": {"weight_scale": 0.7},
        "sizes": [ODD],
    },
    "metaiqa": {
        "estimator": "MetaIQA",
        "weights": "livec",
        "options": {"pretrained": False},
        "sizes": [ODD, LARGE],
    },
    "musiq": {
        "estimator": "MUSIQ",
        "weights": "koniq10k",
        "also": {"musiq-paq2piq": "paq2piq", "musiq-spaq": "spaq"},
        "sizes": [ODD, SMALL],
    },
    "musiq-ava": {"estimator": "MUSIQ", "weights": "ava", "sizes": [SMALL]},
    "nima": {"estimator": "NIMA", "weights": "ava", "fill": {"weight_scale": 1.3}, "sizes": [ODD, LARGE]},
    "nima-koniq": {
        "estimator": "NIMA",
        "weights": "koniq",
        "also": {"nima-spaq": "spaq"},
        "fill": {"weight_scale": 1.3},
        "sizes": [ODD],
    },
    "nima-vgg16-ava": {
        "estimator": "NIMA",
        "weights": "ava-vgg16",
        "fill": {"weight_scale": 1.5},
        "sizes": [ODD, SMALL],
    },
    "unique": {
        "estimator": "UNIQUE",
        "weights": "mix",
        "same": TO_PYIQA,
        "fill": {"weight_scale": 2.0, "tensor_scale": {"fc.weight": 100.0}},
        "sizes": [ODD, LARGE],
    },
    "liqe": {
        "estimator": "LIQE",
        "weights": "koniq",
        "also": {"liqe_mix": "mix"},  # and by its 495 prompts, whose features take pyiqa minutes
        "same": TO_PYIQA,
        "fill": {"overrides": LOGIT_SCALE},
        "sizes": [ODD, LARGE],
    },
    "clipiqa": {
        "estimator": "CLIPIQA",
        "same": {"prompts": PROMPTS, "attribute": "mean"},
        "fill": {"overrides": LOGIT_SCALE},
        "sizes": [ODD, SMALL],
    },
    "clipiqa+": {
        "estimator": "CLIPIQA",
        "weights": "plus-koniq10k",
        "options": {"pretrained": False},
        "fill": {"overrides": LOGIT_SCALE},
        "sizes": [ODD, SMALL],
    },
    "clipiqa+_rn50_512": {
        "estimator": "CLIPIQA",
        "weights": "plus-rn50-512",
        "fill": {"overrides": LOGIT_SCALE},
        "sizes": [ODD],
    },
    "clipiqa+_vitL14_512": {
        "estimator": "CLIPIQA",
        "weights": "plus-vitl14-512",
        "fill": {"overrides": LOGIT_SCALE},
        "sizes": [ODD],
    },
}


def material(size, *, pair: bool):
    """A seeded image, or a pair (query, reference) of it and a version that is shifted, shaded and noisy."""
    (image,) = kits.images(0, [tuple(size)])
    if not pair:
        return image
    noise = 10.0 * np.random.default_rng([0, *size, 77]).normal(size=image.shape)
    query = 0.7 * image + 0.3 * np.roll(image.astype(np.float64), 4, axis=1)
    return np.clip(np.rint(query + noise), 0, 255).astype(np.uint8), image


def unfilled(entry: dict, **parameters):
    """An estimator of a kit's entry; `weights` stand for the parameters that belong to them."""
    cls = getattr(sklearn_iqa, entry["estimator"])
    weights = entry.get("weights")
    belonging = find_published(weights, cls.published).parameters if weights else {}
    given = {**belonging, **entry.get("parameters", {}), **parameters}
    if "backbone_weights" in cls().get_params():
        given["backbone_weights"] = None
    return cls(**given, random_state=0, device="cpu")


def estimator(entry: dict, **parameters):
    """An estimator of a kit's entry, its network filled."""
    made = unfilled(entry, **parameters)
    manifest = [(name, shape, "float32") for name, shape in unpacked(entry["manifest"]).items()]
    kits.load(made, kits.fill({"manifest": manifest, **entry.get("fill", {})}))
    return made


def used(entry: dict) -> dict[str, list[int]]:
    """Of the tensors of pyiqa's network those that have a place in the network of the class."""
    names = state_dicts.rename_keys({name: name for name in entry["manifest"]}, unfilled(entry).key_map).values()
    return {name: entry["manifest"][name] for name in names}


def packed(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Tensors whose names count and whose shapes are equal as one: `blocks.{0-4}.norm.weight`."""
    left, ranges = dict(shapes), {}
    for place in range(max(len(re.findall(r"\d+", name)) for name in shapes)):
        alike: dict[tuple, list[str]] = {}
        for name, shape in left.items():
            parts = re.split(r"(\d+)", name)  # numbers are the odd ones
            if len(parts) > 2 * place + 1:
                head, tail = "".join(parts[: 2 * place + 1]), "".join(parts[2 * place + 2 :])
                alike.setdefault((head, tail, *shape), []).append(parts[2 * place + 1])
        for (head, tail, *shape), found in alike.items():
            numbers = sorted(map(int, found))
            if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
                ranges[f"{head}{{{numbers[0]}-{numbers[-1]}}}{tail}"] = shape
                for number in numbers:
                    del left[f"{head}{number}{tail}"]
    return {**left, **ranges}


def unpacked(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """What was `packed`."""
    full = {}
    for name, shape in shapes.items():
        if counted := re.search(r"\{(\d+)-(\d+)\}", name):
            first, last = map(int, counted.groups())
            full |= {name.replace(counted[0], str(number)): shape for number in range(first, last + 1)}
        else:
            full[name] = shape
    return full


def scores(entry: dict, made) -> dict[str, float]:
    """What an estimator gives for the images of an entry, by their size."""
    found = {}
    for size in entry["scores"]:
        x = material(tuple(map(int, size.split("x"))), pair=len(made.inputs) == 2)
        found[size] = float(made.predict([x])[0])
    return found


# In the environment of pyiqa ------------------------------------------------------------------------------------------


def without_downloads(fills: dict) -> None:
    """Replace every download that networks of pyiqa begin with, before their modules are imported."""
    import timm
    import torchvision
    from pyiqa.archs import arch_util, clip_model

    create, clip = timm.create_model, clip_model.CLIP

    def unloaded(make):
        return functools.wraps(make)(lambda *args, weights=None, pretrained=False, **kwargs: make(*args, **kwargs))

    def seeded_clip(name, *args, **kwargs):
        model = clip(*CLIPS[name]).float().eval()
        fill(model, fills, "clip_model.")
        return model

    timm.create_model = lambda name, pretrained=False, **kwargs: create(name, pretrained=False, **kwargs)
    for name in ("alexnet", "vgg16", "squeezenet1_1", "resnet34"):
        setattr(torchvision.models, name, unloaded(getattr(torchvision.models, name)))
    torch.hub.load_state_dict_from_url = lambda *args, **kwargs: {}
    arch_util.load_pretrained_network = lambda *args, **kwargs: None
    arch_util.load_file_from_url = lambda url, *args, **kwargs: url
    clip_model.load = seeded_clip


def fill(module, fills: dict, prefix: str = "") -> dict[str, list[int]]:
    """Fill a module by the rule of the kits; names and shapes of what was filled."""
    tensors = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    shapes = {
        name: list(tensor.shape)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not CONSTANT.search(name)
    }
    state = kits.fill({"manifest": [(name, shape, "float32") for name, shape in shapes.items()], **fills})
    with torch.no_grad():
        for name, values in state.items():
            tensors[name].copy_(values)
    return shapes


def measure(name: str, spec: dict) -> dict:
    """Entry of the kit: what pyiqa gives for a metric."""
    import pyiqa

    fills = spec.get("fill", {})
    without_downloads(fills)
    metric = pyiqa.create_metric(name, device=torch.device("cpu"), **spec.get("options", {}))
    net, shapes = metric.net, {}
    if name == "clipiqa+":  # as loading pyiqa's file does, which holds one context for both prompts
        net.prompt_learner.ctx.data = net.prompt_learner.ctx.data[0].clone()
    if isinstance(getattr(net, "clip_model", None), list):
        shapes |= fill(net.clip_model[0], fills, "clip_model.")
    shapes |= fill(net, fills)
    found = {}
    for size in spec["sizes"]:
        x = material(size, pair=metric.metric_mode == "FR")
        images = [torch.from_numpy(one).movedim(2, 0)[None].float() / 255 for one in (x if type(x) is tuple else [x])]
        found["x".join(map(str, size))] = float(metric(*images))
    return {
        "lower_is_better": metric.lower_better,
        "score_range": metric.score_range,
        "manifest": shapes,
        "scores": found,
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on, in this environment."""
    from importlib.metadata import version

    return {name: version(name) for name in ("pyiqa", "torch", "torchvision", "timm", "numpy")}


# Outside --------------------------------------------------------------------------------------------------------------


def environment(folder: Path) -> Path:
    """Interpreter of an environment with pyiqa, which is made where the folder has none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", f"pyiqa=={PYIQA}", str(ROOT)]
        subprocess.run(command, check=True)
    return python


def run(python: Path, *arguments: str) -> dict:
    """What this file answers in the environment of pyiqa, where nothing is fetched."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "hub" / "pyiqa").mkdir(parents=True)  # LIQE keeps the features of its prompts there
        settings = {**os.environ, "TORCH_HOME": home, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        answer = Path(home) / "answer.json"
        subprocess.run([python, __file__, *arguments, "--answer", str(answer)], env=settings, check=True)
        return json.loads(answer.read_text(encoding="utf-8"))


def text(kit: dict) -> str:
    """A kit as the text of its file, one tensor a line."""
    return re.sub(
        r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(kit, indent=1)
    )


def main() -> None:
    """Measure and write the kit, keeping what stands there of metrics that are not measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--environment", type=Path, help="folder of a virtual environment, made where there is none")
    parser.add_argument("--only", nargs="+", choices=METRICS, default=list(METRICS), help="metrics of pyiqa")
    parser.add_argument("--measure", choices=METRICS, help=argparse.SUPPRESS)
    parser.add_argument("--versions", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer = versions() if given.versions else measure(given.measure, METRICS[given.measure])
        given.answer.write_text(json.dumps(answer), encoding="utf-8")
        return
    before = json.loads(KIT.read_text(encoding="utf-8")) if KIT.exists() else {"metrics": {}}
    with tempfile.TemporaryDirectory() as folder:
        python = environment(given.environment or Path(folder))
        kit = {"written_by": f"benchmarks/{Path(__file__).name}", "versions": run(python, "--versions")}
        if kit["versions"]["pyiqa"] != PYIQA:
            parser.error(f"{given.environment} has pyiqa {kit['versions']['pyiqa']}; give one with {PYIQA}.")
        kit["metrics"] = {name: entry for name, entry in before["metrics"].items() if name in METRICS}
        for name in given.only:
            spec = {key: value for key, value in METRICS[name].items() if key != "sizes"}
            entry = {**spec, **run(python, "--measure", name)}
            entry["manifest"] = packed(used(entry))
            same = scores(entry, estimator(entry, **entry.get("same", {})))
            official = scores(entry, estimator(entry)) if "same" in entry else same
            pyiqa = entry["scores"]
            entry["apart"] = {size: float(f"{abs(official[size] - pyiqa[size]):.2g}") for size in pyiqa}
            left = max(abs(same[size] - pyiqa[size]) for size in pyiqa)
            print(f"{name:20s} default {max(entry['apart'].values()):.1e}, same protocol {left:.1e}", pyiqa, flush=True)
            kit["metrics"][name] = entry
            kit["metrics"] = {one: kit["metrics"][one] for one in METRICS if one in kit["metrics"]}
            KIT.write_text(text(kit) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Speed beside pyiqa, lpips, piq and torchmetrics: same weights, images, machine and process.

The peers are installed into an environment of their own, which a later run takes again, and run there unchanged. Their
downloads are replaced as in `pyiqa_parity.py`, whose rule fills both networks. Each image is scored as the peers
document it: one call an image, from a tensor or, by pyiqa, from a path; here by one call of `predict`.
Run: python benchmarks/peers.py [--only ROW ...] [--python INTERPRETER]
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyiqa_parity
import torch
from measuring import FOLDER, SIZE, Report, in_turns, parser, photographs, ratio, spread, write_jpegs
from PIL import Image

PEERS = ("lpips", "piq", "torchmetrics")
ENVIRONMENT = Path.home() / ".cache" / "sklearn_iqa_benchmarks" / "peers"
# Row -> (metric of `pyiqa_parity`, package it is compared with).
ROWS = {
    "LPIPS": ("lpips", "pyiqa"),
    "ST-LPIPS": ("stlpips", "pyiqa"),
    "CKDN": ("ckdn", "pyiqa"),
    "AHIQ": ("ahiq", "pyiqa"),
    "NIMA": ("nima", "pyiqa"),
    "DB-CNN": ("dbcnn", "pyiqa"),
    "HyperIQA": ("hyperiqa", "pyiqa"),
    "MUSIQ": ("musiq", "pyiqa"),
    "MANIQA": ("maniqa", "pyiqa"),
    "UNIQUE": ("unique", "pyiqa"),
    "CLIP-IQA": ("clipiqa", "pyiqa"),
    "LIQE": ("liqe", "pyiqa"),
    "LPIPS, lpips": ("lpips", "lpips"),
    "LPIPS vgg, lpips": ("lpips-vgg", "lpips"),
    "LPIPS vgg, piq": ("lpips-vgg", "piq"),
    "LPIPS, torchmetrics": ("lpips", "torchmetrics"),
}
HEAVY = ("AHIQ", "MANIQA")
FEW_CROPS = ("num_crop", "test_sample", "n_crops")


# In the environment of the peers --------------------------------------------------------------------------------------


def spec_of(metric: str, few_crops: bool) -> dict:
    """Entry of the kit; with all crops that the method prescribes unless they shall be few."""
    kit = json.loads(pyiqa_parity.KIT.read_text(encoding="utf-8"))["metrics"][metric]
    if few_crops:
        return kit
    options = {
        part: {name: value for name, value in kit.get(part, {}).items() if name not in FEW_CROPS}
        for part in ("options", "parameters")
    }
    return {**kit, **options}


def peer(package: str, metric: str, spec: dict, ours):
    """Give the function of a peer: tensors (1, 3, h, w) in [0, 1], or paths, one per image of a row -> score."""
    pyiqa_parity.without_downloads(spec.get("fill", {}))
    if package == "pyiqa":
        import pyiqa

        made = pyiqa.create_metric(metric, device=torch.device("cpu"), **spec.get("options", {}))
        fills = spec.get("fill", {})
        if isinstance(getattr(made.net, "clip_model", None), list):
            pyiqa_parity.fill(made.net.clip_model[0], fills, "clip_model.")
        pyiqa_parity.fill(made.net, fills)
        return lambda *images: float(made(*images))
    state, net = ours.network_.state_dict(), "vgg" if "vgg" in metric else "alex"
    if package == "piq":
        import piq

        heads = [value for name, value in state.items() if name.startswith("lin")]
        torch.hub.load_state_dict_from_url = lambda *args, **kwargs: heads  # type: ignore[assignment]  # a list, here
        made = piq.LPIPS().eval()
        copy_by_shape(made.model, state)
    elif package == "torchmetrics":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        made = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True).eval()
        copy_by_shape(made.net, state)
    else:
        import lpips

        made = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
        copy_by_shape(made, state)
    scaled = {"normalize": True} if package == "lpips" else {}  # [0, 1] -> [-1, 1]

    def score(*images):
        with torch.inference_mode():
            return float(made(*images, **scaled))

    return score


def copy_by_shape(module, state) -> None:
    """Copy tensors of a state dict into a module whose tensors have other names and the same order."""
    tensors = [tensor for tensor in module.state_dict().values() if tensor.ndim > 0]
    with torch.no_grad():
        waiting = list(state.values())
        for tensor in tensors:
            place = next((i for i, one in enumerate(waiting) if one.shape == tensor.shape), None)
            if place is not None:
                tensor.copy_(waiting.pop(place))


def tensors_of(row) -> list[torch.Tensor]:
    """A row's images as the peers take them."""
    return [torch.from_numpy(image).movedim(2, 0)[None].float() / 255 for image in row]


def measure(metric: str, package: str, options) -> dict:
    """Seconds per image of both ways, for arrays and for files, and how far their scores are apart."""
    if importlib.util.find_spec(package) is None:
        return {"peer": f"not run: {package} is not installed in the environment of the peers"}
    spec = spec_of(metric, options.few_crops)
    ours = pyiqa_parity.estimator(spec, **spec.get("same", {}))
    theirs = peer(package, metric, spec, ours)
    n_inputs = len(ours.inputs)
    images = photographs(2 * options.images, tuple(options.size))
    arrays = list(zip(*(images[number::2][: options.images] for number in range(n_inputs)), strict=True))
    X = [row if n_inputs > 1 else row[0] for row in arrays]
    score = np.abs(ours.predict(X) - [theirs(*tensors_of(row)) for row in arrays]).max()
    ways = {"ours": lambda: ours.predict(X), "theirs": lambda: [theirs(*tensors_of(row)) for row in arrays]}
    seconds = in_turns(ways, options.turns)
    figures = {"peer": package, "apart": float(score), **_compared(seconds, len(X), "arrays")}
    with tempfile.TemporaryDirectory() as folder:
        rows = _files(Path(folder), options.files, n_inputs)
        paths = [tuple(map(str, row)) for row in rows]
        X = [row if n_inputs > 1 else row[0] for row in paths]

        def from_files():
            for row in paths:
                if package == "pyiqa":
                    theirs(*row)
                else:
                    theirs(*tensors_of([np.array(Image.open(path).convert("RGB")) for path in row]))

        seconds = in_turns({"ours": lambda: ours.predict(X), "theirs": from_files}, options.turns)
    return {**figures, **_compared(seconds, len(X), "files")}


def _files(folder: Path, n: int, n_inputs: int) -> list[tuple[Path, ...]]:
    """Rows of JPEG files of mixed size; those of one row have one size."""
    rng, columns = np.random.default_rng(0), []
    sizes = [tuple(map(int, rng.integers(288, 640, 2))) for _ in range(n)]
    for number in range(n_inputs):
        place = folder / str(number)
        place.mkdir()
        images = [photographs(number + 1, size)[-1] for size in sizes]
        columns.append(write_jpegs(place, n, images))
    return list(zip(*columns, strict=True))


def _compared(seconds: dict[str, list[float]], n: int, what: str) -> dict[str, list[float]]:
    per_image = {way: spread([one / n for one in seconds[way]]) for way in seconds}
    faster = ratio(seconds["theirs"], seconds["ours"])
    return {f"{what}_ours": per_image["ours"], f"{what}_theirs": per_image["theirs"], f"{what}_times": faster}


# Outside --------------------------------------------------------------------------------------------------------------


def interpreter() -> Path:
    """Interpreter of the environment of the peers, which is made at the first call."""
    python = pyiqa_parity.environment(ENVIRONMENT)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return python


def ask(python: Path, row: str, options) -> dict:
    """What this file answers in the environment of the peers."""
    metric, package = ROWS[row]
    n_images = max(1, options.images // 4) if row in HEAVY else options.images
    n_files = max(1, options.files // 32) if row in HEAVY else options.files
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "hub" / "pyiqa").mkdir(parents=True)  # LIQE keeps the features of its prompts there
        answer = Path(home) / "answer.json"
        settings = {
            **os.environ,
            "TORCH_HOME": home,
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])),
        }
        numbers = {"turns": options.turns, "images": n_images, "files": n_files}
        flags = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
        flags += ["--size", *map(str, options.size)] + ["--few-crops"] * options.few_crops
        arguments = [str(python), __file__, *flags, "--worker", metric, package, str(answer)]
        subprocess.run(arguments, env=settings, check=True, stdout=sys.stderr)
        return json.loads(answer.read_text(encoding="utf-8"))


def summary(rows) -> str:
    """Medians beside pyiqa, and who misses the goal."""
    sentences = []
    for what in ("arrays", "files"):
        times = {name: row[f"{what}_times"][0] for name, row in rows.items() if f"{what}_times" in row}
        beside = [value for name, value in times.items() if ROWS[name][1] == "pyiqa"]
        slower = ", ".join(name for name, value in times.items() if value < 1) or "none"
        if beside:
            sentences.append(f"{what}: {np.median(beside):.2f} times pyiqa's speed in the median; slower: {slower}.")
    return " ".join(sentences)


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=5)
    command.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    command.add_argument("--python", type=Path, help="interpreter of an environment with pyiqa and this package")
    command.add_argument("--images", type=int, default=8, help="decoded images; a quarter for AHIQ and MANIQA")
    command.add_argument("--files", type=int, default=64, help="JPEG files; a 32nd part for AHIQ and MANIQA")
    command.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width of the decoded images")
    command.add_argument("--few-crops", action="store_true", help="two or three crops for AHIQ and MANIQA")
    command.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = command.parse_args()
    if options.worker:
        metric, package, answer = options.worker
        Path(answer).write_text(json.dumps(measure(metric, package, options)), encoding="utf-8")
        return
    columns = {
        "beside": "peer",
        "scores apart": "apart",
        "arrays, s per image": "arrays_ours",
        "peer": "arrays_theirs",
        "times faster": "arrays_times",
        "files, s per image": "files_ours",
        "peer ": "files_theirs",
        "times faster ": "files_times",
    }
    python = options.python or interpreter()
    for hidden in ("worker", "python"):
        delattr(options, hidden)
    goal = "never slower, and 1.6 times faster in the median."
    report = Report(__file__, "speed beside other packages", goal, columns, options, summary)
    report.figures["peers"] = versions(python)
    for row in options.only:
        report.add(row, **ask(python, row, options))


def versions(python: Path) -> dict[str, str]:
    """Versions of the peers in their environment."""
    code = (
        "import json, importlib.metadata as m\n"
        f"wanted = {('pyiqa', *PEERS, 'torch')!r}\n"
        "found = {one.metadata['Name'].replace('-', '_').lower(): one.version for one in m.distributions()}\n"
        "print(json.dumps({name: found[name] for name in wanted if name in found}))"
    )
    found = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {"python": platform.python_version(), **found}


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""What the scripts that measure share: times in turns, images, estimators, the machine, and the report.

A script writes its figures to `results/<script>.json` and its section of RESULTS.md; other sections stay as they are.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
TESTS = FOLDER.parent / "tests"
VERSIONS = ("sklearn-iqa", "torch", "torchvision", "timm", "open_clip_torch", "scikit-learn", "numpy", "pillow")
SIZE = (384, 512)  # height and width in pixels of the images that are decoded already
HEAD = """# Measured speed and memory

Medians; quartiles in brackets. Ratios are of times from one run, in which the ways that are compared took turns.
Every section is written by the script that it is named after, from `results/<script>.json`.
"""

# Time -----------------------------------------------------------------------------------------------------------------


def in_turns(ways: Mapping[Any, Callable[..., Any]], n_turns: int) -> dict[Any, list[float]]:
    """Seconds of each way in each turn; every other turn runs them backwards, so that none is always the first."""
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for turn in range(n_turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(elapsed(ways[name]))
    return seconds


def elapsed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> list[float]:
    """Median, lower and upper quartile."""
    return [float(value) for value in np.percentile(values, (50, 25, 75))]


def ratio(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Median and quartiles of the ratios of each turn."""
    return spread(np.divide(above, below).tolist())


# Material -------------------------------------------------------------------------------------------------------------


def photographs(n: int, size: Sequence[int] = SIZE, *, noise: float = 4.0) -> list[np.ndarray]:
    """Different uint8 images (height, width, 3): photographs, resized, with the noise of a camera."""
    from sklearn_iqa.datasets import load_photographs

    height, width = size
    originals = load_photographs().images
    rng, made = np.random.default_rng(0), []
    for number in range(n):
        image = Image.fromarray(originals[number % len(originals)]).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(scale=noise, size=(height, width, 1)).astype(np.float32)
        made.append(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    return made


def write_jpegs(folder: Path, n: int, images: Iterable[np.ndarray]) -> list[Path]:
    """Paths of n files: JPEG files of the images, and hard links to them where n is larger."""
    first, paths = [], []
    for number, image in enumerate(images):
        first.append(folder / f"original_{number:04d}.jpg")
        Image.fromarray(image).save(first[-1], quality=92)
    for number in range(n):
        paths.append(folder / f"{number:06d}.jpg")
        os.link(first[number % len(first)], paths[-1])
    return paths


def estimator_names() -> list[str]:
    """Names of all public estimators."""
    from sklearn.base import BaseEstimator

    import sklearn_iqa

    members = ((name, getattr(sklearn_iqa, name)) for name in sorted(sklearn_iqa.__all__))
    return [name for name, one in members if isinstance(one, type) and issubclass(one, BaseEstimator)]


def make(name: str, *, tiny: bool = False, **parameters):
    """Give an estimator with seeded weights at its defaults, or tiny: as the tests build it."""
    import sklearn_iqa

    cls = getattr(sklearn_iqa, name)
    given = {"backbone_weights": None, "random_state": 0, "device": "cpu", **(cls._test_params if tiny else {})}
    given = {key: str(TESTS / value) if str(value).endswith(".json") else value for key, value in given.items()}
    accepted = inspect.signature(cls).parameters
    return cls(**{key: value for key, value in {**given, **parameters}.items() if key in accepted})


def rows_for(estimator, n: int, *, tiny: bool = False, size: Sequence[int] | None = None) -> list[Any]:
    """Decoded images, or pairs (query, reference) whose references differ, where the estimator compares."""
    images = photographs(2 * n, size or (type(estimator)._test_size if tiny else SIZE))
    compares = len(getattr(estimator, "inputs", ("image",))) > 1
    return list(zip(images[:n], images[n:], strict=True)) if compares else images[:n]


def ready(estimator, n_rows: int = 32, *, tiny: bool = False):
    """Prepare an estimator for `predict` or `transform`; what is fitted without epochs sees some images."""
    if "max_epochs" in estimator.get_params():
        return estimator.initialize()
    return estimator.fit(rows_for(estimator, n_rows, tiny=tiny), np.linspace(0, 1, n_rows))


def run(estimator, X):
    """`predict`, or `transform` of what predicts nothing."""
    return estimator.predict(X) if hasattr(estimator, "predict") else estimator.transform(X)


# Report ---------------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerator, threads and versions that figures depend on."""
    import torch

    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        versions[name] = importlib.metadata.version(name)
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> str:
    if not hasattr(os, "sysconf"):  # Windows
        return "unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


class Report:
    """Figures of one script: rows by name, written after each, so that an interrupted run keeps what it has.

    Parameters
    ----------
    script : str
        Path of the script.
    title : str
        What it measures.
    goal : str
        What should come out.
    columns : dict of str to str
        Heading -> key of a row's figures: a number, a text, or median and quartiles.
    options : argparse.Namespace
        Of `parser`.
    summary : callable, default=None
        Rows by name -> sentence under the table.
    """

    def __init__(self, script: str, title: str, goal: str, columns: dict[str, str], options, summary=None):
        self.name, self.title, self.goal, self.columns, self.summary = Path(script).stem, title, goal, columns, summary
        self.folder = Path(options.results)
        self.file = self.folder / "results" / f"{self.name}.json"
        settings = {key: value for key, value in vars(options).items() if key not in ("only", "what", "results")}
        # Through JSON, as what it is compared with.
        self.figures = json.loads(json.dumps({"machine": machine(), "settings": settings, "rows": {}}, default=str))
        if self.file.exists():
            before = json.loads(self.file.read_text(encoding="utf-8"))
            if all(before[key] == self.figures[key] for key in ("machine", "settings")):
                self.figures = before

    def add(self, name: str, **figures) -> None:
        """Keep, print and write figures of a row, beside those that it has already."""
        self.figures["rows"][name] = {**self.figures["rows"].get(name, {}), **figures}
        print(name, *(f"{key} {_cell(value)}" for key, value in figures.items()), sep="  ", flush=True)
        self.write()

    def write(self) -> None:
        """Write the JSON file and the section."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")
        page = self.folder / "RESULTS.md"
        text = page.read_text(encoding="utf-8") if page.exists() else HEAD
        head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        mine = f"## {self.name}.py: "
        others = [section.rstrip() for section in sections if not section.startswith(mine)]
        parts = [head.rstrip(), *sorted([*others, self._section(mine)])]
        page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    def _section(self, start: str) -> str:
        rows, where = self.figures["rows"], self.figures["machine"]
        lines = [f"{start}{self.title}", "", f"Goal: {self.goal}", ""]
        lines += ["| | " + " | ".join(self.columns) + " |", "| --- |" + " --- |" * len(self.columns)]
        for name, figures in rows.items():
            cells = (_cell(figures.get(key, "")) for key in self.columns.values())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if self.summary and rows:
            lines += ["", self.summary(rows)]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        settings = ", ".join(f"{key} {value}" for key, value in self.figures["settings"].items())
        lines += [
            "",
            f"{where['processor']}, {where['cores']} cores, {where['threads']} threads, {where['memory']}, GPU "
            f"{where['gpu'] or 'none'}; {versions}.",
            f"Settings: {settings}.",
        ]
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        middle, low, high = map(_cell, value)
        return f"{middle} ({low}-{high})"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def parser(doc: str, *, turns: int) -> argparse.ArgumentParser:
    """Command line with the options of all scripts."""
    made = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    made.add_argument("--turns", type=int, default=turns, help="times that each way is measured (%(default)s)")
    made.add_argument("--results", type=Path, default=FOLDER, help="folder of RESULTS.md and results/ (this one)")
    return made

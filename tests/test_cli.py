# SPDX-License-Identifier: BSD-3-Clause
"""The command line: standard output, rows with errors, errors of one line, exit statuses."""

import csv
import functools
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sklearn_iqa
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile
from sklearn_iqa.cli import commands, files, methods, weights
from sklearn_iqa.datasets import load_photographs

PAGE = (Path(__file__).parents[1] / "docs" / "cli.rst").read_text(encoding="utf-8")
needs_lite0 = pytest.mark.usefixtures("lite0_wheel")


def run(*args):
    return CliRunner().invoke(commands.main, [str(arg) for arg in args], prog_name="sklearn-iqa")


def table(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


def one_line(result, status):
    """The one line that an error is, with nothing beside it."""
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Give `clean`, three PNG images, and `noisy`, the same with noise, one of them as BMP."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("clean", "noisy"):
        (root / name).mkdir()
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (1, 64, 3))
    for number, name in enumerate(("a.png", "b,c.png", "d.png")):
        image = np.roll(ramp, 8 * number, axis=number % 2)
        noise = rng.integers(0, 30 * (number + 1), image.shape)
        Image.fromarray(image).save(root / "clean" / name)
        noisy = Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8))
        noisy.save((root / "noisy" / name).with_suffix(".bmp" if name == "d.png" else ".png"))
    (root / "noisy" / "readme.txt").write_text("no image by its suffix")
    (root / "noisy" / ".hidden.png").write_text("left out")
    return root


# list -----------------------------------------------------------------------------------------------------------------


def test_list_runs_as_a_module_silently_and_without_matplotlib(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "sklearn_iqa", "list"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.split("  +", lines[0]) == ["name", "input", "better", "range", "published weights, the default first"]
    assert max(map(len, lines)) <= 100
    start = lines[0].index("input")
    end = lines.index("")
    assert all(line[start - 1] == " " for line in lines[:end])
    assert any(line.startswith("default: ") for line in lines[end:])


def test_list_states_the_facts_of_every_method():
    rows = {row["name"]: row for row in map(json.loads, run("list", "--output", "json").stdout.splitlines())}
    # 0 for equal images and no upper bound: Zhang et al. 2018, section 3
    assert rows["LPIPS"] | {"cached": None} == {
        "name": "LPIPS",
        "input": "query + reference",
        "better": "lower",
        "lowest": 0.0,
        "highest": None,
        "default": sklearn_iqa.LPIPS.published[0].name,
        "weights": [entry.name for entry in sklearn_iqa.LPIPS.published],
        "cached": None,
    }
    assert list(rows) == sorted(rows, key=str.casefold)
    assert {"STLPIPS", "UNIQUE"} <= set(rows)
    assert not {"TimmFeatures", "AgreementDisplay", "make_pairs"} & set(rows)
    assert rows["UNIQUE"]["input"] == "image"


@pytest.mark.parametrize("cached", [True, False])
def test_list_marks_cached_weights(monkeypatch, cached):
    monkeypatch.setattr(pretrained, "is_cached", lambda file: cached)
    assert ("alex-bapps*" in run("list").stdout) is cached
    rows = {row["name"]: row for row in table(run("list", "--output", "csv"))}
    assert rows["STLPIPS"]["weights"] == "alex-bapps vgg-bapps"
    assert rows["STLPIPS"]["cached"] == ("alex-bapps vgg-bapps" if cached else "")


def test_weights_of_several_files_are_cached_when_all_are(monkeypatch):
    entry = sklearn_iqa.LPIPS.published[0]
    assert len(entry.files) == 2  # backbone and heads
    monkeypatch.setattr(pretrained, "is_cached", lambda file: file is entry.files[1])
    rows = {row["name"]: row for row in table(run("list", "--output", "csv"))}
    assert rows["LPIPS"]["cached"] == ""


@pytest.mark.parametrize(
    ("lowest", "highest", "text"),
    [(None, None, "any"), (0.0, None, "0 and up"), (None, 1.5, "up to 1.5"), (1.0, 10.0, "1 to 10")],
)
def test_interval(lowest, highest, text):
    assert commands._interval(lowest, highest) == text


# score: rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("st_lpips_wheel")
def test_folder_with_references_by_name_or_stem(folders):
    result = run("score", "st_lpips", folders / "noisy", "--reference", folders / "clean")
    assert result.exit_code == 0
    assert result.stderr == "Weights: alex-bapps\n"
    names = [("a.png", "a.png"), ("b,c.png", "b,c.png"), ("d.bmp", "d.png")]
    pairs = [(str(folders / "noisy" / query), str(folders / "clean" / reference)) for query, reference in names]
    rows = table(result)
    assert [(row["image"], row["reference"]) for row in rows] == pairs
    assert [row["error"] for row in rows] == ["", "", ""]
    expected = sklearn_iqa.STLPIPS(weights="alex-bapps").predict(pairs)
    # images of one size may share a pass there; float32 rounding: 2^-23 = 1.2e-7 a step
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-5)
    assert f'"{folders / "noisy" / "b,c.png"}"' in result.stdout  # quoted, since it holds a comma
    assert result.stdout.startswith("image,reference,score,error\n")


@pytest.mark.usefixtures("st_lpips_wheel")
def test_bad_files_become_rows_in_their_place(folders, tmp_path):
    text, small = tmp_path / "text.png", tmp_path / "small.png"
    text.write_text("no image")
    Image.new("RGB", (9, 9)).save(small)
    paths = [text, folders / "clean" / "a.png", tmp_path / "none.png", small, folders / "noisy" / "a.png"]
    result = run("score", "STLPIPS", *paths, "--reference", folders / "clean" / "a.png", "--output", "json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1] == "3 of 5 images could not be scored, see their rows."
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert [row["error"] is None for row in rows] == [False, True, False, False, True]
    assert [row["score"] is None for row in rows] == [True, False, True, True, False]
    assert rows[1]["score"] == 0  # an image against itself
    assert "is no image that Pillow can read" in rows[0]["error"]
    assert "does not exist" in rows[2]["error"]
    assert "different height x width" in rows[3]["error"]
    assert not [row for row in rows if row["error"] and "row 0" in row["error"].lower()]  # X is ours, not the user's


@needs_lite0
def test_default_model(folders, monkeypatch):
    result = run("score", "Default", folders / "clean", "nowhere.png", "--jobs", 2)
    assert (result.exit_code, list(table(result)[0])) == (3, ["image", "score", "error"])
    rows = table(result)
    paths = [row["image"] for row in rows[:3]]
    expected = sklearn_iqa.load_quality_model().predict(paths)
    assert [float(row["score"]) for row in rows[:3]] == pytest.approx(expected.tolist())
    assert "does not exist" in rows[3]["error"]
    for option in ("--reference", "--weights"):
        assert f"leave {option} out" in one_line(run("score", "default", "a.png", option, "b"), status=2)
    assert "leave --set out" in one_line(run("score", "default", "a.png", "--set", "net=vgg"), status=2)
    assert "'nodevice'" in one_line(run("score", "default", paths[0], "--device", "nodevice"), status=1)
    monkeypatch.setattr(pretrained, "is_cached", lambda file: False)
    assert "sklearn-iqa[demo]" in one_line(run("score", "default", paths[0]), status=1)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_references_in_order(folders):
    clean = [folders / "clean" / name for name in ("a.png", "d.png")]
    options = [word for path in reversed(clean) for word in ("--reference", path)]
    rows = table(run("score", "stlpips", *clean, *options, "-q"))
    assert [row["reference"] for row in rows] == [str(path) for path in reversed(clean)]
    assert all(float(row["score"]) > 0 for row in rows)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_quiet_writes_no_message(folders):
    a = folders / "clean" / "a.png"
    result = run("score", "stlpips", a, "none.png", "--reference", a, "-q")
    assert (result.exit_code, result.stderr) == (3, "")


def test_method_without_reference_with_a_weights_file_and_parameters(folders, tmp_path):
    parameters = {"backbone": "mobilenetv3_small_050", "n_bins": 5, "image_size": 64}
    nima = sklearn_iqa.NIMA(**parameters, backbone_weights=None, random_state=0).initialize()
    nima.save_weights(tmp_path / "nima.safetensors")
    settings = [word for name, value in parameters.items() for word in ("--set", f"{name}={value}")]
    a = folders / "noisy" / "a.png"
    result = run("score", "nima", a, *settings, "--weights", tmp_path / "nima.safetensors", "--jobs", 1)
    assert result.stderr == ""
    assert result.stdout.splitlines()[0] == "image,score,error"
    (row,) = table(result)
    # the same network on the same views; float32 rounding: 2^-23 = 1.2e-7 a step
    assert float(row["score"]) == pytest.approx(nima.predict([a])[0], rel=1e-5)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_rows_come_as_they_are_known_and_a_closed_pipe_ends_quietly(folders):
    a = str(folders / "clean" / "a.png")
    command = [sys.executable, "-m", "sklearn_iqa", "score", "stlpips", *[a] * 2000, "--reference", a, "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "image,reference,score,error\n"
        assert process.stdout.readline() == f"{a},{a},0.0,\n"
        assert process.poll() is None  # 1999 rows are still due
        process.stdout.close()
        assert process.wait(timeout=300) == 1
        assert process.stderr.read() == ""


# score: what is no row ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("st_lpips_wheel")
def test_errors_of_the_program_are_not_rows(folders, monkeypatch):
    def predict(self, X):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(sklearn_iqa.STLPIPS, "predict", predict)
    a = folders / "clean" / "a.png"
    assert isinstance(run("score", "stlpips", a, "--reference", a).exception, KeyError)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_interrupt(folders, monkeypatch):
    def predict(self, X):
        raise KeyboardInterrupt

    monkeypatch.setattr(sklearn_iqa.STLPIPS, "predict", predict)
    a = folders / "clean" / "a.png"
    result = run("score", "stlpips", a, "--reference", a)
    assert result.exit_code == 130
    assert (result.stdout.splitlines(), result.stderr.strip()) == (
        ["image,reference,score,error"],
        "Weights: alex-bapps",
    )


@pytest.mark.usefixtures("st_lpips_wheel")
def test_score_that_is_no_number_is_an_error(folders, monkeypatch):
    monkeypatch.setattr(sklearn_iqa.STLPIPS, "_score", lambda self, output: np.nan)
    a = folders / "clean" / "a.png"
    result = run("score", "stlpips", a, "--reference", a, "--output", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"].startswith(
        "The image gets NaN or infinity as its result; check the weights"
    )


@pytest.mark.usefixtures("st_lpips_wheel", "lite0_wheel")
@pytest.mark.parametrize("method", [sklearn_iqa.STLPIPS, sklearn_iqa.TimmFeatures])
def test_too_little_memory_is_a_row(folders, monkeypatch, tmp_path, method):
    views = method._views

    def limited(self, x):
        if max(np.shape(x)) > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return views(self, x)

    monkeypatch.setattr(method, "_views", limited)
    a, large = folders / "clean" / "a.png", tmp_path / "large.png"
    Image.new("RGB", (96, 72)).save(large)
    if method is sklearn_iqa.STLPIPS:
        references = [word for path in (a, large, a) for word in ("--reference", path)]
        result = run("score", "stlpips", a, large, a, *references)
    else:
        result = run("score", "default", a, large, a)
    assert result.exit_code == 3
    rows = table(result)
    assert [row["score"] == "" for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("The image (72 x 96 pixels) needs more memory than there is")
    assert rows[0] == rows[2]


def test_unknown_method_suggests_close_names():
    line = one_line(run("score", "lpisp", "a.png"), status=2)
    assert "'lpisp'" in line
    assert "LPIPS" in line
    assert "did you mean default" in one_line(run("score", "the_default", "a.png"), status=2)
    assert "sklearn-iqa list" in one_line(run("score", "zzzzzzzz", "a.png"), status=2)


@pytest.mark.parametrize("name", ["STLPIPS", "stlpips", "st_lpips", "ST-LPIPS"])
def test_methods_are_found_by_class_and_file(name):
    assert methods.find_method(name) is sklearn_iqa.STLPIPS


def test_unknown_parameter_lists_the_accepted():
    line = one_line(run("score", "stlpips", "a.png", "--reference", "b.png", "--set", "nett=vgg"), status=2)
    assert "'nett'" in line
    listed = line.partition("it takes ")[2].rstrip(".\n").split(", ")
    others = {"weights", "device", "n_jobs", "verbose"}  # options of their own, or none
    assert set(listed) == set(sklearn_iqa.STLPIPS().get_params()) - others
    assert "NAME=VALUE" in one_line(run("score", "stlpips", "a.png", "--set", "net"), status=2)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("vgg", "alex", "vgg"),
        ("'vgg'", "alex", "vgg"),
        ("0.0", "0.1", "0.0"),  # version of LPIPS: text that looks like a number
        ("0.5", 0.1, 0.5),
        ("None", "imagenet", None),
        ("(1, 2)", None, (1, 2)),
        ("True", False, True),
        ("a=b", "", "a=b"),
    ],
)
def test_value_of_a_parameter(text, default, value):
    found = methods.parse_value(text, default)
    assert found == value
    assert type(found) is type(value)


def test_wrong_references(folders):
    a, clean = folders / "clean" / "a.png", folders / "clean"
    assert "give --reference" in one_line(run("score", "stlpips", a), status=2)
    assert "leave --reference out" in one_line(run("score", "nima", a, "--reference", a), status=2)
    line = one_line(run("score", "stlpips", clean, "--reference", a, "--reference", a), status=2)
    assert "3 images and 2 references" in line
    assert "none.png does not exist" in one_line(run("score", "stlpips", a, "--reference", "none.png"), status=1)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_reference_missing_in_a_folder_is_a_row(folders, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "e.png")
    result = run("score", "stlpips", tmp_path / "e.png", "--reference", folders / "clean")
    assert result.exit_code == 3
    (row,) = table(result)
    assert (row["reference"], row["score"]) == ("", "")
    assert "holds no reference for e.png" in row["error"]


def test_weights_are_chosen_or_asked_for(folders, monkeypatch):
    a = folders / "clean" / "a.png"
    monkeypatch.setattr(pretrained, "is_cached", lambda file: False)
    line = one_line(run("score", "lpips", a, "--reference", a), status=1)
    assert "--weights" in line
    assert "squeeze-v0.1" in line
    monkeypatch.setattr(sklearn_iqa.STLPIPS, "published", ())
    assert "no published weights" in one_line(run("score", "stlpips", a, "--reference", a), status=1)
    monkeypatch.undo()
    monkeypatch.setattr(pretrained, "is_cached", lambda file: True)
    # LPIPS() is version 0.1, although the older weights come first
    assert commands._cached_weights(sklearn_iqa.LPIPS(), {}) == "alex-v0.1"
    assert commands._cached_weights(sklearn_iqa.STLPIPS(net="vgg"), {"net": "vgg"}) == "vgg-bapps"


@pytest.mark.usefixtures("st_lpips_wheel")
def test_only_some_cached_weights(monkeypatch):
    by_name = {entry.name: entry.files[0] for entry in sklearn_iqa.STLPIPS.published}
    monkeypatch.setattr(pretrained, "is_cached", lambda file: file is by_name["vgg-bapps"])
    assert commands._cached_weights(sklearn_iqa.STLPIPS(), {}) == "vgg-bapps"
    with pytest.raises(ValueError, match="No suitable weights"):
        commands._cached_weights(sklearn_iqa.STLPIPS(), {"net": "alex"})


@pytest.mark.usefixtures("st_lpips_wheel")
def test_published_weights_bring_their_parameters(folders):
    a, noisy = folders / "clean" / "a.png", folders / "noisy" / "a.png"
    (row,) = table(run("score", "stlpips", noisy, "--reference", a, "--weights", "vgg-bapps"))
    expected = sklearn_iqa.STLPIPS(net="vgg", weights="vgg-bapps").predict([(noisy, a)])[0]
    assert float(row["score"]) == expected
    wrong = run("score", "stlpips", a, "--reference", a, "--weights", "vgg-bapps", "--set", "net=alex")
    # net=alex is the default of STLPIPS, which would follow the weights by itself.
    assert "belong to net='vgg': leave --set net out" in one_line(wrong, status=1)
    (row,) = table(run("score", "stlpips", noisy, "--reference", a, "--weights", "default", "-q"))
    assert float(row["score"]) == sklearn_iqa.STLPIPS(weights="alex-bapps").predict([(noisy, a)])[0]
    wrong = run("score", "stlpips", a, "--reference", a, "--weights", "default", "--set", "net=vgg")
    assert "'alex-bapps' belong to net='alex'" in one_line(wrong, status=1)


def test_wrong_weights_and_device(folders, tmp_path):
    a = folders / "clean" / "a.png"
    broken, other = tmp_path / "broken.pth", tmp_path / "other.npz"
    broken.write_bytes(b"PK\x03\x04 cut off")
    np.savez(other, weight=np.zeros(3))
    for path, words in ((broken, "broken.pth"), (other, "does not fit"), ("none.pth", "alex-bapps")):
        line = one_line(run("score", "stlpips", a, "--reference", a, "--weights", path), status=1)
        assert words in line
    line = one_line(run("score", "stlpips", a, "--reference", a, "--weights", other, "--device", "tpu"), status=1)
    assert "device='tpu'" in line


# weights --------------------------------------------------------------------------------------------------------------


CONTENTS = {"whole.pth": b"whole", "begun.pth": b"begun", "bare.pth": b"bare"}


def published_files(url):
    """Files whose digest is known, or its beginning, or not at all, and one without an address."""
    whole, begun = (hashlib.sha256(CONTENTS[name]).hexdigest() for name in ("whole.pth", "begun.pth"))
    return (
        WeightsFile("whole.pth", whole, urls=(f"{url}/whole.pth",)),
        WeightsFile("begun.pth", begun[:8], urls=(f"{url}/begun.pth",)),
        WeightsFile("bare.pth", None, urls=(f"{url}/bare.pth",)),
        WeightsFile("hand.pth", "0" * 64),
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Be silent."""


@pytest.fixture
def published(cache, tmp_path, monkeypatch):
    """NIMA and STLPIPS are all methods there are, with weights from a server of this machine."""
    (tmp_path / "served").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "served" / name).write_bytes(content)
    handler = functools.partial(Files, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        whole, begun, bare, hand = published_files(f"http://127.0.0.1:{server.server_port}")
        source = "https://example.org", "MIT", "nothing"
        nima = PublishedWeights("one", (whole, begun), *source), PublishedWeights("two", (whole, hand), *source)
        monkeypatch.setattr(sklearn_iqa.NIMA, "published", nima)
        monkeypatch.setattr(sklearn_iqa.STLPIPS, "published", (PublishedWeights("three", (bare,), *source),))
        for module in (methods, weights):
            monkeypatch.setattr(module, "all_methods", lambda: [sklearn_iqa.NIMA, sklearn_iqa.STLPIPS])
        yield nima
        server.shutdown()
        thread.join()


def put(cache, *names):
    for name in names:
        (cache / name).write_bytes(CONTENTS[name])


def test_weights_list(published, cache):
    put(cache, "whole.pth")
    (cache / "begun.pth").write_bytes(b"another file")
    rows = [json.loads(line) for line in run("weights", "list", "--output", "json").stdout.splitlines()]
    facts = {"trained_on": "nothing", "licence": "MIT"}
    assert rows[0] == {
        **{"method": "NIMA", "name": "one", "default": True, "file": "whole.pth", "at_hand": True, "size": 5},
        **facts,
    }
    assert [(row["name"], row["default"], row["file"], row["at_hand"], row["size"]) for row in rows[1:]] == [
        ("one", True, "begun.pth", False, None),
        ("two", False, "whole.pth", True, 5),
        ("two", False, "hand.pth", False, None),
        ("three", True, "bare.pth", False, None),
    ]
    assert table(run("weights", "list", "--output", "csv"))[1]["size"] == ""
    assert run("weights", "list").stdout.splitlines()[:4] == [
        "NIMA:one (default)",
        "    trained on nothing; licence: MIT",
        "    whole.pth  5 B",
        "    begun.pth  not at hand",
    ]


def test_weights_list_of_all_methods_fits_a_terminal():
    lines = run("weights", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("LPIPS:alex-v0.1") for line in lines)


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (24_680_000, "24.7 MB"), (2_000_000_000, "2 GB")]
)
def test_sizes_are_readable(n_bytes, text):
    assert weights._readable(n_bytes) == text


def test_weights_fetch(published, cache):
    result = run("weights", "fetch", "nima", "NIMA:one", "st_lpips:default")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [str(cache / name) for name in ("whole.pth", "begun.pth", "bare.pth")]
    assert result.stderr.startswith("Warning: bare.pth is published without a digest")
    assert result.stderr.count("\n") == 1  # without the line of the program that warns
    assert run("weights", "fetch", "stlpips").stderr == ""
    (cache / "bare.pth.sha256").unlink()
    assert run("weights", "fetch", "stlpips", "-q").stderr == ""


def test_weights_fetch_goes_on_after_a_failure(published, cache, tmp_path):
    (tmp_path / "served" / "begun.pth").write_bytes(b"another file")
    result = run("weights", "fetch", "--all")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [str(cache / "whole.pth"), str(cache / "bare.pth")]
    warning, *errors = result.stderr.splitlines()
    assert warning.startswith("Warning: bare.pth")
    assert len(errors) == 2
    assert errors[0].startswith("Error: NIMA:one: begun.pth could not be downloaded")
    assert errors[1].startswith("Error: NIMA:two: hand.pth is not on this machine")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "nima:koniq, or give --all"),
        (["nima", "--all"], "nima:koniq, or give --all"),
        (["nima:four"], "no published weights 'four': it has one, two"),
        (["nim"], "did you mean NIMA"),
    ],
)
def test_weights_fetch_refuses_names_before_it_begins(published, cache, args, words):
    line = one_line(run("weights", "fetch", *args), status=2)
    assert words in line
    assert not list(cache.iterdir())


def test_weights_of_a_method_without_any(published, monkeypatch):
    monkeypatch.setattr(sklearn_iqa.NIMA, "published", ())
    assert "NIMA has no published weights: " in one_line(run("weights", "fetch", "nima"), status=2)


def test_weights_where(published, cache):
    assert run("weights", "where").stdout == f"{cache}\n"
    put(cache, "whole.pth", "bare.pth")
    assert run("weights", "where").stdout.splitlines() == [
        str(cache),
        f"NIMA:one       {cache / 'whole.pth'}",
        f"NIMA:two       {cache / 'whole.pth'}",
        f"STLPIPS:three  {cache / 'bare.pth'}",
    ]


def test_weights_verify(published, cache):
    put(cache, *CONTENTS)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    result = run("weights", "verify", "--output", "json")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[1] == {
        **{"weights": "NIMA:one", "file": "begun.pth", "status": "ok, 8 digits"},
        **{"sha256": digests["begun.pth"], "path": str(cache / "begun.pth")},
    }
    assert [(row["file"], row["status"]) for row in rows] == [
        ("whole.pth", "ok"),
        ("begun.pth", "ok, 8 digits"),
        ("bare.pth", "unknown"),
    ]
    run("weights", "fetch", "stlpips")
    (pinned,) = table(run("weights", "verify", "stlpips", "--output", "csv"))
    assert (pinned["status"], pinned["sha256"]) == ("pinned", digests["bare.pth"])
    for name in ("begun.pth", "bare.pth"):
        (cache / name).write_bytes(b"another file")
    result = run("weights", "verify")
    assert result.exit_code == 1
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["status", "ok", "wrong", "wrong"]


def test_weights_verify_says_what_is_missing_of_what_was_named(published, cache):
    put(cache, "whole.pth")
    result = run("weights", "verify", "nima:two")
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["status", "ok", "missing"]
    assert result.stdout.rstrip().endswith("hand.pth")


SMALL = {"backbone": "mobilenetv3_small_050", "n_bins": 5, "image_size": 64}
SMALL_SETTINGS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def test_weights_convert(tmp_path):
    nima = sklearn_iqa.NIMA(**SMALL, backbone_weights=None, random_state=0).initialize()
    state = {f"module.{name}": tensor.half() for name, tensor in nima.network_.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nima.pth.tar")
    result = run("weights", "convert", tmp_path / "nima.pth.tar", "nima", *SMALL_SETTINGS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'nima.pth.safetensors'}\n"
    converted = state_dicts.read_state(tmp_path / "nima.pth.safetensors")
    assert set(converted) == set(nima.network_.state_dict())
    assert all(
        torch.equal(converted[name], state[f"module.{name}"].to(tensor.dtype)) for name, tensor in converted.items()
    )
    # An old file is overwritten where it is named alone.
    again = ["weights", "convert", tmp_path / "nima.pth.tar", "nima", *SMALL_SETTINGS]
    assert "exists: name the new file with --out" in one_line(run(*again), status=2)
    assert run(*again, "-o", tmp_path / "nima.pth.safetensors").exit_code == 0
    assert "must end in '.safetensors'" in one_line(run(*again, "-o", tmp_path / "nima.pth"), status=1)
    assert "does not fit" in one_line(run(*again[:4], "-o", tmp_path / "x.safetensors"), status=1)


def test_weights_convert_takes_files_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"no file {tmp_path / 'ava'}" in one_line(run("weights", "convert", "ava", "nima"), status=1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_convert_shows_how_to_convert_a_pickled_module(tmp_path, wrapped):
    module = torch.nn.Linear(2, 2)
    torch.save({"state_dict": module.state_dict(), "args": Path("a")} if wrapped else module, tmp_path / "m.pt")
    result = run("weights", "convert", tmp_path / "m.pt", "meta_iqa")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'm.pt'} holds pickled Python objects")
    assert result.stderr.endswith("then convert m-state.pth.\n")
    exec(result.stdout, {})  # the file is our own
    read = state_dicts.read_state(tmp_path / "m-state.pth")
    assert all(torch.equal(read[name], tensor) for name, tensor in module.state_dict().items())


# Files ----------------------------------------------------------------------------------------------------------------


def test_folders_are_expanded_in_place_and_by_name(folders, tmp_path):
    inner = tmp_path / "inner"
    for folder in (inner, tmp_path / ".cache"):
        folder.mkdir()
        (folder / "z.jpg").touch()
    (tmp_path / "y.PNG").touch()
    (tmp_path / "table.h5").touch()  # Pillow lists its suffix, but knows no image type of it
    (tmp_path / "folder.png").mkdir()
    paths = [str(folders / "clean" / "d.png"), str(tmp_path), "none.png"]
    flat = [query.path for query in files.find_queries(paths, recursive=False)]
    assert flat == [paths[0], str(tmp_path / "y.PNG"), "none.png"]
    deep = files.find_queries(paths, recursive=True)
    assert [query.path for query in deep] == [paths[0], str(inner / "z.jpg"), str(tmp_path / "y.PNG"), "none.png"]
    assert [str(query.place) for query in deep] == ["d.png", os.path.join("inner", "z.jpg"), "y.PNG", "none.png"]


@pytest.mark.usefixtures("st_lpips_wheel")
def test_a_tilde_is_the_users_folder(folders, monkeypatch):
    # The shell expands it only at the start of a word: not in --reference=~/clean, nor in quotes.
    monkeypatch.setenv("HOME", str(folders))
    result = run("score", "stlpips", "~/noisy", "~/noisy/a.png", "--reference=~/clean")
    assert result.exit_code == 0
    rows = table(result)
    assert [row["image"] for row in rows] == [
        *(str(folders / "noisy" / name) for name in ("a.png", "b,c.png", "d.bmp", "a.png"))
    ]
    assert rows[0]["reference"] == str(folders / "clean" / "a.png")
    (row,) = table(run("score", "stlpips", "~/noisy/a.png", "--reference=~/clean/a.png"))
    assert row["score"] == rows[0]["score"]
    listed = ["--reference=~/clean/a.png", "--reference=~/clean/d.png"]
    assert run("score", "stlpips", "~/noisy/a.png", "~/noisy/a.png", *listed).exit_code == 0
    assert "neither a file" in one_line(
        run("score", "stlpips", "~/noisy", "--reference=~/clean", "--weights=~/none.pth"), status=1
    )
    shutil.copy(pretrained.fetch(sklearn_iqa.STLPIPS.published[0].files[0]), folders / "st_lpips.pth")
    (row,) = table(run("score", "stlpips", "~/noisy/a.png", "--reference=~/clean/a.png", "--weights=~/st_lpips.pth"))
    assert row["score"] == rows[0]["score"]


def test_empty_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    line = one_line(run("score", "nima", tmp_path), status=1)
    assert "holds no image file; --recursive" in line
    assert "--recursive" not in one_line(run("score", "nima", tmp_path, "-r"), status=1)


def test_references_of_queries_in_folders(tmp_path):
    for name in ("x.png", "sub/x.png", "y.tif", "twice.png", "twice.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def find(place):
        return Path(files._namesake(tmp_path, Path(place), files._by_stem)).relative_to(tmp_path).as_posix()

    assert find("x.png") == "x.png"
    assert find("sub/x.png") == "sub/x.png"  # at the same place
    assert find("sub/x.jpg") == "sub/x.png"
    assert find("sub/y.png") == "y.tif"  # directly in the folder
    assert find("other/x.png") == "x.png"
    assert find("twice.jpg") == "twice.jpg"
    with pytest.raises(ValueError, match=r"several references for twice.bmp \(twice.jpg, twice.png\)"):
        find("twice.bmp")


# Help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["list", "--help"],
        ["score", "-h"],
        ["weights", "-h"],
        *(["weights", name, "-h"] for name in weights.weights_group.commands),
    ],
    ids=" ".join,
)
def test_help_is_readable(args):
    result = run(*args)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: sklearn-iqa")
    assert max(map(len, result.stdout.splitlines())) <= 80  # CliRunner's terminal
    assert "..." not in result.stdout.partition("Options:")[2]  # no sentence is cut off


def test_version():
    assert run("--version").stdout == f"sklearn-iqa, version {sklearn_iqa.__version__}\n"


def documented():
    """Commands of the page with the lines that they print there."""
    blocks = re.findall(r"code-block:: console\n\n((?:    .*\n|\n)+)", PAGE)
    printed = [part.split("\n", 1) for block in blocks for part in re.split(r"^    \$ ", block, flags=re.M)[1:]]
    return {command: [line[4:] for line in lines.rstrip().split("\n")] for command, lines in printed}


def numbers_apart(lines):
    """Lines with "#" for each number with a fraction, and these numbers."""
    text = "\n".join(lines)
    return re.sub(r"\d+\.\d+", "#", text), [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_page_shows_lines_of_the_list(monkeypatch):
    bundled = [file for entry in sklearn_iqa.STLPIPS.published for file in entry.files]
    monkeypatch.setattr(pretrained, "is_cached", lambda file: file in bundled)
    assert set(documented()["sklearn-iqa list"]) - {"..."} <= set(run("list").stdout.split("\n"))


@pytest.mark.usefixtures("st_lpips_wheel")
def test_page_shows_lines_of_the_list_of_weights():
    shown = [line for line in documented()["sklearn-iqa weights list"] if line != "..."]
    assert len(shown) == 3
    assert "\n".join(shown) in run("weights", "list").stdout


@pytest.mark.usefixtures("st_lpips_wheel", "lite0_wheel")
@pytest.mark.parametrize("command", [command for command in documented() if " score " in command])
def test_page_shows_what_score_prints(command, tmp_path, monkeypatch):
    photographs = load_photographs()
    for name in ("chelsea", "coffee", "rocket"):
        picture = Image.fromarray(photographs.images[photographs.names.index(name)])
        for path, options in ((f"photos/{name}.png", {}), (f"jpeg/{name}.jpg", {"quality": 10})):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            picture.save(tmp_path / path, **options)
    picture.save(tmp_path / "jpeg/cat.jpg")
    monkeypatch.chdir(tmp_path)
    result = run(*shlex.split(command)[1:])
    # Where the terminal mixes both streams, the name of the weights comes first and the number of errors last.
    before, after = result.stderr.splitlines()[:1], result.stderr.splitlines()[1:]
    text, numbers = numbers_apart([*before, *result.stdout.splitlines(), *after])
    shown, shown_numbers = numbers_apart(documented()[command])
    assert text == shown
    # float32 rounding through some forty layers: 2^-23 = 1.2e-7 a step
    assert numbers == pytest.approx(shown_numbers, rel=1e-5)


def test_every_option_is_documented():
    for name, command in (commands.main.commands | weights.weights_group.commands).items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"``{parameter.opts[-1]}" in PAGE, (name, parameter.opts)
    for name in weights.weights_group.commands:
        assert f"``sklearn-iqa weights {name}" in PAGE

# SPDX-License-Identifier: BSD-3-Clause
"""The command line: standard output, rows with errors, errors of one line, exit statuses."""

import base64
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
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sklearn_iqa
from sklearn_iqa._base import images
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile
from sklearn_iqa.cli import commands, files, methods, score, weights
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
    result = run("score", "st_lpips", folders / "noisy", "--reference", folders / "clean", "--digits", 9)
    assert result.exit_code == 0
    assert result.stderr == "Weights: alex-bapps\n1 file skipped: .txt\n"
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
    result = run("score", "Default", folders / "clean", "nowhere.png", "--jobs", 2, "--digits", 9)
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
    weights = ["--weights", tmp_path / "nima.safetensors"]
    result = run("score", "nima", a, *settings, *weights, "--jobs", 1, "--digits", 9)
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


def test_scores_have_the_digits_asked_for():
    values = [0.123456789, 72.123456789, 1.23456789e-7, 100000.0]
    assert [score._rounded(value, 4) for value in values] == [0.1235, 72.12, 1.235e-7, 100000.0]
    assert [score._rounded(value, 17) for value in values] == values
    assert score._rounded("a", 4) == "a"


# score: several methods, sorted rows, files of rows -------------------------------------------------------------------


@pytest.fixture(scope="module")
def nima_words(tmp_path_factory):
    """Words that make a small NIMA of the command line; the folder of its weights is named nima."""
    parameters = {"backbone": "mobilenetv3_small_050", "n_bins": 5, "image_size": 64}
    path = tmp_path_factory.mktemp("weights") / "nima.safetensors"
    sklearn_iqa.NIMA(**parameters, backbone_weights=None, random_state=0).initialize().save_weights(path)
    return path, [word for name, value in parameters.items() for word in ("--set", f"nima:{name}={value}")]


@pytest.mark.usefixtures("st_lpips_wheel")
def test_several_methods_have_a_column_each(folders, nima_words):
    path, settings = nima_words
    noisy, clean = folders / "noisy", folders / "clean"
    names = ["stlpips", f"nima:{path}"]
    result = run("score", *names, noisy, "none.png", "--reference", clean, *settings, "--digits", 9, "-q")
    assert result.exit_code == 3
    rows = table(result)
    assert list(rows[0]) == ["image", "reference", *names, "error"]
    alone = table(run("score", "stlpips", noisy, "--reference", clean, "--digits", 9, "-q"))
    assert [row["stlpips"] for row in rows[:3]] == [row["score"] for row in alone]
    own = table(run("score", f"nima:{path}", noisy, *settings, "--digits", 9, "-q"))
    assert [row[names[1]] for row in rows[:3]] == [row["score"] for row in own]
    assert "does not exist" in rows[3]["error"]
    assert (rows[3]["stlpips"], rows[3][names[1]]) == ("", "")


@pytest.mark.usefixtures("st_lpips_wheel")
def test_what_one_method_refuses_others_score(tmp_path, nima_words):
    path, settings = nima_words
    small = tmp_path / "small.png"
    Image.new("RGB", (9, 9)).save(small)
    (row,) = table(run("score", "stlpips", f"nima:{path}", small, "--reference", small, *settings, "-q"))
    assert "at least 21 pixels" in row["error"]
    assert (row["stlpips"], row[f"nima:{path}"] != "") == ("", True)


@pytest.mark.usefixtures("st_lpips_wheel")
@pytest.mark.parametrize(
    ("options", "order"),
    [
        (["--sort", "worst"], "dba"),
        (["--sort", "best"], ["a", "b", "d"]),
        (["--sort", "name"], ["a", "b", "d"]),
        (["--top", 2], "ab"),
        (["--sort", "worst", "--top", 1], "d"),
    ],
)
def test_rows_are_sorted_by_quality(folders, options, order):
    queries = [folders / "noisy" / name for name in ("b,c.png", "d.bmp", "a.png")]
    result = run("score", "stlpips", *queries, "--reference", folders / "clean", *options, "-q")
    assert [Path(row["image"]).name[0] for row in table(result)] == list(order)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_rows_with_errors_are_the_last(folders):
    a = folders / "clean" / "a.png"
    for sort in ("worst", "best"):
        rows = table(run("score", "stlpips", "none.png", a, "--reference", a, "--sort", sort, "-q"))
        assert [bool(row["error"]) for row in rows] == [False, True]


@pytest.mark.usefixtures("st_lpips_wheel")
@pytest.mark.parametrize("output", ["csv", "json"])
def test_a_file_of_rows_is_gone_on_with(folders, output, tmp_path):
    out, a = tmp_path / "rows", folders / "clean" / "a.png"
    odd = tmp_path / 'line\nbreak,"quoted".png'
    shutil.copy(a, odd)
    shutil.copy(a, tmp_path / "carriage\rreturn.png")
    paths = [a, odd, tmp_path / "carriage\rreturn.png", folders / "clean" / "d.png"]
    options = ["--reference", a, "--output", output, "-q", "-o", out]
    assert run("score", "stlpips", *paths, *options).stdout == ""
    whole = out.read_bytes()
    if output == "csv":
        with out.open(newline="") as file:
            assert [row["image"] for row in csv.DictReader(file)] == [str(path) for path in paths]
    for cut in range(1, len(whole) + 1, 7):
        out.write_bytes(whole[:-cut])
        with_resume = run("score", "stlpips", *paths, *options, "--resume")
        assert with_resume.exit_code == 0, with_resume.stderr
        assert out.read_bytes() == whole
        if cut > 60:
            break
    assert "go on with it by --resume" in one_line(run("score", "stlpips", *paths, *options), status=2)
    assert out.read_bytes() == whole


@pytest.mark.usefixtures("st_lpips_wheel")
def test_a_file_of_other_rows_is_refused(folders, tmp_path):
    out, a = tmp_path / "rows.csv", folders / "clean" / "a.png"
    out.write_text("image,quality\n")
    result = run("score", "stlpips", a, "--reference", a, "-q", "-o", out, "--resume")
    assert "other columns than image, reference, score, error" in one_line(result, status=2)
    assert out.read_text() == "image,quality\n"
    for text in ("[1]\n", "no rows\n\n", '{"a": 1}\n'):
        out.write_text(text)
        for output in ("csv", "json"):
            words = ["score", "stlpips", a, "--reference", a, "-q", "-o", out, "--resume", "--output", output]
            assert "other columns" in one_line(run(*words), status=2)
        assert out.read_text() == text
    for wrong in (["--resume"], ["--resume", "-o", out, "--top", 2]):
        assert "give --out FILE" in one_line(run("score", "stlpips", a, *wrong), status=2)
    nowhere = tmp_path / "nowhere" / "rows.csv"
    assert "cannot be written" in one_line(run("score", "stlpips", a, "--reference", a, "-q", "-o", nowhere), status=1)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_several_rows_share_a_pass_where_that_is_faster(folders, monkeypatch, tmp_path):
    monkeypatch.setitem(score.ROWS_TOGETHER, "cpu", 2)
    calls, predict = [], sklearn_iqa.STLPIPS.predict
    monkeypatch.setattr(sklearn_iqa.STLPIPS, "predict", lambda self, X: calls.append(len(X)) or predict(self, X))
    small, a = tmp_path / "small.png", folders / "clean" / "a.png"
    Image.new("RGB", (9, 9)).save(small)
    rows = table(run("score", "stlpips", a, a, small, a, a, "--reference", a, "--device", "cpu", "-q"))
    assert [row["score"] == "" for row in rows] == [False, False, True, False, False]
    assert all(float(row["score"]) < 1e-12 for row in rows if row["score"])  # of a pass of two: rounding
    assert "different height x width" in rows[2]["error"]
    assert calls == [2, 2, 1, 1, 1]  # those of the second two again one by one


def test_deviations(folders, nima_words):
    path, settings = nima_words
    a = folders / "noisy" / "a.png"
    (row,) = table(run("score", f"nima:{path}", a, *settings, "--std", "--digits", 9))
    assert list(row) == ["image", "score", "std", "error"]
    parameters = {"backbone": "mobilenetv3_small_050", "n_bins": 5, "image_size": 64}
    expected = sklearn_iqa.NIMA(**parameters, weights=path).predict([a], return_std=True)
    assert [float(row["score"]), float(row["std"])] == pytest.approx([float(one[0]) for one in expected], rel=1e-5)
    assert "stlpips predicts no deviation" in one_line(run("score", "stlpips", a, "--std"), status=2)


# score: which files ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("st_lpips_wheel")
def test_paths_from_standard_input_and_patterns(folders):
    clean = folders / "clean"
    words = ["score", "stlpips", "-", "--reference", str(clean / "a.png"), "-q"]
    text = f"{clean / 'd.png'}\n\n{clean / 'a.png'}\n"
    result = CliRunner().invoke(commands.main, words, input=text)
    assert result.exit_code == 0, (result.stderr, result.exception, result.stdout)
    assert [row["image"] for row in table(result)] == [str(clean / "d.png"), str(clean / "a.png")]
    rows = table(run("score", "stlpips", clean / "[a-b]*.png", "--reference", clean / "a.png", "-q"))
    assert [row["image"] for row in rows] == [str(clean / "a.png"), str(clean / "b,c.png")]
    (row,) = table(run("score", "stlpips", clean / "x*.png", "--reference", clean / "a.png", "-q"))
    assert "x*.png' does not exist" in row["error"]


def test_files_that_are_no_images_are_counted(tmp_path):
    for name in ("a.png", "b.CR2", "c.cr2", "notes.txt", "Makefile", ".hidden.txt"):
        (tmp_path / name).touch()
    found = files.find_queries([str(tmp_path)], recursive=False)
    assert [query.place.name for query in found.queries] == ["a.png"]
    assert found.skipped_line() == (
        "4 files skipped: without suffix, .cr2, .txt; a camera's raw file must be developed first, to TIFF or JPEG"
    )
    (tmp_path / "a.png").unlink()
    result = run("score", "default", tmp_path)
    assert "holds no image file (4 files skipped" in one_line(result, status=1)


def test_heic_files_are_images(folders, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heic` reads HEIC files")
    path = tmp_path / "a.heic"
    image = np.asarray(Image.open(folders / "clean" / "a.png"))
    pillow_heif.from_pillow(Image.fromarray(image)).save(path, quality=100)
    read = images.read_image(path)
    assert read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() < 3
    assert ".heic" in files._image_suffixes()


@pytest.mark.parametrize(
    ("name", "cure"), [("a.heic", "extra heic"), ("a.NEF", "developed first"), ("a.png", "PNG, JPEG")]
)
def test_files_that_pillow_cannot_read_get_their_cure(name, cure, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "registered_extensions", dict)  # as without the extra
    (tmp_path / name).write_text("no image")
    with pytest.raises(ValueError, match=cure):
        images.read_image(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize(
    "words", [["list"], ["score", "stlpips", "{a}", "--reference", "{a}", "-q"]], ids=["list", "score"]
)
@pytest.mark.usefixtures("st_lpips_wheel")
def test_a_full_disk_is_one_line(folders, words):
    command = [sys.executable, "-m", "sklearn_iqa", *(word.format(a=folders / "clean" / "a.png") for word in words)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output cannot be written (No space left on device)")
    assert done.stderr.count("\n") == 1


# evaluate -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A folder of ten images of growing noise, their clean reference, and tables of ratings."""
    folder, rng = tmp_path_factory.mktemp("rated"), np.random.default_rng(0)
    image = np.asarray(Image.fromarray(load_photographs().images[0]).resize((64, 64)))
    Image.fromarray(image).save(folder / "clean.png")
    lines = ["file,mos,kind,original"]
    for number in range(10):
        noisy = np.clip(image + rng.normal(0, 3 + 4 * number, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{5 - 0.4 * number + 0.1 * rng.normal():.3f},{'ab'[number > 6]},clean.png")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    return folder


COLUMNS = ["--image", "file", "--score", "mos"]


@pytest.mark.usefixtures("st_lpips_wheel")
def test_evaluate_gives_the_metrics_of_the_package(rated, tmp_path):
    options = [*COLUMNS, "--reference", "original", "--group", "kind", "--plot", tmp_path / "plot.png", "--json"]
    result = run("evaluate", "stlpips", rated / "ratings.csv", *options)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    rows = list(csv.DictReader((rated / "ratings.csv").open()))
    pairs = [(rated / row["file"], rated / "clean.png") for row in rows]
    mos = np.array([float(row["mos"]) for row in rows])
    scores = -sklearn_iqa.STLPIPS(weights="alex-bapps").predict(pairs)  # less distance is better
    own = found["figures"]["all"]
    metrics = sklearn_iqa.metrics
    assert own["n"] == 10
    for name, expected in {
        "SRCC": metrics.srcc(mos, scores),
        "PLCC": metrics.plcc(mos, scores),
        "PLCC, logistic": metrics.plcc_logistic(mos, scores),
        "KRCC": metrics.krcc(mos, scores),
        "RMSE, logistic": metrics.rmse(mos, metrics.fit_logistic(mos, scores)(scores)),
    }.items():
        assert own[name]["value"] == pytest.approx(expected, abs=1e-4), name
        assert own[name]["low"] <= own[name]["high"]
    assert own["SRCC"]["low"] < own["SRCC"]["value"] <= 1
    assert own["SRCC"]["value"] > 0.9
    assert [found["figures"][f"kind={kind}"]["n"] for kind in "ab"] == [7, 3]
    assert found["figures"]["kind=b"] == {"n": 3}  # too few for a curve
    assert Image.open(tmp_path / "plot.png").size > (300, 300)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_evaluate_writes_a_table(rated):
    words = ["evaluate", "stlpips", rated / "ratings.csv", *COLUMNS, "--reference", "original", "-q"]
    lines = run(*words, "--resamples", 50, "--group", "kind").stdout.splitlines()
    assert lines[0] == "10 images"
    assert re.split("  +", lines[1].strip()) == ["value", "95% interval"]
    assert [line.split("  ")[0] for line in lines[2:7]] == ["SRCC", "PLCC", "PLCC, logistic", "KRCC", "RMSE, logistic"]
    assert re.fullmatch(r"SRCC +[01]\.\d{3}  [01]\.\d{3} to [01]\.\d{3}", lines[2])
    assert [line.split()[:2] for line in lines[9:]] == [["kind=a", "7"], ["kind=b", "3"]]
    assert "too few" in lines[10]
    flipped = run(*words, "--resamples", 0, "--lower-is-better").stdout.splitlines()
    assert re.fullmatch(r"SRCC +-[01]\.\d{3}", flipped[2])


@pytest.mark.usefixtures("st_lpips_wheel")
@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["stlpips", "{r}", *COLUMNS], 2, "give --reference COLUMN"),
        (["nima", "{r}", *COLUMNS, "--reference", "original"], 2, "nima takes no reference: leave --reference out."),
        (["default", "{r}"], 2, "has no column 'image': name the right one with --image; it has file, mos, kind,"),
        (["default", "{r}", "--image", "file", "--score", "kind"], 1, "Row 2 of {r} holds 'a' in kind: give a finite"),
        (["default", "{r}", *COLUMNS, "--set", "x=1"], 2, "leave --set out"),
        (["stlpips", "{r}", "--image", "kind", "--score", "mos", "--reference", "original"], 1, "0 of 10 images have"),
    ],
)
def test_evaluate_refuses_in_one_line(rated, words, status, sentence):
    ratings = str(rated / "ratings.csv")
    result = run("evaluate", *(word.format(r=ratings) for word in words), "-q")
    assert sentence.format(r=ratings) in one_line(result, status)


@pytest.mark.usefixtures("st_lpips_wheel")
def test_evaluate_counts_images_without_a_score(rated, tmp_path):
    text = (rated / "ratings.csv").read_text()
    broken = rated / "broken.csv"
    broken.write_text(text + "none.png,3.0,a,clean.png\n")
    result = run("evaluate", "stlpips", broken, *COLUMNS, "--reference", "original", "--resamples", 0)
    assert result.exit_code == 3
    assert "1 of 11 images could not be scored and do not count; the first: " in result.stderr
    assert result.stdout.startswith("10 images\n")
    words = ["evaluate", "stlpips", rated / "ratings.csv", *COLUMNS, "--reference", "original", "-q", "--resamples", 0]
    assert "cannot be written" in one_line(run(*words, "--plot", tmp_path / "no" / "x.png"), status=1)


# fit ------------------------------------------------------------------------------------------------------------------


SMALL_NIMA = [
    *("--set", "backbone=test_resnet", "--set", "backbone_weights=None", "--set", "image_size=32"),
    *("--set", "batch_size=4", "--set", "max_epochs=1"),
]


def test_fit_writes_a_model_that_all_commands_take(rated, tmp_path):
    out = tmp_path / "nima.skops"
    words = ["fit", "nima", rated / "ratings.csv", *COLUMNS, "--group", "kind", "--cv", 2, "-o", out, *SMALL_NIMA]
    result = run(*words)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout.startswith("10 images\n")
    assert f"Written: {out}. Next: sklearn-iqa score {out} PATHS" in result.stderr
    card = sklearn_iqa.model_card(out)
    assert (card["method"], card["class"], card["rows"]) == ("NIMA", "NIMA", 10)
    assert card["protocol"].startswith("2-fold cross-validation, rows of equal 'kind' in one part")
    assert card["figures"]["n"] == 10
    assert card["ratings"]["file"] == "ratings.csv"
    assert card["versions"]["sklearn-iqa"] == sklearn_iqa.__version__
    model = sklearn_iqa.load_model(out)
    image = rated / "3.png"
    (row,) = table(run("score", out, image, "--digits", 9))
    assert float(row["score"]) == pytest.approx(model.predict([image])[0], rel=1e-6)
    found = json.loads(run("evaluate", out, rated / "ratings.csv", *COLUMNS, "--json", "-q").stdout)
    assert found["figures"]["all"]["n"] == 10
    again = sklearn_iqa.NIMA(
        backbone="test_resnet", backbone_weights=None, image_size=32, batch_size=4, max_epochs=1, random_state=0
    )
    rows = list(csv.DictReader((rated / "ratings.csv").open()))
    again.fit([rated / row["file"] for row in rows], [float(row["mos"]) for row in rows])
    assert model.predict([image])[0] == again.predict([image])[0]


@pytest.mark.usefixtures("lite0_wheel")
def test_fit_trains_the_default_recipe(rated, tmp_path):
    out = tmp_path / "own.skops"
    result = run("fit", "default", rated / "ratings.csv", *COLUMNS, "-o", out, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert sklearn_iqa.model_card(out)["protocol"] == "none: trained on all rows, and not tested"
    found = json.loads(run("evaluate", out, rated / "ratings.csv", *COLUMNS, "--json").stdout)
    assert found["figures"]["all"]["SRCC"]["value"] > 0.5  # of what it was trained on


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["nima", "{r}", *COLUMNS, "-o", "{t}/x.pkl"], 2, "does not end in .skops"),
        (["nima", "{r}", *COLUMNS, "-o", "{t}/no/x.skops"], 1, "make the folder"),
        (["nima", "{r}", *COLUMNS, "-o", "{t}/there.skops"], 2, "exists: name a new file"),
        (["default", "{r}", *COLUMNS, "-o", "{t}/x.skops", "--set", "x=1"], 2, "leave --set and --weights out"),
        (
            ["nima", "{r}", *COLUMNS, "-o", "{t}/x.skops", "--group", "kind", "--cv", "3", *SMALL_NIMA],
            1,
            "2 groups for 3",
        ),
        (["nima", "{r}", *COLUMNS, "-o", "{t}/x.skops", "--set", "lr=-1"], 1, "The 'lr' parameter of NIMA must be"),
    ],
)
def test_fit_refuses_in_one_line(rated, tmp_path, words, status, sentence):
    (tmp_path / "there.skops").touch()
    result = run("fit", *(word.format(r=rated / "ratings.csv", t=tmp_path) for word in words), "-q")
    assert sentence in one_line(result, status)
    assert [path.name for path in tmp_path.iterdir()] == ["there.skops"]


@pytest.mark.usefixtures("st_lpips_wheel")
def test_a_distance_in_a_file_stays_one(folders, tmp_path):
    """Without `fit` a saved method gives its published number: the worst image has the largest."""
    out = tmp_path / "distance.skops"
    sklearn_iqa.save_model(sklearn_iqa.STLPIPS(weights="alex-bapps").initialize(), out)
    words = ["score", out, folders / "noisy", "--reference", folders / "clean", "--sort", "worst", "-q"]
    assert [Path(row["image"]).name for row in table(run(*words))] == ["d.bmp", "b,c.png", "a.png"]


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "x.skops").write_text("no model")
    assert "is no model; give a file that" in one_line(run("score", tmp_path / "x.skops", "a.png"), status=1)
    assert "There is no file" in one_line(run("score", tmp_path / "none.skops", "a.png"), status=1)
    assert "leave --set out" in one_line(run("score", "default", "a.png", "--set", "x=1"), status=2)


# report ---------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds, and what it would ask a network for."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.pictures, self.texts, self.outside = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "img":
            self.pictures.append(given)
        # The namespace of an inline picture is a name, and no address.
        self.outside += [
            value for name, value in attrs if value and re.match("(https?:)?//", value) and name != "xmlns"
        ]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def opened(picture):
    head, _, content = picture["src"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.usefixtures("st_lpips_wheel")
def test_report_of_a_folder(folders, tmp_path):
    out = tmp_path / "report.html"
    words = ["report", folders / "noisy", "-o", out, "--method", "stlpips", "--reference", folders / "clean", "-q"]
    result = run(*words, "--pictures", 1)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    page = Page(out)
    assert page.outside == []
    assert "3 images, scores from" in page.text
    assert "lower is better" in page.text
    pictures = [picture for picture in page.pictures if not picture["alt"].startswith("Map of")]
    assert [picture["alt"].partition(",")[0] for picture in pictures] == ["d.bmp", "a.png"]  # the worst, the best
    assert all(opened(picture).size == (64, 64) for picture in page.pictures)
    maps = [picture["alt"] for picture in page.pictures if picture["alt"].startswith("Map of")]
    assert len(maps) == 2
    assert maps[0].endswith("bright where the images differ")
    assert [given["data-value"] for tag, given in page.tags if tag == "td" and "data-value" in given] == [
        str(float(row["score"])) for row in table(run("score", "stlpips", *words[1:2], *words[6:], "--digits", 17))
    ]
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert next(given for tag, given in page.tags if tag == "html")["lang"] == "en"
    assert all(given.get("aria-label") for tag, given in page.tags if tag == "svg")
    assert "prefers-color-scheme: dark" in page.text


def test_report_of_a_table_with_ratings(rated, tmp_path):
    out, scores = tmp_path / "report.html", tmp_path / "scores.csv"
    lines = [f"{rated / f'{number}.png'},{1 - number / 10},{5 - number},," for number in range(10)]
    lines += [f"{rated / 'none.png'},,3,is gone,", "<b>&.png,0.95,4,,"]
    scores.write_text("image,score,mos,error,\n" + "\n".join(lines) + "\n")
    result = run("report", scores, "-o", out, "--rating", "mos", "--pictures", 2)
    assert (result.exit_code, result.stderr) == (0, f"Written: {out}\n")
    page = Page(out)
    assert "11 images with a rating: SRCC" in page.text
    assert "1 images have no score" in page.text
    assert [picture["alt"].partition(",")[0] for picture in page.pictures] == ["9.png", "8.png", "0.png", "<b>&.png"]
    assert page.pictures[-1]["alt"].endswith("the file cannot be opened")
    assert "<b>&" not in out.read_text()  # names are text
    assert sum(tag == "circle" for tag, _ in page.tags) == 11
    refused = one_line(run("report", scores, "-o", out, "--rating", "dmos"), status=2)
    assert "name the right one with --rating; it has image, score, mos" in refused
    assert "is no CSV file in UTF-8" in one_line(run("report", rated / "1.png", "-o", out), status=1)
    assert "A folder holds no ratings" in one_line(run("report", rated, "-o", out, "--rating", "mos"), status=2)
    scores.write_text("image,score\na.png,\n")
    assert "None of 1 images has a score" in one_line(run("report", scores, "-o", out), status=1)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason=f"none of these browsers is installed: {BROWSERS}")
def test_report_in_a_browser(rated, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    out, scores, picture = tmp_path / "report.html", tmp_path / "scores.csv", tmp_path / "page.png"
    scores.write_text("image,score\n" + "".join(f"{rated / f'{n}.png'},{n / 10}\n" for n in range(10)))
    run("report", scores, "-o", out)
    # A script of the test sorts by the second column, twice.
    script = "<script>for (let i = 0; i < 2; i++) document.querySelectorAll('th button')[1].click();</script>"
    out.write_text(out.read_text().replace("</body>", f"{script}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, "--window-size=1000,2000", f"--screenshot={picture}", "--dump-dom", out.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shown = re.findall(r'data-value="([\d.]+)"', done.stdout)
    assert shown == [str(n / 10) for n in reversed(range(10))]
    if picture.exists():  # some browsers write the page or its picture, and not both
        assert len(Image.open(picture).convert("L").getcolors()) > 50


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["photo.jpg"],
            "photo.jpg is no method: name one before the images, as in `sklearn-iqa score default photo.jpg`.",
        ),
        (["lpips"], "Name images or folders behind the method: `sklearn-iqa score lpips PATH`."),
        (["qpt", "a.png"], "QPT gives features and no scores: fit a regressor behind it in Python "),
        (["TimmFeatures", "a.png"], "TimmFeatures gives features and no scores"),
        (["nima", "NIMA", "a.png"], "A method is named twice in nima NIMA: name each once."),
        (
            ["nima", "lpips", "a.png", "--weights", "x"],
            "--weights is for one method, but 2 are named: write METHOD:NAME",
        ),
        (
            ["nima", "a.png", "--set", "lpips:net=vgg"],
            "--set lpips:net=vgg is for lpips, which is not among the methods",
        ),
        (["nima", "lpips", "a.png", "--set", "net=vgg"], "--set net=vgg must say which of the methods it means"),
    ],
    ids=" ".join,
)
def test_wrong_words_get_their_sentence(words, sentence):
    assert sentence in one_line(run("score", *words), status=2)


def test_a_file_that_has_the_name_of_a_method_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lpips").mkdir()
    assert score._split(["nima", "lpips"]) == (["nima"], ["lpips"])
    assert score._split(["lpips", "lpips"]) == (["lpips"], ["lpips"])
    assert score._split(["nima", "default", "x"]) == (["nima", "default"], ["x"])


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
    assert score._cached_weights(sklearn_iqa.LPIPS(), {}) == "alex-v0.1"
    assert score._cached_weights(sklearn_iqa.STLPIPS(net="vgg"), {"net": "vgg"}) == "vgg-bapps"


@pytest.mark.usefixtures("st_lpips_wheel")
def test_only_some_cached_weights(monkeypatch):
    by_name = {entry.name: entry.files[0] for entry in sklearn_iqa.STLPIPS.published}
    monkeypatch.setattr(pretrained, "is_cached", lambda file: file is by_name["vgg-bapps"])
    assert score._cached_weights(sklearn_iqa.STLPIPS(), {}) == "vgg-bapps"
    with pytest.raises(ValueError, match="No suitable weights"):
        score._cached_weights(sklearn_iqa.STLPIPS(), {"net": "alex"})


@pytest.mark.usefixtures("st_lpips_wheel")
def test_published_weights_bring_their_parameters(folders):
    a, noisy = folders / "clean" / "a.png", folders / "noisy" / "a.png"
    (row,) = table(run("score", "stlpips", noisy, "--reference", a, "--weights", "vgg-bapps", "--digits", 17))
    expected = sklearn_iqa.STLPIPS(net="vgg", weights="vgg-bapps").predict([(noisy, a)])[0]
    assert float(row["score"]) == expected
    wrong = run("score", "stlpips", a, "--reference", a, "--weights", "vgg-bapps", "--set", "net=alex")
    # net=alex is the default of STLPIPS, which would follow the weights by itself.
    assert "belong to net='vgg': leave --set net out" in one_line(wrong, status=1)
    (row,) = table(run("score", "stlpips", noisy, "--reference", a, "--weights", "default", "-q", "--digits", 17))
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
    flat = [query.path for query in files.find_queries(paths, recursive=False).queries]
    assert flat == [paths[0], str(tmp_path / "y.PNG"), "none.png"]
    deep = files.find_queries(paths, recursive=True).queries
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
        ["evaluate", "-h"],
        ["fit", "-h"],
        ["report", "-h"],
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

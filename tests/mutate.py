# SPDX-License-Identifier: BSD-3-Clause
"""Breaks the recipes of the methods, one change at a time, and reports which changes the tests notice.

Changes are listed in `tests/mutants/<method>.toml`: the file, a text that occurs in it once, and what replaces it. Each
is made in a copy of the project, in which the rows of `test_recipes.py` for the estimators that the list names and the
test file of the method run until the first failure. Before, they run once unchanged, and the seconds of each test are
kept, so that the quick ones run first; where they do not pass, the mutants of the method are not tried. A run without
an answer after `--timeout` seconds counts as noticed.
Run: python tests/mutate.py [METHOD ...] [--jobs 2] [--list]
"""

import argparse
import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "tests" / "mutants"
RECIPE_TESTS = ("test_defaults_are_those_of_the_recipe", "test_training_follows_the_recipe")
# What every child needs, imported once; the package itself is imported from each copy.
LIBRARIES = ("sklearn.model_selection", "skorch", "torchvision", "timm", "open_clip")
LOG, SECONDS = "pytest.log", "seconds.json"
BROKEN = 70  # exit code of a process that ended without pytest's own
GOAL = 0.95  # part that must be noticed


class Mutant(NamedTuple):
    """One change: `old` becomes `new` in `file`; `tests` are the arguments of pytest."""

    method: str
    change: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> str:
        """Make the change in a copy of the project; give the text that stood there."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise SystemExit(f"{self.method}, {self.change!r}: the text occurs {count} times in {self.file}, not once.")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return text


def read(methods) -> list[Mutant]:
    """Read the mutants of some methods; of all without names."""
    files = {path.stem: path for path in sorted(MUTANTS.glob("*.toml"))}
    if unknown := set(methods) - set(files):
        raise SystemExit(f"No mutants are listed for {sorted(unknown)}; known: {', '.join(files)}.")
    mutants = []
    for method in methods or files:
        table = tomllib.loads(files[method].read_text(encoding="utf-8"))
        recipe = [f"tests/test_recipes.py::{test}[{name}]" for name in table["estimators"] for test in RECIPE_TESTS]
        for one in table["mutant"]:
            tests = (*recipe, f"tests/test_{method}.py", *one.get("tests", []))
            mutants.append(Mutant(method, one["change"], one["file"], one["old"], one["new"], tests))
    return mutants


def copy_project(folder: Path) -> Path:
    """Copy what git knows or would add into a folder of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


class QuickFirst:
    """Plugin of pytest: runs tests from the quickest to the slowest, their fixtures counted.

    Adds the seconds of each test to `seconds`, and those of each fixture, behind an `@`.
    """

    def __init__(self, seconds: dict[str, float]):
        self.seconds = seconds

    def pytest_collection_modifyitems(self, items):
        items.sort(key=self.seconds_of)

    def seconds_of(self, item):
        return sum(self.seconds.get(name, 0.0) for name in (item.nodeid, *(f"@{one}" for one in item.fixturenames)))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        start = time.perf_counter()
        value = yield
        name = f"@{fixturedef.argname}"
        self.seconds[name] = max(self.seconds.get(name, 0.0), time.perf_counter() - start)
        return value

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration


def _child(root: Path, tests, seconds: dict[str, float]) -> None:
    """Run tests of a copy in this new process; ends it with pytest's code."""
    with (root / LOG).open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(root)
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    code, plugin = BROKEN, QuickFirst(seconds)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    try:
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
        (root / SECONDS).write_text(json.dumps(plugin.seconds), encoding="utf-8")
    finally:  # not 1, which would stand for a test that failed
        os._exit(code)


def run(root: Path, tests, timeout: float, seconds: dict[str, float]) -> tuple[str, float]:
    """Run tests of a copy: "passed", "failed", "timeout" or "broken" (no test ran); and seconds."""
    start = time.perf_counter()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(root, tests, seconds))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        return "timeout", time.perf_counter() - start
    result = {0: "passed", 1: "failed"}.get(process.exitcode, "broken")
    return result, time.perf_counter() - start


def judge(mutant: Mutant, root: Path, timeout: float, seconds: dict[str, float]) -> tuple[str, float]:
    """Apply a mutant to a copy, run its tests and take it back."""
    text = mutant.apply(root)
    try:
        return run(root, mutant.tests, timeout, seconds)
    finally:
        (root / mutant.file).write_text(text, encoding="utf-8")


def judge_all(mutants: list[Mutant], root: Path, timeout: float) -> Counter[str]:
    """Judge mutants that have the same tests, with a line for each: how many are "noticed", "missed" and "broken"."""
    tests = mutants[0].tests
    result, total = run(root, tests, 3600, {})
    print(f"{mutants[0].method} unchanged: {result}  {total:5.0f} s", flush=True)
    if result != "passed":  # says nothing about changes
        print((root / LOG).read_text(encoding="utf-8"))
        return Counter(broken=len(mutants))
    each = json.loads((root / SECONDS).read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    for mutant in mutants:
        result, total = judge(mutant, root, timeout, each)
        word = {"failed": "noticed", "timeout": "noticed", "passed": "missed"}.get(result, "broken")
        counts[word] += 1
        shown = word if word == "noticed" else word.upper()
        print(f"{shown:7}  {result:7} {total:5.0f} s  {mutant.method}: {mutant.change}", flush=True)
    return counts


def main():
    """Run the mutants and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="names of files in tests/mutants; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="copies in which tests run side by side")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the tests of one mutant")
    parser.add_argument("--list", action="store_true", help="only list them")
    arguments = parser.parse_args()
    mutants = read(arguments.methods)
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.method}: {mutant.change}")
        return
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copies = [copy_project(Path(folder) / str(number)) for number in range(arguments.jobs)]
        for mutant in mutants:  # all texts must be there before an hour is spent
            (copies[0] / mutant.file).write_text(mutant.apply(copies[0]), encoding="utf-8")
        free = list(copies)

        def work(own: list[Mutant]) -> Counter[str]:
            root = free.pop()
            try:
                return judge_all(own, root, arguments.timeout)
            finally:
                free.append(root)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            groups = [list(own) for _, own in itertools.groupby(mutants, key=lambda mutant: mutant.tests)]
            counts = sum(pool.map(work, groups), Counter())
    share = counts["noticed"] / len(mutants)
    print(f"{counts['noticed']} of {len(mutants)} noticed ({share:.1%}), {counts['broken']} could not be tried.")
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()

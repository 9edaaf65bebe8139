# SPDX-License-Identifier: BSD-3-Clause
"""The code in the README and in the user guide runs, each page from top to bottom, and downloads nothing."""

import re
import socket
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.rst", *sorted((ROOT / "docs" / "user_guide").glob("*.rst"))]
MARKDOWN = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RESTRUCTURED = re.compile(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", re.MULTILINE)
# The side for real photographs; on those of 48 pixels here it would train for a minute and show nothing more.
REAL_SIZE, SMALL_SIZE = "image_size=448", "image_size=48"


def _blocks(page):
    pattern = MARKDOWN if page.suffix == ".md" else RESTRUCTURED
    return [textwrap.dedent(block) for block in pattern.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with photographs and a table of ratings, as the pages presume, and no way out of the machine."""
    rng = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    paths = [f"photographs/{number}.jpg" for number in range(16)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / path)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    pd.DataFrame({"image": paths, "mos": np.linspace(1, 5, len(paths))}).to_csv(tmp_path / "ratings.csv")
    monkeypatch.chdir(tmp_path)

    def refuse(*args, **kwargs):
        raise ConnectionRefusedError("this page reaches out of the machine")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_pages_hold_code():
    assert len(_blocks(PAGES[0])) >= 3
    assert sum(bool(_blocks(page)) for page in PAGES) >= 8  # the user guide explains with code


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.stem)
def test_code_runs(page, workplace):
    names = {"__name__": page.stem}
    for number, block in enumerate(_blocks(page)):
        code = block.replace(REAL_SIZE, SMALL_SIZE)
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_readme_trains_at_the_side_of_photographs():
    """People copy the example, and at the backbone's own 224 pixels noise and blur are gone."""
    (block,) = (block for block in _blocks(PAGES[0]) if "NIMA(" in block)
    assert REAL_SIZE in block


def test_readme_numbers(workplace):
    """The distances in the example of published weights are those that its code gives."""
    block = next(block for block in _blocks(PAGES[0]) if "stlpips.predict" in block)
    stated = re.search(r"# ([\d., ]+):", block)[1].split(", ")
    names = {}
    exec(block.replace("stlpips.predict", "found = stlpips.predict"), names)
    np.testing.assert_allclose(names["found"], np.array(stated, dtype=float), atol=5e-4)  # stated to three digits

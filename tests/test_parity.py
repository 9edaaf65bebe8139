# SPDX-License-Identifier: BSD-3-Clause
"""Completeness of the parity kits: none lies unused, no method goes without, each has its rows in the table.

The comparisons themselves stand in the test file of each method.
"""

import re
from pathlib import Path

import kits
import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
KITS = sorted(path.stem for path in kits.FOLDER.glob("*.json"))
METHODS = sorted(path.stem for path in (DOCS / "methods").glob("*.rst") if path.stem != "index")  # slugs
# What the page of a method says for which no official code could be run.
NO_KIT = re.compile(r"\bno\s+parity\s+kit\b")


@pytest.mark.parametrize("kit", KITS)
def test_kit_is_read_by_a_test(kit):
    readers = [
        path.name
        for path in TESTS.glob("test_*.py")
        if re.search(r"\bkits\.read\(", text := path.read_text(encoding="utf-8")) and f'"{kit}"' in text
    ]
    assert readers, f'no test file holds kits.read("{kit}")'


@pytest.mark.parametrize("slug", METHODS)
def test_method_has_a_kit_or_its_page_says_that_there_is_none(slug):
    has_kit = any(kit == slug or kit.startswith(f"{slug}_") for kit in KITS)
    page = (DOCS / "methods" / f"{slug}.rst").read_text(encoding="utf-8")
    assert has_kit != bool(NO_KIT.search(page)), 'either a kit, or the words "no parity kit" with the reason'


def test_table_has_sorted_rows_of_every_kit_and_of_no_other():
    rows = (DOCS / "parity.csv").read_text(encoding="utf-8").splitlines()
    names = [tuple(row.rsplit(",", 4)[0].split(",", 1)) for row in rows]
    assert names == sorted(set(names))
    assert sorted({kit for kit, _ in names}) == KITS

# SPDX-License-Identifier: BSD-3-Clause
"""Completeness of the parity kits: none lies unused, no method goes without.

The comparisons themselves stand in the test file of each method.
"""

import re
from pathlib import Path

import kits
import pytest
from sklearn.base import BaseEstimator

import sklearn_iqa

TESTS = Path(__file__).parent
KITS = sorted(path.stem for path in kits.FOLDER.glob("*.json"))
# Public estimators without a kit, each with the reason.
NO_KIT = {
    "JSPL": "the authors released neither code nor weights: test_jspl.py holds its parts to numbers worked out by hand",
    "OpenCLIPFeatures": "no method of a paper: its numbers are open_clip's own, compared directly",
    "QPT": "the authors released neither code nor weights: test_qpt.py and test_contrastive.py test its properties",
    "TimmFeatures": "no method of a paper: its numbers are timm's own, compared directly",
}


MEMBERS = {name: getattr(sklearn_iqa, name) for name in sklearn_iqa.__all__}
ESTIMATORS = [
    name for name, member in MEMBERS.items() if isinstance(member, type) and issubclass(member, BaseEstimator)
]


@pytest.mark.parametrize("kit", KITS)
def test_kit_is_read_by_a_test(kit):
    readers = [
        path.name
        for path in TESTS.glob("test_*.py")
        if re.search(r"\bkits\.read\(", text := path.read_text(encoding="utf-8")) and f'"{kit}"' in text
    ]
    assert readers, f'no test file holds kits.read("{kit}")'


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_has_a_kit(name):
    slug = MEMBERS[name].__module__.rpartition(".")[2]  # the file's name
    has_kit = any(kit == slug or kit.startswith(f"{slug}_") for kit in KITS)
    assert has_kit != (name in NO_KIT), "a kit, or a reason in NO_KIT, and not both"

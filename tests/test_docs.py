# SPDX-License-Identifier: BSD-3-Clause
"""What the documentation derives from the code is complete: tables, API pages, links, changes, citation."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import sklearn_iqa

ROOT = Path(__file__).parents[1]
KINDS = ("feature", "enhancement", "fix", "doc")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def api(tables):
    return tables.api_members(tables.estimators())


def _listed(api, module):
    """Names under the autosummaries of a module."""
    parts = re.split(r"^\.\. currentmodule:: (\S+)$", api, flags=re.MULTILINE)[1:]
    texts = [text for name, text in zip(parts[::2], parts[1::2], strict=True) if name == module]
    return {name for text in texts for name in re.findall(r"^   (\w+)$", text, flags=re.MULTILINE)}


def test_every_public_name_has_an_api_page(api):
    modules = {name for name in sklearn_iqa.__all__ if inspect.ismodule(getattr(sklearn_iqa, name))}
    assert _listed(api, "sklearn_iqa") == set(sklearn_iqa.__all__) - modules
    for name in modules:
        module = getattr(sklearn_iqa, name)
        constants = set(re.findall(r"^\* ``(\w+)`` = ", api, flags=re.MULTILINE))
        assert set(module.__all__) <= _listed(api, f"sklearn_iqa.{name}") | constants


def test_html_representation_links_to_the_api_page(tables, api):
    for cls in tables.estimators():
        page = cls()._get_doc_link().rpartition("/")[2]
        assert page == f"sklearn_iqa.{cls.__name__}.html"
        assert cls.__name__ in _listed(api, "sklearn_iqa")


def test_tables_show_every_method_and_all_published_weights(tables):
    classes = tables.estimators()
    public = {
        name
        for name in sklearn_iqa.__all__
        if isinstance(member := getattr(sklearn_iqa, name), type) and issubclass(member, BaseEstimator)
    }
    assert {cls.__name__ for cls in classes} == public
    methods, weights, readme = (
        make(classes) for make in (tables.methods_table, tables.weights_table, tables.readme_table)
    )
    for cls in classes:
        assert re.search(rf"\* - :\w+:`.*\b{cls.__name__}\b", methods)
        assert f"| `{cls.__name__}` |" in readme
        for entry in getattr(cls, "published", ()):
            assert f"``{entry.name}``" in weights
            assert f"<{entry.source}>" in weights
        if tables.folder(cls) != "sklearn_iqa":
            assert re.fullmatch(r".*\d{4}", tables.paper(cls)), f"{cls.__name__}: the file's first line names no paper"


def test_survey_is_counted(tables):
    # The survey's tables list 7 + 2 + 9 + 4 + 2 systems.
    assert sum(map(len, tables.SURVEY.values())) == 24
    in_folders = {cls.__name__ for cls in tables.estimators() if tables.folder(cls) in tables.SURVEY}
    for folder, names in tables.SURVEY.items():
        here = {cls.__name__ for cls in tables.estimators() if tables.folder(cls) == folder}
        assert here & set(sum(tables.SURVEY.values(), ())) <= set(names)
    missing = 24 - len(in_folders & set(sum(tables.SURVEY.values(), ())))
    assert tables.readme_table(tables.estimators()).count("Still to come") == (missing > 0)


def test_parity_is_that_of_the_method(tables, tmp_path, monkeypatch):
    path = tmp_path / "parity.csv"
    path.write_text(
        "lpips,score, alex,2e-08,1e-06,0.0001,1e-08\n"
        "st_lpips,score,1e-05,0.5,0,1e-4\n"
        "lpips,score, alex,3e-08,2e-06,0.0001,1e-08\n"
        "nima_vgg16_gap,score,4e-07,1e-07,1e-05,0\n"
        "lpips,layers,2e-10,0.0003,0.0001,1e-08\n"
    )
    monkeypatch.setattr(tables, "PARITY", path)
    rows = tables.normalize_parity()
    assert path.read_text() == (  # sorted; of the two equal comparisons the larger difference
        "lpips,layers,2e-10,0.0003,0.0001,1e-08\n"
        "lpips,score, alex,3e-08,2e-06,0.0001,1e-08\n"
        "nima_vgg16_gap,score,4e-07,1e-07,1e-05,0\n"
        "st_lpips,score,1e-05,0.5,0,0.0001\n"
    )
    slugs = ["lpips", "st_lpips", "nima", "unique"]
    by_slug = {slug: tables.parity(_in_file(slug), slugs, rows) for slug in slugs}
    # Relative differences beyond the relative tolerance do not count: the absolute one lets them pass.
    assert by_slug == {"lpips": "3e-08; 2e-06", "st_lpips": "1e-05", "nima": "4e-07; 1e-07", "unique": "-"}


def _in_file(slug):
    return type("Method", (), {"__module__": f"sklearn_iqa.single_input.{slug}"})


def test_changes_become_a_list(tables):
    fragments = sorted((ROOT / "docs" / "changes").glob("*.md"))
    assert {path.stem.rpartition(".")[2] for path in fragments} <= set(KINDS)
    assert tables.changes().count("\n* ") == len(fragments)


def test_readme_is_rewritten_between_the_marks_alone(tables, tmp_path, monkeypatch):
    first, last = tables.MARKS
    monkeypatch.setattr(tables, "README", tmp_path / "README.md")
    tables.README.write_text(f"before\n{first}\nold\n{last}\nafter\n", encoding="utf-8")
    tables.write_readme("new")
    assert tables.README.read_text(encoding="utf-8") == f"before\n{first}\nnew\n{last}\nafter\n"
    assert (ROOT / "README.md").read_text(encoding="utf-8").count(first) == 1


def test_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", text, flags=re.MULTILINE)[1] == sklearn_iqa.__version__

# SPDX-License-Identifier: BSD-3-Clause
"""What is generated from the code is current and complete: docstrings, names, tables, API pages, links, changes."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import sklearn_iqa

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
KINDS = ("feature", "enhancement", "fix", "doc")
sys.path.insert(0, str(DOCS))  # its scripts import each other
generate, make_docstrings, make_stub, tables_script = map(
    importlib.import_module, ("generate", "make_docstrings", "make_stub", "make_tables")
)


# Generated text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", generate.MAKERS)
def test_generated_text_is_current(maker):
    for path, text, what in importlib.import_module(maker).texts():
        assert path.read_text(encoding="utf-8") == text, f"run `python docs/generate.py`, {path.name} is stale: {what}"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package and of the scripts that need nothing but its source."""
    shutil.copytree(ROOT / "sklearn_iqa", tmp_path / "sklearn_iqa", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "docs").mkdir()
    for name in ("generate.py", "make_docstrings.py", "make_stub.py", "shared_docstrings.toml"):
        shutil.copy(DOCS / name, tmp_path / "docs")
    return tmp_path


def _run(checkout, script, *options):
    command = [sys.executable, checkout / "docs" / script, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_stale_docstring_is_named_and_rewritten(checkout):
    module = checkout / "sklearn_iqa" / "single_input" / "nima.py"
    current = module.read_text(encoding="utf-8")
    changed = current.replace("        Learning rate.\n", "        The rate.\n\n        And more.\n")
    changed = changed.replace("max_epochs : int, default=20", "max_epochs").replace("        Epochs trained.\n", "")
    module.write_text(changed, encoding="utf-8")
    run = _run(checkout, "make_docstrings.py", "--check")
    stale = f"{module.relative_to(checkout)} is stale: NIMA: max_epochs, NIMA: lr, NIMA: n_iter_\n"
    assert (run.returncode, run.stdout) == (1, stale)
    assert module.read_text(encoding="utf-8") == changed
    assert _run(checkout, "make_docstrings.py").returncode == 0
    assert module.read_text(encoding="utf-8") == current
    run = _run(checkout, "make_docstrings.py", "--check")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


SHARED = {
    "lr": [{"of": ["Base"], "type": "float", "text": "Learning\nrate."}],
    "mode": [{"of": ["Base"], "default": "a", "text": "As a."}, {"of": ["Base"], "type": "str", "text": "Else."}],
    "X": [{"of": ["Base"], "methods": ["fit"], "text": "Images."}],
    "n_": [{"of": ["Base"], "not_of": ["Method"], "type": "int", "text": "Number."}],
}
MODULE = '''
class Method(Base):
    """One.

    Parameters
    ----------
    lr
    mode : {"a", "b"}, default="a"
        Stale.
    own : int
        Its own.

    Attributes
    ----------
    n_ : float
        Its own.
    """

    def __init__(self, *, lr=5e-5, mode="a", own=1):
        pass

    def fit(self, X):
        """Fit.

        Parameters
        ----------
        X : list of images
            Stale.

        Raises
        ------
        lr
            No parameter.
        """
'''


def test_entries_follow_table_signature_and_ancestors():
    text, stale = make_docstrings.rewritten(MODULE, SHARED, {"Method": ["Base"], "Base": []})
    assert stale == ["Method: lr", "Method: mode", "Method.fit: X"]
    expected = MODULE.replace("    lr\n    mode", "    lr : float, default=5e-5\n        Learning rate.\n    mode", 1)
    expected = expected.replace("Stale.", "As a.", 1).replace("Stale.", "Images.", 1)
    assert text == expected
    assert make_docstrings.rewritten(text, SHARED, {"Method": ["Base"], "Base": []}) == (text, [])
    assert make_docstrings.rewritten(MODULE, SHARED, {"Method": [], "Base": []}) == (MODULE, [])  # no relative
    other = MODULE.replace('mode="a"', 'mode="b"').replace("float\n        Its", "int\n        Its")
    text, _ = make_docstrings.rewritten(other, SHARED, {"Method": ["Base"]})
    assert '    mode : str, default="b"\n        Else.\n' in text


def test_long_paragraphs_are_wrapped():
    wording = {"text": "word-by-word " * 30}
    lines = make_docstrings.entry("name", wording, "    name : type", None)
    assert lines[0] == "    name : type"
    assert max(map(len, lines)) <= 120
    assert textwrap.dedent("\n".join(lines[1:])).split() == ["word-by-word"] * 30


def test_unknown_class_of_the_table_is_refused(checkout):
    table = checkout / "docs" / "shared_docstrings.toml"
    table.write_text('[[lr]]\nof = ["Nobody"]\ntext = ""\n', encoding="utf-8")
    assert "classes that do not exist: Nobody." in _run(checkout, "make_docstrings.py", "--check").stderr


def test_line_in_a_folder_of_methods_makes_a_public_name(checkout):
    stub, folder = checkout / "sklearn_iqa" / "__init__.pyi", checkout / "sklearn_iqa" / "multimodal" / "__init__.py"
    text = folder.read_text(encoding="utf-8")
    folder.write_text(f"{text}from sklearn_iqa.multimodal.new import NewIQA as NewIQA\n", encoding="utf-8")
    run = _run(checkout, "make_stub.py", "--check")
    assert (run.returncode, run.stdout) == (1, f"{stub.relative_to(checkout)} is stale\n")
    assert _run(checkout, "make_stub.py").returncode == 0
    added = "from .multimodal import NewIQA as NewIQA\n"
    lines = stub.read_text(encoding="utf-8").splitlines(keepends=True)
    assert added in lines
    lines.remove(added)
    assert "".join(lines) == (ROOT / "sklearn_iqa" / "__init__.pyi").read_text(encoding="utf-8")


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables():
    return tables_script


@pytest.fixture(scope="module")
def api(tables):
    return tables.api_members(tables.estimators())


def _listed(api, module):
    """Names under the autosummaries of a module."""
    parts = re.split(r"^\.\. currentmodule:: (\S+)$", api, flags=re.MULTILINE)[1:]
    texts = [text for name, text in zip(parts[::2], parts[1::2], strict=True) if name == module]
    return {name for text in texts for name in re.findall(r"^   (\w+)$", text, flags=re.MULTILINE)}


def test_every_public_name_and_nothing_else_has_one_api_page(api):
    modules = {name for name in sklearn_iqa.__all__ if inspect.ismodule(getattr(sklearn_iqa, name))}
    assert _listed(api, "sklearn_iqa") == set(sklearn_iqa.__all__) - modules
    constants = set(re.findall(r"^\* ``(\w+)`` = ", api, flags=re.MULTILINE))
    for name in modules:
        own = set(getattr(sklearn_iqa, name).__all__) - set(sklearn_iqa.__all__)
        listed = _listed(api, f"sklearn_iqa.{name}")
        assert listed <= own <= listed | constants
    places = set(re.findall(r"^\.\. (?:currentmodule|automodule):: (\S+)$", api, flags=re.MULTILINE))
    assert places == {"sklearn_iqa", *(f"sklearn_iqa.{name}" for name in modules)}


def test_api_page_lists_the_public_import_paths(api):
    # Those that CONTRIBUTING.md names, and no other.
    rooms = ("datasets", "degradations", "displays", "distortions", "evaluation", "features", "metrics", "votes")
    expected = ["sklearn_iqa", *(f"sklearn_iqa.{room}" for room in rooms)]
    assert re.findall(r"^   \* - ``(\S+)``$", api, flags=re.MULTILINE) == expected
    assert {name for name in sklearn_iqa.__all__ if inspect.ismodule(getattr(sklearn_iqa, name))} == set(rooms)


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
        if tables.folder(cls) in tables.SURVEY:
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


def test_parity_is_that_of_the_method(tables):
    text = (
        "lpips,score, alex,2e-08,1e-06,0.0001,1e-08\n"
        "st_lpips,score,1e-05,0.5,0,1e-4\n"
        "lpips,score, alex,3e-08,2e-06,0.0001,1e-08\n"
        "nima_vgg16_gap,score,4e-07,1e-07,1e-05,0\n"
        "gone,score,4e-07,1e-07,1e-05,0\n"
        "lpips,layers,2e-10,0.0003,0.0001,1e-08\n"
    )
    kits = {"lpips", "st_lpips", "nima_vgg16_gap"}
    rows = tables.parity_rows(text, kits)
    # sorted; of the two equal comparisons the larger difference; nothing of a kit that does not exist
    assert tables.parity_text(rows) == (
        "lpips,layers,2e-10,0.0003,0.0001,1e-08\n"
        "lpips,score, alex,3e-08,2e-06,0.0001,1e-08\n"
        "nima_vgg16_gap,score,4e-07,1e-07,1e-05,0\n"
        "st_lpips,score,1e-05,0.5,0,0.0001\n"
    )
    slugs = ["lpips", "st_lpips", "nima", "unique"]
    by_slug = {slug: tables.parity(_in_file(slug), slugs, rows) for slug in slugs}
    # Relative differences beyond the relative tolerance do not count: the absolute one lets them pass.
    assert by_slug == {"lpips": "3e-08; 2e-06", "st_lpips": "1e-05", "nima": "4e-07; 1e-07", "unique": "-"}
    with pytest.raises(ValueError, match=r"no row of musiq, nima; run .*SKLEARN_IQA_PARITY_TABLE=docs/parity.csv\.$"):
        tables.parity_rows(text, kits | {"nima", "musiq"})


def _in_file(slug):
    return type("Method", (), {"__module__": f"sklearn_iqa.single_input.{slug}"})


def test_changes_become_a_list(tables):
    fragments = sorted((ROOT / "docs" / "changes").glob("*.md"))
    assert {path.stem.rpartition(".")[2] for path in fragments} <= set(KINDS)
    assert tables.changes().count("\n* ") == len(fragments)


def test_readme_is_rewritten_between_the_marks_alone(tables):
    first, last = tables.MARKS
    written = tables.between_marks(f"before\n{first}\nold\n{last}\nafter\n", "new")
    assert written == f"before\n{first}\nnew\n{last}\nafter\n"
    assert (ROOT / "README.md").read_text(encoding="utf-8").count(first) == 1


def test_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", text, flags=re.MULTILINE)[1] == sklearn_iqa.__version__

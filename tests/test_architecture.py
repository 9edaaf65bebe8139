# SPDX-License-Identifier: BSD-3-Clause
"""The shape of the package: imports point one way, every public name is complete, words are the same everywhere."""

import ast
import graphlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

import sklearn_iqa

PACKAGE = Path(sklearn_iqa.__file__).parent
DOCS = PACKAGE.parent / "docs"
FILES = sorted(PACKAGE.rglob("*.py"))
# The survey's map: what a method sees beside its query.
METHOD_FOLDERS = ("full_reference", "reduced_reference", "single_input", "pair_input", "multimodal")


def _module(path):
    """Path in the package -> dotted name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in FILES}
METHOD_FILES = [path for path in FILES if path.parent.name in METHOD_FOLDERS and path.name != "__init__.py"]
SHARED_FILES = [path for path in FILES if path.parent.name not in METHOD_FOLDERS]
every_file = pytest.mark.parametrize("path", FILES, ids=_module)
every_method_file = pytest.mark.parametrize("path", METHOD_FILES, ids=_module)


def _imports(path):
    """Dotted names of all modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(PACKAGE.parent).parts[:-1])
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{source}.{alias.name}" for alias in node.names}
            submodules = members & MODULES.keys()
            found |= submodules
            if submodules != members:
                found.add(source)
    return found


def _is_method(module):
    parts = module.split(".")
    return len(parts) == 3 and parts[1] in METHOD_FOLDERS


# Imports --------------------------------------------------------------------------------------------------------------


@every_method_file
def test_methods_import_only_shared_modules(path):
    own = {name for name in _imports(path) if name.partition(".")[0] == "sklearn_iqa"}
    assert own <= {_module(shared) for shared in SHARED_FILES} - {"sklearn_iqa"}  # whose namespace holds all methods


@pytest.mark.parametrize("path", SHARED_FILES, ids=_module)
def test_shared_modules_import_no_method(path):
    folders = {f"sklearn_iqa.{folder}" for folder in METHOD_FOLDERS}
    assert not {name for name in _imports(path) if _is_method(name) or name in folders}


def test_imports_form_no_cycle():
    # The package itself loads lazily, so that importing from it makes no cycle.
    graph = {module: _imports(path) & MODULES.keys() - {"sklearn_iqa"} for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@every_file
def test_only_two_modules_import_model_zoos(path):
    zoos = {name.partition(".")[0] for name in _imports(path)} & {"timm", "open_clip"}
    assert not zoos or _module(path) in ("sklearn_iqa.backbones", "sklearn_iqa.layers")


HEAVY = ("torch", "torchvision", "timm", "open_clip", "skorch", "matplotlib")


def test_import_is_light():
    statements = "import sklearn_iqa, sklearn_iqa.metrics, sklearn_iqa.datasets, sklearn_iqa.distortions"
    code = f"import sys; {statements}; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"


# Public names ---------------------------------------------------------------------------------------------------------


def _estimators():
    members = {name: getattr(sklearn_iqa, name) for name in sklearn_iqa.__all__}
    return {
        name: member
        for name, member in members.items()
        if isinstance(member, type) and issubclass(member, BaseEstimator)
    }


def _slug(cls):
    return cls.__module__.rpartition(".")[2]


ESTIMATORS = _estimators()
METHODS = {name: cls for name, cls in ESTIMATORS.items() if _is_method(cls.__module__)}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def test_every_public_name_resolves():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    listed = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(sklearn_iqa.__all__) == sorted(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert getattr(sklearn_iqa, name) is not None


@pytest.mark.parametrize("folder", METHOD_FOLDERS)
def test_every_method_of_a_folder_is_public(folder):
    files = [path for path in METHOD_FILES if path.parent.name == folder]
    assert files
    module = importlib.import_module(f"sklearn_iqa.{folder}")
    estimators = {
        name
        for path in files
        for name, member in vars(importlib.import_module(_module(path))).items()
        if isinstance(member, type) and issubclass(member, BaseEstimator) and member.__module__ == _module(path)
    }
    assert sorted(module.__all__) == sorted(estimators)
    assert set(module.__all__) <= set(sklearn_iqa.__all__)
    assert {_slug(getattr(module, name)) for name in module.__all__} == {path.stem for path in files}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "sklearn_iqa"])
def test_every_listed_name_exists(module):
    imported = importlib.import_module(module)
    assert [name for name in getattr(imported, "__all__", ()) if not hasattr(imported, name)] == []


def test_folders_are_the_map():
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES}
    assert folders <= {".", "datasets", *METHOD_FOLDERS}


# Form of the files ----------------------------------------------------------------------------------------------------


@every_file
def test_file_says_what_it_holds(path):
    assert path.stem.strip("_") not in {"utils", "util", "helpers", "common", "misc"}
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: BSD-3-Clause\n")
    assert ast.get_docstring(ast.parse(text))


@every_method_file
def test_method_file_is_readable_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@every_file
def test_no_print_no_assert_no_swallowed_error(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        line = getattr(node, "lineno", None)
        assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), line
        assert not isinstance(node, ast.Assert), line  # python -O removes them
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, line
            assert not all(isinstance(statement, ast.Pass) for statement in node.body), line


@every_estimator
def test_estimators_are_final_and_near_to_scikit_learn(name):
    cls = ESTIMATORS[name]
    assert not [other for other in ESTIMATORS.values() if other is not cls and issubclass(other, cls)]
    chain = [base for base in cls.__mro__ if issubclass(base, BaseEstimator) and base.__module__ != "sklearn.base"]
    assert len(chain) <= 3, [base.__name__ for base in chain]


# Documentation --------------------------------------------------------------------------------------------------------

# Parameters that mean the same in every class: their type and their paragraph are the same, word for word. What trains
# nothing (TimmFeatures) shares the last two alone.
OF_TRAINING = ("weights", "backbone_weights", "batch_size", "max_epochs", "lr", "random_state", "warm_start")
OF_STOPPING = ("early_stopping", "validation_fraction", "n_iter_no_change")
SHARED = {**dict.fromkeys(OF_TRAINING + OF_STOPPING, METHODS), **dict.fromkeys(("device", "verbose"), ESTIMATORS)}


def _documented(cls, section="Parameters"):
    """Parameters of a class docstring: name -> (type without default, default as text or None, paragraph)."""
    documented = {}
    for entry in NumpyDocString(inspect.cleandoc(cls.__doc__))[section]:
        kind, _, default = entry.type.partition(", default=")
        documented[entry.name] = kind, default or None, " ".join(" ".join(entry.desc).split())
    return documented


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_shared_parameters(name):
    # A trunk that was never pretrained, as in ST-LPIPS, has no `backbone_weights`; what learns without labels has no
    # correlation to stop by; a density is not descended to, and is kept by pickling it: its numbers are no network's.
    without = {"backbone_weights", *(() if hasattr(METHODS[name], "predict") else OF_STOPPING)}
    if not hasattr(METHODS[name](), "max_epochs"):
        without = {*OF_TRAINING, *OF_STOPPING}
    assert set(SHARED) - without <= set(inspect.signature(METHODS[name]).parameters)


@pytest.mark.parametrize("parameter", SHARED)
def test_shared_parameters_are_worded_alike(parameter):
    wordings = {}
    for name, cls in SHARED[parameter].items():
        if parameter in inspect.signature(cls).parameters:
            kind, default, paragraph = _documented(cls)[parameter]
            # Networks of open_clip have other pretraining than those of timm and torchvision; what has no `predict`
            # says `transform` instead.
            predicts = hasattr(cls, "predict")
            family = {"backbone_weights": default, "weights": predicts, "batch_size": predicts}.get(parameter)
            wordings.setdefault(family, {}).setdefault((kind, paragraph), []).append(name)
    assert all(len(wording) == 1 for wording in wordings.values()), wordings


@every_estimator
def test_parameters_are_keywords_documented_in_order_with_their_default(name):
    cls = ESTIMATORS[name]
    parameters, documented = inspect.signature(cls).parameters, _documented(cls)
    assert list(documented) == list(parameters)
    for parameter in parameters.values():
        default = documented[parameter.name][1]
        if parameter.default is inspect.Parameter.empty:
            assert default is None, parameter.name
            continue
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY or cls not in METHODS.values(), parameter.name
        assert default is not None, f"{parameter.name} has no default in the docstring"
        assert ast.literal_eval(default) == parameter.default, parameter.name


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page(name):
    page = DOCS / "methods" / f"{_slug(METHODS[name])}.rst"
    assert page.is_file(), f"write {page.relative_to(DOCS.parent)}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_paper_and_shows_an_example(name):
    text = METHODS[name].__doc__
    sections = NumpyDocString(inspect.cleandoc(text))
    assert sections["References"]
    assert sections["Examples"]
    assert re.search(r"(higher|lower) is better", text)


# Sections in numpydoc's order, no unknown ones, a summary, every parameter with its text in the signature's order, and
# what is returned. Left out: rules on capital letters, on the line where a docstring starts, and on the types of
# parameters and returned values, as "X, y: as in `fit`" and "self : estimator" say it better.
CODES = {
    *("GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10"),
    *("SS01", "SS02", "SS03", "SS04"),
    *("PR01", "PR02", "PR03", "PR05", "PR06", "PR07", "PR09", "PR10"),
    *("RT01", "RT03", "RT05", "YD01", "SA02"),
}


def _public_names():
    """Dotted names of what a user may import: from the package and from its public modules."""
    modules = [name for name in sklearn_iqa.__all__ if inspect.ismodule(getattr(sklearn_iqa, name))]
    names = [f"sklearn_iqa.{name}" for name in sklearn_iqa.__all__ if name not in modules]
    return names + [
        f"sklearn_iqa.{module}.{name}" for module in modules for name in getattr(sklearn_iqa, module).__all__
    ]


def _own_methods(cls):
    """Names of the public methods that the package gives a class; `set_..._request` comes from scikit-learn."""
    own = (base for base in cls.__mro__ if base.__module__.startswith("sklearn_iqa"))
    names = dict.fromkeys(name for base in own for name in vars(base))
    return [
        name
        for name in names
        if not re.match(r"_|set_\w+_request$", name) and inspect.isroutine(inspect.getattr_static(cls, name))
    ]


def _documented_objects():
    """Dotted names of every public class and function, and of the public methods of classes."""
    found = []
    for path in _public_names():
        module, _, name = path.rpartition(".")
        member = getattr(importlib.import_module(module), name)
        if inspect.isfunction(member):
            found.append(path)
        elif inspect.isclass(member):
            found += [path, *(f"{path}.{method}" for method in _own_methods(member))]
    return found


@pytest.mark.parametrize("path", _documented_objects())
def test_docstring_is_complete(path):
    errors = [(code, text) for code, text in validate(path)["errors"] if code in CODES]
    assert not errors

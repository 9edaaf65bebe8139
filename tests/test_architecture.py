# SPDX-License-Identifier: BSD-3-Clause
"""The shape of the package: imports point one way, every public name is complete, words are the same everywhere."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest
import rooms
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

import sklearn_iqa

DOCS = rooms.PACKAGE.parent / "docs"
MODULES = rooms.modules()
# The survey's map: what a method sees beside its query.
METHOD_FOLDERS = ("full_reference", "reduced_reference", "single_input", "pair_input", "multimodal")
MACHINERY = {"_base", "_nn", "_weights"}
# Who may import whom. The package's own face, `sklearn_iqa`, loads lazily and stands for all public names.
MAP = {
    "_weights": set(),
    "metrics": set(),
    "votes": set(),
    "_nn": {"_weights"},
    "_base": {"_nn", "_weights", "metrics"},
    "distortions": {"_base"},
    "degradations": {"distortions"},
    "datasets": {"distortions"},
    "displays": {"_base", "metrics"},
    **{folder: {*MACHINERY, "distortions", "degradations"} for folder in METHOD_FOLDERS},
    "features": MACHINERY,
    "quality_model": {"_base", "features", "_weights", "metrics"},
    "evaluation": {"_base", "metrics", "displays", "sklearn_iqa"},
    "persistence": {"_base"},
    "cli": {"_base", "metrics", "persistence", "_weights", "sklearn_iqa"},
    "__main__": {"cli"},
    "sklearn_iqa": set(),
}
# What users may import from; all else is machinery.
PUBLIC = (
    *("sklearn_iqa", "sklearn_iqa.datasets", "sklearn_iqa.degradations", "sklearn_iqa.displays"),
    *("sklearn_iqa.distortions", "sklearn_iqa.evaluation", "sklearn_iqa.features", "sklearn_iqa.metrics"),
    "sklearn_iqa.votes",
)


def _is_method(module):
    """Whether a module is the file of a method: in a folder of the map, without a leading underscore."""
    parts = module.split(".")
    return len(parts) == 3 and parts[1] in METHOD_FOLDERS and not parts[2].startswith("_")


METHOD_MODULES = [module for module in MODULES if _is_method(module)]
every_module = pytest.mark.parametrize("module", MODULES)


# Imports --------------------------------------------------------------------------------------------------------------


def test_rooms_are_the_map_and_import_as_it_allows():
    found = rooms.arrows()
    assert found.keys() == MAP.keys()
    assert {name: targets - MAP[name] for name, targets in found.items() if targets - MAP[name]} == {}


def test_the_map_leads_one_way():
    graphlib.TopologicalSorter({name: MAP[name] - {"sklearn_iqa"} for name in MAP}).prepare()  # raises CycleError


@pytest.mark.parametrize("module", METHOD_MODULES)
def test_methods_import_no_method(module):
    others = {name for name in rooms.imports(MODULES[module], MODULES) if _is_method(name)}
    assert others == set()


def test_modules_form_no_cycle():
    graph = {
        module: rooms.imports(path, MODULES) & MODULES.keys() - {"sklearn_iqa"} for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@every_module
def test_only_two_modules_import_model_zoos(module):
    zoos = {name.partition(".")[0] for name in rooms.imports(MODULES[module], MODULES)} & {"timm", "open_clip"}
    assert not zoos or module in ("sklearn_iqa._nn.timm_backbones", "sklearn_iqa._nn.clip_backbones")


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
    stub = ast.parse((rooms.PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    listed = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(sklearn_iqa.__all__) == sorted(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert getattr(sklearn_iqa, name) is not None


@pytest.mark.parametrize("folder", METHOD_FOLDERS)
def test_every_method_of_a_folder_is_public(folder):
    modules = [module for module in METHOD_MODULES if module.split(".")[1] == folder]
    assert modules
    module = importlib.import_module(f"sklearn_iqa.{folder}")
    estimators = {
        name
        for own in modules
        for name, member in vars(importlib.import_module(own)).items()
        if isinstance(member, type) and issubclass(member, BaseEstimator) and member.__module__ == own
    }
    exported = {name: member for name, member in vars(module).items() if isinstance(member, type)}
    assert exported.keys() == estimators
    assert exported.keys() <= set(sklearn_iqa.__all__)
    assert {member.__module__ for member in exported.values()} == set(modules)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "sklearn_iqa"])
def test_every_listed_name_exists(module):
    imported = importlib.import_module(module)
    assert [name for name in getattr(imported, "__all__", ()) if not hasattr(imported, name)] == []


# Form of the files ----------------------------------------------------------------------------------------------------


@every_module
def test_file_says_what_it_holds(module):
    path = MODULES[module]
    assert path.stem.strip("_") not in {"utils", "util", "helpers", "common", "misc"}
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: BSD-3-Clause\n")
    assert ast.get_docstring(ast.parse(text))


def test_no_two_classes_share_a_name():
    places = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    del places["CallbackSupportMixin"]  # a stand-in for scikit-learn's own
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


@every_module
def test_no_print_no_assert_no_swallowed_error(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
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

# Parameters that mean the same in every method.
OF_RUNNING = {"device", "verbose"}
OF_TRAINING = {"weights", "backbone_weights", "batch_size", "max_epochs", "lr", "random_state", "warm_start"}
OF_STOPPING = {"early_stopping", "validation_fraction", "n_iter_no_change"}


def _documented(cls, section="Parameters"):
    """Parameters of a class docstring: name -> (type without default, default as text or None, paragraph)."""
    documented = {}
    for entry in NumpyDocString(inspect.cleandoc(cls.__doc__))[section]:
        kind, _, default = entry.type.partition(", default=")
        documented[entry.name] = kind, default or None, " ".join(" ".join(entry.desc).split())
    return documented


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_shared_parameters(name):
    # A backbone that was never pretrained, as in ST-LPIPS, has no `backbone_weights`; what learns without labels has no
    # correlation to stop by; a density is not descended to, and is kept by pickling it: its numbers are no network's.
    expected = set(OF_RUNNING)
    if hasattr(METHODS[name](), "max_epochs"):
        expected |= OF_TRAINING - {"backbone_weights"}
        expected |= OF_STOPPING if hasattr(METHODS[name], "predict") else set()
    assert expected <= set(inspect.signature(METHODS[name]).parameters)


def test_what_classes_share_is_worded_alike():
    command = [sys.executable, DOCS / "make_docstrings.py", "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


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


def _private(text):
    """Dotted names of the package, and imports from it, in a text for users that are not public."""
    named = set(re.findall(r"\bsklearn_iqa(?:\.[A-Za-z_]\w*)+", text)) - {*PUBLIC, "sklearn_iqa.__version__"}
    for module, names in re.findall(r"from (sklearn_iqa[\w.]*) import (\([^)]*\)|[\w, ]+)", text):
        named |= {f"{module}.{name}" for name in re.findall(r"\w+", names)} - set(PUBLIC)
    return {name for name in named if not any(f"{name}.".startswith(f"{public}.") for public in _public_names())}


def test_private_names_are_found():
    text = "See sklearn_iqa.NIMA.predict, sklearn_iqa.votes.\nfrom sklearn_iqa.metrics import plcc, srcc\n"
    assert _private(text) == set()
    text = "from sklearn_iqa import (\n    NIMA,\n    _nn\n)\nsklearn_iqa.single_input.nima.NIMA sklearn_iqa._base"
    assert _private(text) == {"sklearn_iqa._nn", "sklearn_iqa.single_input.nima.NIMA", "sklearn_iqa._base"}
    assert _private("from sklearn_iqa.features import _timm") == {"sklearn_iqa.features._timm"}


PAGES = [
    path
    for pattern in ("README.md", "docs/*.rst", "docs/user_guide/*", "docs/methods/*", "docs/changes/*", "examples/*")
    for path in sorted(DOCS.parent.glob(pattern))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_pages_and_examples_name_public_paths_alone(page):
    assert _private(page.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", [*PUBLIC, *_documented_objects()])
def test_docstring_names_public_paths_alone(path):
    assert _private(inspect.getdoc(pkgutil.resolve_name(path))) == set()

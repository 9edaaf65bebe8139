# SPDX-License-Identifier: BSD-3-Clause
"""Write what the documentation says about all public names, from the code: nobody keeps these lists by hand.

Beside this file, and not tracked: `methods_table.inc`, `weights_table.inc`, `pyiqa_table.inc`, `fine_tuning_table.inc`,
`precision_table.inc`, `api_members.rst` and `changes.inc`.
`generate.py` writes what is tracked: the README between its two marks, and `parity.csv`, to which tests add rows
(`SKLEARN_IQA_PARITY_TABLE=docs/parity.csv pytest tests`), sorted, of equal rows the one of largest error.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from make_stub import PUBLIC_ROOMS
from sklearn.base import BaseEstimator

import sklearn_iqa

DOCS = Path(__file__).parent
PARITY = DOCS / "parity.csv"  # kit, what, largest absolute error, largest relative error, rtol, atol
KITS = DOCS.parent / "tests" / "parity"
README = DOCS.parent / "README.md"
FINE_TUNING = DOCS.parent / "benchmarks" / "fine_tuning.json"
PRECISION = DOCS.parent / "benchmarks" / "results" / "precision.json"
NOTHING = r"\-"  # in a table
MARKS = "<!-- methods: written by docs/generate.py -->", "<!-- end of methods -->"

ParityRow = tuple[str, str, float, float, float, float]

CATEGORIES = {  # room -> category
    "full_reference": "Full reference",
    "reduced_reference": "Reduced reference",
    "single_input": "No reference",
    "pair_input": "No reference, learned from pairs",
    "multimodal": "Image and words",
    "features": "Features",
}
# The 24 systems of Yang, Lyu, Qi, Shi, "Deep Learning Based Image Quality Assessment: A Survey", ITQM 2023.
SURVEY = {
    "full_reference": ("LPIPS", "STLPIPS", "SRIF", "DRIQA", "IQT", "AHIQ", "JSPL"),
    "reduced_reference": ("CVRKDIQA", "ContentDiverseIQA"),
    "single_input": ("NIMA", "GIQA", "DBCNN", "HyperIQA", "MetaIQA", "KonIQPlusPlus", "MUSIQ", "DEIQT", "MANIQA"),
    "pair_input": ("GraphIQA", "QPT", "ReIQA", "UNIQUE"),
    "multimodal": ("CLIPIQA", "LIQE"),
}
SECTIONS = {  # room -> section, of public names that are no estimators
    "quality_model": "Default model",
    "persistence": "Files of models",
    "displays": "Displays",
    "_base": "Data",
    "evaluation": "Benchmarks",
}
KINDS = {"feature": "New", "enhancement": "Improved", "fix": "Fixed", "doc": "Documentation"}


def estimators() -> list[type]:
    """Public estimator classes, in the order of the categories, then by name."""
    members = (getattr(sklearn_iqa, name) for name in sklearn_iqa.__all__)
    found = [member for member in members if isinstance(member, type) and issubclass(member, BaseEstimator)]
    order = list(CATEGORIES)
    return sorted(found, key=lambda cls: (order.index(folder(cls)), cls.__name__))


def folder(cls: type) -> str:
    """Room of a class: the folder of its file, or the file itself where it stands beside the folders."""
    return cls.__module__.split(".")[1]


def slug(cls: type) -> str:
    """File name of a method, which is also that of its page and its parity kit."""
    return cls.__module__.rpartition(".")[2]


def paper(cls: type) -> str:
    """Authors, place and year, as the first sentence of the method's file gives them in brackets."""
    first = inspect.getmodule(cls).__doc__.split("\n\n")[0]
    found = re.findall(r"\(([^()]*\d{4})\)", " ".join(first.split()))
    return found[-1] if found else "-"


def direction(estimator: BaseEstimator) -> str:
    """How the published number points; nothing for features."""
    if not hasattr(estimator, "higher_is_better"):
        return "-"
    return "higher is better" if estimator.higher_is_better else "lower is better"


def score_range(estimator: BaseEstimator) -> str:
    """Range of the published number."""
    if not hasattr(estimator, "score_range"):
        return "-"
    low, high = (float(end) for end in estimator.score_range)
    bounded = abs(low) < float("inf"), abs(high) < float("inf")
    return {
        (True, True): f"{low:g} to {high:g}",
        (True, False): f"from {low:g}",
        (False, True): f"up to {high:g}",
        (False, False): "unbounded",
    }[bounded]


def parity_rows(text: str, kits: set[str]) -> list[ParityRow]:
    """Rows of the parity table, sorted, one for each comparison of a kit that exists.

    Raises
    ------
    ValueError
        When a kit has no row.
    """
    worst: dict[tuple[str, str], tuple[float, ...]] = {}
    for line in text.splitlines():
        head, *numbers = line.rsplit(",", 4)
        kit, _, what = head.partition(",")  # a comparison's name may hold commas
        row = tuple(map(float, numbers))
        if kit in kits:
            worst[kit, what] = max(row, worst.get((kit, what), row))
    if missing := sorted(kits - {kit for kit, _ in worst}):
        raise ValueError(
            f"{PARITY.name} has no row of {', '.join(missing)}; run the tests that read tests/parity with "
            f"SKLEARN_IQA_PARITY_TABLE=docs/{PARITY.name}."
        )
    return [(kit, what, *numbers) for (kit, what), numbers in sorted(worst.items())]


def read_parity() -> list[ParityRow]:
    """Rows of `parity.csv` of the kits beside the tests."""
    return parity_rows(PARITY.read_text(encoding="utf-8"), {path.stem for path in KITS.glob("*.json")})


def parity_text(rows: list[ParityRow]) -> str:
    """Rows -> what `parity.csv` holds."""
    return "".join(f"{kit},{what},{a:.3g},{r:.3g},{rtol:g},{atol:g}\n" for kit, what, a, r, rtol, atol in rows)


def parity(cls: type, slugs: list[str], rows: list[ParityRow]) -> str:
    """Largest differences from the official code's numbers, over all kits of one method.

    The relative one is taken from comparisons that hold by their relative tolerance alone: near zero it says nothing.
    """
    own = [row for row in rows if owner(row[0], slugs) == slug(cls)]
    if not own:
        return "-"
    absolute = max(row[2] for row in own)
    relative = max((row[3] for row in own if row[3] <= row[4]), default=None)
    return f"{absolute:.0e}" if relative is None else f"{absolute:.0e}; {relative:.0e}"


def owner(kit: str, slugs: list[str]) -> str | None:
    """Slug of the method that a kit belongs to: `nima_vgg16_gap` to `nima`."""
    fitting = [one for one in slugs if kit == one or kit.startswith(f"{one}_")]
    return max(fitting, key=len, default=None)


def link(cls: type) -> str:
    """To the method's page where there is one, otherwise to the API."""
    page = DOCS / "methods" / f"{slug(cls)}.rst"
    return f":doc:`{cls.__name__} </methods/{slug(cls)}>`" if page.is_file() else api_link(cls)


def api_link(cls: type) -> str:
    """To the page of the API."""
    return f":class:`{cls.__name__} <sklearn_iqa.{cls.__name__}>`"


def list_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: wide", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            text = NOTHING if cell == "-" else cell  # a bare one would begin a list
            lines.append(f"   {'*' if number == 0 else ' '} - {text}")
    return "\n".join(lines) + "\n"


def methods_table(classes: list[type]) -> str:
    """What a method sees and gives, and how near it is to the official code."""
    rows, slugs = read_parity(), [slug(cls) for cls in classes]
    table = []
    for cls in classes:
        estimator = cls()
        published = ", ".join(f"``{entry.name}``" for entry in getattr(cls, "published", ())) or "-"
        table.append(
            [
                link(cls),
                CATEGORIES[folder(cls)],
                paper(cls),
                ", ".join(getattr(estimator, "inputs", ("image",))),
                direction(estimator),
                score_range(estimator),
                published,
                parity(cls, slugs, rows),
            ]
        )
    header = ["Method", "Category", "Paper", "X[i]", "Direction", "Range", "Published weights", "Parity error"]
    return list_table(header, table)


def weights_table(classes: list[type]) -> str:
    """All published weights: whose, on what, under which licence, from where; alike ones share a row."""
    names: dict[tuple[str, ...], list[str]] = {}
    for cls in classes:
        for entry in getattr(cls, "published", ()):
            places = dict.fromkeys(f"package ``{file.wheel}``" if file.wheel else "download" for file in entry.files)
            digits = dict.fromkeys(known_digits(file) for file in entry.files)
            source = f"`{entry.source.rstrip('/').rpartition('/')[2]} <{entry.source}>`__"
            row = (api_link(cls), entry.trained_on, entry.licence, ", ".join(places), ", ".join(digits), source)
            names.setdefault(row, []).append(published_name(cls, entry))
    header = ["Method", "weights=", "Trained on", "Licence", "Comes as", "SHA-256 known", "Source"]
    return list_table(header, [[row[0], "; ".join(own), *row[1:]] for row, own in names.items()])


def known_digits(file) -> str:
    """How much of a file's digest is known."""
    if file.sha256 is None:
        return "none"
    return "whole" if len(file.sha256) == 64 else f"{len(file.sha256)} digits"


def published_name(cls: type, entry) -> str:
    """The name, whether it is the default one, and which parameters it sets to other values than their defaults."""
    defaults = cls().get_params()
    others = [f"{name}={value!r}" for name, value in entry.parameters.items() if defaults[name] != value]
    notes = ["default"] if entry is cls.published[0] else []
    notes += [f"sets ``{', '.join(others)}``"] if others else []
    return f"``{entry.name}``" + (f" ({'; '.join(notes)})" if notes else "")


def pyiqa_table() -> str:
    """Metrics of pyiqa by name: what gives their number here, and how far the default is from it."""
    metrics = json.loads((KITS / "pyiqa.json").read_text(encoding="utf-8"))["metrics"]
    rows = []
    for metric, entry in metrics.items():
        cls = getattr(sklearn_iqa, entry["estimator"])
        apart = max(entry["apart"].values())
        for name, weights in ({metric: entry.get("weights")} | entry.get("also", {})).items():
            given = ({"weights": weights} if weights else {}) | entry.get("same", {})
            # The page shows what `PAIRS` is.
            shown = {key: "PAIRS" if key == "prompts" else repr(value) for key, value in given.items()}
            arguments = ", ".join(f"{key}={value}" for key, value in shown.items())
            call = f"``{cls.__name__}({arguments})``".replace("'", '"')
            ordering = "lower" if entry["lower_is_better"] else "higher"
            bounds = entry["score_range"].replace(", ", " to ")
            rows.append([f"``{name}``", link(cls), call, ordering, bounds, f"{apart:.0e}" if apart > 1e-5 else "none"])
    header = ["pyiqa", "Method", "The same number", "Better", "Range, of pyiqa", "Default apart by"]
    return list_table(header, rows)


def fine_tuning_table() -> str:
    """Rows of `benchmarks/fine_tuning.json`: what photographs of LIVE In the Wild teach in a few epochs."""
    rows = []
    for name, one in json.loads(FINE_TUNING.read_text(encoding="utf-8")).items():
        epochs = " ".join(f"{value:.2f}" for value in one["srcc"])
        rows.append([name, str(one["rows"]), epochs, f"``{one['settings']}``"])
    return list_table(["", "Photographs", "SRCC after each epoch", "Settings"], rows)


def precision_table() -> str:
    """Rows of `benchmarks/results/precision.json`: what shorter numbers change in scores, and the time they take."""
    figures = json.loads(PRECISION.read_text(encoding="utf-8"))
    precisions = figures["settings"]["precisions"]
    rows = []
    for name, one in figures["rows"].items():
        cells = [
            _rounded(one[f"{precision}_{what}"]) for precision in precisions for what in ("error", "order", "time")
        ]
        rows.append([name, *cells])
    heads = [f"{precision}, {what}" for precision in precisions for what in ("error", "SRCC", "time")]
    return list_table(["", *heads], rows)


def _rounded(figure: list[float] | float | str) -> str:
    """Median of three figures, a figure, or a dash where there is none."""
    value = figure[0] if isinstance(figure, list) else figure
    return NOTHING if isinstance(value, str) else f"{value:.2g}"


def api_members(classes: list[type]) -> str:
    """The API page's sections: the public import paths, then one page for each public class and function."""
    sections: dict[str, list[str]] = {}
    for cls in classes:
        sections.setdefault(CATEGORIES[folder(cls)], []).append(cls.__name__)
    for name in sklearn_iqa.__all__:
        member = getattr(sklearn_iqa, name)
        if name not in PUBLIC_ROOMS and member not in classes:
            sections.setdefault(SECTIONS[folder(member)], []).append(name)
    text = [section(title, "sklearn_iqa", names) for title, names in sections.items()]
    return "\n".join([import_paths(), *text, *(module_section(name) for name in PUBLIC_ROOMS)])


def import_paths() -> str:
    """All modules that users may import from, and what they hold."""
    modules = [sklearn_iqa, *(getattr(sklearn_iqa, name) for name in PUBLIC_ROOMS)]
    heads = [re.sub(r" \[\d+\]_", "", inspect.getdoc(module).partition("\n")[0]) for module in modules]
    rows = [[f"``{module.__name__}``", head] for module, head in zip(modules, heads, strict=True)]
    title = "Import paths"
    return "\n".join([title, "-" * len(title), "", list_table(["Import from", "What it holds"], rows)])


def section(title: str, module: str, names: list[str]) -> str:
    """A heading and the summary of some names of a module."""
    lines = [title, "-" * len(title), "", f".. currentmodule:: {module}", ""]
    return "\n".join(lines) + summary(names)


def module_section(name: str) -> str:
    """The text of a public module, the summary of its classes and functions, and its constants.

    What can be imported from `sklearn_iqa` too has its page there.
    """
    module = getattr(sklearn_iqa, name)
    members = {key: getattr(module, key) for key in module.__all__}
    title = f"sklearn_iqa.{name}"
    lines = [title, "-" * len(title), "", f".. automodule:: {title}", ""]
    if lifted := [key for key in members if key in sklearn_iqa.__all__]:
        links = ", ".join(f":obj:`~sklearn_iqa.{key}`" for key in lifted)
        lines += [f"To be imported from here or from ``sklearn_iqa``: {links}.", ""]
    members = {key: value for key, value in members.items() if key not in lifted}
    if not members:
        return "\n".join(lines)
    documented = [key for key, value in members.items() if inspect.isclass(value) or inspect.isfunction(value)]
    lines += [f".. currentmodule:: {title}", ""]
    constants = [f"* ``{key}`` = ``{value!r}``\n" for key, value in members.items() if key not in documented]
    return "\n".join(lines) + summary(documented) + "\n" + "".join(constants)


def summary(names: list[str]) -> str:
    """An autosummary whose pages go to `generated/`."""
    return "\n".join(["", ".. autosummary::", "   :toctree: generated", "", *(f"   {name}" for name in names), ""])


def changes() -> str:
    """The fragments of `changes/`, `<topic>.<kind>.md`, under a heading for each kind."""
    kinds: dict[str, list[str]] = {}
    for path in sorted((DOCS / "changes").glob("*.md")):
        kind = path.stem.rpartition(".")[2]
        sentence = " ".join(path.read_text(encoding="utf-8").split())
        kinds.setdefault(kind, []).append("* " + re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", sentence))
    lines = []
    for kind in sorted(kinds, key=lambda kind: (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)):
        title = KINDS.get(kind, kind.capitalize())
        lines += [title, "~" * len(title), "", *kinds[kind], ""]
    return "\n".join(lines)


def readme_table(classes: list[type]) -> str:
    """The README's short table and what of the survey is still to come, in Markdown."""
    lines = [
        "| Method | Category | `X[i]` | Published number | Paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cls in classes:
        estimator = cls()
        number = (
            "none: features" if direction(estimator) == "-" else f"{direction(estimator)}, {score_range(estimator)}"
        )
        inputs = ", ".join(getattr(estimator, "inputs", ("image",)))
        lines.append(f"| `{cls.__name__}` | {CATEGORIES[folder(cls)]} | {inputs} | {number} | {paper(cls)} |")
    present = {cls.__name__ for cls in classes}
    systems = [name for names in SURVEY.values() for name in names]
    missing = [name for name in systems if name not in present]
    lines += ["", f"Of the survey's {len(systems)} systems {len(systems) - len(missing)} are here."]
    if missing:
        lines.append(f"Still to come: {', '.join(missing)}.")
    return "\n".join(lines)


def between_marks(text: str, table: str) -> str:
    """The README with a new table between its marks."""
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}"


def texts() -> Iterator[tuple[Path, str, list[str]]]:
    """Yield the tracked files, what they should hold, and nothing more to say; `generate.py` writes them."""
    yield PARITY, parity_text(read_parity()), []
    yield README, between_marks(README.read_text(encoding="utf-8"), readme_table(estimators())), []


def main() -> None:
    """Write the files that are not tracked."""
    classes = estimators()
    for name, text in (
        ("methods_table.inc", methods_table(classes)),
        ("weights_table.inc", weights_table(classes)),
        ("pyiqa_table.inc", pyiqa_table()),
        ("fine_tuning_table.inc", fine_tuning_table()),
        ("precision_table.inc", precision_table()),
        ("api_members.rst", api_members(classes)),
        ("changes.inc", changes()),
    ):
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

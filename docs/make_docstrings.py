# SPDX-License-Identifier: BSD-3-Clause
"""Write what several classes document word for word into their docstrings: said once, in `shared_docstrings.toml`.

An entry of a docstring may stand there by its name alone; type, default and paragraph are then written. What the table
does not name is left as it is.
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "sklearn_iqa"
WIDTH = 120
SECTIONS = ("Parameters", "Attributes", "Returns")


def texts(package: Path = PACKAGE) -> Iterator[tuple[Path, str, list[str]]]:
    """Yield every module of the package, what it should hold, and the stale entries in it."""
    shared = tomllib.loads((DOCS / "shared_docstrings.toml").read_text(encoding="utf-8"))
    paths = sorted(package.rglob("*.py"))
    nodes = [node for path in paths for node in ast.parse(path.read_text(encoding="utf-8")).body]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in nodes if isinstance(node, ast.ClassDef)}
    named = {name for wordings in shared.values() for one in wordings for name in (*one["of"], *one.get("not_of", ()))}
    if unknown := named - bases.keys():
        raise ValueError(f"shared_docstrings.toml names classes that do not exist: {', '.join(sorted(unknown))}.")
    for path in paths:
        yield path, *rewritten(path.read_text(encoding="utf-8"), shared, bases)


def rewritten(text: str, shared: dict, bases: dict[str, list[str]]) -> tuple[str, list[str]]:
    """Source with the shared wordings in its docstrings, and the entries that changed: `NIMA: lr`, `NIMA.fit: X`."""
    lines, stale = text.split("\n"), []
    # From the last docstring to the first, so that line numbers before it stay true.
    for cls, method, node, defaults in reversed(list(documented(text))):
        ancestors = family(cls, bases)
        for name, first, last in reversed(entries(lines, node)):
            wording = find(shared.get(name, ()), ancestors, method, defaults.get(name))
            if wording is None:
                continue
            new = entry(name, wording, lines[first], defaults.get(name))
            if lines[first:last] != new:
                stale.append(f"{cls}{method and '.' + method}: {name}")
                lines[first:last] = new
    return "\n".join(lines), stale[::-1]


def documented(text: str) -> Iterator[tuple[str, str, ast.Constant, dict[str, str]]]:
    """Yield class, method ("" for the class itself), docstring and the defaults of the signature, as source code."""
    for cls in ast.parse(text).body:
        if isinstance(cls, ast.ClassDef):
            methods = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
            for name, node in {"": cls, **methods}.items():
                if ast.get_docstring(node):
                    signature = methods.get(name or "__init__")
                    yield cls.name, name, node.body[0].value, signature_defaults(signature, text)


def signature_defaults(function: ast.FunctionDef | None, text: str) -> dict[str, str]:
    """Parameter -> its default as the source spells it, so that `5e-5` stays `5e-5`."""
    if function is None:
        return {}
    own = function.args
    positional = [*own.posonlyargs, *own.args]
    values = {arg.arg: value for arg, value in zip(positional[::-1], own.defaults[::-1], strict=False)}
    values |= {arg.arg: value for arg, value in zip(own.kwonlyargs, own.kw_defaults, strict=True) if value}
    return {name: ast.get_source_segment(text, value) for name, value in values.items()}


def family(cls: str, bases: dict[str, list[str]]) -> set[str]:
    """A class and all that it inherits from in the package."""
    return {cls}.union(*(family(base, bases) for base in bases.get(cls, ())))


def entries(lines: list[str], docstring: ast.Constant) -> list[tuple[str, int, int]]:
    """Entries of a numpydoc docstring: name, number of the first line and of the one after the last."""
    indent, section, found = " " * docstring.col_offset, None, []
    for number in range(docstring.lineno, docstring.end_lineno - 1):  # counted from 0: the docstring's second line on
        line, below = lines[number], lines[number + 1]
        if below.strip() and not below.strip().strip("-"):
            section = line.strip()
        elif section in SECTIONS and line.strip().strip("-"):
            if not line.startswith(f"{indent} "):
                found.append((line.partition(" : ")[0].strip(), number, number + 1))
            elif found:
                found[-1] = (*found[-1][:2], number + 1)
    return found


def find(wordings, ancestors: set[str], method: str, default: str | None) -> dict | None:
    """The first wording whose conditions hold."""
    for one in wordings:
        if (
            ancestors.intersection(one["of"])
            and ancestors.isdisjoint(one.get("not_of", ()))
            and method in one.get("methods", [""])
            and ("default" not in one or default == f'"{one["default"]}"')
        ):
            return one
    return None


def entry(name: str, wording: dict, header: str, default: str | None) -> list[str]:
    """Lines of an entry, indented as its old first line is."""
    indent = " " * (len(header) - len(header.lstrip()))
    if "type" in wording:
        header = f"{indent}{name} : {wording['type']}" + (f", default={default}" if default else "")
    body = f"{indent}    "
    paragraph = textwrap.wrap(
        " ".join(wording["text"].split()),
        WIDTH,
        initial_indent=body,
        subsequent_indent=body,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [header, *paragraph]


if __name__ == "__main__":
    from generate import main

    main("make_docstrings")

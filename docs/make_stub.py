# SPDX-License-Identifier: BSD-3-Clause
"""Write `sklearn_iqa/__init__.pyi`, the list of public names, from what the rooms of the package export.

lazy_loader reads that file when the package is imported, and understands lines `from .room import name as name` alone.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sklearn_iqa"
# What users may import from beside `sklearn_iqa` itself.
PUBLIC_ROOMS = ("datasets", "degradations", "displays", "distortions", "evaluation", "features", "metrics", "votes")
METHOD_FOLDERS = ("full_reference", "reduced_reference", "single_input", "pair_input", "multimodal")
# Rooms whose names are also those of the package.
LIFTED = ("displays", "evaluation", "features", "persistence", "quality_model", *METHOD_FOLDERS)
HEAD = "# Written by docs/make_stub.py.\n"
TAIL = "\n__version__: str\n__all__: list[str]\n"


def texts(package: Path = PACKAGE) -> Iterator[tuple[Path, str, list[str]]]:
    """Yield the stub, what it should hold, and nothing more to say."""
    yield package / "__init__.pyi", stub(package), []


def stub(package: Path) -> str:
    """The imports of all public names, in ruff's order."""
    names = {"": PUBLIC_ROOMS, "_base.rows": ("make_pairs",), **{room: exports(package, room) for room in LIFTED}}
    lines = [f"from .{room} import {name} as {name}\n" for room in sorted(names) for name in in_order(names[room])]
    return HEAD + "".join(lines) + TAIL


def exports(package: Path, room: str) -> list[str]:
    """Names in a room's `__all__`, or, without it, those that it imports as themselves (`from ... import a as a`)."""
    # A room that loads its names lazily lists them in a stub.
    candidates = (package / room / "__init__.pyi", package / room / "__init__.py", package / f"{room}.py")
    path = next(path for path in candidates if path.is_file())
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    imports = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [alias.name for alias in imports if alias.asname == alias.name]


def in_order(names) -> list[str]:
    """Constants, classes, functions, each by name."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


if __name__ == "__main__":
    from generate import main

    main("make_stub")

# SPDX-License-Identifier: BSD-3-Clause
"""Rooms of the package, its top folders and files, and the imports between them.

Run: python tests/rooms.py [FOLDER OF THE PACKAGE]
"""

import ast
import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sklearn_iqa"


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """Path in the package -> dotted name."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name -> path of every module of the package."""
    return {module_name(path, package): path for path in sorted(package.rglob("*.py"))}


def imports(path: Path, known: dict[str, Path], package: Path = PACKAGE) -> set[str]:
    """Dotted names of all modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            own = ".".join(path.relative_to(package.parent).parts[:-1])
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), own)
            members = {f"{source}.{alias.name}" for alias in node.names}
            submodules = members & known.keys()
            found |= submodules
            if submodules != members:
                found.add(source)
    return found


def room(module: str) -> str:
    """Top folder or file of a module; the package's own face is called by the package's name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def arrows(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Room -> the other rooms that it imports from."""
    known = modules(package)
    found: dict[str, set[str]] = {room(module): set() for module in known}
    for module, path in known.items():
        targets = {name for name in imports(path, known, package) if name.partition(".")[0] == package.name}
        found[room(module)] |= {room(name) for name in targets} - {room(module)}
    return found


def main() -> None:
    """Print the rooms, what each imports from, and how many there are of both."""
    package = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE
    found = arrows(package)
    for name, targets in sorted(found.items()):
        print(f"{name:20} -> {', '.join(sorted(targets)) or '-'}")
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package).values())
    print(
        f"{len(found)} rooms, {sum(map(len, found.values()))} arrows, {n_lines} lines in {len(modules(package))} files"
    )


if __name__ == "__main__":
    main()

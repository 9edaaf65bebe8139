# SPDX-License-Identifier: BSD-3-Clause
"""The files of the command line: which images its paths name, and which reference belongs to which image."""

import csv
import functools
import glob
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import click
from PIL import Image

from sklearn_iqa._base.images import advice_on, register_formats


class WrongUse(click.ClickException):
    """The command line is wrong; reported in one line, where click would add its usage lines."""

    exit_code = 2


class Query(NamedTuple):
    """An image to be scored."""

    path: str
    place: PurePath  # relative to the folder it was found in; the bare name for a file


class Found(NamedTuple):
    """What paths of the command line name."""

    queries: list[Query]
    skipped: Counter[str]  # suffix -> files of folders that are no images by their suffix

    def skipped_line(self) -> str:
        """Say how many files were left out, and of which kinds."""
        n_files = sum(self.skipped.values())
        kinds = ", ".join(suffix or "without suffix" for suffix in sorted(self.skipped))
        cure = "".join({advice_on(suffix) for suffix in self.skipped})
        return f"{n_files} file{'s' * (n_files > 1)} skipped: {kinds}{cure}"


def read_table(path: str, columns: dict[str, str | None]) -> list[dict[str, Any]]:
    """Rows of a CSV file; `columns` are those that it must have, by the options that name them."""
    try:
        with open(os.path.expanduser(path), newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows, found = list(table), table.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{path} is no CSV file in UTF-8 ({one_line(error)}): give one.") from error
    for option, column in columns.items():
        if column is not None and column not in found:
            known = ", ".join(found) or "none"
            raise WrongUse(f"{path} has no column {column!r}: name the right one with --{option}; it has {known}.")
    return rows


ReferenceFinder = Callable[[int], str]


def compares(method: Any) -> bool:
    """Whether a class, a fitted model, or None for the default one, sees an image beside its reference."""
    return len(getattr(method, "inputs", ("image",))) > 1


def one_line(error: Exception | str) -> str:
    """Message of an error or a warning, without line breaks."""
    return " ".join(str(error).splitlines())


def find_queries(paths: Iterable[str], recursive: bool) -> Found:
    """The images that files, folders and patterns name, folders sorted by name; what is missing stays in the list.

    "-" stands for the lines of standard input.
    """
    found = Found([], Counter())
    for path in _expanded(paths):
        if not os.path.isdir(path):
            found.queries.append(
                Query(path, PurePath(PurePath(path).name))
            )  # a missing one becomes a row with an error
            continue
        images, others = _files_in(Path(path), recursive)
        found.skipped.update(other.suffix.lower() for other in others)
        if not images:
            deeper = "" if recursive else "; --recursive searches its subfolders too"
            skipped = f" ({Found([], found.skipped).skipped_line()})" if others else ""
            raise click.ClickException(f"The folder {path} holds no image file{skipped}{deeper}.")
        places = [PurePath(image.relative_to(path)) for image in images]
        found.queries.extend(Query(os.path.join(path, place), place) for place in places)
    return found


def _expanded(paths: Iterable[str]) -> Iterator[str]:
    """Paths, with the user's folder in place of ~, files in place of patterns, and lines in place of -."""
    for path in paths:
        if path == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):  # file names keep their bytes, as on standard output
                sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
            yield from _expanded(line.rstrip("\r\n") for line in sys.stdin if line.strip())
            continue
        path = os.path.expanduser(path)
        matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) and not os.path.exists(path) else []
        yield from matches or [path]


def _files_in(folder: Path, recursive: bool = False) -> tuple[list[Path], list[Path]]:
    """Image files by name, and all others, without hidden ones and those in hidden folders."""
    suffixes = _image_suffixes()
    try:
        files = sorted(
            path
            for path in folder.glob("**/*" if recursive else "*")
            if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
        )
    except OSError as error:
        raise click.ClickException(f"The folder {folder} cannot be read: {one_line(error)}.") from error
    images = [path for path in files if path.suffix.lower() in suffixes]
    return images, [path for path in files if path.suffix.lower() not in suffixes]


@functools.cache
def _image_suffixes() -> frozenset[str]:
    """Suffixes that Pillow knows, but for those of films, documents and tables, by their media types."""
    register_formats()
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in suffixes.items() if Image.MIME.get(kind, "").startswith("image/"))


def reference_finder(method: Any, queries: list[Query], given: Sequence[str]) -> ReferenceFinder | None:
    """Give the function from the number of a query to its reference; None for methods without.

    `method` is None for the default model.
    """
    name = "The default model" if method is None else getattr(method, "__name__", type(method).__name__)
    if not compares(method):
        if given:
            raise WrongUse(f"{name} takes no reference: leave --reference out.")
        return None
    given = [os.path.expanduser(path) for path in given]
    if not given:
        raise WrongUse(f"{name} compares each image with a {method.inputs[-1]}: give --reference PATH.")
    if len(given) > 1:
        if len(given) != len(queries):
            raise WrongUse(
                f"There are {len(queries)} images and {len(given)} references: give one for all, one for each, or a "
                "folder."
            )
        return given.__getitem__
    if os.path.isdir(given[0]):
        by_stem = functools.cache(_by_stem)
        return lambda number: _namesake(Path(given[0]), queries[number].place, by_stem)
    if not os.path.exists(given[0]):
        raise click.ClickException(f"The reference {given[0]} does not exist: check the path.")
    return lambda number: given[0]


def _namesake(folder: Path, place: PurePath, by_stem: Callable[[Path], dict[str, list[Path]]]) -> str:
    """Find the file with the query's name, else its stem, at the same place in the folder, else directly in it."""
    for near in dict.fromkeys((folder / place.parent, folder)):
        if (near / place.name).is_file():
            return str(near / place.name)
        kin = by_stem(near).get(place.stem, [])
        if len(kin) > 1:
            raise ValueError(
                f"{near} holds several references for {place.name} ({', '.join(path.name for path in kin)}): keep one."
            )
        if kin:
            return str(kin[0])
    raise FileNotFoundError(
        f"{folder} holds no reference for {place}: neither that name nor an image file with the stem {place.stem!r}."
    )


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in _files_in(folder)[0]:
        found.setdefault(path.stem, []).append(path)
    return found

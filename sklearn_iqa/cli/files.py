# SPDX-License-Identifier: BSD-3-Clause
"""The files of the command line: which images its paths name, and which reference belongs to which image."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import click
from PIL import Image


class WrongUse(click.ClickException):
    """The command line is wrong; reported in one line, where click would add its usage lines."""

    exit_code = 2


class Query(NamedTuple):
    """An image to be scored."""

    path: str
    place: PurePath  # relative to the folder it was found in; the bare name for a file


def one_line(error: Exception | str) -> str:
    """Message of an error or a warning, without line breaks."""
    return " ".join(str(error).splitlines())


def find_queries(paths: Iterable[str], recursive: bool) -> list[Query]:
    """The images that files and folders name, folders sorted by name; what is missing stays in the list."""
    queries = []
    for path in map(os.path.expanduser, paths):
        if not os.path.isdir(path):
            queries.append(Query(path, PurePath(PurePath(path).name)))  # what is missing becomes a row with its error
            continue
        places = [PurePath(found.relative_to(path)) for found in _images_in(Path(path), recursive)]
        if not places:
            deeper = "" if recursive else "; --recursive searches its subfolders too"
            raise click.ClickException(f"The folder {path} holds no image file{deeper}.")
        queries += [Query(os.path.join(path, place), place) for place in places]
    return queries


def _images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files by name, without hidden ones and those in hidden folders."""
    suffixes = _image_suffixes()
    try:
        return sorted(
            path
            for path in folder.glob("**/*" if recursive else "*")
            if path.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        )
    except OSError as error:
        raise click.ClickException(f"The folder {folder} cannot be read: {one_line(error)}.") from error


@functools.cache
def _image_suffixes() -> frozenset[str]:
    """Suffixes that Pillow knows, but for those of films, documents and tables, by their media types."""
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in suffixes.items() if Image.MIME.get(kind, "").startswith("image/"))


def reference_finder(method: Any, queries: list[Query], given: Sequence[str]) -> Callable[[int], str] | None:
    """Give the function from the number of a query to its reference; None for methods without."""
    if len(method.inputs) == 1:
        if given:
            raise WrongUse(f"{method.__name__} takes no reference: leave --reference out.")
        return None
    given = [os.path.expanduser(path) for path in given]
    if not given:
        raise WrongUse(f"{method.__name__} compares each image with a {method.inputs[-1]}: give --reference PATH.")
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
    for path in _images_in(folder):
        found.setdefault(path.stem, []).append(path)
    return found

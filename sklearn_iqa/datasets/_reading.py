# SPDX-License-Identifier: BSD-3-Clause
"""What the readers of published sets share: finding files, reading label files, leaving out rows, errors."""

import csv
import math
import os
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat
from sklearn.utils import Bunch


class Source(NamedTuple):
    """What is known of a set; errors name it and its page, `DESCR` tells the rest."""

    name: str
    page: str
    text: str
    licence: str
    citation: str

    @property
    def descr(self) -> str:
        """The `DESCR` of a Bunch."""
        paragraphs = self.text, f"Published at {self.page}", f"Licence: {self.licence}", f"Cite: {self.citation}"
        filled = (textwrap.fill(paragraph, break_on_hyphens=False) for paragraph in paragraphs)
        return "\n\n".join([f"{self.name}\n{'=' * len(self.name)}", *filled]) + "\n"


def open_folder(path: str | os.PathLike, source: Source) -> Path:
    """Give the folder as a path.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{source.name}: there is no folder {root}; give the one published at {source.page}.")
    return root


def first_of(root: Path, source: Source, *places: str) -> Path:
    """Give the first of some files or folders that is there.

    Raises
    ------
    FileNotFoundError
        If none is.
    """
    for place in places:
        if (root / place).exists():
            return root / place
    others = f" (and so is {' and '.join(places[1:])})" if places[1:] else ""
    raise FileNotFoundError(
        f"{source.name}: {root / places[0]} is missing{others}; give the folder as it is published at {source.page}."
    )


# Label files ----------------------------------------------------------------------------------------------------------


def read_csv(path: Path, source: Source, *columns: str) -> list[list]:
    """Give some columns of a CSV file, found by the names in its first line."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return _columns(list(csv.reader(file)), path, source, columns)


def read_sheet(path: Path, source: Source, *columns: str, sheet: str | None = None) -> list[list]:
    """Give some columns of an Excel sheet, by default the first; lines above the columns' names are passed over."""
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"{source.name} keeps its labels in an Excel file, for which openpyxl is needed, which is not installed: "
            "pip install 'sklearn-iqa[datasets]'."
        ) from error
    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        if sheet is not None and sheet not in workbook.sheetnames:
            raise ValueError(
                f"{source.name}: {path} has no sheet {sheet!r}; give the file as it is published at {source.page}."
            )
        rows = list((workbook[sheet] if sheet else workbook.worksheets[0]).iter_rows(values_only=True))
    finally:
        workbook.close()
    return _columns(rows, path, source, columns)


def _columns(rows: list[Sequence], path: Path, source: Source, names: Sequence[str]) -> list[list]:
    start = next((number for number, row in enumerate(rows) if set(names) <= set(row)), None)
    if start is None:
        raise ValueError(
            f"{source.name}: {path} has no columns named {', '.join(names)}; give the file as it is published at "
            f"{source.page}."
        )
    positions = [list(rows[start]).index(name) for name in names]
    below = [row for row in rows[start + 1 :] if any(cell not in (None, "") for cell in row)]
    return [[row[at] if at < len(row) else None for row in below] for at in positions]


def read_words(path: Path, source: Source, n_words: int) -> list[list[str]]:
    """Give the columns of a text file without names, whose words are parted by blanks or a comma."""
    rows = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != n_words:
            raise ValueError(
                f"{source.name}: line {number} of {path} has {len(row)} words and not {n_words}; give the file as it "
                f"is published at {source.page}."
            )
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(n_words)]


def read_mat(path: Path, source: Source, name: str) -> np.ndarray:
    """Give a variable of a MATLAB file as a vector, of numbers or of strings."""
    variables = loadmat(path, squeeze_me=True)
    if name not in variables:
        raise ValueError(
            f"{source.name}: {path} holds no variable {name}; give the file as it is published at {source.page}."
        )
    return np.ravel(variables[name])


def numbers(values: Sequence | np.ndarray, what: str, path: Path, source: Source) -> np.ndarray:
    """Turn cells into float64.

    Raises
    ------
    ValueError
        If a cell is no finite number.
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array([np.nan])
    if not np.isfinite(array).all():
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise ValueError(
            f"{source.name}: {what} of row {row + 1} of {path} is {values[row]!r}, where a number is needed; give the "
            f"file as it is published at {source.page}."
        )
    return array


def check_votes(votes: np.ndarray, path: Path, source: Source) -> np.ndarray:
    """Give numbers of votes (n, k) as they are.

    Raises
    ------
    ValueError
        If a row has none, or a negative number.
    """
    wrong = (votes < 0).any(axis=1) | (votes.sum(axis=1) == 0)
    if wrong.any():
        raise ValueError(
            f"{source.name}: row {np.argmax(wrong) + 1} of {path} has no votes; give the file as it is published at "
            f"{source.page}."
        )
    return votes


def _is_number(value) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def coded_names(names: Sequence[str], source: Source, n_kinds: int) -> np.ndarray:
    """Turn names such as I01_02_3.png into content, kind and level: an array of shape (n, 3)."""
    coded = []
    for name in names:
        parts = os.path.splitext(name)[0][1:].split("_")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[1]) <= n_kinds:
            raise ValueError(
                f"{source.name}: the label file names the image {name!r}, where I<content>_<kind>_<level> with kinds 1 "
                f"to {n_kinds} is known; give the file as it is published at {source.page}."
            )
        coded.append([int(part) for part in parts])
    return np.array(coded, dtype=int).reshape(-1, 3)


# Images ---------------------------------------------------------------------------------------------------------------


def names_in(folder: Path) -> dict[str, str]:
    """Give a folder's names by their case-folded form; nothing if it is not there."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name.casefold(): entry.name for entry in entries}


def locate(root: Path, places: Iterable[str], listings: dict[str, dict[str, str]]) -> tuple[list[str], np.ndarray]:
    """Paths of files below a folder, spelled as on the disk, and whether they are there.

    Each folder is listed once, as a question to the file system for each of a million files would take minutes;
    `listings` keeps what is known.
    """
    paths, there = [], []
    for place in places:
        folder, _, name = place.rpartition("/")
        if folder not in listings:
            listings[folder] = names_in(root / folder)
        spelled = listings[folder].get(name.casefold())
        paths.append(os.path.join(root, folder, spelled or name))
        there.append(spelled is not None)
    return paths, np.array(there, dtype=bool)


def build(
    source: Source,
    root: Path,
    files: Mapping[str, Sequence[str]],
    columns: Mapping[str, np.ndarray | list],
    *,
    strict: bool,
) -> Bunch:
    """Make the Bunch of a set whose label files have been read.

    Parameters
    ----------
    source : Source
        The set.
    root : Path
        Folder of the set.
    files : dict of str to sequence of str
        Field -> the file of each row, relative to `root`, with "/".
    columns : dict of str to array or list
        Field -> values, one for each row.
    strict : bool
        Whether a missing file is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        The fields of `files` as lists of paths, those of `columns`, and `DESCR`.

    Raises
    ------
    FileNotFoundError
        If a file is missing, or with ``strict=False`` some file of every row.
    ValueError
        If there are no rows, or fields of unequal length.
    """
    listings: dict[str, dict[str, str]] = {}
    located = {field: locate(root, places, listings) for field, places in files.items()}
    lengths = {len(there) for _, there in located.values()} | {len(values) for values in columns.values()}
    if lengths == {0} or len(lengths) > 1:
        raise ValueError(
            f"{source.name}: the label files in {root} hold {' and '.join(map(str, sorted(lengths)))} rows; give the "
            f"files as they are published at {source.page}."
        )
    kept = np.logical_and.reduce([there for _, there in located.values()])
    if not kept.all():
        row = int(np.argmin(kept))
        first = next(paths[row] for paths, there in located.values() if not there[row])
        _report(source, first, int((~kept).sum()), len(kept), strict)
    fields = {field: _take(paths, kept) for field, (paths, _) in located.items()}
    return Bunch(**fields, **{field: _take(values, kept) for field, values in columns.items()}, DESCR=source.descr)


def _report(source: Source, first: str, n_missing: int, n_rows: int, strict: bool) -> None:
    if n_missing == n_rows:
        raise FileNotFoundError(
            f"{source.name}: {first} is missing, and no other of the {n_rows} rows is complete; give the folder as it "
            f"is published at {source.page}."
        )
    if strict:
        raise FileNotFoundError(
            f"{source.name}: {first} is missing, so that {n_missing} of {n_rows} rows are incomplete; get it from "
            f"{source.page}, or pass strict=False to leave them out."
        )
    warnings.warn(
        f"{source.name}: {n_missing} of {n_rows} rows are left out, as their files are missing, {first} the first.",
        stacklevel=4,
    )


def _take(values: Any, kept: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[kept]
    return [value for value, keep in zip(values, kept, strict=True) if keep]

# SPDX-License-Identifier: BSD-3-Clause
"""What the readers of published sets share: finding files, reading label files, leaving out rows, errors.

A reader opens a `Folder`, reads each label file into a `Table`, and lets the folder build the Bunch:

>>> from sklearn_iqa.datasets._reading import Folder, Source
>>> def read(path, *, strict=True):
...     folder = Folder(path, Source("Name", "page", "text", "licence", "citation"))
...     labels = folder.csv("mos.csv", "file", "mos")
...     return folder.build({"images": labels["file"]}, strict=strict, target=labels.numbers("mos", "the MOS"))
"""

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

__all__ = ["Folder", "Source", "Table"]


class Source(NamedTuple):
    """What is known of a set; errors name it and its page, `DESCR` holds the rest."""

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

    def unlike_published(self, found: str) -> ValueError:
        """The error for a label file that is not as published."""
        return ValueError(f"{self.name}: {found}; give the file as it is published at {self.page}.")


class Table:
    """Columns of a label file, by name.

    Parameters
    ----------
    columns : dict of str to sequence
        Name -> one value for each row.
    path : path
        The file, for errors.
    source : Source
        The set, for errors.
    """

    def __init__(self, columns: Mapping[str, Any], path: Path, source: Source):
        self.columns = columns
        self.path = path
        self.source = source

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]

    def numbers(self, column: str, what: str, rows: Any = slice(None)) -> np.ndarray:
        """Give a column, or some rows of it, as float64.

        Raises
        ------
        ValueError
            If a value is no finite number; `what` says which number it should be.
        """
        values = self.columns[column][rows]
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array([np.nan])
        if not np.isfinite(array).all():
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise self.source.unlike_published(
                f"{what} of row {row + 1} of {self.path} is {values[row]!r}, where a number is needed"
            )
        return array

    def matrix(self, columns: Iterable[str], what: str) -> np.ndarray:
        """Give several columns as float64, side by side; errors as of `numbers`."""
        return np.stack([self.numbers(column, what) for column in columns], axis=1)

    def votes(self, columns: Iterable[str], what: str) -> np.ndarray:
        """Give numbers of votes (n, k).

        Raises
        ------
        ValueError
            If a row has none, or a negative number.
        """
        votes = self.matrix(columns, what)
        wrong = (votes < 0).any(axis=1) | (votes.sum(axis=1) == 0)
        if wrong.any():
            raise self.source.unlike_published(f"row {np.argmax(wrong) + 1} of {self.path} has no votes")
        return votes

    def coded_names(self, column: str, n_kinds: int) -> np.ndarray:
        """Turn names such as I01_02_3.png into content, kind and level: an array of shape (3, n)."""
        coded = []
        for name in self.columns[column]:
            parts = os.path.splitext(name)[0][1:].split("_")
            if len(parts) != 3 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[1]) <= n_kinds:
                raise self.source.unlike_published(
                    f"the label file names the image {name!r}, where I<content>_<kind>_<level> with kinds 1 to "
                    f"{n_kinds} is known"
                )
            coded.append([int(part) for part in parts])
        return np.array(coded, dtype=int).reshape(-1, 3).T


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


class Folder:
    """Folder of a published set.

    Files and folders in it are named relative to it, with "/".

    Parameters
    ----------
    path : str or path
        The folder; `~` is the user's.
    source : Source
        The set.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """

    def __init__(self, path: str | os.PathLike, source: Source):
        self.root = Path(os.path.expanduser(path))
        self.source = source
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{source.name}: there is no folder {self.root}; give the one published at {source.page}."
            )

    def find(self, *places: str) -> Path:
        """Give the first of some files or folders that exists.

        Raises
        ------
        FileNotFoundError
            If none does.
        """
        for place in places:
            if (self.root / place).exists():
                return self.root / place
        others = f" (and so is {' and '.join(places[1:])})" if places[1:] else ""
        raise FileNotFoundError(
            f"{self.source.name}: {self.root / places[0]} is missing{others}; give the folder as it is published at "
            f"{self.source.page}."
        )

    def names_in(self, place: str = "") -> dict[str, str]:
        """Give the names in a folder by their case-folded form; nothing if it does not exist."""
        if not (self.root / place).is_dir():
            return {}
        with os.scandir(self.root / place) as entries:
            return {entry.name.casefold(): entry.name for entry in entries}

    # Label files ------------------------------------------------------------------------------------------------------

    def csv(self, place: str, *columns: str) -> Table:
        """Read some columns of a CSV file, found by the names in its first line."""
        path = self.find(place)
        with open(path, newline="", encoding="utf-8-sig") as file:
            return self._named(list(csv.reader(file)), path, columns)

    def sheet(self, place: str, *columns: str, title: str | None = None) -> Table:
        """Read some columns of an Excel sheet, by default the first; lines above the columns' names are skipped."""
        path = self.find(place)
        try:
            import openpyxl
        except ImportError as error:
            raise ImportError(
                f"{self.source.name} keeps its labels in an Excel file, for which openpyxl is needed, which is not "
                "installed: pip install 'sklearn-iqa[datasets]'."
            ) from error
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            if title is not None and title not in workbook.sheetnames:
                raise self.source.unlike_published(f"{path} has no sheet {title!r}")
            rows = list((workbook[title] if title else workbook.worksheets[0]).iter_rows(values_only=True))
        finally:
            workbook.close()
        return self._named(rows, path, columns)

    def _named(self, rows: list[Sequence], path: Path, names: Sequence[str]) -> Table:
        start = next((number for number, row in enumerate(rows) if set(names) <= set(row)), None)
        if start is None:
            raise self.source.unlike_published(f"{path} has no columns named {', '.join(names)}")
        places = {name: list(rows[start]).index(name) for name in names}
        below = [row for row in rows[start + 1 :] if any(value not in (None, "") for value in row)]
        columns = {name: [row[at] if at < len(row) else None for row in below] for name, at in places.items()}
        return Table(columns, path, self.source)

    def words(self, place: str, *columns: str) -> Table:
        """Read a text file without a head, whose words are parted by blanks or a comma; `columns` names them all."""
        path = self.find(place)
        rows = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        rows = [row for row in rows if row]
        for number, row in enumerate(rows, start=1):
            if len(row) != len(columns):
                raise self.source.unlike_published(
                    f"line {number} of {path} has {len(row)} words and not {len(columns)}"
                )
        return Table({name: [row[at] for row in rows] for at, name in enumerate(columns)}, path, self.source)

    def mat(self, place: str, *variables: str) -> Table:
        """Read variables of a MATLAB file as vectors, of numbers or of strings."""
        path = self.find(place)
        held = loadmat(path, squeeze_me=True)
        for name in variables:
            if name not in held:
                raise self.source.unlike_published(f"{path} holds no variable {name}")
        return Table({name: np.ravel(held[name]) for name in variables}, path, self.source)

    # Images -----------------------------------------------------------------------------------------------------------

    def build(self, files: Mapping[str, Sequence[str]], *, strict: bool, **columns: Any) -> Bunch:
        """Make the Bunch of the set.

        Parameters
        ----------
        files : dict of str to sequence of str
            Field -> the file of each row.
        strict : bool
            Whether a missing file is an error; otherwise its rows are left out, with a warning.
        **columns : array or list
            Fields with one value for each row.

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
        located = {field: self._locate(places, listings) for field, places in files.items()}
        lengths = {len(exists) for _, exists in located.values()} | {len(values) for values in columns.values()}
        if lengths == {0} or len(lengths) > 1:
            raise ValueError(
                f"{self.source.name}: the label files in {self.root} hold {' and '.join(map(str, sorted(lengths)))} "
                f"rows; give the files as they are published at {self.source.page}."
            )
        kept = np.logical_and.reduce([exists for _, exists in located.values()])
        if not kept.all():
            row = int(np.argmin(kept))
            first = next(paths[row] for paths, exists in located.values() if not exists[row])
            self._report(first, int((~kept).sum()), len(kept), strict)
        fields = {field: _take(paths, kept) for field, (paths, _) in located.items()}
        fields |= {field: _take(values, kept) for field, values in columns.items()}
        return Bunch(**fields, DESCR=self.source.descr)

    def _locate(self, places: Iterable[str], listings: dict[str, dict[str, str]]) -> tuple[list[str], np.ndarray]:
        """Paths of files, spelled as on the disk, and whether they exist.

        Each folder is listed once, as a question to the file system for each of a million files would take minutes;
        `listings` keeps what is known.
        """
        paths, exists = [], []
        for place in places:
            folder, _, name = place.rpartition("/")
            if folder not in listings:
                listings[folder] = self.names_in(folder)
            spelled = listings[folder].get(name.casefold())
            paths.append(os.path.join(self.root, folder, spelled or name))
            exists.append(spelled is not None)
        return paths, np.array(exists, dtype=bool)

    def _report(self, first: str, n_missing: int, n_rows: int, strict: bool) -> None:
        name, page = self.source.name, self.source.page
        if n_missing == n_rows:
            raise FileNotFoundError(
                f"{name}: {first} is missing, and no other of the {n_rows} rows is complete; give the folder as it is "
                f"published at {page}."
            )
        if strict:
            raise FileNotFoundError(
                f"{name}: {first} is missing, so that {n_missing} of {n_rows} rows are incomplete; get it from {page}, "
                "or pass strict=False to leave them out."
            )
        warnings.warn(
            f"{name}: {n_missing} of {n_rows} rows are left out, as their files are missing, {first} the first.",
            stacklevel=4,  # where the reader was called
        )


def _take(values: Any, kept: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[kept]
    return [value for value, keep in zip(values, kept, strict=True) if keep]

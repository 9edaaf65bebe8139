# SPDX-License-Identifier: BSD-3-Clause
"""What the command line writes: rows as CSV or JSON lines, tables for people, warnings of one line."""

import contextlib
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from sklearn_iqa.cli.files import WrongUse, one_line

TABLE_WIDTH = 100
# Raised by a wrong file, parameter or weights, or a large image; every other error is one of the program and keeps its
# traceback.
INPUT_ERRORS = (ValueError, TypeError, OSError, MemoryError)


def table_option(function):
    """The option --output of commands whose rows people read."""
    return click.option(
        "--output",
        type=click.Choice(["table", "csv", "json"]),
        default="table",
        show_default=True,
        help="Format of the output; json writes one object per line.",
    )(function)


def running_options(function):
    """The options of all commands that run networks: --device, --jobs and --quiet."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors to standard error."),
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Threads that open files ahead of the network.",
        ),
        click.option(
            "--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, cuda, mps."
        ),
    ):
        function = option(function)
    return function


def row_writer(output: str, columns: Sequence[str]) -> Callable[[dict[str, Any]], None]:
    """Write the head of the output, "csv" or "json"; the returned function writes one row and flushes it."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names keep their bytes, whatever the terminal's encoding
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    if output == "csv":
        click.echo(_line(output, columns, dict(zip(columns, columns, strict=True))))
    return lambda row: click.echo(_line(output, columns, row))


def _line(output: str, columns: Sequence[str], row: dict[str, Any]) -> str:
    """A row as a line without its end."""
    if output == "json":
        return json.dumps(row, allow_nan=False)
    cells, text = [row[name] for name in columns], io.StringIO()
    # Before Python 3.13 the module leaves a carriage return as it is, at which readers end the row.
    has_return = any("\r" in str(cell) for cell in cells)
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


class RowFile:
    """A file of rows, each written as soon as it is known; a context manager.

    Parameters
    ----------
    path : str
        The file, which must be new unless `resume`.
    output : {"csv", "json"}
        Its format.
    columns : sequence of str
        Names of the columns.
    resume : bool
        Whether to go on with a file that is there: rows in it stay, a last one that was not finished is cut off.

    Attributes
    ----------
    known : set of str
        Values of the first column of the rows that are there.
    """

    def __init__(self, path: str, output: str, columns: Sequence[str], *, resume: bool):
        self.path, self.output, self.columns = Path(os.path.expanduser(path)), output, list(columns)
        self.known: set[str] = set()
        if self.path.exists() and not resume:
            raise WrongUse(f"{path} exists: go on with it by --resume, or name a new file.")
        self.is_new = not self.path.exists() or not self._mend()

    def __enter__(self):
        how: dict[str, Any] = {"encoding": sys.getfilesystemencoding(), "errors": sys.getfilesystemencodeerrors()}
        try:
            self.file = open(self.path, "a", newline="", **how)  # closed by __exit__
        except OSError as error:
            raise click.ClickException(
                f"{self.path} cannot be written ({error.strerror}): name another file."
            ) from error
        if self.is_new and self.output == "csv":
            self.write(dict(zip(self.columns, self.columns, strict=True)))
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, row: dict[str, Any]) -> None:
        """Write one row."""
        self.file.write(_line(self.output, self.columns, row) + "\n")
        self.file.flush()

    def _mend(self) -> bool:
        """Note the rows that are there and cut off what follows the last whole one; whether there is any."""
        data = self.path.read_bytes()
        whole, end = [], 0
        for start, stop in _records(data, quotes=self.output == "csv"):
            whole.append(os.fsdecode(data[start:stop]))
            end = stop
        try:
            if self.output == "json":
                rows = [json.loads(line) for line in whole]
                heads = [list(row) for row in rows]
                self.known = {row[self.columns[0]] for row in rows}
            else:
                heads = list(csv.reader(whole[:1]))
                self.known = {row[0] for row in csv.reader(whole[1:])}
        except (ValueError, LookupError, TypeError, AttributeError, csv.Error):  # another kind of file
            heads = [[]]
        if any(head != self.columns for head in heads):
            raise WrongUse(
                f"{self.path} has other columns than {', '.join(self.columns)}: name another file, or give the methods "
                "and options that it was begun with."
            )
        if end < len(data):
            os.truncate(self.path, end)
        return end > 0


def _records(data: bytes, *, quotes: bool) -> Iterator[tuple[int, int]]:
    """Start and end of each whole row: up to a line's end that stands in no quotes."""
    start = stop = 0
    while (stop := data.find(b"\n", stop) + 1) > 0:
        if not quotes or data.count(b'"', start, stop) % 2 == 0:
            yield start, stop
            start = stop


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: bool = True) -> Iterator[str]:
    """Lines of a table, its columns aligned and its last one wrapped at `TABLE_WIDTH` if `wrap`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for place, name in enumerate(head, start=1):
        table.add_column(Text(name), no_wrap=place < len(head) or not wrap)
    for row in rows:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    # Rich would cut what does not fit: lines that do not wrap get all the room that they need.
    width = TABLE_WIDTH if wrap else 10_000
    Console(file=text, width=width, color_system=None, soft_wrap=not wrap).print(table)
    for line in text.getvalue().splitlines():
        yield line.rstrip()


@contextlib.contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Write warnings in one line each, without the place in the program where they come from."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not quiet:
            click.echo(f"Warning: {one_line(warning.message)}", err=True)

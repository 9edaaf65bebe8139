# SPDX-License-Identifier: BSD-3-Clause
"""What the command line writes: rows as CSV or JSON lines, tables for people, warnings of one line."""

import contextlib
import csv
import io
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from sklearn_iqa.cli.files import one_line

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


def row_writer(output: str, columns: list[str]) -> Callable[[dict[str, Any]], None]:
    """Write the head of the output, "csv" or "json"; the returned function writes one row and flushes it."""
    if output == "json":
        return lambda row: click.echo(json.dumps(row, allow_nan=False))
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names keep their bytes, whatever the terminal's encoding
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    table = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    table.writeheader()

    def write(row):
        table.writerow(row)
        sys.stdout.flush()

    return write


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: bool = True) -> Iterator[str]:
    """Lines of a table, its columns aligned and its last one wrapped at `TABLE_WIDTH` if `wrap`."""
    rows = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    indent = sum(widths) + 2 * len(widths)
    for *left, last in rows:
        room = max(TABLE_WIDTH - indent, 20)
        lines = textwrap.wrap(last, room, break_long_words=False, break_on_hyphens=False) if wrap else [last]
        start = "".join(f"{cell:{width}}  " for cell, width in zip(left, widths, strict=True))
        for line in lines or [""]:
            yield (start + line).rstrip()
            start = " " * indent


@contextlib.contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Write warnings in one line each, without the place in the program where they come from."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not quiet:
            click.echo(f"Warning: {one_line(warning.message)}", err=True)

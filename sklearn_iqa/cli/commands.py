# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa`: `list` the methods, `score` images, `evaluate` and `fit` methods, care for `weights`.

Data go to standard output, everything else to standard error. Exit status: 0 success, 1 an error that stops the
work, 2 a wrong command line, 3 some rows hold an error, 130 interrupted.
"""

import errno
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

import sklearn_iqa
from sklearn_iqa.cli.evaluate import evaluate
from sklearn_iqa.cli.fit import fit
from sklearn_iqa.cli.methods import DEFAULT, all_methods, is_cached
from sklearn_iqa.cli.output import TABLE_WIDTH, row_writer, table_lines, table_option
from sklearn_iqa.cli.report import report
from sklearn_iqa.cli.score import score
from sklearn_iqa.cli.weights import weights_group

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, the convention of shells
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what writing meets on a full disk


class _Program(click.Group):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the prompt would follow ^C on its line otherwise
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the old one would fail at exit again
            raise click.ClickException(f"The output cannot be written ({error.strerror}): make room for it.") from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": TABLE_WIDTH})
@click.version_option(sklearn_iqa.__version__, prog_name="sklearn-iqa")
def main():
    """Deep image quality assessment.

    Exit status: 0 success, 1 an error, 2 a wrong command line, 3 some rows hold an error.
    """


# list -----------------------------------------------------------------------------------------------------------------


main.add_command(score)
main.add_command(evaluate)
main.add_command(fit)
main.add_command(report)
main.add_command(weights_group)


@main.command("list", short_help="Show the methods and their published weights.")
@table_option
def list_methods(output):
    """Show the methods: their input, direction, range, and published weights.

    The first weights of a method are its default, the one that its authors recommend. Weights with a star are cached:
    they are used without network.
    """
    rows = [_facts(method) for method in all_methods()]
    if output == "table":
        click.echo("\n".join(_table(rows)))
        return
    write = row_writer(output, list(rows[0]))
    for row in rows:
        write(row if output == "json" else row | {name: " ".join(row[name]) for name in ("weights", "cached")})


def _facts(method: Any) -> dict[str, Any]:
    estimator = method()  # the range of some methods depends on their parameters
    lowest, highest = (float(bound) if math.isfinite(bound) else None for bound in estimator.score_range)
    return {
        "name": method.__name__,
        "input": " + ".join(estimator.inputs),
        "better": "higher" if estimator.higher_is_better else "lower",
        "lowest": lowest,
        "highest": highest,
        "default": next((entry.name for entry in estimator.published), None),
        "weights": [entry.name for entry in estimator.published],
        "cached": [entry.name for entry in estimator.published if is_cached(entry)],
    }


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from table_lines(
        ("name", "input", "better", "range", "published weights, the default first"),
        (
            (
                row["name"],
                row["input"],
                row["better"],
                _interval(row["lowest"], row["highest"]),
                " ".join(f"{name}*" if name in row["cached"] else name for name in row["weights"]) or "none",
            )
            for row in rows
        ),
    )
    yield ""
    yield "* cached: used without network"
    yield f"{DEFAULT}: a model for photographs that comes with the package; about 0 (bad) to 1 (excellent)"


def _interval(lowest: float | None, highest: float | None) -> str:
    if lowest is None:
        return "any" if highest is None else f"up to {highest:g}"
    return f"{lowest:g} and up" if highest is None else f"{lowest:g} to {highest:g}"

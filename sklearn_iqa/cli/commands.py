# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa`: `list` the methods, `score` image files, care for files of `weights`.

Data go to standard output, everything else to standard error. Exit status: 0 success, 1 an error that stops the
work, 2 a wrong command line, 3 some rows hold an error, 130 interrupted.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
from PIL import Image
from tqdm import tqdm

import sklearn_iqa
from sklearn_iqa.cli.files import Query, WrongUse, find_queries, one_line, reference_finder
from sklearn_iqa.cli.methods import all_methods, find_method, parse_settings, plain
from sklearn_iqa.cli.output import INPUT_ERRORS, TABLE_WIDTH, row_writer, table_lines, table_option, warnings_as_lines
from sklearn_iqa.cli.weights import weights_group

__all__ = ["main"]

SOME_ROWS_FAILED = 3
INTERRUPTED = 130  # 128 + SIGINT, the convention of shells
DEFAULT = "default"  # in place of a method: the model of `load_quality_model`


class _Program(click.Group):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the prompt would follow ^C on its line otherwise
            ctx.exit(INTERRUPTED)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": TABLE_WIDTH})
@click.version_option(sklearn_iqa.__version__, prog_name="sklearn-iqa")
def main():
    """Deep image quality assessment.

    Exit status: 0 success, 1 an error, 2 a wrong command line, 3 some rows hold an error.
    """


# list -----------------------------------------------------------------------------------------------------------------


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
        "cached": [entry.name for entry in estimator.published if _is_cached(entry)],
    }


def _is_cached(entry) -> bool:
    from sklearn_iqa._weights.pretrained import is_cached

    return all(is_cached(file) for file in entry.files)


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


# score ----------------------------------------------------------------------------------------------------------------


@main.command(short_help="Score image files.")
@click.argument("method")
@click.argument("paths", nargs=-1, required=True, metavar="PATHS|FOLDERS...")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="PATH",
    help="For methods that compare: one file for all images, or a folder that holds each reference under the name "
    "(or the stem) of its image; or given once per image, in order.",
)
@click.option(
    "--weights",
    metavar="NAME|PATH",
    help="A published name (see list; default is the first), or a file of weights. Without this option: the first "
    "published weights that are cached.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another parameter of the method, its value as in Python: --set net=vgg.",
)
@click.option("--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, cuda, mps.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads that open files ahead of the network.",
)
@click.option("-r", "--recursive", is_flag=True, help="Search the subfolders of folders too.")
@click.option(
    "--output",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="Format of the rows; json writes one object per line.",
)
@click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors to standard error.")
@click.pass_context
def score(ctx, method, paths, references, weights, settings, device, jobs, recursive, output, quiet):
    """Score image files and write a row for each, in order, as soon as it is known.

    METHOD is a name from list, such as lpips, or default. Of a folder, all image files are taken, sorted by name.

    A file that cannot be scored becomes a row with its error, and the exit status is 3.
    """
    own = {"device": device}
    find_reference = None
    if plain(method) == DEFAULT:
        _refuse({"--reference": references, "--weights": weights, "--set": settings})
        queries = find_queries(paths, recursive)
        estimator = _default_model(own)
    else:
        found = find_method(method, DEFAULT)
        parameters = parse_settings(found, settings) | own
        queries = find_queries(paths, recursive)
        find_reference = reference_finder(found, queries, references)
        estimator = _with_weights(found, parameters, weights, quiet)
    columns = ["image", "score", "error"] if find_reference is None else ["image", "reference", "score", "error"]
    write = row_writer(output, columns)
    rows = _scored(estimator, queries, find_reference, jobs, device)
    hidden = quiet or sys.stdout.isatty()  # rows on the terminal show the progress themselves
    n_failed = 0
    for row in tqdm(rows, total=len(queries), unit="image", disable=hidden or None):  # None: unless on a terminal
        write(row)
        n_failed += row["error"] is not None
    if n_failed:
        if not quiet:
            click.echo(f"{n_failed} of {len(queries)} images could not be scored, see their rows.", err=True)
        ctx.exit(SOME_ROWS_FAILED)


def _refuse(options: dict[str, Any]) -> None:
    """Refuse options that the default model does not have."""
    for option, given in options.items():
        if given:
            raise WrongUse(f"The default model has no variants and takes the image alone: leave {option} out.")


def _default_model(parameters: dict[str, Any]) -> Any:
    try:
        model = sklearn_iqa.load_quality_model()
        model.set_params(**{f"features__{name}": value for name, value in parameters.items()})
        model.predict([Image.new("RGB", (32, 32))])  # a missing device is an error now, and not in every row
    except INPUT_ERRORS as error:
        raise click.ClickException(one_line(error)) from error
    return model


def _with_weights(method: Any, parameters: dict[str, Any], weights: str | None, quiet: bool) -> Any:
    """Build the estimator, ready to predict."""
    try:
        bare = method(**parameters)
        if weights is None and not bare.__sklearn_is_fitted__():
            weights = _cached_weights(bare, parameters)
            if not quiet:
                click.echo(f"Weights: {weights}", err=True)
        _check_settings(method, parameters, weights)
        # A download shows its progress; single images would each draw a bar of their own.
        verbose = int(not quiet and sys.stderr.isatty())
        with warnings_as_lines(quiet):
            estimator = method(**parameters, weights=weights, verbose=verbose).initialize()
        return estimator.set_params(verbose=0)
    except INPUT_ERRORS as error:
        raise click.ClickException(one_line(error)) from error


def _check_settings(method: Any, parameters: dict[str, Any], weights: str | None) -> None:
    """Refuse settings that contradict published weights: of those at their defaults, an estimator would not know."""
    from sklearn_iqa._weights import pretrained

    entry = pretrained.find_published(str(weights), method.published)
    if entry is None:
        return
    for name, value in entry.parameters.items():
        if parameters.get(name, value) != value:
            raise ValueError(
                f"The weights {entry.name!r} belong to {name}={value!r}: leave --set {name} out, or name other weights."
            )


def _cached_weights(bare: Any, parameters: dict[str, Any]) -> str:
    """Name cached published weights that suit the parameters, first those that suit all defaults too."""
    method = type(bare).__name__
    if not bare.published:
        raise ValueError(
            f"{method} has no published weights: train it in Python, call save_weights(path), and give --weights PATH."
        )
    for accepted in (bare.get_params(deep=False), parameters):
        for entry in bare.published:
            suits = all(accepted.get(name, value) == value for name, value in entry.parameters.items())
            if suits and _is_cached(entry):
                return entry.name
    names = ", ".join(entry.name for entry in bare.published)
    raise ValueError(
        f"No suitable weights of {method} are cached: name published ones to download (--weights NAME, of "
        f"{names}), or give a file (--weights PATH)."
    )


def _scored(
    estimator: Any, queries: list[Query], find_reference: Callable[[int], str] | None, jobs: int, device: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for each query. One at a time: larger batches are no faster on a CPU, and memory stays constant."""
    from sklearn_iqa._base.ahead import ahead, n_threads  # here, since it imports torch
    from sklearn_iqa._base.devices import resolve_device
    from sklearn_iqa._base.images import read_image

    def opened(item: tuple[int, Query]) -> tuple[dict[str, Any], Any]:
        number, query = item
        row: dict[str, Any] = {"image": query.path}
        if find_reference is not None:
            row["reference"] = None
        row |= {"score": None, "error": None}
        try:
            _check_exists(query.path)  # first: a missing image has no reference
            if find_reference is None:
                return row, read_image(query.path)
            row["reference"] = find_reference(number)
            return row, (read_image(query.path, "The query"), read_image(row["reference"], "The reference"))
        except INPUT_ERRORS as error:
            row["error"] = _about_one_image(error)
            return row, None

    with contextlib.closing(ahead(opened, enumerate(queries), n_threads(jobs, resolve_device(device)))) as futures:
        for future in futures:
            row, x = future.result()
            if x is not None:
                try:
                    row["score"] = float(estimator.predict([x])[0])
                except INPUT_ERRORS as error:
                    row["error"] = _about_one_image(error)
            yield row


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"The image {path!r} does not exist: check the path.")


def _about_one_image(error: Exception) -> str:
    """Message of an error without the row of X, which holds one image here."""
    return one_line(error).replace(" in row 0 of X", "").replace("Row 0 of X", "The image")

# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa score`: rows of scores, as soon as they are known, or sorted in the end."""

import contextlib
import inspect
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import click
from PIL import Image
from tqdm import tqdm

import sklearn_iqa
from sklearn_iqa.cli.files import Query, ReferenceFinder, WrongUse, compares, find_queries, one_line, reference_finder
from sklearn_iqa.cli.methods import DEFAULT, find_method, is_cached, is_method, named, parse_settings, plain
from sklearn_iqa.cli.output import INPUT_ERRORS, RowFile, row_writer, running_options, warnings_as_lines

__all__ = ["check_options", "score", "scored", "scorer"]

SOME_ROWS_FAILED = 3
ROWS_TOGETHER = {"cuda": 32}  # on other devices larger batches are no faster, and the first rows come later


class Scorer(NamedTuple):
    """A method, ready to predict, and what its column is called."""

    column: str
    estimator: Any
    compares: bool
    higher_is_better: bool


@click.command(short_help="Score image files.")
@click.argument("arguments", nargs=-1, required=True, metavar="METHODS... PATHS|FOLDERS...")
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
    "published weights that are cached. Of several methods each has its own: METHOD:NAME.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="[METHOD:]NAME=VALUE",
    help="Another parameter of the method, its value as in Python: --set net=vgg.",
)
@click.option("-r", "--recursive", is_flag=True, help="Search the subfolders of folders too.")
@click.option(
    "--sort",
    type=click.Choice(["worst", "best", "name"]),
    help="Write the rows when all are known: the worst image first, the best one, or by name. Of several methods, the "
    "first one decides.",
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Write the first N sorted rows alone.")
@click.option("--std", is_flag=True, help="A column more: the deviation of the opinions that a method predicts.")
@click.option(
    "--digits",
    type=click.IntRange(min=1, max=17),
    default=4,
    show_default=True,
    help="Significant digits of the scores.",
)
@click.option("-o", "--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write the rows to a new file.")
@click.option("--resume", is_flag=True, help="Go on with the FILE of --out: images that are in it are left out.")
@click.option(
    "--output",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="Format of the rows; json writes one object per line.",
)
@running_options
@click.pass_context
def score(
    ctx, arguments, references, weights, settings, device, jobs, recursive, sort, top, std, digits, out, resume, output,
    quiet,
):  # fmt: skip
    """Score image files and write a row for each, in order, as soon as it is known.

    METHODS are names from list, such as lpips, with weights (nima:koniq) or without, default, or files of fit. Of a
    folder, all image files are taken, sorted by name; - reads paths from standard input, one a line.

    A file that cannot be scored becomes a row with its error, and the exit status is 3.
    """
    names, paths = _split(arguments)
    sort = sort or ("best" if top else None)
    if resume and (sort or not out):
        raise WrongUse(
            "--resume goes on with the rows of a file as they come: give --out FILE, without --sort or --top."
        )
    methods = {name: named(name) for name in names}
    check_options(methods, weights, settings)
    _check_targets(names, settings)
    parameters = {name: _settings_of(name, method, settings, len(names) == 1) for name, method in methods.items()}
    if std:
        _check_std(methods)
    found = find_queries(paths, recursive)
    comparing = [method for method in methods.values() if compares(method)]
    find_reference = reference_finder(comparing[0] if comparing else methods[names[0]], found.queries, references)
    scorers = [
        scorer(name, method, parameters[name] | {"device": device}, weights, quiet, alone=len(names) == 1)
        for name, method in methods.items()
    ]
    if found.skipped and not quiet:
        click.echo(found.skipped_line(), err=True)
    columns = ["image", *["reference"] * bool(comparing), *_columns(scorers, std), "error"]
    with contextlib.ExitStack() as stack:
        file = None if out is None else stack.enter_context(RowFile(out, output, columns, resume=resume))
        write = row_writer(output, columns) if file is None else file.write
        known = set() if file is None else file.known
        queries = [(number, query) for number, query in enumerate(found.queries) if query.path not in known]
        rows: Iterable[dict[str, Any]] = scored(scorers, queries, find_reference, columns, jobs, device)
        # Rows on the terminal show the progress themselves.
        hidden = quiet or (sys.stdout.isatty() and out is None and sort is None)
        rows = tqdm(rows, total=len(queries), unit="image", disable=hidden or None)  # None: unless on a terminal
        n_failed = 0
        for row in rows if sort is None else _sorted(rows, scorers[0], sort, top):
            write({name: _rounded(value, digits) for name, value in row.items()})
            n_failed += row["error"] is not None
    if n_failed:
        if not quiet:
            click.echo(f"{n_failed} of {len(queries)} images could not be scored, see their rows.", err=True)
        ctx.exit(SOME_ROWS_FAILED)


# Which methods --------------------------------------------------------------------------------------------------------


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of methods, and the paths behind them: what is a file or a folder as well is a path, but for the first."""
    first, *others = arguments
    if not is_method(first):
        if os.path.exists(first) or os.path.splitext(first)[1]:
            raise WrongUse(
                f"{first} is no method: name one before the images, as in `sklearn-iqa score default {first}`."
            )
        find_method(first.partition(":")[0], DEFAULT)  # says what is near
    names = [first, *itertools.takewhile(lambda one: is_method(one) and not os.path.exists(one), others)]
    paths = list(arguments[len(names) :])
    if not paths:
        raise WrongUse(f"Name images or folders behind the method: `sklearn-iqa score {' '.join(names)} PATH`.")
    if len({plain(name) for name in names}) < len(names):
        raise WrongUse(f"A method is named twice in {' '.join(names)}: name each once.")
    return names, paths


def check_options(methods: dict[str, Any], weights: str | None, settings: Sequence[str]) -> None:
    """Refuse options that do not say which method they mean, or that a model without variants does not have."""
    if len(methods) > 1 and weights is not None:
        raise WrongUse(f"--weights is for one method, but {len(methods)} are named: write METHOD:NAME, as nima:koniq.")
    (name, method), *others = methods.items()
    if others or isinstance(method, type):
        return
    kind = "The default model" if method is None else f"The model of {name}"
    for option, given in {"--weights": weights, "--set": settings}.items():
        if given:
            raise WrongUse(f"{kind} has no variants: leave {option} out.")


def _settings_of(name: str, method: Any, settings: Sequence[str], alone: bool) -> dict[str, Any]:
    """Parameters that options give a method; with several methods each setting names its own."""
    own = []
    for setting in settings:
        target, colon, rest = setting.partition(":")
        if colon and "=" not in target:
            if plain(target) == plain(name.partition(":")[0]):
                own.append(rest)
        elif alone:
            own.append(setting)
        else:
            raise WrongUse(f"--set {setting} must say which of the methods it means: write --set METHOD:{setting}.")
    return parse_settings(method, own) if isinstance(method, type) else {}


def _check_targets(names: list[str], settings: Sequence[str]) -> None:
    """Refuse settings of a method that is not named, which would change nothing."""
    known = {plain(name.partition(":")[0]) for name in names}
    for setting in settings:
        target, colon, _ = setting.partition(":")
        if colon and "=" not in target and plain(target) not in known:
            raise WrongUse(f"--set {setting} is for {target}, which is not among the methods: {' '.join(names)}.")


def _check_std(methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        if method is not None and "return_std" not in inspect.signature(method.predict).parameters:
            raise WrongUse(f"{name} predicts no deviation: leave --std out.")


def scorer(name: str, method: Any, parameters: dict[str, Any], weights: str | None, quiet: bool, alone: bool) -> Scorer:
    """Build a method, or the default model where it is None, ready to predict."""
    column = "score" if alone else name
    if method is None:
        return Scorer(column, _default_model(parameters), compares=False, higher_is_better=True)
    if not isinstance(method, type):  # of a file
        # A method that was saved without `fit` gives its published number, which may be a distance.
        rises = method._direction() > 0 if hasattr(method, "higher_is_better") else True
        return Scorer(column, _moved(method, parameters["device"]), compares(method), rises)
    weights = name.partition(":")[2] or weights
    estimator = _with_weights(method, parameters, weights, quiet)
    return Scorer(column, estimator, len(estimator.inputs) > 1, estimator.higher_is_better)


def _moved(model: Any, device: str) -> Any:
    from sklearn_iqa.persistence import move

    try:
        move(model, device)
    except INPUT_ERRORS as error:
        raise click.ClickException(one_line(error)) from error
    return model


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
            if suits and is_cached(entry):
                return entry.name
    names = ", ".join(entry.name for entry in bare.published)
    raise ValueError(
        f"No suitable weights of {method} are cached: name published ones to download (--weights NAME, of "
        f"{names}), or give a file (--weights PATH)."
    )


# Rows -----------------------------------------------------------------------------------------------------------------


def _columns(scorers: Sequence[Scorer], std: bool) -> list[str]:
    return [name for one in scorers for name in (one.column, *[_std_column(one)] * std)]


def _std_column(scorer: Scorer) -> str:
    return "std" if scorer.column == "score" else f"{scorer.column} std"


def scored(
    scorers: Sequence[Scorer],
    queries: Sequence[tuple[int, Query]],
    find_reference: ReferenceFinder | None,
    columns: Sequence[str],
    jobs: int,
    device: str,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each query; memory does not grow with their number."""
    from sklearn_iqa._base.ahead import ahead, n_threads  # here, since it imports torch
    from sklearn_iqa._base.devices import resolve_device
    from sklearn_iqa._base.images import read_image

    def opened(item: tuple[int, Query]) -> tuple[dict[str, Any], Any]:
        number, query = item
        row: dict[str, Any] = dict.fromkeys(columns) | {"image": query.path}
        try:
            _check_exists(query.path)  # first: a missing image has no reference
            if find_reference is None:
                return row, (read_image(query.path),)
            row["reference"] = find_reference(number)
            return row, (read_image(query.path, "The query"), read_image(row["reference"], "The reference"))
        except INPUT_ERRORS as error:
            row["error"] = _about_one_image(error)
            return row, None

    resolved = resolve_device(device)
    with contextlib.closing(ahead(opened, queries, n_threads(jobs, resolved))) as futures:
        n_together = ROWS_TOGETHER.get(resolved.type, 1)
        while group := list(itertools.islice(futures, n_together)):
            pairs = [future.result() for future in group]
            usable = [(row, images) for row, images in pairs if images is not None]
            for scorer in scorers:
                _fill(scorer, usable, _std_column(scorer) in columns)
            for row, _ in pairs:
                yield row


def _fill(scorer: Scorer, usable: list[tuple[dict[str, Any], Any]], std: bool) -> None:
    """Put the scores of a method into rows: of all together, or where one cannot be used of each by itself."""
    if not usable:
        return
    X = [images if scorer.compares else images[0] for _, images in usable]
    try:
        found = scorer.estimator.predict(X, return_std=True) if std else (scorer.estimator.predict(X),)
    except INPUT_ERRORS as error:
        if len(usable) == 1:
            row = usable[0][0]
            row["error"] = row["error"] or _about_one_image(error)
            return
        for one in usable:
            _fill(scorer, [one], std)
        return
    for name, values in zip((scorer.column, _std_column(scorer)), found, strict=False):
        for (row, _), value in zip(usable, values, strict=True):
            row[name] = float(value)


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"The image {path!r} does not exist: check the path.")


def _about_one_image(error: Exception) -> str:
    """Message of an error without the row of X, which holds one image here."""
    return one_line(error).replace(" in row 0 of X", "").replace("Row 0 of X", "The image")


def _sorted(rows: Iterable[dict[str, Any]], scorer: Scorer, sort: str, top: int | None) -> list[dict[str, Any]]:
    """Rows in the order asked for, those without a score last."""

    def place(row):
        if sort == "name":
            return row["image"]
        value = row[scorer.column]
        falling = scorer.higher_is_better == (sort == "best")
        return math.inf if value is None else -value if falling else value

    return sorted(rows, key=place)[:top]


def _rounded(value: Any, digits: int) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value

# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa evaluate`: how well a method agrees with people's ratings."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from sklearn_iqa.cli.files import Query, WrongUse, compares, one_line, read_table
from sklearn_iqa.cli.methods import named, parse_settings
from sklearn_iqa.cli.output import INPUT_ERRORS, running_options, table_lines
from sklearn_iqa.cli.score import SOME_ROWS_FAILED, check_options, scored, scorer

__all__ = ["agreement", "evaluate", "figures_table", "read_ratings"]

FEWEST = 5  # rated images of a group: the curve has five parameters
CONFIDENCE = 0.95


class Rated(NamedTuple):
    """Rows of a table of ratings."""

    images: list[str]
    scores: np.ndarray
    groups: list[str] | None
    references: list[str] | None


@click.command(short_help="Compare a method with people's ratings.")
@click.argument("method")
@click.argument("ratings", type=click.Path(exists=True, dir_okay=False), metavar="RATINGS.CSV")
@click.option("--image", default="image", show_default=True, metavar="COLUMN", help="Column of the image files.")
@click.option("--score", default="score", show_default=True, metavar="COLUMN", help="Column of the ratings.")
@click.option("--group", metavar="COLUMN", help="Column by whose values the figures are also given apart.")
@click.option("--reference", metavar="COLUMN", help="For methods that compare: column of the reference files.")
@click.option(
    "--lower-is-better", is_flag=True, help="The ratings are of the loss of quality, as DMOS: less means better."
)
@click.option("--weights", metavar="NAME|PATH", help="As in score.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="As in score.")
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Bootstrap samples that the intervals come from; 0 leaves them out.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw scores and ratings: .png, .svg, .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object in place of the table.")
@running_options
@click.pass_context
def evaluate(
    ctx, method, ratings, image, score, group, reference, lower_is_better, weights, settings, device, jobs, resamples,
    plot, as_json, quiet,
):  # fmt: skip
    """Compare the scores of METHOD, a name from list, default or a file of fit, with the ratings in a CSV file.

    Files are named relative to the table. SRCC, PLCC (of the scores as they are, and after the logistic curve), KRCC
    and RMSE (after the curve, in the unit of the ratings) come with 95 % bootstrap intervals. 1 is the best correlation
    whichever way scores and ratings point.
    """
    found = named(method)
    check_options({method: found}, weights, settings)
    _check_reference(method, found, reference)
    rated = read_ratings(ratings, image, score, group, reference)
    parameters = parse_settings(found, settings) if isinstance(found, type) else {}
    ready = scorer(method, found, parameters | {"device": device}, weights, quiet, alone=True)
    queries = [(number, Query(path, PurePath(path))) for number, path in enumerate(rated.images)]
    find_reference = None if rated.references is None else rated.references.__getitem__
    rows = scored([ready], queries, find_reference, ["image", "reference", "score", "error"], jobs, device)
    rows = list(tqdm(rows, total=len(queries), unit="image", disable=quiet or None))
    failed = [row for row in rows if row["error"] is not None]
    if failed and not quiet:
        click.echo(
            f"{len(failed)} of {len(rows)} images could not be scored and do not count; the first: "
            f"{failed[0]['image']}: {failed[0]['error']}",
            err=True,
        )
    kept = np.array([row["error"] is None for row in rows], dtype=bool)
    if kept.sum() < FEWEST:
        raise click.ClickException(
            f"{kept.sum()} of {len(rows)} images have a score, but {FEWEST} are needed: check the paths in {ratings}."
        )
    scores = np.array([row["score"] for row in rows], dtype=float)[kept]
    opinions = rated.scores[kept]
    sign = (1 if ready.higher_is_better else -1) * (-1 if lower_is_better else 1)
    names = None if rated.groups is None else np.array(rated.groups)[kept]
    parts = {"all": np.ones(len(scores), dtype=bool)}
    if names is not None:
        parts |= {f"{group}={name}": names == name for name in sorted(set(names))}
    figures = {name: agreement(opinions[part], sign * scores[part], resamples) for name, part in parts.items()}
    if plot is not None:
        _draw(plot, method, opinions, scores)
    if as_json:
        click.echo(json.dumps({"method": method, "ratings": ratings, "failed": len(failed), "figures": figures}))
    else:
        click.echo("\n".join(figures_table(figures)))
    if failed:
        ctx.exit(SOME_ROWS_FAILED)


def _check_reference(name: str, method: Any, reference: str | None) -> None:
    if compares(method) and reference is None:
        raise WrongUse(f"{name} compares each image with a {method.inputs[-1]}: give --reference COLUMN.")
    if reference is not None and not compares(method):
        raise WrongUse(f"{name} takes no reference: leave --reference out.")


# Ratings --------------------------------------------------------------------------------------------------------------


def read_ratings(path: str, image: str, score: str, group: str | None, reference: str | None) -> Rated:
    """Read a table of ratings; files in it are relative to its folder."""
    columns = {"image": image, "score": score, "group": group, "reference": reference}
    rows = read_table(path, columns)
    if not rows:
        raise click.ClickException(f"{path} holds no row: give one for each rated image.")
    folder = Path(path).parent
    numbers = [_number(row[score], path, place, score) for place, row in enumerate(rows, start=2)]
    return Rated(
        [os.path.join(folder, row[image]) for row in rows],
        np.array(numbers),
        None if group is None else [row[group] for row in rows],
        None if reference is None else [os.path.join(folder, row[reference]) for row in rows],
    )


def _number(text: str | None, path: str, line: int, column: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise click.ClickException(f"Row {line} of {path} holds {text!r} in {column}: give a finite number.")
    return value


# Figures --------------------------------------------------------------------------------------------------------------


def agreement(opinions: np.ndarray, scores: np.ndarray, resamples: int) -> dict[str, Any]:
    """Figures of some images: each with its value and, with resamples, the ends of its interval."""
    from sklearn_iqa import metrics

    if len(scores) < FEWEST:
        return {"n": len(scores)}
    # The curve stands as it was fitted to all images: fitted anew to each sample it would take minutes.
    mapped = metrics.fit_logistic(opinions, scores)(scores)
    kinds: dict[str, tuple[Callable, np.ndarray]] = {
        "SRCC": (metrics.srcc, scores),
        "PLCC": (metrics.plcc, scores),
        "PLCC, logistic": (metrics.plcc, mapped),
        "KRCC": (metrics.krcc, scores),
        "RMSE, logistic": (metrics.rmse, mapped),
    }
    figures: dict[str, Any] = {"n": len(scores)}
    for name, (metric, predicted) in kinds.items():
        figures[name] = {"value": float(metric(opinions, predicted))}
        if resamples:
            low, high = _interval(metric, opinions, predicted, resamples)
            figures[name] |= {"low": low, "high": high}
    return figures


def _interval(metric: Callable, opinions: np.ndarray, scores: np.ndarray, resamples: int) -> tuple[float, float]:
    from scipy.stats import bootstrap
    from sklearn.exceptions import UndefinedMetricWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # of samples that are one image many times
        found = bootstrap(
            (opinions, scores),
            metric,
            paired=True,
            vectorized=False,
            n_resamples=resamples,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


def figures_table(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Lines of the figures of all images, with their intervals, and of those of each group."""
    own = figures["all"]
    yield f"{own['n']} images"
    names = [name for name in own if name != "n"]
    intervals = [f"{own[name]['low']:.3f} to {own[name]['high']:.3f}" if "low" in own[name] else "" for name in names]
    values = [f"{own[name]['value']:.3f}" for name in names]
    yield from table_lines(("", "value", f"{CONFIDENCE:.0%} interval"), zip(names, values, intervals, strict=True))
    groups = {part: rows for part, rows in figures.items() if part != "all"}
    if groups:
        yield ""
        cells = [
            (part, str(rows["n"]), *(f"{rows[name]['value']:.3f}" if name in rows else "too few" for name in names))
            for part, rows in groups.items()
        ]
        yield from table_lines(("", "images", *names), cells, wrap=False)


def _draw(path: str, name: str, opinions: np.ndarray, scores: np.ndarray) -> None:
    from sklearn_iqa import AgreementDisplay

    try:
        import matplotlib as mpl

        mpl.use("agg")
        display = AgreementDisplay.from_predictions(opinions, scores, name=name)
        display.ax_.set(ylabel="Rating")
        display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    except ImportError as error:
        raise click.ClickException("--plot needs matplotlib: pip install 'sklearn-iqa[plot]'.") from error
    except INPUT_ERRORS as error:
        raise click.ClickException(f"The plot cannot be written to {path} ({one_line(error)}).") from error

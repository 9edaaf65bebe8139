# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa report`: scores as one page that needs nothing else, to be looked at in a browser."""

import base64
import importlib.resources
import io
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

import sklearn_iqa
from sklearn_iqa.cli.files import WrongUse, compares, find_queries, read_table, reference_finder
from sklearn_iqa.cli.methods import named, parse_settings
from sklearn_iqa.cli.output import INPUT_ERRORS, running_options
from sklearn_iqa.cli.score import Scorer, check_options, scored, scorer

__all__ = ["report", "write_report"]

SIDE = 320  # longest side of a picture in pixels
N_BARS = 24
N_PICTURES = 8


@click.command(short_help="Write scores as a page for a browser.")
@click.argument("source", metavar="FOLDER|SCORES.CSV")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, metavar="FILE", help="The new page.")
@click.option("--method", default="default", show_default=True, help="What scores the images of a folder; as in score.")
@click.option("--weights", metavar="NAME|PATH", help="As in score.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="As in score.")
@click.option("--reference", "references", multiple=True, metavar="PATH", help="As in score.")
@click.option("--score", default="score", show_default=True, metavar="COLUMN", help="Column of the scores in a table.")
@click.option("--image", default="image", show_default=True, metavar="COLUMN", help="Column of the files in a table.")
@click.option("--rating", metavar="COLUMN", help="Column of people's ratings in a table.")
@click.option("--lower-is-better", is_flag=True, help="Of the scores of a table, less means better.")
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=N_PICTURES,
    show_default=True,
    help="Of the worst; and of the best.",
)
@click.option("-r", "--recursive", is_flag=True, help="Search the subfolders of the folder too.")
@running_options
def report(
    source, out, method, weights, settings, references, score, image, rating, lower_is_better, pictures, recursive,
    device, jobs, quiet,
):  # fmt: skip
    """Write a page with the distribution of scores, the worst and the best images, and a table that can be sorted.

    The images are those of a folder, which are scored first, or those of a table that score wrote. The page is one file
    and needs no network.
    """
    if os.path.isdir(os.path.expanduser(source)):
        if rating is not None:
            raise WrongUse("A folder holds no ratings: give a table of scores that has a column of them.")
        rows, used = _scored_folder(source, method, weights, settings, references, recursive, device, jobs, quiet)
        higher_is_better, name = used.higher_is_better, method
    else:
        rows, used = _read_scores(source, image, score, rating), None
        higher_is_better, name = not lower_is_better, os.path.basename(source)
    write_report(out, rows, name=name, higher_is_better=higher_is_better, scorer=used, n_pictures=pictures)
    if not quiet:
        click.echo(f"Written: {out}", err=True)


def _scored_folder(
    source, method, weights, settings, references, recursive, device, jobs, quiet
) -> tuple[list[dict[str, Any]], Scorer]:
    found = named(method)
    check_options({method: found}, weights, settings)
    parameters = parse_settings(found, settings) if isinstance(found, type) else {}
    queries = find_queries([source], recursive).queries
    find_reference = reference_finder(found, queries, references)
    ready = scorer(method, found, parameters | {"device": device}, weights, quiet, alone=True)
    columns = ["image", *["reference"] * compares(found), "score", "error"]
    rows = scored([ready], list(enumerate(queries)), find_reference, columns, jobs, device)
    return list(tqdm(rows, total=len(queries), unit="image", disable=quiet or None)), ready


def _read_scores(source: str, image: str, score: str, rating: str | None) -> list[dict[str, Any]]:
    found = read_table(source, {"image": image, "score": score, "rating": rating})
    rows = []
    for row in found:
        value = _number(row[score])
        reason = row.get("error") or (None if value is not None else "no score")
        rows.append({"image": row[image], "score": value, "error": reason, "rating": _number(row.get(rating or ""))})
    return rows


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


# The page -------------------------------------------------------------------------------------------------------------


def write_report(
    out: str,
    rows: Sequence[dict[str, Any]],
    *,
    name: str,
    higher_is_better: bool,
    scorer: Scorer | None = None,
    n_pictures: int = N_PICTURES,
) -> None:
    """Write the page of rows with image, score, error and, where they are known, reference and rating."""
    import jinja2

    good = [row for row in rows if row["score"] is not None]
    if not good:
        raise click.ClickException(f"None of {len(rows)} images has a score, so that there is nothing to show.")
    ranked = sorted(good, key=lambda row: row["score"], reverse=not higher_is_better)  # the worst first
    n_pictures = min(n_pictures, (len(ranked) + 1) // 2)
    values = np.array([row["score"] for row in good])
    has_rating = any(row.get("rating") is not None for row in good)
    columns = ["image", "score", *["rating"] * has_rating, *["error"] * (len(good) < len(rows))]
    direction = f"{'higher' if higher_is_better else 'lower'} is better"
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        importlib.resources.files("sklearn_iqa.cli").joinpath("report.html").read_text(encoding="utf-8")
    )
    text = page.render(
        title=f"Image quality: {name}",
        summary=f"{len(good)} images, scores from {values.min():.4g} to {values.max():.4g}, median "
        f"{np.median(values):.4g}; {direction}.",
        failed=f"{len(rows) - len(good)} images have no score, see the table." if len(good) < len(rows) else "",
        direction=direction,
        histogram=_histogram(values),
        agreement=_agreement([row for row in good if row.get("rating") is not None], higher_is_better),
        galleries=[
            (heading, [_picture(row, scorer) for row in part])
            for heading, part in (
                ("The worst", ranked[:n_pictures]),
                ("The best", ranked[::-1][: min(n_pictures, len(ranked) - n_pictures)]),
            )
            if part
        ],
        map_meaning=_map_meaning(scorer),
        columns=columns,
        rows=[[_cell(row.get(column)) for column in columns] for row in rows],
        footer=f"Written by sklearn-iqa {sklearn_iqa.__version__}.",
    )
    try:
        with open(os.path.expanduser(out), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written ({error.strerror}): name another file.") from error


def _cell(value: Any) -> dict[str, Any]:
    if isinstance(value, float):
        return {"text": f"{value:.4g}", "number": value}
    return {"text": "" if value is None else str(value), "number": None}


def _histogram(values: np.ndarray) -> dict[str, Any]:
    """Bars between 40 and 620 from the left and 20 and 200 from the top."""
    counts, edges = np.histogram(values, bins=min(N_BARS, max(1, len(np.unique(values)))))
    width = 580 / len(counts)
    bars = [
        {
            "x": round(40 + place * width, 1),
            "y": round(200 - 180 * count / counts.max(), 1),
            "width": round(max(1.0, width - 1), 1),
            "height": round(180 * count / counts.max(), 1),
            "title": f"{edges[place]:.4g} to {edges[place + 1]:.4g}: {count}",
        }
        for place, count in enumerate(counts)
    ]
    ticks = [
        {"x": round(40 + 580 * part, 1), "text": f"{edges[0] + part * (edges[-1] - edges[0]):.3g}"}
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    label = f"Histogram of {len(values)} scores from {edges[0]:.4g} to {edges[-1]:.4g}; most lie near "
    label += f"{(edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2:.4g}."
    return {"bars": bars, "ticks": ticks, "most": int(counts.max()), "label": label}


def _agreement(rows: list[dict[str, Any]], higher_is_better: bool) -> dict[str, Any] | None:
    """Points between 50 and 410 from the left and 10 and 370 from the top."""
    if len(rows) < 3:
        return None
    from sklearn_iqa.metrics import plcc_logistic, srcc

    scores, ratings = (np.array([row[key] for row in rows]) for key in ("score", "rating"))
    sign = 1 if higher_is_better else -1
    sentence = (
        f"{len(rows)} images with a rating: SRCC {srcc(ratings, sign * scores):.3f}, PLCC after the logistic curve "
        f"{plcc_logistic(ratings, scores):.3f}."
    )
    across, up = _scaled(scores), 1 - _scaled(ratings)
    points = [
        {"x": round(50 + 360 * x, 1), "y": round(10 + 360 * y, 1), "title": f"{row['image']}: {row['score']:.4g}"}
        for row, x, y in zip(rows, across, up, strict=True)
    ]
    ticks = [
        {"x": 50, "y": 386, "anchor": "start", "text": f"{scores.min():.3g}"},
        {"x": 410, "y": 386, "anchor": "end", "text": f"{scores.max():.3g}"},
        {"x": 46, "y": 372, "anchor": "end", "text": f"{ratings.min():.3g}"},
        {"x": 46, "y": 20, "anchor": "end", "text": f"{ratings.max():.3g}"},
    ]
    return {"sentence": sentence, "points": points, "ticks": ticks}


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values between 0 and 1; the middle where all are equal."""
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.full(len(values), 0.5)


def _picture(row: dict[str, Any], scorer: Scorer | None) -> dict[str, Any]:
    from sklearn_iqa._base.images import read_image

    name, score = PurePath(row["image"]).name, f"{row['score']:.4g}"
    made = {"name": row["image"], "score": score, "alt": f"{name}, score {score}", "map": "", "width": 1, "height": 1}
    try:
        pixels = read_image(row["image"])
    except INPUT_ERRORS:  # a table may be older than its files: the picture is then empty, beside its name
        return made | {"data": "data:,", "alt": f"{name}, score {score}; the file cannot be opened"}
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    return made | {
        "data": _encoded(image),
        "width": image.width,
        "height": image.height,
        "map": _map(row, scorer, image.size),
    }


def _map(row: dict[str, Any], scorer: Scorer | None, size: tuple[int, int]) -> str:
    """The quality map of a picture as an image; "" where the method makes none."""
    if scorer is None or not hasattr(scorer.estimator, "quality_map"):
        return ""
    x = (row["image"], row["reference"]) if scorer.compares else row["image"]
    found = scorer.estimator.quality_map(x)
    shades = (255 * _scaled(found.ravel())).astype(np.uint8).reshape(found.shape)
    return _encoded(Image.fromarray(shades).resize(size))


def _map_meaning(scorer: Scorer | None) -> str:
    if scorer is None:
        return ""
    return "bright where quality is high" if scorer.higher_is_better else "bright where the images differ"


def _encoded(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"

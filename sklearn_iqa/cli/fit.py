# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa fit`: a model trained on people's ratings, cross-validated, in one file with its card."""

import os
import sys
from typing import Any

import click
import numpy as np

import sklearn_iqa
from sklearn_iqa.cli.evaluate import Rated, agreement, figures_table, read_ratings
from sklearn_iqa.cli.files import WrongUse, one_line
from sklearn_iqa.cli.methods import DEFAULT, MODEL, find_method, parse_settings, plain
from sklearn_iqa.cli.output import INPUT_ERRORS, running_options, warnings_as_lines

__all__ = ["fit"]


@click.command(short_help="Train a model on people's ratings.")
@click.argument("method")
@click.argument("ratings", type=click.Path(exists=True, dir_okay=False), metavar="RATINGS.CSV")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, metavar="FILE", help="The new file.")
@click.option("--image", default="image", show_default=True, metavar="COLUMN", help="Column of the image files.")
@click.option("--score", default="score", show_default=True, metavar="COLUMN", help="Column of the ratings.")
@click.option(
    "--group",
    metavar="COLUMN",
    help="Column of what cross-validation must not tear apart, such as the original of damaged images.",
)
@click.option("--reference", metavar="COLUMN", help="For methods that compare: column of the reference files.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the method: --set max_epochs=20."
)
@click.option("--weights", metavar="NAME|PATH", help="Where training starts: published weights by name, or a file.")
@click.option(
    "--cv", type=click.IntRange(min=2), metavar="N", help="Cross-validate first: train N times on the rest of N parts."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the parts and of the training.")
@running_options
def fit(method, ratings, out, image, score, group, reference, settings, weights, cv, seed, device, jobs, quiet):
    """Train METHOD, a name from list or default, on the ratings in a CSV file, and write the model to a file.

    Ratings are numbers, higher is better, and files are named relative to the table. The file holds the model and a
    card of what it was trained on; score and evaluate take it in place of a method, and Python reads it by
    sklearn_iqa.load_model.
    """
    found = None if plain(method) == DEFAULT else find_method(method, DEFAULT)
    if found is None and (settings or weights):
        raise WrongUse("The default model has no variants: leave --set and --weights out.")
    if not out.endswith(MODEL):
        raise WrongUse(
            f"{out} does not end in {MODEL}, by which score and evaluate know a model: write --out NAME{MODEL}."
        )
    if os.path.exists(out):
        raise WrongUse(f"{out} exists: name a new file, or remove it.")
    _check_folder(out)
    rated = read_ratings(ratings, image, score, group, reference)
    X = rated.images if rated.references is None else list(zip(rated.images, rated.references, strict=True))
    given = {"device": device, "n_jobs": jobs}
    try:
        model = _model(found, given, settings, weights, seed, verbose=int(not quiet and sys.stderr.isatty()))
        figures = None
        with warnings_as_lines(quiet):
            if cv is not None:
                predicted = _held_out(model, X, rated, cv, seed, quiet)
                figures = agreement(rated.scores, predicted, resamples=1000)
            model.fit(X, rated.scores)
        card = {
            "method": DEFAULT if found is None else found.__name__,
            "settings": list(settings),
            "rows": len(rated.images),
            "ratings": {"file": os.path.basename(ratings), "image": image, "score": score, "group": group},
            "protocol": _protocol(cv, group, seed),
            "figures": figures,
        }
        sklearn_iqa.save_model(model, out, card=card)
    except INPUT_ERRORS as error:
        raise click.ClickException(one_line(error)) from error
    if figures is not None:
        click.echo("\n".join(figures_table({"all": figures})))
    if not quiet:
        click.echo(f"Written: {out}. Next: sklearn-iqa score {out} PATHS", err=True)


def _check_folder(out: str) -> None:
    folder = os.path.dirname(os.path.abspath(out))
    if not os.access(folder, os.W_OK):
        raise click.ClickException(f"{out} cannot be written: make the folder {folder}, or name another file.")


def _model(method: Any, given: dict[str, Any], settings, weights: str | None, seed: int, *, verbose: int) -> Any:
    """An estimator that is not fitted."""
    if method is None:
        model = sklearn_iqa.load_quality_model()
        return model.set_params(**{f"features__{name}": value for name, value in given.items()})
    own = {"random_state": seed, "verbose": verbose} | parse_settings(method, settings) | given
    return method(**own) if weights is None else method(**own, weights=weights)


def _held_out(model: Any, X: list, rated: Rated, cv: int, seed: int, quiet: bool) -> np.ndarray:
    """Score of each row by a model that was trained without its part."""
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold, KFold

    y, groups = rated.scores, rated.groups
    if groups is not None and len(set(groups)) < cv:
        raise ValueError(f"There are {len(set(groups))} groups for {cv} parts: lower --cv, or leave --group out.")
    parts = KFold if groups is None else GroupKFold
    predicted = np.full(len(y), np.nan)
    for number, (train, test) in enumerate(parts(cv, shuffle=True, random_state=seed).split(X, y, groups), start=1):
        if not quiet:
            click.echo(f"Part {number} of {cv}: {len(train)} rows to train, {len(test)} held out", err=True)
        fold = clone(model).fit([X[row] for row in train], y[train])
        predicted[test] = fold.predict([X[row] for row in test])
    return predicted


def _protocol(cv: int | None, group: str | None, seed: int) -> str:
    if cv is None:
        return "none: trained on all rows, and not tested"
    kept = "" if group is None else f", rows of equal {group!r} in one part"
    return f"{cv}-fold cross-validation{kept}, seed {seed}: figures over the held-out rows of all parts together"

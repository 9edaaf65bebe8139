# SPDX-License-Identifier: BSD-3-Clause
"""The methods of the command line: found by name, with parameters from text."""

import ast
import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import click

import sklearn_iqa
from sklearn_iqa.cli.files import WrongUse, one_line

MODEL = ".skops"  # ending of a file of a fitted model
DEFAULT = "default"  # in place of a method: the model of `load_quality_model`
OWN_OPTIONS = ("weights", "device", "n_jobs", "verbose")  # parameters that --set leaves to options


def all_methods() -> list[Any]:
    """Classes of all methods, by name."""
    # Imported here, since it imports torch, which --help does not need.
    from sklearn_iqa._base.quality import QualityRegressor

    members = (getattr(sklearn_iqa, name) for name in sorted(sklearn_iqa.__all__, key=str.casefold))
    return [member for member in members if isinstance(member, type) and issubclass(member, QualityRegressor)]


def _by_name(classes: Iterable[Any]) -> dict[str, Any]:
    """Classes by their names and those of their files, as `plain` gives them."""
    return {plain(name): one for one in classes for name in (one.__module__.rpartition(".")[2], one.__name__)}


def is_method(name: str) -> bool:
    """Whether a word names a method, with weights or without, the default model, or a file of a fitted one."""
    if name.endswith(MODEL) or plain(name) == DEFAULT:
        return True
    return plain(name.partition(":")[0]) in _by_name(all_methods())


def named(name: str) -> Any:
    """The class of a method, the fitted model of a file, or None for the default model."""
    if plain(name) == DEFAULT:
        return None
    if not name.endswith(MODEL):
        return find_method(name.partition(":")[0], DEFAULT)
    try:
        return sklearn_iqa.load_model(name)
    except (OSError, ValueError) as error:
        raise click.ClickException(one_line(error)) from error


def _all_transformers() -> list[Any]:
    """Public classes that give features."""
    from sklearn.base import TransformerMixin

    members = (getattr(sklearn_iqa, name) for name in sklearn_iqa.__all__)
    return [member for member in members if isinstance(member, type) and issubclass(member, TransformerMixin)]


def find_method(name: str, *others: str) -> Any:
    """Find a class by its name or that of its file, whatever the case; `others` are names to suggest beside them."""
    known = _by_name(all_methods())
    if plain(name) in known:
        return known[plain(name)]
    if (features := _by_name(_all_transformers()).get(plain(name))) is not None:
        raise WrongUse(
            f"{features.__name__} gives features and no scores: fit a regressor behind it in Python "
            f"(make_pipeline({features.__name__}(), Ridge())), or take a method of `sklearn-iqa list`."
        )
    shown = {key: method.__name__ for key, method in known.items()} | dict(zip(others, others, strict=True))
    close = difflib.get_close_matches(plain(name), shown, n=5, cutoff=0.5)
    names = ", ".join(dict.fromkeys(shown[match] for match in close))
    advice = f"did you mean {names}? " if names else ""
    raise WrongUse(f"There is no method {name!r}: {advice}`sklearn-iqa list` shows all.")


def is_cached(entry: Any) -> bool:
    """Whether all files of published weights are at hand."""
    from sklearn_iqa._weights import pretrained

    return all(pretrained.is_cached(file) for file in entry.files)


def plain(name: str) -> str:
    """A name without case, underscores and hyphens."""
    return name.casefold().replace("_", "").replace("-", "")


def parse_settings(method: Any, settings: Iterable[str]) -> dict[str, Any]:
    """The settings NAME=VALUE as constructor arguments."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(method).parameters.items()
        if name not in OWN_OPTIONS
    }
    parameters = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise WrongUse(f"--set {setting} has no value: write --set NAME=VALUE.")
        if name not in defaults:
            raise WrongUse(f"{method.__name__} has no parameter {name!r} to set: it takes {', '.join(defaults)}.")
        parameters[name] = parse_value(text, defaults[name])
    return parameters


def parse_value(text: str, default: Any) -> Any:
    """Text as a Python literal, or as text: where it is no literal, and for numbers where the default is text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(default, str) and isinstance(value, int | float) else value

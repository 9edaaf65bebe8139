# SPDX-License-Identifier: BSD-3-Clause
"""The methods of the command line: found by name, with parameters from text."""

import ast
import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import sklearn_iqa
from sklearn_iqa.cli.files import WrongUse

OWN_OPTIONS = ("weights", "device", "n_jobs", "verbose")  # parameters that --set leaves to options


def all_methods() -> list[Any]:
    """Classes of all methods, by name."""
    # Imported here, since it imports torch, which --help does not need.
    from sklearn_iqa._base.quality import QualityRegressor

    members = (getattr(sklearn_iqa, name) for name in sorted(sklearn_iqa.__all__, key=str.casefold))
    return [member for member in members if isinstance(member, type) and issubclass(member, QualityRegressor)]


def find_method(name: str, *others: str) -> Any:
    """Find a class by its name or that of its file, whatever the case; `others` are names to suggest beside them."""
    known: dict[str, Any] = {}
    for method in all_methods():
        known |= {plain(method.__name__): method, plain(method.__module__.rpartition(".")[2]): method}
    if plain(name) in known:
        return known[plain(name)]
    shown = {key: method.__name__ for key, method in known.items()} | dict(zip(others, others, strict=True))
    close = difflib.get_close_matches(plain(name), shown, n=5, cutoff=0.5)
    names = ", ".join(dict.fromkeys(shown[match] for match in close))
    advice = f"did you mean {names}? " if names else ""
    raise WrongUse(f"There is no method {name!r}: {advice}`sklearn-iqa list` shows all.")


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

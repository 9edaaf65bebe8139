# SPDX-License-Identifier: BSD-3-Clause
"""Fitted models as files: parameters and arrays in one file, a card of what it was trained on, and nothing pickled."""

import datetime
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["load_model", "model_card", "save_model"]

CARD = "card.json"  # beside what skops keeps in the same file
VERSIONS = ("sklearn-iqa", "scikit-learn", "torch", "timm", "open_clip_torch", "numpy")
OWN = "sklearn_iqa."  # the module names of what a file may hold beside what skops trusts itself


def save_model(model: Any, path: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None) -> None:
    """Write a fitted estimator, or a pipeline of such, to one file that :func:`load_model` reads.

    The file is one of skops: a zip of arrays and JSON. It holds the network's weights as they are, but not those of
    frozen pretrained features, which are found again by name.

    Parameters
    ----------
    model : estimator
        Any of this package, or a pipeline of them and of estimators of scikit-learn.
    path : path
        The new file, by custom `*.skops`; replaced when it exists. `~` is the user's folder.
    card : mapping, default=None
        What to remember of the training, as JSON can hold it. The date, the class and versions are added.

    Raises
    ------
    OSError
        When the file cannot be written; one that exists is then unchanged.
    TypeError
        When the card holds what JSON cannot.

    See Also
    --------
    load_model : Read it.
    model_card : Read the card alone.

    Examples
    --------
    >>> import tempfile, os
    >>> import numpy as np
    >>> from sklearn_iqa import SRIF, load_model, model_card, save_model
    >>> path = os.path.join(tempfile.mkdtemp(), "srif.skops")
    >>> save_model(SRIF().initialize(), path, card={"data": "none"})
    >>> type(load_model(path)).__name__, model_card(path)["data"]
    ('SRIF', 'none')
    """
    import skops.io

    written = {
        "class": type(model).__name__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    text = json.dumps({**written, **(card or {})}, indent=1)
    target = Path(os.path.expanduser(path))
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        skops.io.dump(model, unfinished)
        with zipfile.ZipFile(unfinished, "a") as file:
            file.writestr(CARD, text)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str], *, device: str | None = None) -> Any:
    """Read a fitted estimator that :func:`save_model` or `sklearn-iqa fit` wrote; no code in the file is run.

    Parameters
    ----------
    path : path
        The file. `~` is the user's folder.
    device : str, default=None
        Where its networks shall run: "auto", "cpu", "cuda", "mps". None keeps the device of the training, or the CPU
        where this machine has no such device.

    Returns
    -------
    model : estimator
        Fitted.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no file of `save_model`, or holds objects of other packages, which are not trusted.
    """
    import skops.io

    path = os.path.expanduser(path)
    _open_card(path)
    foreign = [name for name in skops.io.get_untrusted_types(file=path) if not name.startswith(OWN)]
    if foreign:
        raise ValueError(
            f"{path} holds objects that are neither of this package nor trusted by skops ({', '.join(foreign)}); where "
            "you trust the file, load it by skops.io.load(path, trusted=[...])."
        )
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    if device is not None:
        move(model, device)
    return model


def model_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a file of :func:`save_model` says of its model: class, date, versions, and the card given there.

    Parameters
    ----------
    path : path
        The file. `~` is the user's folder.

    Returns
    -------
    card : dict
        As JSON holds it.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no file of `save_model`.
    """
    return _open_card(os.path.expanduser(path))


def _open_card(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path}; give one that save_model or `sklearn-iqa fit` wrote.")
    try:
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read(CARD))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no model; give a file that save_model or `sklearn-iqa fit` wrote.") from error


def move(model: Any, device: str) -> None:
    """Let the networks of an estimator, or of the steps of a pipeline, run elsewhere."""
    from sklearn_iqa._base.devices import prepare, resolve_device

    for part in [step for _, step in getattr(model, "steps", [("", model)])]:
        if "device" in getattr(part, "get_params", dict)():
            part.set_params(device=device)
        if hasattr(part, "network_"):
            part.device_ = resolve_device(device)
            part.network_ = prepare(part.network_, part.device_)

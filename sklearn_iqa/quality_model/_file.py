# SPDX-License-Identifier: BSD-3-Clause
"""The file of a fitted head: numbers as safetensors, nothing pickled."""

import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from sklearn.utils.validation import check_is_fitted

from sklearn_iqa.quality_model._head import QualityHead

ARRAYS = (
    *("mean_", "scale_", "components_", "landmarks_", "linear_", "dual_", "y_mean_", "length_"),
    *("spread_", "spread_range_"),
)


def write_head(head: QualityHead, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write a fitted head as safetensors: arrays, parameters and metadata.

    Parameters
    ----------
    head : QualityHead
        Fitted.
    path : path
        The file.
    metadata : dict of str to str
        For example its name, version, data and licence.
    """
    check_is_fitted(head)
    header = {**metadata, "parameters": json.dumps(head.get_params())}
    arrays = {name: np.ascontiguousarray(getattr(head, name)) for name in ARRAYS}
    Path(path).write_bytes(safetensors.numpy.save(arrays, metadata=header))


def read_head(path: str | os.PathLike[str]) -> QualityHead:
    """Read what `write_head` wrote; nothing is unpickled.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    QualityHead
        Fitted; `metadata_` holds what was written with it.

    Raises
    ------
    ValueError
        When the file holds something else.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata() or {})
        if set(file.keys()) != set(ARRAYS) or "parameters" not in metadata:
            raise ValueError(f"{os.fspath(path)} holds no quality head; give a file of write_head.")
        head = QualityHead(**json.loads(metadata.pop("parameters")))
        for name in ARRAYS:
            setattr(head, name, file.get_tensor(name))
    head.n_features_in_ = len(head.mean_)
    head.metadata_ = metadata
    return head

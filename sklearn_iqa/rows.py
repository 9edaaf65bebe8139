# SPDX-License-Identifier: BSD-3-Clause
"""Any container of images or pairs -> rows that are opened when they are needed.

Every sentence about a container that cannot be used is written here; those about one image are in `images`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sklearn_iqa.images import ACCEPTED, is_tensor, read_image, tensor_to_array

__all__ = ["ImageRows", "TupleRows", "check_images", "check_tuples", "count_images", "make_pairs"]


class ImageRows(Sequence):
    """Images by row number: `rows[i]` opens image i as RGB; `len(rows)` opens nothing."""

    def __init__(self, items: Sequence):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row):
        item = self.items[row]
        if isinstance(item, tuple | list) or (isinstance(item, np.ndarray) and item.ndim == 4):
            raise ValueError(
                f"Row {row} of X holds {len(item)} images, but one image is due here; methods that compare take pairs, "
                "this one takes X as a list of images or an array (n, height, width, 3)."
            )
        return read_image(item, f"Row {row} of X")

    def same(self, row: int):
        """Give a key of the content that rows share; single images share nothing."""
        return row


class TupleRows(Sequence):
    """Tuples of images by row number, such as (query, reference).

    Parameters
    ----------
    items : sequence of sequences
        `items[i]` holds the images of row i.
    names : tuple of str
        What the places of a tuple are called, for error messages.
    method : str
        Who asks, for error messages.
    same_size : bool
        Whether the images of one row must have one height and width.
    """

    def __init__(self, items: Sequence, names: tuple[str, ...], method: str, same_size: bool):
        self.items, self.names, self.method, self.same_size = items, names, method, same_size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row) -> tuple[np.ndarray, ...]:
        item = self.items[row]
        if not _is_tuple_of(item, len(self.names)):
            raise ValueError(
                f"{self.method} compares images: row {row} of X must be ({', '.join(self.names)}), but came as "
                f"{_describe(item)}; build X with make_pairs(queries, references)."
            )
        images = tuple(
            read_image(image, f"The {name} in row {row} of X") for name, image in zip(self.names, item, strict=True)
        )
        sizes = [image.shape[:2] for image in images]
        if self.same_size and len(set(sizes)) > 1:
            listed = ", ".join(f"{name} {h} x {w}" for name, (h, w) in zip(self.names, sizes, strict=True))
            raise ValueError(
                f"Row {row} of X holds images of different height x width ({listed}), but {self.method} compares pixel "
                "by pixel; crop or resize them to one size."
            )
        return images

    def same(self, row: int):
        """Give a key that rows share when their last image, the reference, is the same path, object or pixels."""
        reference = self.items[row][-1]
        if isinstance(reference, str | os.PathLike):
            return os.fspath(reference)
        if isinstance(reference, np.ndarray):
            return hashlib.sha1(np.ascontiguousarray(reference)).hexdigest()
        return id(reference)


def check_images(X: Any) -> ImageRows:
    """X as rows of single images; see `read_image` for what an image may be.

    Parameters
    ----------
    X : array (n, height, width, 3), or list, tuple, object array, pandas or polars Series of images
        The images; their sizes may differ in all but the first form.

    Returns
    -------
    rows : ImageRows

    Raises
    ------
    TypeError, ValueError
        When X is no container of images, or is empty.
    """
    items = _container(X)
    if isinstance(items, np.ndarray) and items.ndim == 5:
        raise ValueError(
            f"X has the shape {items.shape}, that is pairs, but single images are due here; take X[:, 0] for the "
            "queries."
        )
    if isinstance(items, np.ndarray) and items.ndim == 2:
        raise ValueError(
            f"X is a two-dimensional {items.dtype} array of shape {items.shape}, but X must hold images: an array "
            "(n, height, width, 3) or a list of images."
        )
    return ImageRows(items)


def check_tuples(X: Any, names: tuple[str, ...], method: str, same_size: bool = True) -> TupleRows:
    """X as rows of several images, such as (query, reference); see `read_image` for what an image may be.

    Parameters
    ----------
    X : array (n, k, height, width, 3), list of k-tuples, (n, k) object array, or data frame with k columns
        The images of each row.
    names : tuple of k str
        What the places of a tuple are called.
    method : str
        Who asks, for error messages.
    same_size : bool, default=True
        Whether the images of one row must have one size.

    Returns
    -------
    rows : TupleRows

    Raises
    ------
    TypeError, ValueError
        When X is no container of tuples of images, or is empty.
    """
    items = _container(X)
    if isinstance(items, np.ndarray) and items.ndim > 1 and items.shape[1] != len(names):
        raise ValueError(
            f"{method} compares images: X[i] must be ({', '.join(names)}), but came with the shape {items.shape[1:]}; "
            "build X with make_pairs(queries, references)."
        )
    return TupleRows(items, names, method, same_size)


def count_images(X: Any) -> int:
    """How many images the first row of X holds: 1 for single images, 2 for pairs, 3 for triplets."""
    items = _container(X)
    first = items[0]
    if isinstance(first, tuple | list) or (
        isinstance(first, np.ndarray) and (first.ndim == 4 or first.dtype == object)
    ):
        return len(first)
    return 1


def make_pairs(queries: Any, references: Any) -> list[tuple[Any, Any]]:
    """Put queries and references into the X of a method that compares.

    Parameters
    ----------
    queries : container of n images
        The images to be judged: anything that `fit` and `predict` of a single-image method take as X.
    references : container of n images, or one image
        The image beside each query. One single image (an array, a path, a PIL image) serves all queries.

    Returns
    -------
    X : list of n tuples (query, reference)
        Nothing is opened or copied.

    Raises
    ------
    ValueError
        When the numbers differ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import make_pairs
    >>> queries, reference = np.zeros((3, 8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    >>> X = make_pairs(queries, reference)
    >>> len(X), len(X[0]), X[2][1].shape
    (3, 2, (8, 8, 3))
    """
    query_items = _container(queries)
    if _is_single_image(references):
        return [(query_items[i], references) for i in range(len(query_items))]
    reference_items = _container(references)
    if len(reference_items) != len(query_items):
        raise ValueError(
            f"There are {len(query_items)} queries and {len(reference_items)} references; give one reference for each "
            "query, or a single image for all."
        )
    return [(query_items[i], reference_items[i]) for i in range(len(query_items))]


def _container(X: Any) -> Sequence | np.ndarray:
    """X as something with a length whose rows can be taken by number, nothing opened."""
    if isinstance(X, str | os.PathLike | Image.Image):
        raise TypeError(f"X is a single {type(X).__name__}, but must be a container of images; write [image] for one.")
    if isinstance(X, Mapping) or hasattr(X, "toarray"):
        raise TypeError(f"X is a {type(X).__name__}; give a list of images or an array (n, height, width, 3).")
    if is_tensor(X):
        X = tensor_to_array(X, "X") if X.ndim not in (4, 5) or X.shape[-1] in (1, 3) else [x for x in X]
    elif hasattr(X, "to_numpy") and hasattr(X, "columns"):  # a pandas or polars data frame: a column a place
        X = list(zip(*(list(X[name]) for name in X.columns), strict=True))
    elif hasattr(X, "to_list"):  # a pandas or polars Series
        X = X.to_list()
    if isinstance(X, np.ndarray):
        _check_array_container(X)
        if X.dtype.kind in "OUS" and X.ndim == 2:
            X = [tuple(row) for row in X]
    elif isinstance(X, Iterator) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise TypeError(f"X is a {type(X).__name__}; give a list of images or an array (n, height, width, 3).")
    if len(X) == 0:
        raise ValueError("X is empty (0 samples), but at least one image is needed.")
    return X


def _check_array_container(X: np.ndarray) -> None:
    if X.dtype.kind in "OUS" and X.ndim in (1, 2):
        return
    if X.dtype == object:
        raise ValueError(
            f"X is an object array of shape {X.shape}, of numbers one by one; turn it into numbers first, as in "
            "X.astype(np.uint8)."
        )
    if X.dtype.kind not in "buif":
        raise ValueError(f"X is an array of dtype {X.dtype} and shape {X.shape}, which holds no images; {ACCEPTED}.")
    if X.ndim == 3 and X.shape[-1] in (1, 3, 4):
        raise ValueError(f"X has the shape {X.shape}, that is one image; write X[np.newaxis] or [X] for one image.")
    if X.ndim not in (2, 3, 4, 5):
        raise ValueError(
            f"X has the shape {X.shape}; an array of images is (n, height, width, 3), an array of pairs "
            "(n, 2, height, width, 3). Reshape your data to one of these."
        )


def _is_single_image(x: Any) -> bool:
    if isinstance(x, str | os.PathLike | Image.Image):
        return True
    if isinstance(x, np.ndarray) or is_tensor(x):
        return (x.ndim == 2 and x.dtype != object) or (x.ndim == 3 and (x.shape[-1] in (1, 3) or x.shape[0] in (1, 3)))
    return False


def _is_tuple_of(item: Any, length: int) -> bool:
    if isinstance(item, np.ndarray) or is_tensor(item):
        return (item.ndim == 4 or item.dtype == object) and len(item) == length
    return isinstance(item, tuple | list) and len(item) == length


def _describe(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of length {len(item)}"
    shape = getattr(item, "shape", None)
    return f"an image of shape {tuple(shape)}" if shape is not None else f"a {type(item).__name__}"

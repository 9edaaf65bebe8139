# SPDX-License-Identifier: BSD-3-Clause
"""Any container of images or pairs -> rows that are opened when they are needed.

Every sentence about a container that cannot be used is written here; those about one image are in `images`.
"""

import copy
import hashlib
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from sklearn_iqa._base.images import ACCEPTED, is_tensor, read_image

__all__ = [
    "ImageRows",
    "KeptImages",
    "TupleRows",
    "check_images",
    "check_tuples",
    "count_images",
    "image_name",
    "make_pairs",
]

CONTAINERS = "a list of images or an array (n, height, width, 3)"
N_LISTED = 6  # columns or keys that a sentence names


class KeptImages:
    """`read_image` that keeps what it decodes of files, until the kept images take so many bytes; made for training.

    Epochs open every file again, and some stages cut many crops of one. Those that came first stay: where not all fit,
    none would stay until its next turn if the latest ones did.

    Parameters
    ----------
    n_bytes : int, default=2**28
        Bound.
    """

    def __init__(self, n_bytes: int = 2**28):
        self.n_bytes, self.images = n_bytes, dict[str, np.ndarray]()
        self.lock = threading.Lock()

    def __call__(self, image: Any, where: str) -> np.ndarray:
        """Give an image as RGB."""
        if not isinstance(image, str | os.PathLike):
            return read_image(image, where)
        path = _absolute(image)
        opened = self.images.get(path)
        if opened is None:
            opened = read_image(image, where)
            with self.lock:
                if path not in self.images and opened.nbytes <= self.n_bytes:
                    self.images[path] = opened
                    self.n_bytes -= opened.nbytes
        return opened


class ImageRows(Sequence):
    """Images by row number: `rows[i]` opens image i as RGB; `len(rows)` opens nothing."""

    def __init__(self, items: Sequence | np.ndarray):
        self.items = items
        self.read: Callable[[Any, str], np.ndarray] = read_image

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row):
        return self.read(self.unopened(row), f"Row {row} of X")

    def unopened(self, row: int) -> Any:
        """Give an image as it came."""
        item = self.items[row]
        if _group_size(item) is not None:
            raise ValueError(
                f"Row {row} of X is {_described(item)}, but one image is due here; methods that compare take pairs, "
                f"this one takes {CONTAINERS}."
            )
        return item

    def number(self, row: int) -> int:
        """Give the place of a row in X."""
        return row

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

    def __init__(self, items: Sequence | np.ndarray, names: tuple[str, ...], method: str, same_size: bool):
        self.items, self.names, self.method, self.same_size = items, names, method, same_size
        self.read: Callable[[Any, str], np.ndarray] = read_image
        self.places: Sequence[int] = range(len(names))

    def __len__(self) -> int:
        return len(self.items)

    def only(self, *places: int) -> "TupleRows":
        """Give the rows with the images at some places alone, so that the others are not opened."""
        rows = copy.copy(self)
        rows.places = [self.places[place] for place in places]
        return rows

    def __getitem__(self, row):
        item, names = self.unopened(row), [self.names[place] for place in self.places]
        images = tuple(
            self.read(item[place], f"The {name} in row {row} of X")
            for name, place in zip(names, self.places, strict=True)
        )
        sizes = [image.shape[:2] for image in images]
        if self.same_size and len(set(sizes)) > 1:
            listed = ", ".join(f"{name} {h} x {w}" for name, (h, w) in zip(names, sizes, strict=True))
            raise ValueError(
                f"Row {row} of X holds images of different height x width ({listed}), but {self.method} compares pixel "
                "by pixel; crop or resize them to one size."
            )
        return images

    def number(self, row: int) -> int:
        """Give the place of a row in X."""
        return row

    def same(self, row: int):
        """Give a key that rows share when their last image, the reference, is the same path or the same pixels."""
        place = self.places[-1]
        reference = self.unopened(row)[place]
        if isinstance(reference, str | os.PathLike):
            return _absolute(reference)
        pixels = np.ascontiguousarray(read_image(reference, f"The {self.names[place]} in row {row} of X"))
        return pixels.shape, pixels.dtype.str, hashlib.sha1(pixels.data).hexdigest()

    def unopened(self, row: int) -> Sequence:
        """Give all images of a row as they came."""
        item = self.items[row]
        if _group_size(item) != len(self.names):
            raise ValueError(
                f"{self.method} compares images: row {row} of X must be ({', '.join(self.names)}), but came as "
                f"{_described(item)}; build X with make_pairs(queries, references)."
            )
        return item


def check_images(X: Any) -> ImageRows:
    """X as rows of single images; see `read_image` for what an image may be.

    Parameters
    ----------
    X : array (n, height, width, 3), or list, tuple, object array, pandas or polars Series of images
        The images; their sizes may differ in all but the first form. Also an array (n, height, width) of grey images,
        a torch tensor (n, 3, height, width) or (n, height, width, 3), a data frame of one column, and an object array
        (n, 1).

    Returns
    -------
    rows : ImageRows

    Raises
    ------
    TypeError, ValueError
        When X is no container of images, or is empty; of a container whose rows are opened late, the first row tells.
    """
    return ImageRows(_single(X, "X"))


def check_tuples(X: Any, names: tuple[str, ...], method: str, same_size: bool = True) -> TupleRows:
    """X as rows of several images, such as (query, reference); see `read_image` for what an image may be.

    Parameters
    ----------
    X : array (n, k, height, width, 3), list of k-tuples, (n, k) object array, or data frame with k columns
        The images of each row. Also a torch tensor (n, k, 3, height, width).
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
    first = items[0]
    if _group_size(first) != len(names) or any(map(_is_label, first)):
        what, places = _form(X, first, "X")
        raise ValueError(
            f"{method} compares images: each row of X must be ({', '.join(names)}), but {what}; "
            f"{_advice_on_tuples(X, first, places, len(names))}."
        )
    return TupleRows(items, names, method, same_size)


def count_images(X: Any) -> int:
    """How many images the first row of X holds: 1 for single images, 2 for pairs, 3 for triplets."""
    size = _group_size(_container(X)[0])
    return 1 if size is None else size


def image_name(item: Any, where: str) -> tuple[str, np.ndarray | None]:
    """Name of an image by its content, and the image where it had to be opened for that."""
    if isinstance(item, str | os.PathLike):
        path = _absolute(item)
        try:
            status = os.stat(path)
        except OSError:
            read_image(item, where)  # raises the sentence on files
            raise
        return f"{path} {status.st_size} {status.st_mtime_ns}", None
    image = read_image(item, where)
    pixels = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image).data)
    return f"{pixels} {image.shape} {image.dtype}", image


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
    TypeError, ValueError
        When one of the two is no container of images, or when their numbers differ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import make_pairs
    >>> queries, reference = np.zeros((3, 8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    >>> X = make_pairs(queries, reference)
    >>> len(X), len(X[0]), X[2][1].shape
    (3, 2, (8, 8, 3))
    """
    query_items = _single(queries, "queries")
    if _is_single_image(references):
        return [(query_items[i], references) for i in range(len(query_items))]
    reference_items = _single(references, "references")
    if len(reference_items) != len(query_items):
        raise ValueError(
            f"There are {len(query_items)} queries and {len(reference_items)} references; give one reference for each "
            "query, or a single image for all."
        )
    return [(query_items[i], reference_items[i]) for i in range(len(query_items))]


def _absolute(path: str | os.PathLike) -> str:
    return os.path.abspath(os.path.expanduser(os.fsdecode(path)))


def _single(X: Any, name: str) -> Sequence | np.ndarray:
    """The rows of a container of single images."""
    items = _container(X, name)
    if isinstance(items, np.ndarray) and items.ndim == 5:
        raise ValueError(
            f"{name} has the shape {items.shape}, that is {items.shape[1]} images in each row, but one is due here; "
            f"take {name}[:, 0] for the first ones."
        )
    first = items[0]
    if isinstance(first, Mapping) or _group_size(first) is not None:
        what, places = _form(X, first, name)
        raise ValueError(f"{what}, but one image is due here; {_advice_on_images(X, first, places, name)}.")
    return items


def _columns(X: Any) -> list[Hashable]:
    """Names of the columns of a data frame; none of what is no data frame."""
    return list(X.columns) if hasattr(X, "itertuples") or hasattr(X, "iter_rows") else []


def _form(X: Any, first: Any, name: str) -> tuple[str, list]:
    """What a container holds in place of single images, and the columns, keys or places of its images.

    The first row tells.
    """
    columns = _columns(X)
    if isinstance(first, Mapping):
        members = dict(first)
    elif _group_size(first) is None:
        members = {}
    else:
        members = dict(zip(columns or range(len(first)), first, strict=True))
    places = [place for place, member in members.items() if _looks_like_image(member)]
    if columns:
        return f"{name} is a table with the columns {_listed(columns, 'columns')}", places
    if isinstance(first, Mapping):
        return f"{name} holds dicts with the keys {_listed(list(first), 'keys')}", places
    if len(members) == 2 and len(places) == 1:
        return f"{name} holds rows ({'image, label' if places == [0] else 'label, image'})", places
    return f"{name} holds {_described(first)} in each row", places


def _advice_on_images(X: Any, first: Any, places: list, name: str) -> str:
    if _columns(X):
        found = " or ".join(f"table[{place!r}]" for place in places[:N_LISTED])
        return (
            f"pass {found}"
            if found
            else "pass the column with the images, as none of them holds images in its first row"
        )
    if isinstance(first, Mapping):
        return f"pass [row[{places[0]!r}] for row in {name}]" if places else "pass the images alone"
    if len(places) == 1:
        return f"pass [row[{places[0]}] for row in {name}], and labels as y"
    return f"methods that compare take pairs, this one takes {CONTAINERS}"


def _advice_on_tuples(X: Any, first: Any, places: list, n_images: int) -> str:
    if _columns(X) and len(places) == n_images:
        return f"pass table[{places!r}]"
    if isinstance(first, Mapping) and len(places) == n_images == 2:
        queries, references = (f"[row[{place!r}] for row in X]" for place in places)
        return f"build X with make_pairs({queries}, {references})"
    apart = ", and give labels as y" if _group_size(first) is not None and any(map(_is_label, first)) else ""
    return f"build X with make_pairs(queries, references){apart}"


def _listed(names: list, kind: str) -> str:
    more = f" and others ({len(names)} {kind})" if len(names) > N_LISTED else ""
    return ", ".join(repr(name) for name in names[:N_LISTED]) + more


def _looks_like_image(item: Any) -> bool:
    """A guess for advice: a text may be a path or a label."""
    if isinstance(item, str):
        return os.path.splitext(item)[1] != ""
    if isinstance(item, np.ndarray) or is_tensor(item):
        return item.ndim in (2, 3)
    return isinstance(item, os.PathLike | Image.Image)


def _is_label(item: Any) -> bool:
    """Whether an item is a number or a row of numbers, but not NaN, which stands for an image that is missing."""
    if isinstance(item, Number | np.bool_):
        return item == item
    return (isinstance(item, np.ndarray) or is_tensor(item)) and item.ndim < 2


def _container(X: Any, name: str = "X") -> Sequence | np.ndarray:
    """X as something with a length whose rows can be taken by number, nothing opened."""
    if isinstance(X, str | bytes | os.PathLike | Image.Image):
        raise TypeError(
            f"{name} is a single {type(X).__name__}, but must be a container of images; write [image] for one."
        )
    if hasattr(X, "toarray"):
        raise TypeError(f"{name} is a sparse {type(X).__name__}, which holds no images; give {CONTAINERS}.")
    if is_tensor(X):
        X = _tensor_rows(X, name)
    elif hasattr(X, "itertuples"):  # a pandas data frame: a column a place
        X = X.iloc[:, 0].to_numpy() if X.shape[1] == 1 else list(X.itertuples(index=False, name=None))
    elif hasattr(X, "iter_rows"):  # a polars data frame
        X = X.to_series(0).to_numpy() if X.width == 1 else list(X.iter_rows())
    elif hasattr(X, "to_numpy"):  # a pandas or polars Series
        X = X.to_numpy()
    if isinstance(X, np.ndarray):
        X = _array_rows(X, name)
    elif isinstance(X, Mapping | Iterator) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise TypeError(f"{name} is a {type(X).__name__}; give {CONTAINERS}.")
    if len(X) == 0:
        raise ValueError(f"{name} is empty (0 samples), but at least one image is needed.")
    return X


def _tensor_rows(X: Any, name: str) -> list:
    if X.ndim not in (4, 5):  # (3, height, width) may be one image or three grey ones
        raise ValueError(
            f"{name} is a torch tensor of shape {tuple(X.shape)}, but a batch of images is (n, 3, height, width), "
            "(n, 1, height, width) or (n, height, width, 3), and one of pairs (n, 2, 3, height, width); write "
            f"{name}[None] for one image, {name}[:, None] for grey ones."
        )
    return list(X)


def _array_rows(X: np.ndarray, name: str) -> Sequence | np.ndarray:
    holds_objects = X.dtype.kind in "OUT"  # images, paths, or tuples of them
    if holds_objects and X.ndim == 2:
        return X[:, 0] if X.shape[1] == 1 else [tuple(row) for row in X]
    if X.ndim and (len(X) == 0 or (holds_objects and X.ndim == 1)):
        return X
    if X.dtype == object:
        raise ValueError(
            f"{name} is an object array of shape {X.shape}, of numbers one by one; turn it into numbers first, as in "
            f"{name}.astype(np.uint8)."
        )
    if X.dtype.kind not in "buif":
        raise ValueError(f"{name} is an array of dtype {X.dtype} and shape {X.shape}; {ACCEPTED}.")
    if X.ndim == 2:
        raise ValueError(
            f"{name} is a two-dimensional {X.dtype} array of shape {X.shape}, but must hold images; give {CONTAINERS}, "
            f"or {name}[np.newaxis] for one grey image."
        )
    if _is_one_colour_image(X):
        raise ValueError(f"{name} has the shape {X.shape}, that is one image; write [image] for a single one.")
    if X.ndim not in (3, 4, 5):
        raise ValueError(
            f"{name} has the shape {X.shape}, but an array of images is (n, height, width, 3) and an array of pairs "
            "(n, 2, height, width, 3); reshape your data to one of these."
        )
    return X


def _is_one_colour_image(X: np.ndarray) -> bool:
    return X.ndim == 3 and X.shape[-1] in (1, 3, 4)


def _is_single_image(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype.kind not in "OUT" and (x.ndim == 2 or _is_one_colour_image(x))
    if is_tensor(x):
        return x.ndim in (2, 3)
    return isinstance(x, str | os.PathLike | Image.Image)


def _group_size(item: Any) -> int | None:
    """How many images an item of X holds: 2 for a pair; None for a single image, and for what is no image at all."""
    if isinstance(item, tuple | list):
        return len(item)
    if isinstance(item, np.ndarray) and item.dtype.kind in "OUT":
        return len(item) if item.ndim == 1 else None
    return len(item) if (isinstance(item, np.ndarray) or is_tensor(item)) and item.ndim == 4 else None


def _described(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of length {len(item)}"
    shape = getattr(item, "shape", None)
    return f"an array of shape {tuple(shape)}" if shape is not None else f"a {type(item).__name__}"

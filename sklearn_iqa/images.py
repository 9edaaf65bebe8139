# SPDX-License-Identifier: BSD-3-Clause
"""Any X that people have -> RGB images, opened when they are needed.

Every input error of the package is raised here, in one sentence that says which row, what came, what is accepted and
what to do.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "ImageRows",
    "TupleRows",
    "check_images",
    "check_min_size",
    "check_tuples",
    "count_images",
    "make_pairs",
    "read_image",
]

ACCEPTED = (
    "an image is a uint8 array in 0..255 or a float array in 0..1 of shape (height, width, 3), (height, width) or "
    "(height, width, 1), a path, a PIL image or a torch tensor on the CPU"
)
# What Pillow's modes need before they are RGB; 16-bit and float modes are scaled by hand below.
CONVERTIBLE = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"}
WITH_ALPHA = {"RGBA", "LA", "PA", "La", "RGBa"}
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}


def read_image(image: Any, where: str = "The image") -> np.ndarray:
    """One image of any accepted kind as RGB.

    Parameters
    ----------
    image : array, path, PIL image or torch tensor
        A uint8 array in 0..255, a uint16 array in 0..65535 or a float array in 0..1 of shape (height, width, 3),
        (height, width, 1), (height, width), or (height, width, 4) when fully opaque; a path of an image file; a PIL
        image; a torch tensor on the CPU, which may also be (3, height, width) or (1, height, width).
    where : str, default="The image"
        How error messages call the image.

    Returns
    -------
    image : ndarray of shape (height, width, 3)
        uint8 in 0..255, or float32 in 0..1. Never written to: it may share memory with the input.

    Raises
    ------
    FileNotFoundError
        When the file does not exist.
    TypeError
        When the object is no image.
    ValueError
        When the image cannot be used: not finite, out of range, transparent, empty, damaged, with several frames.
    """
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image), where)
    if isinstance(image, Image.Image):
        return _from_pil(image, where)
    if isinstance(image, np.ndarray):
        return _from_array(image, where)
    if _is_tensor(image):
        return _from_array(_channels_last(_tensor_to_array(image, where), where), where)
    raise TypeError(f"{where} is a {type(image).__name__}; {ACCEPTED}.")


def check_min_size(image: np.ndarray, min_size: int, where: str, method: str) -> None:
    """Refuse an image with a side shorter than a network can take."""
    height, width = image.shape[:2]
    if min(height, width) < min_size:
        raise ValueError(
            f"{where} is {height} x {width} pixels (height x width), but {method} needs at least {min_size} pixels on "
            "each side; leave the image out or enlarge it first."
        )


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
    if _is_tensor(X):
        X = _tensor_to_array(X, "X") if X.ndim not in (4, 5) or X.shape[-1] in (1, 3) else [x for x in X]
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
    if isinstance(x, np.ndarray) or _is_tensor(x):
        return (x.ndim == 2 and x.dtype != object) or (x.ndim == 3 and (x.shape[-1] in (1, 3) or x.shape[0] in (1, 3)))
    return False


def _is_tuple_of(item: Any, length: int) -> bool:
    if isinstance(item, np.ndarray) or _is_tensor(item):
        return (item.ndim == 4 or item.dtype == object) and len(item) == length
    return isinstance(item, tuple | list) and len(item) == length


def _describe(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of length {len(item)}"
    shape = getattr(item, "shape", None)
    return f"an image of shape {tuple(shape)}" if shape is not None else f"a {type(item).__name__}"


def _is_tensor(x: Any) -> bool:
    """Whether x is a torch tensor, asked without importing torch."""
    return type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach")


def _tensor_to_array(tensor: Any, where: str) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise ValueError(f"{where} is a torch tensor on {tensor.device}; move it to the CPU first, with .cpu().")
    return tensor.detach().numpy()


def _channels_last(image: np.ndarray, where: str) -> np.ndarray:
    """Torch's (3, height, width) as (height, width, 3); only tensors get this courtesy, as their habit is known."""
    if image.ndim == 3 and image.shape[0] in (1, 3):
        if image.shape[-1] in (1, 3):
            raise ValueError(
                f"{where} is a torch tensor of shape {image.shape}, which may be channels first or last; pass a NumPy "
                "array (height, width, 3)."
            )
        return np.moveaxis(image, 0, -1)
    return image


def _from_array(image: np.ndarray, where: str) -> np.ndarray:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in (1, 3, 4)):
        advice = (
            "the channels come first, so pass np.moveaxis(image, 0, -1)"
            if image.ndim == 3 and image.shape[0] in (1, 3)
            else "pass grey or RGB"
        )
        raise ValueError(f"{where} has the shape {image.shape}, but {ACCEPTED}; {advice}.")
    if image.size == 0:
        raise ValueError(f"{where} has the shape {image.shape}, that is no pixel; leave the empty image out.")
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / np.float32(65535)
    elif image.dtype.kind == "f":
        _check_range(image, where)
        image = image.astype(np.float32, copy=False)
    elif image.dtype != np.uint8:
        raise ValueError(
            f"{where} is of dtype {image.dtype}, but integers must be uint8 in 0..255 (or uint16 in 0..65535) and "
            "floats in 0..1; convert with image.astype(np.uint8) if the values are in 0..255."
        )
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.shape[-1] == 4:
        if not (image[..., 3] == (255 if image.dtype == np.uint8 else 1)).all():
            raise ValueError(_transparent(where))
        image = image[..., :3]
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _check_range(image: np.ndarray, where: str) -> None:
    low, high = image.min(), image.max()  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"{where} contains NaN or infinity (inf), but floats must be finite and in 0..1; repair the image or leave "
            "it out."
        )
    if low < 0 or high > 1:
        raise ValueError(
            f"{where} is a float image with values in {low:g}..{high:g}, but floats must be in 0..1; divide by 255 or "
            "convert to uint8 if the values mean 0..255."
        )


def _transparent(where: str) -> str:
    return (
        f"{where} is partly transparent, so its colours are not defined; composite it onto a colour of your choice "
        "(PIL.Image.alpha_composite) or drop the alpha channel."
    )


def _read_file(path: Path, where: str) -> np.ndarray:
    where = f"{where} ({path})"
    if not path.exists():
        raise FileNotFoundError(f"{where} does not exist; check the path, relative ones start at {Path.cwd()}.")
    if path.is_dir():
        raise ValueError(
            f"{where} is a folder, but an image file is due; list its files, as in sorted(Path(...).iterdir())."
        )
    try:
        with Image.open(path) as image:
            return _from_pil(image, where)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{where} is no image that Pillow can read; give a PNG, JPEG, TIFF, BMP or WebP file."
        ) from error
    except PermissionError as error:
        raise PermissionError(f"{where} must not be read by this user; change its permissions.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{where} is larger than Pillow's limit ({error}); shrink the image, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except OSError as error:
        raise ValueError(_damaged(where, error)) from error


def _from_pil(image: Image.Image, where: str) -> np.ndarray:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # phones write MPO: one photograph and its thumbnails
        raise ValueError(
            f"{where} has {frames} frames or pages, but one image is due; save the frame that you mean as its own file."
        )
    deep_grey = image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG")
    try:
        image = ImageOps.exif_transpose(image)
        if deep_grey:
            return _from_array(np.asarray(image).astype(np.uint16), where)
        if image.mode == "F":
            return _from_array(np.asarray(image), where)
        if image.mode in WITH_ALPHA or "transparency" in image.info:
            return _from_array(np.asarray(image.convert("RGBA")), where)
        if image.mode in CONVERTIBLE:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, EOFError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise ValueError(_damaged(where, error)) from error
    raise ValueError(f"{where} has Pillow's mode {image.mode!r}; convert it to RGB first, with image.convert('RGB').")


def _damaged(where: str, error: Exception) -> str:
    return f"{where} is damaged or cut off ({error}); fetch or save the file again."

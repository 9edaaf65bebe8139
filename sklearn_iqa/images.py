# SPDX-License-Identifier: BSD-3-Clause
"""One image of any kind -> RGB, and every sentence about an image that cannot be used.

Each sentence says which row, what came, what is accepted and what to do. `rows` does the same for what holds images.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["ACCEPTED", "check_min_size", "is_tensor", "read_image", "tensor_to_array"]

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
    if is_tensor(image):
        return _from_array(_channels_last(tensor_to_array(image, where), where), where)
    raise TypeError(f"{where} is a {type(image).__name__}; {ACCEPTED}.")


def check_min_size(image: np.ndarray, min_size: int, where: str, method: str) -> None:
    """Refuse an image with a side shorter than a network can take."""
    height, width = image.shape[:2]
    if min(height, width) < min_size:
        raise ValueError(
            f"{where} is {height} x {width} pixels (height x width), but {method} needs at least {min_size} pixels on "
            "each side; leave the image out or enlarge it first."
        )


def is_tensor(x: Any) -> bool:
    """Whether x is a torch tensor, asked without importing torch."""
    return type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach")


def tensor_to_array(tensor: Any, where: str) -> np.ndarray:
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

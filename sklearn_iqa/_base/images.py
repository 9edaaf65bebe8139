# SPDX-License-Identifier: BSD-3-Clause
"""One image of any kind -> RGB, and every sentence about an image that cannot be used.

Each sentence says which row, what came, what is accepted and what to do. `rows` does the same for what holds images.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["ACCEPTED", "check_min_size", "is_tensor", "read_image", "tensor_to_array"]

ACCEPTED = (
    "an image is a uint8 (0..255), uint16 (0..65535) or float (0..1) array of shape (height, width, 3), "
    "(height, width) or (height, width, 1), a path, a PIL image or a torch tensor on the CPU"
)
# Pillow's modes that its own conversion turns into RGB or RGBA.
CONVERTIBLE = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBA", "RGBa"}
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
# Formats whose 16-bit grey some versions of Pillow open as 32-bit integers, still in 0..65535.
SIXTEEN_IN_32 = {"PNG", "PPM"}
# 16-bit colours as Pillow calls them in PNG and TIFF files, and the same in the other byte order.
DEEP_COLOURS = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
# Float images may leave 0..1 by so much, which is clipped: rounding, as of a resize in float32, whose steps are 1.2e-7.
ROUNDING = 1e-6
OVERSHOOT = 0.25  # beyond 0..1, as of bicubic interpolation and noise; other units of brightness go further
# Tags of TIFF 6.0 that decide what a number means.
PHOTOMETRIC, BITS, PLANES, SIGNS = 262, 258, 284, 339
HEIC = {".heic", ".heif", ".hif"}
RAW = {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
LONGEST_PART = 120  # characters of a path, or of Pillow's reason, in a sentence


def read_image(image: Any, where: str = "The image") -> np.ndarray:
    """One image of any accepted kind as RGB.

    Parameters
    ----------
    image : array, path, PIL image or torch tensor
        A uint8 array in 0..255, a uint16 array in 0..65535 or a float array in 0..1 (rounding of up to 1e-6 beyond is
        clipped) of shape (height, width, 3), (height, width, 1), (height, width), or (height, width, 4) when fully
        opaque; a path of an image file, in which `~` is the user's folder; a PIL image; a torch tensor on the CPU,
        which may also be (3, height, width) or (1, height, width).
    where : str, default="The image"
        How error messages call the image.

    Returns
    -------
    image : ndarray of shape (height, width, 3)
        uint8 in 0..255, or float32 in 0..1. Not to be written to: it may share memory with the input.

    Raises
    ------
    FileNotFoundError, PermissionError
        When the file does not exist or must not be read.
    TypeError
        When the object is no image.
    ValueError
        When the image cannot be used: not finite, out of range, transparent, empty, damaged, with several frames.
    MemoryError
        When the file's pixels do not fit into memory.

    Notes
    -----
    Files and PIL images are turned upright by their EXIF orientation; colour profiles are not applied. 16-bit PNG and
    TIFF files keep their depth, except for grey with alpha; what else is deeper than 8 bits comes as Pillow reads it.
    Grey TIFF files whose zero is white are inverted at every depth; TIFF files of signed numbers, and of deep colours
    in separate planes, are refused.
    """
    if isinstance(image, str | os.PathLike):
        return _read_file(os.path.expanduser(os.fsdecode(image)), where)
    if isinstance(image, Image.Image):
        return _from_pil(image, where)
    if isinstance(image, np.ndarray):
        return _from_array(np.asarray(image), where)  # a memory map becomes a plain view
    if is_tensor(image):
        return _from_array(_channels_last(tensor_to_array(image, where), where), where)
    if isinstance(image, bytes | bytearray | memoryview):
        raise TypeError(
            f"{where} is the content of a file ({type(image).__name__}), but {ACCEPTED}; decode it first, as in "
            "PIL.Image.open(io.BytesIO(content))."
        )
    raise TypeError(f"{where} is a {type(image).__name__}; {ACCEPTED}.")


@functools.cache
def register_formats() -> None:
    """Let Pillow read HEIC files where its plugin is installed (extra `heic`)."""
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()


def advice_on(suffix: str) -> str:
    """What to do with a file that Pillow does not read, by its suffix; "" where nothing is known."""
    if suffix.lower() in HEIC - Image.registered_extensions().keys():
        return "; HEIC needs the extra heic: pip install 'sklearn-iqa[heic]'"
    if suffix.lower() in RAW:
        return "; a camera's raw file must be developed first, to TIFF or JPEG"
    return ""


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
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def tensor_to_array(tensor: Any, where: str) -> np.ndarray:
    """A dense torch tensor on the CPU as an array that may share its memory."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{where} is a torch tensor on {tensor.device}; move it to the CPU first, with .cpu().")
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{where} is a torch tensor of layout {tensor.layout} and dtype {tensor.dtype}, which NumPy cannot take; "
            "give a dense one, of uint8 in 0..255 or float in 0..1."
        ) from error


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
    image = _uint8_or_float32(image, where)
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.shape[-1] == 4:
        if not (image[..., 3] == (255 if image.dtype == np.uint8 else 1)).all():
            raise ValueError(
                f"{where} is partly transparent, so its colours are not defined; composite it onto a colour of your "
                "choice (PIL.Image.alpha_composite) or drop the alpha channel."
            )
        image = image[..., :3]
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _uint8_or_float32(image: np.ndarray, where: str) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:  # of either byte order
        return image.astype(np.float32) / np.float32(65535)
    if image.dtype.kind == "f":
        low, high = _checked_range(image, where)
        return (image.clip(0, 1) if low < 0 or high > 1 else image).astype(np.float32, copy=False)
    advice = "image.astype(float) for black and white" if image.dtype == bool else "image.astype(np.uint8) if that fits"
    raise ValueError(
        f"{where} is of dtype {image.dtype}, but integers must be uint8 in 0..255 (or uint16 in 0..65535) and floats "
        f"in 0..1; convert it first, with {advice}."
    )


def _checked_range(image: np.ndarray, where: str) -> tuple[float, float]:
    """Least and greatest value of a float image; outside of 0..1 by rounding at most."""
    low, high = image.min(), image.max()  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"{where} contains NaN or infinity (inf), but floats must be finite and in 0..1; repair the image or leave "
            "it out."
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"{where} is a float image with values in {low:.7g}..{high:.7g}, but floats must be in 0..1; "
            f"{_range_advice(low, high)}."
        )
    return low, high


def _range_advice(low: float, high: float) -> str:
    """What values outside of 0..1 most likely are, and what to do."""
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return "it overshoots, as interpolation and noise do, so limit it with image.clip(0, 1)"
    if low >= -1 - ROUNDING and high <= 1 + ROUNDING:
        return "pass (image + 1) / 2 if the values mean -1..1"
    if low >= 0 or high > 10:
        return "divide by 255 or convert to uint8 if the values mean 0..255"
    return "pass the image as it was before if it was standardised (mean and standard deviation of a data set)"


def _read_file(path: str, where: str) -> np.ndarray:
    shown = path if len(path) <= LONGEST_PART else f"...{path[-LONGEST_PART:]}"
    where = f"{where} ({shown!r})"
    if not os.path.exists(path):
        if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
            raise ValueError(f"{where} is an address on the network, but a path is due; download the file first.")
        raise FileNotFoundError(f"{where} does not exist; check the path, relative ones start at {str(Path.cwd())!r}.")
    if os.path.isdir(path):
        raise ValueError(
            f"{where} is a folder, but an image file is due; list its files, as in sorted(Path(...).iterdir())."
        )
    register_formats()
    with _explained(where, os.path.splitext(path)[1]):
        image = Image.open(path)
    with image:
        return _from_pil(image, where, path)


def _from_pil(image: Image.Image, where: str, path: str | None = None) -> np.ndarray:
    with _explained(where):
        n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1 and image.format != "MPO":  # phones write MPO: one photograph and its thumbnails
        raise ValueError(
            f"{where} has {n_frames} frames or pages, but one image is due; pick one, as in image.seek(0) and "
            "image.copy() in Pillow, or save it as a file of its own."
        )
    if not (image.mode in CONVERTIBLE or image.mode == "F" or _is_deep_grey(image)):
        raise ValueError(
            f"{where} has Pillow's mode {image.mode!r}, of which black and white are not known here; convert it first, "
            "to a float array in 0..1 or to the mode 'RGB'."
        )
    _check_tiff(image, where)
    with _explained(where):
        pixels = _pixels(image, path)
    return _from_array(pixels, where)


def _check_tiff(image: Image.Image, where: str) -> None:
    """Refuse TIFF files whose numbers Pillow takes for others."""
    bits = _tiff_tag(image, BITS, (1,))
    if 2 in _tiff_tag(image, SIGNS, (1,)):
        raise ValueError(
            f"{where} is a TIFF file of signed numbers, of which black and white are not known here; convert it first, "
            "to a float array in 0..1 or to unsigned numbers."
        )
    if _tiff_tag(image, PLANES, 1) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ValueError(
            f"{where} is a TIFF file that keeps colours of {max(bits)} bits in separate planes, which Pillow misreads; "
            "save the colours side by side (PlanarConfiguration 1), or pass an array (height, width, 3)."
        )


def _tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(tag, default) if image.format == "TIFF" else default


@contextlib.contextmanager
def _explained(where: str, suffix: str = "") -> Iterator[None]:
    """Say in one sentence what goes wrong inside Pillow; `suffix` is that of the file."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{where} does not fit into memory when it is opened; shrink the image first.") from error
    except UnidentifiedImageError as error:
        cure = advice_on(suffix) or "; give a PNG, JPEG, TIFF, BMP or WebP file"
        raise ValueError(f"{where} is no image that Pillow can read{cure}.") from error
    except PermissionError as error:
        raise PermissionError(f"{where} must not be read by this user; change its permissions.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{where} has more pixels than Pillow's limit allows; shrink the image, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS (now {Image.MAX_IMAGE_PIXELS}) if you trust it."
        ) from error
    except Exception as error:  # a damaged file fails anywhere: OSError, SyntaxError, EOFError, struct.error and others
        first = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        reason = first[:LONGEST_PART] or type(error).__name__
        raise ValueError(
            f"{where} cannot be decoded ({reason}): it is damaged, cut off or was closed before it was read; fetch or "
            "open it again."
        ) from error


def _pixels(image: Image.Image, path: str | None) -> np.ndarray:
    """What a PIL image holds, upright: uint8, uint16 or float32, with alpha where something may be transparent.

    Of 16-bit colours Pillow keeps the high bytes; those of a file are read again in the other byte order for the low.
    """
    deep_grey, rawmode = _is_deep_grey(image), _rawmode(image)  # both known only before the image is loaded
    upright = ImageOps.exif_transpose(image)
    # Pillow inverts grey of up to 8 bits whose zero is white, and no other; where the tag is missing it takes that too.
    white_is_zero = image.format == "TIFF" and _tiff_tag(image, PHOTOMETRIC, 0) == 0
    if image.mode == "F":
        return 1 - np.asarray(upright) if white_is_zero else np.asarray(upright)
    if deep_grey:
        grey = np.asarray(upright).astype(np.uint16)
        if _tiff_tag(image, BITS, (16,)) == (12,):
            return grey.astype(np.float32) / np.float32(4095)
        return _transparent_where(65535 - grey if white_is_zero else grey, image.info.get("transparency"))
    if path is not None and rawmode in DEEP_COLOURS:
        with _reopened(path, DEEP_COLOURS[rawmode]) as low:
            deep = np.asarray(upright).astype(np.uint16) << 8 | np.asarray(ImageOps.exif_transpose(low))
        return _transparent_where(deep, image.info.get("transparency"))
    return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format in SIXTEEN_IN_32)


def _rawmode(image: Image.Image) -> str | None:
    """How the pixels lie in the file of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return None
    args = tiles[0][3]
    return args[0] if isinstance(args, tuple) else args


def _reopened(path: str, rawmode: str) -> Image.Image:
    image: Any = Image.open(path)
    for i, (*where, args) in enumerate(image.tile):
        tile = [*where, (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode]
        image.tile[i] = getattr(image.tile[i], "_make", tuple)(tile)  # old versions of Pillow have plain tuples
    return image


def _transparent_where(pixels: np.ndarray, key: int | tuple[int, ...] | None) -> np.ndarray:
    """16-bit pixels with alpha 0 where they have the one colour that the file calls transparent."""
    if key is None:
        return pixels
    colours = np.atleast_3d(pixels)
    alpha = np.where((colours == key).all(axis=-1, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([np.broadcast_to(colours, (*alpha.shape[:2], 3)), alpha], axis=-1)

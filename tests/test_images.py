# SPDX-License-Identifier: BSD-3-Clause
"""One image of any kind: the same pixels whatever it came as, and one sentence when it cannot be used."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentences import check_sentence, one_sentence

from sklearn_iqa._base.images import check_min_size, is_tensor, read_image, tensor_to_array

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
DEEP_GREY = DEEP[:, :, 0].copy()
# EXIF 2.32, tag 274: where row 0 and column 0 of the stored picture belong -> what brings it upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def repeated(grey):
    return np.stack([grey] * 3, axis=-1)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_deep_png(path, pixels, between=b""):
    """A 16-bit PNG, which Pillow writes in grey only; PNG specification, third edition, sections 5 and 11."""
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[-1]]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + between
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def write_tiff(path, content, height, width, *, order="<", bits=(16,), **others):
    """An uncompressed TIFF of one strip, or one a plane, with other tags such as t262=0; TIFF 6.0, sections 2, 3, 8."""
    planes = len(bits) if others.get("t284") == 2 else 1
    size, n_samples = len(content) // planes, len(bits)
    tags = {256: [width], 257: [height], 258: list(bits), 259: [1], 262: [1 if n_samples == 1 else 2]}
    tags |= {273: [8 + size * plane for plane in range(planes)], 277: [n_samples], 278: [height], 279: [size] * planes}
    tags |= {int(tag[1:]): [value] for tag, value in others.items()}
    longs = {273, 279}
    at = 8 + len(content)  # the directory stands behind the pixels, what does not fit into it behind the directory
    behind, entries = at + 2 + 12 * len(tags) + 4, b""
    values = b""
    for tag, numbers in sorted(tags.items()):
        kind, code = (4, "I") if tag in longs else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers))
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", behind + len(values))
            values += packed
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + values
    path.write_bytes((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at) + content + directory)


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (GREY, repeated(GREY)),
        (GREY[:, :, None], repeated(GREY)),
        (np.dstack([RGB, np.full((9, 7), 255, np.uint8)]), RGB),
        (np.asfortranarray(RGB), RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
    ],
    ids=["rgb", "grey", "one channel", "opaque", "column-major", "strided"],
)
def test_uint8_arrays_keep_their_values(image, expected):
    result = read_image(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_uint16_arrays_are_divided_by_65535(order):
    result = read_image(DEEP.astype(f"{order}u2"))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, DEEP.astype(np.float32) / np.float32(65535))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
def test_float_arrays_become_float32_of_the_same_values(dtype):
    image = (RGB / 255).astype(dtype)
    result = read_image(image)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, image.astype(np.float32))


def test_float_images_may_hold_the_bounds_themselves():
    np.testing.assert_array_equal(read_image(np.array([[0.0, 1.0]])), repeated(np.array([[0, 1]], np.float32)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_error_beyond_the_bounds_is_clipped(dtype):
    # A millionth of the range: eight times the precision of float32, 2^-23 = 1.2e-7.
    image = np.array([[0, 1, 0.5], [-1e-7, 1 + 1e-7, 0.25], [-9e-7, 1 + 9e-7, 1e-9]], dtype)
    kept = image.copy()
    result = read_image(image)
    np.testing.assert_array_equal(result, repeated(np.clip(image, 0, 1).astype(np.float32)))
    assert (result.min(), result.max()) == (0, 1)
    np.testing.assert_array_equal(image, kept)
    opaque = np.dstack([RGB / 255, np.full((9, 7), 1 + 1e-7)]).astype(dtype)
    np.testing.assert_array_equal(read_image(opaque), (RGB / 255).astype(dtype).astype(np.float32))


def test_opaque_float_and_uint16_images_lose_their_alpha():
    expected = DEEP.astype(np.float32) / np.float32(65535)
    opaque = np.dstack([DEEP, np.full((9, 7), 65535, np.uint16)])
    np.testing.assert_array_equal(read_image(opaque), expected)
    np.testing.assert_array_equal(read_image(opaque / 65535), (DEEP / 65535).astype(np.float32))


@pytest.mark.parametrize("image", [RGB, GREY, RGB / 255, DEEP, np.dstack([RGB, np.full((9, 7), 255, np.uint8)])])
def test_read_only_memory_maps_are_read_and_left_alone(image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    np.testing.assert_array_equal(read_image(mapped), read_image(image))
    assert type(read_image(mapped)) is np.ndarray
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), image)


# Tensors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(GREY), repeated(GREY)),
        (torch.from_numpy(GREY)[None], repeated(GREY)),
        (torch.from_numpy(GREY)[:, :, None], repeated(GREY)),
        (torch.from_numpy(RGB / 255), (RGB / 255).astype(np.float32)),
        ((torch.from_numpy(RGB).permute(2, 0, 1).float() / 255).requires_grad_(), RGB.astype(np.float32) / 255),
        (torch.from_numpy(DEEP), DEEP.astype(np.float32) / np.float32(65535)),
    ],
    ids=["last", "first", "grey", "grey first", "grey last", "double", "gradient", "uint16"],
)
def test_tensors_are_images_with_channels_first_or_last(tensor, expected):
    np.testing.assert_array_equal(read_image(tensor), expected)


def test_half_precision_tensors_are_read():
    # bfloat16 has 8 bits of precision, so that k / 128 is exact.
    image = RGB // 2 / 128
    np.testing.assert_array_equal(read_image(torch.tensor(image, dtype=torch.bfloat16)), image.astype(np.float32))


def test_subclasses_of_tensors_are_tensors():
    assert is_tensor(torch.nn.Parameter(torch.zeros(2)))
    assert not is_tensor(RGB)


def test_reading_arrays_does_not_import_torch():
    program = "import sys, numpy; from sklearn_iqa._base.images import read_image; read_image(numpy.ones((2, 2))); "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_tensor_that_may_be_channels_first_or_last_is_refused():
    with one_sentence(ValueError, "Row 4 of X", "(3, 5, 3)", "first or last", "NumPy"):
        read_image(torch.zeros(3, 5, 3), "Row 4 of X")


def test_tensors_elsewhere_than_in_memory_are_refused():
    with one_sentence(ValueError, "Row 4 of X", "on meta", ".cpu()"):
        tensor_to_array(torch.zeros(3, 5, 5, device="meta"), "Row 4 of X")


def test_sparse_tensors_are_refused():
    with one_sentence(ValueError, "Row 4 of X", "sparse", "dense"):
        read_image(torch.zeros(3, 5, 5).to_sparse(), "Row 4 of X")


# PIL images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY > 99), repeated(np.where(GREY > 99, 255, 0))),
        (Image.fromarray(GREY), repeated(GREY)),
        (Image.fromarray(RGB), RGB),
        (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (7, 9), 255)]), repeated(GREY)),
        (Image.merge("RGBA", [*Image.fromarray(RGB).split(), Image.new("L", (7, 9), 255)]), RGB),
        (Image.fromarray(RGB).convert("RGBX"), RGB),
        (Image.merge("RGBA", [*Image.fromarray(RGB).split(), Image.new("L", (7, 9), 255)]).convert("RGBa"), RGB),
        # ink c, m, y without black: r, g, b = 255 - c, m, y
        (Image.merge("CMYK", [*Image.fromarray(255 - RGB).split(), Image.new("L", (7, 9), 0)]), RGB),
        # no chroma: grey
        (Image.merge("YCbCr", [Image.fromarray(GREY), *[Image.new("L", (7, 9), 128)] * 2]), repeated(GREY)),
        # no saturation: grey
        (Image.merge("HSV", [*[Image.new("L", (7, 9), 0)] * 2, Image.fromarray(GREY)]), repeated(GREY)),
    ],
    ids=["1", "L", "RGB", "LA", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"],
)
def test_pil_modes_become_rgb(image, expected):
    result = read_image(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_lab_becomes_rgb():
    # CIE L*a*b*: L* = 0 is black, L* = 100 (255 in 8 bits) white, a* = b* = 0 (128 in 8 bits) is grey.
    lightness, neutral = Image.fromarray(np.array([[0, 255]], np.uint8)), Image.new("L", (2, 1), 128)
    image = Image.merge("LAB", [lightness, neutral, neutral])
    # White's chromaticity in 8 bits is off by less than one level.
    np.testing.assert_allclose(read_image(image).astype(int), [[[0] * 3, [255] * 3]], atol=1)


def test_palettes_become_rgb():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L")
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert image.mode == "P"
    np.testing.assert_array_equal(read_image(image), np.array([[10, 20, 30], [40, 50, 60]])[[[0, 1], [1, 0]]])


@pytest.mark.parametrize("alpha", [b"\xff\xff", 9], ids=["per colour", "an unused colour"])
def test_palettes_with_alpha_are_read_when_what_shows_is_opaque(alpha, tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L")
    image.putpalette([10, 20, 30, 40, 50, 60] + [0] * 24)
    image.save(tmp_path / "opaque.png", transparency=alpha)
    image.save(tmp_path / "clear.png", transparency=b"\xff\x00")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), [[[10, 20, 30], [40, 50, 60]]])
    with one_sentence(ValueError, "partly transparent", "clear.png"):
        read_image(tmp_path / "clear.png")


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bit_pil_images_are_divided_by_65535(mode):
    image = Image.frombytes(mode, (7, 9), DEEP_GREY.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    np.testing.assert_array_equal(read_image(image), repeated(DEEP_GREY.astype(np.float32) / np.float32(65535)))


def test_float_pil_images_hold_0_to_1():
    image = (GREY / 255).astype(np.float32)
    np.testing.assert_array_equal(read_image(Image.fromarray(image)), repeated(image))
    with one_sentence(ValueError, "Row 0 of X", "0..1", "divide by 255"):
        read_image(Image.fromarray(GREY.astype(np.float32)), "Row 0 of X")


@pytest.mark.parametrize("mode", ["I", "La"])
def test_pil_modes_of_unknown_range_are_refused(mode):
    with one_sentence(ValueError, "Row 2 of X", f"'{mode}'", "convert"):
        read_image(Image.new(mode, (4, 4)), "Row 2 of X")


def test_a_pil_image_of_a_closed_file_is_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with one_sentence(ValueError, "Row 1 of X", "closed before it was read"):
        read_image(image, "Row 1 of X")


def test_a_pil_image_without_pixels_is_refused():
    with one_sentence(ValueError, "Row 1 of X", "no pixel"):
        read_image(Image.new("RGB", (0, 4)), "Row 1 of X")


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.ppm", {}),
    ],
    ids=["png", "tiff", "tiff lzw", "webp", "bmp", "ppm"],
)
def test_lossless_files_hold_the_array(name, options, kind, tmp_path):
    path = tmp_path / name
    for image, expected in ((RGB, RGB), (GREY, repeated(GREY))):
        Image.fromarray(image).save(path, **options)
        result = read_image(kind(path))
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)


def test_gif_with_one_frame(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), repeated(GREY))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_files_are_what_pillow_decodes(mode, tmp_path):
    image = Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8))).convert(mode)  # blocks as JPEG has them
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    result = read_image(tmp_path / "a.jpg")
    # Quality 100 rounds coefficients to whole numbers, which moves a flat block by half a level, and each colour
    # conversion rounds once more: 1 level in Y, Cb and Cr is at most 1 + 1.772 < 3 levels in RGB.
    np.testing.assert_allclose(result.astype(int), np.asarray(image.convert("RGB")).astype(int), atol=3)


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    # Adobe stores ink inverted; 80 % cyan must come out as a dark red channel, 255 * (1 - 0.8) = 51.
    Image.new("CMYK", (16, 16), (204, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), np.broadcast_to([51, 255, 255], (16, 16, 3)), atol=1)


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, extension, tmp_path):
    options = {"lossless": True} if extension == "webp" else {}
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(tmp_path / f"stored.{extension}", **options)
    Image.fromarray(RGB).save(tmp_path / f"turned.{extension}", exif=exif, **options)
    stored = read_image(tmp_path / f"stored.{extension}")
    np.testing.assert_array_equal(read_image(tmp_path / f"turned.{extension}"), UPRIGHT[orientation](stored))
    with Image.open(tmp_path / f"turned.{extension}") as image:
        np.testing.assert_array_equal(read_image(image), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_deep_files(orientation, tmp_path):
    # An eXIf chunk holds a TIFF directory with one entry: tag 274, a short.
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    for image in (DEEP, DEEP_GREY):
        write_deep_png(tmp_path / "a.png", image, chunk(b"eXIf", exif))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(UPRIGHT[orientation](image)))


def test_sixteen_bit_files_are_divided_by_65535(tmp_path):
    expected = repeated(DEEP_GREY.astype(np.float32) / np.float32(65535))
    for name in ("a.png", "a.tif", "a.jp2"):
        Image.fromarray(DEEP_GREY).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
    (tmp_path / "a.pgm").write_bytes(b"P5\n7 9\n65535\n" + DEEP_GREY.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.pgm"), expected)


def test_sixteen_bit_colours_keep_their_low_bytes(tmp_path):
    # Pillow alone would give the high bytes as uint8.
    expected = DEEP.astype(np.float32) / np.float32(65535)
    write_deep_png(tmp_path / "a.png", DEEP)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    write_deep_png(tmp_path / "a.png", np.dstack([DEEP, np.full((9, 7), 65535, np.uint16)]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    for order in "<>":
        content = DEEP.astype(f"{order}u2").tobytes()
        write_tiff(tmp_path / "a.tif", content, 9, 7, order=order, bits=(16, 16, 16))
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_compressed_sixteen_bit_tiff_keeps_its_low_bytes(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="comes with scikit-image, which may drop it")
    for order in "<>":
        tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", compression="zlib", byteorder=order)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), DEEP.astype(np.float32) / np.float32(65535))


def read_as(kind, path, where="The image"):
    """Read a file, as its path or as what Pillow makes of it."""
    if kind == "path":
        return read_image(path, where)
    with Image.open(path) as image:
        return read_image(image, where)


@pytest.mark.parametrize("kind", ["path", "PIL"])
def test_grey_tiff_whose_zero_is_white(kind, tmp_path):
    # TIFF 6.0, tag 262 (PhotometricInterpretation): 0 images 0 as white and 2^BitsPerSample - 1 as black.
    for dark, bits, expected in (
        (255 - GREY, 8, GREY),
        (65535 - DEEP_GREY, 16, DEEP_GREY.astype(np.float32) / np.float32(65535)),
        (1 - (GREY / 255).astype(np.float32), 32, (GREY / 255).astype(np.float32)),
    ):
        floats = {"t339": 3} if bits == 32 else {}
        write_tiff(tmp_path / "a.tif", dark.tobytes(), 9, 7, bits=(bits,), t262=0, **floats)
        np.testing.assert_allclose(read_as(kind, tmp_path / "a.tif"), repeated(expected), rtol=0, atol=6e-8)


def test_compressed_grey_tiff_whose_zero_is_white(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="comes with scikit-image, which may drop it")
    tifffile.imwrite(tmp_path / "a.tif", 65535 - DEEP_GREY, photometric="miniswhite", compression="zlib")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), read_image(DEEP_GREY))


@pytest.mark.parametrize("kind", ["path", "PIL"])
def test_twelve_bit_tiff_is_divided_by_4095(kind, tmp_path):
    grey = DEEP_GREY[:8, :6] >> 4
    pairs = grey.reshape(-1, 2).astype(int)  # two numbers in three bytes, the high bits first
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    write_tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), 8, 6, bits=(12,))
    expected = grey.astype(np.float32) / np.float32(4095)
    np.testing.assert_array_equal(read_as(kind, tmp_path / "a.tif"), repeated(expected))


@pytest.mark.parametrize("kind", ["path", "PIL"])
@pytest.mark.parametrize("order", "<>")
def test_deep_colours_in_planes_are_refused(kind, order, tmp_path):
    # Pillow reads the planes of an uncompressed file as 8 bits: noise.
    planes = np.moveaxis(DEEP, -1, 0).astype(f"{order}u2").tobytes()
    write_tiff(tmp_path / "a.tif", planes, 9, 7, order=order, bits=(16, 16, 16), t284=2)
    with one_sentence(ValueError, "Row 3 of X", "separate planes", "16 bits", "PlanarConfiguration 1"):
        read_as(kind, tmp_path / "a.tif", "Row 3 of X")
    write_tiff(tmp_path / "a.tif", np.moveaxis(RGB, -1, 0).tobytes(), 9, 7, order=order, bits=(8, 8, 8), t284=2)
    np.testing.assert_array_equal(read_as(kind, tmp_path / "a.tif"), RGB)


def test_compressed_deep_colours_in_planes_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="comes with scikit-image, which may drop it")
    layout = {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(DEEP, -1, 0), **layout)
    with one_sentence(ValueError, "separate planes", "16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_tiff_of_signed_numbers_is_refused(bits, tmp_path):
    write_tiff(tmp_path / "a.tif", bytes(63 * bits // 8), 9, 7, bits=(bits,), t339=2)  # SampleFormat: signed
    with one_sentence(ValueError, "Row 3 of X", "black and white are not known", "convert"):
        read_image(tmp_path / "a.tif", "Row 3 of X")


def test_sixteen_bit_files_with_alpha(tmp_path):
    alpha = np.full((9, 7), 65535, np.uint16)
    alpha[3, 4] = 65534
    write_deep_png(tmp_path / "a.png", np.dstack([DEEP, alpha]))
    with one_sentence(ValueError, "partly transparent"):
        read_image(tmp_path / "a.png")


def test_sixteen_bit_files_with_a_transparent_colour(tmp_path):
    # PNG specification, 11.3.2.1: pixels of exactly the colour in tRNS are transparent.
    for image, absent, present in (
        (np.maximum(DEEP_GREY, 1), (0,), (int(DEEP_GREY[2, 3]),)),
        (np.maximum(DEEP, 1), (0, 0, 0), tuple(int(v) for v in DEEP[2, 3])),
    ):
        for key, clear in ((absent, False), (present, True)):
            write_deep_png(tmp_path / "a.png", image, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
            if clear:
                with one_sentence(ValueError, "partly transparent"):
                    read_image(tmp_path / "a.png")
            else:
                np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(image))


def test_float_tiff_holds_0_to_1(tmp_path):
    image = (GREY / 255).astype(np.float32)
    Image.fromarray(image).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), repeated(image))


def test_mpo_is_its_first_picture(tmp_path):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    first.save(tmp_path / "first.jpg")
    first.save(tmp_path / "both.mpo", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "both.mpo") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    np.testing.assert_array_equal(read_image(tmp_path / "both.mpo"), read_image(tmp_path / "first.jpg"))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_files_of_several_frames_are_refused(name, tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with one_sentence(ValueError, "Row 6 of X", name, "3 frames", "one image is due"):
        read_image(tmp_path / name, "Row 6 of X")
    with Image.open(tmp_path / name) as image:  # the remedy that the sentence gives
        image.seek(1)
        assert read_image(image.copy()).shape == (9, 7, 3)


def n_open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted through /proc")
def test_files_are_closed_when_they_were_read_and_when_they_were_refused(tmp_path):
    write_deep_png(tmp_path / "a.png", DEEP)
    Image.fromarray(RGB).save(tmp_path / "b.jpg")
    Image.fromarray(RGB).save(tmp_path / "c.gif", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    before = n_open_files()
    for name in ("a.png", "b.jpg"):
        read_image(tmp_path / name)
    assert n_open_files() == before
    with pytest.raises(ValueError, match="2 frames") as caught:
        read_image(tmp_path / "c.gif")
    assert caught  # keeps the frames of the call, and with them the image, alive
    assert n_open_files() == before


# What cannot be used --------------------------------------------------------------------------------------------------


def with_value(value):
    image = RGB / 255
    image[4, 3, 1] = value
    return image


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        (with_value(np.nan), ("NaN", "0..1")),
        (with_value(np.inf), ("inf", "0..1")),
        (with_value(-np.inf), ("inf", "0..1")),
        (with_value(1 + 2e-6), ("0..1.000002", "in 0..1", "overshoots", "image.clip(0, 1)")),
        (with_value(1.02), ("0..1.02", "in 0..1", "overshoots", "image.clip(0, 1)")),
        (with_value(-0.25), ("-0.25..", "in 0..1", "overshoots", "image.clip(0, 1)")),
        (2 * (RGB / 255) - 1, ("-1..1", "in 0..1", "(image + 1) / 2")),
        ((RGB / 255 - 0.485) / 0.229, ("in 0..1", "standardised", "before")),
        (RGB.astype(np.float64), ("255", "in 0..1", "divide by 255")),
        (RGB.astype(np.int64), ("int64", "uint8", "astype")),
        (RGB.astype(np.int8), ("int8", "uint8", "astype")),
        (RGB.astype(np.uint32), ("uint32", "uint8", "uint16")),
        (RGB > 99, ("bool", "uint8", "astype(float)")),
        (RGB.astype(complex), ("complex128", "uint8", "floats")),
        (RGB.astype(object), ("object", "uint8")),
        (np.zeros((9, 7, 2), np.uint8), ("(9, 7, 2)", "(height, width, 3)")),
        (np.zeros((9, 7, 5), np.uint8), ("(9, 7, 5)", "(height, width, 3)")),
        (np.zeros((3, 9, 7), np.uint8), ("(3, 9, 7)", "np.moveaxis(image, 0, -1)")),
        (np.zeros((2, 9, 7, 3), np.uint8), ("(2, 9, 7, 3)", "(height, width, 3)")),
        (np.zeros(9, np.uint8), ("(9,)", "(height, width, 3)")),
        (np.zeros((0, 7, 3), np.uint8), ("(0, 7, 3)", "no pixel")),
        (np.zeros((9, 0), np.uint8), ("(9, 0)", "no pixel")),
        (np.dstack([RGB, GREY]), ("transparent", "alpha")),
        (np.dstack([RGB, np.full((9, 7), 254, np.uint8)]), ("transparent", "alpha")),
        (np.dstack([RGB / 255, np.full((9, 7), 0.5)]), ("transparent", "alpha")),
    ],
)
def test_arrays_that_cannot_be_used(image, parts):
    with one_sentence(ValueError, "Row 5 of X", *parts):
        read_image(image, "Row 5 of X")


@pytest.mark.parametrize("image", [5, 0.5, None, b"a.png", {"image": RGB}, object(), np.uint8(5)])
def test_objects_that_are_no_images(image):
    with one_sentence(TypeError, "Row 5 of X", type(image).__name__, "an image is"):
        read_image(image, "Row 5 of X")


@pytest.mark.parametrize("kind", [str, Path])
def test_the_users_folder_may_be_written_as_a_tilde(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(kind("~/a.png")), RGB)
    with one_sentence(FileNotFoundError, "Row 5 of X", f"{tmp_path}/b.png", "does not exist"):
        read_image(kind("~/b.png"), "Row 5 of X")
    with one_sentence(FileNotFoundError, "Row 5 of X", "~nobody-here/b.png", "does not exist"):
        read_image(kind("~nobody-here/b.png"), "Row 5 of X")


@pytest.mark.parametrize(
    "name", ["none.png", "folder/none.png", "text.png/none.png", "a\0b.png", "a\nb.png", "a" * 999]
)
def test_files_that_do_not_exist(name, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with one_sentence(FileNotFoundError, "Row 5 of X", "does not exist", "check the path"):
        read_image(os.path.join(tmp_path, name), "Row 5 of X")


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)  # file modes do not stop an administrator
    with one_sentence(PermissionError, "Row 5 of X", "a.png", "permissions"):
        read_image(tmp_path / "a.png", "Row 5 of X")


@pytest.mark.parametrize("content", [b"", b"no image at all, but text", bytes(5000)], ids=["empty", "text", "zeros"])
def test_files_that_are_no_images(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with one_sentence(ValueError, "Row 5 of X", "a.png", "no image", "give a PNG"):
        read_image(tmp_path / "a.png", "Row 5 of X")


def test_a_folder_is_no_image(tmp_path):
    with one_sentence(ValueError, "Row 5 of X", "folder", "list its files"):
        read_image(tmp_path, "Row 5 of X")


def big_file(path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_files_that_are_cut_off(name, tmp_path):
    content = big_file(tmp_path / name)
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with one_sentence(ValueError, "Row 5 of X", name, "fetch or open it again"):
        read_image(tmp_path / name, "Row 5 of X")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.bmp", "a.webp"])
def test_damaged_files_give_an_image_or_one_sentence(name, tmp_path):
    content = big_file(tmp_path / name)
    draw = np.random.default_rng(2)
    for _ in range(60):
        damaged = bytearray(content[: draw.integers(1, len(content) + 1)])
        for place in draw.integers(0, min(len(damaged), draw.choice([200, 10**6])), 3):  # headers break in more ways
            damaged[place] = draw.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, on broken metadata
            try:
                image = read_image(tmp_path / name)
            except ValueError as error:
                check_sentence(str(error))
            else:
                assert image.shape[-1] == 3


def test_a_long_reason_is_cut_to_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()

    def fail(path):
        raise OSError("broken\nchunk. Second sentence.")

    monkeypatch.setattr(Image, "open", fail)
    with one_sentence(ValueError, "cannot be decoded (broken chunk)"):
        read_image(tmp_path / "a.png")


def test_pillows_limit_against_decompression_bombs_is_kept(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")  # 63 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)  # Pillow refuses more than twice as many
    with one_sentence(ValueError, "Row 5 of X", "a.png", "limit", "MAX_IMAGE_PIXELS (now 31)"):
        read_image(tmp_path / "a.png", "Row 5 of X")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)  # between once and twice Pillow warns and reads
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_image(tmp_path / "a.png").shape == (9, 7, 3)
    with one_sentence(ValueError, "MAX_IMAGE_PIXELS (now 32)"):  # who makes warnings errors gets the sentence
        read_image(tmp_path / "a.png")


def test_running_out_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", lambda path: (_ for _ in ()).throw(MemoryError()))
    with one_sentence(MemoryError, "Row 5 of X", "a.png", "does not fit into memory"):
        read_image(tmp_path / "a.png", "Row 5 of X")


def test_long_paths_are_shortened_at_their_beginning(tmp_path):
    with one_sentence(FileNotFoundError, "...", "/end.png"):
        read_image("/".join([*["folder"] * 100, "end.png"]))


def test_too_small_for_the_network():
    with one_sentence(ValueError, "Row 3 of X", "9 x 7 pixels (height x width)", "MANIQA", "8 pixels", "enlarge"):
        check_min_size(RGB, 8, "Row 3 of X", "MANIQA")
    check_min_size(RGB, 7, "Row 3 of X", "MANIQA")


def test_images_are_called_the_image_by_default():
    with one_sentence(ValueError, "The image has the shape"):
        read_image(np.zeros((9, 7, 2), np.uint8))


def test_inputs_are_never_changed():
    for image in (RGB, GREY, DEEP, RGB / 255, np.dstack([RGB, np.full((9, 7), 255, np.uint8)])):
        copy = image.copy()
        read_image(image)
        np.testing.assert_array_equal(image, copy)
    picture = Image.fromarray(RGB)
    picture.getexif()[274] = 6
    read_image(picture)
    assert (picture.size, picture.getexif()[274]) == ((7, 9), 6)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "HTTP://example.org/a.png", "s3://bucket/a.png"])
def test_an_address_on_the_network_is_no_path(address):
    with one_sentence(ValueError, address, "is an address on the network", "download the file first"):
        read_image(address)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_content_of_a_file_is_to_be_decoded(kind):
    with one_sentence(TypeError, "is the content of a file", kind.__name__, "PIL.Image.open(io.BytesIO(content))"):
        read_image(kind(b"\x89PNG"))

# SPDX-License-Identifier: BSD-3-Clause
"""Images -> views: equal to Pillow and torchvision, copies where copies are due, and crops that lie where they must."""

import math
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as v1
import torchvision.transforms.v2 as v2
from PIL import Image
from scipy.stats import chisquare
from sentences import one_sentence
from torch.overrides import TorchFunctionMode

import sklearn_iqa
from sklearn_iqa._nn import transforms

TESTS = Path(__file__).parent
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
SIZES = [(20, 20), (80, 90), (37, 20), (11, 53)]
BICUBIC = Image.Resampling.BICUBIC


# Resizing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, BICUBIC, Image.Resampling.LANCZOS])
def test_resize_of_uint8_is_pillows_to_the_bit(resample, size):
    height, width = size
    expected = np.asarray(Image.fromarray(IMAGE).resize((width, height), resample))
    result = transforms.resize(IMAGE, height, width, resample)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, BICUBIC, Image.Resampling.LANCZOS])
def test_resize_of_floats_is_near_the_one_of_uint8(resample, size):
    # Mild contrast, so that no overshoot is clipped. Pillow rounds 8-bit images after the horizontal and after the
    # vertical pass, by half a level each; the second pass weighs the first's error with absolute weights that sum to
    # 1.5 at most (Lanczos): 0.5 * 1.5 + 0.5 = 1.25 levels.
    image = IMAGE // 4 + 96
    result = transforms.resize((image / 255).astype(np.float32), *size, resample)
    assert (result.shape, result.dtype) == ((*size, 3), np.float32)
    np.testing.assert_allclose(result * 255, transforms.resize(image, *size, resample), rtol=0, atol=1.25)


def test_resize_of_floats_stays_in_0_to_1():
    edges = np.repeat(np.repeat(np.array([[0, 1], [1, 0]], np.float32), 8, axis=0), 8, axis=1)
    result = transforms.resize(np.stack([edges] * 3, axis=-1), 50, 50, BICUBIC)  # bicubic overshoots by some per cent
    assert (result.min(), result.max()) == (0.0, 1.0)


def test_resize_to_the_size_of_the_image_is_no_work():
    assert transforms.resize(IMAGE, 37, 53, BICUBIC) is IMAGE


def test_resize_takes_views_and_read_only_images_and_leaves_them_alone():
    flipped = IMAGE[::-1, :, ::-1]
    flipped.flags.writeable = False
    kept = IMAGE.copy()
    for image in (flipped, (flipped / 255).astype(np.float32)):
        result = transforms.resize(image, 20, 20, BICUBIC)
        np.testing.assert_array_equal(result, transforms.resize(image.copy(), 20, 20, BICUBIC))
    np.testing.assert_array_equal(IMAGE, kept)


@pytest.mark.parametrize("side", [1, 7, 32, 37, 100, 224, 384])
def test_resize_shorter_gives_torchvisions_sizes(side):
    for height, width in [(37, 53), (53, 37), (37, 37), (384, 512), (500, 333), (1, 9), (7, 100), (681, 1024)]:
        image = np.zeros((height, width, 3), np.uint8)
        expected = v2.Resize(side)(Image.fromarray(image))
        assert transforms.resize_shorter(image, side, BICUBIC).shape[:2] == (expected.height, expected.width)


def test_resize_shorter_gives_torchvisions_pixels():
    expected = v2.Resize(20, v2.InterpolationMode.BICUBIC)(Image.fromarray(IMAGE))
    np.testing.assert_array_equal(transforms.resize_shorter(IMAGE, 20, BICUBIC), np.asarray(expected))


def test_reduce_area_keeps_the_shape_and_what_is_small_enough():
    image = np.zeros((300, 400, 3), np.uint8)
    assert transforms.reduce_area(image, 300 * 400, BICUBIC) is image
    assert transforms.reduce_area(image, 75 * 100, BICUBIC).shape == (75, 100, 3)
    assert transforms.reduce_area(np.zeros((1, 400, 3), np.uint8), 100, BICUBIC).shape == (
        1,
        200,
        3,
    )  # no side vanishes


# Scaling --------------------------------------------------------------------------------------------------------------


def test_to_tensor_is_torchvisions():
    levels = np.arange(256 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    result = transforms.to_tensor(levels)
    assert result.dtype == torch.float32
    assert torch.equal(result, v1.to_tensor(levels))  # both divide by 255
    # `to_dtype` multiplies by 1 / 255, which is off by half a unit in the last place of 1: 2 ** -24.
    scaled = v2.functional.to_dtype(torch.from_numpy(levels).permute(2, 0, 1), torch.float32, scale=True)
    torch.testing.assert_close(result, scaled, rtol=0, atol=2**-24)


def test_to_tensor_keeps_floats():
    image = (IMAGE / 255).astype(np.float32)
    assert torch.equal(transforms.to_tensor(image), torch.tensor(image).permute(2, 0, 1))


FLOATS = (IMAGE / 255).astype(np.float32)


@pytest.mark.parametrize(
    "image",
    [IMAGE, FLOATS, IMAGE[::-1], np.moveaxis(np.ascontiguousarray(np.moveaxis(FLOATS, -1, 0)), 0, -1)],
    ids=["uint8", "float", "turned", "channels first inside"],
)
def test_to_tensor_copies(image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    kept = image.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors that share read-only memory
        for given in (image, mapped):
            tensor = transforms.to_tensor(given)
            assert tensor.movedim(0, -1).is_contiguous()  # channels last in memory
            tensor.zero_()
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), kept)


def test_to_tensor_stacks_the_images_of_a_tuple():
    pair = transforms.to_tensor((IMAGE, 255 - IMAGE))
    assert pair.shape == (2, 3, 37, 53)
    assert torch.equal(pair[0], transforms.to_tensor(IMAGE))
    assert torch.equal(pair[1], transforms.to_tensor(255 - IMAGE))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (transforms.IMAGENET_MEAN, transforms.IMAGENET_STD),
        (transforms.HALF_MEAN, transforms.HALF_STD),
        ((0, 0, 0), (1, 2, 4)),
    ],
)
def test_normalize_is_torchvisions_on_all_leading_axes(mean, std):
    stack = torch.rand(2, 4, 3, 5, 6)
    kept = stack.clone()
    result = transforms.normalize(stack, mean, std)
    assert torch.equal(result, v2.functional.normalize(stack, mean, std))
    assert torch.equal(result[1, 2], transforms.normalize(stack[1, 2], mean, std))
    assert torch.equal(stack, kept)


def test_constants():
    # torchvision.transforms.presets; https://pytorch.org/vision/stable/models.html
    assert (transforms.IMAGENET_MEAN, transforms.IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ends = transforms.normalize(torch.tensor([0.0, 1.0]).expand(3, 1, 2), transforms.HALF_MEAN, transforms.HALF_STD)
    assert ends[0].tolist() == [[-1, 1]]


# Crops ----------------------------------------------------------------------------------------------------------------


def numbered(height, width):
    """Each pixel holds its own place: channels row, column, 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).float()


def place(crop):
    return tuple(int(v) for v in crop[:2, 0, 0])


@pytest.mark.parametrize(
    ("height", "width", "size"), [(9, 9, 4), (10, 9, 4), (37, 52, 32), (37, 53, 37), (224, 299, 224), (299, 227, 224)]
)
def test_center_crop_is_torchvisions(height, width, size):
    stack = torch.rand(2, 3, height, width)
    assert torch.equal(transforms.center_crop(stack, size), v2.functional.center_crop(stack, [size, size]))


def test_random_crop_is_uniform_and_inside():
    image = numbered(10, 8)
    torch.manual_seed(0)
    crops = [transforms.random_crop(image, 6) for _ in range(3000)]
    for crop in crops[:50]:
        top, left = place(crop)
        assert torch.equal(crop, image[:, top : top + 6, left : left + 6])
    counts = Counter(place(crop) for crop in crops)
    # 5 x 3 places from (0, 0) to (4, 2), each with 200 expected; p below 1e-3 would be a chance of one in a thousand.
    assert set(counts) == {(top, left) for top in range(5) for left in range(3)}
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_random_crop_cuts_all_leading_axes_in_one_place():
    stack = numbered(30, 40).expand(2, 5, 3, 30, 40)
    crop = transforms.random_crop(stack, 7)
    assert crop.shape == (2, 5, 3, 7, 7)
    assert torch.equal(crop, crop[:1, :1].expand_as(crop))


def test_random_crop_follows_the_seed():
    image = torch.rand(3, 100, 100)
    torch.manual_seed(3)
    first = [transforms.random_crop(image, 50) for _ in range(5)]
    torch.manual_seed(3)
    assert all(torch.equal(crop, transforms.random_crop(image, 50)) for crop in first)


def test_random_crop_of_the_whole_is_the_image():
    image = torch.rand(3, 9, 9)
    assert torch.equal(transforms.random_crop(image, 9), image)


@pytest.mark.parametrize(("axis", "mirrored"), [(-1, lambda t: t[..., ::-1]), (-2, lambda t: t[..., ::-1, :])])
def test_random_flip_mirrors_one_axis(axis, mirrored):
    pair = torch.rand(2, 3, 4, 5)
    assert torch.equal(transforms.random_flip(pair, p=1, axis=axis), torch.tensor(mirrored(pair.numpy()).copy()))
    assert torch.equal(transforms.random_flip(pair, p=0, axis=axis), pair)


def test_random_flip_has_its_probability():
    image = torch.tensor([[[0.0, 1.0]]])
    torch.manual_seed(0)
    share = np.mean([transforms.random_flip(image, p=0.3)[0, 0, 0] for _ in range(2000)])
    # Four standard deviations of the share: 4 * sqrt(0.3 * 0.7 / 2000) = 0.041.
    assert abs(share - 0.3) < 0.041


# The grid -------------------------------------------------------------------------------------------------------------

IMAGES_AND_CROPS = [
    (384, 512, 224),
    (512, 384, 224),
    (224, 224, 224),
    (224, 800, 224),
    (800, 224, 224),
    (225, 226, 224),
]


@pytest.mark.parametrize(("height", "width", "size"), IMAGES_AND_CROPS)
def test_grid_positions_lie_inside_and_reach_the_borders(height, width, size):
    free = (height - size, width - size)
    for n_crops in range(1, 31):
        places = transforms.grid_positions(height, width, size, n_crops)
        assert len(places) == n_crops
        assert places == sorted(places) == transforms.grid_positions(height, width, size, n_crops)
        assert all(type(v) is int for one in places for v in one)
        for axis in (0, 1):
            values = [one[axis] for one in places]
            if len(set(values)) > 1:
                assert (min(values), max(values)) == (0, free[axis])
            else:
                assert values[0] == free[axis] // 2


def test_one_crop_is_the_central_one():
    for height, width in [(10, 10), (11, 14), (5, 40)]:
        assert transforms.grid_positions(height, width, 5, 1) == [((height - 5) // 2, (width - 5) // 2)]


@pytest.mark.parametrize(("height", "width"), [(384, 512), (512, 384), (300, 300), (500, 1000), (768, 1024)])
def test_grid_positions_are_symmetric(height, width):
    for n_crops in range(1, 31):
        places = transforms.grid_positions(height, width, 224, n_crops)
        for (top, left), (other_top, other_left) in zip(places, reversed(places), strict=True):
            assert height - 224 - top - other_top in (0, 1)  # halves are rounded down
            assert width - 224 - left - other_left in (0, 1)


def test_grid_positions_are_distinct_whenever_they_can_be():
    for free_height in range(6):
        for free_width in range(9):
            for n_crops in range(1, (free_height + 1) * (free_width + 1) + 1):
                places = transforms.grid_positions(8 + free_height, 8 + free_width, 8, n_crops)
                assert len(set(places)) == n_crops


def test_grid_positions_known_by_hand():
    # 4 in a square: the corners; 5: and the centre; 9: three by three; 2 in a wide image: left and right.
    assert transforms.grid_positions(10, 10, 4, 4) == [(0, 0), (0, 6), (6, 0), (6, 6)]
    assert transforms.grid_positions(10, 10, 4, 5) == [(0, 0), (0, 6), (3, 3), (6, 0), (6, 6)]
    assert transforms.grid_positions(10, 10, 4, 9) == [(top, left) for top in (0, 3, 6) for left in (0, 3, 6)]
    assert transforms.grid_positions(4, 10, 4, 2) == [(0, 0), (0, 6)]
    assert transforms.grid_positions(10, 4, 4, 3) == [(0, 0), (3, 0), (6, 0)]
    assert transforms.grid_positions(4, 4, 4, 3) == [(0, 0)] * 3


def test_grid_positions_follow_the_shape_of_the_image():
    # 20 crops of 224 in 384 x 512: the free 160 x 288 pixels call for sqrt(20 * 161 / 289) = 3.3 rows.
    rows = len({top for top, _ in transforms.grid_positions(384, 512, 224, 20)})
    assert rows == round(math.sqrt(20 * 161 / 289)) == 3
    assert len({top for top, _ in transforms.grid_positions(512, 384, 224, 20)}) > rows


# Squares of images ----------------------------------------------------------------------------------------------------

PAIR = (IMAGE, 255 - IMAGE)
READ_ONLY = np.asarray(Image.fromarray(IMAGE))
KINDS = {"uint8": IMAGE, "float": FLOATS, "turned": IMAGE[::-1, ::-1], "read-only": READ_ONLY, "pair": PAIR}
every_kind = pytest.mark.parametrize("images", KINDS.values(), ids=KINDS)


def normalized(images):
    return transforms.normalize(transforms.to_tensor(images), transforms.IMAGENET_MEAN, transforms.IMAGENET_STD)


@every_kind
@pytest.mark.parametrize(
    ("square", "crop"),
    [
        (transforms.random_square, transforms.random_crop),
        (transforms.central_square, transforms.center_crop),
        (
            lambda images, size: transforms.square_at(images, (3, 7), size),
            lambda t, n: transforms.crop_at(t, (3, 7), n),
        ),
    ],
    ids=["random", "central", "at a place"],
)
def test_a_square_of_an_image_becomes_the_crop_of_its_tensor(images, square, crop):
    torch.manual_seed(3)
    expected, state = crop(normalized(images), 16), torch.get_rng_state()
    torch.manual_seed(3)
    found = square(images, 16)
    assert torch.equal(normalized(found), expected)
    assert torch.equal(torch.get_rng_state(), state)


@every_kind
def test_a_square_shares_the_memory_of_its_image(images):
    given = images if isinstance(images, tuple) else (images,)
    for square in (transforms.random_square, transforms.central_square):
        found = square(images, 16)
        for part, whole in zip(found if isinstance(images, tuple) else (found,), given, strict=True):
            assert np.shares_memory(part, whole)


@every_kind
@pytest.mark.parametrize("n_squares", [1, 7, 8, 30])  # 7 squares of 16 hold fewer pixels than 37 x 53, 8 hold more
def test_squares_are_crops_of_the_whole_and_convert_the_fewest_pixels(images, n_squares):
    places = transforms.random_places(images, 16, n_squares)
    converted = []

    def convert(images):
        converted.append(transforms.height_and_width(images))
        return normalized(images)

    found = transforms.squares(images, places, 16, convert)
    assert torch.equal(found, torch.stack([transforms.crop_at(normalized(images), place, 16) for place in places]))
    assert converted == ([(16, 16)] * n_squares if n_squares < 8 else [(37, 53)])


def test_places_to_score_are_the_same_at_every_call():
    def places(content=IMAGE, **settings):
        settings = {"crops": "random", "random_state": 3} | settings
        return transforms.places_to_score(IMAGE, 8, 5, content=content, **settings)

    state = torch.get_rng_state()
    found = places()
    assert found == places()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(found)) == 5
    # they follow the pixels of the image and the seed, in which all that is no whole number counts as 0
    assert found == places(content=IMAGE[::-1][::-1])
    assert found != places(content=IMAGE[::-1])
    assert found != places(random_state=4)
    for other in (None, np.random.RandomState(3)):
        assert places(random_state=other) == places(random_state=0)
    assert places(crops="grid") == transforms.grid_positions(37, 53, 8, 5)


def test_random_places_are_drawn_from_the_generator_that_they_are_given():
    torch.manual_seed(3)
    places = transforms.random_places(PAIR, 8, 4)
    before = torch.get_rng_state()
    assert transforms.random_places(PAIR, 8, 4, torch.Generator().manual_seed(3)) == places
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    each = [transforms.random_square(IMAGE, 8) for _ in places]
    for place, square in zip(places, each, strict=True):
        np.testing.assert_array_equal(transforms.square_at(IMAGE, place, 8), square)


@pytest.mark.parametrize("shape", [(31, 40), (40, 31)])
@pytest.mark.parametrize(
    "cut",
    [
        lambda image, size: transforms.random_crop(transforms.to_tensor(image), size),
        lambda image, size: transforms.center_crop(transforms.to_tensor(image), size),
        transforms.random_square,
        transforms.central_square,
        lambda image, size: transforms.random_places(image, size, 1),
        lambda image, size: transforms.grid_positions(*image.shape[:2], size, 1),
        lambda image, size: transforms.grid_positions(*image.shape[:2], size, 5),
    ],
)
def test_an_image_smaller_than_a_crop_is_refused(cut, shape):
    with one_sentence(ValueError, f"{shape[0]} x {shape[1]} pixels", "32 x 32", "enlarge"):
        cut(np.zeros((*shape, 3), np.uint8), 32)


# Methods --------------------------------------------------------------------------------------------------------------


class LargestTensor(TorchFunctionMode):
    """Notes how many numbers the largest tensor holds that a function of torch gives."""

    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.numel = max(self.numel, output.numel())
        return output


# All that cut crops; but MetaIQA and NIMA resize in floating point, and Re-IQA reads the half of a whole image.
CROPPING = [
    *(
        "AHIQ",
        "ContentDiverseIQA",
        "CVRKDIQA",
        "DBCNN",
        "DEIQT",
        "DRIQA",
        "GIQA",
        "GraphIQA",
        "HyperIQA",
        "IQT",
        "JSPL",
    ),
    *("LIQE", "LPIPS", "MANIQA", "QPT", "STLPIPS", "UNIQUE"),
]


@pytest.mark.parametrize("name", CROPPING)
def test_of_a_large_image_crops_alone_become_floats(name):
    cls = getattr(sklearn_iqa, name)
    given = {
        key: str(TESTS / value) if str(value).endswith(".json") else value for key, value in cls._test_params.items()
    }
    estimator = cls(**given, device="cpu").initialize()
    image = np.zeros((3000, 4000, 3), np.uint8)
    x = image if len(cls.inputs) == 1 else (image, image)
    tracemalloc.start()
    try:
        with LargestTensor() as largest:
            view = estimator._train_view(x)
        _, peak = tracemalloc.get_traced_memory()  # of NumPy's arrays; torch's are not among them
    finally:
        tracemalloc.stop()
    crops = view["crops"] if isinstance(view, dict) else view
    assert largest.numel == crops.numel()
    assert peak < image.nbytes * 4

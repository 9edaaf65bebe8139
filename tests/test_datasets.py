# SPDX-License-Identifier: BSD-3-Clause
"""Photographs that the dependencies install, and distorted sets made from them."""

import socket

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import check_random_state

from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.distortions import DISTORTIONS, distort


def test_ten_photographs_are_read_without_a_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    photographs = load_photographs()
    assert len(photographs.images) == 10
    for field in ("names", "licences", "credits"):
        assert len(photographs[field]) == 10
        assert all(isinstance(entry, str) and entry for entry in photographs[field])
    assert photographs.names == sorted(set(photographs.names))
    assert all(name in photographs.DESCR for name in ("china", "hubble_deep_field"))


def test_photographs_are_colored_and_of_their_own_size():
    photographs = load_photographs()
    for image in photographs.images:
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)
        assert min(image.shape[:2]) >= 300
        assert (np.ptp(image, axis=2) > 0).mean() > 0.5  # colour in most pixels
    shapes = dict(zip(photographs.names, (image.shape for image in photographs.images), strict=True))
    # Sizes as documented by scikit-learn and scikit-image.
    assert shapes["china"] == (427, 640, 3)
    assert shapes["coffee"] == (400, 600, 3)
    assert shapes["motorcycle"] == (500, 741, 3)


@pytest.mark.parametrize("size", [1, 97, 301])
def test_size_gives_squares(size):
    assert {image.shape for image in load_photographs(size=size).images} == {(size, size, 3)}


def test_the_square_is_the_center():
    # At the length of its short side (300) nothing is scaled: columns 75 to 374 of chelsea's 451.
    position = load_photographs().names.index("chelsea")
    own = load_photographs().images[position]
    np.testing.assert_array_equal(load_photographs(size=300).images[position], own[:, 75:375])


def test_changing_a_photograph_changes_no_later_one():
    first = load_photographs(size=32)
    for image in first.images:
        image[:] = 0
    assert all(image.any() for image in load_photographs(size=32).images)


@pytest.mark.parametrize("size", [0, -3, 22.5, "64"])
def test_size_is_a_positive_integer(size):
    with pytest.raises(
        ValueError, match=r"'size' parameter of load_photographs must be an int in the range \[1, inf\)"
    ):
        load_photographs(size=size)


@pytest.fixture(scope="module")
def images():
    return load_photographs(size=64).images[:4]


def test_rows_of_a_distorted_set(images):
    distorted = make_distorted(images, random_state=0)
    n_rows = 4 * 25 * 5
    assert all(len(distorted[field]) == n_rows for field in ("images", "references", "target", "groups"))
    assert distorted.distortion.shape == distorted.level.shape == (n_rows,)
    assert set(distorted.distortion) == set(DISTORTIONS)
    np.testing.assert_array_equal(distorted.target, -distorted.level.astype(float))
    np.testing.assert_array_equal(np.unique(distorted.level), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(distorted.groups, np.repeat(range(4), 125))
    for image, reference, group in zip(distorted.images, distorted.references, distorted.groups, strict=True):
        assert reference is images[group]
        assert image.shape == reference.shape
        assert (image != reference).any()


def test_kinds_without_chance_are_those_of_distort(images):
    distorted = make_distorted(images, distortions=["jpeg"], levels=[2, 5], random_state=0)
    np.testing.assert_array_equal(distorted.images[3], distort(images[1], "jpeg", 5))


def test_level_0_is_the_photograph(images):
    distorted = make_distorted(images, distortions=["jpeg", "jitter"], levels=[0])
    np.testing.assert_array_equal(distorted.target, np.zeros(8))
    for image, reference in zip(distorted.images, distorted.references, strict=True):
        np.testing.assert_array_equal(image, reference)


def test_a_row_does_not_depend_on_the_other_rows(images):
    def by_row(**selection):
        rows = make_distorted(random_state=3, **selection)
        return {row[:3]: row[3] for row in zip(rows.groups, rows.distortion, rows.level, rows.images, strict=True)}

    whole = by_row(images=images)
    part = by_row(images=images[:3], distortions=["jitter", "white_noise"], levels=[4, 2])
    assert len(part) == 3 * 2 * 2
    for row, image in part.items():
        np.testing.assert_array_equal(image, whole[row])


def test_noise_differs_between_rows_and_seeds(images):
    twice = [images[0], images[0]]
    first = make_distorted(twice, distortions=["white_noise"], levels=[1, 5], random_state=0)
    assert (first.images[0] != first.images[2]).any()
    again = make_distorted(twice, distortions=["white_noise"], levels=[1, 5], random_state=0)
    other = make_distorted(twice, distortions=["white_noise"], levels=[1, 5], random_state=1)
    unseeded = make_distorted(twice, distortions=["white_noise"], levels=[1, 5])
    for row, image in enumerate(first.images):
        np.testing.assert_array_equal(image, again.images[row])
        assert (image != other.images[row]).any()
        assert (image != unseeded.images[row]).any()


def test_photographs_and_global_generator_stay_as_they_were(images):
    before = [image.copy() for image in images]
    state = check_random_state(None).get_state()
    make_distorted(images, distortions=["color_block", "white_noise"], levels=[5])
    np.testing.assert_array_equal(check_random_state(None).get_state()[1], state[1])
    assert check_random_state(None).get_state()[2] == state[2]
    for image, copy in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_paths_are_opened_and_stay_the_references(images, tmp_path):
    path = tmp_path / "photograph.png"
    Image.fromarray(images[0]).save(path)
    stored = path.read_bytes()
    from_path = make_distorted([path], distortions=["jitter"], levels=[1, 5], random_state=0)
    from_array = make_distorted(images[:1], distortions=["jitter"], levels=[1, 5], random_state=0)
    assert from_path.references == [path, path]
    np.testing.assert_array_equal(from_path.images, from_array.images)
    assert path.read_bytes() == stored


def test_without_images_the_ten_photographs_are_taken():
    distorted = make_distorted(distortions=["mean_shift"], levels=[1])
    assert [image.shape for image in distorted.images] == [(256, 256, 3)] * 10
    np.testing.assert_array_equal(distorted.groups, range(10))


@pytest.mark.parametrize(
    ("distortions", "levels", "message"),
    [(["fog"], [1], "'distortion' .* Got 'fog'"), (["jpeg"], [6], "'level' .* Got 6")],
)
def test_unknown_kinds_and_levels_are_refused(images, distortions, levels, message):
    with pytest.raises(ValueError, match=message):
        make_distorted(images, distortions=distortions, levels=levels)


def mean_gradient(images):
    return np.array([[np.abs(np.diff(image.astype(float), axis=0)).mean()] for image in images])


def test_groups_keep_photographs_apart_in_cross_validation(images):
    distorted = make_distorted(images, distortions=["white_noise"], random_state=0)
    splits = list(GroupKFold(4).split(distorted.images, distorted.target, distorted.groups))
    for train, test in splits:
        assert not set(distorted.groups[train]) & set(distorted.groups[test])
    model = make_pipeline(FunctionTransformer(mean_gradient), DecisionTreeRegressor(random_state=0))
    scores = cross_val_score(
        model, distorted.images, distorted.target, groups=distorted.groups, cv=GroupKFold(4), error_score="raise"
    )
    assert scores.shape == (4,)

# SPDX-License-Identifier: BSD-3-Clause
"""Containers of images and pairs: the same rows whatever they came in, opened late, and one sentence when unusable."""

import copy
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from PIL import Image
from sentences import one_sentence
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing

import sklearn_iqa
from sklearn_iqa._base.rows import check_images, check_tuples, count_images, image_name, make_pairs

N = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 9, 7, 3), dtype=np.uint8)
REFERENCES = 255 - IMAGES
NAMES = ("query", "reference")
TRIPLET = ("first query", "second query", "reference")


def objects(items, shape=None):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array if shape is None else array.reshape(shape)


def channels_first(images):
    return torch.from_numpy(images).movedim(-1, -3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(N):
        Image.fromarray(IMAGES[i]).save(folder / f"query{i}.png")
        Image.fromarray(REFERENCES[i]).save(folder / f"reference{i}.png")
    return [folder / f"query{i}.png" for i in range(N)], [folder / f"reference{i}.png" for i in range(N)]


# Each gives a container of IMAGES, from the paths of their files.
SINGLE = {
    "array": lambda paths: IMAGES,
    "float array": lambda paths: IMAGES / 255,
    "list of arrays": lambda paths: list(IMAGES),
    "tuple of arrays": lambda paths: tuple(IMAGES),
    "object array of arrays": lambda paths: objects(list(IMAGES)),
    "list of paths": lambda paths: list(paths),
    "object array of paths": lambda paths: objects(list(paths)),
    "array of strings": lambda paths: np.array([str(path) for path in paths]),
    "array of NumPy strings": lambda paths: np.array([str(path) for path in paths], dtype=np.dtypes.StringDType()),
    "list of PIL images": lambda paths: [Image.fromarray(image) for image in IMAGES],
    "list of tensors": lambda paths: list(channels_first(IMAGES)),
    "pandas Series of arrays": lambda paths: pd.Series(list(IMAGES), index=range(50, 50 + N)),
    "pandas Series of strings": lambda paths: pd.Series([str(path) for path in paths], index=list("fedcba")),
    "pandas categories": lambda paths: pd.Series([str(path) for path in paths], dtype="category"),
    "polars Series of arrays": lambda paths: pl.Series(list(IMAGES), dtype=pl.Object),
    "polars Series of strings": lambda paths: pl.Series([str(path) for path in paths]),
    "object array (n, 1)": lambda paths: objects(list(IMAGES), (N, 1)),
    "array (n, 1) of strings": lambda paths: np.array([[str(path)] for path in paths]),
    "pandas data frame of one column": lambda paths: pd.DataFrame({"image": paths}, index=range(50, 50 + N)),
    "pandas data frame of arrays": lambda paths: pd.DataFrame({"image": list(IMAGES)}),
    "polars data frame of one column": lambda paths: pl.DataFrame({"image": [str(path) for path in paths]}),
    "polars data frame of arrays": lambda paths: pl.DataFrame({"image": pl.Series(list(IMAGES), dtype=pl.Object)}),
    "tensor, channels first": lambda paths: channels_first(IMAGES),
    "tensor, channels last": lambda paths: torch.from_numpy(IMAGES),
    "mixed": lambda paths: [
        IMAGES[0],
        paths[1],
        str(paths[2]),
        Image.fromarray(IMAGES[3]),
        *channels_first(IMAGES[4:]),
    ],
}
# Each gives a container of the pairs (IMAGES[i], REFERENCES[i]).
PAIRS = {
    "array": lambda q, r: np.stack([IMAGES, REFERENCES], axis=1),
    "list of tuples": lambda q, r: list(zip(IMAGES, REFERENCES, strict=True)),
    "tuple of tuples": lambda q, r: tuple(zip(IMAGES, REFERENCES, strict=True)),
    "list of lists": lambda q, r: [list(pair) for pair in zip(IMAGES, REFERENCES, strict=True)],
    "list of arrays": lambda q, r: list(np.stack([IMAGES, REFERENCES], axis=1)),
    "list of tuples of paths": lambda q, r: list(zip(q, r, strict=True)),
    "object array of tuples": lambda q, r: objects(list(zip(q, r, strict=True))),
    "object array (n, 2)": lambda q, r: objects(list(IMAGES) + list(REFERENCES), (2, N)).T,
    "array (n, 2) of strings": lambda q, r: np.array([[str(path) for path in q], [str(path) for path in r]]).T,
    "pandas data frame": lambda q, r: pd.DataFrame({"q": q, "r": list(REFERENCES)}, index=range(50, 50 + N)),
    "pandas columns of one name": lambda q, r: pd.DataFrame(objects(q + r, (2, N)).T, columns=["path", "path"]),
    "polars data frame": lambda q, r: pl.DataFrame(
        {"q": [str(path) for path in q], "r": pl.Series(list(REFERENCES), dtype=pl.Object)}
    ),
    "tensor, channels first": lambda q, r: torch.stack([channels_first(IMAGES), channels_first(REFERENCES)], 1),
    "tensor, channels last": lambda q, r: torch.from_numpy(np.stack([IMAGES, REFERENCES], axis=1)),
    "make_pairs": lambda q, r: make_pairs(q, REFERENCES),
}


def equal(image, expected):
    scale = 255 if image.dtype == np.uint8 else 1
    np.testing.assert_allclose(image / scale, expected / 255, rtol=0, atol=1e-7)  # float32 has 24 bits: 6e-8


# Containers of images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINGLE)
def test_containers_of_images_hold_the_same_rows(kind, paths):
    X = SINGLE[kind](paths[0])
    rows = check_images(X)
    assert len(rows) == N
    assert count_images(X) == 1
    for i in range(N):
        equal(rows[i], IMAGES[i])


@pytest.mark.parametrize("kind", SINGLE)
def test_scikit_learn_splits_containers_of_images(kind, paths):
    X = SINGLE[kind](paths[0])
    train, test = train_test_split(X, random_state=0)
    order_train, order_test = train_test_split(np.arange(N), random_state=0)
    for part, order in ((train, order_train), (test, order_test)):
        rows = check_images(part)
        assert len(rows) == len(order)
        for i, number in enumerate(order):
            equal(rows[i], IMAGES[number])
    for _, order in KFold(3).split(X):
        equal(check_images(_safe_indexing(X, order))[0], IMAGES[order[0]])


def test_grey_arrays_are_repeated_to_rgb():
    grey = IMAGES[..., 0]
    for X in (grey, grey[..., None], list(grey), torch.from_numpy(grey)[:, None]):
        np.testing.assert_array_equal(check_images(X)[4], np.stack([grey[4]] * 3, axis=-1))


def test_images_of_one_container_may_differ_in_size():
    rows = check_images([IMAGES[0], IMAGES[1, :5], IMAGES[2, :, :4]])
    assert [rows[i].shape for i in range(3)] == [(9, 7, 3), (5, 7, 3), (9, 4, 3)]


def test_single_images_share_nothing():
    rows = check_images([IMAGES[0], IMAGES[0]])
    assert rows.same(0) != rows.same(1)


# Containers of pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PAIRS)
def test_containers_of_pairs_hold_the_same_rows(kind, paths):
    X = PAIRS[kind](*paths)
    rows = check_tuples(X, NAMES, "LPIPS")
    assert len(rows) == N
    assert count_images(X) == 2
    for i in range(N):
        query, reference = rows[i]
        equal(query, IMAGES[i])
        equal(reference, REFERENCES[i])


@pytest.mark.parametrize("kind", PAIRS)
def test_scikit_learn_splits_containers_of_pairs(kind, paths):
    X = PAIRS[kind](*paths)
    train, test = train_test_split(X, random_state=0)
    order_train, order_test = train_test_split(np.arange(N), random_state=0)
    for part, order in ((train, order_train), (test, order_test)):
        rows = check_tuples(part, NAMES, "LPIPS")
        assert len(rows) == len(order)
        for i, number in enumerate(order):
            equal(rows[i][0], IMAGES[number])
            equal(rows[i][1], REFERENCES[number])
    for _, order in KFold(3).split(X):
        equal(check_tuples(_safe_indexing(X, order), NAMES, "LPIPS")[0][1], REFERENCES[order[0]])


def test_triplets_have_three_images():
    array = np.stack([IMAGES, IMAGES[::-1], REFERENCES], axis=1)
    for X in (array, list(map(tuple, array)), torch.from_numpy(array), objects(list(map(list, array)))):
        assert count_images(X) == 3
        first, second, reference = check_tuples(X, TRIPLET, "LPIPS")[1]
        equal(first, IMAGES[1])
        equal(second, IMAGES[-2])
        equal(reference, REFERENCES[1])


def test_pairs_may_differ_in_size_from_row_to_row():
    rows = check_tuples([(IMAGES[0], REFERENCES[0]), (IMAGES[1, :5], REFERENCES[1, :5])], NAMES, "LPIPS")
    assert [image.shape for image in rows[1]] == [(5, 7, 3)] * 2


def test_pairs_of_different_sizes_are_refused_by_methods_that_compare_pixels():
    X = [(IMAGES[0], REFERENCES[0]), (IMAGES[1], REFERENCES[1, :5])]
    with one_sentence(ValueError, "Row 1 of X", "query 9 x 7, reference 5 x 7", "LPIPS", "crop or resize"):
        check_tuples(X, NAMES, "LPIPS")[1]
    assert check_tuples(X, NAMES, "CVRKDIQA", same_size=False)[1][1].shape == (5, 7, 3)


@pytest.mark.parametrize("kind", [tuple, np.stack])
def test_some_images_of_a_row_can_be_opened_alone(kind):
    triplets = [kind([IMAGES[i], IMAGES[i - 1], REFERENCES[i]]) for i in range(N)]
    rows = check_tuples(triplets, TRIPLET, "LPIPS")
    second, reference = rows.only(1, 2)[3]
    equal(second, IMAGES[2])
    equal(reference, REFERENCES[3])
    (alone,) = rows.only(1, 2).only(1)[3]
    equal(alone, REFERENCES[3])
    assert rows.only(0, 2).same(3) == rows.same(3) != rows.only(0, 1).same(3) == rows.only(1).same(3)
    assert len(rows.only(0)) == N
    assert len(rows[0]) == 3  # rows themselves stay
    missing = check_tuples([*triplets, (IMAGES[0], "missing.png", REFERENCES[0])], TRIPLET, "LPIPS")
    assert len(missing.only(0, 2)[N]) == 2
    with pytest.raises(FileNotFoundError, match=f"The second query in row {N} of X"):
        missing.only(1)[N]
    with one_sentence(ValueError, "Row 1 of X", "second query 9 x 7, reference 5 x 7"):
        check_tuples([triplets[0], (IMAGES[0], IMAGES[0], REFERENCES[0][:5])], TRIPLET, "LPIPS").only(1, 2)[1]


@pytest.mark.parametrize("kind", PAIRS)
def test_rows_share_a_reference(kind, paths):
    X = PAIRS[kind](*paths)
    shared = _safe_indexing(X, [0, 1, 0, 2])
    rows = check_tuples(shared, NAMES, "LPIPS")
    keys = [rows.same(i) for i in range(4)]
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3


def test_one_path_written_in_several_ways_is_one_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = "r.png", tmp_path / "r.png", "~/r.png", Path("~/r.png"), "s.png"
    rows = check_tuples([("a.png", way) for way in ways], NAMES, "LPIPS")
    assert rows.same(0) == rows.same(1) == rows.same(2) == rows.same(3) != rows.same(4)


def test_a_path_in_the_users_folder_has_one_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    assert image_name("~/a.png", "Row 0 of X") == image_name(tmp_path / "a.png", "Row 0 of X")


def test_asking_for_the_reference_of_what_is_no_pair_gives_the_sentence():
    for item in ("a.png", 5, IMAGES[0], ()):
        with one_sentence(ValueError, "row 1 of X", "(query, reference)", "make_pairs"):
            check_tuples([(IMAGES[0], IMAGES[0]), item], NAMES, "LPIPS").same(1)


# Pairs from two containers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINGLE)
def test_make_pairs_takes_every_container(kind, paths):
    X = make_pairs(SINGLE[kind](paths[0]), SINGLE[kind](paths[0]))
    assert [type(pair) for pair in X] == [tuple] * N
    for image in check_tuples(X, NAMES, "LPIPS")[3]:
        equal(image, IMAGES[3])


@pytest.mark.parametrize(
    "reference",
    [
        REFERENCES[0],
        REFERENCES[0, ..., 0],
        REFERENCES[0, ..., :1],
        np.dstack([REFERENCES[0], np.full((9, 7), 255, np.uint8)]),
        Image.fromarray(REFERENCES[0]),
        channels_first(REFERENCES)[0],
        torch.from_numpy(REFERENCES[0]),
    ],
    ids=["array", "grey", "one channel", "opaque", "PIL", "tensor", "tensor, channels last"],
)
def test_make_pairs_repeats_one_reference(reference):
    X = make_pairs(IMAGES, reference)
    assert all(pair[1] is reference for pair in X)
    assert check_tuples(X, NAMES, "LPIPS")[N - 1][1].shape == (9, 7, 3)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_make_pairs_repeats_one_path(kind, paths):
    X = make_pairs(paths[0], kind(paths[1][0]))
    equal(check_tuples(X, NAMES, "LPIPS")[2][1], REFERENCES[0])


def test_three_grey_references_are_not_one_image_with_channels_first():
    grey = REFERENCES[:3, ..., 0]
    X = make_pairs(IMAGES[:3], grey)
    np.testing.assert_array_equal(X[2][1], grey[2])


def test_make_pairs_copies_nothing():
    X = make_pairs(IMAGES, REFERENCES)
    assert np.shares_memory(X[5][0], IMAGES)
    assert np.shares_memory(X[5][1], REFERENCES)


def test_make_pairs_says_which_side_is_wrong():
    with one_sentence(ValueError, "6 queries and 2 references", "one reference for each query"):
        make_pairs(IMAGES, REFERENCES[:2])
    with one_sentence(ValueError, "queries has the shape (9, 7, 3)", "[image]"):
        make_pairs(IMAGES[0], REFERENCES)
    with one_sentence(TypeError, "references is a dict"):
        make_pairs(IMAGES, {"reference": REFERENCES})
    with one_sentence(ValueError, "references is empty"):
        make_pairs(IMAGES, [])


def test_make_pairs_is_public():
    assert sklearn_iqa.make_pairs is make_pairs


# Late opening ---------------------------------------------------------------------------------------------------------


def test_nothing_is_opened_before_its_row_is_read(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("opened"))
    missing = [f"/nowhere/{i}.png" for i in range(100_000)]
    rows = check_images(missing)
    assert len(rows) == 100_000
    assert rows.items is missing
    assert count_images(missing) == 1
    X = make_pairs(missing, "/nowhere/reference.png")
    pairs = check_tuples(X, NAMES, "LPIPS")
    assert len(pairs) == count_images(X) * 50_000
    assert pairs.items is X
    assert pairs.same(0) == pairs.same(99_999)
    with one_sentence(FileNotFoundError, "Row 77777 of X", "/nowhere/77777.png", "check the path"):
        rows[77777]
    with one_sentence(FileNotFoundError, "The query in row 77777 of X", "/nowhere/77777.png"):
        pairs[77777]


def test_arrays_are_views_not_copies():
    assert np.shares_memory(check_images(IMAGES)[2], IMAGES)
    assert np.shares_memory(check_images(channels_first(IMAGES))[2], IMAGES)
    pairs = np.stack([IMAGES, REFERENCES], axis=1)
    assert np.shares_memory(check_tuples(pairs, NAMES, "LPIPS")[2][1], pairs)


def test_read_only_memory_maps_are_taken(tmp_path):
    for X in (IMAGES, np.stack([IMAGES, REFERENCES], axis=1)):
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        rows = check_images(mapped) if X.ndim == 4 else check_tuples(mapped, NAMES, "LPIPS")
        np.testing.assert_array_equal(rows[3], X[3])
        np.testing.assert_array_equal(np.load(tmp_path / "X.npy"), X)


def test_x_is_never_changed(paths):
    for kind in SINGLE.values():
        X = kind(paths[0])
        kept = copy.deepcopy(X)
        rows = check_images(X)
        _ = [rows[i] for i in range(N)]
        assert type(X) is type(kept)
        for i in range(N):
            np.testing.assert_array_equal(check_images(X)[i], check_images(kept)[i])


# What cannot be used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "kind", "parts"),
    [
        ({"a": IMAGES[0]}, TypeError, ("dict", "give a list")),
        ((image for image in IMAGES), TypeError, ("generator", "give a list")),
        (map(str, "ab"), TypeError, ("map", "give a list")),
        ({"a.png", "b.png"}, TypeError, ("set", "give a list")),
        (5, TypeError, ("int", "give a list")),
        (None, TypeError, ("NoneType", "give a list")),
        ("a.png", TypeError, ("single str", "[image]")),
        (b"a.png", TypeError, ("single bytes", "[image]")),
        (Image.new("RGB", (4, 4)), TypeError, ("single Image", "[image]")),
        (scipy.sparse.csr_matrix(np.eye(3)), TypeError, ("sparse csr_matrix", "give a list")),
        (scipy.sparse.coo_array(np.eye(3)), TypeError, ("sparse coo_array", "give a list")),
        ([], ValueError, ("empty (0 samples)",)),
        ((), ValueError, ("empty (0 samples)",)),
        (np.empty((0, 9, 7, 3), np.uint8), ValueError, ("empty (0 samples)",)),
        (np.array([]), ValueError, ("empty (0 samples)",)),
        (pd.Series([], dtype=object), ValueError, ("empty (0 samples)",)),
        (pd.DataFrame(), ValueError, ("empty (0 samples)",)),
        (pl.Series([], dtype=pl.String), ValueError, ("empty (0 samples)",)),
        (torch.zeros(0, 3, 9, 7), ValueError, ("empty (0 samples)",)),
        (IMAGES[0], ValueError, ("(9, 7, 3)", "one image", "[image]")),
        (IMAGES[0, ..., :1], ValueError, ("(9, 7, 1)", "one image", "[image]")),
        (IMAGES[0, ..., 0], ValueError, ("two-dimensional uint8", "(9, 7)", "X[np.newaxis]")),
        (np.zeros((20, 4)), ValueError, ("two-dimensional float64", "(20, 4)", "list of images")),
        (np.zeros(20), ValueError, ("(20,)", "(n, height, width, 3)")),
        (np.float64(3), TypeError, ("float64", "give a list")),
        (np.array(3), ValueError, ("()", "(n, height, width, 3)")),
        (np.array("a.png"), ValueError, ("dtype <U5", "a path")),
        (np.zeros((2, 2, 2, 9, 7, 3)), ValueError, ("(2, 2, 2, 9, 7, 3)", "reshape")),
        (np.zeros((2, 9, 7, 3), complex), ValueError, ("complex128", "an image is")),
        (np.array(["2020-01-01"], dtype="M8[D]"), ValueError, ("datetime64", "an image is")),
        (np.zeros(2, [("query", "u1"), ("reference", "u1")]), ValueError, ("dtype", "an image is")),
        (IMAGES.astype(object), ValueError, ("object array", "one by one", "X.astype(np.uint8)")),
        (pd.Series([1.5, 2.5]), ValueError, ("(2,)", "(n, height, width, 3)")),
        (channels_first(IMAGES)[0], ValueError, ("torch tensor", "(3, 9, 7)", "X[None] for one image")),
        (torch.zeros(20, 4), ValueError, ("torch tensor", "(20, 4)", "(n, 3, height, width)")),
    ],
)
def test_containers_that_cannot_be_used(X, kind, parts):
    with one_sentence(kind, "X ", *parts):
        check_images(X)
    with one_sentence(kind, "X ", *parts):
        check_tuples(X, NAMES, "LPIPS")
    with one_sentence(kind, "X ", *parts):
        count_images(X)
    with one_sentence(kind, "queries ", *[part.replace("X", "queries") for part in parts]):
        make_pairs(X, IMAGES)


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_where_images_are_due(kind, paths):
    with one_sentence(ValueError, "X ", "due here"):
        check_images(PAIRS[kind](*paths))[0]


@pytest.mark.parametrize("kind", SINGLE)
def test_images_where_pairs_are_due(kind, paths):
    with one_sentence(ValueError, "LPIPS compares images", "(query, reference)", "make_pairs(queries, references)"):
        check_tuples(SINGLE[kind](paths[0]), NAMES, "LPIPS")[0]


LABELS = list(np.linspace(1, 5, N))


def frames(columns):
    """The same columns as a data frame of pandas and of polars."""
    plain = {name: [str(value) if hasattr(value, "open") else value for value in values] for name, values in columns}
    return pd.DataFrame(plain), pl.DataFrame(plain)


def test_the_column_of_images_in_a_table_is_named(paths):
    for table in frames([("photo", paths[0]), ("mos", LABELS), ("kind", ["jpeg"] * N)]):
        with one_sentence(ValueError, "X is a table with the columns 'photo', 'mos', 'kind'", "pass table['photo']."):
            check_images(table)
        with one_sentence(ValueError, "queries is a table", "pass table['photo']."):
            make_pairs(table, paths[1])
        with one_sentence(ValueError, "references is a table", "pass table['photo']."):
            make_pairs(paths[0], table)
    for table in frames([("a", paths[0]), ("b", paths[1])]):
        with one_sentence(ValueError, "the columns 'a', 'b'", "one image is due here", "table['a'] or table['b']."):
            check_images(table)
    for table in frames([("mos", LABELS), ("std", LABELS)]):
        with one_sentence(ValueError, "the columns 'mos', 'std'", "one image is due here", "none of them holds images"):
            check_images(table)
    table = pd.DataFrame({7: list(IMAGES), 8: LABELS})
    with one_sentence(ValueError, "the columns 7, 8", "pass table[7]."):
        check_images(table)
    many = pd.DataFrame({"image": paths[0], **{f"score of observer {i}": LABELS for i in range(50)}})
    with one_sentence(ValueError, "'image', 'score of observer 0'", "51 columns", "pass table['image']."):
        check_images(many)


def test_the_columns_of_pairs_in_a_table_are_named(paths):
    for table in frames([("bad", paths[0]), ("mos", LABELS), ("good", paths[1])]):
        for names in (NAMES, TRIPLET):
            with one_sentence(ValueError, "LPIPS compares images", ", ".join(names), "'bad', 'mos', 'good'"):
                check_tuples(table, names, "LPIPS")
        with one_sentence(ValueError, "LPIPS compares images", "pass table[['bad', 'good']]."):
            check_tuples(table, NAMES, "LPIPS")
    for table in frames([("photo", paths[0]), ("mos", LABELS)]):
        with one_sentence(ValueError, "(query, reference)", "'photo', 'mos'", "make_pairs(queries, references)"):
            check_tuples(table, NAMES, "LPIPS")
    for table in frames([("photo", paths[0])]):
        with one_sentence(ValueError, "(query, reference)", "make_pairs(queries, references)"):
            check_tuples(table, NAMES, "LPIPS")


class Samples:
    """A data set as torch has them: a length, and rows by number."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


@pytest.mark.parametrize("container", [list, Samples, objects])
def test_rows_with_labels_are_refused_at_once(container, paths):
    histogram = np.ones(10)
    for labels in (LABELS, list(map(np.float32, LABELS)), list(torch.tensor(LABELS)), [histogram] * N, ["good"] * N):
        X = container(list(zip(paths[0], labels, strict=True)))
        with one_sentence(ValueError, "X holds rows (image, label)", "[row[0] for row in X]", "labels as y"):
            check_images(X)
    for label in (1, True, 0.5, torch.tensor(1)):
        pairs, triplets = [(q, label) for q in paths[0]], [(q, r, label) for q, r in zip(*paths, strict=True)]
        for names, rows in ((NAMES, pairs), (TRIPLET, triplets)):
            with one_sentence(ValueError, "LPIPS compares images", ", ".join(names), "labels as y"):
                check_tuples(container(rows), names, "LPIPS")
    X = container([(i, path) for i, path in enumerate(paths[0])])
    with one_sentence(ValueError, "X holds rows (label, image)", "[row[1] for row in X]"):
        check_images(X)


@pytest.mark.parametrize("container", [list, Samples, objects])
def test_rows_that_are_dicts_are_refused_at_once(container, paths):
    X = container([{"label": 3.0, "image": path} for path in paths[0]])
    with one_sentence(ValueError, "X holds dicts with the keys 'label', 'image'", "pass [row['image'] for row in X]."):
        check_images(X)
    with one_sentence(
        ValueError, "LPIPS compares images", "X holds dicts with the keys 'label', 'image'", "make_pairs"
    ):
        check_tuples(X, NAMES, "LPIPS")
    X = container([{"query": q, "mos": 3.0, "reference": r} for q, r in zip(*paths, strict=True)])
    advice = "make_pairs([row['query'] for row in X], [row['reference'] for row in X])"
    with one_sentence(ValueError, "LPIPS compares images", advice):
        check_tuples(X, NAMES, "LPIPS")


def test_containers_of_another_kind_are_blamed_before_a_network_is_built(paths, monkeypatch):
    X = [{"image": path} for path in paths[0]]
    for estimator in (sklearn_iqa.NIMA(weights="ava"), sklearn_iqa.LPIPS(weights="alex-v0.1")):
        monkeypatch.setattr(type(estimator), "_network", lambda self: pytest.fail("built a network"))
        for call in (estimator.predict, lambda X, fit=estimator.fit: fit(X, LABELS)):
            with one_sentence(ValueError, "X holds dicts with the keys 'image'"):
                call(X)
    features = sklearn_iqa.TimmFeatures(backbone_weights=None).fit([IMAGES[0]])
    monkeypatch.setattr(type(features), "_network", lambda *args: pytest.fail("built a network"))
    for call in (features.fit, features.transform):
        with one_sentence(ValueError, "X holds dicts with the keys 'image'"):
            call(X)


def test_arrays_of_the_wrong_kind_are_refused_before_any_row_is_read():
    pairs = np.stack([IMAGES, REFERENCES], axis=1)
    with one_sentence(ValueError, "(6, 2, 9, 7, 3)", "one is due"):
        check_images(pairs)
    with one_sentence(ValueError, "(query, reference)", "(9, 7, 3)"):
        check_tuples(IMAGES, NAMES, "LPIPS")
    with one_sentence(ValueError, "(first query, second query, reference)", "(2, 9, 7, 3)"):
        check_tuples(pairs, TRIPLET, "LPIPS")


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_where_triplets_are_due(kind, paths):
    with one_sentence(ValueError, "(first query, second query, reference)"):
        check_tuples(PAIRS[kind](*paths), TRIPLET, "LPIPS")[0]


@pytest.mark.parametrize(
    ("item", "kind", "parts"),
    [
        (5, TypeError, ("int", "an image is")),
        (float("nan"), TypeError, ("float", "an image is")),
        (None, TypeError, ("NoneType", "an image is")),
        ([1, 2, 3], ValueError, ("list of length 3", "one image is due")),
        (IMAGES[:2], ValueError, ("(2, 9, 7, 3)", "one image is due")),
        (channels_first(IMAGES[:2]), ValueError, ("(2, 3, 9, 7)", "one image is due")),
        (np.array(["a.png", "b.png"]), ValueError, ("(2,)", "one image is due")),
        (np.moveaxis(IMAGES[0], -1, 0), ValueError, ("channels come first",)),
        (IMAGES[0].astype(int), ValueError, ("int64",)),
        (np.full((4, 4), np.nan), ValueError, ("NaN",)),
        (IMAGES[0, :0], ValueError, ("no pixel",)),
    ],
)
def test_the_row_that_cannot_be_used_is_named(item, kind, parts):
    X = [IMAGES[0], IMAGES[1], item]
    with one_sentence(kind, "Row 2 of X", *parts):
        check_images(X)[2]


def test_the_image_of_a_pair_that_cannot_be_used_is_named():
    rows = check_tuples([(IMAGES[0], REFERENCES[0] / 254)], NAMES, "LPIPS")
    with one_sentence(ValueError, "The reference in row 0 of X", "in 0..1"):
        rows[0]


@pytest.mark.parametrize("item", [(IMAGES[0],), IMAGES[:3], [IMAGES[0]] * 3, (), 5, None, "ab"])
def test_rows_that_are_no_pairs_are_named(item):
    rows = check_tuples([(IMAGES[0], IMAGES[0]), item], NAMES, "LPIPS")
    with one_sentence(ValueError, "LPIPS compares images", "row 1 of X must be (query, reference)", "make_pairs"):
        rows[1]


def test_containers_of_no_known_class_are_taken():
    assert check_images(deque(IMAGES))[1].shape == (9, 7, 3)

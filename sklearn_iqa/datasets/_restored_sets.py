# SPDX-License-Identifier: BSD-3-Clause
"""Readers of sets whose images were made by algorithms that restore or enlarge: PIPAL, QADS, BAPPS."""

import os
from collections.abc import Sequence

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source

PIPAL = Source(
    name="PIPAL",
    page="https://www.jasongt.com/projectpages/pipal.html",
    text="Patches of 288 x 288 pixels, degraded in usual ways or restored by algorithms, generative networks among "
    "them; scores are Elo ratings from 1.13 million comparisons. The training part: 200 originals, 23200 "
    "images.",
    licence="for research as far as known",
    citation="J. Gu, H. Cai, H. Chen, X. Ye, J. S. Ren, C. Dong, PIPAL: a Large-Scale Image Quality Assessment Dataset "
    "for Perceptual Image Restoration, ECCV 2020.",
)

QADS = Source(
    name="QADS",
    page="http://www.vista.ac.cn/?page_id=83",
    text="20 photographs, made smaller and enlarged again two-, three- and fourfold by 21 methods of "
    "super-resolution. 980 images with MOS of 100 people.",
    licence="academic research and noncommercial purposes only, and the terms of the sets that the sources come from",
    citation="F. Zhou, R. Yao, B. Liu, G. Qiu, Visual Quality Assessment for Super-Resolved Images: Database and "
    "Method, IEEE Transactions on Image Processing 28(7), 2019.",
)

BAPPS = Source(
    name="BAPPS",
    page="https://github.com/richzhang/PerceptualSimilarity",
    text="Patches of 64 x 64 pixels and for each two distorted versions; people said which is nearer to the "
    "original. In training parts two people judged each triplet, in validation parts five. Of further pairs of patches "
    "three people each said, after a short look, whether they are the same.",
    licence="BSD-2-Clause (the repository that publishes it)",
    citation="R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, The Unreasonable Effectiveness of Deep Features "
    "as a Perceptual Metric, CVPR 2018.",
)
BAPPS_PARTS = (
    "train/traditional",
    "train/cnn",
    "train/mix",
    "val/traditional",
    "val/cnn",
    "val/superres",
    "val/deblur",
    "val/color",
    "val/frameinterp",
)
BAPPS_FILES = {"p0": ".png", "p1": ".png", "ref": ".png", "judge": ".npy"}  # folder -> end of its names
JND_PARTS = ("val/traditional", "val/cnn")
JND_FILES = {"p0": ".png", "p1": ".png", "same": ".npy"}


def read_pipal(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read the training part of PIPAL: 23200 degraded or restored patches of 200 originals, with Elo ratings.

    Parameters
    ----------
    path : str or path
        Folder that holds `Train_Label`, with a text file for each original; `Train_Ref`; and the images, in
        `Train_Dist` or in several folders whose names begin with `Distortion`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the distorted images and of their originals.
        target : ndarray of shape (n_rows,), float64
            Elo rating, about 900 to 1900; higher is better.
        groups : ndarray of shape (n_rows,), str
            Name of the original.
        distortion : ndarray of shape (n_rows,), str
            Class, "00" to "06": the middle part of the name.
        level : ndarray of shape (n_rows,), int
            The last part of the name: which algorithm or strength of the class, in no order of severity.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If the label folder is missing or empty; with ``strict=True`` also an image.
    ValueError
        If a label file is not as published.

    Notes
    -----
    The label files and originals are as the loader of IQA-PyTorch reads them (scripts/process_pipal.py). The images
    come in four archives, which public loaders unpack to folders of differing names, hence the choice. Which class is
    which could not be confirmed. The scores of the validation and test parts of the NTIRE challenges are not read.
    """
    folder = Folder(path, PIPAL)
    labels = folder.find("Train_Label")
    tables = [
        folder.words(f"Train_Label/{name}", "image", "score")
        for name in sorted(folder.names_in("Train_Label").values())
        if name.endswith(".txt")
    ]
    names = [name for table in tables for name in table["image"]]
    if not names:
        raise FileNotFoundError(f"PIPAL: {labels} holds no label files; get them from {PIPAL.page}.")
    target = np.concatenate([table.numbers("score", "the score") for table in tables])
    parts = [os.path.splitext(name)[0].split("_") for name in names]
    for name, part in zip(names, parts, strict=True):
        if len(part) != 3 or not part[2].isdecimal():
            raise ValueError(
                f"PIPAL: a label file names the image {name!r}, but names are <original>_<class>_<number>."
            )
    return folder.build(
        {"images": _pipal_places(folder, names), "references": [f"Train_Ref/{part[0]}.bmp" for part in parts]},
        strict=strict,
        target=target,
        groups=np.array([part[0] for part in parts]),
        distortion=np.array([part[1] for part in parts]),
        level=np.array([int(part[2]) for part in parts]),
    )


def _pipal_places(folder: Folder, names: list[str]) -> list[str]:
    """Find each image in whichever folder holds it; what is nowhere is placed where others of its original are."""
    inner = sorted(name for name in folder.names_in().values() if name.startswith(("Distortion", "Train_Dist")))
    place_of = {name: place for place in inner for name in folder.names_in(place)}
    of_original = {name.partition("_")[0]: place for name, place in place_of.items()}
    places = []
    for name in names:
        near = of_original.get(name.partition("_")[0].casefold(), inner[0] if inner else "Train_Dist")
        places.append(f"{place_of.get(name.casefold(), near)}/{name}")
    return places


def read_qads(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read QADS: 980 super-resolved images of 20 photographs, with MOS.

    Parameters
    ----------
    path : str or path
        Folder that holds `mos_with_names.txt`, `mos_std.txt` and the folders `source_images` and
        `super-resolved_images`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the super-resolved images and of their originals.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 1; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the MOS.
        groups : ndarray of shape (n_rows,), str
            Name of the original.
        distortion : ndarray of shape (n_rows,), str
            Number of the method of super-resolution, as in the name of the image.
        level : ndarray of shape (n_rows,), int
            Factor of enlargement: 2, 3 or 4.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If a label file is missing; with ``strict=True`` also an image.
    ValueError
        If a label file is not as published.

    Notes
    -----
    Files, names and the direction of the MOS are those of the set's readme; the folders are as several public loaders
    have them. That `mos_std.txt` has the order of `mos_with_names.txt` is taken from TID2013, whose form the set
    follows.
    """
    folder = Folder(path, QADS)
    scores = folder.words("mos_with_names.txt", "mos", "image")
    deviations = folder.words("mos_std.txt", "std")
    parts = [os.path.splitext(name)[0].split("_") for name in scores["image"]]
    for name, part in zip(scores["image"], parts, strict=True):
        if len(part) != 3 or not part[1].isdecimal():
            raise ValueError(
                f"QADS: {scores.path} names the image {name!r}, but names are <photograph>_<factor>_<method>."
            )
    return folder.build(
        {
            "images": [f"super-resolved_images/{name}" for name in scores["image"]],
            "references": [f"source_images/{part[0]}.bmp" for part in parts],
        },
        strict=strict,
        target=scores.numbers("mos", "the MOS"),
        target_std=deviations.numbers("std", "the deviation"),
        groups=np.array([part[0] for part in parts], dtype=str),
        distortion=np.array([part[2] for part in parts], dtype=str),
        level=np.array([part[1] for part in parts], dtype=int),
    )


def read_bapps(path: str | os.PathLike, *, parts: Sequence[str] = BAPPS_PARTS, strict: bool = True) -> Bunch:
    """Read the choices between two alternatives (2AFC) of BAPPS: triplets of patches and people's judgements.

    Parameters
    ----------
    path : str or path
        Folder that holds the folder `2afc`: `dataset` in the authors' repository, after their script for the download.

    parts : sequence of str
        Which parts to read, in this order; by default all nine: "train/traditional", "train/cnn", "train/mix",
        "val/traditional", "val/cnn", "val/superres", "val/deblur", "val/color", "val/frameinterp".

    strict : bool, default=True
        Whether a missing file is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        triplets : list of tuple of str
            (first query, second query, reference): paths, as :class:`~sklearn_iqa.LPIPS` takes them.
        target : ndarray of shape (n_rows,), float64
            Fraction of people who found the second query nearer to the reference, 0 to 1.
        groups : ndarray of shape (n_rows,), int
            Each row its own.
        distortion : ndarray of shape (n_rows,), str
            Part without its split: "traditional", "cnn", "superres" ...
        split : ndarray of shape (n_rows,), str
            "train" or "val".
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If a part is missing; with ``strict=True`` also a file in one.
    ValueError
        If a part is unknown or a judgement is no fraction.

    Notes
    -----
    The layout is that of the authors' readme and of their loader (data/dataset/twoafc_dataset.py). Every judgement is a
    file of its own, so reading all 187600 takes a while. Whether parts share reference patches could not be confirmed.
    The paper trains on the three training parts and gives the 2AFC score of each validation part, see the page of
    LPIPS; :func:`read_bapps_jnd` reads the judgements of just noticeable differences.

    Examples
    --------
    >>> from sklearn_iqa import LPIPS
    >>> from sklearn_iqa.datasets import read_bapps
    >>> train = read_bapps("dataset", parts=["train/traditional", "train/cnn", "train/mix"])  # doctest: +SKIP
    >>> val = read_bapps("dataset", parts=["val/superres"])  # doctest: +SKIP
    >>> lpips = LPIPS().fit(train.triplets, train.target)  # doctest: +SKIP
    >>> lpips.score(val.triplets, val.target)  # the 2AFC score, in 0 to 1  # doctest: +SKIP
    """
    folder = Folder(path, BAPPS)
    files, fields = _bapps_rows(folder, "2afc", parts, BAPPS_PARTS, BAPPS_FILES)
    found = folder.build(files, strict=strict, **fields)
    triplets = list(zip(found.pop("p0"), found.pop("p1"), found.pop("ref"), strict=True))
    target = np.array([_judgement(file) for file in found.pop("judge")])
    return Bunch(triplets=triplets, target=target, **found)


def read_bapps_jnd(path: str | os.PathLike, *, parts: Sequence[str] = JND_PARTS, strict: bool = True) -> Bunch:
    """Read the just noticeable differences (JND) of BAPPS: pairs of patches, and how many people found them the same.

    Parameters
    ----------
    path : str or path
        Folder that holds the folder `jnd`: `dataset` in the authors' repository, after their script for the download.

    parts : sequence of str
        Which parts to read, in this order; by default both: "val/traditional", "val/cnn".

    strict : bool, default=True
        Whether a missing file is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the two patches of each pair, from the folders `p1` and `p0`.
        target : ndarray of shape (n_rows,), float64
            Fraction of people who found the two patches the same, 0 to 1; three people saw each pair.
        groups : ndarray of shape (n_rows,), int
            Each row its own.
        distortion : ndarray of shape (n_rows,), str
            "traditional" or "cnn".
        split : ndarray of shape (n_rows,), str
            "val": these judgements are for tests alone.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If a part is missing; with ``strict=True`` also a file in one.
    ValueError
        If a part is unknown or a judgement is no fraction.

    Notes
    -----
    The layout is that of the authors' readme and of their loader (data/dataset/jnd_dataset.py). Which of the two
    patches is the original is not stated; distances of the paper are symmetric.

    Examples
    --------
    >>> from sklearn_iqa import LPIPS, make_pairs
    >>> from sklearn_iqa.datasets import read_bapps_jnd
    >>> from sklearn_iqa.metrics import jnd_average_precision
    >>> jnd = read_bapps_jnd("dataset", parts=["val/cnn"])  # doctest: +SKIP
    >>> distance = LPIPS(weights="alex-v0.1").predict(make_pairs(jnd.images, jnd.references))  # doctest: +SKIP
    >>> jnd_average_precision(jnd.target, distance)  # doctest: +SKIP
    """
    folder = Folder(path, BAPPS)
    files, fields = _bapps_rows(folder, "jnd", parts, JND_PARTS, JND_FILES)
    found = folder.build(files, strict=strict, **fields)
    target = np.array([_judgement(file) for file in found.pop("same")])
    return Bunch(images=found.pop("p1"), references=found.pop("p0"), target=target, **found)


def _bapps_rows(folder: Folder, kind: str, parts: Sequence[str], known: tuple[str, ...], files: dict[str, str]):
    """Files of all rows by the folder they are in, and what the rows' places say: groups, distortion and split."""
    unknown = set(parts) - set(known)
    if unknown or not parts:
        raise ValueError(f"parts must be some of {', '.join(known)}; got {', '.join(sorted(unknown)) or 'none'}.")
    stems = []
    for part in parts:
        place = f"{kind}/{part}"
        folder.find(place)
        named = {os.path.splitext(name)[0] for inner in files for name in folder.names_in(f"{place}/{inner}").values()}
        stems += [(part, stem) for stem in sorted(named)]
    places = {inner: [f"{kind}/{part}/{inner}/{stem}{end}" for part, stem in stems] for inner, end in files.items()}
    split, distortion = np.array([part.split("/") for part, _ in stems], dtype=str).reshape(-1, 2).T
    return places, {"groups": np.arange(len(stems)), "distortion": distortion, "split": split}


def _judgement(file: str) -> float:
    fraction = np.load(file)
    if fraction.size != 1 or not 0 <= fraction.item() <= 1:
        raise ValueError(f"BAPPS: {file} holds {fraction.tolist()}, where one fraction from 0 to 1 is needed.")
    return float(fraction.item())

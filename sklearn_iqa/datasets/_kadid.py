# SPDX-License-Identifier: BSD-3-Clause
"""Readers of KADID-10k, distorted photographs rated on the web, and of KADIS-700k, many more that nobody rated."""

import os

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source
from sklearn_iqa.distortions import DISTORTIONS

KADID10K = Source(
    name="KADID-10k",
    page="https://database.mmsp-kn.de/kadid-10k-database.html",
    text="81 photographs, each distorted in 25 ways at five levels. 10125 distorted images, each rated against its "
    "original by 30 people on the web, from 1 (very annoying) to 5 (imperceptible).",
    licence="free for research as far as known; the photographs are from pixabay.com",
    citation="H. Lin, V. Hosu, D. Saupe, KADID-10k: A Large-scale Artificially Distorted IQA Database, QoMEX 2019.",
)
KADIS700K = Source(
    name="KADIS-700k",
    page="https://database.mmsp-kn.de/kadid-10k-database.html",
    text="140000 photographs and a program that distorts each in one way at five levels. Nobody has rated them.",
    licence="free for research as far as known; the photographs are from pixabay.com",
    citation="H. Lin, V. Hosu, D. Saupe, DeepFL-IQA: Weak Supervision for Deep IQA Feature Learning, arXiv 2001.08113.",
)


def read_kadid10k(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read KADID-10k: 10125 distorted images of 81 photographs, with mean ratings.

    Parameters
    ----------
    path : str or path
        Folder that holds `dmos.csv` and the folder `images`, with originals and distorted images.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the distorted images and of their originals.
        target : ndarray of shape (n_rows,), float64
            Mean rating, 1 to 5; higher is better, though the file calls it dmos.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the ratings.
        groups : ndarray of shape (n_rows,), int
            Number of the original, 1 to 81.
        distortion : ndarray of shape (n_rows,), str
            Kind, one of :data:`~sklearn_iqa.distortions.DISTORTIONS`.
        level : ndarray of shape (n_rows,), int
            1 (weakest) to 5.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If the label file is missing; with ``strict=True`` also an image.
    ValueError
        If the label file is not as published.

    Notes
    -----
    The layout follows ARNIQA's loader (data/dataset_kadid10k.py). The column `var` holds standard deviations: 30
    ratings with the mean 1.17 are 25 ones and 5 twos, whose deviation is 0.373, as the file states for I81_19_05; their
    variance is 0.139.
    """
    folder = Folder(path, KADID10K)
    labels = folder.csv("dmos.csv", "dist_img", "ref_img", "dmos", "var")
    content, kind, level = labels.coded_names("dist_img", len(DISTORTIONS))
    return folder.build(
        {
            "images": [f"images/{name}" for name in labels["dist_img"]],
            "references": [f"images/{name}" for name in labels["ref_img"]],
        },
        strict=strict,
        target=labels.numbers("dmos", "the score"),
        target_std=labels.numbers("var", "the deviation"),
        groups=content,
        distortion=np.array(DISTORTIONS)[kind - 1],
        level=level,
    )


def read_kadis700k(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read KADIS-700k: 140000 pristine photographs and 700000 distorted ones, without scores.

    Parameters
    ----------
    path : str or path
        Folder that holds `kadis700k_ref_imgs.csv` and the folder `ref_imgs`. The distorted images are not published;
        the authors' `generate_kadis700k.m` makes them, in the folder `dist_imgs`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        pristine : list of str
            Paths of the photographs.
        images, references : list of str
            Paths of the distorted images and of their originals; empty where there is no folder `dist_imgs`.
        groups : ndarray of shape (n_rows,), int
            Number of the original in the table, from 0.
        distortion : ndarray of shape (n_rows,), str
            Kind, one of :data:`~sklearn_iqa.distortions.DISTORTIONS`.
        level : ndarray of shape (n_rows,), int
            1 (weakest) to 5.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If the table is missing; with ``strict=True`` also an image.
    ValueError
        If the table is not as published.

    Notes
    -----
    The names follow the authors' program, which takes the kind from the table's second column (`dist_type_1` in public
    loaders); further columns are not used by it, nor here.
    """
    folder = Folder(path, KADIS700K)
    table = folder.csv("kadis700k_ref_imgs.csv", "ref_im", "dist_type_1")
    names, kinds = table["ref_im"], table.numbers("dist_type_1", "the kind").astype(int)
    for name, kind in zip(names, kinds, strict=True):
        if not 1 <= kind <= len(DISTORTIONS):
            raise ValueError(f"KADIS-700k: {table.path} states the kind {kind} for {name}, known are 1 to 25.")
    originals = [f"ref_imgs/{name}" for name in names]
    pristine = folder.build({"pristine": originals}, strict=strict)
    levels = range(1, 6) if (folder.root / "dist_imgs").is_dir() else ()
    rows = [(row, level) for row in range(len(names)) for level in levels]
    group, level = np.array(rows, dtype=int).reshape(-1, 2).T
    columns = {"groups": group, "distortion": np.array(DISTORTIONS)[kinds[group] - 1], "level": level}
    if not rows:
        return Bunch(images=[], references=[], **columns, **pristine)
    stems = [name.split(".")[0] for name in names]  # up to the first point, as the authors' program has it
    files = {
        "images": [f"dist_imgs/{stems[row]}_{kinds[row]:02d}_{level:02d}.bmp" for row, level in rows],
        "references": [originals[row] for row in group],
    }
    return Bunch(**{**pristine, **folder.build(files, strict=strict, **columns)})

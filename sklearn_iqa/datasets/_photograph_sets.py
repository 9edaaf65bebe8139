# SPDX-License-Identifier: BSD-3-Clause
"""Readers of sets of photographs as they were taken, without references: CLIVE, KonIQ-10k, SPAQ, BIQ2021."""

import os

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source, Table

CLIVE = Source(
    name="LIVE In the Wild Challenge",
    page="https://live.ece.utexas.edu/research/ChallengeDB/index.html",
    text="1162 photographs taken with mobile devices, with whatever went wrong when they were taken; about 175 "
    "ratings each, collected on the web.",
    licence="use for any purpose without fee, if the copyright notice is kept and the database is cited (readme)",
    citation="D. Ghadiyaram, A. C. Bovik, Massive Online Crowdsourced Study of Subjective and Objective Picture "
    "Quality, IEEE Transactions on Image Processing 25(1), 2016.",
)
CLIVE_RATED = slice(7, None)  # the first seven taught the raters

KONIQ10K = Source(
    name="KonIQ-10k",
    page="https://database.mmsp-kn.de/koniq-10k-database.html",
    text="10073 photographs chosen from YFCC100M for variety of content and quality; about 120 ratings each, "
    "collected on the web on a scale of five grades.",
    licence="photographs: Creative Commons, of varying kinds; labels: not stated as far as known",
    citation="V. Hosu, H. Lin, T. Sziranyi, D. Saupe, KonIQ-10k: An Ecologically Valid Database for Deep Learning of "
    "Blind Image Quality Assessment, IEEE Transactions on Image Processing 29, 2020.",
)
KONIQ10K_SETS_FILE = "koniq10k_distributions_sets.csv"  # from the authors' repository
# File -> column of the score from 0 to 100.
KONIQ10K_SCORES = {"koniq10k_scores_and_distributions.csv": "MOS_zscore", KONIQ10K_SETS_FILE: "MOS"}
KONIQ10K_GRADES = ("c1", "c2", "c3", "c4", "c5")
KONIQ10K_SETS = {"training": "train", "validation": "val", "test": "test"}

SPAQ = Source(
    name="SPAQ",
    page="https://github.com/h4nwei/SPAQ",
    text="11125 photographs taken with 66 smartphones, rated in a laboratory, also for brightness, colourfulness, "
    "contrast, noisiness and sharpness.",
    licence="educational and research purposes only (Readme.txt)",
    citation="Y. Fang, H. Zhu, Y. Zeng, K. Ma, Z. Wang, Perceptual Quality Assessment of Smartphone Photography, CVPR "
    "2020.",
)
SPAQ_ATTRIBUTES = ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")

BIQ2021 = Source(
    name="BIQ2021",
    page="https://github.com/nisarahmedrana/BIQ2021",
    text="12000 photographs of 512 x 512 pixels: the authors' own (ss01), some taken with faults on purpose "
    "(ss02), and from unsplash.com (ss03); rated in a laboratory by 30 people.",
    licence="none stated",
    citation="N. Ahmed, S. Asif, BIQ2021: a Large-Scale Blind Image Quality Assessment Database, Journal of Electronic "
    "Imaging 31(5), 2022.",
)


def read_clive(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read the LIVE In the Wild Image Quality Challenge Database: 1162 photographs with MOS.

    Parameters
    ----------
    path : str or path
        Folder that holds the folders `Data`, with `AllImages_release.mat`, `AllMOS_release.mat` and
        `AllStdDev_release.mat`, and `Images`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 100; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the ratings.
        groups : ndarray of shape (n_rows,), int
            Each row its own.
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
    The first seven of the 1169 images, `Images/trainingImages/t1.bmp` to `t7.bmp`, taught the raters their task; they
    are left out, as in the authors' readme and the loaders of HyperIQA and IQA-PyTorch.
    """
    folder = Folder(path, CLIVE)
    names, mos, std = (
        folder.mat(f"Data/All{what}_release.mat", f"All{what}_release") for what in ("Images", "MOS", "StdDev")
    )
    images = [f"Images/{name}" for name in names["AllImages_release"][CLIVE_RATED]]
    return folder.build(
        {"images": images},
        strict=strict,
        target=mos.numbers("AllMOS_release", "the MOS", CLIVE_RATED),
        target_std=std.numbers("AllStdDev_release", "the deviation", CLIVE_RATED),
        groups=np.arange(len(images)),
    )


def read_koniq10k(path: str | os.PathLike, *, size: str = "1024x768", strict: bool = True) -> Bunch:
    """Read KonIQ-10k: 10073 photographs with MOS and the distribution of the ratings.

    Parameters
    ----------
    path : str or path
        Folder that holds `koniq10k_scores_and_distributions.csv` or `koniq10k_distributions_sets.csv`, or both, and
        the folder with the images. The second file, from the authors' repository (github.com/subpic/koniq, folder
        `metadata`), has the official split.

    size : {"1024x768", "512x384"}, default="1024x768"
        Which folder of images to take.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS from scores that were normalised for each rater, 0 to 100; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the ratings, times 25: it is published for grades 1 to 5.
        histogram : ndarray of shape (n_rows, 5), float64
            Numbers of ratings from 1 (bad) to 5 (excellent), as ``NIMA(n_bins=5)`` takes them.
        groups : ndarray of shape (n_rows,), int
            Each row its own.
        split : ndarray of shape (n_rows,), str
            "train" (7058), "val" (1000) or "test" (2015); absent without `koniq10k_distributions_sets.csv`.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If both label files or the folder of images are missing; with ``strict=True`` also an image.
    ValueError
        If a label file is not as published, or the two do not agree in their images.

    Notes
    -----
    The layout follows the loaders of HyperIQA (folders.py) and IQA-PyTorch (scripts/process_koniq10k.py). The file with
    the split states fractions in place of numbers of ratings; they are multiplied by `c_total`.
    """
    folder = Folder(path, KONIQ10K)
    file = folder.find(*KONIQ10K_SCORES).name
    images = folder.find(size).name
    score = KONIQ10K_SCORES[file]
    labels = folder.csv(file, "image_name", score, "SD", "c_total", *KONIQ10K_GRADES)
    votes = labels.votes(KONIQ10K_GRADES, "a number of ratings")
    fraction = votes / votes.sum(axis=1, keepdims=True)
    columns = {
        "target": labels.numbers(score, "the MOS"),
        "target_std": 25 * labels.numbers("SD", "the deviation"),
        "histogram": fraction * labels.numbers("c_total", "the number of ratings")[:, None],
        "groups": np.arange(len(votes)),
    }
    if (folder.root / KONIQ10K_SETS_FILE).is_file():
        columns["split"] = _koniq_split(folder.csv(KONIQ10K_SETS_FILE, "image_name", "set"), labels["image_name"])
    return folder.build({"images": [f"{images}/{name}" for name in labels["image_name"]]}, strict=strict, **columns)


def _koniq_split(sets: Table, names: list[str]) -> np.ndarray:
    split = dict(zip(sets["image_name"], sets["set"], strict=True))
    for name in names:
        if split.get(name) not in KONIQ10K_SETS:
            raise ValueError(
                f"KonIQ-10k: {sets.path} states no training, validation or test for {name}; give the files as they are "
                f"published at {KONIQ10K.page}."
            )
    return np.array([KONIQ10K_SETS[split[name]] for name in names], dtype=str)


def read_spaq(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read SPAQ: 11125 photographs of smartphones with MOS and ratings of five attributes.

    Parameters
    ----------
    path : str or path
        Folder that holds the folders `Annotations`, with `MOS and Image attribute scores.xlsx`, and `TestImage`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 100; higher is better.
        attributes : ndarray of shape (n_rows, 5), float64
            Mean ratings of the attributes, 0 to 100.
        attribute_names : list of str
            "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness".
        groups : ndarray of shape (n_rows,), int
            Each row its own; which photographs show one scene is not published.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If the label file is missing; with ``strict=True`` also an image.
    ImportError
        If openpyxl, which reads Excel files, is not installed (extra ``datasets``).
    ValueError
        If the label file is not as published.

    Notes
    -----
    The layout follows the loaders of ARNIQA (data/dataset_spaq.py) and IQA-PyTorch (scripts/process_spaq.py). The
    sheets with scene categories and EXIF tags are not read. The readme asks to unpack the archive on Windows, or to
    repair it first with ``zip -FF``.
    """
    folder = Folder(path, SPAQ)
    labels = folder.sheet("Annotations/MOS and Image attribute scores.xlsx", "Image name", "MOS", *SPAQ_ATTRIBUTES)
    images = [f"TestImage/{name}" for name in labels["Image name"]]
    found = folder.build(
        {"images": images},
        strict=strict,
        target=labels.numbers("MOS", "the MOS"),
        attributes=labels.matrix(SPAQ_ATTRIBUTES, "an attribute"),
        groups=np.arange(len(images)),
    )
    return Bunch(**found, attribute_names=list(SPAQ_ATTRIBUTES))


def read_biq2021(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read BIQ2021: 12000 photographs with MOS and the official split.

    Parameters
    ----------
    path : str or path
        A copy of the authors' repository: it holds `Train (Images and MOS).csv`, `Test (Images and MOS).csv` and the
        folder `Images`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 1; higher is better.
        groups : ndarray of shape (n_rows,), int
            Each row its own; which photographs show one scene is not published.
        subset : ndarray of shape (n_rows,), str
            "ss01", "ss02" or "ss03".
        split : ndarray of shape (n_rows,), str
            "train" (10000) or "test" (2000).
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
    Files and columns are those of the repository. It has also had `Train.csv` and `Test.csv`, which are not read: in
    the few rows that were compared, their scores are smaller by 1.7 %, and those of the worst images are negative,
    which here have lost the sign. Standard deviations are not published.
    """
    folder = Folder(path, BIQ2021)
    parts = {
        part: folder.csv(f"{part.capitalize()} (Images and MOS).csv", "Image Name", "MOS") for part in ("train", "test")
    }
    names = [name for labels in parts.values() for name in labels["Image Name"]]
    return folder.build(
        {"images": [f"Images/{name}" for name in names]},
        strict=strict,
        target=np.concatenate([labels.numbers("MOS", "the MOS") for labels in parts.values()]),
        groups=np.arange(len(names)),
        subset=np.array([name.split(" ")[0] for name in names], dtype=str),
        split=np.array([part for part, labels in parts.items() for _ in labels["MOS"]], dtype=str),
    )

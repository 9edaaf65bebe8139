# SPDX-License-Identifier: BSD-3-Clause
"""Readers of sets rated for more than technical quality: AVA (photographs as art), AGIQA-3K (made by generators)."""

import os

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source

AVA = Source(
    name="AVA",
    page="https://github.com/imfing/ava_downloader",
    text="255530 photographs from the contests of dpchallenge.com, with the votes of photographers, about 210 "
    "each, from 1 to 10: how well liked a photograph is, not how free of faults.",
    licence="the photographs belong to their photographers; labels: not stated as far as known",
    citation="N. Murray, L. Marchesotti, F. Perronnin, AVA: A Large-Scale Database for Aesthetic Visual Analysis, CVPR "
    "2012.",
)
AVA_GRADES = tuple(map(str, range(1, 11)))
AVA_TAGS = ("tag 1", "tag 2")

AGIQA3K = Source(
    name="AGIQA-3K",
    page="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    text="2982 images made by six generators from 300 prompts, rated in a laboratory for quality and for how well "
    "they fit the prompt.",
    licence="MIT (the repository that publishes it)",
    citation="C. Li et al., AGIQA-3K: An Open Database for AI-Generated Image Quality Assessment, IEEE Transactions on "
    "Circuits and Systems for Video Technology 34(8), 2024.",
)


def read_ava(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read AVA: 255530 photographs with histograms of votes for their beauty.

    Parameters
    ----------
    path : str or path
        Folder `AVA_dataset`: it holds `AVA.txt`, the folder `images` (or `image`) and, for the split, the folder
        `aesthetics_image_lists` with `generic_test.jpgl`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning. Copies of AVA often lack
        some images.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            Mean vote, 1 to 10; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the votes.
        histogram : ndarray of shape (n_rows, 10), float64
            Numbers of votes from 1 to 10, as :class:`~sklearn_iqa.NIMA` takes them.
        groups : ndarray of shape (n_rows,), int
            Each row its own.
        challenge : ndarray of shape (n_rows,), int
            Number of the contest.
        tags : ndarray of shape (n_rows, 2), int
            Numbers of up to two semantic tags; 0 is none.
        split : ndarray of shape (n_rows,), str
            "test" for images of `generic_test.jpgl`, otherwise "train"; absent without that list.
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If `AVA.txt` or the folder of images is missing; with ``strict=True`` also an image.
    ValueError
        If a label file is not as published.

    Notes
    -----
    Columns and split follow the loader of IQA-PyTorch (scripts/process_ava.py). Public loaders differ in the name of
    the folder of images, hence the choice.
    """
    folder = Folder(path, AVA)
    labels = folder.words("AVA.txt", "row", "image", *AVA_GRADES, *AVA_TAGS, "challenge")
    images = folder.find("images", "image").name
    votes, grades = labels.votes(AVA_GRADES, "a number"), np.arange(1, 11)
    fraction = votes / votes.sum(axis=1, keepdims=True)
    mean = fraction @ grades
    columns = {
        "target": mean,
        "target_std": np.sqrt(np.maximum(fraction @ grades**2 - mean**2, 0)),
        "histogram": votes,
        "groups": np.arange(len(votes)),
        "challenge": labels.numbers("challenge", "a number").astype(int),
        "tags": labels.matrix(AVA_TAGS, "a number").astype(int),
    }
    test = "aesthetics_image_lists/generic_test.jpgl"
    if (folder.root / test).is_file():
        listed = folder.words(test, "image")["image"]
        columns["split"] = np.where(np.isin(labels["image"], listed), "test", "train")
    return folder.build({"images": [f"{images}/{image}.jpg" for image in labels["image"]]}, strict=strict, **columns)


def read_agiqa3k(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read AGIQA-3K: 2982 images made by generators, with MOS of quality and of fit to the prompt.

    Parameters
    ----------
    path : str or path
        Folder that holds `data.csv` and the images, in a folder `Images`, `images` or `AGIQA-3K` or beside the file.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS of quality, 0 to 5; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            Its standard deviation.
        alignment, alignment_std : ndarray of shape (n_rows,), float64
            MOS of the fit to the prompt, 0 to 5, and its standard deviation.
        groups : ndarray of shape (n_rows,), int
            Number of the prompt, which several generators share.
        prompt : list of str
            Prompt of the generator.
        generator, setting : ndarray of shape (n_rows,), str
            First and second part of the image's name, such as "sd1.5" and "lowstep".
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
    The columns are those of the file in the authors' repository. The images are published apart from it, and public
    loaders differ in where they put them, hence the choice.
    """
    folder = Folder(path, AGIQA3K)
    labels = folder.csv("data.csv", "name", "prompt", "mos_quality", "std_quality", "mos_align", "std_align")
    images = folder.find("Images", "images", "AGIQA-3K", ".").relative_to(folder.root).as_posix()
    parts = [name.split("_") for name in labels["name"]]
    return folder.build(
        {"images": [f"{images}/{name}" for name in labels["name"]]},
        strict=strict,
        target=labels.numbers("mos_quality", "a score"),
        target_std=labels.numbers("std_quality", "a score"),
        alignment=labels.numbers("mos_align", "a score"),
        alignment_std=labels.numbers("std_align", "a score"),
        groups=np.unique(labels["prompt"], return_inverse=True)[1].ravel(),
        prompt=labels["prompt"],
        generator=np.array([part[0] for part in parts], dtype=str),
        setting=np.array(["_".join(part[1:-1]) for part in parts], dtype=str),
    )

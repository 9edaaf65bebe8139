# SPDX-License-Identifier: BSD-3-Clause
"""Readers of sets of distorted photographs that were rated in a laboratory: LIVE, CSIQ, TID2013."""

import os

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source, Table

LIVE = Source(
    name="LIVE",
    page="https://live.ece.utexas.edu/research/quality/subjective.htm",
    text="29 photographs, each distorted in five ways at several strengths: JPEG2000 and JPEG compression, white "
    "noise, Gaussian blur, and JPEG2000 streams received over a fading channel. 779 distorted images with "
    "DMOS.",
    licence="use for any purpose without fee, if the copyright notice is kept and the database is cited (readme.txt)",
    citation="H. R. Sheikh, M. F. Sabir, A. C. Bovik, A Statistical Evaluation of Recent Full Reference Image Quality "
    "Assessment Algorithms, IEEE Transactions on Image Processing 15(11), 2006.",
)
# Folders in the order of the label vectors, with the number of images in each (readme.txt of release 2).
LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}

CSIQ = Source(
    name="CSIQ",
    page="https://s2.smu.edu/~eclarson/csiq.html",
    text="30 photographs, each distorted in six ways at four or five levels: JPEG and JPEG2000 compression, blur, "
    "white and pink noise, less contrast. 866 distorted images with DMOS.",
    licence="not stated as far as known",
    citation="E. C. Larson, D. M. Chandler, Most Apparent Distortion: Full-Reference Image Quality Assessment and the "
    "Role of Strategy, Journal of Electronic Imaging 19(1), 2010.",
)
# Kind in the sheet -> folder, part of the file name.
CSIQ_KINDS = {
    "noise": ("awgn", "AWGN"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
    "fnoise": ("fnoise", "fnoise"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
}

TID2013 = Source(
    name="TID2013",
    page="https://www.ponomarenko.info/tid2013.htm",
    text="25 images, 24 photographs and one drawn by computer, each distorted in 24 ways at five levels. 3000 "
    "distorted images with MOS, the mean number of comparisons that an image won.",
    licence="educational and research purposes, if as that of its predecessor TID2008",
    citation="N. Ponomarenko et al., Image Database TID2013: Peculiarities, Results and Perspectives, Signal "
    "Processing: Image Communication 30, 2015.",
)
TID2013_KINDS = (  # in the set's numbering
    "additive_noise",
    "color_noise",
    "correlated_noise",
    "masked_noise",
    "high_frequency_noise",
    "impulse_noise",
    "quantization_noise",
    "gaussian_blur",
    "denoising",
    "jpeg",
    "jpeg2000",
    "jpeg_transmission",
    "jpeg2000_transmission",
    "non_eccentricity_pattern",
    "local_blocks",
    "mean_shift",
    "contrast_change",
    "color_saturation",
    "multiplicative_noise",
    "comfort_noise",
    "compressed_noise",
    "color_quantization_dither",
    "chromatic_aberration",
    "sparse_sampling",
)


def read_live(path: str | os.PathLike, *, realigned: bool = False, strict: bool = True) -> Bunch:
    """Read LIVE, release 2: 779 distorted images of 29 photographs, with DMOS.

    Parameters
    ----------
    path : str or path
        Folder that holds `refnames_all.mat`, `dmos.mat`, and the folders `refimgs`, `jp2k`, `jpeg`, `wn`, `gblur` and
        `fastfading`.

    realigned : bool, default=False
        Whether to take the scores of `dmos_realigned.mat`, which were made comparable between the kinds of distortion
        and are those that most papers use.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the distorted images and of their originals.
        target : ndarray of shape (n_rows,), float64
            Minus the DMOS; higher is better.
        dmos : ndarray of shape (n_rows,), float64
            As published, 1 to 100; higher is worse.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation; with ``realigned=True`` only.
        groups : ndarray of shape (n_rows,), str
            Name of the original.
        distortion : ndarray of shape (n_rows,), str
            Folder: "jp2k", "jpeg", "wn", "gblur", "fastfading".
        strength : ndarray of shape (n_rows,), float64
            Bit rate (jp2k, jpeg: less is worse), standard deviation (wn, gblur: more is worse) or signal-to-noise ratio
            of the receiver (fastfading: less is worse); absent if a folder lacks its `info.txt`.
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
    The label vectors name 982 images, in the order of the folders given above; 203 of them, marked in `orgs`, are
    undistorted copies of the originals and are left out. Files, order and the form of `info.txt` are those of the set's
    readme.txt, and the loaders of IQA-PyTorch (scripts/process_live.py) and HyperIQA (folders.py) agree; the names in
    `dmos_realigned.mat`, which came later, are as the latter reads them.
    """
    folder = Folder(path, LIVE)
    score, deviation = ("dmos_new", ["dmos_std"]) if realigned else ("dmos", [])
    scores = folder.mat("dmos_realigned.mat" if realigned else "dmos.mat", score, "orgs", *deviation)
    originals = folder.mat("refnames_all.mat", "refnames_all")["refnames_all"]
    images = [f"{kind}/img{number}.bmp" for kind, n in LIVE_FOLDERS.items() for number in range(1, n + 1)]
    lengths = len(scores[score]), len(scores["orgs"]), len(originals)
    if set(lengths) != {len(images)}:
        raise ValueError(
            f"LIVE: the scores and `orgs` of {scores.path} and refnames_all.mat must have {len(images)} entries each, "
            f"got {', '.join(map(str, lengths))}; give the files as they are published at {LIVE.page}."
        )
    rows = np.flatnonzero(~scores["orgs"].astype(bool))
    dmos = scores.numbers(score, "the DMOS", rows)
    columns = {
        "target": -dmos,
        "dmos": dmos,
        "groups": originals[rows].astype(str),
        "distortion": np.repeat(list(LIVE_FOLDERS), list(LIVE_FOLDERS.values()))[rows],
    }
    if realigned:
        columns["target_std"] = scores.numbers("dmos_std", "the deviation", rows)
    files = {"images": [images[row] for row in rows], "references": [f"refimgs/{originals[row]}" for row in rows]}
    if all((folder.root / kind / "info.txt").is_file() for kind in LIVE_FOLDERS):
        columns["strength"] = _live_strengths(folder, files["images"])
    return folder.build(files, strict=strict, **columns)


def _live_strengths(folder: Folder, images: list[str]) -> np.ndarray:
    strength: dict[str, str] = {}
    for kind in LIVE_FOLDERS:
        info = folder.words(f"{kind}/info.txt", "original", "image", "strength")
        strength.update((f"{kind}/{name}", value) for name, value in zip(info["image"], info["strength"], strict=True))
    found = {"strength": [strength.get(image) for image in images]}
    return Table(found, folder.root / "*" / "info.txt", LIVE).numbers("strength", "the strength")


def read_csiq(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read CSIQ: 866 distorted images of 30 photographs, with DMOS.

    Parameters
    ----------
    path : str or path
        Folder that holds `csiq.DMOS.xlsx` and the folders `src_imgs` and `dst_imgs`, the latter with the folders
        `awgn`, `blur`, `contrast`, `fnoise`, `jpeg` and `jpeg2000`.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the distorted images and of their originals.
        target : ndarray of shape (n_rows,), float64
            Minus the DMOS, -1 to 0; higher is better.
        dmos : ndarray of shape (n_rows,), float64
            As published, 0 to 1; higher is worse.
        target_std : ndarray of shape (n_rows,), float64
            Standard deviation of the DMOS.
        groups : ndarray of shape (n_rows,), str
            Name of the original.
        distortion : ndarray of shape (n_rows,), str
            Folder: "awgn", "blur", "contrast", "fnoise" (pink noise), "jpeg", "jpeg2000".
        level : ndarray of shape (n_rows,), int
            1 (weakest) to 5.
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
    The folders are those of ARNIQA's readme; the sheet `all_by_image`, its columns and the names of the files are as
    several public loaders read them. The sheet itself could not be inspected.
    """
    folder = Folder(path, CSIQ)
    labels = folder.sheet("csiq.DMOS.xlsx", "image", "dst_type", "dst_lev", "dmos_std", "dmos", title="all_by_image")
    for kind in labels["dst_type"]:
        if kind not in CSIQ_KINDS:
            raise ValueError(f"CSIQ: {labels.path} names the distortion {kind!r}, known are {', '.join(CSIQ_KINDS)}.")
    contents = [str(content).removesuffix(".0") for content in labels["image"]]  # one photograph is named 1600
    kinds = [CSIQ_KINDS[kind] for kind in labels["dst_type"]]
    level = labels.numbers("dst_lev", "the level").astype(int)
    dmos = labels.numbers("dmos", "the DMOS")
    return folder.build(
        {
            "images": [
                f"dst_imgs/{kind}/{content}.{part}.{n}.png"
                for content, (kind, part), n in zip(contents, kinds, level, strict=True)
            ],
            "references": [f"src_imgs/{content}.png" for content in contents],
        },
        strict=strict,
        target=-dmos,
        dmos=dmos,
        target_std=labels.numbers("dmos_std", "the deviation"),
        groups=np.array(contents, dtype=str),
        distortion=np.array([kind for kind, _ in kinds], dtype=str),
        level=level,
    )


def read_tid2013(path: str | os.PathLike, *, strict: bool = True) -> Bunch:
    """Read TID2013: 3000 distorted images of 25 contents, with MOS.

    Parameters
    ----------
    path : str or path
        Folder that holds `mos_with_names.txt`, `mos_std.txt` and the folders `reference_images` and
        `distorted_images`. The case of the names, which is not the same throughout the set, does not matter.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images, references : list of str
            Paths of the distorted images and of their originals.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 9; higher is better.
        target_std : ndarray of shape (n_rows,), float64
            What `mos_std.txt` states for each MOS; about 0.13, so of the mean rather than of the opinions.
        groups : ndarray of shape (n_rows,), int
            Number of the original, 1 to 25; 25 is drawn by computer.
        distortion : ndarray of shape (n_rows,), str
            Kind, one of 24.
        level : ndarray of shape (n_rows,), int
            1 (weakest) to 5.
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
    The layout follows the loaders of ARNIQA (data/dataset_tid2013.py) and IQA-PyTorch (scripts/process_tid.py). The
    words for the kinds are ours, the order is the set's.
    """
    folder = Folder(path, TID2013)
    scores = folder.words("mos_with_names.txt", "mos", "image")
    deviations = folder.words("mos_std.txt", "std")
    content, kind, level = scores.coded_names("image", len(TID2013_KINDS))
    return folder.build(
        {
            "images": [f"distorted_images/{name}" for name in scores["image"]],
            "references": [f"reference_images/I{number:02d}.BMP" for number in content],
        },
        strict=strict,
        target=scores.numbers("mos", "the MOS"),
        target_std=deviations.numbers("std", "the deviation"),
        groups=content,
        distortion=np.array(TID2013_KINDS)[kind - 1],
        level=level,
    )

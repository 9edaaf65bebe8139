# SPDX-License-Identifier: BSD-3-Clause
"""Reader of FLIVE, the set of PaQ-2-PiQ: photographs as they were taken, and patches of them."""

import os

import numpy as np
from sklearn.utils import Bunch

from sklearn_iqa.datasets._reading import Folder, Source

FLIVE = Source(
    name="FLIVE (PaQ-2-PiQ)",
    page="https://github.com/niu-haoran/FLIVE_Database",
    text="39810 photographs from AVA, VOC, EMOTIC and a set of blurred ones, and three patches of each; about 35 "
    "ratings each, collected on the web.",
    licence="not stated as far as known; the photographs have the licences of the sets that they come from",
    citation="Z. Ying, H. Niu, P. Gupta, D. Mahajan, D. Ghadiyaram, A. Bovik, From Patches to Pictures (PaQ-2-PiQ): "
    "Mapping the Perceptual Space of Picture Quality, CVPR 2020.",
)
# The names lost their signs of comparison on some systems.
FLIVE_TEST = ("labels>640.csv", "labels640.csv")
FLIVE_TRAIN = ("labels<=640_padded.csv", "labels=640_padded.csv")


def read_flive(path: str | os.PathLike, *, patches: bool = False, strict: bool = True) -> Bunch:
    """Read FLIVE, the set of PaQ-2-PiQ: 39810 photographs, and patches of them, with MOS.

    Parameters
    ----------
    path : str or path
        Folder `database` of the authors' repository, after their `database_prep.ipynb` has filled it: it holds
        `labels_image.csv`, `labels_patch.csv` and the folders `voc_emotic_ava`, `EE371R`, `blur_dataset` and `patches`.

    patches : bool, default=False
        Whether rows of the patches follow those of the photographs.

    strict : bool, default=True
        Whether a missing image is an error; otherwise its rows are left out, with a warning.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of str
            Paths.
        target : ndarray of shape (n_rows,), float64
            MOS, 0 to 100; higher is better.
        groups : ndarray of shape (n_rows,), int
            Number of the photograph; a patch has that of its photograph.
        patch : ndarray of shape (n_rows,), int
            0 for a photograph, 1 to 3 for its patches.
        split : ndarray of shape (n_rows,), str
            "train", "val" or "test"; photographs with a side over 640 pixels are the test part. Absent without the
            authors' files `labels>640.csv` and `labels<=640_padded.csv` (also without the signs of comparison).
        DESCR : str
            Description, licence, citation.

    Raises
    ------
    FileNotFoundError
        If a label file is missing; with ``strict=True`` also an image.
    ValueError
        If a label file is not as published, or names a patch of an unknown photograph.

    Notes
    -----
    Labels, folders and split are as the loaders of ARNIQA (data/dataset_flive.py) and IQA-PyTorch
    (scripts/process_flive.py) read them; `labels_patch.csv` itself could not be inspected.
    """
    folder = Folder(path, FLIVE)
    labels = folder.csv("labels_image.csv", "name", "mos")
    names, target = labels["name"], [labels.numbers("mos", "the MOS")]
    groups, patch = list(range(len(names))), [0] * len(names)
    split = _flive_split(folder, names)
    if patches:
        labels = folder.csv("labels_patch.csv", "name", "mos")
        target.append(labels.numbers("mos", "the MOS"))
        photographs = {name.rpartition("/")[2]: row for row, name in enumerate(names)}
        for name in labels["name"]:
            photograph, _, end = name.rpartition("/")[2].rpartition("_patch_")
            number = end.partition(".")[0]
            if photograph not in photographs or not number.isdecimal():
                raise ValueError(
                    f"{FLIVE.name}: {labels.path} names the patch {name!r}, but patches are named "
                    "<photograph>_patch_<number> after one of labels_image.csv."
                )
            groups.append(photographs[photograph])
            patch.append(int(number))
        names = names + labels["name"]
    columns = {"target": np.concatenate(target), "groups": np.array(groups), "patch": np.array(patch)}
    if split is not None:
        columns["split"] = split[columns["groups"]]
    return folder.build({"images": names}, strict=strict, **columns)


def _flive_split(folder: Folder, names: list[str]) -> np.ndarray | None:
    """Give the part of each photograph, or None without the files that state it."""
    test = next((name for name in FLIVE_TEST if (folder.root / name).is_file()), None)
    train = next((name for name in FLIVE_TRAIN if (folder.root / name).is_file()), None)
    if test is None or train is None:
        return None
    part = dict.fromkeys(folder.csv(test, "name_image")["name_image"], "test")
    labels = folder.csv(train, "name_image", "is_valid")
    for name, is_valid in zip(labels["name_image"], labels["is_valid"], strict=True):
        part.setdefault(name, "val" if is_valid.strip().lower() in ("true", "1") else "train")
    return np.array([part.get(name, "train") for name in names], dtype="<U5")  # as IQA-PyTorch has it

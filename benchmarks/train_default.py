# SPDX-License-Identifier: BSD-3-Clause
"""Train the default model (`sklearn_iqa.load_quality_model`) and measure it; writes its numbers and its figures.

RATINGS is a folder with `scores.csv` (columns `image`, `score` in 0..1) and its images: 2,000 photographs of BIQ2021.
PHOTOGRAPHS is a folder of pristine photographs (PNG), which are distorted here in 25 kinds at five levels. Nobody rated
those: the model learns from them that a higher level is worse, by the penalties of `penalties`.
Run: python benchmarks/train_default.py RATINGS PHOTOGRAPHS [--opinions FOLDER] [--cache FOLDER]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.isotonic import isotonic_regression
from sklearn.model_selection import KFold

import sklearn_iqa
from sklearn_iqa._base.images import read_image
from sklearn_iqa._nn.transforms import resize
from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.datasets._distorted import _row_seed
from sklearn_iqa.distortions import DISTORTIONS, distort
from sklearn_iqa.metrics import krcc, plcc, srcc
from sklearn_iqa.quality_model._file import write_head
from sklearn_iqa.quality_model._head import NORMAL_QUANTILE, QualityHead
from sklearn_iqa.quality_model._loader import FILE, quality_features

MODEL = Path(sklearn_iqa.__file__).parent / "quality_model" / FILE
REPORT = Path(__file__).with_suffix(".md")
VERSION = "1"
CROP = 256  # side of what is distorted, px
LEAST_STEP = 0.06  # what one level costs at least, on the scale of the ratings (0..1)
PSEUDO_WEIGHT = 0.5  # of a distorted image beside a rated one


# Features -------------------------------------------------------------------------------------------------------------


def rated(folder: Path, features):
    """Features and ratings of the images in a folder."""
    table = pd.read_csv(folder / "scores.csv")
    return features.transform([folder / image for image in table["image"]]), table["score"].to_numpy()


def pristine_crops(folder: Path):
    """A square of each photograph, at a scale and a place of its own: the scenes of the synthetic distortions."""
    for number, path in enumerate(sorted(path for path in folder.rglob("*.png"))):
        rng = np.random.RandomState(number)
        image = read_image(path)
        scale = rng.randint(448, 769) / max(image.shape[:2])
        height, width = (round(scale * side) for side in image.shape[:2])
        image = resize(image, height, width, Image.Resampling.BICUBIC)
        row, column = rng.randint(height - CROP + 1), rng.randint(width - CROP + 1)
        yield image[row : row + CROP, column : column + CROP]


def severity_features(features, photographs, roots):
    """Features of photographs and of their distorted versions: (n_photographs, 25 kinds, levels 0 to 5, n_features).

    Seeds are those of `make_distorted` for a photograph at the place of its root.
    """
    rows = []
    for photograph, (root, place) in zip(photographs, roots, strict=True):  # all versions of all are gigabytes
        pristine = features.transform([photograph])[0]
        for kind in DISTORTIONS:
            seeds = [_row_seed(root, place, kind, level) for level in range(1, 6)]
            images = [distort(photograph, kind, level + 1, random_state=seed) for level, seed in enumerate(seeds)]
            rows.append(np.vstack([pristine, features.transform(images)]))
    return np.stack(rows).reshape(len(roots), len(DISTORTIONS), 6, -1)


def of_training(features, folder):
    """The same of the pristine photographs in a folder."""
    crops = list(pristine_crops(folder))
    roots = [(np.random.RandomState(number).randint(2**31 - 1), 0) for number in range(len(crops))]
    return severity_features(features, crops, roots)


def of_unseen(features):
    """The same of photographs that are only predicted."""
    photographs = load_photographs(size=CROP).images
    return severity_features(features, photographs, [(1, place) for place in range(len(photographs))])


def kept(path: Path, make):
    """An array from its file; made and written when there is none."""
    if not path.exists():
        np.save(path, make())
    return np.load(path)


# Training -------------------------------------------------------------------------------------------------------------


def mean_scores(head, severity):
    """Mean prediction over photographs: (25 kinds, levels 0 to 5)."""
    return head.predict(severity.reshape(-1, severity.shape[-1])).reshape(severity.shape[:3]).mean(0)


def penalties(X, y, severity):
    """What each level of each kind costs: (25, 6), from 0 at level 0.

    The fall of the mean prediction of a model that knows the ratings alone, made monotone with at least LEAST_STEP a
    level: where people's ratings teach a penalty it is taken, elsewhere only that a higher level is worse.
    """
    scores = mean_scores(QualityHead().fit(X, y), severity)
    least = LEAST_STEP * np.arange(6)
    falls = np.stack([isotonic_regression(fall) for fall in scores[:, :1] - scores - least])
    return falls - falls[:, :1] + least


def trained(X, y, severity):
    """The whole recipe, as it is cross-validated and as it ships."""
    n_photographs, n_kinds, n_levels, _ = severity.shape
    labels = np.broadcast_to(-penalties(X, y, severity), (n_photographs, n_kinds, n_levels))
    return QualityHead().fit(
        X,
        y,
        pseudo_X=severity.reshape(-1, severity.shape[-1]),
        pseudo_y=labels.ravel(),
        pseudo_groups=np.repeat(np.arange(n_photographs * n_kinds), n_levels),  # a photograph in one kind
        pseudo_weight=PSEUDO_WEIGHT,
    )


def cross_validated(X, y, severity):
    """Figures of five shuffled folds, a row each; the synthetic images are in every training part."""
    rows = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        predicted, std = trained(X[train], y[train], severity).predict(X[test], return_std=True)
        error = np.abs(y[test] - predicted)
        rows.append(
            {
                "SRCC": srcc(y[test], predicted),
                "PLCC": plcc(y[test], predicted),
                "KRCC": krcc(y[test], predicted),
                "RMSE": np.sqrt((error**2).mean()),
                "coverage": (error <= NORMAL_QUANTILE * std).mean(),
                "mean std": std.mean(),
            }
        )
    return pd.DataFrame(rows)


# Report ---------------------------------------------------------------------------------------------------------------

HEAD = """# The default model

Written by `train_default.py`, model version {version}. File: {size} bytes.

## Agreement with people

{n} rated images, KFold(5, shuffle=True, random_state=0), in every fold the whole recipe that ships (penalties and head
are fitted anew on the training part). Coverage: the share of ratings within 1.645 standard deviations, 0.90 is asked.
The recipe (layers, widths, penalties) was chosen while looking at these folds; its numbers were fitted inside them.

{folds}

"""
SEVERITY = """## Distortions of unseen photographs

Mean prediction for the ten photographs of `load_photographs(size=256)`, none of which was trained on, though the
weight of the synthetic images was chosen while looking at them, by level. The mean falls at
every step from level 0 for {from_0} of 25 kinds, from level 1 for {from_1}.

{table}

"""
OPINIONS = """## Images of another set, never trained on

SRCC {srcc:.3f}, PLCC {plcc:.3f} over {n} images of the folder given as `--opinions`, all kinds and contents together.

"""


def table_of(frame, digits=3):
    """A data frame as a table in Markdown."""
    lines = [[frame.index.name or "", *frame.columns], ["---"] * (len(frame.columns) + 1)]
    for name, row in frame.iterrows():
        cells = (f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append([str(name), *cells])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def severity_table(scores):
    """Means by kind and level, and whether they fall at every step from level 0."""
    frame = pd.DataFrame(scores, index=pd.Index(DISTORTIONS, name="kind"), columns=[str(level) for level in range(6)])
    frame["falls"] = np.where((np.diff(scores) < 0).all(1), "yes", "no")
    return frame


def main():
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path, metavar="RATINGS")
    parser.add_argument("photographs", type=Path, metavar="PHOTOGRAPHS")
    parser.add_argument("--opinions", type=Path, metavar="FOLDER", help="a further rated folder, only to be predicted")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where features are kept (default: a new folder)")
    options = parser.parse_args()
    cache = options.cache or Path(tempfile.mkdtemp())
    cache.mkdir(parents=True, exist_ok=True)
    features = quality_features().set_params(cache=cache).fit([np.zeros((32, 32, 3), np.uint8)])

    X, y = rated(options.ratings, features)
    severity = kept(cache / "pristine.npy", lambda: of_training(features, options.photographs))
    unseen = kept(cache / "unseen.npy", lambda: of_unseen(features))

    folds = cross_validated(X, y, severity)
    folds.index = pd.Index([f"fold {number}" for number in range(1, 6)], name="")
    folds.loc["mean"] = folds.mean()
    head = trained(X, y, severity)
    write_head(
        head,
        MODEL,
        {
            "name": "sklearn-iqa default quality model",
            "version": VERSION,
            "backbone": "tf_efficientnet_lite0, ImageNet, Apache-2.0",
            "trained_on": f"{len(X)} rated photographs of BIQ2021 (licence unstated); distortions of "
            f"{len(severity)} photographs with free licences",
            "scores": "mean opinion score, 0 to 1, higher is better, not clipped",
            "srcc_5_folds": f"{folds.loc['mean', 'SRCC']:.4f}",
        },
    )
    scores = mean_scores(head, unseen)
    falls = np.diff(scores) < 0
    text = HEAD.format(version=VERSION, size=f"{MODEL.stat().st_size:,}", n=f"{len(X):,}", folds=table_of(folds))
    text += SEVERITY.format(
        from_0=falls.all(1).sum(), from_1=falls[:, 1:].all(1).sum(), table=table_of(severity_table(scores))
    )
    if options.opinions is not None:
        other, opinions = rated(options.opinions, features)
        predicted = head.predict(other)
        text += OPINIONS.format(srcc=srcc(opinions, predicted), plcc=plcc(opinions, predicted), n=len(other))
    REPORT.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

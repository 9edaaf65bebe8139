# SPDX-License-Identifier: BSD-3-Clause
"""The main job, offline, on real photographs: scores, features in a grid search, published weights, a table, a picture.

First, the model that comes with the package scores a few photographs and spoiled versions of them. Then:

Photographs that come with scikit-learn and scikit-image are distorted at five levels. (a) Frozen ImageNet features with
a ridge go through a grid search whose folds keep each photograph together, once on the images alone and once on what
sets them apart from their originals; (b) ST-LPIPS with its published weights scores the same images against their
originals; (c) a table and a picture say how well each agrees with the level.

The label here is the distortion's level, not human opinion. With `--ratings FOLDER` the first part runs on images that
people rated: FOLDER holds `scores.csv` with columns `image` (path inside FOLDER) and `score` (higher is better).
"""

import argparse
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_iqa import STLPIPS, AgreementDisplay, TimmFeatures, load_quality_model, make_pairs
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.distortions import distort
from sklearn_iqa.metrics import krcc, plcc, srcc

# Output of all seven stages and of the last convolution of EfficientNet-Lite0.
LAYERS = [*(f"blocks.{stage}" for stage in range(7)), "bn2"]
DISTORTIONS = [
    "gaussian_blur",
    "motion_blur",
    "jpeg",
    "jpeg2000",
    "white_noise",
    "impulse_noise",
    "pixelate",
    "color_diffusion",
]


def deep_features(cache, comparison=None):
    """Frozen ImageNet features, of images or of pairs; the weights come from an installed package."""
    return TimmFeatures(
        "tf_efficientnet_lite0",
        layers=LAYERS,
        pooling="mean+std",
        comparison=comparison,
        backbone_weights="bundled",
        cache=cache,
        verbose=1,
    )


def search(extractor, X, y, cv, groups=None):
    """(a) Choose the ridge penalty by cross-validation; returns the search and held-out predictions of its best."""
    extractor.fit_transform(X)  # fills the cache behind one progress bar
    model = make_pipeline(extractor.set_params(verbose=0), StandardScaler(), Ridge())
    grid = GridSearchCV(model, {"ridge__alpha": np.logspace(2, 5, 7)}, scoring="r2", cv=cv, error_score="raise")
    set_progress_bar(grid)
    grid.fit(X, y, groups=groups)
    held_out = cross_val_predict(grid.best_estimator_, X, y, cv=cv, groups=groups)
    return grid, held_out


def set_progress_bar(grid):
    """scikit-learn's own progress bar, where it has one (1.9 and later)."""
    try:
        from sklearn.callback import ProgressBar
    except ImportError:
        grid.verbose = 1
    else:
        grid.set_callbacks(ProgressBar(max_propagation_depth=0))


def agreement(target, predicted):
    """The field's figures: rank, linear and pair-wise correlation."""
    return {"SRCC": srcc(target, predicted), "PLCC": plcc(target, predicted), "KRCC": krcc(target, predicted)}


def score_some_photographs():
    """One line gives a score: sharp photographs against spoiled ones."""
    photographs = load_photographs(size=224)
    names = ["astronaut", "chelsea", "coffee"]
    sharp = [photographs.images[photographs.names.index(name)] for name in names]
    blurred = [distort(image, "gaussian_blur", 4) for image in sharp]
    compressed = [distort(image, "jpeg", 5) for image in sharp]
    score, std = load_quality_model().predict([*sharp, *blurred, *compressed], return_std=True)
    columns = ["as it is", "blurred", "compressed"]
    table = pd.DataFrame(score.reshape(3, -1).T, index=names, columns=columns)
    print("What people would say, 0 (bad) to 1 (excellent), not clipped: load_quality_model().predict(images)\n")
    print(table.round(2).to_string())
    print(f"\nNine of ten mean opinions lie within {1.645 * std.mean():.2f} of the score.\n")


def run_on_distortions(output: Path, cache: Path):
    """Run (a), (b) and (c) on distorted photographs."""
    print("Label: the LEVEL of a synthetic distortion (0 to -5), not human opinion.\n")
    data = make_distorted(load_photographs(size=224).images, distortions=DISTORTIONS, random_state=0)
    print(
        f"{len(data.images)} images: {len(set(data.groups))} photographs x {len(DISTORTIONS)} distortions x 5 levels\n"
        "(a) EfficientNet-Lite0 features + ridge, grid search over folds by photograph"
    )
    pairs, folds = make_pairs(data.images, data.references), GroupKFold(5)
    grid, alone = search(deep_features(cache), data.images, data.target, folds, data.groups)
    print(f"    images alone: best alpha {grid.best_params_['ridge__alpha']:g}")
    grid, compared = search(deep_features(cache, "difference"), pairs, data.target, folds, data.groups)
    print(f"    beside their originals: best alpha {grid.best_params_['ridge__alpha']:g}")
    print("(b) ST-LPIPS, published weights, against the originals")
    distance = STLPIPS(weights="alex-bapps", verbose=1).predict(pairs)

    scores = {"1 features": alone, "2 features, compared": compared, "3 ST-LPIPS": -distance}
    rows = []
    for name in [*DISTORTIONS, "all"]:
        part = (data.distortion == name) | (name == "all")
        for method, score in scores.items():
            rows.append({"distortion": name, "method": method, **agreement(data.target[part], score[part])})
    table = pd.DataFrame(rows).pivot(index="distortion", columns="method").loc[[*DISTORTIONS, "all"]]
    table = table.swaplevel(axis=1).sort_index(axis=1, ascending=[True, False])
    print("\n(c) Agreement with the level on held-out photographs (ST-LPIPS is not trained here)\n")
    print(table.round(3).to_string())
    table.to_csv(output / "agreement.csv")
    display = AgreementDisplay.from_predictions(data.target, compared, name="features, compared; held out")
    display.ax_.set_ylabel("Label: minus the distortion level")
    save(display.figure_, output / "agreement.png")
    print(f"\nWritten: {output / 'agreement.csv'}, {output / 'agreement.png'}")


def run_on_ratings(folder: Path, output: Path, cache: Path):
    """Run (a) on images that people rated."""
    table = pd.read_csv(folder / "scores.csv")
    if missing := {"image", "score"} - set(table.columns):
        raise ValueError(f"{folder / 'scores.csv'} lacks {', '.join(sorted(missing))}; it needs image and score.")
    X, y = [str(folder / image) for image in table["image"]], table["score"].to_numpy()
    print(f"Label: HUMAN RATINGS of {len(X)} images in {folder}\nFeatures + ridge, 5 shuffled folds")
    folds = KFold(5, shuffle=True, random_state=0)
    grid, predicted = search(deep_features(cache), X, y, folds)
    per_fold = [srcc(y[test], predicted[test]) for _, test in folds.split(X)]
    print(f"    best alpha {grid.best_params_['ridge__alpha']:g}")
    print(f"SRCC over 5 folds: mean {np.mean(per_fold):.3f}, of each: {' '.join(f'{one:.3f}' for one in per_fold)}")
    print("All held-out predictions: " + ", ".join(f"{k} {v:.3f}" for k, v in agreement(y, predicted).items()))
    display = AgreementDisplay.from_predictions(y, predicted, name="features + ridge, held out")
    save(display.figure_, output / "ratings.png")
    print(f"Written: {output / 'ratings.png'}")


def save(figure, path: Path):
    """Write a picture without cutting its labels."""
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main():
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=Path, metavar="FOLDER", help="folder with scores.csv and its images")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="where to write (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.ratings is not None and not (options.ratings / "scores.csv").is_file():
        sys.exit(f"{options.ratings} holds no scores.csv; give a folder with scores.csv (columns image, score).")
    mpl.use("Agg")
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    score_some_photographs()
    if options.ratings is None:
        run_on_distortions(options.output, options.output / "cache")
    else:
        try:
            run_on_ratings(options.ratings, options.output, options.output / "cache")
        except (OSError, ValueError) as error:  # what a folder of one's own may hold
            sys.exit(str(error))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Fine-tuning at full crops on a part of LIVE In the Wild: rank correlation on a held-out tenth after every epoch.

It is there to find training that is broken at the size of the papers: dead outputs, losses that explode, BatchNorm in
small batches, rates that do not suit another backbone. Beside each method stand frozen features of the same backbone
with a ridge, on the same photographs. Crops have the paper's size; backbone is EfficientNet-Lite0 with ImageNet's
weights, which come as a package. One split, few epochs: no ranking of the methods.
Results go to `fine_tuning.json` after each epoch and to `fine_tuning.md` at the end; methods that it holds are kept.
Run: python benchmarks/fine_tuning.py FOLDER [--only NIMA --only UNIQUE] [--rows 690]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_iqa
from sklearn_iqa.metrics import srcc

RESULTS = Path(__file__).with_suffix(".json")
TABLE = Path(__file__).with_suffix(".md")
LITE0 = {"backbone": "tf_efficientnet_lite0", "backbone_weights": "bundled", "random_state": 0}
FROZEN = "Frozen features, ridge"
HEAD = """# Fine-tuning at full crops

Written by `fine_tuning.py`: photographs of LIVE In the Wild (500 x 500), a tenth held out, SRCC there after each epoch.
Backbone: EfficientNet-Lite0, ImageNet. "Spread" is the standard deviation of the last scores in units of that of the
ratings: 0 is a dead network. The same split for all rows of one number of photographs.

| Method | Photographs | SRCC after each epoch | Loss of each epoch | Spread | Settings |
| --- | --- | --- | --- | --- | --- |
"""


def methods():
    """Name -> (estimator, epochs): the paper's crop; rates as the paper's where the backbone allows it."""
    iqa = sklearn_iqa
    return {
        "NIMA": (iqa.NIMA(**LITE0, image_size=448, lr=3e-4, batch_size=16), 8),  # the README's example
        "NIMA, 224 pixels": (iqa.NIMA(**LITE0, lr=1e-3), 5),
        "HyperIQA": (iqa.HyperIQA(**LITE0, n_crops=2, batch_size=24, lr=1e-4), 4),
        # Its first epoch trains the last layer alone.
        "UNIQUE": (iqa.UNIQUE(**LITE0, n_pairs=1500, warmup_epochs=1, lr_step=3, lr=1e-4, batch_size=16), 3),
        "KonIQPlusPlus": (iqa.KonIQPlusPlus(**LITE0, batch_size=8, lr=1e-3), 3),
        "MetaIQA": (iqa.MetaIQA(**LITE0, meta_epochs=0, batch_size=16, lr=1e-4), 4),
        "GraphIQA": (iqa.GraphIQA(**LITE0, pretrain_steps=20, batch_size=16), 4),
        "DBCNN": (iqa.DBCNN(**LITE0, scnn_epochs=0, head_epochs=3, head_lr=0.1, batch_size=8, lr=1e-4), 2),
    }


def run(estimator, n_epochs, train, held_out, note):
    """Train epoch by epoch; `note` is called with the results so far after each."""
    srccs, losses = [], []
    for _ in range(n_epochs):
        estimator.partial_fit(train["image"].tolist(), train["score"].to_numpy())
        predicted = estimator.predict(held_out["image"].tolist())
        srccs.append(srcc(held_out["score"], predicted))
        losses.append(estimator.loss_curve_[-1])
        note(srccs, losses, predicted.std() / held_out["score"].std())


def main():
    """Run the methods that are missing, or those that are named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with scores.csv (image, score)")
    parser.add_argument("--only", action="append", help="name of a row; may be given again")
    parser.add_argument("--rows", type=int, default=690, help="photographs, the held-out ones among them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.read_csv(arguments.folder / "scores.csv").sample(arguments.rows, random_state=0)
    table["image"] = [str(arguments.folder / name) for name in table["image"]]
    train, held_out = train_test_split(table, test_size=0.1, random_state=0)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def keep(name, settings, srccs, losses, spread):
        results[name] = {
            "rows": len(table),
            "srcc": [round(float(one), 3) for one in srccs],
            "loss": [float(f"{one:.4g}") for one in losses],
            "spread": round(float(spread), 3),
            "settings": settings,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, results[name], flush=True)

    rows = methods()
    for name in arguments.only or [FROZEN, *rows]:
        if name in results and not arguments.only:
            continue
        if name == FROZEN:
            features = sklearn_iqa.TimmFeatures(
                **{key: LITE0[key] for key in ("backbone", "backbone_weights")}, pooling="mean+std", image_size=448
            )
            ridge = make_pipeline(features, StandardScaler(), RidgeCV(np.logspace(0, 5, 16)))
            predicted = ridge.fit(train["image"].tolist(), train["score"]).predict(held_out["image"].tolist())
            spread = predicted.std() / held_out["score"].std()
            keep(name, "image_size=448", [srcc(held_out["score"], predicted)], [], spread)
            continue
        estimator, n_epochs = rows[name]
        settings = {key: value for key, value in estimator.get_params().items() if key not in LITE0}
        usual = type(estimator)().get_params()
        changed = ", ".join(f"{key}={value}" for key, value in settings.items() if value != usual[key])
        run(
            estimator, n_epochs, train, held_out, lambda *found, name=name, changed=changed: keep(name, changed, *found)
        )
    TABLE.write_text(table_text(results), encoding="utf-8")


def table_text(results):
    """The report, in Markdown."""
    lines = [
        f"| {name} | {one['rows']} | {' '.join(f'{value:.2f}' for value in one['srcc'])} | "
        f"{' '.join(f'{value:.3g}' for value in one['loss']) or '-'} | {one['spread']:.2f} | {one['settings']} |"
        for name, one in results.items()
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

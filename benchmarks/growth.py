# SPDX-License-Identifier: BSD-3-Clause
"""How time grows: of `predict` in images and in pixels, of a grid search over cached features, and with two workers.

An exponent is the slope of log(seconds) over log(n); 1 is linear. The grid search has five folds and ten candidates;
each image should pass the network once. Two Dask workers of one thread each share the work of one.
Run: python benchmarks/growth.py [--only images pixels search workers]
"""

import importlib.util
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from feature_cache import search
from folder import passes
from measuring import Report, elapsed, in_turns, make, parser, photographs, ready, spread, write_jpegs

from sklearn_iqa.features._base import Pooled

PARTS = ("images", "pixels", "search", "workers")


def exponents(estimator, rows: dict[int, list], n_turns: int) -> list[float]:
    """Median and quartiles of the exponent of `predict`; `rows` by their number or their pixels."""
    ways = {n: lambda X=X: estimator.predict(X) for n, X in rows.items()}
    in_turns(ways, 1)
    seconds = in_turns(ways, n_turns)
    logs = np.log(list(rows))
    return spread([np.polyfit(logs, np.log([seconds[n][turn] for n in rows]), 1)[0] for turn in range(n_turns)])


def predicted(tiny: bool) -> dict:
    """Estimators whose network sees images at their own size."""
    small = {} if tiny else {"backbone": "mobilenetv1_100"}
    nima, lpips = ready(make("NIMA", tiny=tiny, **small)), ready(make("LPIPS", tiny=tiny))
    return {"NIMA mobilenetv1_100": nima, "LPIPS": lpips}


def rows_of(estimator, images: list[np.ndarray]) -> list:
    """Images, or pairs of each with itself."""
    return list(images) if len(estimator.inputs) == 1 else [(image, image[::-1].copy()) for image in images]


def of_images(options, report) -> None:
    """Exponent in the number of images."""
    for name, estimator in predicted(options.tiny).items():
        images = rows_of(estimator, photographs(max(options.images)))
        rows = {n: images[:n] for n in options.images}
        report.add(f"{name}, in images", exponent=exponents(estimator, rows, options.turns), of=str(options.images))


def of_pixels(options, report) -> None:
    """Exponent in the number of pixels."""
    for name, estimator in predicted(options.tiny).items():
        rows = {side * side * 4 // 3: rows_of(estimator, photographs(4, (side, side * 4 // 3)))
                for side in options.sides}  # fmt: skip
        report.add(f"{name}, in pixels", exponent=exponents(estimator, rows, options.turns), of=str(options.sides))


def of_search(options, report) -> None:
    """Passes and time of a grid search over features that are cached as it goes."""
    for n in options.search:
        with tempfile.TemporaryDirectory() as folder:
            backbone = "test_resnet" if options.tiny else "tf_efficientnet_lite0"
            features = make("TimmFeatures", backbone=backbone, cache=folder)
            X, y = photographs(n, (options.search_side, options.search_side)), np.linspace(0, 1, n)
            with passes(Pooled) as noted:
                _, seconds = search([features], X, y)
        report.add(f"grid search, {n} images", passes=sum(views for *_, views in noted) / n, seconds=seconds / n)


def of_workers(options, report) -> None:
    """Two Dask workers beside one."""
    name = "two Dask workers"
    if importlib.util.find_spec("distributed") is None:
        report.add(name, of="not run: dask[distributed] is not installed")
        return
    if len(os.sched_getaffinity(0)) < 2:
        report.add(name, of="not run: there is one core")
        return
    from distributed import Client, LocalCluster

    estimator = predicted(options.tiny)["NIMA mobilenetv1_100"]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), options.worker_files, photographs(8))
        chunks = [paths[start::8] for start in range(8)]
        seconds = {}
        for n_workers in (1, 2):
            cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)
            with cluster, Client(cluster) as client:
                client.run(torch.set_num_threads, 1)
                client.gather(client.map(estimator.predict, [chunk[:1] for chunk in chunks], pure=False))

                def work(client=client):
                    client.gather(client.map(estimator.predict, chunks, pure=False))

                seconds[n_workers] = [elapsed(work) for _ in range(options.turns)]
    # The clusters stand one after the other: two at once would share the cores.
    report.add(name, speedup=float(np.median(seconds[1]) / np.median(seconds[2])), of=f"{options.worker_files} files")


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=5)
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    command.add_argument("--images", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    command.add_argument("--sides", type=int, nargs="+", default=[192, 288, 432, 648, 972], help="heights in pixels")
    command.add_argument("--search", type=int, nargs="+", default=[200, 1000, 2000], help="images of the grid search")
    command.add_argument("--search-side", type=int, default=224, help="side of these images in pixels")
    command.add_argument("--worker-files", type=int, default=256)
    command.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    options = command.parse_args()
    columns = {
        "exponent": "exponent",
        "over": "of",
        "passes per image": "passes",
        "s per image": "seconds",
        "times faster": "speedup",
    }
    goal = "exponents of 0.95 to 1.05, one pass per image, two workers 1.8 times as fast as one."
    report = Report(__file__, "how time grows", goal, columns, options)
    parts = {"images": of_images, "pixels": of_pixels, "search": of_search, "workers": of_workers}
    for part in options.only:
        parts[part](options, report)


if __name__ == "__main__":
    main()

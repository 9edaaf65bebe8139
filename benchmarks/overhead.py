# SPDX-License-Identifier: BSD-3-Clause
"""What `predict` costs beside the bare network, and whether its memory grows with the number of images.

Time: 64 images, `predict` against a hand-written loop over the same network on the same, ready-made tensors; both in
one process, turn about, best of three. `predict` opens, resizes, scales, batches and collects besides.
Memory: peak resident memory of a process that predicts 200 and 2,000 paths.
Run: python benchmarks/overhead.py
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sklearn_iqa import NIMA, STLPIPS, make_pairs
from sklearn_iqa.datasets import load_photographs, make_distorted

N_IMAGES = 64
TURNS = 3


def material():
    """64 distorted photographs 384 x 384 and their originals."""
    data = make_distorted(load_photographs(size=384).images, distortions=["jpeg", "gaussian_blur"], random_state=0)
    return data.images[:N_IMAGES], data.references[:N_IMAGES]


def bare(estimator, views):
    """Scores from the network alone, one image at a time: on a CPU the fastest batch."""
    with torch.inference_mode():
        return [estimator.network_(one) for one in views]


def time_ways(name, estimator, X):
    """Print the ratio of `predict` to the bare network."""
    estimator.initialize()
    rows = estimator._rows(X)
    views = [estimator._views(rows[row]).contiguous() for row in range(len(rows))]
    estimator.predict(X[:2]), bare(estimator, views[:2])
    seconds = {"bare": [], "predict": []}
    for _ in range(TURNS):
        start = time.perf_counter()
        bare(estimator, views)
        seconds["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        estimator.predict(X)
        seconds["predict"].append(time.perf_counter() - start)
    floor, whole = min(seconds["bare"]), min(seconds["predict"])
    print(f"{name:20s} bare network {floor:6.2f} s   predict {whole:6.2f} s   ratio {whole / floor:.2f}", flush=True)


def peak_memory(folder: str, n_paths: int) -> float:
    """Peak resident memory, in MB, of a new process that predicts so many paths."""
    code = [sys.executable, __file__, "--predict", folder, str(n_paths)]
    return float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def predict_paths(folder: str, n_paths: int) -> None:
    """Predict, and print the peak memory of this process in MB."""
    paths = sorted(Path(folder).glob("*.jpg"))
    estimator = NIMA(backbone="mobilenetv1_100", backbone_weights=None, random_state=0).initialize()
    estimator.predict([paths[i % len(paths)] for i in range(n_paths)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    """Time and measure."""
    queries, references = material()
    time_ways("NIMA (MobileNet)", NIMA(backbone="mobilenetv1_100", backbone_weights=None, random_state=0), queries)
    time_ways("STLPIPS (alex)", STLPIPS(random_state=0), make_pairs(queries, references))
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(queries):
            side = 256 + 8 * (number % 16)  # mixed sizes
            Image.fromarray(np.asarray(image)).resize((side, 384)).save(Path(folder) / f"{number:03d}.jpg")
        few, many = peak_memory(folder, 200), peak_memory(folder, 2000)
    print(f"peak memory          200 paths {few:6.0f} MB   2,000 paths {many:6.0f} MB   ratio {many / few:.3f}")


if __name__ == "__main__":
    if "--predict" in sys.argv:
        predict_paths(sys.argv[2], int(sys.argv[3]))
    else:
        main()

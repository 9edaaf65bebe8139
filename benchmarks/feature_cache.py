# SPDX-License-Identifier: BSD-3-Clause
"""What a cache of features saves in a grid search: 5 folds x 10 candidates over frozen features and a ridge.

Three ways are timed in one run, on equal images: features in the pipeline without cache, with cache (empty at the
start), and one forward pass plus the same search on ready-made features. The cache should cost at most 1.15 times the
last. Run: python benchmarks/feature_cache.py [--images 60] [--size 384]
"""

import argparse
import tempfile
import time

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_iqa import TimmFeatures
from sklearn_iqa.datasets import load_photographs, make_distorted


def search(steps, X, y):
    """Ten ridge penalties in five folds; returns the search and its seconds."""
    grid = GridSearchCV(
        make_pipeline(*steps, StandardScaler(), Ridge()),
        {"ridge__alpha": np.logspace(-2, 4, 10)},
        cv=KFold(5, shuffle=True, random_state=0),
        error_score="raise",
    )
    start = time.perf_counter()
    grid.fit(X, y)
    return grid, time.perf_counter() - start


def main():
    """Time the three ways and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=384)
    options = parser.parse_args()
    distorted = make_distorted(
        load_photographs(size=options.size).images, distortions=["gaussian_blur", "jpeg"], random_state=0
    )
    chosen = np.random.default_rng(0).permutation(len(distorted.images))[: options.images]
    X, y = [distorted.images[i] for i in chosen], distorted.target[chosen]
    recipe = dict(backbone="tf_efficientnet_lite0", pooling="mean+std", backbone_weights=None, random_state=0)
    TimmFeatures(**recipe).fit_transform(X[:2])  # the network is built and warm for all ways alike

    start = time.perf_counter()
    ready = TimmFeatures(**recipe).fit_transform(X)
    forward = time.perf_counter() - start
    plain, seconds_ready = search([], ready, y)
    with tempfile.TemporaryDirectory() as folder:
        cached, seconds_cached = search([TimmFeatures(**recipe, cache=folder)], X, y)
        _, seconds_again = search([TimmFeatures(**recipe, cache=folder)], X, y)
    uncached, seconds_uncached = search([TimmFeatures(**recipe)], X, y)
    np.testing.assert_allclose(cached.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], rtol=1e-3)
    np.testing.assert_allclose(uncached.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], rtol=1e-3)

    floor = forward + seconds_ready
    print(f"{len(X)} images {options.size} x {options.size}, 5 folds x 10 candidates")
    print(f"forward pass {forward:6.2f} s + search on ready features {seconds_ready:6.2f} s = {floor:6.2f} s   1.00")
    for way, seconds in (
        ("with cache, empty at the start", seconds_cached),
        ("with cache, filled", seconds_again),
        ("without cache", seconds_uncached),
    ):
        print(f"{way:54s}  {seconds:6.2f} s   {seconds / floor:.2f}")


if __name__ == "__main__":
    main()

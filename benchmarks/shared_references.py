# SPDX-License-Identifier: BSD-3-Clause
"""What it saves that a reference which several queries share goes through the network once.

In one run, `predict` on 60 queries of one reference, and on the same pairs with 60 references that differ in one pixel.
Run: python benchmarks/shared_references.py [--queries 60] [--size 256]
"""

import argparse
import time

import numpy as np

from sklearn_iqa import LPIPS, STLPIPS, make_pairs
from sklearn_iqa.datasets import load_photographs


def main():
    """Time both ways in turns and print the best of three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    original = load_photographs(size=options.size).images[0]
    noise = rng.normal(scale=20, size=(options.queries, *original.shape))
    queries = np.clip(original + noise, 0, 255).astype(np.uint8)
    references = np.repeat(original[None], options.queries, axis=0)
    references[np.arange(options.queries), 0, 0, 0] = np.arange(options.queries)
    ways = {"shared": make_pairs(queries, original), "apart": make_pairs(queries, references)}
    for estimator in (LPIPS(backbone_weights=None), LPIPS(net="vgg", backbone_weights=None), STLPIPS()):
        estimator.set_params(device="cpu", random_state=0).initialize()
        seconds = dict.fromkeys(ways, np.inf)
        for _ in range(3):
            for way, pairs in ways.items():
                start = time.perf_counter()
                estimator.predict(pairs)
                seconds[way] = min(seconds[way], time.perf_counter() - start)
        name = f"{type(estimator).__name__} ({estimator.net})"
        gain = seconds["apart"] / seconds["shared"]
        print(f"{name:16} apart {seconds['apart']:.2f} s   shared {seconds['shared']:.2f} s   gain {gain:.2f}")


if __name__ == "__main__":
    main()

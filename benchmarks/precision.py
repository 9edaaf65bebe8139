# SPDX-License-Identifier: BSD-3-Clause
"""What shorter numbers cost and save: scores of `predict` in bfloat16 and float16 beside those in float32.

The error of a score is its difference from the score in float32, in parts of how far the scores of the images are apart
(their standard deviation), so that methods of any unit can be compared; the rank correlation says whether the order of
the images stays. Weights are seeded, not trained: with random weights scores lie closer together than with trained
ones, and errors look larger.
Run: python benchmarks/precision.py [--only NAME ...]
"""

import numpy as np
from measuring import SIZE, Report, estimator_names, in_turns, make, parser, ratio, ready, rows_for, run, spread
from scipy.stats import spearmanr

PRECISIONS = ("bfloat16", "float16")
# SRIF's network takes a fraction of the time and has one precision.
NAMES = [name for name in estimator_names() if name != "SRIF"]
HEAVY = ("AHIQ", "MANIQA")  # half a minute and more per image on two cores with all crops


def compared(name: str, options) -> dict:
    """Errors and times of each precision."""
    size = None if options.tiny else options.size
    given = {"tiny": options.tiny, "device": options.device, **({"n_crops": 2} if name in HEAVY else {})}
    estimators = {
        precision: ready(make(name, precision=precision, **given), tiny=options.tiny)
        for precision in ("float32", *options.precisions)
    }
    n_images = min(options.images, 3) if name in HEAVY else options.images
    X = rows_for(estimators["float32"], n_images, tiny=options.tiny, size=size)
    found = {precision: np.asarray(run(one, X), dtype=np.float64) for precision, one in estimators.items()}
    seconds = in_turns({p: lambda one=one: run(one, X) for p, one in estimators.items()}, options.turns)
    exact, figures = found["float32"], {}
    for precision in options.precisions:
        errors = np.abs(found[precision] - exact) / exact.std(axis=0).clip(np.finfo(np.float64).tiny)
        figures |= {
            f"{precision}_error": spread(errors.ravel().tolist()),
            f"{precision}_order": order(exact, found[precision]),
            f"{precision}_time": ratio(seconds[precision], seconds["float32"]),
        }
    return figures


def order(exact: np.ndarray, found: np.ndarray) -> float | str:
    """Spearman's correlation of scores; of features nothing is ranked."""
    return float(spearmanr(exact, found).statistic) if exact.ndim == 1 else "features"


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=3)
    command.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    command.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    command.add_argument(
        "--images", type=int, default=8, help="decoded images; of AHIQ and MANIQA three, two crops each"
    )
    command.add_argument("--size", type=int, nargs=2, default=SIZE, help="their height and width in pixels")
    command.add_argument("--device", default="cpu")
    command.add_argument("--tiny", action="store_true", help="the small networks of the tests, to try the script")
    options = command.parse_args()
    columns = {}
    for precision in options.precisions:
        columns |= {
            f"{precision}: error, in deviations": f"{precision}_error",
            f"{precision}: SRCC with float32": f"{precision}_order",
            f"{precision}: time beside float32": f"{precision}_time",
        }
    goal = "none; the errors are what a user decides by."
    report = Report(__file__, "error and time of shorter numbers", goal, columns, options)
    for name in options.only:
        report.add(name, **compared(name, options))


if __name__ == "__main__":
    main()

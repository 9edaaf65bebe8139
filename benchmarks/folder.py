# SPDX-License-Identifier: BSD-3-Clause
"""A folder of large JPEG files through the default model and NIMA, beside decoding them alone.

Images per second, and the share of time in which the network waits: the gaps between its passes, from the first to the
last one. A network that takes less time than decoding must wait, however many threads decode.
Run: python benchmarks/folder.py [--files 1000] [--jobs 1 2]
"""

import contextlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import Report, in_turns, make, parser, photographs, ratio, ready, spread, write_jpegs
from PIL import Image

from sklearn_iqa import load_quality_model

SIZE = (3000, 4000)
N_ORIGINALS = 8  # different images; the other files are links to them


@contextlib.contextmanager
def passes(module_class: type):
    """Note start and end, in seconds, and number of views of each pass through the modules of a class in the block."""
    noted: list[tuple[float, float, int]] = []
    call = module_class.__call__

    def timed(self, views, *args, **kwargs):
        start = time.perf_counter()
        output = call(self, views, *args, **kwargs)
        noted.append((start, time.perf_counter(), len(views)))
        return output

    setattr(module_class, "__call__", timed)  # noqa: B010  # mypy refuses to assign to a method
    try:
        yield noted
    finally:
        del module_class.__call__  # that of nn.Module is inherited again


def waiting(noted: list[tuple[float, float, int]]) -> float:
    """Share of the time from the first to the last pass in which no pass ran."""
    whole = noted[-1][1] - noted[0][0]
    return 1 - sum(end - start for start, end, _ in noted) / whole


def decode(paths: list[Path], n_threads: int) -> None:
    """Decode files as RGB, and keep nothing."""

    def one(path):
        with Image.open(path) as image:
            image.convert("RGB")

    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(one, paths):
            pass


def models(tiny: bool):
    """Name -> (estimator, the class of what runs its network, prefix of its parameters)."""
    from sklearn_iqa.features._base import Pooled

    default = load_quality_model()
    small = {} if tiny else {"backbone": "mobilenetv1_100"}
    nima = ready(make("NIMA", tiny=tiny, **small))
    return {
        "default model": (default, Pooled, "features__"),
        "NIMA mobilenetv1_100": (nima, type(nima.network_), ""),
    }


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=1)
    command.add_argument("--files", type=int, default=1000)
    command.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width in pixels")
    command.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="values of n_jobs")
    command.add_argument("--tiny", action="store_true", help="a small NIMA, to try the script")
    options = command.parse_args()
    columns = {
        "images per second": "rate",
        "decoding alone, as many threads": "decoding",
        "time beside decoding": "beside",
        "share of time the network waits": "waits",
    }
    goal = "the network waits for at most 5 % of the time."
    report = Report(__file__, f"{options.files:,} JPEG files of {options.size[0]} x {options.size[1]} pixels", goal,
                    columns, options)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), options.files, photographs(N_ORIGINALS, tuple(options.size)))
        for name, (estimator, module_class, prefix) in models(options.tiny).items():
            for n_jobs in options.jobs:
                estimator.set_params(**{f"{prefix}n_jobs": n_jobs})
                estimator.predict(paths[:2])
                waits: list[float] = []

                def predict(estimator=estimator, module_class=module_class, waits=waits):
                    with passes(module_class) as noted:
                        estimator.predict(paths)
                    waits.append(waiting(noted))

                ways = {"decoding": lambda n_jobs=n_jobs: decode(paths, n_jobs), "predict": predict}
                seconds = in_turns(ways, options.turns)
                report.add(
                    f"{name}, n_jobs={n_jobs}",
                    rate=spread([len(paths) / one for one in seconds["predict"]]),
                    decoding=spread([len(paths) / one for one in seconds["decoding"]]),
                    beside=ratio(seconds["predict"], seconds["decoding"]),
                    waits=spread(waits),
                )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Peak resident memory of `predict`: over more and more files, and of a large pair.

Each figure is that of a new process. The files are JPEG images of mixed size; many are links to few.
Run: python benchmarks/memory.py [--only NIMA default pair]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import Report, make, parser, photographs, ready, write_jpegs

N_ORIGINALS = 64
PAIR = (3000, 4000)  # height and width in pixels of the large pair
PARTS = ("NIMA", "default", "pair")


def peak() -> float:
    """Peak resident memory of this process in MB.

    Where /proc has it, from there: `getrusage` also counts the process that this one was forked from.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest / 2**20 if sys.platform == "darwin" else largest / 2**10
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def predict(what: str, folder: str, n_files: int) -> None:
    """Predict in this process, and print its peak."""
    paths = sorted(Path(folder).glob("[0-9]*.jpg"))[:n_files]
    if what == "pair":
        ready(make("STLPIPS")).predict([tuple(paths)])
    elif what == "default":
        from sklearn_iqa import load_quality_model

        load_quality_model().predict(paths)
    else:
        ready(make("NIMA", backbone="mobilenetv1_100")).predict(paths)
    print(peak())


def measured(what: str, folder: str, n_files: int) -> float:
    """Peak of a new process that predicts so many files of a folder."""
    command = [sys.executable, __file__, "--predict", what, folder, str(n_files)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=1)
    command.add_argument("--files", type=int, nargs="+", default=[200, 2000, 20000])
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    command.add_argument("--pair", type=int, nargs=2, default=PAIR, help="height and width of the large pair")
    command.add_argument("--predict", nargs=3, help=argparse.SUPPRESS)
    options = command.parse_args()
    if options.predict:
        what, folder, n_files = options.predict
        predict(what, folder, int(n_files))
        return
    del options.predict
    columns = {f"{n:,} files, MB": str(n) for n in options.files} | {"last beside first": "growth", "pair, MB": "pair"}
    report = Report(__file__, "peak resident memory", "constant within 5 %.", columns, options)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        sizes = [tuple(map(int, rng.integers(256, 512, 2))) for _ in range(min(N_ORIGINALS, max(options.files)))]
        write_jpegs(Path(folder), max(options.files), (photographs(1, size)[0] for size in sizes))
        for what in [part for part in options.only if part != "pair"]:
            found = {str(n): measured(what, folder, n) for n in options.files}
            report.add(what, **found, growth=found[str(options.files[-1])] / found[str(options.files[0])])
    if "pair" not in options.only:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), 2, photographs(2, tuple(options.pair)))
        name = f"STLPIPS, a pair of {options.pair[0]} x {options.pair[1]} pixels"
        report.add(name, pair=measured("pair", folder, 2))


if __name__ == "__main__":
    main()

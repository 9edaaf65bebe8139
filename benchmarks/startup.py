# SPDX-License-Identifier: BSD-3-Clause
"""How long the package and its command take to start, beside what they cannot do without.

Every time is that of a new process, with files in the cache of the system; processes take turns.
Run: python benchmarks/startup.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Report, in_turns, parser, photographs, spread, write_jpegs

EMPTY_PROGRAM = "import click; click.command()(lambda: None)(['--help'])"
# Name -> arguments of Python for what is measured and for what it is compared with; factor and seconds of the goal.
COMPARED = {
    "import sklearn_iqa": (["-c", "import sklearn_iqa"], ["-c", "import sklearn"], 1.1, 0.0),
    "sklearn-iqa --help": (["-m", "sklearn_iqa", "--help"], ["-c", EMPTY_PROGRAM], 1.0, 0.3),
    "sklearn-iqa score default": (
        ["-m", "sklearn_iqa", "score", "default", "{image}"],
        ["-c", "import torch, timm"],
        1.3,
        0.2,
    ),
}


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=7)
    command.add_argument("--only", nargs="+", choices=COMPARED, default=list(COMPARED))
    options = command.parse_args()
    columns = {"seconds": "seconds", "compared with": "base", "its seconds": "base_seconds", "goal": "goal"}
    report = Report(__file__, "starting", "the seconds of the last column, from those of the base.", columns, options)
    with tempfile.TemporaryDirectory() as folder:
        (image,) = write_jpegs(Path(folder), 1, photographs(1))
        for name in options.only:
            ours, base, factor, more = COMPARED[name]
            ways = {"ours": [one.format(image=image) for one in ours], "base": base}
            runs = {way: _process(arguments) for way, arguments in ways.items()}
            in_turns(runs, 1)  # fills the cache of files
            seconds = in_turns(runs, options.turns)
            middle = spread(seconds["base"])
            report.add(
                name,
                seconds=spread(seconds["ours"]),
                base=base[-1] if base[-1] != EMPTY_PROGRAM else "an empty click program",
                base_seconds=middle,
                goal=factor * middle[0] + more,
            )


def _process(arguments: list[str]):
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

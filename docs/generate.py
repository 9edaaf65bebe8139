# SPDX-License-Identifier: BSD-3-Clause
"""Write all generated text that is kept in the repository; `--check` writes nothing, and exits with 1 if some is stale.

It is the docstrings' shared paragraphs (`make_docstrings.py`), the list of public names (`make_stub.py`), and the
README's table and the rows of `parity.csv` (`make_tables.py`). Each of these scripts runs alone, too.
"""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKERS = ("make_docstrings", "make_stub", "make_tables")  # the last imports the package, by the names of the second


def main(*makers: str) -> None:
    """Write what the `texts` of scripts beside this file give, and print which files that changes.

    `texts` yields files, what they should hold, and a list of what in them is stale.
    """
    check, stale = "--check" in sys.argv[1:], []
    for name in makers:
        for path, text, what in importlib.import_module(name).texts():
            if text != (path.read_text(encoding="utf-8") if path.is_file() else None):
                state = "is stale" if check else "written"
                stale.append(f"{path.relative_to(ROOT)} {state}" + (f": {', '.join(what)}" if what else ""))
                if not check:
                    path.write_text(text, encoding="utf-8")
    print(*stale, sep="\n", end="\n" if stale else "")
    if check and stale:
        sys.exit("Run `python docs/generate.py`.")


if __name__ == "__main__":
    main(*MAKERS)

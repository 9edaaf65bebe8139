# SPDX-License-Identifier: BSD-3-Clause
"""The command line as `python -m sklearn_iqa`."""

from sklearn_iqa.cli import main

if __name__ == "__main__":
    main(prog_name="sklearn-iqa")

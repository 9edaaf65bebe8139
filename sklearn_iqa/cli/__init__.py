# SPDX-License-Identifier: BSD-3-Clause
"""The command `sklearn-iqa`."""

from sklearn_iqa.cli.commands import main

__all__ = ["main"]

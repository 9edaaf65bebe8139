# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see nothing beside the query."""

from sklearn_iqa.single_input.maniqa import MANIQA
from sklearn_iqa.single_input.nima import NIMA

__all__ = ["MANIQA", "NIMA"]

# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see nothing beside the query and learn from pairs."""

from sklearn_iqa.pair_input.graph_iqa import GraphIQA
from sklearn_iqa.pair_input.qpt import QPT
from sklearn_iqa.pair_input.re_iqa import ReIQA
from sklearn_iqa.pair_input.unique import UNIQUE

__all__ = ["QPT", "UNIQUE", "GraphIQA", "ReIQA"]

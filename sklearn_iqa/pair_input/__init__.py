# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see nothing beside the query and learn from pairs."""

from sklearn_iqa.pair_input.graph_iqa import GraphIQA as GraphIQA
from sklearn_iqa.pair_input.qpt import QPT as QPT
from sklearn_iqa.pair_input.re_iqa import ReIQA as ReIQA
from sklearn_iqa.pair_input.unique import UNIQUE as UNIQUE

# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see nothing beside the query."""

from sklearn_iqa.single_input.db_cnn import DBCNN
from sklearn_iqa.single_input.deiqt import DEIQT
from sklearn_iqa.single_input.giqa import GIQA
from sklearn_iqa.single_input.giqa_inception import GMMGIQA, KNNGIQA
from sklearn_iqa.single_input.hyper_iqa import HyperIQA
from sklearn_iqa.single_input.koniq_pp import KonIQPlusPlus
from sklearn_iqa.single_input.maniqa import MANIQA
from sklearn_iqa.single_input.meta_iqa import MetaIQA
from sklearn_iqa.single_input.musiq import MUSIQ
from sklearn_iqa.single_input.nima import NIMA

__all__ = [
    "DBCNN",
    "DEIQT",
    "GIQA",
    "GMMGIQA",
    "KNNGIQA",
    "MANIQA",
    "MUSIQ",
    "NIMA",
    "HyperIQA",
    "KonIQPlusPlus",
    "MetaIQA",
]

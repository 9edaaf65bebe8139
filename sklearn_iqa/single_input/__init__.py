# SPDX-License-Identifier: BSD-3-Clause
"""No-reference methods: one image per row."""

from sklearn_iqa.single_input.db_cnn import DBCNN as DBCNN
from sklearn_iqa.single_input.deiqt import DEIQT as DEIQT
from sklearn_iqa.single_input.giqa import GIQA as GIQA
from sklearn_iqa.single_input.giqa_inception import GMMGIQA as GMMGIQA
from sklearn_iqa.single_input.giqa_inception import KNNGIQA as KNNGIQA
from sklearn_iqa.single_input.hyper_iqa import HyperIQA as HyperIQA
from sklearn_iqa.single_input.koniq_pp import KonIQPlusPlus as KonIQPlusPlus
from sklearn_iqa.single_input.maniqa import MANIQA as MANIQA
from sklearn_iqa.single_input.meta_iqa import MetaIQA as MetaIQA
from sklearn_iqa.single_input.musiq import MUSIQ as MUSIQ
from sklearn_iqa.single_input.nima import NIMA as NIMA

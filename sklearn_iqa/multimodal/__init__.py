# SPDX-License-Identifier: BSD-3-Clause
"""Methods that judge an image by words."""

from sklearn_iqa.multimodal.clip_iqa import CLIPIQA
from sklearn_iqa.multimodal.liqe import LIQE

__all__ = ["CLIPIQA", "LIQE"]

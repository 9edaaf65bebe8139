# SPDX-License-Identifier: BSD-3-Clause
"""Methods that compare an image with prompts."""

from sklearn_iqa.multimodal.clip_iqa import CLIPIQA as CLIPIQA
from sklearn_iqa.multimodal.liqe import LIQE as LIQE

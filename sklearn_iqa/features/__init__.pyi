# SPDX-License-Identifier: BSD-3-Clause
from ._open_clip import OpenCLIPFeatures as OpenCLIPFeatures
from ._timm import TimmFeatures as TimmFeatures

__all__ = ["OpenCLIPFeatures", "TimmFeatures"]

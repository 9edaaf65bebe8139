# SPDX-License-Identifier: BSD-3-Clause
"""Deep features: transformers that turn images, or pairs of images, into rows of a table."""

from sklearn_iqa.features._open_clip import OpenCLIPFeatures
from sklearn_iqa.features._timm import TimmFeatures

__all__ = ["OpenCLIPFeatures", "TimmFeatures"]

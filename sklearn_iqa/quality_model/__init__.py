# SPDX-License-Identifier: BSD-3-Clause
"""The model of photographs that comes with the package: loader, regression head and their file."""

from sklearn_iqa.quality_model._loader import load_quality_model

__all__ = ["load_quality_model"]

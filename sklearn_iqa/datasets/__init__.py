# SPDX-License-Identifier: BSD-3-Clause
"""Photographs that come with the dependencies, and distorted sets made from them. Nothing is downloaded."""

from ._distorted import make_distorted
from ._photographs import load_photographs

__all__ = ["load_photographs", "make_distorted"]

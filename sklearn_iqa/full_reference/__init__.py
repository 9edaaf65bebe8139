# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see the query beside its pristine original."""

from sklearn_iqa.full_reference.ahiq import AHIQ
from sklearn_iqa.full_reference.dr_iqa import DRIQA
from sklearn_iqa.full_reference.iqt import IQT
from sklearn_iqa.full_reference.jspl import JSPL
from sklearn_iqa.full_reference.lpips import LPIPS
from sklearn_iqa.full_reference.srif import SRIF
from sklearn_iqa.full_reference.st_lpips import STLPIPS

__all__ = ["AHIQ", "DRIQA", "IQT", "JSPL", "LPIPS", "SRIF", "STLPIPS"]

# SPDX-License-Identifier: BSD-3-Clause
"""Methods that compare the query with a reference of the same content."""

from sklearn_iqa.full_reference.ahiq import AHIQ as AHIQ
from sklearn_iqa.full_reference.dr_iqa import DRIQA as DRIQA
from sklearn_iqa.full_reference.iqt import IQT as IQT
from sklearn_iqa.full_reference.jspl import JSPL as JSPL
from sklearn_iqa.full_reference.lpips import LPIPS as LPIPS
from sklearn_iqa.full_reference.srif import SRIF as SRIF
from sklearn_iqa.full_reference.st_lpips import STLPIPS as STLPIPS

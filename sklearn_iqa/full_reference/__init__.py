# SPDX-License-Identifier: BSD-3-Clause
"""Methods that see the query beside its pristine original."""

from sklearn_iqa.full_reference.lpips import LPIPS

__all__ = ["LPIPS"]

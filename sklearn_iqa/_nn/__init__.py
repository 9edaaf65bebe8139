# SPDX-License-Identifier: BSD-3-Clause
"""Backbones, layers, losses and transforms that two or more methods use."""

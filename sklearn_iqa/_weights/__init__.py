# SPDX-License-Identifier: BSD-3-Clause
"""Published checkpoints: where they are, how they are fetched, verified, read, renamed and loaded."""

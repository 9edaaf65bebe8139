# SPDX-License-Identifier: BSD-3-Clause
"""What an estimator is: images and rows in, views, network, scores out, and training."""

# SPDX-License-Identifier: BSD-3-Clause
"""Settings of the whole test suite."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests import kits.py beside them
torch.set_num_threads(1)  # the suite runs in as many processes as there are cores

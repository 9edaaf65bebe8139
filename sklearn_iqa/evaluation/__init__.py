# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: methods compared on rated images by the papers' protocol, within one data set and across several."""

from sklearn_iqa.evaluation._benchmark import benchmark, cross_benchmark
from sklearn_iqa.evaluation._displays import BenchmarkDisplay, CrossBenchmarkDisplay
from sklearn_iqa.evaluation._results import BenchmarkResult, CrossBenchmarkResult
from sklearn_iqa.evaluation._splits import ContentSplit

__all__ = [
    "BenchmarkDisplay",
    "BenchmarkResult",
    "ContentSplit",
    "CrossBenchmarkDisplay",
    "CrossBenchmarkResult",
    "benchmark",
    "cross_benchmark",
]

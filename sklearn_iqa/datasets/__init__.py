# SPDX-License-Identifier: BSD-3-Clause
"""Photographs that come with the dependencies, distorted sets made from them, and readers of public rated sets.

Nothing is downloaded: ``read_<set>(path)`` reads a set from a folder as its authors publish it. All readers give paths
and a target that is higher for better images; the user guide compares the sets.
"""

from sklearn_iqa.datasets._distorted import make_distorted
from sklearn_iqa.datasets._flive import read_flive
from sklearn_iqa.datasets._judged_sets import read_agiqa3k, read_ava
from sklearn_iqa.datasets._kadid import read_kadid10k, read_kadis700k
from sklearn_iqa.datasets._laboratory_sets import read_csiq, read_live, read_tid2013
from sklearn_iqa.datasets._photograph_sets import read_biq2021, read_clive, read_koniq10k, read_spaq
from sklearn_iqa.datasets._photographs import load_photographs
from sklearn_iqa.datasets._restored_sets import read_bapps, read_bapps_jnd, read_pipal, read_qads

__all__ = [
    "load_photographs",
    "make_distorted",
    "read_agiqa3k",
    "read_ava",
    "read_bapps",
    "read_bapps_jnd",
    "read_biq2021",
    "read_clive",
    "read_csiq",
    "read_flive",
    "read_kadid10k",
    "read_kadis700k",
    "read_koniq10k",
    "read_live",
    "read_pipal",
    "read_qads",
    "read_spaq",
    "read_tid2013",
]

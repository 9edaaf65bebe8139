# SPDX-License-Identifier: BSD-3-Clause
"""Methods that the survey calls reduced-reference: they use images of other content, at test or in training."""

from sklearn_iqa.reduced_reference.content_diverse import ContentDiverseIQA as ContentDiverseIQA
from sklearn_iqa.reduced_reference.cvrkd_iqa import CVRKDIQA as CVRKDIQA

# SPDX-License-Identifier: BSD-3-Clause
"""Deep features: transformers that turn images, or pairs of images, into rows of a table.

Names are loaded when they are first used, as those of the package: open_clip takes a third of a second.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

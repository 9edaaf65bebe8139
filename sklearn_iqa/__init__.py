# SPDX-License-Identifier: BSD-3-Clause
"""Deep image quality assessment as scikit-learn estimators.

Every public name is loaded when it is first used (see `__init__.pyi` for the list), so that importing the package
imports neither torch nor timm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"

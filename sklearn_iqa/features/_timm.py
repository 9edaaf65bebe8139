# SPDX-License-Identifier: BSD-3-Clause
"""Features of the networks of timm."""

from numbers import Integral
from typing import Any, ClassVar

import torch
from PIL import Image

from sklearn_iqa._base.parameters import POSITIVE, SequenceOf, at_least
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import normalize, reduce_area, resize, to_tensor
from sklearn_iqa.features._base import ImageFeatures


class TimmFeatures(ImageFeatures):
    """Deep features of any timm network, pooled over the image.

    Every image passes a frozen network; the outputs of one or more of its layers are pooled over positions, and the
    pooled vectors are concatenated. With a regressor behind it this is the simplest trained quality model, and with
    `cache` a whole grid search costs one pass per image.

    Parameters
    ----------
    backbone : str, default="resnet50"
        A name of `timm.list_models()`.
    layers : list of str or None, default=None
        Names of the submodules whose outputs are taken, as in `backbone.named_modules()`, for example
        `["layer1", "layer4"]`. None takes the last features before the classifier.
    pooling : {"mean", "std", "mean+std", "max", "class_token"}, default="mean"
        How a layer's output becomes a vector. "class_token" exists for transformers that have one.
    image_size : int, tuple of int or None, default=None
        Size that images are resized to (bicubic): (height, width), or one side of a square. None keeps the native
        size; networks of one fixed size then get this size.
    max_pixels : int or None, default=None
        Images with more pixels are reduced to about this number (bicubic), keeping their aspect ratio. None reduces
        none.
    scales : tuple of float, default=(1.0,)
        Sizes at which an image passes the network, as fractions of the one that `image_size` and `max_pixels` give:
        with `(1.0, 0.5)` the features of the image and of a copy of half its sides (bicubic) are concatenated.
    comparison : {"difference", "product", "difference+product"} or None, default=None
        None takes single images. Otherwise X holds pairs (query, reference), and a row holds `|q - r|`, `q * r` or
        both.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone: "imagenet" is fetched by timm, "bundled" is read from an installed package (for
        `tf_efficientnet_lite0`, with the extra `demo`), None takes random numbers.
    cache : path, joblib.Memory or None, default=None
        Where vectors are kept, one per image, so that no image passes the network twice: not in another fold, for
        another candidate, or in another process. Keyed by the pixels (for paths by name, size and time of change), the
        backbone, its weights and the preprocessing.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Numbers that the network computes with; its last layers keep float32. The shorter ones are faster on processors
        made for them, and change results: compare both on images of yours.
    n_jobs : int, default=None
        Threads that open images and cut what the network sees ahead of it; on a CPU 1 means none, since the network
        takes all cores. None is 1, unless in a `joblib.parallel_config`; -1 takes all cores. Results do not depend on
        it.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights when `backbone_weights` is None.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    seed_ : int
        Seed of random weights; 0 when they are not random.

    Notes
    -----
    The network itself is no part of the estimator: it is built when first needed, shared by all clones in a process,
    and rebuilt from its name and weights elsewhere. Standard deviations are those of the population.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import TimmFeatures
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> features = TimmFeatures("test_resnet", pooling="mean+std", backbone_weights=None, random_state=0)
    >>> features.fit_transform(images).shape
    (2, 192)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **ImageFeatures._parameter_constraints,
        "image_size": [at_least(1), SequenceOf(at_least(1), min_length=2, max_length=2), None],
        "max_pixels": [at_least(1), None],
        "scales": [SequenceOf(POSITIVE)],
    }
    _test_params: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "backbone_weights": None}

    def __init__(
        self,
        backbone="resnet50",
        *,
        layers=None,
        pooling="mean",
        image_size=None,
        max_pixels=None,
        scales=(1.0,),
        comparison=None,
        backbone_weights="imagenet",
        cache=None,
        device="auto",
        precision="float32",
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.layers = layers
        self.pooling = pooling
        self.image_size = image_size
        self.max_pixels = max_pixels
        self.scales = scales
        self.comparison = comparison
        self.backbone_weights = backbone_weights
        self.cache = cache
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _views(self, image):
        config = timm_backbones.input_config(self.backbone)
        size = self.image_size
        if self.max_pixels is not None:
            image = reduce_area(image, self.max_pixels, Image.Resampling.BICUBIC)
        if size is None and config["fixed_input_size"]:
            size = config["input_size"][1:]
        if size is not None:
            height, width = (size, size) if isinstance(size, Integral) else size
            image = resize(image, int(height), int(width), Image.Resampling.BICUBIC)
        return normalize(to_tensor(image), config["mean"], config["std"])[None]

    @staticmethod
    def _build(name):
        return timm_backbones.build_backbone(name)

    @staticmethod
    def _load(network, name, backbone_weights):
        timm_backbones.load_backbone(network, name, backbone_weights)

    @staticmethod
    def _frozen(network, name):
        config = timm_backbones.input_config(name)
        sides = [side if config["fixed_input_size"] else side // 2 for side in config["input_size"][1:]]
        return timm_backbones.folded(network, torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(0)))

    def _architecture(self):
        return (self.backbone,)

    def _weights_id(self):
        return timm_backbones.pretraining_id(self.backbone, self.backbone_weights)

    def _preprocessing(self):
        return self.image_size, self.max_pixels, self.scales

    def _input_size(self):
        return timm_backbones.input_config(self.backbone)["input_size"][1:]

    def _check_combinations(self):
        if timm_backbones.input_config(self.backbone)["fixed_input_size"] and tuple(self.scales) != (1.0,):
            raise ValueError(
                f"{self.backbone} takes images of one size, but scales={self.scales!r} makes others; leave "
                "scales=(1.0,), or take a convolutional network."
            )
        super()._check_combinations()

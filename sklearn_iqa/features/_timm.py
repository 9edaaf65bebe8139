# SPDX-License-Identifier: BSD-3-Clause
"""Images, or pairs of images, -> rows of deep features, each image passing the network once."""

import functools
from numbers import Integral

import torch
from PIL import Image
from sklearn.utils import check_scalar
from torch import nn

from sklearn_iqa._base.devices import prepare, seeded
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import normalize, reduce_area, resize, to_tensor
from sklearn_iqa.features._base import ImageFeatures


class TimmFeatures(ImageFeatures):
    """Deep features of any timm network, pooled over the image.

    Every image runs through a frozen network; the output of one or more of its layers is pooled over positions, and
    the pooled vectors are put side by side. With a regressor behind it this is the simplest trained quality model, and
    with `cache` a whole grid search costs one pass per image.

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
        Images with more pixels are reduced to about so many (bicubic), keeping their shape. None reduces none.
    scales : tuple of float, default=(1.0,)
        Sizes at which an image passes the network, as parts of what `image_size` and `max_pixels` make of it: with
        `(1.0, 0.5)` the features of the image and of a copy of half its sides (bicubic) stand side by side.
    comparison : {"difference", "product", "difference+product"} or None, default=None
        None takes single images. Otherwise X holds pairs (query, reference), and a row holds `|q - r|`, `q * r` or
        both.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone: "imagenet" is fetched by timm, "bundled" is read from an installed package (for
        `tf_efficientnet_lite0`, with the extra `demo`), None takes random numbers.
    cache : path, joblib.Memory or None, default=None
        Where vectors are kept, one per image, so that no image passes the network twice: not in another fold, for
        another candidate, or in another process. Keyed by the pixels (for paths by name, size and time of change),
        the backbone, its weights and the preprocessing.
    batch_size : int, default=8
        The most images in one pass. Features do not depend on it.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
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
        batch_size=8,
        device="auto",
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
        self.batch_size = batch_size
        self.device = device
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

    def _identity(self):
        weights = timm_backbones.pretraining_id(self.backbone, self.backbone_weights)
        sizes = self.image_size, self.max_pixels, self.scales
        return repr((self.backbone, weights, self.seed_, self.layers, self.pooling, *sizes))

    def _check_parameters(self):
        super()._check_parameters()
        if self.max_pixels is not None:
            check_scalar(self.max_pixels, "max_pixels", Integral, min_val=1)
        if len(self.scales) == 0 or min(self.scales) <= 0:
            raise ValueError(f"scales={self.scales!r} must be one or more numbers above 0, such as (1.0, 0.5).")
        if tuple(self.scales) != (1.0,) and timm_backbones.input_config(self.backbone)["fixed_input_size"]:
            raise ValueError(
                f"{self.backbone} takes images of one size, but scales={self.scales!r} makes others; leave "
                "scales=(1.0,), or take a convolutional network."
            )

    def _input_size(self):
        return timm_backbones.input_config(self.backbone)["input_size"][1:]

    def _network(self, device):
        weights_id = timm_backbones.pretraining_id(self.backbone, self.backbone_weights)
        return _backbone(self.backbone, self.backbone_weights, weights_id, self.seed_, device)


@functools.lru_cache(maxsize=2)
def _backbone(name: str, backbone_weights, weights_id: str | None, seed: int, device: str) -> nn.Module:
    """The frozen network, shared by clones: a grid search makes hundreds of them."""
    with seeded(seed):
        backbone = timm_backbones.build_backbone(name)
    timm_backbones.load_backbone(backbone, name, backbone_weights)
    return prepare(backbone.requires_grad_(False), torch.device(device))

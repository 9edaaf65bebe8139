# SPDX-License-Identifier: BSD-3-Clause
"""Features of the image towers of open_clip."""

import functools

import torch
from PIL import Image
from torch import nn

from sklearn_iqa._base.devices import prepare, seeded
from sklearn_iqa._nn import clip_backbones
from sklearn_iqa._nn.transforms import center_crop, normalize, resize, resize_shorter, to_tensor
from sklearn_iqa.features._base import ImageFeatures


class OpenCLIPFeatures(ImageFeatures):
    """Deep features of the image tower of any open_clip model.

    As `TimmFeatures`, with networks that were trained on images and their captions. What they give is the vector that
    is compared with those of sentences, or pooled outputs of their layers.

    Parameters
    ----------
    backbone : str, default="ViT-B-32-quickgelu"
        A name of `open_clip.list_models()`, or a `*.json` file in its form.
    layers : list of str or None, default=None
        Names of the submodules of the image tower whose outputs are taken, for example `["transformer.resblocks.5"]` of
        a vision transformer or `["layer3"]` of a residual network. None takes the image's vector, not normalised.
    pooling : {"mean", "std", "mean+std", "max", "class_token"}, default="mean"
        How a layer's output becomes a vector. "class_token" exists for transformers that have one.
    resize_mode : {"shortest", "squash"} or None, default=None
        How an image comes to the size of the network: "shortest" resizes the shorter side and keeps the middle,
        "squash" resizes both sides, whatever that does to shapes. None takes what the pretraining was tested with.
    comparison : {"difference", "product", "difference+product"} or None, default=None
        None takes single images. Otherwise X holds pairs (query, reference), and a row holds `|q - r|`, `q * r` or
        both.
    backbone_weights : str, path or None, default="openai"
        Pretraining of the backbone: one of `open_clip.list_pretrained_tags_by_model(backbone)`, fetched by open_clip,
        or a file with the state of the whole model; None takes random numbers.
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

    See Also
    --------
    TimmFeatures : The same with networks of timm.
    CLIPIQA : Quality from sentences.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import OpenCLIPFeatures
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> features = OpenCLIPFeatures("ViT-S-32-alt", backbone_weights=None, random_state=0)
    >>> features.fit_transform(images).shape
    (2, 256)
    """

    _options = {**ImageFeatures._options, "resize_mode": (None, "shortest", "squash")}

    def __init__(
        self,
        backbone="ViT-B-32-quickgelu",
        *,
        layers=None,
        pooling="mean",
        resize_mode=None,
        comparison=None,
        backbone_weights="openai",
        cache=None,
        batch_size=8,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.layers = layers
        self.pooling = pooling
        self.resize_mode = resize_mode
        self.comparison = comparison
        self.backbone_weights = backbone_weights
        self.cache = cache
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _views(self, image):
        config = clip_backbones.clip_input(self.backbone, self.backbone_weights)
        resample = Image.Resampling[config["interpolation"].upper()]
        height, width = config["size"]
        if (self.resize_mode or config["resize_mode"]) == "squash":
            pixels = to_tensor(resize(image, height, width, resample))
        elif height == width:
            pixels = center_crop(to_tensor(resize_shorter(image, height, resample)), height)
        else:
            raise ValueError(
                f"{self.backbone} takes images of {height} x {width} pixels, but only squares are cut out; set "
                "resize_mode='squash'."
            )
        return normalize(pixels, config["mean"], config["std"])[None]

    def _identity(self):
        weights = clip_backbones.clip_pretraining_id(self.backbone, self.backbone_weights)
        config = clip_backbones.clip_config(self.backbone)
        return repr((self.backbone, config, weights, self.seed_, self.layers, self.pooling, self.resize_mode))

    def _input_size(self):
        return clip_backbones.clip_input(self.backbone, self.backbone_weights)["size"]

    def _network(self, device):
        weights_id = clip_backbones.clip_pretraining_id(self.backbone, self.backbone_weights)
        config = repr(clip_backbones.clip_config(self.backbone))
        return _image_tower(self.backbone, config, self.backbone_weights, weights_id, self.seed_, device)


@functools.lru_cache(maxsize=2)
def _image_tower(name: str, config: str, backbone_weights, weights_id: str | None, seed: int, device: str) -> nn.Module:
    """The same of open_clip, where `config` is that of `name`, which may be a file."""
    with seeded(seed):
        tower = clip_backbones.build_clip_image_tower(name)
    clip_backbones.load_clip(tower, name, backbone_weights, part="visual.")
    return prepare(tower.requires_grad_(False), torch.device(device))

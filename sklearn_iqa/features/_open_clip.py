# SPDX-License-Identifier: BSD-3-Clause
"""Features of the image towers of open_clip."""

import os
from typing import Any, ClassVar

from PIL import Image

from sklearn_iqa._base.parameters import one_of
from sklearn_iqa._nn import clip_backbones
from sklearn_iqa._nn.transforms import center_crop, normalize, resize, resize_shorter, to_tensor
from sklearn_iqa.features._base import ImageFeatures


class OpenCLIPFeatures(ImageFeatures):
    """Deep features of the image tower of any open_clip model.

    As `TimmFeatures`, with networks that were trained on images and their captions. The features are the embedding
    that is compared with those of prompts, or pooled outputs of layers.

    Parameters
    ----------
    backbone : str or path, default="ViT-B-32-quickgelu"
        A name of `open_clip.list_models()`, or a `*.json` file in its form.
    layers : list of str or None, default=None
        Names of the submodules of the image tower whose outputs are taken, for example `["transformer.resblocks.5"]` of
        a vision transformer or `["layer3"]` of a residual network. None takes the image's embedding, not normalised.
    pooling : {"mean", "std", "mean+std", "max", "class_token"}, default="mean"
        How a layer's output becomes a vector. "class_token" exists for transformers that have one.
    resize_mode : {"shortest", "squash"} or None, default=None
        How an image is resized to the network's input: "shortest" resizes the shorter side and crops the centre,
        "squash" resizes both sides whatever the aspect ratio. None takes what the pretraining was tested with.
    comparison : {"difference", "product", "difference+product"} or None, default=None
        None takes single images. Otherwise X holds pairs (query, reference), and a row holds `|q - r|`, `q * r` or
        both.
    backbone_weights : str, path or None, default="openai"
        Pretraining of the backbone: one of `open_clip.list_pretrained_tags_by_model(backbone)`, fetched by open_clip,
        or a file with the state of the whole model; None takes random numbers.
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

    See Also
    --------
    TimmFeatures : The same with networks of timm.
    CLIPIQA : Quality from prompts.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import OpenCLIPFeatures
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> features = OpenCLIPFeatures("ViT-S-32-alt", backbone_weights=None, random_state=0)
    >>> features.fit_transform(images).shape
    (2, 256)
    """

    _pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**19}

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **ImageFeatures._parameter_constraints,
        "backbone": [str, os.PathLike],
        "resize_mode": [one_of("shortest", "squash"), None],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "clip_tiny_vit.json",
        "backbone_weights": None,
    }
    _test_size: ClassVar[tuple[int, int]] = (32, 48)

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
        device="auto",
        precision="float32",
        n_jobs=None,
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
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
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

    @staticmethod
    def _build(name):
        return clip_backbones.build_clip_image_tower(name)

    @staticmethod
    def _load(network, name, backbone_weights):
        clip_backbones.load_clip(network, name, backbone_weights, part="visual.")

    def _architecture(self):
        return self.backbone, repr(clip_backbones.clip_config(self.backbone))  # of a file, its content

    def _weights_id(self):
        return clip_backbones.clip_pretraining_id(self.backbone, self.backbone_weights)

    def _preprocessing(self):
        return (self.resize_mode,)

    def _input_size(self):
        return clip_backbones.clip_input(self.backbone, self.backbone_weights)["size"]

# SPDX-License-Identifier: BSD-3-Clause
"""HyperIQA: a hyper network generates the weights of a target network for each image (Su et al., CVPR 2020)."""

from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_iqa._base.parameters import (
    CROPS,
    POSITIVE,
    PRETRAINED,
    PROTOCOL,
    STOPPING,
    TRAINING,
    SequenceOf,
    at_least,
    non_negative,
)
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import in_float32
from sklearn_iqa._nn.pyiqa_views import uniform_crops
from sklearn_iqa._nn.transforms import (
    normalize,
    places_to_score,
    random_flip,
    random_square,
    resize,
    resize_shorter,
    squares,
    to_tensor,
)
from sklearn_iqa._weights.pretrained import PYIQA_SOURCE, PublishedWeights, pyiqa_file

N_HYPER, GRID = 112, 7  # channels and side of the map from which weights are generated
TARGET = (224, 112, 56, 28, 14)  # widths of the target network, before its one output
# Of each of the backbone's maps: channels after reduction (None: all), side after pooling, features taken from it.
MAP_FEATURES = ((16, 8, 16), (32, 4, 16), (64, 2, 16), (None, 1, 176))
RATIO_EPOCHS = 250  # with `lr_ratio`, afterwards without: the first ten of the authors' sixteen epochs
KEY_MAP = (
    # pyiqa
    (r"^base_model\.", "res."),
    *((rf"^lda_modules\.{n}\.0\.", f"lda{n + 1}_pool.0.") for n in range(3)),
    *((rf"^lda_modules\.{n}\.{3 if n < 3 else 2}\.", f"lda{n + 1}_fc.") for n in range(4)),
    *((rf"^fc_w_modules\.{n}\.", f"fc{n + 1}w_conv.") for n in range(4)),
    (r"^fc_w_modules\.4\.2\.", "fc5w_fc."),
    *((rf"^fc_b_modules\.{n}\.2\.", f"fc{n + 1}b_fc.") for n in range(5)),
    # the authors
    (r"^res\.lda(\d)_", r"lda\1_"),
)
PYIQA = pyiqa_file("HyperIQA-resnet50-koniq10k-c96c41b1.pth")
PUBLISHED = (PublishedWeights("koniq10k-pyiqa", (PYIQA,), PYIQA_SOURCE, "CC BY-NC-SA 4.0", "KonIQ-10k"),)


class HyperIQANetwork(nn.Module):
    """Crops (n, 3, s, s), normalised for the backbone -> score (n,)."""

    def __init__(self, backbone):
        super().__init__()
        n_features = [level["num_chs"] for level in backbone.feature_info][-len(MAP_FEATURES) :]
        backbone.prune_intermediate_layers(len(MAP_FEATURES))
        self.res = backbone
        for number, (n, (n_kept, side, n_out)) in enumerate(zip(n_features, MAP_FEATURES, strict=True), start=1):
            if n_kept:
                self.add_module(f"lda{number}_pool", nn.Sequential(nn.Conv2d(n, n_kept, 1, bias=False)))
            self.add_module(f"lda{number}_fc", nn.Linear((n_kept or n) * side**2, n_out))
        widths = (n_features[-1], 1024, 512, N_HYPER)
        self.conv1 = nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Conv2d(a, b, 1), nn.ReLU())))
        for number, (n_in, n_out) in enumerate(pairwise(TARGET), start=1):
            self.add_module(f"fc{number}w_conv", nn.Conv2d(N_HYPER, n_in * n_out // GRID**2, 3, padding=1))
            self.add_module(f"fc{number}b_fc", nn.Linear(N_HYPER, n_out))
        self.fc5w_fc = nn.Linear(N_HYPER, TARGET[-1])
        self.fc5b_fc = nn.Linear(N_HYPER, 1)
        for name, tensor in self.named_parameters():
            if name.startswith(("lda", "fc")) and name.endswith("weight"):
                nn.init.kaiming_normal_(tensor)

    def maps(self, crops):
        """Crops (n, 3, s, s) -> the backbone's last four maps, each (n, c, rows, columns)."""
        return self.res.forward_intermediates(crops, indices=len(MAP_FEATURES), intermediates_only=True)

    @in_float32
    def distortion(self, maps):
        """Maps of the backbone -> input of the target network (n, 224): 16, 16, 16 and 176 features."""
        parts = []
        for number, (one, (n_kept, side, _)) in enumerate(zip(maps, MAP_FEATURES, strict=True), start=1):
            # Pooling commutes with the 1 x 1 convolution and is cheaper before it.
            pooled = F.adaptive_avg_pool2d(one, side)
            pooled = getattr(self, f"lda{number}_pool")(pooled) if n_kept else pooled
            parts.append(getattr(self, f"lda{number}_fc")(pooled.flatten(1)))
        return torch.cat(parts, dim=1)

    @in_float32
    def target_layers(self, last_map):
        """The backbone's last map -> weight (n, out, in) and bias (n, out) of the target network's five layers."""
        hyper = self.conv1(F.adaptive_avg_pool2d(last_map, GRID))  # (n, 112, 7, 7)
        mean = hyper.mean((2, 3))  # (n, 112)
        layers = []
        for number, (n_in, n_out) in enumerate(pairwise(TARGET), start=1):
            weight = getattr(self, f"fc{number}w_conv")(hyper).flatten(1).unflatten(1, (n_out, n_in))
            layers.append((weight, getattr(self, f"fc{number}b_fc")(mean)))
        return [*layers, (self.fc5w_fc(mean)[:, None], self.fc5b_fc(mean))]

    def forward(self, crops):
        """Crops (n, 3, s, s) -> score (n,)."""
        maps = self.maps(crops)
        return target_outputs(self.distortion(maps), self.target_layers(maps[-1]))[-1][:, 0]


@in_float32
def target_outputs(features, layers):
    """Features (n, 224), each row with its own layers -> outputs of all layers before their sigmoid."""
    outputs = []
    for weight, bias in layers:
        outputs.append((weight @ features[:, :, None])[:, :, 0] + bias)  # (n, out)
        features = outputs[-1].sigmoid()
    return outputs


class HyperIQA(QualityRegressor):
    r"""Quality by a target network whose weights a hyper network generates for each image from its content.

    A backbone extracts features of a crop. From its last map, the content, a hyper network generates the weights and
    biases :math:`W_k, b_k` of five layers, whose input are pooled features of four maps, the distortion :math:`v`,

    .. math:: x_0 = v, \qquad x_k = \sigma(W_k x_{k-1} + b_k), \qquad q = w_5^\top x_4 + b_5 .

    The score of an image is the mean over its crops. It is unbounded, 0..100 for labels of KonIQ-10k;
    **higher is better**, unless the weights were trained on labels where lower is better.

    Parameters
    ----------
    n_crops : int, default=25
        Crops scored for each image.
    crops : {"grid", "random"}, default="grid"
        Evenly spaced, or random as in the official code. Random positions depend on the pixels and on an integer
        `random_state` (0 for any other) alone: an image always gets the same.
    crop_size : int, default=224
        Side of the crops in pixels; an image with a shorter side is enlarged to it.
    image_size : tuple of int, default=None
        Height and width in pixels to which images are resized before cropping; None keeps their size. The authors took
        (512, 384) for KonIQ-10k, whose images are wide, and (512, 512) for BID.
    backbone : str, default="resnet50.tv_in1k"
        Any network of timm with four feature maps.
    protocol : {"official", "pyiqa"}, default="official"
        How `predict` sees images: as in the authors' code, or as in pyiqa (IQA-PyTorch), which takes its own grid of
        crops, whatever `crops` says. `fit` trains on the same views with both.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=96
        Rows in one step of training.
    max_epochs : int, default=400
        Passes over the training data.
    lr : float, default=2e-5
        Learning rate.
    lr_ratio : float, default=10.0
        Factor of the learning rate for the hyper network, all but the backbone and the layers on its maps.
    lr_step : int, default=150
        The learning rate of the hyper network falls to a tenth every so many epochs.
    weight_decay : float, default=5e-4
        Weight decay of Adam (L2, added to the gradient).
    early_stopping : bool, default=False
        Whether to hold out a part of the training data, to stop when its Spearman correlation no longer rises, and to
        keep the best weights. Pairs that share a reference are held out together.
    validation_fraction : float, default=0.1
        Part held out for `early_stopping`, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without a better score after which `early_stopping` stops.
    warm_start : bool, default=False
        Whether `fit` goes on from the last `fit` instead of starting anew.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Numbers that the network computes with; its last layers keep float32. The shorter ones are faster on processors
        made for them, and change results: compare both on images of yours.
    compile : bool, default=False
        Whether `fit` and inference run what `torch.compile` makes of the network: some seconds or minutes of start for
        each size of images, then fewer per image on some devices. Dropout then draws other numbers in training.
    n_jobs : int, default=None
        Threads that open images and cut what the network sees ahead of it; on a CPU 1 means none, since the network
        takes all cores. None is 1, unless in a `joblib.parallel_config`; -1 takes all cores. Results do not depend on
        it.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: crops (n, 3, crop_size, crop_size), normalised for the backbone -> score (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_iter_ : int
        Epochs trained.
    n_steps_ : int
        Steps of the optimiser, over all epochs.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: "koniq10k-pyiqa" (the default), trained by the project IQA-PyTorch on native images, with scores
    in 0..1. The authors' `koniq_pretrained.pkl` (KonIQ-10k; MIT), on a shared drive, loads by path and needs
    ``image_size=(512, 384)``.

    `fit` minimises the absolute error to labels in 0..100, on one random crop of each row per epoch, mirrored left to
    right half of the time. The authors took 25 crops of each image per epoch and 16 epochs, hence 400 epochs, `lr_step`
    of 6 x 25, and `lr_ratio` for 10 x 25 epochs. In their script only the backbone is trained after the first epoch,
    since an iterator is exhausted, and Adam is reset after each; here it is not.

    Images below the size of a crop fail in the official code. Its test draws 25 new crops at every call, its demo 10.

    References
    ----------
    .. [1] S. Su, Q. Yan, Y. Zhu, C. Zhang, X. Ge, J. Sun, Y. Zhang, "Blindly Assess Image Quality in the Wild Guided by
       a Self-Adaptive Hyper Network", CVPR 2020. https://github.com/SSL92/hyperIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import HyperIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "backbone_weights": None, "crop_size": 32, "n_crops": 4}
    >>> HyperIQA(**small, random_state=0).initialize().predict(images).shape
    (3,)
    """

    label_range = (0.0, 100.0)  # of KonIQ-10k
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        **PROTOCOL,
        "crop_size": [at_least(1)],
        "image_size": [SequenceOf(at_least(1), min_length=2, max_length=2), None],
        "backbone": [str],
        "lr_ratio": [POSITIVE],
        "lr_step": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_crops": 2,
        "crop_size": 32,
        "backbone": "test_resnet",
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        n_crops=25,
        crops="grid",
        crop_size=224,
        image_size=None,
        backbone="resnet50.tv_in1k",
        protocol="official",
        weights=None,
        backbone_weights="imagenet",
        batch_size=96,
        max_epochs=400,
        lr=2e-5,
        lr_ratio=10.0,
        lr_step=150,
        weight_decay=5e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        device="auto",
        precision="float32",
        compile=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.n_crops = n_crops
        self.crops = crops
        self.crop_size = crop_size
        self.image_size = image_size
        self.backbone = backbone
        self.protocol = protocol
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
        self.lr_ratio = lr_ratio
        self.lr_step = lr_step
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _network(self):
        backbone = timm_backbones.build_backbone(self.backbone, num_classes=0)
        if len(getattr(backbone, "feature_info", ())) < len(MAP_FEATURES):
            raise ValueError(
                f"backbone={self.backbone!r} has fewer than {len(MAP_FEATURES)} feature maps; take one like 'resnet18'."
            )
        return HyperIQANetwork(backbone)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.res, self.backbone, self.backbone_weights)

    def _loss(self):
        return nn.L1Loss()

    def _net_params(self):
        n_before = self.n_iter_  # above 0 without an earlier net, as after unpickling

        def of_backbone(epoch):
            return 1.0

        def of_the_rest(epoch):
            epoch += n_before
            return 0.1 ** (epoch // self.lr_step) / (1 if epoch < RATIO_EPOCHS else self.lr_ratio)

        # In the order of the groups; parameters that match none would come last.
        groups = [("res.*", {"lr": self.lr}), ("lda*", {"lr": self.lr}), ("*", {"lr": self.lr_ratio * self.lr})]
        factors = [of_backbone, of_backbone, of_the_rest]
        return {
            "optimizer__weight_decay": self.weight_decay,
            "optimizer__param_groups": groups,
            "callbacks": [("schedule", LRScheduler("LambdaLR", lr_lambda=factors))],
        }

    def _train_view(self, x):
        return random_flip(self._normalized(random_square(self._enlarged(x), self.crop_size)))

    def _views(self, x):
        if self.protocol == "pyiqa":
            return uniform_crops(self._resized(x), self.crop_size, self.n_crops, self._normalized)
        # NOTE[DIFF] official: one generator for all images.
        kind = {"crops": self.crops, "random_state": self.random_state}
        image = self._enlarged(x)
        places = places_to_score(image, self.crop_size, self.n_crops, content=x, **kind)
        return squares(image, places, self.crop_size, self._normalized)

    def _enlarged(self, image):
        """Resized to `image_size`; then no side is shorter than a crop's."""
        image = self._resized(image)
        if min(image.shape[:2]) < self.crop_size:
            image = resize_shorter(image, self.crop_size, Image.Resampling.BICUBIC)
        return image

    def _resized(self, image):
        if self.image_size is None:
            return image
        return resize(image, *self.image_size, Image.Resampling.BILINEAR)  # torchvision's default

    def _normalized(self, image) -> torch.Tensor:
        config = timm_backbones.input_config(self.backbone)
        return normalize(to_tensor(image), config["mean"], config["std"])

    def _check_combinations(self):
        if self.image_size is not None and min(self.image_size) < self.crop_size:
            raise ValueError(
                f"image_size={self.image_size!r} has a side below crop_size={self.crop_size}; give larger sides, or "
                "None."
            )
        config = timm_backbones.input_config(self.backbone)
        if config["fixed_input_size"] and self.crop_size != config["input_size"][1]:
            raise ValueError(f"backbone={self.backbone!r} needs crop_size={config['input_size'][1]}.")

# SPDX-License-Identifier: BSD-3-Clause
"""AHIQ: deformable convolutions guided by a vision transformer (Lao et al., CVPR Workshops 2022)."""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DeformConv2d

from sklearn_iqa._base.crops import CropsMixin
from sklearn_iqa._base.parameters import (
    CROPS,
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
from sklearn_iqa._nn.layers import Float32Sequential, in_float32
from sklearn_iqa._nn.pyiqa_views import uniform_crops
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file
from sklearn_iqa.full_reference._frozen_backbones import FrozenBackbonesMixin, freeze_and_truncate

KEY_MAP = (
    (r"^(regressor|deform_net)_model_state_dict\.", r"\1."),
    (r"^resnet50\.(layer[234]|fc)\.|^vit\.(norm|head)\.", None),
    (r"^resnet50\.", "cnn."),
)
VIT = "vit_base_patch8_224.augreg_in21k_ft_in1k"
PIPAL22 = pyiqa_file("AHIQ_vit_p8_epoch33-da3ea303.pth")  # the authors' file is on Google Drive
PUBLISHED = (
    PublishedWeights(
        "pipal22",
        (PIPAL22,),
        "https://github.com/IIGROUP/AHIQ",
        "MIT (copy: CC BY-NC-SA 4.0)",
        "PIPAL",
        {"vit": VIT, "cnn": "resnet50.a1_in1k"},
    ),
)


class DeformNet(nn.Module):
    """A deformable convolution, and two that reduce its maps to the resolution of the ViT."""

    def __init__(self, n_context, n_texture, width, stride):
        super().__init__()
        self.conv_offset = nn.Conv2d(n_context, 2 * 3 * 3, 3, padding=1)  # (y, x) for each place of a 3 x 3 kernel
        self.deform = DeformConv2d(n_texture, n_texture, 3, padding=1)
        self.conv1 = nn.Sequential(
            nn.Conv2d(n_texture, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, n_texture, 3, stride=stride, padding=1),
        )

    def offsets(self, context, size):  # (n, 3840, 28, 28)
        return self.conv_offset(F.interpolate(context, size))  # nearest; (n, 18, 56, 56)

    def forward(self, texture, offsets):  # (n, 768, 56, 56)
        return self.conv1(self.gathered(texture, offsets))  # (n, 768, 28, 28)

    @in_float32  # torchvision has no other on a CPU
    def gathered(self, texture, offsets):
        unknown = offsets.isnan()  # for which torchvision reads outside of its memory on a CPU
        gathered = self.deform(texture, offsets.masked_fill(unknown, 0))
        return gathered.masked_fill(unknown.any(1, keepdim=True), torch.nan)


class Regressor(nn.Module):
    """Features of both images -> score and weight of each position."""

    def __init__(self, n_features, width):
        super().__init__()
        self.down_channel = nn.Conv2d(n_features, width, 1)
        self.feat_smoothing = nn.Sequential(
            nn.Conv2d(3 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        )
        self.conv1 = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU())
        self.conv = Float32Sequential(nn.Conv2d(width, 1, 1))
        self.conv_attent = Float32Sequential(nn.Conv2d(width, 1, 1), nn.Sigmoid())

    def forward(self, query, reference):  # (n, 256, 28, 28), both behind down_channel
        features = torch.cat([query - reference, query, reference], dim=1)  # (n, 768, 28, 28)
        features = self.conv1(self.feat_smoothing(features))  # (n, 256, 28, 28)
        return self.conv(features)[:, 0], self.conv_attent(features)[:, 0]


class AHIQNetwork(nn.Module):
    """Pairs (n, 2, 3, s, s) in [-1, 1], s the input size of the ViT -> score (n,), higher is better."""

    trained = ("deform_net", "regressor")

    def __init__(self, vit, cnn, *, vit_layers, cnn_layers, embed_dim):
        super().__init__()
        self.vit_layers, self.cnn_layers = list(vit_layers), list(cnn_layers)
        self.crop_size, n_rows = vit.patch_embed.img_size[0], vit.patch_embed.grid_size[0]
        vit.prune_intermediate_layers(self.vit_layers, prune_norm=True)  # nothing stays behind the last of these layers
        self.vit, self.cnn = vit.requires_grad_(False), cnn
        n_texture, fineness, _ = freeze_and_truncate(cnn, self.cnn_layers, self.crop_size)
        if fineness % (2 * n_rows):
            raise ValueError(
                f"cnn_layers={list(cnn_layers)} give {fineness} rows, but a crop has {n_rows} of patches; take layers "
                "with 2, 4, 6, ... times as many."
            )
        n_context = vit.embed_dim * len(self.vit_layers)
        self.deform_net = DeformNet(n_context, n_texture, 2 * embed_dim, fineness // (2 * n_rows))
        self.regressor = Regressor(n_context + n_texture, embed_dim)

    def train(self, mode=True):
        """Set the mode of the trained parts; the backbones are frozen, their batch normalisation too."""
        super().train(mode)
        self.vit.eval()
        self.cnn.eval()
        return self

    def encode_reference(self, references):
        """(n, 3, s, s) -> offsets (n, 18, 56, 56), which serve the query too, and features (n, 256, 28, 28)."""
        context, texture = self._context(references), self._texture(references)
        offsets = self.deform_net.offsets(context, texture.shape[-2:])
        return offsets, self._features(context, texture, offsets)

    def positions(self, queries, encoded):
        """Queries (n, 3, s, s), encoded references -> score and weight of each position, both (n, 28, 28)."""
        offsets, reference = encoded
        query = self._features(self._context(queries), self._texture(queries), offsets)
        return self.regressor(query, reference)

    def compare(self, queries, encoded):
        """Queries (n, 3, s, s), encoded references -> mean of the positions' scores, weighted by their weights."""
        scores, weights = self.positions(queries, encoded)
        return (scores * weights).sum((1, 2)) / weights.sum((1, 2))

    def position_scores(self, pairs):
        """Pairs (n, 2, 3, s, s) -> score and weight of each position, both (n, 28, 28)."""
        return self.positions(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def forward(self, pairs):
        """Compare the query with the reference of each pair."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def _context(self, images):
        layers = self.vit.forward_intermediates(images, indices=self.vit_layers, intermediates_only=True)
        return torch.cat(layers, dim=1)  # (n, 3840, 28, 28)

    def _texture(self, images):
        return torch.cat(timm_backbones.layer_outputs(self.cnn, self.cnn_layers, images), dim=1)  # (n, 768, 56, 56)

    def _features(self, context, texture, offsets):
        features = torch.cat([context, self.deform_net(texture, offsets)], dim=1)  # (n, 4608, 28, 28)
        return self.regressor.down_channel(features)  # (n, 256, 28, 28)


class AHIQ(FrozenBackbonesMixin, CropsMixin, QualityRegressor):
    r"""Attention-based Hybrid Image Quality network: a vision transformer guides the convolutions of a CNN.

    Tokens of a vision transformer give the context of each patch, maps of a shallow CNN its texture. Both backbones are
    frozen. A deformable convolution, whose offsets come from the context of the reference, gathers the texture of both
    images at salient places. From the features :math:`r` of the reference, :math:`q` of the query and :math:`q - r`,
    convolutions predict a score :math:`s_i` and a weight :math:`0 < w_i < 1` of each position; a crop has

    .. math:: \sum_i w_i s_i \Big/ \sum_i w_i .

    The score of a pair is the mean over its crops: about 0 to 1, without bounds, **higher is better**. It is not
    symmetric, and identical images do not get a fixed or the best score.

    Parameters
    ----------
    n_crops : int, default=20
        Crops scored for each pair, at the same places of both images.
    crops : {"grid", "random"}, default="grid"
        Where they are: spread evenly, or at random as in the official code. Random places depend on the pixels of the
        reference and on an integer `random_state` (0 for any other) alone: an image always gets the same.
    vit : str, default="vit_base_patch8_224.augreg_in21k_ft_in1k"
        Any plain vision transformer of timm; it sets the size of the crops and their patches.
    vit_layers : tuple of int, default=(0, 1, 2, 3, 4)
        Its blocks whose tokens are stacked, ascending, counted from 0.
    cnn : str, default="resnet50.a1_in1k"
        Any convolutional network of timm whose layers follow each other.
    cnn_layers : tuple of str, default=("layer1.0", "layer1.1", "layer1.2")
        Names of its layers whose maps are stacked; they have 2, 4, 6, ... times as many rows as a crop has patches.
    embed_dim : int, default=256
        Channels to which the features of an image are reduced; other widths are multiples of it.
    protocol : {"official", "pyiqa"}, default="official"
        How the network sees images: as in the authors' code, or as in pyiqa (IQA-PyTorch), which maps them with
        ImageNet's mean and deviation and takes its own grid of crops, whatever `crops` says. `fit` follows in the
        first, not in the second.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=4
        Rows in one step of training.
    max_epochs : int, default=200
        Passes over the training data.
    lr : float, default=1e-4
        Learning rate.
    weight_decay : float, default=1e-5
        Weight decay.
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
        The network: pairs of crops (n, 2, 3, side, side) in [-1, 1], of the ViT's input size -> score (n,).
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

    See Also
    --------
    IQT : The winner of the challenge one year before: a transformer compares features of a CNN.
    MANIQA : The same group's method without references.

    Notes
    -----
    Published weights: "pipal22" ("default"). It and the authors' files (`weights=path`) hold the trained parts alone;
    both backbones then come from `backbone_weights`, which must be "imagenet" for scores that mean something. A file of
    `save_weights` holds all. A path as `backbone_weights` names a file with both backbones, as ``torch.save({"vit":
    vit.state_dict(), "cnn": cnn.state_dict()}, path)`` writes it.

    Both backbones see images mapped to [-1, 1], as in the official code; pyiqa maps them with ImageNet's mean and
    deviation, which gives other scores. Pairs whose shorter side is below a crop's (224) are enlarged to it (bicubic);
    the official code fails there. Its 20 random crops differ from call to call; the grid does not.

    `fit` minimises the squared error to labels in 0..1 on a random crop per row and epoch; the learning rate swings
    between `lr` and 0 every 100 batches. The official "horizontal" flip turns images upside down; here left and right
    are exchanged, half of the time. Its option to average several crops of an image pixel by pixel is left out.

    References
    ----------
    .. [1] S. Lao, Y. Gong, S. Shi, S. Yang, T. Wu, J. Wang, W. Xia, Y. Yang, "Attentions Help CNNs See Better:
       Attention-based Hybrid Image Quality Assessment Network", CVPR Workshops 2022. https://github.com/IIGROUP/AHIQ

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import AHIQ
    >>> pairs = np.random.default_rng(0).integers(0, 256, (3, 2, 160, 200, 3), dtype=np.uint8)
    >>> small = {"vit": "test_vit", "vit_layers": (0, 1), "cnn": "test_resnet", "cnn_layers": ("layer1",)}
    >>> ahiq = AHIQ(**small, embed_dim=8, n_crops=2, backbone_weights=None, random_state=0).initialize()
    >>> ahiq.predict(pairs).shape, ahiq.quality_map(pairs[0]).shape
    ((3,), (160, 200))
    """

    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        **PROTOCOL,
        "vit": [str],
        "vit_layers": [SequenceOf(at_least(0))],
        "cnn": [str],
        "cnn_layers": [SequenceOf(str)],
        "embed_dim": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_crops": 2,
        "vit": "test_vit",
        "vit_layers": (0, 1),
        "cnn": "mobilenetv3_small_050",
        "cnn_layers": ("blocks.1.0",),
        "embed_dim": 8,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }
    _test_size: ClassVar[tuple[int, int]] = (160, 168)

    def __init__(
        self,
        *,
        n_crops=20,
        crops="grid",
        vit=VIT,
        vit_layers=(0, 1, 2, 3, 4),
        cnn="resnet50.a1_in1k",
        cnn_layers=("layer1.0", "layer1.1", "layer1.2"),
        embed_dim=256,
        protocol="official",
        weights=None,
        backbone_weights="imagenet",
        batch_size=4,
        max_epochs=200,
        lr=1e-4,
        weight_decay=1e-5,
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
        self.vit = vit
        self.vit_layers = vit_layers
        self.cnn = cnn
        self.cnn_layers = cnn_layers
        self.embed_dim = embed_dim
        self.protocol = protocol
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
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

    def quality_map(self, x) -> np.ndarray:
        """Where the query is good or bad: scores of positions, averaged by their weights where crops overlap.

        Parameters
        ----------
        x : tuple of two images
            (query, reference) of one size, which decides on the number of crops: they cover the image.

        Returns
        -------
        quality : ndarray of shape (height, width), float32
            In the unit of `predict`, higher is better. For a pair of one crop's size, the mean by the positions'
            weights is the score; the plain mean is not.
        """
        return self._position_map(x)

    @property
    def key_map(self):
        """Official names to ours; those of blocks behind the last of these layers have no place here."""
        used = "|".join(str(number) for number in range(max(self.vit_layers) + 1))
        return (*KEY_MAP, (rf"^vit\.blocks\.(?!({used})\.)", None))

    def _network(self):
        vit = timm_backbones.build_backbone(self._chosen.vit, num_classes=0)
        cnn = timm_backbones.build_backbone(self._chosen.cnn, num_classes=0)
        self._check_choices(vit)
        return AHIQNetwork(vit, cnn, vit_layers=self.vit_layers, cnn_layers=self.cnn_layers, embed_dim=self.embed_dim)

    def _load_backbone(self, network):
        if self.backbone_weights in ("imagenet", "bundled", None):
            timm_backbones.load_backbone(network.vit, self._chosen.vit, self.backbone_weights)
            timm_backbones.load_backbone(network.cnn, self._chosen.cnn, self.backbone_weights)
        else:
            backbones = nn.ModuleDict({"vit": network.vit, "cnn": network.cnn})
            timm_backbones.load_backbone(backbones, f"{self._chosen.vit} and {self._chosen.cnn}", self.backbone_weights)

    def _normalized(self, pair):
        if self.protocol == "official":
            return super()._normalized(pair)
        return normalize(to_tensor(pair), IMAGENET_MEAN, IMAGENET_STD)

    def _views(self, x):
        if self.protocol == "official":
            return super()._views(x)
        return uniform_crops(x, self.network_.crop_size, self.n_crops, self._normalized)

    def _check_choices(self, vit):
        if not (hasattr(vit, "blocks") and hasattr(getattr(vit, "patch_embed", None), "grid_size")):
            raise ValueError(f"vit={self._chosen.vit!r} is no plain vision transformer; take one such as 'test_vit'.")
        layers, n_blocks = list(self.vit_layers), len(vit.blocks)
        if layers != sorted({*layers} & {*range(n_blocks)}):
            raise ValueError(f"vit_layers={layers} must ascend within 0..{n_blocks - 1}.")

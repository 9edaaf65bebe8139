# SPDX-License-Identifier: BSD-3-Clause
"""MANIQA: attention across channels and inside windows, on tokens of a vision transformer (Yang et al., CVPRW 2022)."""

import math
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlock

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
    within,
)
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import Float32Sequential
from sklearn_iqa._nn.pyiqa_views import uniform_crops
from sklearn_iqa._nn.transforms import normalize, to_tensor
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile, pyiqa_file

MIDDLE = 0.5  # of the labels 0..1
DROP_PATHS = ((0, 1 / 30), (2 / 30, 0.1))  # stochastic depth of the two blocks in each of the two layers of a stage
# What the official state holds and the score does not use: constants, the end of the ViT, a convolution.
KEY_MAP = ((r"\.(relative_position_index|attn_mask)$|^vit\.(norm|head)\.|\.downsample\.", None),)
SOURCE = "https://github.com/IIGROUP/MANIQA"
KONIQ10K = WeightsFile(
    "ckpt_koniq10k.pt",
    "a207f8ab57322e6be38ff5c8d019301dc032b454bef21c3c9f9dbf7974eebff6",
    urls=(f"{SOURCE}/releases/download/Koniq10k/ckpt_koniq10k.pt",),
)
KADID10K = WeightsFile("ckpt_kadid10k.pt", None, urls=(f"{SOURCE}/releases/download/Kadid10k/ckpt_kadid10k.pt",))
PIPAL22 = pyiqa_file(  # the authors published a pickled module
    "MANIQA_PIPAL-ae6d356b.pth", "ae6d356bcd583ae3c1ca81d84817cf96d662073896c7e40fceddb305ddc2f155"
)
PUBLISHED = (
    PublishedWeights("koniq10k", (KONIQ10K,), SOURCE, "Apache-2.0", "KonIQ-10k", {"scale": 0.8}),
    PublishedWeights("kadid10k", (KADID10K,), SOURCE, "Apache-2.0", "KADID-10k", {"scale": 0.8}),
    PublishedWeights("pipal22", (PIPAL22,), SOURCE, "Apache-2.0 (copy: CC BY-NC-SA 4.0)", "PIPAL", {"scale": 0.13}),
)


class TransposedAttention(nn.Module):
    """Attention among channels, each seen as the vector of its values at all patches."""

    def __init__(self, n_patches, drop):
        super().__init__()
        self.c_q, self.c_k, self.c_v = (nn.Linear(n_patches, n_patches) for _ in range(3))
        self.proj_drop = nn.Dropout(drop)

    def forward(self, channels):  # (n, c, t)
        query, key, value = (linear(channels)[:, None] for linear in (self.c_q, self.c_k, self.c_v))
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0]  # (n, c, t)
        # NOTE[DIFF] paper: no change of order; code: (n, t, c) is read in memory order as (n, c, t), a scramble with
        # which the published weights were trained.
        return channels + self.proj_drop(attended.transpose(1, 2).reshape(channels.shape))


def swin_block(width, window_size, shift, drop_path, *, n_heads, dim_mlp):
    """A Swin block on maps (n, rows, columns, width), its tensors named as in the official state, without constants."""
    block = SwinTransformerBlock(width, n_heads, [window_size] * 2, [shift] * 2, stochastic_depth_prob=drop_path)
    block.attn.register_buffer("relative_position_index", block.attn.relative_position_index, persistent=False)
    block.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(width, dim_mlp), act=nn.GELU(), fc2=nn.Linear(dim_mlp, width)))
    return block


class SwinLayer(nn.Module):
    """Two Swin blocks, the second with shifted windows, and a convolution."""

    def __init__(self, width, drop_paths, *, window_size, **sizes):
        super().__init__()
        plain = swin_block(width, window_size, 0, drop_paths[0], **sizes)
        shifted = swin_block(width, window_size, window_size // 2, drop_paths[1], **sizes)
        self.blocks = nn.Sequential(plain, shifted)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features):  # (n, c, rows, columns)
        tokens = self.blocks(features.movedim(1, 3))
        return F.relu(self.conv(tokens.movedim(3, 1)))


class ScaleSwin(nn.Module):
    """Swin layers whose outputs are damped by `scale` before they are added."""

    def __init__(self, width, *, scale, drop, **sizes):
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(drop)
        self.layers = nn.ModuleList(SwinLayer(width, drop_paths, **sizes) for drop_paths in DROP_PATHS)

    def forward(self, features):  # (n, c, rows, columns)
        features = self.dropout(features)
        for layer in self.layers:
            features = self.scale * layer(features) + features
        return features


class MANIQANetwork(nn.Module):
    """Crops (n, 3, s, s), normalised for the ViT and of its input size -> score (n,), 0 or more, higher is better.

    Of (n, k, 3, s, s) it weights the patches of k crops together.
    """

    def __init__(self, vit, *, layers, embed_dim, drop, **sizes):
        super().__init__()
        self.layers, self.grid = list(layers), tuple(vit.patch_embed.grid_size)
        self.crop_size = vit.patch_embed.img_size[0]
        n_patches, width = math.prod(self.grid), embed_dim // 2
        vit.prune_intermediate_layers(self.layers, prune_norm=True)  # nothing stays behind the last of these layers
        self.vit = vit
        self.tablock1 = nn.Sequential(*(TransposedAttention(n_patches, drop) for _ in range(2)))
        self.conv1 = nn.Conv2d(vit.embed_dim * len(self.layers), embed_dim, 1)
        self.swintransformer1 = ScaleSwin(embed_dim, drop=drop, **sizes)
        self.tablock2 = nn.Sequential(*(TransposedAttention(n_patches, drop) for _ in range(2)))
        self.conv2 = nn.Conv2d(embed_dim, width, 1)
        self.swintransformer2 = ScaleSwin(width, drop=drop, **sizes)
        self.fc_score, self.fc_weight = (
            Float32Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 1), last)
            for last in (nn.ReLU(), nn.Sigmoid())
        )
        # NOTE[DIFF] official: a random number around 0, so that all patches may start below the ReLU, and stay there.
        nn.init.constant_(self.fc_score[3].bias, MIDDLE)

    def position_scores(self, crops):
        """Crops (n, 3, s, s) -> score and weight of each patch, both (n, rows, columns)."""
        features = self.vit.forward_intermediates(crops, indices=self.layers, intermediates_only=True)
        features = torch.cat(features, dim=1)  # (n, 3072, 28, 28)
        features = self.tablock1(features.flatten(2)).unflatten(2, self.grid)
        features = self.swintransformer1(self.conv1(features))  # (n, 768, 28, 28)
        features = self.tablock2(features.flatten(2)).unflatten(2, self.grid)
        tokens = self.swintransformer2(self.conv2(features)).movedim(1, 3)  # (n, 28, 28, 384)
        return self.fc_score(tokens)[..., 0], self.fc_weight(tokens)[..., 0]

    def forward(self, crops):
        """Mean of the patches' scores, weighted by their weights."""
        positions = self.position_scores(crops.reshape(-1, *crops.shape[-3:]))
        scores, weights = (one.reshape(len(crops), -1) for one in positions)
        return (scores * weights).sum(1) / weights.sum(1)


class MANIQA(CropsMixin, QualityRegressor):
    r"""Multi-dimension Attention Network: weighted scores of patches, from attention over channels and over space.

    Tokens of four blocks of a vision transformer are stacked. Twice, attention then runs among the channels, each seen
    as a vector over all patches, and among the patches of small windows (Swin). Two heads give each patch a score
    :math:`s_i \ge 0` and a weight :math:`0 < w_i < 1`; a crop has

    .. math:: q = \sum_i w_i s_i \Big/ \sum_i w_i .

    The score of an image is the mean over its crops: 0 or more, mostly below 1, **higher is better**.

    Parameters
    ----------
    scale : float, default=0.8
        Factor of each Swin layer before it is added to its input. No weights file holds it, so a wrong one gives wrong
        scores without an error: 0.8 for the authors' KonIQ-10k and KADID-10k files, 0.13 for their PIPAL file.
    n_crops : int, default=20
        Crops scored for each image.
    crops : {"grid", "random"}, default="grid"
        Where they are: spread evenly, or at random as in the official code. Random places depend on the pixels and on
        an integer `random_state` (0 for any other) alone: an image always gets the same.
    backbone : str, default="vit_base_patch8_224.augreg_in21k_ft_in1k"
        Any plain vision transformer of timm; it sets the size of the crops, their patches and the width of the tokens.
    layers : tuple of int, default=(6, 7, 8, 9)
        Its blocks whose tokens are stacked, ascending, counted from 0.
    embed_dim : int, default=768
        Channels of the first stage, a multiple of ``2 * n_heads``; the second has half of them.
    dim_mlp : int, default=768
        Hidden width in the Swin blocks.
    n_heads : int, default=4
        Heads of the window attention.
    window_size : int, default=4
        Side of its windows in patches; divides the rows and columns of patches of a crop.
    drop : float, default=0.1
        Probability of dropout, in [0, 1).
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
    batch_size : int, default=8
        Rows in one step of training.
    max_epochs : int, default=30
        Passes over the training data.
    lr : float, default=1e-5
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
        The network: crops (n, 3, side, side), normalised for the backbone and of its input size -> score (n,).
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
    Published weights: "koniq10k" (the default), "kadid10k", and "pipal22", which sets ``scale=0.13``.

    An image whose shorter side is below a crop's (224) is enlarged to it (bicubic); the official code fails there. It
    draws its crops anew at every call; the grid does not. Both take the mean of the crops' scores; pyiqa pools the
    patches of all crops, which gives another number.

    `fit` minimises the squared error to labels in 0..1, on a random crop per row and epoch (the authors resized
    KonIQ-10k to 224 x 224 instead, and allowed 300 epochs); the learning rate swings between `lr` and 0 every 100
    batches. Their "horizontal" flip turned images upside down; here left and right are exchanged, half of the time.

    References
    ----------
    .. [1] S. Yang, T. Wu, S. Shi, S. Lao, Y. Gong, M. Cao, J. Wang, Y. Yang, "MANIQA: Multi-dimension Attention Network
       for No-Reference Image Quality Assessment", CVPR Workshops 2022. https://github.com/IIGROUP/MANIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import MANIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 160, 200, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_vit", "layers": (1, 2), "embed_dim": 16, "window_size": 5, "n_crops": 3}
    >>> maniqa = MANIQA(**small, backbone_weights=None, random_state=0).initialize()
    >>> maniqa.predict(images).shape, maniqa.quality_map(images[0]).shape
    ((2,), (160, 200))
    """

    score_range = (0.0, np.inf)
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        **PROTOCOL,
        "scale": [non_negative()],
        "backbone": [str],
        "layers": [SequenceOf(at_least(0))],
        "embed_dim": [at_least(1)],
        "dim_mlp": [at_least(1)],
        "n_heads": [at_least(1)],
        "window_size": [at_least(1)],
        "drop": [within(0, 1, closed="left")],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_crops": 2,
        "backbone": "test_vit",
        "layers": (1, 2),
        "embed_dim": 16,
        "dim_mlp": 16,
        "window_size": 5,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
    }
    _test_size: ClassVar[tuple[int, int]] = (160, 168)

    def __init__(
        self,
        *,
        scale=0.8,
        n_crops=20,
        crops="grid",
        backbone="vit_base_patch8_224.augreg_in21k_ft_in1k",
        layers=(6, 7, 8, 9),
        embed_dim=768,
        dim_mlp=768,
        n_heads=4,
        window_size=4,
        drop=0.1,
        protocol="official",
        weights=None,
        backbone_weights="imagenet",
        batch_size=8,
        max_epochs=30,
        lr=1e-5,
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
        self.scale = scale
        self.n_crops = n_crops
        self.crops = crops
        self.backbone = backbone
        self.layers = layers
        self.embed_dim = embed_dim
        self.dim_mlp = dim_mlp
        self.n_heads = n_heads
        self.window_size = window_size
        self.drop = drop
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
        """Where the image is good or bad: scores of patches, averaged by their weights where crops overlap.

        Parameters
        ----------
        x : image
            As a row of X. Its size decides on the number of crops: they cover it.

        Returns
        -------
        quality : ndarray of shape (height, width), float32
            In the unit of `predict`, higher is better.
        """
        return self._position_map(x)

    @property
    def key_map(self):
        """Official names that have no place here, those of blocks behind the last of these layers among them."""
        used = "|".join(str(number) for number in range(max(self.layers) + 1))
        return (*KEY_MAP, (rf"^vit\.blocks\.(?!({used})\.)", None))

    def _network(self):
        vit = timm_backbones.build_backbone(self.backbone, num_classes=0)
        self._check_sizes(vit)
        sizes = ("layers", "embed_dim", "dim_mlp", "n_heads", "window_size", "scale", "drop")
        return MANIQANetwork(vit, **{name: getattr(self._chosen, name) for name in sizes})

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.vit, self.backbone, self.backbone_weights)

    def _views(self, x):
        if self.protocol == "official":
            return super()._views(x)
        # One view of all crops (1, n_crops, 3, s, s), whose patches pyiqa weights together.
        return uniform_crops(x, self.network_.crop_size, self.n_crops, self._normalized)[None]

    def _normalized(self, image) -> torch.Tensor:
        config = timm_backbones.input_config(self.backbone)
        return normalize(to_tensor(image), config["mean"], config["std"])

    def _check_sizes(self, vit):
        grid = getattr(getattr(vit, "patch_embed", None), "grid_size", None)
        if grid is None or not hasattr(vit, "blocks"):
            raise ValueError(f"backbone={self.backbone!r} is no plain vision transformer; take one such as 'test_vit'.")
        layers, n_blocks, heads = list(self.layers), len(vit.blocks), 2 * self.n_heads
        for is_right, message in (
            (
                layers == sorted({*layers} & {*range(n_blocks)}),
                f"layers={layers} must ascend within 0..{n_blocks - 1}.",
            ),
            (grid[0] % self.window_size == 0, f"window_size={self.window_size} must divide the patches, {grid}."),
            (self.embed_dim % heads == 0, f"embed_dim={self.embed_dim} must be a multiple of 2 * n_heads = {heads}."),
        ):
            if not is_right:
                raise ValueError(message)

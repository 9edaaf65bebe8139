# SPDX-License-Identifier: BSD-3-Clause
"""MUSIQ: a transformer over patches of the native image and of resized copies (Ke et al., ICCV 2021)."""

import dataclasses
import math
import re
from collections import OrderedDict
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import Options
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_iqa._base.parameters import PRETRAINED, STOPPING, TRAINING, SequenceOf, at_least
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn.layers import Float32Linear
from sklearn_iqa._nn.losses import EarthMoversLoss, rating_histograms
from sklearn_iqa._nn.transforms import HALF_MEAN, HALF_STD, normalize, random_flip, to_tensor
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file
from sklearn_iqa.single_input._musiq_tokens import GRID, PATCH, PIXELS, Bottleneck, StandardizedConv, multiscale_tokens

PATCHES_AT_ONCE = 256  # embedded in one pass, to bound memory: the maps of a patch have 32 times as many values
RATING_STD = 1.4  # standard deviation of the ratings where y gives only their mean; about the mean of AVA
KEY_MAP = (
    (r"^head\.0\.", "head."),  # in pyiqa, where there are several bins
    # The authors' flax files; the names of a block's layers are those of old flax releases, not checked with a file.
    (r"^opt/(?!target/)", None),
    (r"^opt/target/", ""),
    (r"/unit1/", "/"),
    (r"^Transformer/", "transformer_encoder/"),
    (r"/pos_embedding$", "/position_emb"),
    (r"/scale_embedding$", "/scale_emb"),
    (r"/(encoderblock_\d+)/", r"/transformer/\1/"),
    (r"/(?:MultiHeadDotProductAttention|SelfAttention)_1/", "/attention/"),
    (r"/LayerNorm_0/", "/norm1/"),
    (r"/LayerNorm_2/", "/norm2/"),
    (r"/MlpBlock_3/Dense_0/", "/mlp/fc1/"),
    (r"/MlpBlock_3/Dense_1/", "/mlp/fc2/"),
    (r"/(?:kernel|scale)$", "/weight"),
    (r"/", "."),
)
IMAGENET = dataclasses.replace(pyiqa_file("musiq_imagenet_pretrain-51d9b0a5.pth"), parameter="backbone_weights")
SOURCE, LICENCE = "https://github.com/google-research/google-research/tree/master/musiq", "Apache-2.0 (as converted)"
PUBLISHED = tuple(
    PublishedWeights(
        name, (pyiqa_file(filename),), SOURCE, LICENCE, data, {"n_bins": n_bins, "longer_sides": (224, 384)}
    )
    for name, filename, data, n_bins in (
        ("koniq10k", "musiq_koniq_ckpt-e95806b9.pth", "KonIQ-10k", 1),
        ("spaq", "musiq_spaq_ckpt-358bb6af.pth", "SPAQ", 1),
        ("paq2piq", "musiq_paq2piq_ckpt-364c0c84.pth", "PaQ-2-PiQ", 1),
        ("ava", "musiq_ava_ckpt-e8d3f067.pth", "AVA", 10),
    )
)


class AddedEmbedding(nn.Module):
    """Adds a learned embedding, looked up by index, to each token."""

    def __init__(self, name: str, *shape: int):
        super().__init__()
        self.name = name
        self.register_parameter(name, nn.Parameter(0.02 * torch.randn(shape)))

    def forward(self, tokens, index):  # (n, t, c), (n, t)
        vectors = getattr(self, self.name)
        return tokens + vectors.reshape(-1, vectors.shape[-1])[index]


class MaskedAttention(nn.Module):
    """Multi-head self-attention among unmasked tokens."""

    def __init__(self, embed_dim: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(embed_dim, embed_dim) for _ in range(4))

    def forward(self, tokens, mask, pairs):  # (n, t, c), (n, t), (n, 1, t, t) or None
        # A masked token attends to all tokens equally, as in pyiqa; no other token depends on it.
        projected = (self.query(tokens) * mask[..., None], self.key(tokens), self.value(tokens))
        heads = (one.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for one in projected)  # (n, heads, t, c / heads)
        attended = F.scaled_dot_product_attention(*heads, attn_mask=pairs)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block: attention, and an MLP of two layers."""

    def __init__(self, embed_dim: int, n_heads: int, dim_mlp: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attention = MaskedAttention(embed_dim, n_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        # NOTE[DIFF] flax: the tanh approximation of GELU, which changes scores by 6e-5; here pyiqa's exact one.
        layers = OrderedDict(fc1=nn.Linear(embed_dim, dim_mlp), act=nn.GELU(), fc2=nn.Linear(dim_mlp, embed_dim))
        self.mlp = nn.Sequential(layers)

    def forward(self, tokens, mask, pairs):  # (n, t, c), (n, t), (n, 1, t, t) or None
        tokens = tokens + self.attention(self.norm1(tokens), mask, pairs)
        return tokens + self.mlp(self.norm2(tokens))


class Encoder(nn.Module):
    """Embedded patches, their positions, scales and mask -> output of the class token (n, c)."""

    def __init__(self, n_scales: int, *, embed_dim: int, depth: int, n_heads: int, dim_mlp: int):
        super().__init__()
        self.posembed_input = AddedEmbedding("position_emb", 1, GRID**2, embed_dim)
        self.scaleembed_input = AddedEmbedding("scale_emb", n_scales, embed_dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": Block(embed_dim, n_heads, dim_mlp) for i in range(depth)}
        )
        self.encoder_norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, tokens, position, scale, mask):  # (n, t, c), (n, t), (n, t), (n, t)
        tokens = self.scaleembed_input(self.posembed_input(tokens, position), scale)
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        mask = F.pad(mask, (1, 0), value=True)  # (n, 1 + t)
        pairs = None if bool(mask.all()) else (mask[:, None] | ~mask[:, :, None])[:, None]
        for block in self.transformer.values():
            tokens = block(tokens, mask, pairs)
        return self.encoder_norm(tokens)[:, 0]


class MUSIQNetwork(nn.Module):
    """Tokens (n, t, 3075) of `multiscale_tokens` -> score (n,), or probabilities (n, n_bins) of the ratings."""

    # Two images: matrices of one are too small for the processor's best.
    pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**20}

    def __init__(self, n_scales: int, n_bins: int, **sizes):
        super().__init__()
        self.conv_root = StandardizedConv(3, 64, 7, stride=2, bias=False)
        self.gn_root = nn.GroupNorm(32, 64, eps=1e-6)
        self.root_pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.block1 = Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (PATCH // 4) ** 2, sizes["embed_dim"])
        self.transformer_encoder = Encoder(n_scales, **sizes)
        self.head = Float32Linear(sizes["embed_dim"], n_bins)

    def embed(self, patches):
        """Patches (t, 3, 32, 32), independently of each other -> (t, c)."""
        maps = F.relu(self.gn_root(self.conv_root(F.pad(patches, (2, 3, 2, 3)))))  # (t, 64, 16, 16)
        maps = self.block1(self.root_pool(maps))  # (t, 256, 8, 8)
        return self.embedding(maps.movedim(1, 3).flatten(1))

    def forward(self, tokens):
        """Tokens whose mask is 0 have no influence."""
        pixels, position, scale, mask = tokens.split([PIXELS, 1, 1, 1], dim=2)
        patches = pixels.reshape(-1, 3, PATCH, PATCH).split(PATCHES_AT_ONCE)
        embedded = torch.cat([self.embed(part) for part in patches]).unflatten(0, tokens.shape[:2])  # (n, t, c)
        output = self.head(
            self.transformer_encoder(embedded, position[..., 0].long(), scale[..., 0].long(), mask[..., 0] > 0)
        )
        return output.softmax(1) if output.shape[1] > 1 else output[:, 0]


def in_torch_layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """An array of the authors' flax files, by its name there, in the layout of PyTorch."""
    kind = name.rpartition("/")[2]
    if kind == "kernel" and tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    if kind == "kernel":  # attention heads are an axis of their own
        return (tensor.flatten(0, -2) if "/out/" in name else tensor.flatten(1)).T
    if kind == "scale_embedding":
        return tensor[0]
    return tensor.flatten() if kind in ("scale", "bias") and "/" in name else tensor


class MUSIQ(QualityRegressor):
    r"""Multi-scale Image Quality Transformer: patches of the native image and of two resized copies.

    The image, of any size and shape, and copies of it with longer sides of 224 and 384 pixels are split into patches of
    32 x 32 pixels. Each is embedded as a token, to which learned embeddings of its position, hashed to a grid of
    10 x 10 that covers any image, and of its scale are added. The score is a linear map of a transformer's class token:
    unbounded, about 0..100 for published weights, **higher is better**. With ten bins the output is the probabilities
    :math:`p_k` of the ratings 1 to 10, and the score is their mean :math:`\sum_k k\,p_k`.

    Parameters
    ----------
    n_bins : int, default=1
        1 predicts one number, trained with the absolute error; 3 or more the probabilities of ratings, trained with the
        distance of cumulative histograms. AVA's weights have 10.
    longer_sides : tuple of int, default=(224, 384)
        Longer sides of the resized copies in pixels; () takes the native image only ("MUSIQ-single").
    max_patches : int, default=512
        Maximal number of patches of the native image in training, in rows from its top; prediction takes all.
    embed_dim : int, default=384
        Dimension of a token, a multiple of `n_heads`.
    depth : int, default=14
        Number of transformer blocks.
    n_heads : int, default=6
        Number of attention heads.
    dim_mlp : int, default=1152
        Hidden dimension of the MLP of a block.
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
    max_epochs : int, default=30
        Passes over the training data.
    lr : float, default=1e-4
        Learning rate.
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
        The network: tokens (n, t, 3075), each the pixels of a patch, its position, scale and mask -> score (n,), or
        probabilities (n, n_bins) of the ratings.
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
    Published weights: "koniq10k" (the default), "spaq", "paq2piq", and "ava", which sets ``n_bins=10``, converted by
    pyiqa from the authors' `.npz` files, which load by path too. Here "imagenet" is the authors' pretraining of the
    whole network, converted likewise, and there is no "bundled". Copies are resized as in pyiqa: scores differ by about
    2 % from those of the authors' code, which has TensorFlow's kernel. `fit` maps labels to 0..100, or to ratings; y
    may also hold counts of ratings (n, n_bins). There is no quality map: attention weights locate no distortions.

    References
    ----------
    .. [1] J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang, "MUSIQ: Multi-scale Image Quality Transformer", ICCV 2021.
       https://github.com/google-research/google-research/tree/master/musiq

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import MUSIQ
    >>> images = [np.zeros((97, 803, 3), np.uint8), np.ones((803, 97, 3), np.uint8)]
    >>> small = {"embed_dim": 24, "depth": 1, "dim_mlp": 24, "backbone_weights": None, "random_state": 0}
    >>> MUSIQ(**small).initialize().predict(images).shape
    (2,)
    """

    optimizer = torch.optim.SGD
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "n_bins": [Options(Integral, {1}), at_least(3)],
        "longer_sides": [SequenceOf(at_least(1), min_length=0)],
        "max_patches": [at_least(1)],
        "embed_dim": [at_least(1)],
        "depth": [at_least(1)],
        "n_heads": [at_least(1)],
        "dim_mlp": [at_least(1)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "longer_sides": (32,),
        "max_patches": 4,
        "embed_dim": 8,
        "depth": 1,
        "n_heads": 2,
        "dim_mlp": 8,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        n_bins=1,
        longer_sides=(224, 384),
        max_patches=512,
        embed_dim=384,
        depth=14,
        n_heads=6,
        dim_mlp=1152,
        weights=None,
        backbone_weights="imagenet",
        batch_size=96,
        max_epochs=30,
        lr=1e-4,
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
        self.n_bins = n_bins
        self.longer_sides = longer_sides
        self.max_patches = max_patches
        self.embed_dim = embed_dim
        self.depth = depth
        self.n_heads = n_heads
        self.dim_mlp = dim_mlp
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
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

    @property
    def label_range(self):
        """Range of the published numbers: 0..100, or 2..9 of ratings 1..10, with a margin for histograms."""
        n_bins = self._chosen.n_bins
        margin = (n_bins - 1) / 9
        return (1 + margin, n_bins - margin) if n_bins > 1 else (0.0, 100.0)

    def _network(self):
        sizes = {name: getattr(self, name) for name in ("embed_dim", "depth", "n_heads", "dim_mlp")}
        return MUSIQNetwork(len(self._chosen.longer_sides) + 1, self._chosen.n_bins, **sizes)

    def _renamed(self, state):
        if any("/" in name for name in state):  # the authors' files, from JAX
            state = {name: in_torch_layout(name, tensor) for name, tensor in state.items()}
        return super()._renamed(state)

    def _load_backbone(self, network):
        if self.backbone_weights is None:
            return
        named = str(self.backbone_weights) == "imagenet"
        state = state_dicts.read_state(pretrained.fetch(IMAGENET) if named else self.backbone_weights)
        state = {name: tensor for name, tensor in state.items() if not re.search(r"^(opt/target/)?head[./]", name)}
        state |= {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
        state_dicts.load_state(network, self._renamed(state), origin=f"backbone_weights={str(self.backbone_weights)!r}")

    def _loss(self):
        return EarthMoversLoss(r=2) if self._chosen.n_bins > 1 else nn.L1Loss()

    def _net_params(self):
        n_before, n_epochs = self.n_iter_, self.max_epochs  # n_iter_ is above 0 without an earlier net after unpickling

        def factor(epoch):  # in closed form, so that training resumes where it stopped; restarts after the last epoch
            return (1 + math.cos(math.pi * ((n_before + epoch) % n_epochs) / n_epochs)) / 2

        return {"optimizer__momentum": 0.9, "callbacks": [("schedule", LRScheduler("LambdaLR", lr_lambda=factor))]}

    def _pixels(self, image):
        return normalize(to_tensor(image), HALF_MEAN, HALF_STD)

    def _views(self, x):
        return multiscale_tokens(self._pixels(x), self._chosen.longer_sides)[None]  # (1, t, 3075)

    def _train_view(self, x):
        # All images of a batch have equally many tokens of each scale; inference needs no padding.
        lengths = [math.ceil(side / PATCH) ** 2 for side in sorted(self._chosen.longer_sides)]
        return multiscale_tokens(random_flip(self._pixels(x)), self._chosen.longer_sides, [*lengths, self.max_patches])

    def _score(self, output):
        return float(self._quality(output.double().numpy()).mean())

    def _check_targets(self, rows, y):
        if self._chosen.n_bins == 1 or y is None or np.shape(y)[1:] != (self._chosen.n_bins,):
            return check_quality(rows, y, type(self).__name__)
        counts = check_array(y, dtype=np.float64, input_name="y")
        check_consistent_length(rows, counts)
        if (counts < 0).any() or (counts.sum(1) == 0).any():
            raise ValueError("y has negative counts of ratings, or a row without any; leave such rows out.")
        return counts / counts.sum(1, keepdims=True)

    def _quality(self, targets):
        return targets @ np.arange(1, self._chosen.n_bins + 1) if targets.ndim == 2 else targets

    def _label_quality(self, y):
        y = np.asarray(y, dtype=float)
        counts = y.ndim == 2 and y.shape[1] == self._chosen.n_bins > 1
        return self._quality(y / y.sum(1, keepdims=True)) if counts else y

    def _start(self, targets, sample_weight):
        super()._start(targets, sample_weight)
        if targets.ndim == 2:
            self.label_scale_ = (1.0, 0.0)  # ratings are their own unit
        # From 0, small steps would take long to reach labels near 50.
        elif self._chosen.n_bins == 1 and self.weights is None:
            nn.init.constant_(self.network_.head.bias, self._encode_targets(targets).mean())

    def _encode_targets(self, targets):
        if targets.ndim == 2:
            return targets
        mean, n_bins = super()._encode_targets(targets), self._chosen.n_bins
        return mean if n_bins == 1 else rating_histograms(mean, np.full_like(mean, RATING_STD), n_bins)

    def _check_combinations(self):
        if self.embed_dim % self.n_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is no multiple of n_heads={self.n_heads}; change one of the two."
            )

# SPDX-License-Identifier: BSD-3-Clause
"""IQT: a transformer reads how the features of query and reference differ (Cheon et al., CVPR Workshops 2021)."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._base.crops import CropsMixin
from sklearn_iqa._base.parameters import (
    CROPS,
    PRETRAINED,
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
from sklearn_iqa.full_reference._frozen_backbones import FrozenBackbonesMixin, freeze_and_truncate

# The port has backbone and trained parts as two modules; only the latter are in its files. pyiqa's trainer writes both,
# timm's classifier and two tables of ones, which stand for tokens.
KEY_MAP = (
    (r"^(enc|dec)_inputs$", None),
    (r"^backbone\.(mixed_[67]a|repeat_[12]|block8|conv2d_7b|last_linear|classif)\.", None),
    (r"^backbone\.", "cnn."),
    (r"^regressor\.", ""),
)


class ExpandedAttention(nn.Module):
    """Attention of several heads, each of which is as wide as the tokens."""

    def __init__(self, width, n_heads, drop, *, causal=False):
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.W_Q, self.W_K, self.W_V = (nn.Linear(width, n_heads * width) for _ in range(3))
        self.linear = nn.Linear(n_heads * width, width)
        self.dropout = nn.Dropout(drop)

    def forward(self, tokens, seen):  # (n, t, d), (n, s, d)
        sources = ((self.W_Q, tokens), (self.W_K, seen), (self.W_V, seen))
        heads = [linear(source).unflatten(2, (self.n_heads, -1)).transpose(1, 2) for linear, source in sources]
        drop = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(*heads, dropout_p=drop, is_causal=self.causal)  # (n, heads, t, d)
        return self.dropout(self.linear(attended.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Two layers on each token by itself."""

    def __init__(self, width, dim_mlp, drop):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(width, dim_mlp, 1), nn.Conv1d(dim_mlp, width, 1)
        self.dropout = nn.Dropout(drop)

    def forward(self, tokens):  # (n, t, d)
        return self.dropout(self.conv2(F.gelu(self.conv1(tokens.mT))).mT)


class EncoderLayer(nn.Module):
    """Attention among the tokens, then a feed-forward net; each is added to its input and normalised."""

    def __init__(self, width, n_heads, dim_mlp, drop):
        super().__init__()
        self.self_attn = ExpandedAttention(width, n_heads, drop)
        self.pos_ffn = FeedForward(width, dim_mlp, drop)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, tokens):
        tokens = self.layer_norm1(tokens + self.self_attn(tokens, tokens))
        return self.layer_norm2(tokens + self.pos_ffn(tokens))


class DecoderLayer(nn.Module):
    """As an `EncoderLayer`, with attention to the encoded tokens in between."""

    def __init__(self, width, n_heads, dim_mlp, drop, *, causal):
        super().__init__()
        self.self_attn = ExpandedAttention(width, n_heads, drop, causal=causal)
        self.dec_enc_attn = ExpandedAttention(width, n_heads, drop)
        self.pos_ffn = FeedForward(width, dim_mlp, drop)
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(width, eps=1e-12) for _ in range(3))

    def forward(self, tokens, encoded):
        tokens = self.layer_norm1(tokens + self.self_attn(tokens, tokens))
        tokens = self.layer_norm2(tokens + self.dec_enc_attn(tokens, encoded))
        return self.layer_norm3(tokens + self.pos_ffn(tokens))


class Stack(nn.Module):
    """Layers on a learned token and those of an image, each with its learned position."""

    def __init__(self, layers: Iterable[nn.Module], n_tokens, width, drop):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, n_tokens + 1, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.dropout = nn.Dropout(drop)
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens, *encoded):  # (n, t, d)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)  # (n, t + 1, d)
        tokens = self.dropout(tokens + self.pos_embedding)
        for layer in self.layers:
            tokens = layer(tokens, *encoded)
        return tokens


class IQTNetwork(nn.Module):
    """Pairs (n, 2, 3, s, s) in [-1, 1] -> score (n,), higher is better."""

    trained = ("conv_enc", "conv_dec", "transformer", "projection")

    # Inception's many small convolutions leave a processor idle with fewer crops.
    pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**19}

    def __init__(self, cnn, *, layers, crop_size, causal, n_layers, embed_dim, n_heads, dim_mlp, dim_projection, drop):
        super().__init__()
        self.layers, self.crop_size, self.cnn = list(layers), crop_size, cnn
        n_channels, n_rows, n_columns = freeze_and_truncate(cnn, self.layers, crop_size)
        self.conv_enc, self.conv_dec = (nn.Conv2d(n_channels, embed_dim, 1) for _ in range(2))
        sizes = (embed_dim, n_heads, dim_mlp, drop)
        encoder = [EncoderLayer(*sizes) for _ in range(n_layers)]
        # NOTE[DIFF] paper: no mask; code: causal: the first token, which gives the score, attends to itself alone.
        decoder = [DecoderLayer(*sizes, causal=causal) for _ in range(n_layers)]
        self.transformer = nn.ModuleDict(
            {
                "encoder": Stack(encoder, n_rows * n_columns, embed_dim, drop),
                "decoder": Stack(decoder, n_rows * n_columns, embed_dim, drop),
            }
        )
        self.projection = Float32Sequential(
            nn.Linear(embed_dim, dim_projection, bias=False), nn.ReLU(), nn.Linear(dim_projection, 1, bias=False)
        )

    def train(self, mode=True):
        """Set the mode of the trained parts; the backbone is frozen, its batch normalisation too."""
        # NOTE[DIFF] port: batch normalisation of the backbone uses and updates statistics of batches in training.
        super().train(mode)
        self.cnn.eval()
        return self

    def encode_reference(self, references):
        """(n, 3, s, s) -> features (n, 1920, 21, 21)."""
        return torch.cat(timm_backbones.layer_outputs(self.cnn, self.layers, references), dim=1)

    def compare(self, queries, encoded):
        """Queries (n, 3, s, s) and features of their references -> score (n,)."""
        difference = encoded - self.encode_reference(queries)  # (n, 1920, 21, 21)
        difference = self.transformer["encoder"](self.conv_enc(difference).flatten(2).mT)  # (n, 442, 128)
        tokens = self.transformer["decoder"](self.conv_dec(encoded).flatten(2).mT, difference)  # (n, 442, 128)
        return self.projection(tokens[:, 0])[:, 0]

    def forward(self, pairs):
        """Compare the query with the reference of each pair."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))


class IQT(FrozenBackbonesMixin, CropsMixin, QualityRegressor):
    r"""Image Quality Transformer: attention reads how the features of query and reference differ.

    A frozen CNN gives feature maps :math:`F(q)` and :math:`F(r)` of query and reference. A transformer's encoder reads
    the difference :math:`F(r) - F(q)`, one token for each position and a learned one; its decoder reads :math:`F(r)`
    and attends to what was encoded. Two layers turn the decoder's learned token into the score of a crop.

    The score of a pair is the mean over its crops: about 0 to 1, without bounds, **higher is better**. It is not
    symmetric. With the default ``causal=True`` the reference enters through the difference alone, so that all identical
    pairs get one and the same score; that it is the best one is learned, not built in.

    Parameters
    ----------
    causal : bool, default=True
        Whether a token of the decoder attends only to those before it. The port does this; the token that gives the
        score comes first, so that nothing of :math:`F(r)` in the decoder reaches the score. False lets it see all, as
        the paper seems to mean; published numbers belong to True.
    crop_size : int, default=192
        Side of the crops in pixels; with the backbone's stride it sets the number of tokens, which weights depend on.
    n_crops : int, default=20
        Crops scored for each pair, at the same places of both images.
    crops : {"grid", "random"}, default="grid"
        Where they are: spread evenly, or at random as in the port. Random places depend on the pixels of the
        reference and on an integer `random_state` (0 for any other) alone: an image always gets the same.
    backbone : str, default="inception_resnet_v2.tf_in1k"
        Any convolutional network of timm whose layers follow each other.
    layers : tuple of str, default=("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9")
        Names of its layers whose maps are stacked; they have one size.
    n_layers : int, default=1
        Layers of the encoder, and of the decoder.
    embed_dim : int, default=128
        Width of the tokens, and of each head.
    n_heads : int, default=4
        Heads of attention.
    dim_mlp : int, default=1024
        Hidden width of the feed-forward nets.
    dim_projection : int, default=128
        Hidden width between the last token and the score.
    drop : float, default=0.1
        Probability of dropout, in [0, 1).
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=16
        Rows in one step of training.
    max_epochs : int, default=300
        Passes over the training data.
    lr : float, default=2e-4
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
        The network: pairs of crops (n, 2, 3, crop_size, crop_size) in [-1, 1] -> score (n,).
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
    AHIQ : The winner of the challenge one year later: a vision transformer guides the convolutions of a CNN.

    Notes
    -----
    The authors released no code. Network and numbers follow the port by anse3832, which published no weights with a
    licence. Published weights: none by name; the port's files (`weights=path`) hold the trained parts alone, and the
    backbone then comes from `backbone_weights`. Files of pyiqa's trainer and of `save_weights` hold both.

    The defaults are the paper's setting for PIPAL. That for LIVE, CSIQ and TID2013, trained on KADID-10k, is
    ``crop_size=256, n_layers=2, embed_dim=256, dim_projection=512``.

    `fit` minimises the squared error to labels in 0..1 on a random crop per row and epoch, flipped half of the time and
    turned by a multiple of 90 degrees; the learning rate swings between `lr` and 0 every 100 batches. The backbone
    stays in eval mode; the port lets batches change its normalisation. Pairs whose shorter side is below a crop's are
    enlarged to it (bicubic); the port fails there.

    References
    ----------
    .. [1] M. Cheon, S.-J. Yoon, B. Kang, J. Lee, "Perceptual Image Quality Assessment with Transformers", CVPR
       Workshops 2021. Port: https://github.com/anse3832/IQT

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import IQT
    >>> pairs = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 80, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "layers": ("layer2",), "crop_size": 32, "embed_dim": 8, "dim_mlp": 8}
    >>> IQT(**small, n_crops=2, backbone_weights=None, random_state=0).initialize().predict(pairs).shape
    (3,)
    """

    key_map = KEY_MAP

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        "causal": ["boolean"],
        "crop_size": [at_least(1)],
        "backbone": [str],
        "layers": [SequenceOf(str)],
        "n_layers": [at_least(1)],
        "embed_dim": [at_least(1)],
        "n_heads": [at_least(1)],
        "dim_mlp": [at_least(1)],
        "dim_projection": [at_least(1)],
        "drop": [within(0, 1, closed="left")],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "crop_size": 32,
        "n_crops": 2,
        "backbone": "test_resnet",
        "layers": ("layer2.0",),
        "embed_dim": 8,
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
        causal=True,
        crop_size=192,
        n_crops=20,
        crops="grid",
        backbone="inception_resnet_v2.tf_in1k",
        layers=("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9"),
        n_layers=1,
        embed_dim=128,
        n_heads=4,
        dim_mlp=1024,
        dim_projection=128,
        drop=0.1,
        weights=None,
        backbone_weights="imagenet",
        batch_size=16,
        max_epochs=300,
        lr=2e-4,
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
        self.causal = causal
        self.crop_size = crop_size
        self.n_crops = n_crops
        self.crops = crops
        self.backbone = backbone
        self.layers = layers
        self.n_layers = n_layers
        self.embed_dim = embed_dim
        self.n_heads = n_heads
        self.dim_mlp = dim_mlp
        self.dim_projection = dim_projection
        self.drop = drop
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

    def _network(self):
        names = ("crop_size", "n_layers", "embed_dim", "n_heads", "dim_mlp", "dim_projection")
        sizes = {name: getattr(self, name) for name in names}
        cnn = timm_backbones.build_backbone(self.backbone, num_classes=0)
        return IQTNetwork(cnn, layers=self.layers, causal=self.causal, drop=self.drop, **sizes)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.cnn, self.backbone, self.backbone_weights)

    def _train_view(self, x):
        return super()._train_view(x).rot90(int(torch.randint(0, 4, ())), (-2, -1))

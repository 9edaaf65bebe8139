# SPDX-License-Identifier: BSD-3-Clause
"""DEIQT: an attention panel decodes the tokens of a vision transformer (Qin et al., AAAI 2023)."""

from typing import Any, ClassVar

import skorch.callbacks
import torch
from PIL import Image
from torch import nn

from sklearn_iqa._base.parameters import CROPS, PRETRAINED, STOPPING, TRAINING, SequenceOf, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa._nn.layers import Float32Linear

# Error from which the loss is linear, in standard deviations of the labels: one point of LIVE Challenge's 0..100, where
# they deviate by about 20.
LINEAR_FROM = 1 / 20
CLIPPED = 5.0  # norm to which gradients are clipped
WARMUP_START = 1e-3  # fraction of the learning rate at the start of the warm-up: 2e-7 of 2e-4
UNDECAYED = ("*bias", "*norm*.weight", "*gamma*", "*pos_embed", "*_token")  # without weight decay
KEY_MAP = (
    (r"^(cls_token|pos_embed|patch_embed|blocks|norm)\b", r"vit.\1"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
)


class PanelHead(nn.Module):
    """Panel members, each a learned vector added to the class token, attend to the patches and share a linear head."""

    def __init__(self, width: int, n_heads: int, n_members: int):
        super().__init__()
        self.bunch_embedding = nn.Parameter(torch.empty(1, n_members, width))
        layer = nn.TransformerDecoderLayer(
            width, n_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.bunch_decoder = nn.TransformerDecoder(layer, num_layers=1)
        self.heads = Float32Linear(width, 1, bias=False)
        nn.init.trunc_normal_(self.bunch_embedding, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, class_token, patches):
        """(n, 1, c) and (n, t, c) -> score of each member (n, n_members)."""
        return self.heads(self.bunch_decoder(self.bunch_embedding + class_token, patches))[..., 0]


class DEIQTNetwork(nn.Module):
    """Crops (n, 3, s, s), normalised for the ViT and of its input size -> scores of the panel (n, n_members)."""

    def __init__(self, vit: Any, n_members: int):
        super().__init__()
        self.vit = vit
        self.head = PanelHead(vit.embed_dim, vit.blocks[0].attn.num_heads, n_members)

    def forward(self, crops):
        tokens = self.vit.forward_features(crops)  # (n, 1 + 196, 384), normalised
        return self.head(tokens[:, :1], tokens[:, self.vit.num_prefix_tokens :])


class PanelLoss(nn.SmoothL1Loss):
    """Smooth L1 loss of the panel's mean: squared below an error of `beta`, absolute above, with slope 1 there."""

    def forward(self, scores, target):  # (n, n_members), (n,)
        return super().forward(scores.mean(1), target)


class DEIQT(QualityRegressor):
    r"""Data-efficient image quality transformer: a vision transformer with an attention-panel decoder.

    The class token :math:`z_0` of a pretrained transformer, plus a learned vector :math:`e_m` for each of M = 6 panel
    members, attends to the patch tokens :math:`Z` in one decoder layer :math:`D`, and a shared vector :math:`a` maps
    the outputs to scores:

    .. math:: q = \frac1M \sum_{m=1}^{M} a \cdot D(z_0 + e_m,\, Z).

    The score of an image is the mean over its crops: unbounded, **higher is better** after `fit`.

    Parameters
    ----------
    n_members : int, default=6
        Members of the panel.
    n_crops : int, default=10
        Crops scored for each image.
    crops : {"grid", "random"}, default="grid"
        Evenly spaced, or random as in the official code. Random positions depend on the pixels and on an integer
        `random_state` (0 for any other) alone: an image always gets the same.
    image_size : tuple of int or None, default=None
        Height and width in pixels to which images are resized before they are cropped, ignoring their aspect; the
        official code has (512, 384) for KonIQ-10k and SPAQ, where it swaps the sides. None keeps their size.
    backbone : str, default="deit3_small_patch16_224.fb_in1k"
        Any plain vision transformer of timm with a class token; its input size is that of the crops.
    warmup_epochs : int, default=30
        First epochs, over which the learning rate rises linearly from a thousandth of `lr` to `lr`; part of
        `max_epochs`.
    lr_step : int, default=30
        After the warm-up the learning rate falls to a tenth every so many epochs.
    weight_decay : float, default=0.05
        Weight decay of AdamW, for matrices only.
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
    max_epochs : int, default=90
        Passes over the training data.
    lr : float, default=2e-4
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
        The network: crops (n, 3, side, side), normalised for the backbone and of its input size -> scores of the panel
        members (n, n_members), whose mean is the score of a crop.
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
    Published weights: none. The state in a checkpoint of the official trainer loads by path, once it is saved alone,
    see the method's page; its scores have the direction of the labels it was trained on.

    The official code trains for nine epochs of ten random crops per image; here an epoch takes one, and 90 epochs, 30
    of warm-up and steps of 30 are the same. The loss is the absolute error, as in the paper, but squared below a
    twentieth of the labels' standard deviation: what the official smooth L1 loss is for the labels of LIVE Challenge,
    here for those of any unit. Users report that the released settings do not reach the paper's figures.

    An image whose shorter side is below that of a crop (224) is enlarged to it (bicubic); the official code fails.

    References
    ----------
    .. [1] G. Qin, R. Hu, Y. Liu, X. Zheng, H. Liu, X. Li, Y. Zhang, "Data-Efficient Image Quality Assessment with
       Attention-Panel Decoder", AAAI 2023. https://github.com/narthchin/DEIQT

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import DEIQT
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 160, 200, 3), dtype=np.uint8)
    >>> deiqt = DEIQT(backbone="test_vit", backbone_weights=None, n_crops=2, random_state=0).initialize()
    >>> quality, spread = deiqt.predict(images, return_std=True)
    >>> quality.shape, bool((spread > 0).all())
    ((2,), True)
    """

    optimizer = torch.optim.AdamW
    key_map = KEY_MAP
    network_: DEIQTNetwork
    image_size: tuple[int, int] | None

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        "n_members": [at_least(1)],
        "image_size": [SequenceOf(at_least(1), min_length=2, max_length=2), None],
        "backbone": [str],
        "warmup_epochs": [at_least(0)],
        "lr_step": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_crops": 2,
        "backbone": "test_vit",
        "warmup_epochs": 1,
        "lr_step": 2,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }
    _test_size: ClassVar[tuple[int, int]] = (160, 168)

    def __init__(
        self,
        *,
        n_members=6,
        n_crops=10,
        crops="grid",
        image_size=None,
        backbone="deit3_small_patch16_224.fb_in1k",
        warmup_epochs=30,
        lr_step=30,
        weight_decay=0.05,
        weights=None,
        backbone_weights="imagenet",
        batch_size=16,
        max_epochs=90,
        lr=2e-4,
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
        self.n_members = n_members
        self.n_crops = n_crops
        self.crops = crops
        self.image_size = image_size
        self.backbone = backbone
        self.warmup_epochs = warmup_epochs
        self.lr_step = lr_step
        self.weight_decay = weight_decay
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

    def predict(self, X, return_std=False, *, on_error="raise"):
        """Quality of each image of X, and the standard deviation over the panel.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        return_std : bool, default=False
            Whether to return the standard deviation over the panel as well.
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        score : ndarray of shape (n,), float64
            Mean over the panel. After `fit` in the unit of its y, higher is better; with loaded weights alone the
            output of the network.
        spread : ndarray of shape (n,), float64
            Standard deviation over the members, of each the mean over the crops, in the unit of the score; with
            `return_std` only. The members share all but one vector and were trained on their mean: it ranks images by
            uncertainty and is no calibrated error bar.

        Raises
        ------
        NotFittedError, ValueError, TypeError, FileNotFoundError
            When nothing was fitted or loaded, or a row of X cannot be used; the message says what to do.
        """
        if not return_std:
            return super().predict(X, on_error=on_error)
        scores = self._panel(X, on_error)
        return scores.mean(1), scores.std(1)

    def predict_panel(self, X):
        """Score of each panel member for each image of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".

        Returns
        -------
        scores : ndarray of shape (n, n_members), float64
            In the unit of `predict`, which returns their mean.
        """
        return self._panel(X)

    def _panel(self, X, on_error="raise"):
        scores = self._tabulate(X, lambda output: output.double().mean(0).numpy(), on_error, (self.n_members,))
        return self._to_label_unit(scores)

    def _network(self):
        vit = timm_backbones.build_backbone(self.backbone, num_classes=0)
        if getattr(vit, "cls_token", None) is None or not hasattr(vit, "blocks"):
            raise ValueError(
                f"backbone={self.backbone!r} is no plain vision transformer with a class token; take one such as "
                "'test_vit'."
            )
        return DEIQTNetwork(vit, self.n_members)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.vit, self.backbone, self.backbone_weights)

    def _loss(self):
        return PanelLoss(beta=LINEAR_FROM)

    def _net_params(self):
        n_before, warmup, lr_step = self.n_iter_, self.warmup_epochs, self.lr_step

        def factor(n):  # of epoch n of this net; in closed form, since partial_fit builds the schedule anew
            epoch = n_before + n
            if epoch < warmup:
                return WARMUP_START + (1 - WARMUP_START) * epoch / warmup
            # NOTE[DIFF] older releases of timm count the steps from the first epoch, newer ones after the warm-up.
            return 0.1 ** ((epoch - warmup) // lr_step)

        return {
            "optimizer__weight_decay": self.weight_decay,
            "optimizer__param_groups": [(pattern, {"weight_decay": 0.0}) for pattern in UNDECAYED],
            "callbacks": [
                ("schedule", skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor)),
                ("clipping", skorch.callbacks.GradientNormClipping(CLIPPED)),
            ],
        }

    def _train_view(self, x):
        return transforms.random_flip(self._normalized(transforms.random_square(self._enlarged(x), self._side)))

    def _views(self, x):
        # NOTE[DIFF] official: one generator for all images.
        kind = {"crops": self.crops, "random_state": self.random_state}
        image = self._enlarged(x)
        places = transforms.places_to_score(image, self._side, self.n_crops, content=x, **kind)
        return transforms.squares(image, places, self._side, self._normalized)

    @property
    def _side(self) -> int:
        return self.network_.vit.patch_embed.img_size[0]

    def _enlarged(self, image):
        """Resized to `image_size`; then no side is shorter than a crop's."""
        if self.image_size is not None:
            image = transforms.resize(image, *self.image_size, Image.Resampling.BILINEAR)
        if min(image.shape[:2]) < self._side:
            image = transforms.resize_shorter(image, self._side, Image.Resampling.BICUBIC)
        return image

    def _normalized(self, image) -> torch.Tensor:
        config = timm_backbones.input_config(self.backbone)
        return transforms.normalize(transforms.to_tensor(image), config["mean"], config["std"])

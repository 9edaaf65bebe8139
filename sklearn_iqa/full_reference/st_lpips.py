# SPDX-License-Identifier: BSD-3-Clause
"""ST-LPIPS: LPIPS that tolerates small shifts, by blurring before every subsampling (Ghildyal and Liu, ECCV 2022)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._base.parameters import STOPPING, TRAINING, at_least, one_of
from sklearn_iqa._base.perceptual import PerceptualMixin
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn.layers import PerceptualDistance, SlicedBackbone
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile, pyiqa_file

# Channels of the maps, and the shortest side for which every reflection padding has something to reflect.
SLICED_BACKBONES = {"alex": ((64, 192, 384, 256, 256), 21), "vgg": ((64, 128, 256, 512, 512), 18)}
# The heads are in the state dict twice, as lin0 and as lins.0 (one parameter); scaling and blur are constants.
KEY_MAP = ((r"^lins\.(\d)\.", r"lin\1."), (r"^scaling_layer\.", None), (r"\.filt$", None))
DIGESTS = {
    "alex": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}
PUBLISHED = tuple(
    PublishedWeights(
        name=f"{net}-bapps",
        files=(
            WeightsFile(
                f"{net}_shift_tolerant.pth",
                digest,
                urls=pyiqa_file(f"{net}_shift_tolerant.pth").urls,
                wheel="stlpips_pytorch",
                wheel_path=f"stlpips_pytorch/weights/vST0.0/{net}_shift_tolerant.pth",
            ),
        ),
        source="https://github.com/abhijay9/ShiftTolerant-LPIPS",
        licence="BSD-2-Clause",
        trained_on="BAPPS 2AFC",
        parameters={"net": net},
    )
    for net, digest in DIGESTS.items()
)


class Blur(nn.Module):
    """Binomial 3x3 filter with stride 2 behind a reflection padding of 2: (n, c, h, w) -> (n, c, h // 2 + 1, ...)."""

    kernel_size, stride, padding = 3, 2, 2

    def __init__(self, n_channels: int):
        super().__init__()
        binomial = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(binomial, binomial) / 16
        self.register_buffer("filt", kernel.repeat(n_channels, 1, 1, 1), persistent=False)

    def forward(self, features):
        """Blur and subsample every channel by itself."""
        padded = F.pad(features, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.filt, stride=2, groups=len(self.filt))


def _alex_slices():
    layers = [
        # NOTE[DIFF] AlexNet: stride 4 in the first convolution, ReLU right behind it; here blur before ReLU.
        [nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU()],
        [nn.MaxPool2d(3, 1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, 1), Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]
    return _numbered(layers)


def _vgg_slices():
    layers, n_before = [], 3
    for level, (n_channels, n_convolutions) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        chain = [nn.MaxPool2d(2, 1), Blur(n_before)] if level else []
        for _ in range(n_convolutions):
            chain += [_vgg_convolution(n_before, n_channels), nn.ReLU()]
            n_before = n_channels
        layers.append(chain)
    return _numbered(layers)


def _vgg_convolution(n_before, n_channels):
    """3x3 convolution that starts as the official VGG-16 does (He's initialisation, no bias); AlexNet keeps PyTorch's.

    Of PyTorch's own start a sixth of the power is left behind each of 13 ReLUs, and biases take over: the last map
    hardly depends on the image (distances there 1e-10, now 4e-5), and gradients (1e-12) lie below Adam's epsilon.
    """
    convolution = nn.Conv2d(n_before, n_channels, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(convolution.bias)
    return convolution


def _numbered(layers):
    """Number the layers through all slices, as the official state dict does."""
    start, slices = 0, []
    for chain in layers:
        slices.append(list(enumerate(chain, start=start)))
        start += len(chain)
    return slices


class STLPIPS(PerceptualMixin, QualityRegressor):
    r"""Shift-tolerant LPIPS: a distance of deep features that small shifts hardly move.

    The distance is that of :class:`LPIPS`; its backbone blurs before every subsampling, so that a misalignment of one
    to three pixels, which people do not see, changes the score little. The backbone is trained with the channel
    weights, from random numbers. The score is 0 for identical images, typically below 1, **lower is better**; symmetric
    in its arguments.

    Parameters
    ----------
    net : {"alex", "vgg"}, default="alex"
        Backbone, after AlexNet or VGG-16. Scores of different backbones cannot be compared.
    trainable : {"all", "heads"}, default="all"
        What `fit` changes: backbone and channel weights, as in the paper, or the channel weights alone.
    crop_size : int, default=64
        Side of the random crop that training takes of each pair, in pixels; smaller images are enlarged to it.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    batch_size : int, default=50
        Rows in one step of training.
    max_epochs : int, default=10
        Passes over the training data.
    lr : float, default=1e-4
        Learning rate.
    early_stopping : bool, default=False
        Whether to hold out a part of the training data, to stop when its Spearman correlation (of triplets its 2AFC
        score) no longer rises, and to keep the best weights. Rows that share a reference are held out together.
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
        The network: pairs (n, 2, 3, height, width) in [-1, 1] -> distance (n,).
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
        Spearman correlation, of triplets 2AFC score, on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    LPIPS : The distance without shift tolerance, on ImageNet backbones.

    Notes
    -----
    Published weights: "alex-bapps" ("default") and "vgg-bapps", both in the installed package `stlpips_pytorch` (extra
    `demo`), else downloaded; `net` follows them.

    `fit` takes pairs with their quality or judged triplets, see :class:`LPIPS`. The official code resizes training
    patches to 64 pixels (bicubic), here crops of that size are taken. The per-layer scores of the official code count
    the total in place of the first layer; `network_.layer_distances` gives the first layer's own contribution.

    References
    ----------
    .. [1] A. Ghildyal, F. Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022.
       https://github.com/abhijay9/ShiftTolerant-LPIPS

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import STLPIPS
    >>> image = np.tile(np.arange(64, dtype=np.uint8)[:, None], (1, 64))
    >>> stlpips = STLPIPS(random_state=0).initialize()
    >>> float(stlpips.predict([(image, image)])[0])
    0.0
    """

    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        "net": [one_of(*SLICED_BACKBONES)],
        "trainable": [one_of("all", "heads")],
        "crop_size": [at_least(1)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "net": "alex",
        "crop_size": 32,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        net="alex",
        trainable="all",
        crop_size=64,
        weights=None,
        batch_size=50,
        max_epochs=10,
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
        self.net = net
        self.trainable = trainable
        self.crop_size = crop_size
        self.weights = weights
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
    def min_size(self):
        """Shortest side in pixels that the backbone takes."""
        return SLICED_BACKBONES[self._chosen.net][1]

    def _network(self):
        slices = _alex_slices() if self._chosen.net == "alex" else _vgg_slices()
        network = PerceptualDistance(SlicedBackbone(slices), SLICED_BACKBONES[self._chosen.net][0])
        network.net.requires_grad_(self.trainable == "all")
        return network

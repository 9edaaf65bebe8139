# SPDX-License-Identifier: BSD-3-Clause
"""MBC-GIQA: binary classifiers of quality above thresholds (Gu et al., ECCV 2020).

The paper's two other scorers, by the density of features of good images, are in `giqa_inception`.
"""

from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import skorch.callbacks
import torch
import torch.nn.functional as F
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Options
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from sklearn_iqa._base.calibration import EpochLine
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import STOPPING, TRAINING, SequenceOf, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn.layers import Float32Linear
from sklearn_iqa._nn.transforms import central_square, normalize, random_flip, random_square, to_tensor

CIFAR_MEAN, CIFAR_STD = (
    (0.4914, 0.4822, 0.4465),
    (0.2023, 0.1994, 0.2010),
)  # of the code that the official one grew from
# VGG-19: width of each stage, as a multiple of the first, and its number of convolutions.
VGG19 = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
ROTATION = 15  # degrees, at most, in training
# Input side -> (max pools, further convolutions before the sixth), official configurations. Up to a side of 128 the
# network is trained on patches, and at test the map of the whole image is cut into patches of the trained size.
POOLS = {32: (3, 0), 64: (4, 0), 128: (5, 0), 192: (6, 0), 224: (5, 0), 256: (6, 2)}
LARGEST_PATCH = 128
STEPS = (1 / 4, 1 / 2, 3 / 4)  # of the epochs, where the learning rate falls tenfold

KEY_MAP = ((r"^module\.", ""),)


class GIQAOutput(NamedTuple):
    """Output of the network for n images: probabilities (n, n_classifiers) and their logits."""

    probabilities: torch.Tensor
    logits: torch.Tensor


class GIQANetwork(nn.Module):
    """VGG-19 with batch normalisation, two linear layers, and a sigmoid for each classifier.

    Parameters
    ----------
    n_classifiers : int
        Outputs.
    input_size : {32, 64, 128, 192, 224, 256}
        Side of the training crops in pixels, which determines the number of max pools.
    n_channels : int, default=64
        Channels of the first stage.
    """

    def __init__(self, n_classifiers: int, input_size: int, n_channels: int = 64):
        super().__init__()
        n_pools, n_further = POOLS[input_size]
        layers: list[nn.Module] = []
        n_before = 3
        for stage, (multiple, n_convolutions) in enumerate(VGG19, start=1):
            for _ in range(n_convolutions):
                layers += _convolution(n_before, multiple * n_channels)
                n_before = multiple * n_channels
            if stage <= n_pools:
                layers.append(nn.MaxPool2d(2))
        for _ in range(n_further):
            layers += _convolution(n_before, n_before)
        if n_pools > len(VGG19):
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.n_cells = input_size // 2**n_pools
        self.regression1 = nn.Linear(n_before * self.n_cells**2, 16 * n_channels)
        self.regression2 = Float32Linear(16 * n_channels, n_classifiers)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # all have one
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, images):
        """(n, 3, h, w), normalised, h and w at least the input size -> `GIQAOutput`, the mean over patches."""
        features = self.features(images)  # (n, c, h', w')
        patches = F.unfold(features, self.n_cells, stride=self.n_cells).mT  # (n, p, c * n_cells^2)
        logits = self.regression2(self.regression1(patches).relu())  # (n, p, n_classifiers)
        return GIQAOutput(logits.sigmoid().mean(1), logits.mean(1))


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


class ClassifiersLoss(nn.Module):
    """Mean binary cross-entropy of all classifiers."""

    def forward(self, output, targets):
        """`GIQAOutput` of n images, and their classes (n, n_classifiers or more columns) in {0, 1} -> number."""
        return F.binary_cross_entropy(output.probabilities, targets[:, : output.probabilities.shape[1]])


class GIQA(QualityRegressor):
    r"""Generated Image Quality Assessment by multiple binary classifiers (MBC-GIQA).

    The labels y may be as noisy as the iteration at which a generator made an image. A binary classifier for each of
    several thresholds :math:`t_j` predicts :math:`y > t_j`, and the score is the sum of their probabilities,

    .. math:: s(x) = \sum_j P(y > t_j \mid x) .

    One more classifier discriminates real images from generated ones. With loaded weights alone the score is in
    0..n_thresholds + 1, **higher is better**.

    Parameters
    ----------
    n_thresholds : int, default=7
        Number of thresholds; there is one classifier more.
    thresholds : tuple of float, default=None
        The thresholds in the unit of y, increasing. None takes evenly spaced quantiles of y in `fit`.
    input_size : {32, 64, 128, 192, 224, 256}, default=192
        Side of the crops in pixels. Up to 128 they are patches, and the probabilities of an image are the mean over all
        of its patches; from 192 on they are those of its central crop.
    n_channels : int, default=64
        Channels of the network's first stage; 64 makes VGG-19.
    weight_decay : float, default=5e-4
        Weight decay.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    batch_size : int, default=512
        Rows in one step of training.
    max_epochs : int, default=112
        Passes over the training data.
    lr : float, default=0.05
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
        The network: images (n, 3, height, width), normalised -> `GIQAOutput` of probabilities and logits
        (n, n_thresholds + 1).
    thresholds_ : ndarray of shape (n_thresholds,)
        The thresholds in the unit of y; after `fit` only.
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
    GMMGIQA : The same paper's score by a mixture of Gaussians over features of good images.
    KNNGIQA : The same paper's score by the nearest features of good images.

    Notes
    -----
    For a generator's images take the iteration as y; the paper's thresholds are 190, 280, ..., 730 thousand. Without
    real images the last classifier learns to predict 0. After `fit` a least-squares line maps scores to the unit of y;
    `partial_fit` takes it from the crops of its steps, and opens no image again.

    The network starts from random weights, as in the paper; the authors published none. In training the official code
    rotates and mirrors crops of 192 from images of 256 pixels; here crops come from the native image. Input sizes 32
    and 64 omit the last max pools (inferred). The published code has no licence; this one was written from a
    description.

    References
    ----------
    .. [1] S. Gu, J. Bao, D. Chen, F. Wen, "GIQA: Generated Image Quality Assessment", ECCV 2020.
       https://github.com/cientgu/GIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import GIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    >>> giqa = GIQA(n_thresholds=2, input_size=32, n_channels=4, batch_size=4, max_epochs=1, random_state=0)
    >>> giqa.fit(images, [1000, 2000, 3000, 0], real=[0, 0, 0, 1]).predict_probabilities(images).shape
    (4, 3)
    """

    optimizer = torch.optim.SGD
    key_map = KEY_MAP

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        "n_thresholds": [at_least(1)],
        "thresholds": [SequenceOf(Real), None],
        "input_size": [Options(Integral, set(POOLS))],
        "n_channels": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_thresholds": 2,
        "input_size": 32,
        "n_channels": 2,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.01,
    }

    def __init__(
        self,
        *,
        n_thresholds=7,
        thresholds=None,
        input_size=192,
        n_channels=64,
        weight_decay=5e-4,
        weights=None,
        batch_size=512,
        max_epochs=112,
        lr=0.05,
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
        self.n_thresholds = n_thresholds
        self.thresholds = thresholds
        self.input_size = input_size
        self.n_channels = n_channels
        self.weight_decay = weight_decay
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
        """Shortest side in pixels that the network takes."""
        return self.input_size

    @property
    def score_range(self):
        """Range of the published number: the sum of all probabilities."""
        return (0.0, self.n_thresholds + 1.0)

    def fit(self, X, y, sample_weight=None, *, real=None):
        """Train on images and their labels.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each row, or a noisy proxy that increases with it, such as the iteration of a generator.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others; None draws each once per epoch.
        real : array-like of shape (n,) of bool, default=None
            Which rows are real images, labelled as above all thresholds; their y is not used.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y, real or a parameter cannot be used; the message names it and says what to do.
        """
        return self._fit(X, y, sample_weight, real=real)

    def partial_fit(self, X, y, sample_weight=None, *, real=None):
        """Train for one epoch, going on from where the estimator stands, and learn the unit of this y.

        The first call builds the network and sets the thresholds; later calls keep them.

        Parameters
        ----------
        X, y, sample_weight, real
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, real=real)

    def predict_probabilities(self, X):
        """Probabilities that an image is above each threshold, and that it is real.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".

        Returns
        -------
        probabilities : ndarray of shape (n, n_thresholds + 1), float32
            Columns in the order of `thresholds_`; the last is the probability of a real image.
        """
        check_ready(self)
        outputs = dict(self._infer_all(self._rows(X)))
        return np.stack([outputs[row].probabilities[0].numpy() for row in range(len(outputs))])

    def _network(self):
        return GIQANetwork(self.n_thresholds + 1, self.input_size, self.n_channels)

    def _loss(self):
        return ClassifiersLoss()

    def _views(self, image):
        if self.input_size > LARGEST_PATCH:
            image = central_square(image, self.input_size)
        return normalize(to_tensor(image), CIFAR_MEAN, CIFAR_STD)[None]

    def _train_view(self, image):
        crop = to_tensor(random_square(image, self.input_size))
        angle = float(torch.empty(()).uniform_(-ROTATION, ROTATION))
        turned = rotate(crop, angle, interpolation=InterpolationMode.NEAREST)  # corners become black, as officially
        return normalize(random_flip(turned), CIFAR_MEAN, CIFAR_STD)

    def _score(self, output):
        return output.probabilities.double().sum().item()

    def _net_params(self) -> dict[str, Any]:
        n_before, ends = self.n_iter_, [max(1, round(self.max_epochs * step)) for step in STEPS]

        def factor(epoch):
            return 0.1 ** sum(n_before + epoch >= end for end in ends)

        return {
            "optimizer__momentum": 0.9,
            "optimizer__weight_decay": self.weight_decay,
            "callbacks": [
                ("schedule", skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor)),
                ("line", EpochLine(lambda output, target: (output.probabilities.sum(1), target[:, -1]))),
            ],
        }

    def _check_combinations(self):
        if self.thresholds is not None:
            given = np.asarray(self.thresholds, dtype=float)
            if given.shape != (self.n_thresholds,) or not (np.diff(given) > 0).all():
                raise ValueError(
                    f"thresholds={self.thresholds!r} must be n_thresholds={self.n_thresholds} rising numbers; give as "
                    "many, or None for quantiles of y."
                )

    def _check_targets(self, rows, y, real=None) -> np.ndarray:
        """Label and whether the image is real: (n, 2)."""
        y = check_quality(rows, y, type(self).__name__)
        real = np.zeros(len(y)) if real is None else column_or_1d(real, dtype=np.float64)
        check_consistent_length(rows, real)
        if not np.isin(real, (0, 1)).all() or real.all():
            raise ValueError("real must be true or false for each row, and false for some, which are learned from y.")
        return np.stack([y, real], axis=1)

    def _quality(self, targets):
        if targets.ndim == 1:
            return targets
        return np.where(targets[:, 1] > 0, targets[:, 0].max(), targets[:, 0])

    def _start(self, targets, sample_weight):
        if self.thresholds is None:
            levels = np.arange(1, self.n_thresholds + 1) / (self.n_thresholds + 1)
            self.thresholds_ = np.quantile(targets[targets[:, 1] == 0, 0], levels)
        else:
            self.thresholds_ = np.asarray(self.thresholds, dtype=np.float64)

    def _encode_targets(self, targets):
        y, real = targets[:, :1], targets[:, 1:] > 0
        classes = np.concatenate([(y > self.thresholds_) | real, real], axis=1)
        # The last column is for the line alone.
        return np.column_stack([classes, self._quality(targets)]).astype(np.float32)

    def _finish(self, rows, targets, sample_weight):
        self._calibrate(rows, targets, sample_weight)

    def _finish_epoch(self, rows, targets, sample_weight):
        self.label_scale_ = dict(self.net_.callbacks_)["line"].line()

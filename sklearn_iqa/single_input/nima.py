# SPDX-License-Identifier: BSD-3-Clause
"""NIMA: the distribution of ratings from a fine-tuned classifier (Talebi and Milanfar, IEEE TIP 2018).

There is no official code: the network of chaofengc/IQA-PyTorch (pyiqa) is the default, parameters select others.
"""

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import Options
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, STOPPING, TRAINING, at_least, one_of, within
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import Float32Sequential
from sklearn_iqa._nn.losses import EarthMoversLoss, rating_histograms
from sklearn_iqa._nn.transforms import center_crop, normalize, random_crop, random_flip, to_tensor
from sklearn_iqa._weights.pretrained import PYIQA_LICENCE, PYIQA_SOURCE, PublishedWeights, pyiqa_file

HEAD_RATE = 10  # learning rate of the new layer, in units of the backbone's: paper 3e-6 to 3e-7, pyiqa 5e-4 to 5e-5
# Shorter side before the random crop, by input size: 256 in the paper, 330 in pyiqa; otherwise a tenth more.
TRAINING_SIDES = {224: 256, 299: 330}
# The published MobileNets come from Keras: batch normalisation with 1e-3, padding at the bottom and right.
BACKBONE_FACTS = {"mobilenetv1_100": {"pad_type": "same", "bn_eps": 1e-3}}
RESNET_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
KEY_MAP = (
    (r"^base_model\.features_(\d+)\.", r"base_model.features.\1."),  # pyiqa's VGG, flattened by timm
    (r"^features\.(?:module\.)?(\d+)\.", r"base_model.features.\1."),  # kentsyx
    (r"^classifier\.1\.", "classifier.2."),
    # truskovskiyk: the children of torchvision's ResNet by number
    *((rf"^base_model\.{i}\.", f"base_model.{name}.") for i, name in RESNET_CHILDREN.items()),
    (r"^head\.2\.", "classifier.2."),
)
# The first file is named Inception-v2, but is Inception-ResNet-v2.
PUBLISHED = tuple(
    PublishedWeights(
        name=name,
        files=(pyiqa_file(filename),),
        source=PYIQA_SOURCE,
        licence=PYIQA_LICENCE,
        trained_on=trained_on,
        parameters={"backbone": backbone, "n_bins": n_bins, "pooling": "mean", "normalize": True},
    )
    for name, filename, trained_on, backbone, n_bins in (
        ("ava", "NIMA_InceptionV2_ava-b0c77c00.pth", "AVA", "inception_resnet_v2", 10),
        ("ava-vgg16", "NIMA_VGG16_ava-dc4e8265.pth", "AVA", "vgg16", 10),
        ("koniq", "NIMA_koniq-250367ae.pth", "KonIQ-10k", "inception_resnet_v2", 1),
        ("spaq", "NIMA-spaq-46a7fcb7.pth", "SPAQ", "inception_resnet_v2", 1),
    )
)


class NIMANetwork(nn.Module):
    """A timm network whose last layer is replaced by one for the probabilities of the ratings 1..n_bins."""

    # Inception's many small convolutions leave a processor idle with fewer images.
    pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**19}

    def __init__(self, base_model: nn.Module, n_bins: int, pooling: str, dropout: float, image_size: int):
        super().__init__()
        self.pooling = pooling
        self.base_model = base_model.eval()  # probing must not move running means
        n_features = self._n_features(torch.zeros(1, 3, image_size, image_size))
        self.classifier = Float32Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(n_features, n_bins))

    def forward(self, images):
        """Normalised images (n, 3, h, w) -> probabilities (n, n_bins) that sum to 1; with one bin its number (n, 1)."""
        logits = self.classifier(self.features(images))
        return logits.softmax(1) if logits.shape[1] > 1 else logits

    def features(self, images):
        """Normalised images (n, 3, h, w) -> input of the last layer, (n, c) or (n, c, h', w')."""
        maps = self.base_model.forward_features(images)  # (n, c, h', w')
        if self.pooling == "backbone":
            return self.base_model.forward_head(maps, pre_logits=True)  # (n, c)
        return maps.mean((2, 3)) if self.pooling == "mean" else maps

    @torch.no_grad()
    def _n_features(self, images):
        try:
            maps = self.base_model.forward_features(images)
        except RuntimeError as error:
            side = images.shape[-1]
            raise ValueError(f"The backbone cannot take {side} x {side} pixels; set a larger image_size.") from error
        layout = getattr(self.base_model, "output_fmt", "NCHW")  # timm names those that keep channels last
        if self.pooling != "backbone" and (maps.ndim != 4 or layout != "NCHW"):
            raise ValueError(f"The backbone has no map for pooling={self.pooling!r}; set pooling='backbone'.")
        return self.features(images)[0].numel()


class NIMA(QualityRegressor):
    r"""Neural Image Assessment: the predicted distribution of human ratings.

    An ImageNet classifier with a new last layer, a softmax over the ratings :math:`1, \dots, K`, is trained on the
    histogram :math:`q` of human ratings with the distance of the cumulative histograms,

    .. math:: \Big(\frac1K \sum_{k=1}^{K} \big|P_k - Q_k\big|^r\Big)^{1/r}, \quad P_k = \sum_{i \le k} p_i, \quad r = 2.

    The score is the mean rating :math:`\sum_i i\,p_i`, from 1 to K = 10, **higher is better**; the standard deviation
    of the histogram estimates the disagreement of raters.

    Parameters
    ----------
    backbone : str, default="inception_resnet_v2"
        Network of timm. The paper has "vgg16" with `pooling="backbone"`, MobileNet ("mobilenetv1_100"), Inception-v2.
    n_bins : int, default=10
        Ratings are 1 to `n_bins`, at least 3. With 1 the last layer predicts one number without softmax, trained with
        the absolute error, and there is no histogram.
    pooling : {"mean", "flatten", "backbone"}, default="mean"
        Input of the last layer: the mean of the last feature map, all its values, or the input of the backbone's own
        classifier (for "vgg16" the output of fc7, for transformers the class token).
    dropout : float, default=0.75
        Dropout probability before the last layer, in [0, 1).
    image_size : int, default=None
        Side of the network's square input in pixels, to which the shorter side of every image is resized. None takes
        that of the backbone's pretraining, mostly 224 or 299, as the paper does. Shrinking removes noise and blur:
        where these make the quality, take a side near that of the images (see the method's page for figures).
    normalize : bool, default=True
        Whether pixels are normalised as in the backbone's pretraining; otherwise they are in 0..1.
    rating_std : float, default=1.4
        Standard deviation of the ratings, in bins, where y gives only their mean; about the mean of AVA.
    solver : {"adam", "sgd"}, default="adam"
        Optimiser: Adam as in pyiqa, or the paper's gradient descent with `momentum`; see Notes.
    momentum : float, default=0.9
        Momentum of the gradient descent, in [0, 1); only for `solver="sgd"`.
    lr_decay : float, default=0.95
        Factor of the learning rates every `lr_step` epochs, in (0, 1]; 1 keeps them.
    lr_step : int, default=10
        Epochs between two such falls, counted over all calls of `partial_fit`.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=64
        Rows in one step of training.
    max_epochs : int, default=20
        Passes over the training data.
    lr : float, default=5e-5
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
        The network: normalised images (n, 3, height, width) -> probabilities of the ratings (n, n_bins), which sum to
        1.
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
    Published weights, all of pyiqa and not for commercial use: "ava" (the default) and "ava-vgg16", trained on AVA's
    histograms (taste rather than distortion); "koniq" and "spaq", one number from about 0 to 1. They set `backbone` and
    `n_bins`. Files of kentsyx, truskovskiyk and idealo load too, see the method's page.

    `fit` takes y of shape (n,), quality in any unit; (n, 2), mean and standard deviation of the ratings in any unit; or
    (n, n_bins), counts or fractions of the ratings 1..n_bins, which are then the unit of `predict`. The first two are
    mapped to ratings, worst 2 and best 9 of 1..10, and converted to the histogram of maximal entropy with that mean and
    standard deviation, clipped to the possible range. With `n_bins=1` y is (n,), mapped to 0..1.

    Inference follows pyiqa: the shorter side is resized to `image_size`, which removes fine detail, and the centre is
    cropped. So does training: Adam, ten times `lr` for the last layer, random crops and flips. The paper's own recipe
    is ``solver="sgd", lr=3e-7``, with the other defaults. It did not converge for kentsyx, which takes ``lr=3e-4``.

    References
    ----------
    .. [1] H. Talebi, P. Milanfar, "NIMA: Neural Image Assessment", IEEE Transactions on Image Processing 27(8), 2018.
       Implementation followed: https://github.com/chaofengc/IQA-PyTorch

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import NIMA
    >>> image = np.tile(np.arange(160, dtype=np.uint8)[:, None], (1, 160))
    >>> nima = NIMA(backbone="test_resnet", backbone_weights=None, random_state=0).initialize()
    >>> nima.predict_distribution([image]).shape
    (1, 10)
    """

    key_map = KEY_MAP
    published = PUBLISHED
    label_columns = True

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "backbone": [str],
        "n_bins": [Options(Integral, {1}), at_least(3)],
        "pooling": [one_of("mean", "flatten", "backbone")],
        "dropout": [within(0, 1, closed="left")],
        "image_size": [at_least(1), None],
        "normalize": ["boolean"],
        "rating_std": [POSITIVE],
        "solver": [one_of("adam", "sgd")],
        "momentum": [within(0, 1, closed="left")],
        "lr_decay": [within(0, 1, closed="right")],
        "lr_step": [at_least(1)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "image_size": 40,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        backbone="inception_resnet_v2",
        n_bins=10,
        pooling="mean",
        dropout=0.75,
        image_size=None,
        normalize=True,
        rating_std=1.4,
        solver="adam",
        momentum=0.9,
        lr_decay=0.95,
        lr_step=10,
        weights=None,
        backbone_weights="imagenet",
        batch_size=64,
        max_epochs=20,
        lr=5e-5,
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
        self.backbone = backbone
        self.n_bins = n_bins
        self.pooling = pooling
        self.dropout = dropout
        self.image_size = image_size
        self.normalize = normalize
        self.rating_std = rating_std
        self.solver = solver
        self.momentum = momentum
        self.lr_decay = lr_decay
        self.lr_step = lr_step
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
    def score_range(self):
        """Lowest and highest rating; with one bin the number has no bounds."""
        n_bins = self._chosen.n_bins
        return (1.0, float(n_bins)) if n_bins > 1 else (-np.inf, np.inf)

    @property
    def label_range(self):
        """Ratings to which the worst and the best label are mapped: 2 and 9 of 1..10, with a margin for histograms."""
        n_bins = self._chosen.n_bins
        margin = (n_bins - 1) / 9
        return (1 + margin, n_bins - margin) if n_bins > 1 else (0.0, 1.0)

    def predict(self, X, return_std=False, *, on_error="raise"):
        """Quality of each row of X, and the predicted standard deviation of ratings.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        return_std : bool, default=False
            Whether to return the standard deviation of the histograms as well.
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        score : ndarray of shape (n,), float64
            Mean of the histogram: after `fit` in the unit of its y, otherwise a rating in 1..n_bins. Higher is better.
        std : ndarray of shape (n,), float64
            Its standard deviation in the same unit; with `return_std` only.

        Raises
        ------
        NotFittedError, ValueError, TypeError, FileNotFoundError
            When there is no network or no histogram, or a row of X cannot be used; the message says what to do.
        """
        if not return_std:
            return super().predict(X, on_error=on_error)
        probabilities = self._distribution(X, on_error)
        mean = probabilities @ self._ratings
        std = np.sqrt((probabilities * (self._ratings - mean[:, None]) ** 2).sum(1))
        return self._to_label_unit(mean), std * getattr(self, "label_scale_", (1.0, 0.0))[0]

    def predict_distribution(self, X):
        """Predicted distribution of the ratings of each row of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".

        Returns
        -------
        probabilities : ndarray of shape (n, n_bins), float64
            Probabilities of the ratings 1..n_bins; each row sums to 1. With `label_scale_` = (slope, intercept) rating
            i is ``slope * i + intercept`` in the unit of y.
        """
        return self._distribution(X)

    def _distribution(self, X, on_error="raise"):
        check_ready(self)
        if self._chosen.n_bins == 1:
            raise ValueError("With n_bins=1 NIMA gives one number and no histogram; set n_bins=10 and fit again.")
        return self._tabulate(X, lambda output: output.double().mean(0).numpy(), on_error, (self._chosen.n_bins,))

    def _score(self, output):
        return float(output.double().mean(0).numpy() @ self._ratings)

    @property
    def _ratings(self) -> np.ndarray:
        return np.arange(1, self._chosen.n_bins + 1)

    def _network(self):
        chosen = self._chosen
        facts = BACKBONE_FACTS.get(chosen.backbone.partition(".")[0], {})
        if timm_backbones.input_config(chosen.backbone)["fixed_input_size"]:
            facts = {"img_size": self._side}
        base_model = timm_backbones.build_backbone(chosen.backbone, num_classes=0, **facts)
        if chosen.pooling != "backbone" and hasattr(base_model, "pre_logits"):  # fc6 and fc7 of VGG
            base_model.pre_logits = nn.Identity()
        return NIMANetwork(base_model, chosen.n_bins, chosen.pooling, self.dropout, self._side)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.base_model, self._chosen.backbone, self.backbone_weights)

    @property
    def _side(self) -> int:
        config = timm_backbones.input_config(self._chosen.backbone)
        return config["input_size"][-1] if self.image_size is None else self.image_size

    def _view(self, x, side: int, crop):
        # pyiqa resizes float tensors, bilinearly and antialiased; Pillow would round to 8 bits.
        pixels = crop(torchvision.transforms.functional.resize(to_tensor(x), [side], antialias=True), self._side)
        config = timm_backbones.input_config(self._chosen.backbone)
        return normalize(pixels, config["mean"], config["std"]) if self._chosen.normalize else pixels

    def _views(self, x):
        # NOTE[DIFF] kentsyx tests on a random crop, idealo and truskovskiyk resize ignoring the aspect.
        return self._view(x, self._side, center_crop)[None]  # (1, 3, side, side)

    def _train_view(self, x):
        # NOTE[DIFF] paper: resized to 256 x 256; here the aspect is kept, as in pyiqa and kentsyx.
        return random_flip(self._view(x, TRAINING_SIDES.get(self._side, round(1.1 * self._side)), random_crop))

    def _loss(self):
        return EarthMoversLoss(r=2) if self._chosen.n_bins > 1 else nn.L1Loss()

    def _net_params(self):
        n_before = self.n_iter_  # above 0 without an earlier net, as after unpickling
        decay, step = self.lr_decay, self.lr_step
        schedule = LRScheduler("LambdaLR", lr_lambda=lambda epoch: decay ** ((n_before + epoch) // step))
        # NOTE[DIFF] paper: gradient descent; pyiqa: Adam.
        descent = {"optimizer": torch.optim.SGD, "optimizer__momentum": self.momentum} if self.solver == "sgd" else {}
        return {
            **descent,
            "optimizer__param_groups": [("classifier.*", {"lr": HEAD_RATE * self.lr})],
            "callbacks": [("schedule", schedule)],
        }

    def _take_changes(self):
        if self.solver != self._built_from["solver"] and hasattr(self, "net_"):
            self.net_.optimizer_.state.clear()  # what one optimiser remembers means nothing to the other
        super()._take_changes()

    def _check_targets(self, rows, y):
        if y is None or np.ndim(y) != 2 or np.shape(y)[1] == 1:
            return check_quality(rows, y, type(self).__name__)
        y = check_array(y, dtype=np.float64, input_name="y")
        check_consistent_length(rows, y)
        counts = self._holds_counts(y)
        if not counts and (self._chosen.n_bins == 1 or y.shape[1] != 2):
            raise ValueError(
                f"y has the shape {y.shape}, but NIMA takes (n,) qualities and, with n_bins above 1, (n, 2) means and "
                f"deviations or (n, n_bins) counts of ratings; n_bins is {self._chosen.n_bins}: set it, or give "
                "another y."
            )
        wrong = (y < 0).any(1) | (y.sum(1) == 0) if counts else y[:, 1] < 0
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            need = "counts that are not negative and not all zero" if counts else "a standard deviation of at least 0"
            raise ValueError(f"Row {row} of y is {y[row].tolist()}, but needs {need}; correct it or leave the row out.")
        return y / y.sum(1, keepdims=True) if counts else y

    def _holds_counts(self, targets) -> bool:
        return targets.ndim == 2 and targets.shape[1] == self._chosen.n_bins > 1

    def _quality(self, targets):
        if self._holds_counts(targets):
            return targets @ self._ratings / targets.sum(1)
        return targets.reshape(len(targets), -1)[:, 0]

    def _start(self, targets, sample_weight):
        super()._start(targets, sample_weight)
        if self._holds_counts(targets):
            self.label_scale_ = (1.0, 0.0)  # y is in ratings

    def _encode_targets(self, targets):
        slope, intercept = self.label_scale_
        if self._holds_counts(targets):
            if (slope, intercept) != (1.0, 0.0):
                raise ValueError("y has counts, but training began in another unit of quality; continue in that unit.")
            return targets
        mean = (self._quality(targets) - intercept) / slope
        if self._chosen.n_bins == 1:
            return mean[:, None]
        std = targets[:, 1] / slope if targets.ndim == 2 else np.full_like(mean, self.rating_std)
        return rating_histograms(mean, std, self._chosen.n_bins)

# SPDX-License-Identifier: BSD-3-Clause
"""UNIQUE: quality and its uncertainty, learned from pairs of many data sets (Zhang et al., IEEE TIP 2021)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import skorch.callbacks
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sklearn_iqa._base.calibration import EpochLine
from sklearn_iqa._base.domains import DomainsMixin, domain_numbers, numbers_by_domain
from sklearn_iqa._base.parameters import PRETRAINED, PROTOCOL, STOPPING, TRAINING, at_least, non_negative, one_of
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn.layers import Float32Linear, in_float32
from sklearn_iqa._nn.losses import FidelityLoss
from sklearn_iqa._nn.timm_backbones import build_backbone, input_config, load_backbone
from sklearn_iqa._nn.transforms import normalize, random_flip, random_square, resize_shorter, to_tensor
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file
from sklearn_iqa.pair_input._unique_pairs import PairBatches

TEST_SIDE, TRAIN_SIDE = 768, 512  # images whose sides are all at least this long are resized to it
HINGE_MARGIN = 0.025

# model.pt was saved inside DataParallel; the classifier of the ResNet is in it, but nothing uses it.
KEY_MAP = ((r"^module\.", ""), (r"^backbone\.fc\.", None))
PUBLISHED = (
    PublishedWeights(
        "mix",
        (pyiqa_file("UNIQUE.pt"),),
        "https://github.com/zwx8981/UNIQUE",
        "Apache-2.0 (copy: CC BY-NC-SA 4.0)",
        "LIVE, CSIQ, KADID-10k, BID, LIVE Challenge and KonIQ-10k",
        {"backbone": "resnet34.tv_in1k"},
    ),
)


class UNIQUEOutput(NamedTuple):
    """Output of the network for n images: quality and its standard deviation, two tensors (n,); for pairs (n, 2)."""

    mean: torch.Tensor
    std: torch.Tensor


@in_float32
def bilinear_features(features: torch.Tensor) -> torch.Tensor:
    """Feature maps (n, c, h, w) -> second moments of their channels (n, c * c), of unit length."""
    positions = features.flatten(2)  # (n, c, h * w)
    moments = (positions @ positions.mT) * (1 / positions.shape[-1])  # (n, c, c)
    rooted = moments.sign() * (moments.abs() + 1e-8).sqrt()
    return F.normalize(rooted.flatten(1))


class UNIQUENetwork(nn.Module):
    """A convolutional network, bilinear pooling, and one linear layer to mean and standard deviation."""

    def __init__(self, backbone: str = "resnet34.tv_in1k"):
        super().__init__()
        self.backbone: Any = build_backbone(backbone, num_classes=0)
        self.fc = Float32Linear(cast(int, self.backbone.num_features) ** 2, 2)
        nn.init.kaiming_normal_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        """(n, 3, height, width), normalised -> `UNIQUEOutput`."""
        features = self.backbone.forward_features(images)  # (n, c, h, w), for a ResNet-34 (n, 512, height/32, width/32)
        mean, unbounded = self.fc(bilinear_features(features)).unbind(1)
        # NOTE[DIFF] code: calls this the variance, takes its root when it writes scores, but squares it in the loss.
        return UNIQUEOutput(mean, F.softplus(unbounded))


class PairTraining(nn.Module):
    """The network on the first and on the second images of pairs, in two passes with batch statistics of their own."""

    def __init__(self, network: UNIQUENetwork):
        super().__init__()
        self.network = network

    def forward(self, pairs):
        """(n, 2, 3, height, width) -> `UNIQUEOutput` of pairs."""
        first, second = self.network(pairs[:, 0]), self.network(pairs[:, 1])
        return UNIQUEOutput(*(torch.stack(both, dim=1) for both in zip(first, second, strict=True)))


class UNIQUELoss(nn.Module):
    """Fidelity of preferences, and a hinge that ranks the deviations, over pairs of images.

    Without standard deviations in the target the hinge is left out, and the better image is better for sure.
    """

    def __init__(self):
        super().__init__()
        self.fidelity = FidelityLoss()

    def preference(self, output: UNIQUEOutput):
        """Probability (n,) that the first image of a pair is the better one; the deviations get no gradient."""
        variance = (output.std.square().sum(1) + 1e-8).detach()
        return torch.special.ndtr((output.mean[:, 0] - output.mean[:, 1]) / variance.sqrt())

    def forward(self, output: UNIQUEOutput, target):
        """Output for n pairs, target (n, 2, 2 or more): MOS, its standard deviation (0: unknown) -> loss."""
        mos, mos_std = target[..., 0], target[..., 1]
        spread = torch.hypot(*mos_std.unbind(1)) + 2.0**-52  # MATLAB's eps; of 0 it makes 0, 0.5 or 1
        better = torch.special.ndtr((mos[:, 0] - mos[:, 1]) / spread)
        loss = self.fidelity(self.preference(output), better)
        if not mos_std.any():
            return loss
        order = torch.sign(mos_std[:, 0] - mos_std[:, 1])
        return loss + F.margin_ranking_loss(output.std[:, 0], output.std[:, 1], order, margin=HINGE_MARGIN)


class FrozenBackboneEpochs(skorch.callbacks.Callback):
    """Freezes the backbone's weights for some epochs; its BatchNorm statistics still move."""

    def __init__(self, n_epochs: int):
        self.n_epochs = n_epochs

    def on_epoch_begin(self, net, **kwargs):
        """Freeze the backbone, or train it."""
        net.module_.network.backbone.requires_grad_(len(net.history) > self.n_epochs)

    def on_train_end(self, net, **kwargs):
        """Unfreeze the backbone, whatever epoch was the last."""
        net.module_.network.backbone.requires_grad_(True)


class UNIQUE(DomainsMixin, QualityRegressor):
    r"""Unified no-reference quality and uncertainty evaluator, trained on pairs.

    A convolutional network with bilinear pooling gives each image a quality :math:`\mu` and a standard deviation
    :math:`\sigma`. Two images of one data set, with opinions :math:`m \pm s`, give the probability
    :math:`\Phi((m_1 - m_2) / \sqrt{s_1^2 + s_2^2})` that the first is better, with which training lets agree

    .. math:: p = \Phi\bigl((\mu_1 - \mu_2) / \sqrt{\sigma_1^2 + \sigma_2^2}\bigr),

    so that data sets of different units teach one network. The score is :math:`\mu`: unbounded, without a unit, about
    -3..3 for the published weights, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet34.tv_in1k"
        Any convolutional network of timm. The last layer has two weights for each pair of its channels.
    n_pairs : int, dict or "auto", default="auto"
        Pairs that are drawn of each domain, without repetition, before the first epoch: one number for all domains, or
        one for each of their names. "auto" takes 40 for each image, but 70,000 at most, close to the paper's numbers
        for its six data sets, see Notes. A domain of n images gives at most its n (n - 1) / 2 pairs.
    crop_size : int, default=384
        Side of the random crop that training takes of each image, in pixels; smaller images are enlarged to it.
    warmup_epochs : int, default=3
        First epochs, in which the backbone's weights are frozen; they count as part of `max_epochs`.
    warmup_batch_size : int, default=128
        Pairs in one step of these epochs.
    lr_step : int, default=3
        Epochs after which the learning rate falls to a tenth, repeatedly, counted over all calls of `partial_fit`.
    weight_decay : float, default=5e-4
        Weight decay of Adam (L2, added to the gradient).
    protocol : {"official", "pyiqa"}, default="official"
        How `predict` sees images: as in the authors' code, or as in pyiqa (IQA-PyTorch), for the numbers that it gives.
        `fit` trains on the same views with both.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=32
        Pairs in one step of training.
    max_epochs : int, default=12
        Passes over the pairs.
    lr : float, default=1e-4
        Learning rate.
    early_stopping : bool, default=False
        Whether to hold out a part of the training data, to stop when its Spearman correlation, mean over the domains,
        no longer rises, and to keep the best weights.
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
        The network: images (n, 3, height, width), normalised as the backbone's pretraining says -> `UNIQUEOutput`, a
        named tuple of `mean` (n,) and `std` (n,).
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
        Spearman correlation on the held-out part after each epoch, mean over the domains; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: "mix", of the six data sets below, a copy by IQA-PyTorch. The authors' `model.pt` (Apache-2.0),
    on a shared drive, loads by path: ``UNIQUE(weights="model.pt")``. The cost is on the method's page.

    The paper's numbers of pairs are ``n_pairs={"LIVE": 25_000, "CSIQ": 35_000, "KADID-10k": 50_000, "BID": 20_000,
    "CLIVE": 40_000, "KonIQ-10k": 90_000}``, with whatever names `domains` has. With an int as `random_state`, calls of
    `partial_fit` with equal data draw the same pairs.

    What differs from the official training: without standard deviations the better image is better for sure, where the
    official code takes the bare difference of scores for a probability; images smaller than `crop_size` are enlarged,
    where the official code fails.

    Ranks have no unit: after `fit`, the least-squares line from scores to y gives `predict` the unit of y;
    `partial_fit` opens no image again for it and takes the scores of the crops in its steps, which gives a line that is
    near. Several domains have no common unit, and `predict` gives the network's own score. Training ranks
    :math:`\sigma` and sets no size for it; without standard deviations in y nothing trains it. `early_stopping` takes
    the mean over domains of the rank correlation of their held-out images; a domain with fewer than two of them is left
    out.

    References
    ----------
    .. [1] W. Zhang, K. Ma, G. Zhai, X. Yang, "Uncertainty-Aware Blind Image Quality Assessment in the Laboratory and
       Wild", IEEE Transactions on Image Processing 30, 2021. https://github.com/zwx8981/UNIQUE

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import UNIQUE
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    >>> y = [[30.0, 9.0], [45.0, 12.0], [80.0, 5.0], [60.0, 8.0]]  # MOS and its standard deviation
    >>> unique = UNIQUE(backbone="test_resnet", backbone_weights=None, crop_size=48, max_epochs=1, random_state=0)
    >>> quality, std = unique.fit(images, y).predict(images, return_std=True)
    >>> quality.shape, bool((std > 0).all())
    ((4,), True)
    """

    min_size = 32  # below, many a backbone has no pixel left
    label_columns = True
    domain_column = 2
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **PROTOCOL,
        "backbone": [str],
        "n_pairs": [at_least(1), Mapping, one_of("auto")],
        "crop_size": [at_least(1)],
        "warmup_epochs": [at_least(0)],
        "warmup_batch_size": [at_least(1)],
        "lr_step": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "crop_size": 32,
        "warmup_epochs": 1,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        backbone="resnet34.tv_in1k",
        n_pairs="auto",
        crop_size=384,
        warmup_epochs=3,
        warmup_batch_size=128,
        lr_step=3,
        weight_decay=5e-4,
        protocol="official",
        weights=None,
        backbone_weights="imagenet",
        batch_size=32,
        max_epochs=12,
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
        self.backbone = backbone
        self.n_pairs = n_pairs
        self.crop_size = crop_size
        self.warmup_epochs = warmup_epochs
        self.warmup_batch_size = warmup_batch_size
        self.lr_step = lr_step
        self.weight_decay = weight_decay
        self.protocol = protocol
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

    def fit(self, X, y, sample_weight=None, *, domains=None):
        """Train on pairs of images of one domain.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,) or (n, 2)
            Quality of each image, higher is better, in any unit; a second column is the standard deviation of the
            opinions on the image (not of their mean), positive, in the unit of the first.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn into pairs, relative to the others of its domain, with repetition; None draws all
            pairs alike.
        domains : array-like of shape (n,), default=None
            Data set of each image. Only images of one data set are compared, so that each may have a unit of its own;
            None compares all.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y, domains or a parameter cannot be used; the message says which, and what to do.
        """
        return self._fit(X, y, sample_weight, domains=domains)

    def partial_fit(self, X, y, sample_weight=None, *, domains=None):
        """Train for one epoch, going on from where the estimator stands, and learn the unit of this y.

        Parameters
        ----------
        X, y, sample_weight, domains
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, domains=domains)

    def predict(self, X, return_std=False, *, on_error="raise"):
        """Quality of each image of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        return_std : bool, default=False
            Whether to give the standard deviation of the quality as well.
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        score : ndarray of shape (n,), float64
            After `fit` in the unit of its y, higher is better; with loaded weights alone, or after `fit` on several
            domains, the network's own score.
        std : ndarray of shape (n,), float64
            Positive, in the unit of the score; only with `return_std`.

        Raises
        ------
        NotFittedError, ValueError, TypeError, FileNotFoundError
            When nothing was fitted or loaded, or a row of X cannot be used; the message says what to do.
        """
        if not return_std:
            return super().predict(X, on_error=on_error)
        mean, std = self._tabulate(X, lambda output: [output.mean.item(), output.std.item()], on_error, (2,)).T
        slope, _ = getattr(self, "label_scale_", (1.0, 0.0))
        return self._to_label_unit(mean), abs(slope) * std

    def _network(self):
        return UNIQUENetwork(self.backbone)

    def _load_backbone(self, network):
        load_backbone(network.backbone, self.backbone, self.backbone_weights)

    def _training_module(self, network):
        return PairTraining(network)

    def _loss(self):
        return UNIQUELoss()

    def _views(self, image):
        if self.protocol == "official":  # pyiqa keeps every size
            image = resize_shorter(image, min(*image.shape[:2], TEST_SIDE), Image.Resampling.BILINEAR)
        return self._normalized(to_tensor(image))[None]

    def _train_view(self, image):
        side = min(max(min(image.shape[:2]), self.crop_size), max(TRAIN_SIDE, self.crop_size))
        image = resize_shorter(image, side, Image.Resampling.BILINEAR)
        return self._normalized(random_flip(to_tensor(random_square(image, self.crop_size))))

    def _normalized(self, pixels):
        config = input_config(self.backbone)
        return normalize(pixels, config["mean"], config["std"])

    def _score(self, output):
        return output.mean.item()

    def _net_params(self) -> dict[str, Any]:
        n_before, lr_step = self.n_iter_, self.lr_step  # not 0 when the earlier net stayed behind, as in pickles

        def factor(epoch):  # a closed form: partial_fit makes the schedule anew, which StepLR would count as a step
            return 0.1 ** ((n_before + epoch) // lr_step)

        return {
            "iterator_train__sampler": PairBatches,
            "iterator_train__n_pairs": self._pairs_by_domain,
            "iterator_train__warmup_epochs": self.warmup_epochs,
            "iterator_train__warmup_batch_size": self.warmup_batch_size,
            "optimizer__weight_decay": self.weight_decay,
            "callbacks": [
                ("schedule", skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor)),
                ("warm_up", FrozenBackboneEpochs(self.warmup_epochs - n_before)),
                ("line", EpochLine(lambda output, target: (output.mean, target[..., 0]))),
            ],
        }

    def _check_combinations(self):
        if input_config(self.backbone)["fixed_input_size"]:
            raise ValueError(f"backbone={self.backbone!r} takes images of one size; give a convolutional network.")

    def _check_targets(self, rows, y, domains=None) -> np.ndarray:
        """MOS, its standard deviation (0: unknown) and the number of its domain: (n, 3)."""
        name, columns = type(self).__name__, np.asarray(y)
        if columns.ndim == 2 and columns.shape[1] == 2:
            mos, mos_std = (check_quality(rows, column, name) for column in columns.T)
            if (mos_std <= 0).any():
                raise ValueError(f"y holds the standard deviation {mos_std.min():g}; give positive ones or one column.")
        else:
            mos, mos_std = check_quality(rows, y, name), np.zeros(len(rows))
        names, domain = domain_numbers(rows, domains, name)
        # By the number of the domain, for `_net_params`, which knows no names; each call of fit sets it anew.
        if isinstance(self.n_pairs, Mapping):
            self._pairs_by_domain = numbers_by_domain(self.n_pairs, names, "n_pairs", lowest=1)
        else:
            self._pairs_by_domain = [self.n_pairs] * len(names)
        return np.stack([mos, mos_std, domain], axis=1)

    def _start(self, targets, sample_weight):
        """Nothing: ranks need no unit before training ends."""

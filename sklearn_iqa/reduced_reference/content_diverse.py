# SPDX-License-Identifier: BSD-3-Clause
"""Content-diverse comparisons: perceptual distances trained to rank across contents (Thong et al., BMVC 2022)."""

import functools
import math
from typing import Any, ClassVar

import numpy as np
import skorch.callbacks
import torch
import torch.nn.functional as F
from scipy.optimize import leastsq
from scipy.special import expit
from torch import nn

from sklearn_iqa._base.calibration import EpochLine
from sklearn_iqa._base.crops import enlarge
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, STOPPING, TRAINING, at_least, non_negative, one_of
from sklearn_iqa._base.perceptual import NonNegativeHeads, load_sliced_backbone
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn import transforms
from sklearn_iqa._nn.layers import SLICED_BACKBONES, DISTSDistance, L2Pool, PerceptualDistance, sliced_backbone
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile

# The heads are in the state dict twice, as lin0 and as lins.0; the filters of pools, mean and deviation are constants.
KEY_MAP = ((r"^lins\.(\d)\.", r"lin\1."), (r"\.filter$", None), (r"^(mean|std)$", None))
# Names of the authors' runs by what they trained, and the digests of their files as the hub's page of changes has them.
RUNS = {
    "dists": "dists-bce-ps256-l4prp1-rs1-rk1-bs64-ep10-pt",
    "lpips": "lpips-vgg-bce-ps256-l4prp1-rs1-rk1-bs64-ep10-pt",
    "lpips-l2pool": "lpips-vgg-l2pool-bce-ps256-l4prp1-rs1-rk1-bs64-ep10-pt",  # its digest could not be read there
}
DIGESTS = {
    "dists": "32badc27d819ebbf7415ea37808d13a000d04c7b633a98f3989e91a4f6f007d3",
    "lpips": "c404e16ebbf44e478f1f2ce1b2d1238d0f4de4c952659ed7b30599dee68f195a",
}
PUBLISHED = tuple(
    PublishedWeights(
        f"{distance}-kadid10k",
        (WeightsFile(f"{run}.pth.tar", DIGESTS.get(distance), (f"hf://huawei-noah/aipq/{run}/checkpoint.pth.tar",)),),
        "https://huggingface.co/huawei-noah/aipq",
        "MIT",
        "KADID-10k",
        {"distance": distance, "net": "vgg"},
    )
    for distance, run in RUNS.items()
)
ELO_SCALE = 400.0  # a difference of ratings by this much means odds of ten to one
# What training maps the lowest and the highest label to. The authors' KADID-10k labels lie in 1..5, distances in 0..1.
LABEL_RANGES = {"bce": (1.0, 5.0), "ranking": (1.0, 5.0), "mse": (0.0, 1.0), "elo": None}
WEIGHTS = ("pair_weight", "pearson_weight", "spearman_weight", "kendall_weight")


# Losses over pairs see gaps s_i - s_j of scores and the gaps of labels in the direction of the scores, both (n_pairs,).
# NOTE[DIFF] official: `invert` means opposite things; for a distance it is True in bce and elo, False in the other two.


def bce_loss(gap, wanted, temperature, margin):
    """Cross-entropy of which score of a pair is larger; pairs whose probability underflows do not count."""
    p = torch.sigmoid(gap / temperature)
    counts = (p != 0).to(p)
    return F.binary_cross_entropy(p, (wanted >= 0).to(p), counts, reduction="sum") / counts.sum().clamp(min=1)


def ranking_loss(gap, wanted, temperature, margin):
    """Hinge of scores that are not apart by a margin in the right direction, averaged where it is not zero."""
    hinge = F.relu(margin - gap * wanted.sign())
    return hinge.sum() / (hinge != 0).sum().clamp(min=1)


def elo_loss(gap, wanted, temperature, margin):
    """Squared error to the probability of winning that a gap of Elo ratings means."""
    return F.mse_loss(torch.sigmoid(gap / temperature), torch.sigmoid(wanted * math.log(10) / ELO_SCALE))


def difference_loss(gap, wanted, temperature, margin):
    """Squared error of the gap of scores."""
    return F.mse_loss(gap, wanted)


PAIR_LOSSES = {"bce": bce_loss, "ranking": ranking_loss, "elo": elo_loss, "mse": difference_loss}


def pearson(x, y):
    """Linear correlation of two tensors (n,); 0 when one is constant."""
    return F.cosine_similarity(x - x.mean(), y - y.mean(), dim=0)


def soft_spearman(x, y, temperature):
    """Correlation of ranks that are sums of sigmoids, and thus have a gradient."""
    ranks_x, ranks_y = (0.5 + torch.sigmoid((one[:, None] - one) / temperature).sum(0) for one in (x, y))
    return 1 - 6 * (ranks_x - ranks_y).square().sum() / (len(x) * (len(x) ** 2 - 1))


def soft_kendall(gap_x, gap_y, temperature):
    """Mean over pairs of the product of soft signs."""
    return (torch.tanh(gap_x / temperature) * torch.tanh(gap_y / temperature)).mean()


def on_logistic(scores, mos):
    """Scores on the logistic curve of four parameters that fits them to the labels; the curve gets no gradient."""
    x, y = torch.stack([scores.detach().to(mos), mos]).cpu().double().numpy()  # waits for the device, once

    def residuals(curve):
        return (curve[0] - curve[3]) * expit((x - curve[1]) / abs(curve[2])) + curve[3] - y

    with np.errstate(all="ignore"):  # a width near zero on the way
        curve = leastsq(residuals, (y.min(), 1.0, 1.0, y.max()), full_output=True)[0].tolist()
    if not all(map(math.isfinite, curve)) or curve[2] == 0:
        return -scores  # falls as the starting curve does
    return (curve[0] - curve[3]) * torch.sigmoid((scores - curve[1]) / abs(curve[2])) + curve[3]


class ContentDiverseLoss(nn.Module):
    """A loss over all pairs of a batch, and how far correlations over the batch are from their best.

    Sees distances (n,), lower is better, and labels (n,), higher is better.
    """

    def __init__(self, pair_loss, weights, *, correlation_error, logistic, temperature, margin):
        super().__init__()
        self.pair_loss, self.weights, self.logistic = PAIR_LOSSES[pair_loss], weights, logistic
        self.correlation_error, self.temperature, self.margin = correlation_error, temperature, margin

    def forward(self, distances, mos):
        """Give the weighted sum; 0 for a batch of one."""
        first, second = torch.triu_indices(len(mos), len(mos), offset=1, device=mos.device)
        if len(first) == 0:
            return 0 * distances.sum()
        gap, mos_gap = distances[first] - distances[second], mos[first] - mos[second]
        # With four rows or fewer the curve would pass through every point. What lies on it rises with the labels.
        fitted = self.logistic and len(mos) > 4 and self.weights[1] > 0
        correlations = (
            -pearson(on_logistic(distances, mos), mos) if fitted else pearson(distances, mos),
            soft_spearman(distances, mos, self.temperature),
            soft_kendall(gap, mos_gap, self.temperature),
        )
        loss = self.weights[0] * self.pair_loss(gap, -mos_gap, self.temperature, self.margin)
        for weight, correlation in zip(self.weights[1:], correlations, strict=True):
            error = 1 + correlation  # the best is -1: distances fall where quality rises
            loss = loss + weight * (error.square() if self.correlation_error == "mse" else error.abs())
        return loss


class ContentDiverseIQA(QualityRegressor):
    r"""A perceptual distance that is trained by comparing images of different contents.

    LPIPS and DISTS compare distorted versions of one image in training. Here all images of a batch are compared, each
    through the distance :math:`d` to its own reference, so that the distance ranks across contents. Beside a loss over
    pairs, correlations over the batch are pulled to their best,

    .. math:: L = \lambda\,L_{pair} + \lambda_r\,|1 + r| + \lambda_\rho\,|1 + \rho| + \lambda_\tau\,|1 + \tau|,

    of distances with the labels: :math:`r` (Pearson), :math:`\rho` (Spearman), :math:`\tau` (Kendall). The score is a
    distance: 0 for identical images, mostly below 1, **lower is better**; symmetric in its arguments.

    Parameters
    ----------
    distance : {"dists", "lpips", "lpips-l2pool"}, default="dists"
        Structure and texture over whole maps (best in the paper), the positionwise distance of LPIPS, or that behind
        the pools of DISTS.
    net : {"vgg", "alex", "squeeze"}, default="vgg"
        Backbone: VGG-16 as in the paper, or the smaller AlexNet or SqueezeNet 1.1.
    trainable : {"all", "heads"}, default="all"
        What `fit` changes: backbone and channel weights, as in the paper, or the channel weights alone.
    pair_loss : {"bce", "ranking", "mse", "elo"}, default="bce"
        What compares pairs: cross-entropy of which is better, a hinge with a margin, the squared error of differences,
        or that of the probability to win, for labels that are Elo ratings as in PIPAL.
    pair_weight : float, default=1.0
        Weight of that loss.
    pearson_weight : float, default=1.0
        Weight of Pearson's correlation.
    spearman_weight : float, default=1.0
        Weight of Spearman's correlation, of soft ranks.
    kendall_weight : float, default=1.0
        Weight of Kendall's correlation, of soft signs.
    correlation_error : {"abs", "mse"}, default="abs"
        Whether a correlation's distance from its best counts as it is or squared.
    logistic : bool, default=True
        Whether Pearson's correlation is taken behind a logistic curve fitted to the batch, from five rows on.
    temperature : float, default=0.01
        Width of the soft comparisons. It is the same for distances and labels, which training maps to 1..5 ("mse": to
        0..1; "elo": not at all).
    margin : float, default=0.2
        By how much distances must be apart for the loss "ranking".
    non_negative : bool, default=False
        Whether the channel weights of the LPIPS forms are kept at 0 or above, so that no distance is negative.
    crop_size : int, default=256
        Side of the random crop that training takes of each pair, in pixels; smaller images are enlarged to it.
    weight_decay : float, default=1e-4
        Weight decay of Adam (L2, added to the gradient).
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
    max_epochs : int, default=10
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
        The network: pairs (n, 2, 3, height, width), in 0..1 for "dists" and in [-1, 1] else -> distance (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    y_range_ : tuple of float
        Lowest and highest y of the first `fit`, which training maps to 1..5.
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
    LPIPS : The distance with its own training.

    Notes
    -----
    Published weights, all trained on KADID-10k: "dists-kadid10k" ("default"), "lpips-kadid10k" and
    "lpips-l2pool-kadid10k", from the authors' repository on the Hugging Face hub; `distance` follows them.

    The survey places the method with the reduced-reference ones, for its training; the score needs the reference. The
    training script is not published; losses, options and the names of the released runs are. Learning rate, its fall to
    a tenth along a cosine, the weight of the pair loss and the error "abs" are choices made here.

    Channel weights of "dists" may become negative, and are divided by their sum: distances below zero or above one are
    possible. After `fit` the least-squares line from scores to y gives `predict` the unit of y. `partial_fit` opens no
    image again for it and takes the distances of the crops of its steps: a line that is near.

    References
    ----------
    .. [1] W. Thong, J. Costa Pereira, S. Parisot, A. Leonardis, S. McDonagh, "Content-Diverse Comparisons improve IQA",
       BMVC 2022. https://github.com/huawei-noah/noah-research/tree/master/aipq

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import ContentDiverseIQA
    >>> image = np.tile(np.arange(64, dtype=np.uint8)[:, None], (1, 64))
    >>> distance = ContentDiverseIQA(net="squeeze", backbone_weights=None, random_state=0).initialize()
    >>> float(distance.predict([(image, image)])[0])
    0.0
    """

    inputs = ("query", "reference")
    higher_is_better = False
    key_map = KEY_MAP
    published = PUBLISHED
    network_: PerceptualDistance | DISTSDistance

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "distance": [one_of("dists", "lpips", "lpips-l2pool")],
        "net": [one_of(*SLICED_BACKBONES)],
        "trainable": [one_of("all", "heads")],
        "pair_loss": [one_of(*PAIR_LOSSES)],
        "pair_weight": [non_negative()],
        "pearson_weight": [non_negative()],
        "spearman_weight": [non_negative()],
        "kendall_weight": [non_negative()],
        "correlation_error": [one_of("abs", "mse")],
        "logistic": ["boolean"],
        "temperature": [POSITIVE],
        "margin": [non_negative()],
        "non_negative": ["boolean"],
        "crop_size": [at_least(1)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "net": "squeeze",
        "crop_size": 32,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        distance="dists",
        net="vgg",
        trainable="all",
        pair_loss="bce",
        pair_weight=1.0,
        pearson_weight=1.0,
        spearman_weight=1.0,
        kendall_weight=1.0,
        correlation_error="abs",
        logistic=True,
        temperature=0.01,
        margin=0.2,
        non_negative=False,
        crop_size=256,
        weight_decay=1e-4,
        weights=None,
        backbone_weights="imagenet",
        batch_size=64,
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
        self.distance = distance
        self.net = net
        self.trainable = trainable
        self.pair_loss = pair_loss
        self.pair_weight = pair_weight
        self.pearson_weight = pearson_weight
        self.spearman_weight = spearman_weight
        self.kendall_weight = kendall_weight
        self.correlation_error = correlation_error
        self.logistic = logistic
        self.temperature = temperature
        self.margin = margin
        self.non_negative = non_negative
        self.crop_size = crop_size
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

    @property
    def min_size(self):
        """Shortest side in pixels that the backbone takes."""
        return SLICED_BACKBONES[self._chosen.net].min_size

    def quality_map(self, x) -> np.ndarray:
        """Where the query differs from the reference, by its contribution to the distance.

        Parameters
        ----------
        x : tuple of two images
            (query, reference) of one size.

        Returns
        -------
        distance_map : ndarray of shape (height, width), float32
            Contribution of each position to the distance of the pair: their mean is the distance, up to the resizing of
            coarse maps. With "dists" a position where the query differs against the common trend contributes less than
            zero.
        """
        check_ready(self)
        self._ensure_network()
        views = self._views(self._open(self._rows([x]), 0)).to(self.device_)
        with torch.inference_mode():
            return self.network_.distance_map(views)[0].float().cpu().numpy()

    def _network(self):
        net, distance = self._chosen.net, self._chosen.distance
        backbone = sliced_backbone(net, None if distance == "lpips" else L2Pool)
        build = DISTSDistance if distance == "dists" else functools.partial(PerceptualDistance, scaled=False)
        network = build(backbone, SLICED_BACKBONES[net].n_channels)
        network.net.requires_grad_(self.trainable == "all")
        return network

    def _load_backbone(self, network):
        load_sliced_backbone(network.net, self._chosen.net, self.backbone_weights, verbose=self.verbose)

    def _loss(self):
        options = {name: getattr(self, name) for name in ("correlation_error", "logistic", "temperature", "margin")}
        return ContentDiverseLoss(self.pair_loss, [getattr(self, name) for name in WEIGHTS], **options)

    def _net_params(self):
        n_before = self.n_iter_

        def factor(epoch):  # along a cosine to a tenth; training that goes on stays there
            return 0.1 + 0.9 * (1 + math.cos(math.pi * min((n_before + epoch) / self.max_epochs, 1))) / 2

        callbacks = [("schedule", skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor))]
        callbacks.append(("line", EpochLine(lambda distances, mos: (distances, mos))))
        if self.non_negative:
            callbacks.append(("non_negative", NonNegativeHeads()))
        return {"optimizer__weight_decay": self.weight_decay, "callbacks": callbacks}

    def _train_view(self, x):
        square = transforms.random_square(enlarge(x, self.crop_size), self.crop_size)
        crop = transforms.random_flip(self._pixels(square))
        return torch.rot90(crop, int(torch.randint(4, ())), (-2, -1))

    def _views(self, x):
        return self._pixels(x)[None]  # (1, 2, 3, h, w)

    def _pixels(self, x):
        pixels = transforms.to_tensor(x)
        if self._chosen.distance == "dists":
            return pixels
        return transforms.normalize(pixels, transforms.HALF_MEAN, transforms.HALF_STD)

    def _start(self, targets, sample_weight):
        self.y_range_ = (float(targets.min()), float(targets.max()))

    def _finish(self, rows, targets, sample_weight):
        self._calibrate(rows, targets, sample_weight)

    def _finish_epoch(self, rows, targets, sample_weight):
        slope, intercept = dict(self.net_.callbacks_)["line"].line()  # to the labels that training sees
        zero, one = self._encode_targets(np.array([0.0, 1.0]))
        self.label_scale_ = slope / (one - zero), (intercept - zero) / (one - zero)

    def _encode_targets(self, targets):
        if LABEL_RANGES[self.pair_loss] is None:
            return targets
        (lowest, highest), (low, high) = self.y_range_, LABEL_RANGES[self.pair_loss]
        return low + (targets - lowest) * (high - low) / (highest - lowest or 1)

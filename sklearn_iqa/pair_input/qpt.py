# SPDX-License-Identifier: BSD-3-Clause
"""QPT: a network learns to distinguish degradations, without labels (Zhao, Yuan, Sun, Li, Wen, CVPR 2023).

There are no official code and no weights; what the paper's abstract and its citations leave open is MoCo's.
"""

import math
from typing import Any, ClassVar

import torch
from PIL import Image
from skorch.callbacks import LRScheduler

from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, TRAINING, at_least, non_negative, within
from sklearn_iqa._base.quality import FeatureLearner
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.contrastive import AfterStep, InfoNCELoss, MomentumContrast, Projected
from sklearn_iqa._nn.transforms import (
    grid_positions,
    normalize,
    random_flip,
    random_square,
    resize_shorter,
    squares,
    to_tensor,
)
from sklearn_iqa.degradations import degrade, draw_different

# Sides of what is degraded and then cropped, in sides of a crop: degrading all of a large photograph takes seconds.
REGION = 2
GROUP = 32  # images over which BatchNorm counts: those of one device in MoCo
KEY_MAP = ((r"^fc\.", None),)  # the classifier in torchvision's files


class QPT(FeatureLearner):
    r"""Quality-aware pre-training: features in which crops of equally degraded images are alike.

    Degradations :math:`d` are random compositions of distortions, see :mod:`sklearn_iqa.degradations`. Of an image
    :math:`x` two crops of :math:`d_1(x)` are a query and its positive key :math:`k_+`. A crop of :math:`d_2(x)`, of the
    same content but another quality, is a negative :math:`k_-`, and so are keys :math:`c` of other images, from a queue
    of earlier steps. With unit vectors :math:`q, k, c` of a projection behind the backbone the loss is

    .. math:: -\log \frac{e^{q \cdot k_+ / t}}{e^{q \cdot k_+ / t} + e^{q \cdot k_- / t} + \sum_c e^{q \cdot c / t}} .

    `transform` gives the backbone's pooled features, the mean over crops. They have no direction: a regressor behind
    them learns from ratings, of which higher is better, or the backbone is fine-tuned in another estimator, see Notes.

    Parameters
    ----------
    backbone : str, default="resnet50"
        Any network of timm.
    crop_size : int, default=224
        Side of the square crops that the network sees, in pixels; an image with a shorter side is enlarged to it.
    n_crops : int, default=10
        Crops, spread evenly, over which `transform` takes the mean.
    n_rounds : int, default=2
        Rounds of a degradation: at most one distortion of each of three groups in each round.
    skip : float, default=0.5
        Probability with which a group is left out of a round, in [0, 1).
    queue_size : int, default=65536
        Keys of earlier steps that are kept as negatives.
    batch_negatives : bool, default=False
        Whether keys of the other images of a step are negatives as well.
    momentum : float, default=0.999
        Fraction of its own weights that the network of the keys keeps in a step, in [0, 1]; the rest is the query's.
    temperature : float, default=0.2
        The :math:`t` of the loss.
    weight_decay : float, default=1e-4
        Weight decay of SGD.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), see Notes. `transform` then
        works without `fit`, and `fit` goes on from there. None trains anew, from `backbone_weights`.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=256
        Rows in one step of training.
    max_epochs : int, default=200
        Passes over the training data.
    lr : float, default=0.03
        Learning rate.
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
        The backbone without its classifier: normalised crops (n, 3, crop_size, crop_size) -> features (n, n_features).
    n_iter_ : int
        Epochs trained.
    n_steps_ : int
        Steps of the optimiser, over all epochs.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    TimmFeatures : Features of a network as it is.

    Notes
    -----
    Published weights: none. `save_weights` writes the backbone alone, under timm's names, which are torchvision's for
    ResNets. The paper's second part, fine-tuning on ratings, is any estimator that has this backbone and takes the file
    as `backbone_weights`: :class:`NIMA` with ``n_bins=1`` for one linear layer, :class:`HyperIQA` for native crops.

    From the paper are: ResNet-50; degradations of more operations, in random order, with skips, in several rounds; the
    two kinds of negatives. Inferred are: which operations, the two rounds and the probability of a skip; the
    projection, momentum, queue, temperature and schedule, which are those of MoCo v2 (SGD with momentum 0.9, half a
    cosine down over `max_epochs`); crops and inference. Only a part of an image of at most twice `crop_size` a side,
    cut at random, is degraded.

    The projection, the queue and the network of the keys serve training alone: they are not saved, and training that
    continues after unpickling begins with new ones.

    References
    ----------
    .. [1] K. Zhao, K. Yuan, M. Sun, M. Li, X. Wen, "Quality-aware Pre-trained Models for Blind Image Quality
       Assessment", CVPR 2023.
    .. [2] X. Chen, H. Fan, R. Girshick, K. He, "Improved Baselines with Momentum Contrastive Learning", 2020.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_iqa import QPT
    >>> from sklearn_iqa.datasets import load_photographs
    >>> images = load_photographs(size=64).images
    >>> small = {"backbone": "test_resnet", "crop_size": 32, "n_crops": 4, "queue_size": 32, "batch_size": 5}
    >>> qpt = QPT(**small, backbone_weights=None, max_epochs=1, random_state=0)
    >>> make_pipeline(qpt, Ridge()).fit(images, range(10)).predict(images).shape
    (10,)
    """

    optimizer = torch.optim.SGD
    key_map = KEY_MAP

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **PRETRAINED,
        "backbone": [str],
        "crop_size": [at_least(1)],
        "n_crops": [at_least(1)],
        "n_rounds": [at_least(1)],
        "skip": [within(0, 1, closed="left")],
        "queue_size": [at_least(1)],
        "batch_negatives": ["boolean"],
        "momentum": [within(0, 1)],
        "temperature": [POSITIVE],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "crop_size": 32,
        "n_crops": 2,
        "queue_size": 16,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.1,
    }

    def __init__(
        self,
        *,
        backbone="resnet50",
        crop_size=224,
        n_crops=10,
        n_rounds=2,
        skip=0.5,
        queue_size=65536,
        batch_negatives=False,
        momentum=0.999,
        temperature=0.2,
        weight_decay=1e-4,
        weights=None,
        backbone_weights="imagenet",
        batch_size=256,
        max_epochs=200,
        lr=0.03,
        warm_start=False,
        device="auto",
        precision="float32",
        compile=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.crop_size = crop_size
        self.n_crops = n_crops
        self.n_rounds = n_rounds
        self.skip = skip
        self.queue_size = queue_size
        self.batch_negatives = batch_negatives
        self.momentum = momentum
        self.temperature = temperature
        self.weight_decay = weight_decay
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def _n_features_out(self):
        self._ensure_network()
        return _width(self.network_)

    def _network(self):
        fixed = timm_backbones.input_config(self.backbone)["fixed_input_size"]
        facts = {"img_size": self.crop_size} if fixed else {}
        return timm_backbones.build_backbone(self.backbone, num_classes=0, **facts)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network, self.backbone, self.backbone_weights)

    def _training_module(self, network):
        return MomentumContrast(
            Projected(network, _width(network)),
            self.queue_size,
            self.momentum,
            n_groups=max(1, self.batch_size // GROUP),
            batch_negatives=self.batch_negatives,
        )

    def _loss(self):
        return InfoNCELoss(self.temperature)

    def _net_params(self):
        n_before, n_epochs = self.n_iter_, self.max_epochs

        def factor(epoch):  # a longer training begins the cosine anew
            return (1 + math.cos(math.pi * ((n_before + epoch) % n_epochs) / n_epochs)) / 2

        return {
            "optimizer__momentum": 0.9,
            "optimizer__weight_decay": self.weight_decay,
            "callbacks": [("follow", AfterStep()), ("schedule", LRScheduler("LambdaLR", lr_lambda=factor))],
        }

    def _train_view(self, x):
        """Query, positive and the negative of another degradation, (3, 3, s, s)."""
        region = self._region(x)
        seed = int(torch.randint(2**31 - 1, ()))
        degraded, otherwise = (
            degrade(region, one) for one in draw_different(seed, n_rounds=self.n_rounds, skip=self.skip)
        )
        regions = (degraded, degraded, otherwise)
        crops = [random_flip(to_tensor(random_square(one, self.crop_size))) for one in regions]
        return self._normalized(torch.stack(crops))

    def _region(self, x):
        """Cut a part of the image (h, w, 3) whose sides are a crop's to `REGION` times as long."""
        x = self._enlarged(x)
        height, width = (min(side, REGION * self.crop_size) for side in x.shape[:2])
        top = int(torch.randint(x.shape[0] - height + 1, ()))
        left = int(torch.randint(x.shape[1] - width + 1, ()))
        return x[top : top + height, left : left + width]

    def _views(self, x):
        image = self._enlarged(x)
        places = grid_positions(*image.shape[:2], self.crop_size, self.n_crops)
        return self._normalized(squares(image, places, self.crop_size, to_tensor))

    def _enlarged(self, x):
        small = min(x.shape[:2]) < self.crop_size
        return resize_shorter(x, self.crop_size, Image.Resampling.BICUBIC) if small else x

    def _normalized(self, pixels):
        config = timm_backbones.input_config(self.backbone)
        return normalize(pixels, config["mean"], config["std"])


def _width(backbone) -> int:
    """How many features a network of timm gives without its classifier."""
    return getattr(backbone, "head_hidden_size", backbone.num_features)

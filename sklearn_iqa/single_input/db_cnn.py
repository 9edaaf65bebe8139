# SPDX-License-Identifier: BSD-3-Clause
"""DB-CNN: bilinear pooling of an ImageNet backbone and one for distortions (Zhang et al., TCSVT 2020)."""

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, STOPPING, TRAINING, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._base.training import Stage, Subset, hold_out
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa._nn.layers import Float32Linear, Scaling, in_float32
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, random_flip, random_square, to_tensor
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.pretrained import PYIQA_LICENCE, PYIQA_SOURCE, PublishedWeights, WeightsFile, pyiqa_file
from sklearn_iqa.distortions import distort

STRIDE = 16  # pixels per position in the maps of both backbones
SCNN_WIDTHS, SCNN_STRIDES = (3, 48, 48, 64, 64, 64, 64, 128, 128, 128), (1, 2, 1, 2, 1, 2, 1, 1, 2)
SCNN_SIDE, SCNN_CROP = 256, 224  # shorter side of an image and side of its crop, when the S-CNN is trained
SCNN_FALL = 1e-3  # rate of the S-CNN's last epoch, in units of that of the first
# NOTE[DIFF] paper: other levels, made in Matlab, and pink noise instead of impulse noise.
KINDS = ("jpeg", "jpeg2000", "gaussian_blur", "white_noise", "contrast_change", "impulse_noise", "color_quantization")
CLASSES = (
    *((kind, level) for kind in KINDS for level in range(1, 6)),
    *((kind, level) for kind in ("brighten", "darken") for level in (3, 5)),
)
KEY_MAP = ((r"^features1\.(\d+)\.", r"features1.features.\1."),)  # of VGG-16, which timm keeps one level deeper
SOURCE = "https://github.com/zwx8981/DBCNN-PyTorch"
SCNN_FILE = WeightsFile(
    "scnn.pkl",
    "7ea73d75539cefcf4953800a896e024ea1a3216de2392f242810b113fd940a42",
    urls=(f"{SOURCE}/raw/16c3156054a30a3eabb45dffcf538f42452a14f3/pretrained_scnn/scnn.pkl",),
    parameter="scnn_weights",
)
PUBLISHED = tuple(
    PublishedWeights(
        name,
        (pyiqa_file(filename),),
        PYIQA_SOURCE,
        PYIQA_LICENCE,
        trained_on,
        {"backbone": "vgg16.tv_in1k"},
    )
    for name, filename, trained_on in (
        ("koniq10k", "DBCNN_KonIQ10k-2de81c0a.pth", "KonIQ-10k"),
        ("livec", "DBCNN_LIVEC-83f6dad3.pth", "LIVE Challenge"),
        ("tid2013", "DBCNN_TID2013-485d021d.pth", "TID2013"),
        ("tid2008", "DBCNN_TID2008-4b47c5d1.pth", "TID2008"),
        ("csiq", "DBCNN_CSIQ-8677d071.pth", "CSIQ"),
        ("live", "DBCNN_LIVE-97262bf4.pth", "LIVE"),
        ("livem", "DBCNN_LIVEM-698474e3.pth", "LIVE Multiply Distorted"),
    )
)


def scnn_backbone() -> nn.Sequential:
    """Nine 3 x 3 convolutions: images (n, 3, h, w) -> maps (n, 128, h / 16, w / 16), sizes rounded up."""
    layers: list[nn.Module] = []
    for (width_in, width_out), stride in zip(pairwise(SCNN_WIDTHS), SCNN_STRIDES, strict=True):
        layers += [nn.Conv2d(width_in, width_out, 3, stride, padding=1), nn.BatchNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(*layers)


class SCNN(nn.Module):
    """Normalised crops (n, 3, s, s) -> logits (n, 39) of kind and level of distortion; trains the second backbone."""

    def __init__(self, backbone: nn.Sequential):
        super().__init__()
        self.features = backbone
        self.projection = nn.Sequential(
            *(nn.Conv2d(SCNN_WIDTHS[-1], 256, 1), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.Conv2d(256, 256, 1), nn.BatchNorm2d(256), nn.ReLU()),
        )
        self.classifier = nn.Linear(256, len(CLASSES))
        kaiming(self.projection)
        kaiming(self.classifier)

    def forward(self, crops):
        """Global mean: the official average pooling of 14 x 14 covers the whole map of a crop of 224."""
        pooled = self.features(crops).mean((2, 3), keepdim=True)  # (n, 128, 1, 1)
        return self.classifier(self.projection(pooled).flatten(1))


class DBCNNNetwork(nn.Module):
    """Images (n, 3, h, w), normalised with ImageNet's mean and standard deviation -> score (n,)."""

    def __init__(self, features1: nn.Module, *, level: int, width: int, mean, std):
        super().__init__()
        self.level = level
        self.normalize = Scaling(mean, std)
        self.features1 = features1
        self.features2 = scnn_backbone()
        self.fc = Float32Linear(width * SCNN_WIDTHS[-1], 1)
        kaiming(self.features2)
        kaiming(self.fc)

    def bilinear(self, images):
        """Mean over positions of the products of each channel pair, one of each backbone: (n, c, 128)."""
        own = self.normalize(images)
        (classes,) = self.features1.forward_intermediates(own, indices=[self.level], intermediates_only=True)
        classes = F.relu(classes)  # VGG ends with one; other backbones need it for the root in `features`
        distortions = self.features2(images)
        if distortions.shape[2:] != classes.shape[2:]:  # one backbone rounds sizes down, the other up
            distortions = F.interpolate(distortions, classes.shape[2:], mode="bilinear", align_corners=True)
        return self.products(classes.flatten(2), distortions.flatten(2))

    @in_float32
    def products(self, classes, distortions):
        """Maps (n, c, p) and (n, 128, p) -> mean over positions of the products of each channel pair, (n, c, 128)."""
        return classes @ distortions.mT / classes.shape[2]

    def features(self, images):
        """Input of the last layer: roots of the products, L2-normalised, (n, c * 128)."""
        return F.normalize((self.bilinear(images).flatten(1) + 1e-8).sqrt())

    def forward(self, images):
        """A linear map of `features`."""
        return self.fc(self.features(images))[:, 0]


class FrozenBackbones(nn.Module):
    """The network with only the last layer trainable; BatchNorm statistics are updated, as in the official code."""

    def __init__(self, network: DBCNNNetwork):
        super().__init__()
        self.network = network

    def forward(self, images):
        """Images (n, 3, h, w) -> score (n,)."""
        with torch.no_grad():
            features = self.network.features(images)
        return self.network.fc(features)[:, 0]


def kaiming(part: nn.Module) -> None:
    """Initialise convolutions and linear layers as the official code does."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one


class BestEpoch(Callback):
    """Brings back the epoch with the best score; without a score that with the lowest mean of the training loss."""

    def __init__(self, network: nn.Module, score: Callable[[], float] | None):
        self.network, self.score = network, score

    def on_train_begin(self, net, **kwargs):
        """Start without a best."""
        self.best_, self.best_state_ = -np.inf, None

    def on_epoch_end(self, net, **kwargs):
        """Remember the network, BatchNorm statistics included, when it is the best so far."""
        score = -net.history[-1, "train_loss"] if self.score is None else self.score()
        if score > self.best_:
            self.best_ = score
            self.best_state_ = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def on_train_end(self, net, **kwargs):
        """Bring the best back."""
        if self.best_state_ is not None:
            self.network.load_state_dict(self.best_state_)


class DBCNN(QualityRegressor):
    r"""Deep Bilinear CNN: bilinear pooling of content features and distortion features.

    One backbone, a classifier of ImageNet, represents content and authentic distortions; the other, the S-CNN, is
    trained to classify synthetic distortions. With their maps :math:`F_1` (512 channels) and :math:`F_2` (128) over
    :math:`hw` positions, the score is linear in the pooled products,

    .. math:: q = w^\top \frac{v}{\lVert v \rVert} + b, \qquad v = \sqrt{F_1 F_2^\top / hw + 10^{-8}} .

    It is unbounded and mostly in 0..1 for the published weights; **higher is better**.

    Parameters
    ----------
    backbone : str, default="vgg16.tv_in1k"
        First backbone: any convolutional network of timm, up to its last map of stride 16.
    scnn_weights : {"published"}, path or None, default=None
        Trained S-CNN with its classifier, when `weights` is None: "published" is the authors' file, fetched at `fit`.
        None trains one in `fit`, see Notes.
    scnn_epochs : int, default=30
        Passes over all images in all 39 classes to train the S-CNN; 0 keeps its random weights.
    scnn_batch_size : int, default=128
        Crops in one step of this stage, at least 2: batch normalisation needs them.
    scnn_lr : float, default=1e-2
        Learning rate of its first epoch, from which it falls to a thousandth by equal factors.
    head_epochs : int, default=50
        Passes over the training data that train the last layer alone; 0 skips this stage. Training goes on from the
        best of these epochs: by the held-out correlation with `early_stopping`, otherwise by the training loss.
    head_lr : float, default=1e-3
        Learning rate of this stage.
    crop_size : int, default=384
        Side of the square that training cuts from each image, in pixels; at least 16.
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
    max_epochs : int, default=50
        Passes over the training data.
    lr : float, default=1e-5
        Learning rate.
    weight_decay : float, default=5e-4
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
        The network: images (n, 3, h, w), normalised with ImageNet's mean and standard deviation -> score (n,).
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
    Published weights, trained by pyiqa, to which the authors refer: "koniq10k" (the default), "livec", "tid2013",
    "tid2008", "csiq", "live" and "livem". The ratings of the last three sets are lower for better images, and it is not
    stated which direction these weights have: compare two images first. The authors published the S-CNN alone. Its
    variant without BatchNorm does not fit. The network scores the whole image at its native size.

    `fit` runs three stages, the first two only where `weights` is None. (1) Without `scnn_weights` the S-CNN learns to
    classify 39 classes, nine distortions by level, made on the fly from crops of the training images: SGD with
    momentum, rate 1e-2 to 1e-5. The authors took 21,869 photographs of two other sets; few or already distorted images
    train a weaker S-CNN, and 39 crops of each take long. The rates are those of the official code, which multiplies the
    intended ones by 0.1. (2) The last layer alone, SGD. (3) All layers, Adam, `max_epochs` epochs. The loss is the
    squared error of labels in 0..1; the authors kept the unit of their labels, and in (2) and (3) the epoch that was
    best on their test set. An image whose shorter side is below `crop_size` is enlarged for training (bilinear).

    References
    ----------
    .. [1] W. Zhang, K. Ma, J. Yan, D. Deng, Z. Wang, "Blind Image Quality Assessment Using a Deep Bilinear
       Convolutional Neural Network", IEEE TCSVT 30(1), 2020. https://github.com/zwx8981/DBCNN-PyTorch

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import DBCNN
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "scnn_epochs": 0, "head_epochs": 1, "max_epochs": 1, "crop_size": 32}
    >>> db_cnn = DBCNN(**small, backbone_weights=None, random_state=0).fit(images, [1, 2, 3, 4])
    >>> db_cnn.predict(images).shape
    (4,)
    """

    min_size = STRIDE
    label_range = (0.0, 1.0)
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "backbone": [str],
        "scnn_weights": [str, os.PathLike, None],
        "scnn_epochs": [at_least(0)],
        "scnn_batch_size": [at_least(2)],
        "scnn_lr": [POSITIVE],
        "head_epochs": [at_least(0)],
        "head_lr": [POSITIVE],
        "crop_size": [at_least(STRIDE)],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "scnn_epochs": 0,
        "head_epochs": 1,
        "crop_size": 32,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        backbone="vgg16.tv_in1k",
        scnn_weights=None,
        scnn_epochs=30,
        scnn_batch_size=128,
        scnn_lr=1e-2,
        head_epochs=50,
        head_lr=1e-3,
        crop_size=384,
        weights=None,
        backbone_weights="imagenet",
        batch_size=8,
        max_epochs=50,
        lr=1e-5,
        weight_decay=5e-4,
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
        self.scnn_weights = scnn_weights
        self.scnn_epochs = scnn_epochs
        self.scnn_batch_size = scnn_batch_size
        self.scnn_lr = scnn_lr
        self.head_epochs = head_epochs
        self.head_lr = head_lr
        self.crop_size = crop_size
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
        backbone = timm_backbones.build_backbone(self._chosen.backbone, num_classes=0)
        entries = getattr(backbone, "feature_info", ())
        levels = [level for level, entry in enumerate(entries) if entry["reduction"] <= STRIDE]
        if not (levels and hasattr(backbone, "forward_intermediates")):
            raise ValueError(
                f"backbone={self._chosen.backbone!r} has no map of stride {STRIDE}; take one such as 'resnet50'."
            )
        backbone.prune_intermediate_layers([levels[-1]], prune_norm=True, prune_head=True)
        config = timm_backbones.input_config(self._chosen.backbone)
        # Images are normalised for the S-CNN; this converts them to the backbone's own normalisation: 0 and 1 for VGG.
        mean = tuple((own - m) / s for own, m, s in zip(config["mean"], IMAGENET_MEAN, IMAGENET_STD, strict=True))
        std = tuple(own / s for own, s in zip(config["std"], IMAGENET_STD, strict=True))
        width = entries[levels[-1]]["num_chs"]
        return DBCNNNetwork(backbone, level=levels[-1], width=width, mean=mean, std=std)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.features1, self._chosen.backbone, self.backbone_weights)
        if self.scnn_weights is None:
            return
        path = pretrained.fetch(SCNN_FILE) if self.scnn_weights == "published" else self.scnn_weights
        state = state_dicts.read_state(path)
        state_dicts.load_state(SCNN(network.features2), state, origin=f"scnn_weights={str(self.scnn_weights)!r}")

    def _loss(self):
        return nn.MSELoss()

    def _net_params(self):
        return {"optimizer__weight_decay": self.weight_decay}

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        # Stages see the rows of training alone, but that of the last layer takes its best epoch by the others.
        self._held_out = None
        if self.early_stopping and not hasattr(self, "net_"):  # stages are to come
            _, held_out = hold_out(rows, self.validation_fraction, seed)
            self._held_out = self._held_out_score(rows, targets, held_out, sample_weight)
        try:
            super()._train(rows, targets, sample_weight, n_epochs, seed, tasks)
        finally:
            del self._held_out

    def _stages_before(self, rows, targets, sample_weight):
        if self.weights is not None:
            return
        descent = {
            "optimizer": torch.optim.SGD,
            "optimizer__momentum": 0.9,
            "optimizer__weight_decay": self.weight_decay,
        }
        if self.scnn_weights is None and self.scnn_epochs > 0:
            gamma = SCNN_FALL ** (1 / max(1, self.scnn_epochs - 1))
            yield Stage(
                "S-CNN",
                SCNN(self.network_.features2).to(self.device_),
                nn.CrossEntropyLoss(),
                self.scnn_epochs,
                Subset(rows, np.arange(len(rows)).repeat(len(CLASSES))),
                np.tile(np.eye(len(CLASSES), dtype=np.float32), (len(rows), 1)),
                view=self._distorted_crop,
                lr=self.scnn_lr,
                net_params={
                    **descent,
                    "iterator_train__batch_size": self.scnn_batch_size,
                    "callbacks": [("schedule", LRScheduler("ExponentialLR", gamma=gamma))],
                },
                sample_weight=None if sample_weight is None else sample_weight.repeat(len(CLASSES)),
            )
        if self.head_epochs > 0:
            yield Stage(
                "last layer",
                FrozenBackbones(self.network_),
                self._loss(),
                self.head_epochs,
                rows,
                self._encode_targets(targets),
                view=lambda image, _: self._crop(image),
                lr=self.head_lr,
                net_params={**descent, "callbacks": [("best", BestEpoch(self.network_, self._held_out))]},
                sample_weight=sample_weight,
            )

    def _distorted_crop(self, image, one_hot):
        """A crop of an image with the distortion of its class: (3, s, s), normalised."""
        # NOTE[DIFF] official: distorts, then resizes and crops, which takes longer and weakens fine distortions.
        kind, level = CLASSES[int(one_hot.argmax())]
        side = min(SCNN_CROP, self.crop_size)
        image = transforms.resize_shorter(image, round(side * SCNN_SIDE / SCNN_CROP), Image.Resampling.BILINEAR)
        crop = random_flip(to_tensor(random_square(image, side))).movedim(0, -1).numpy()
        return self._normalized(distort(crop, kind, level, random_state=int(torch.randint(2**31 - 1, ()))))

    def _crop(self, image):
        if min(image.shape[:2]) < self.crop_size:
            image = transforms.resize_shorter(image, self.crop_size, Image.Resampling.BILINEAR)
        return random_flip(self._normalized(random_square(image, self.crop_size)))

    def _normalized(self, image):
        return normalize(to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)

    def _train_view(self, x):
        return self._crop(x)

    def _views(self, x):
        return self._normalized(x)[None]  # (1, 3, h, w)

    def _check_combinations(self):
        if timm_backbones.input_config(self._chosen.backbone)["fixed_input_size"]:
            raise ValueError(
                f"backbone={self._chosen.backbone!r} takes images of one size; give a convolutional network."
            )

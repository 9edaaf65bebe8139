# SPDX-License-Identifier: BSD-3-Clause
"""MetaIQA: a prior from many distortions that adapts quickly to others (Zhu, Li, Wu, Dong, Shi, CVPR 2020)."""

import math
from collections import OrderedDict
from numbers import Integral, Real

import numpy as np
import skorch
import torch
from skimage.transform import resize
from sklearn.utils import check_consistent_length, check_scalar, column_or_1d
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._base.training import Stage, Subset
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa.distortions import DISTORTIONS, distort

QUERY_SHARE, SUPPORT_RATIO = 0.2, 1.5  # query images of a task; support images for each query image in a step
HEAD_RATE = 100  # the head learns this much faster than the backbone in meta-training: 1e-2 to 1e-4
RESIZE_RATIO = 256 / 224  # side that training resizes to, to that of its crop


class MetaIQANetwork(nn.Module):
    """Images -> logits of a whole classifier -> score."""

    def __init__(self, resnet_layer: nn.Module):
        super().__init__()
        self.resnet_layer = resnet_layer
        width = resnet_layer.num_classes or resnet_layer.num_features
        layers = OrderedDict(fc1=nn.Linear(width, 1024), bn1=nn.BatchNorm1d(1024), relu1=nn.PReLU())
        layers |= OrderedDict(drop1=nn.Dropout(0.5), fc2=nn.Linear(1024, 512), bn2=nn.BatchNorm1d(512))
        self.net = nn.Sequential(layers | OrderedDict(relu2=nn.PReLU(), drop2=nn.Dropout(0.5), fc3=nn.Linear(512, 1)))

    def forward(self, images):
        """Normalised images (n, 3, s, s) -> score (n,) in 0..1."""
        # NOTE[DIFF] paper: features of the backbone; code: its 1000 logits.
        return self.net(self.resnet_layer(images)).sigmoid()[:, 0]


class Tasks(nn.Module):
    """The network in meta-training: after `per_update` tasks from one start, this moves by the mean of their ways."""

    def __init__(self, network: nn.Module, n_support: int, per_update: int):
        super().__init__()
        self.network, self.n_support, self.per_update, self.n_done = network, n_support, per_update, 0

    def forward(self, images):
        return self.network(images)

    @torch.no_grad()
    def begin(self):
        """Start a task."""
        if self.n_done == 0:
            self.start = [parameter.clone() for parameter in self.network.parameters()]
            self.way = [torch.zeros_like(parameter) for parameter in self.start]
        self._place(self.start)

    @torch.no_grad()
    def end(self):
        """Keep what a task has learned."""
        for way, start, parameter in zip(self.way, self.start, self.network.parameters(), strict=True):
            way += parameter - start
        self.n_done = (self.n_done + 1) % self.per_update
        if self.n_done == 0:
            self._place([start + way / self.per_update for start, way in zip(self.start, self.way, strict=True)])

    def _place(self, values):
        for parameter, value in zip(self.network.parameters(), values, strict=True):
            parameter.copy_(value)


class TwoLevelSteps:
    """Left of a skorch net: networks train as ever, `Tasks` by two steps each, on support and then on query images."""

    def train_step(self, batch, **fit_params):
        """Take one step, or learn one task (1, m, 3, s, s) with its targets (1, m, 4), quality in the first column."""
        if not isinstance(self.module_, Tasks):
            return super().train_step(batch, **fit_params)
        (images,), (target,) = batch
        self.module_.begin()
        for part in (slice(self.module_.n_support), slice(self.module_.n_support, None)):
            step = super().train_step((images[part], target[part, 0]), **fit_params)
        self.module_.end()
        return step


def summed(epoch: int, step: int) -> int:
    """Sum of i // step for i = 0..epoch: the official code multiplies the rate of the epoch before, again and again."""
    whole, rest = divmod(epoch, step)
    return step * whole * (whole - 1) // 2 + whole * (rest + 1)


class MetaIQA(QualityRegressor):
    r"""A classifier whose starting point was learned from many distortions, so that few images suffice for others.

    Every type of distortion is a task. Meta-training visits tasks from one start :math:`\theta`, each by one step of
    Adam on support images and one on query images, and moves the start to the mean of where :math:`k` tasks arrive,

    .. math:: \theta \leftarrow \theta + \frac1k \sum_{i=1}^{k} (\theta_i - \theta).

    From there, fine-tuning learns quality. The score comes from a sigmoid: 0 to 1, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet18.tv_in1k"
        Network of timm with its classifier, whose logits are the features; without one, its pooled features are.
    image_size : int, default=224
        Side of the square that the network sees, in pixels; images are resized to it, whatever their aspect.
    meta_epochs : int, default=50
        Passes over all tasks in meta-training; 0 leaves it out.
    meta_task_batch : int, default=5
        Tasks whose mean the start follows.
    inner_lr : float, default=1e-4
        Learning rate within a task; the head's is a hundred times as high.
    weights : str or path, default=None
        Trained weights of the whole network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`) or a published name, see
        Notes. `predict` then works without `fit`, and `fit` goes on from there. None trains from the backbone's own
        pretraining.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` is None: "imagenet" is fetched by timm or torchvision at `fit`,
        "bundled" is read from an installed package, None starts from random numbers.
    batch_size : int, default=50
        Rows in one step of training, and the most views in one pass when predicting. Scores do not depend on it.
    max_epochs : int, default=100
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
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: normalised images (n, 3, s, s) -> score (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_iter_ : int
        Epochs trained.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: the authors' two files are pickled modules, which are never opened here; the error says how to
    turn them into a state once, where you trust them. `weights` take the place of meta-training.

    Without `distortion` or `domains` in `fit` the tasks are made: all images of X, as if pristine, in the 25 kinds and
    five levels of :mod:`sklearn_iqa.distortions`, with qualities 0.9 to 0.1. Where X is not pristine, take other
    images: ``made = make_distorted(pristine)``, fit on ``made.images`` with ``distortion=made.distortion``,
    `save_weights`, and fine-tune with these `weights`.

    A visit to a task splits its images anew, 80 % for support, and takes 1.5 `batch_size` of these and `batch_size`
    others; small tasks repeat images, those of one image are left out. The authors' code counts batches as tasks, lets
    a batch start where the one before ended, and saves the last task's weights; here the start is kept. Rates fall by
    powers whose exponents grow, 0.9 every two epochs and 0.8 every ten, as there. Fine-tuning: squared error, Adam.

    References
    ----------
    .. [1] H. Zhu, L. Li, J. Wu, W. Dong, G. Shi, "MetaIQA: Deep Meta-Learning for No-Reference Image Quality
       Assessment", CVPR 2020. https://github.com/zhuhancheng/MetaIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import MetaIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    >>> meta_iqa = MetaIQA(backbone="test_resnet", backbone_weights=None, image_size=32, max_epochs=1, random_state=0)
    >>> meta_iqa.set_params(meta_epochs=1).fit(images, [1, 2, 3, 4], distortion=["jpeg", "jpeg", "blur", "blur"])
    MetaIQA(...)
    """

    net_class = type("TwoLevelNet", (TwoLevelSteps, skorch.NeuralNet), {})
    score_range = (0.0, 1.0)
    label_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        backbone="resnet18.tv_in1k",
        image_size=224,
        meta_epochs=50,
        meta_task_batch=5,
        inner_lr=1e-4,
        weights=None,
        backbone_weights="imagenet",
        batch_size=50,
        max_epochs=100,
        lr=1e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.image_size = image_size
        self.meta_epochs = meta_epochs
        self.meta_task_batch = meta_task_batch
        self.inner_lr = inner_lr
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
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, *, distortion=None, domains=None):
        """Meta-train on tasks, then fine-tune.

        Parameters
        ----------
        X, y, sample_weight
            As for every method: images, their quality, how often each is drawn.
        distortion : array-like of shape (n,), default=None
            Type of distortion of each image: each is a task. None, without `domains` either, makes distorted images.
        domains : array-like of shape (n,), default=None
            Data set of each image, all with y in one unit: each is a task, or with `distortion` each type in each.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        n_epochs, resume = self.max_epochs, self.warm_start
        return self._fit(X, y, sample_weight, n_epochs=n_epochs, resume=resume, distortion=distortion, domains=domains)

    def partial_fit(self, X, y, sample_weight=None, *, distortion=None, domains=None):
        """Fine-tune for one epoch, going on from where the estimator stands; the first call meta-trains before.

        Parameters
        ----------
        X, y, sample_weight, distortion, domains
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, n_epochs=1, resume=True, distortion=distortion, domains=domains)

    def _network(self):
        fixed = timm_backbones.input_config(self.backbone)["fixed_input_size"]
        size = {"img_size": self.image_size} if fixed else {}
        return MetaIQANetwork(timm_backbones.build_backbone(self.backbone, **size))

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.resnet_layer, self.backbone, self.backbone_weights)

    def _loss(self):
        return nn.MSELoss()

    def _net_params(self):
        n_before = self.n_iter_  # not 0 when the earlier net stayed behind, as in pickles
        schedule = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 0.8 ** summed(n_before + epoch, 10))
        return {"callbacks": [("schedule", schedule)]}

    def _stages_before(self, rows, targets):
        if self.weights is not None or self.meta_epochs == 0:
            return
        tasks = [task for task in self._tasks(targets) if len(task) > 1]
        if not tasks:
            raise ValueError("Every distortion or domain has one image, but a task needs two; give more, or neither.")
        shares = [math.ceil(QUERY_SHARE * len(task)) for task in tasks]
        rests = [len(task) - share for task, share in zip(tasks, shares, strict=True)]
        n_query = max(2, min(self.batch_size, max(shares)))
        n_support = max(2, min(int(SUPPORT_RATIO * self.batch_size), max(rests)))
        # In an epoch as many visits to a task as it takes to see all of its support images.
        epoch = [i for i, rest in enumerate(rests) for _ in range(math.ceil(rest / n_support))]
        visits = epoch * self.meta_epochs
        visits += [epoch[i % len(epoch)] for i in range(-len(visits) % self.meta_task_batch)]
        drawn = []
        for i in visits:
            order = torch.randperm(len(tasks[i])).numpy()
            support, query = np.resize(order[shares[i] :], n_support), np.resize(order[: shares[i]], n_query)
            drawn.append(tasks[i][np.concatenate([support, query])])

        def view(_, task):
            ways = [self._augmented] * n_support + [self._resized] * n_query
            images = (self._open(rows, int(row)) for row in task[:, 1])
            return torch.stack([way(x, *kind) for way, x, kind in zip(ways, images, task[:, 2:], strict=True)])

        parts = Tasks(self.network_, n_support, self.meta_task_batch), self._loss(), 1
        first, rates = Subset(rows, [task[0, 1] for task in drawn]), {"lr": HEAD_RATE * self.inner_lr}
        schedule = {"lr_lambda": lambda visit: 0.9 ** summed(visit // len(epoch), 2), "step_every": "batch"}
        net_params = {"callbacks": [("schedule", LRScheduler("LambdaLR", **schedule))]}
        net_params |= {"iterator_train__batch_size": 1, "optimizer__param_groups": [("network.net.*", rates)]}
        yield Stage("meta-training", *parts, first, np.stack(drawn), view, self.inner_lr, net_params)

    def _tasks(self, targets):
        """Quality in 0..1, row, kind and level of all images of each task, (k, 4); level 0 of those as they are."""
        everything = np.arange(len(targets))
        if np.isnan(targets[0, 1]):
            levels = np.arange(1, 6).repeat(len(targets))
            rows, quality = np.tile(everything, 5), 1 - (levels - 0.5) / 5  # the middles of five parts of 0..1
            return [np.stack([quality, rows, 0 * rows + kind, levels], 1) for kind in range(len(DISTORTIONS))]
        table = np.column_stack([self._encode_targets(targets), everything, 0 * everything, 0 * everything])
        return [table[targets[:, 1] == task] for task in np.unique(targets[:, 1])]

    def _resized(self, x, kind=0, level=0, side=None):
        # Official: scikit-image of 2019, which did not smooth before it shrank.
        pixels = resize(x, 2 * (side or self.image_size,), order=1, anti_aliasing=False).astype(np.float32).clip(0, 1)
        if level > 0:
            seed = int(torch.randint(2**31 - 1, ()))
            pixels = distort(pixels, DISTORTIONS[int(kind)], int(level), random_state=seed)
        config = timm_backbones.input_config(self.backbone)
        return transforms.normalize(transforms.to_tensor(pixels), config["mean"], config["std"])

    def _augmented(self, x, kind=0, level=0):
        # NOTE[DIFF] official: never the last row or column of places.
        pixels = self._resized(x, kind, level, round(RESIZE_RATIO * self.image_size))
        return transforms.random_crop(transforms.random_flip(pixels), self.image_size)

    def _train_view(self, x):
        return self._augmented(x)

    def _views(self, x):
        return self._resized(x)[None]  # (1, 3, s, s)

    def _check_parameters(self):
        super()._check_parameters()
        for name, low in (("image_size", 1), ("meta_epochs", 0), ("meta_task_batch", 1)):
            check_scalar(getattr(self, name), name, Integral, min_val=low)
        check_scalar(self.inner_lr, "inner_lr", Real, min_val=0, include_boundaries="neither")

    def _check_targets(self, rows, y, distortion=None, domains=None) -> np.ndarray:
        """Quality and number of the task, NaN where tasks are not given: (n, 2)."""
        quality = check_quality(rows, y, type(self).__name__)
        if min(len(rows), self.batch_size) < 2:
            raise ValueError(
                f"MetaIQA normalises over batches: n_samples={len(rows)} or batch_size is 1; give 2 or more."
            )
        check_consistent_length(rows, distortion, domains)
        given = [one for one in (distortion, domains) if one is not None]
        names = [np.unique(column_or_1d(one), return_inverse=True)[1] for one in given]
        if not names:
            return np.column_stack([quality, np.full(len(rows), np.nan)])
        return np.column_stack([quality, np.unique(np.stack(names), axis=1, return_inverse=True)[1].ravel()])

    def _quality(self, targets):
        return targets[:, 0] if targets.ndim == 2 else targets

    def _encode_targets(self, targets):
        return super()._encode_targets(self._quality(targets))

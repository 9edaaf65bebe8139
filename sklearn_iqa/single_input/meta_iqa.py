# SPDX-License-Identifier: BSD-3-Clause
"""MetaIQA: a prior from many distortions that adapts quickly to others (Zhu, Li, Wu, Dong, Shi, CVPR 2020)."""

import math
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, STOPPING, TRAINING, at_least
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._base.tasks import Episodes, TasksMixin, draw, task_numbers, task_rows, without_labels
from sklearn_iqa._base.training import Net, Stage, Subset
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa._nn.layers import Float32Sequential
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file
from sklearn_iqa.distortions import DISTORTIONS, distort

QUERY_FRACTION, SUPPORT_RATIO = 0.2, 1.5  # of a task's images; support images per query image in a step
HEAD_RATE = 100  # learning rate of the head in meta-training, in units of the backbone's: 1e-2 to 1e-4
RESIZE_RATIO = 256 / 224  # side to which training resizes, in units of its crop's
# pyiqa keeps the statistics of the input in its files, and calls the head by another name.
KEY_MAP = ((r"^net_g\.", ""), (r"^(mean|std)$", None), (r"^head\.", "net."))
PUBLISHED = tuple(
    PublishedWeights(
        name,
        (pyiqa_file(filename),),
        "https://github.com/zhuhancheng/MetaIQA",
        "unstated (copy: CC BY-NC-SA 4.0)",
        trained_on,
        {"backbone": "resnet18.tv_in1k"},
    )
    for name, filename, trained_on in (
        ("livec", "Metaiqa_livec.pth", "LIVE Challenge"),
        ("prior", "Metaiqa_prior.pth", "unstated"),
    )
)


def resized(image: np.ndarray, side: int) -> torch.Tensor:
    """Image -> (3, side, side) in 0..1, bilinear without antialiasing: the numbers of the official code.

    That takes scikit-image of 2019, which mirrors an image at the centres of its outer pixels. scikit-image still gives
    the same, and takes some four times as long.
    """
    if image.shape[:2] == (side, side):
        return transforms.to_tensor(image)
    columns, rows = (_centres(n, side) for n in (image.shape[1], image.shape[0]))
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    pixels = torch.from_numpy(np.array(np.moveaxis(image, -1, 0), dtype=np.float64))
    sampled = F.grid_sample(pixels[None], places[None], padding_mode="reflection", align_corners=True)[0]
    return (sampled / 255 if image.dtype == np.uint8 else sampled).float()


def _centres(n_pixels: int, n_places: int) -> torch.Tensor:
    """Centres of `n_places` equal parts of an axis, where -1 and 1 are the centres of its outer pixels."""
    centres = (torch.arange(n_places, dtype=torch.float64) + 0.5) * (n_pixels / n_places) - 0.5
    return 2 * centres / max(1, n_pixels - 1) - 1


class MetaIQANetwork(nn.Module):
    """Images -> logits of a classifier -> score."""

    def __init__(self, resnet_layer: Any):
        super().__init__()
        self.resnet_layer = resnet_layer
        width = resnet_layer.num_classes or resnet_layer.num_features
        layers = OrderedDict(fc1=nn.Linear(width, 1024), bn1=nn.BatchNorm1d(1024), relu1=nn.PReLU())
        layers |= OrderedDict(drop1=nn.Dropout(0.5), fc2=nn.Linear(1024, 512), bn2=nn.BatchNorm1d(512))
        self.net = Float32Sequential(
            layers | OrderedDict(relu2=nn.PReLU(), drop2=nn.Dropout(0.5), fc3=nn.Linear(512, 1))
        )

    def forward(self, images):
        """Normalised images (n, 3, s, s) -> score (n,) in 0..1."""
        # NOTE[DIFF] paper: features of the backbone; code: its 1000 logits.
        return self.net(self.resnet_layer(images)).sigmoid()[:, 0]


class MetaLearner(nn.Module):
    """The network in meta-training: `per_update` tasks leave from one start, which then moves by their mean update."""

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
            self.update = [torch.zeros_like(parameter) for parameter in self.start]
        self._assign(self.start)

    @torch.no_grad()
    def end(self):
        """Add the update of a task to the sum; after the last task move the start."""
        for update, start, parameter in zip(self.update, self.start, self.network.parameters(), strict=True):
            update += parameter - start
        self.n_done = (self.n_done + 1) % self.per_update
        if self.n_done == 0:
            moved = [start + update / self.per_update for start, update in zip(self.start, self.update, strict=True)]
            self._assign(moved)

    def _assign(self, values):
        for parameter, value in zip(self.network.parameters(), values, strict=True):
            parameter.copy_(value)


class TwoLevelSteps:
    """Left of a skorch net: `MetaLearner` takes two steps per task, on support and then on query images."""

    def train_step(self, batch, **fit_params):
        """Take one step, or two on a task (m, 3, s, s) with its targets (m, 4), quality in the first column."""
        if not isinstance(self.module_, MetaLearner):
            return super().train_step(batch, **fit_params)
        images, target = batch
        self.module_.begin()
        for part in (slice(self.module_.n_support), slice(self.module_.n_support, None)):
            step = super().train_step((images[part], target[part, 0]), **fit_params)
        self.module_.end()
        return step


def summed(epoch: int, step: int) -> int:
    """Sum of i // step for i = 0..epoch: the official code decays the already decayed rate of the epoch before."""
    whole, rest = divmod(epoch, step)
    return step * whole * (whole - 1) // 2 + whole * (rest + 1)


class MetaIQA(TasksMixin, QualityRegressor):
    r"""A classifier meta-trained on many distortions, so that few images suffice to fine-tune it to others.

    Every type of distortion is a task. Meta-training adapts the parameters :math:`\theta` to each of :math:`k` tasks,
    by one step of Adam on support images and one on query images, and moves them by the mean update,

    .. math:: \theta \leftarrow \theta + \frac1k \sum_{i=1}^{k} (\theta_i - \theta).

    Fine-tuning on quality follows. The score is the output of a sigmoid: 0 to 1, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet18.tv_in1k"
        Network of timm with its classifier, whose logits are the features; without one, the pooled features are.
    image_size : int, default=224
        Side in pixels of the square to which images are resized, ignoring their aspect.
    meta_epochs : int, default=50
        Passes over all tasks in meta-training; 0 skips it.
    meta_task_batch : int, default=5
        Tasks per update of the common start.
    inner_lr : float, default=1e-4
        Learning rate of the backbone within a task; that of the head is a hundred times as high.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=50
        Rows in one step of training.
    max_epochs : int, default=100
        Passes over the training data in fine-tuning. With 0 `fit` ends behind meta-training: the prior alone, for
        `save_weights`; y may then be None where neither `distortion` nor `domains` is given.
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
        The network: normalised images (n, 3, s, s) -> score (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_meta_iter_ : int
        Passes over all tasks in meta-training.
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
    Published weights, by IQA-PyTorch: "livec" (the default), fine-tuned to LIVE Challenge, scores as it is; "prior" is
    what meta-training gives, to `fit` to ratings. `weights` replace meta-training. The authors' own two files are
    pickled modules, which are never unpickled here; the error message shows how to convert a trusted file once.

    Without `distortion` or `domains` in `fit` the tasks are synthetic: all images of X, assumed pristine, in the 25
    kinds and five levels of :mod:`sklearn_iqa.distortions`, with qualities 0.9 to 0.1. Where X is not pristine, take
    the prior from other images and reuse it: ``MetaIQA(max_epochs=0).fit(pristine, None).save_weights(path)``, then
    ``MetaIQA(weights=path).fit(X, y)``.

    An episode of a task splits its images at random, 80 % for support, and takes 1.5 `batch_size` of these and
    `batch_size` others; small tasks repeat images, tasks of one image are dropped. The official code counts batches as
    tasks, starts a batch from the weights of the one before, and saves those of the last task; here the common start is
    saved. As there, learning rates decay with growing exponents, of 0.9 every two epochs and of 0.8 every ten.
    Fine-tuning: squared error, Adam.

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

    key_map = KEY_MAP
    published = PUBLISHED
    net_class = type("TwoLevelNet", (TwoLevelSteps, Net), {})
    score_range = (0.0, 1.0)
    label_range = (0.0, 1.0)

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "backbone": [str],
        "image_size": [at_least(1)],
        "meta_epochs": [at_least(0)],
        "meta_task_batch": [at_least(1)],
        "inner_lr": [POSITIVE],
        "max_epochs": [at_least(0)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "image_size": 32,
        "meta_epochs": 0,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

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
        precision="float32",
        compile=False,
        n_jobs=None,
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
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, *, distortion=None, domains=None):
        """Meta-train on tasks, then fine-tune.

        Parameters
        ----------
        X, y, sample_weight
            As for every method: images, their quality, sampling weights. y may be None with `max_epochs=0` where
            neither `distortion` nor `domains` is given: the qualities of synthetic tasks are their levels.
        distortion : array-like of shape (n,), default=None
            Type of distortion of each image: each is a task. None, without `domains` either, distorts the images.
        domains : array-like of shape (n,), default=None
            Data set of each image, all with y in one unit: each is a task, or with `distortion` each type in each.
            Both are refused where meta-training is left out: with `weights`, and with ``meta_epochs=0``.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        labels = {"distortion": distortion, "domains": domains, "prior_alone": self.max_epochs == 0}
        return self._fit(X, y, sample_weight, **labels)

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
        return self._partial_fit(X, y, sample_weight, distortion=distortion, domains=domains)

    def _network(self):
        fixed = timm_backbones.input_config(self.backbone)["fixed_input_size"]
        size = {"img_size": self.image_size} if fixed else {}
        return MetaIQANetwork(timm_backbones.build_backbone(self.backbone, **size))

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.resnet_layer, self.backbone, self.backbone_weights)

    def _loss(self):
        return nn.MSELoss()

    def _net_params(self):
        n_before = self.n_iter_  # above 0 without an earlier net, as after unpickling
        schedule = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 0.8 ** summed(n_before + epoch, 10))
        return {"callbacks": [("schedule", schedule)]}

    def _start(self, targets, sample_weight):
        self.n_meta_iter_ = 0
        super()._start(targets, sample_weight)

    def _stages_before(self, rows, targets, sample_weight):
        if self.weights is not None or self.meta_epochs == 0:
            if not without_labels(targets):
                reason = "weights replace" if self.weights is not None else "meta_epochs=0 leaves out"
                raise ValueError(
                    f"distortion and domains are the tasks of meta-training, which {reason}; leave them out, or let it "
                    "run, with weights=None and meta_epochs above 0."
                )
            return
        if self.n_meta_iter_ > 0:  # before this estimator was pickled
            return
        tasks = [task for task in self._tasks(targets) if len(task) > 1]
        if not tasks:
            raise ValueError("Every distortion or domain has one image, but a task needs two; give more, or neither.")
        n_queries = [math.ceil(QUERY_FRACTION * len(task)) for task in tasks]  # the others are for support
        n_supports = [len(task) - n for task, n in zip(tasks, n_queries, strict=True)]
        n_query = max(2, min(self.batch_size, max(n_queries)))
        n_support = max(2, min(int(SUPPORT_RATIO * self.batch_size), max(n_supports)))
        # In an epoch as many episodes of a task as it takes to see all of its support images.
        epoch = [i for i, n in enumerate(n_supports) for _ in range(math.ceil(n / n_support))]
        n_visits = math.ceil(len(epoch) * self.meta_epochs / self.meta_task_batch) * self.meta_task_batch
        lengths = [len(epoch)] * self.meta_epochs
        lengths[-1] += n_visits - sum(lengths)
        weights = None if sample_weight is None else [sample_weight[task[:, 1].astype(int)] for task in tasks]
        starts = np.cumsum([0, *map(len, tasks)])  # of the tasks, and their end, among the images of all of them

        def visits(n):
            if weights is None:
                order = torch.cat([torch.randperm(len(epoch)) for _ in range(math.ceil(n / len(epoch)))])
                drawn = [epoch[i] for i in order[:n]]
            else:  # a task as often as its images together
                drawn = draw(np.arange(len(tasks)), n, np.array([weight.sum() for weight in weights])).tolist()
            for i in drawn:
                order = torch.randperm(len(tasks[i])).numpy()
                parts = (order[n_queries[i] :], n_support), (order[: n_queries[i]], n_query)
                support, query = (np.resize(*part) if weights is None else draw(*part, weights[i]) for part in parts)
                yield starts[i] + np.concatenate([support, starts[-1] + query])

        def view(x, target):
            _, kind, level, is_query = target.tolist()
            return (self._resized if is_query else self._augmented)(x, int(kind), int(level))

        def factor(step):
            return 0.9 ** summed(step // len(epoch), 2)

        images = np.concatenate(tasks)
        roles = np.repeat([0, 1], len(images))  # all images for support, then all for queries
        yield Stage(
            "meta-training",
            MetaLearner(self.network_, n_support, self.meta_task_batch),
            self._loss(),
            self.meta_epochs,
            Subset(rows, np.tile(images[:, 1].astype(int), 2)),
            np.column_stack([np.tile(images[:, [0, 2, 3]].astype(np.float32), (2, 1)), roles.astype(np.float32)]),
            view,
            lr=self.inner_lr,
            net_params={
                "callbacks": [("schedule", LRScheduler("LambdaLR", lr_lambda=factor, step_every="batch"))],
                "optimizer__param_groups": [("network.net.*", {"lr": HEAD_RATE * self.inner_lr})],
                "iterator_train__sampler": Episodes,
                "iterator_train__lengths": lengths,
                "iterator_train__draw": visits,
            },
        )
        self.n_meta_iter_ = self.meta_epochs

    def _tasks(self, targets) -> list[np.ndarray]:
        """Quality in 0..1, row, kind and level of all images of each task, (k, 4); level 0 is undistorted."""
        made = without_labels(targets)
        levels, labels = np.arange(1, 6) if made else np.zeros(1), self._encode_targets(targets)
        tasks = []
        for kind, members in enumerate(task_rows(targets, len(DISTORTIONS))):
            row, level = np.tile(members, len(levels)), levels.repeat(len(members))
            quality = 1 - (level - 0.5) / 5 if made else labels[row]  # the centres of five equal parts of 0..1
            tasks.append(np.column_stack([quality, row, np.full(len(row), kind), level]))
        return tasks

    def _resized(self, x, kind=0, level=0, side=None):
        pixels = resized(x, side or self.image_size)
        if level > 0:
            seed = int(torch.randint(2**31 - 1, ()))
            as_array = pixels.permute(1, 2, 0).numpy()
            pixels = transforms.to_tensor(distort(as_array, DISTORTIONS[kind], level, random_state=seed))
        config = timm_backbones.input_config(self.backbone)
        return transforms.normalize(pixels, config["mean"], config["std"])

    def _augmented(self, x, kind=0, level=0):
        # NOTE[DIFF] official: excludes the last row and column of crop positions.
        pixels = self._resized(x, kind, level, round(RESIZE_RATIO * self.image_size))
        return transforms.random_crop(transforms.random_flip(pixels), self.image_size)

    def _train_view(self, x):
        return self._augmented(x)

    def _views(self, x):
        return self._resized(x)[None]  # (1, 3, s, s)

    def _check_targets(self, rows, y, distortion=None, domains=None, prior_alone=False) -> np.ndarray:
        """Quality and number of the task, each NaN where it is not given: (n, 2)."""
        if min(len(rows), self.batch_size) < 2:
            raise ValueError(
                f"MetaIQA normalises over batches: n_samples={len(rows)} or batch_size is 1; give 2 or more."
            )
        given = [label for label in (distortion, domains) if label is not None]
        made = prior_alone and y is None and not given
        quality = np.full(len(rows), np.nan) if made else check_quality(rows, y, type(self).__name__)
        return np.column_stack([quality, task_numbers(rows, *given) if given else np.full(len(rows), np.nan)])

# SPDX-License-Identifier: BSD-3-Clause
"""DR-IQA: a restored image compared with its degraded input, by knowledge distillation (Zheng et al., ICCV 2021)."""

import copy
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler
from torchvision.transforms import InterpolationMode

from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, PROTOCOL, STOPPING, TRAINING, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._base.rows import check_tuples, count_images
from sklearn_iqa._base.training import EvenBatches, Stage, Subset, TrainingSet
from sklearn_iqa._nn.layers import Float32Sequential
from sklearn_iqa._nn.pyiqa_views import resized_center
from sklearn_iqa._nn.timm_backbones import build_backbone, input_config, load_backbone
from sklearn_iqa._nn.transforms import central_square, normalize, resize_shorter, to_tensor
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file

TRIPLET = ("restored", "degraded", "pristine")
CROP_RATIO = 0.875  # side of the central crop over the shorter side of the resized image
ELO_SCALE = 400  # Elo points that make odds of ten to one
# The official quality is (Elo - 900) / 1000. The Elo ratings of PIPAL's training part are 917 to 1836: two of its lists
# of labels, of which one is mapped to 0..1 (data/PIPAL_train.txt of MANIQA, IQA_list/PIPAL.txt of anse3832/IQT).
ELO_UNIT, PIPAL_QUALITY = 1000, (0.017, 0.936)
QUERY_RESAMPLE, REFERENCE_RESAMPLE = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
PYIQA_MODES = (InterpolationMode.BICUBIC, InterpolationMode.NEAREST)  # the latter takes another pixel than Pillow

SOURCE = "https://github.com/researchmm/CKDN"
KEY_MAP = ((r"^net\.", ""),)  # pyiqa's copy has the network inside another module
COPY = pyiqa_file("CKDN_model_best-38b27dc6.pth")  # the authors' file has no address for direct download
PUBLISHED = (PublishedWeights("pipal", (COPY,), SOURCE, "MIT (copy: CC BY-NC-SA 4.0)", "PIPAL"),)


class References(NamedTuple):
    """Output of the network for n restored images, each compared with k references."""

    scores: torch.Tensor  # (n, k)
    apart: torch.Tensor  # (n,), mean squared difference between the features of the references


class DRIQANetwork(nn.Module):
    """Two stems of a ResNet, for restored images and for references, and a head on the difference of their features."""

    def __init__(self, backbone: str = "resnet50.tv_in1k", head_width: int = 2048):
        super().__init__()
        # NOTE[DIFF] a ResNet has BatchNorm and ReLU between its first convolution and the pool; the code left them out.
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.qse_1, self.qse_2, self.csp, width = _first_layers(backbone)
        # Pretraining makes the stems equal; so must random weights, for equal images to begin without difference.
        self.dte_1, self.dte_2, self.aux_csp = copy.deepcopy((self.qse_1, self.qse_2, self.csp))
        self.fc_, self.fc1_ = (
            Float32Sequential(
                *(nn.Linear(width, head_width), nn.ReLU(), nn.Dropout(0.5)),
                *(nn.Linear(head_width, head_width), nn.ReLU(), nn.Dropout(0.5)),
                nn.Linear(head_width, 1),
            )
            for _ in range(2)
        )

    def forward(self, pairs):
        """(n, 2, 3, h, w), normalised: restored image and reference -> score (n,) in 0..1."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def encode_query(self, images):
        """(n, 3, h, w) -> (n, 256, h/4, w/4): the restored image."""
        return self.qse_2(self.pool(self.qse_1(images)))

    def encode_reference(self, images):
        """(n, 3, h, w) -> (n, 256, h/4, w/4): degraded or pristine, which training makes look alike."""
        return self.dte_2(self.pool(self.dte_1(images)))

    def compare(self, queries, encoded):
        """Restored images (n, 3, h, w) and encoded references -> score (n,)."""
        return self.judge(self.encode_query(queries) - encoded)

    def judge(self, difference):
        """Difference of features (n, 256, h/4, w/4) -> score (n,)."""
        return self.fc_(self.csp(difference).mean((2, 3))).squeeze(1).sigmoid()

    def compare_each(self, views):
        """(n, 1 + k, 3, h, w), restored image and k = 1 or 2 references -> `References`."""
        query, *references = views.unbind(1)
        query, encoded = self.encode_query(query), [self.encode_reference(one) for one in references]
        # In one batch, so that BatchNorm sees both kinds of differences together, as in the official code.
        scores = self.judge(torch.cat([query - one for one in encoded]))
        apart = (encoded[0] - encoded[-1]).square().mean((1, 2, 3))  # nothing where there is one reference
        return References(scores.unflatten(0, (len(references), -1)).T, apart)

    def prefer(self, restored):
        """(n, 2, 3, h, w), two restorations of one scene -> probability (n,) that the second is the better one."""
        first, second = (self.encode_query(one) for one in restored.unbind(1))
        return self.fc1_(self.aux_csp(first - second).mean((2, 3))).squeeze(1).sigmoid()


def _first_layers(backbone: str):
    resnet: Any = build_backbone(backbone, num_classes=0)
    if not all(hasattr(resnet, name) for name in ("conv1", "layer1", "layer2")):
        raise ValueError(f"backbone={backbone!r} is no ResNet of timm; take one such as 'resnet18' or 'resnet50'.")
    return resnet.conv1, resnet.layer1, resnet.layer2, resnet.feature_info[2]["num_chs"]


class Calling(nn.Module):
    """A network with another of its methods in the place of `forward`, for training."""

    def __init__(self, network: DRIQANetwork, method: str):
        super().__init__()
        self.network, self.method = network, method

    def forward(self, views):
        """Call the method."""
        return getattr(self.network, self.method)(views)


class ReferenceDistillationLoss(nn.Module):
    """Squared errors for each reference, and `weight` times the mean square of `References.apart`."""

    def __init__(self, weight: float = 30.0):
        super().__init__()
        self.weight = weight

    def forward(self, output: References, quality):
        """Output for n rows and their quality (n,) in 0..1 -> loss."""
        errors = (output.scores - quality[:, None]).square().sum(1)
        return (errors + self.weight * output.apart.square()).mean()


class ComparisonLoss(nn.Module):
    """Half the squared error of a probability."""

    def forward(self, probability, expected):
        """Both (n,) -> loss."""
        return (probability - expected).square().mean() / 2


def win_probability(first, second, scale):
    """Elo's probability that the second of two images wins; a difference of `scale` makes odds of ten to one."""
    return 1 / (1 + 10 ** ((first - second) / scale))


def _others(n_passes: int, n_rows: int, weight: np.ndarray | None) -> np.ndarray:
    """For each of n rows another one of them, drawn by weight, in each of some passes: (n_passes, n_rows)."""
    if weight is None:
        ahead = torch.randint(1, n_rows, (n_passes, n_rows)).numpy()
        return (np.arange(n_rows) + ahead) % n_rows
    chances = torch.as_tensor(weight).repeat(n_rows, 1).fill_diagonal_(0.0)
    return torch.multinomial(chances, n_passes, replacement=True).T.numpy()


def decaying_weights(groups, *, weight_decay: float, **settings) -> torch.optim.SGD:
    """SGD whose weight decay leaves biases and the gains of BatchNorm alone: all tensors of one axis."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    undecayed, decayed = ([one for one in parameters if (one.ndim > 1) == kind] for kind in (False, True))
    groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    return torch.optim.SGD(groups, **settings)


class PassByPass(BatchSampler):
    """Shuffled batches of the list of all passes over some rows; each epoch takes the next pass."""

    def __init__(self, data, batch_size: int, n_passes: int):
        self.data, self.n_rows = data, len(data) // n_passes
        # All passes have the same rows in the same order, so that places in the first one do for all.
        first = TrainingSet(data.view, data.targets, data.members[: self.n_rows], data.weight)
        self.places = EvenBatches(first, batch_size)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self):
        start = self.data.epoch * self.n_rows
        for batch in self.places:
            yield [start + place for place in batch]


class _Comparisons:
    """Rows (restored, another restored of the same scene)."""

    def __init__(self, rows, first, second):
        self.rows, self.first, self.second = _only(rows, 0), first, second

    def __len__(self):
        return len(self.first)

    def __getitem__(self, i):
        return self.rows[self.first[i]][0], self.rows[self.second[i]][0]

    def number(self, i: int) -> int:
        """Give the place of the first image in X."""
        return self.rows.number(self.first[i])


def _only(rows, *places: int):
    """Give the rows with the images at some places of a tuple alone."""
    if isinstance(rows, Subset):
        return Subset(_only(rows.rows, *places), rows.members)
    return rows.only(*places)


class DRIQA(QualityRegressor):
    r"""Degraded-reference quality: compares a restored image with the degraded one that it was made from.

    The features of the restored image and of the reference come from two stems of one form, and a head scores their
    difference, :math:`s = \sigma(h(q(x) - d(r)))`. Training uses the pristine original as well and distils it into the
    stem of references: with degraded reference :math:`r` and pristine reference :math:`p` it minimises

    .. math:: (s(x, r) - t)^2 + (s(x, p) - t)^2 + 30\, \big(\operatorname{mean}\,(d(r) - d(p))^2\big)^2,

    so that a degraded image serves in place of its original. The score lies in 0..1, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet50.tv_in1k"
        Any ResNet of timm; its first convolution and its first two stages are taken.
    head_width : int, default=2048
        Hidden units in each of the two hidden layers of a head.
    image_size : int, default=288
        Side of the central crop in pixels; the image is first resized so that its shorter side is 8/7 of it.
    comparison_epochs : int, default=10
        Passes over the training data before the others, in which the network learns which of two restorations of one
        scene is the better one; 0 leaves them out.
    elo_scale : float, default=None
        Difference of y at which the better of two images wins ten times out of eleven: 400 for Elo ratings, as those of
        PIPAL. None takes 0.435 of the range of y, which is 400 where labels spread as PIPAL's do.
    distillation_weight : float, default=30.0
        Weight of the penalty that makes degraded and pristine references look alike.
    weight_decay : float, default=1e-4
        Weight decay of all weights but biases and the gains of BatchNorm.
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
    batch_size : int, default=64
        Rows in one step of training.
    max_epochs : int, default=20
        Passes over the training data.
    lr : float, default=0.16
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
        The network: pairs (n, 2, 3, height, width), normalised for the backbone -> score (n,).
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
    `fit` takes triplets (restored, degraded, pristine) with the quality of the restored image. `predict` takes pairs
    (restored, reference), where the reference is the degraded or the pristine image, and of triplets the first two.
    `fit` on pairs learns to score with the reference that they hold, without distillation: trained on pristine
    references it has no reason to tolerate degraded ones. Rows that share their last image are of one scene; a row that
    is alone in its scene takes no part in comparisons. The images of one row may differ in size.

    The range of y is mapped to 0.017..0.936, that of PIPAL's ratings in the official unit, (Elo - 900) / 1000.

    Published weights: "pipal" ("default"), a copy of the authors' file; theirs loads by path. As in the official code,
    restored images are resized with a bicubic filter, references by taking the nearest pixel. Comparisons leave alone
    what they do not train; officially they moved its BatchNorm statistics and let it decay. `max_epochs` counts the
    epochs after them; officially there are 10 and 20.

    References
    ----------
    .. [1] H. Zheng, H. Yang, J. Fu, Z.-J. Zha, J. Luo, "Learning Conditional Knowledge Distillation for
       Degraded-Reference Image Quality Assessment", ICCV 2021. https://github.com/researchmm/CKDN

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import DRIQA
    >>> triplets = np.random.default_rng(0).integers(0, 256, (4, 3, 40, 48, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "backbone_weights": None, "head_width": 16, "image_size": 32}
    >>> driqa = DRIQA(**small, max_epochs=1, random_state=0).fit(triplets, [1.0, 2.0, 4.0, 3.0])
    >>> driqa.predict(triplets[:, :2]).shape
    (4,)
    """

    inputs = ("query", "reference")
    same_size = False
    optimizer = torch.optim.SGD
    score_range = (0.0, 1.0)
    label_range = PIPAL_QUALITY
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **PROTOCOL,
        "backbone": [str],
        "head_width": [at_least(1)],
        "image_size": [at_least(1)],
        "comparison_epochs": [at_least(0)],
        "elo_scale": [POSITIVE, None],
        "distillation_weight": [non_negative()],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "head_width": 16,
        "image_size": 35,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.01,
    }

    def __init__(
        self,
        *,
        backbone="resnet50.tv_in1k",
        head_width=2048,
        image_size=288,
        comparison_epochs=10,
        elo_scale=None,
        distillation_weight=30.0,
        weight_decay=1e-4,
        protocol="official",
        weights=None,
        backbone_weights="imagenet",
        batch_size=64,
        max_epochs=20,
        lr=0.16,
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
        self.head_width = head_width
        self.image_size = image_size
        self.comparison_epochs = comparison_epochs
        self.elo_scale = elo_scale
        self.distillation_weight = distillation_weight
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

    def _network(self):
        return DRIQANetwork(self.backbone, self.head_width)

    def _load_backbone(self, network):
        for stem, stage in (("qse", "csp"), ("dte", "aux_csp")):
            places = {"conv1": f"{stem}_1", "layer1": f"{stem}_2", "layer2": stage}
            layers = nn.ModuleDict({name: network.get_submodule(place) for name, place in places.items()})
            load_backbone(layers, self.backbone, self.backbone_weights)

    def _training_rows(self, X):
        names = TRIPLET if count_images(X) == len(TRIPLET) else self.inputs
        return check_tuples(X, names, type(self).__name__, self.same_size)

    def _rows(self, X):
        return self._training_rows(X).only(0, 1)

    def _scores(self, rows):  # of rows held out in training
        return super()._scores(_only(rows, 0, 1))

    def _stages_before(self, rows, targets, sample_weight):
        scenes: dict = {}
        for row in range(len(rows)):
            scenes.setdefault(rows.same(row), []).append(row)
        first, second = [], []  # of each scene, (n_passes, n_rows)
        for members in map(np.array, scenes.values()):
            if len(members) > 1:  # every row with another row of its scene, drawn anew for every pass
                weight = None if sample_weight is None else sample_weight[members]
                others = _others(self.comparison_epochs, len(members), weight)
                first.append(np.broadcast_to(members, others.shape))
                second.append(members[others])
        if self.comparison_epochs == 0 or not first:
            return
        first, second = (np.concatenate(part, axis=1).ravel() for part in (first, second))
        slope, _ = self.label_scale_
        scale = slope * ELO_SCALE / ELO_UNIT if self.elo_scale is None else self.elo_scale
        batches = {"iterator_train__sampler": PassByPass, "iterator_train__n_passes": self.comparison_epochs}
        yield Stage(
            name="comparisons",
            module=Calling(self.network_, "prefer"),
            loss=ComparisonLoss(),
            n_epochs=self.comparison_epochs,
            rows=_Comparisons(rows, first, second),
            targets=win_probability(targets[first], targets[second], scale),
            view=lambda images, target: torch.stack([self._view(image, QUERY_RESAMPLE) for image in images]),
            net_params=self._net_params() | batches,
            sample_weight=None if sample_weight is None else sample_weight[first],
        )

    def _training_module(self, network):
        return Calling(network, "compare_each")

    def _loss(self):
        return ReferenceDistillationLoss(self.distillation_weight)

    def _net_params(self):
        settings = {"momentum": 0.9, "nesterov": True, "weight_decay": self.weight_decay}
        return {"optimizer": decaying_weights} | {f"optimizer__{name}": value for name, value in settings.items()}

    def _train_view(self, x):
        query, *references = x
        references = [self._view(image, REFERENCE_RESAMPLE) for image in references]
        return torch.stack([self._view(query, QUERY_RESAMPLE), *references])

    def _views(self, x):
        if self.protocol == "official":
            return self._train_view(x)[None]  # (1, 2, 3, size, size)
        side = math.floor(self.image_size / CROP_RATIO)
        pairs = zip(x, PYIQA_MODES, strict=True)
        centers = [resized_center(to_tensor(image), side, self.image_size, mode) for image, mode in pairs]
        return self._normalized(torch.stack(centers))[None]

    def _view(self, image, resample) -> torch.Tensor:
        image = resize_shorter(image, math.floor(self.image_size / CROP_RATIO), resample)
        return self._normalized(to_tensor(central_square(image, self.image_size)))

    def _normalized(self, pixels) -> torch.Tensor:
        config = input_config(self.backbone)
        return normalize(pixels, config["mean"], config["std"])

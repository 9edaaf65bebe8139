# SPDX-License-Identifier: BSD-3-Clause
"""Re-IQA: features of content and of quality, learned without labels (Saha, Mishra, Bovik, CVPR 2023)."""

import os
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.utils._param_validation import Interval
from skorch.callbacks import LRScheduler
from torch import nn
from torchvision.transforms import v2

from sklearn_iqa._base.failures import RAISE, explained_memory, size_of
from sklearn_iqa._base.inference import Job, prepared
from sklearn_iqa._base.parameters import POSITIVE, PRETRAINED, TRAINING, at_least, non_negative, one_of, within
from sklearn_iqa._base.quality import FeatureLearner
from sklearn_iqa._base.training import Apart, Stage
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa._nn.contrastive import AfterStep, InfoNCELoss, MomentumContrast, Projected
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.pair_input._lars import LARS, WarmUpAndCosine
from sklearn_iqa.pair_input._re_iqa_distortions import BANK, distorted_stack

PARTS = {"content+quality": ("content", "quality"), "content": ("content",), "quality": ("quality",)}
# Of the content encoder's epochs, where its rate falls tenfold: after 120 and 160 of 200 in PyContrast, whose defaults
# the authors took. The paper of MoCo v2 has a cosine, which is an option there.
CONTENT_STEPS = (3 / 5, 4 / 5)
SMALLEST_PATCH = 8  # in smaller ones no whole number of pixels may give the overlap


class Encoded(NamedTuple):
    """Features of n images, (n, d) each."""

    content: torch.Tensor
    quality: torch.Tensor


class ReIQANetwork(nn.Module):
    """Two encoders of one architecture; the projection heads behind them are for training alone."""

    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, content: Any, quality: Any, mean, std):
        super().__init__()
        width = getattr(content, "head_hidden_size", content.num_features)
        self.content, self.quality = Projected(content, width), Projected(quality, width)
        self.width, self.mean, self.std = width, mean, std

    def forward(self, images):
        """Images (n, 3, h, w) in 0..1 -> `Encoded`; the quality encoder takes them as they are."""
        normalized = transforms.normalize(images, self.mean, self.std)
        return Encoded(self.content.encoder(normalized), self.quality.encoder(images))


def halved(image: np.ndarray) -> np.ndarray:
    """Half the size, of an image of 8 bits, as Pillow makes it by default (bicubic, antialiased)."""
    if image.dtype != np.uint8:
        image = np.rint(255 * image).astype(np.uint8)
    height, width = image.shape[:2]
    return transforms.resize(image, height // 2, width // 2, Image.Resampling.BICUBIC)


def augmentation(size: int) -> v2.Transform:
    """What MoCo v2 does with an image (3, h, w) in 0..1 before it is normalised."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, sigma=(0.1, 2.0))], p=0.5),  # 13 px: three deviations to each side
        ]
    )


class ReIQA(FeatureLearner):
    r"""Features of content and of quality at two scales, learned from images without ratings.

    Two encoders learn by momentum contrast: of two views that belong together and many others each finds the one,

    .. math:: -\log \frac{\exp(q \cdot k_+ / t)}{\exp(q \cdot k_+ / t) + \sum_{k \in \text{queue}} \exp(q \cdot k / t)}.

    For the content encoder these are two crops of an image, whatever their colours and sharpness. For the quality
    encoder they are two patches of one distorted image that overlap a little: what they share is how the image was
    distorted. A linear regression on both kinds of features predicts ratings, in their unit: higher is better where it
    is so in the ratings.

    Parameters
    ----------
    backbone : str, default="resnet50"
        Both encoders: any network of timm that takes images of any size.
    parts : {"content+quality", "content", "quality"}, default="content+quality"
        Whose features `transform` gives.
    trained : {"quality", "content+quality", "none"}, default="quality"
        What `fit` trains: the quality encoder beside a frozen content encoder, both, content first, or nothing.
    n_distorted : int, default=11
        Distorted versions of an image in a step, each of another kind, beside the image itself; at most 26.
    second_distortion : float, default=0.0
        Probability that a version is distorted by two kinds.
    patch_size : int, default=160
        Side of the patches of a pair, in pixels, at least 8. Images whose shorter side is below 3.8 times as much are
        enlarged (bicubic), since two patches must fit into their halves.
    queue_size : int, default=65536
        Keys of earlier steps that are kept as negatives.
    momentum : float, default=0.999
        Fraction of its own weights that the encoder of keys keeps in a step, in [0, 1]; the rest is the query's.
    temperature : float, default=0.2
        The :math:`t` of the loss.
    n_groups : int, default=6
        Parts of a batch over which BatchNorm counts separately in training, keys shuffled, as officially on several
        devices.
    weight_decay : float, default=1e-4
        Weight decay, of matrices and kernels alone.
    warmup_epochs : int, default=5
        First epochs, in which the learning rate rises from 0.01; they count as part of `max_epochs`.
    content_epochs : int, default=200
        Passes over the training data for the content encoder, where it is trained.
    content_size : int, default=224
        Side of its views in pixels.
    content_batch_size : int, default=256
        Rows in one step of its training.
    content_lr : float, default=0.03
        Its learning rate at the start; it falls tenfold after 3/5 and 4/5 of `content_epochs`.
    content_weights : path or None, default=None
        A file for the content encoder alone, such as the authors' `content_aware_r50.pth`; None takes the backbone's
        pretraining.
    quality_weights : {"backbone"}, path or None, default=None
        A file for the quality encoder alone, such as the authors' `quality_aware_r50.pth`; `transform` then works
        without `fit`. "backbone" takes the backbone's pretraining, None random numbers, as officially.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), see Notes. `transform` then
        works without `fit`, and `fit` goes on from there. None trains anew, from `backbone_weights`.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=630
        Rows in one step of training.
    max_epochs : int, default=40
        Passes over the training data.
    lr : float, default=12.0
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
        The network: images (n, 3, height, width) in 0..1 -> features of content and of quality, (n, d) each.
    n_iter_ : int
        Epochs trained, of the quality encoder.
    n_steps_ : int
        Steps of the optimiser, over all epochs.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    loss_curve_ : list of float
        Mean training loss of each of them.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    TimmFeatures : Features of a network that learned to classify.

    Notes
    -----
    Features come in the order content at full size, content at half size, quality at full size, quality at half size,
    of 2048 each with ResNet-50. Scale them before a regression, and search its penalty over many decades.

    Published weights: none by name. The authors' two files load by path, `content_weights` and `quality_weights`, with
    their projection heads or without; with them set `trained="none"`, else `fit` goes on training.

    The defaults are those of the authors' six nodes with several GPUs: 630 images are 15120 pairs of patches in a step.
    On one machine take fewer, a smaller queue, and a rate in proportion. Official negatives are keys of earlier steps
    alone, although the paper also means the other distortions of the same image; so it is here.

    References
    ----------
    .. [1] A. Saha, S. Mishra, A. C. Bovik, "Re-IQA: Unsupervised Learning for Image Quality Assessment in the Wild",
       CVPR 2023. https://github.com/avinabsaha/ReIQA
    .. [2] X. Chen, H. Fan, R. Girshick, K. He, "Improved Baselines with Momentum Contrastive Learning", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import ReIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 64, 72, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "backbone_weights": None, "patch_size": 16, "n_distorted": 1}
    >>> reiqa = ReIQA(**small, batch_size=4, queue_size=16, max_epochs=1, random_state=0)
    >>> reiqa.fit_transform(images).shape
    (4, 384)
    """

    min_size = 64  # its half still gives one position at a stride of 32
    optimizer = LARS
    network_: ReIQANetwork

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **PRETRAINED,
        "backbone": [str],
        "parts": [one_of(*PARTS)],
        "trained": [one_of("quality", "content+quality", "none")],
        "n_distorted": [Interval(Integral, 0, len(BANK), closed="both")],
        "second_distortion": [within(0, 1)],
        "patch_size": [at_least(SMALLEST_PATCH)],
        "queue_size": [at_least(1)],
        "momentum": [within(0, 1)],
        "temperature": [POSITIVE],
        "n_groups": [at_least(1)],
        "weight_decay": [non_negative()],
        "warmup_epochs": [at_least(0)],
        "content_epochs": [at_least(1)],
        "content_size": [at_least(1)],
        "content_batch_size": [at_least(1)],
        "content_lr": [POSITIVE],
        "content_weights": [str, os.PathLike, None],
        "quality_weights": [str, os.PathLike, None],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "n_distorted": 1,
        "patch_size": 16,
        "queue_size": 16,
        "n_groups": 1,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
    }
    _test_size: ClassVar[tuple[int, int]] = (72, 80)

    def __init__(
        self,
        *,
        backbone="resnet50",
        parts="content+quality",
        trained="quality",
        n_distorted=11,
        second_distortion=0.0,
        patch_size=160,
        queue_size=65536,
        momentum=0.999,
        temperature=0.2,
        n_groups=6,
        weight_decay=1e-4,
        warmup_epochs=5,
        content_epochs=200,
        content_size=224,
        content_batch_size=256,
        content_lr=0.03,
        content_weights=None,
        quality_weights=None,
        weights=None,
        backbone_weights="imagenet",
        batch_size=630,
        max_epochs=40,
        lr=12.0,
        warm_start=False,
        device="auto",
        precision="float32",
        compile=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.parts = parts
        self.trained = trained
        self.n_distorted = n_distorted
        self.second_distortion = second_distortion
        self.patch_size = patch_size
        self.queue_size = queue_size
        self.momentum = momentum
        self.temperature = temperature
        self.n_groups = n_groups
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.content_epochs = content_epochs
        self.content_size = content_size
        self.content_batch_size = content_batch_size
        self.content_lr = content_lr
        self.content_weights = content_weights
        self.quality_weights = quality_weights
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

    # Building ---------------------------------------------------------------------------------------------------------

    def _network(self):
        config = timm_backbones.input_config(self.backbone)
        if config["fixed_input_size"]:
            raise ValueError(
                f"backbone={self.backbone!r} takes images of one size, but Re-IQA sees whole ones; take a "
                "convolutional network such as 'resnet50'."
            )
        content, quality = (timm_backbones.build_backbone(self.backbone, num_classes=0) for _ in range(2))
        return ReIQANetwork(content, quality, config["mean"], config["std"])

    def _load_backbone(self, network):
        if self.content_weights is None:
            timm_backbones.load_backbone(network.content.encoder, self.backbone, self.backbone_weights)
        else:
            self._load_part(network.content, "content_weights")
        if self._has_quality_file:
            self._load_part(network.quality, "quality_weights")
        elif self.quality_weights == "backbone":
            timm_backbones.load_backbone(network.quality.encoder, self.backbone, self.backbone_weights)

    def _load_part(self, part: Projected, parameter: str) -> None:
        # The authors' files hold the network of the keys too, as `model_ema`; their features are those of the other.
        state = state_dicts.read_state(getattr(self, parameter), entry="model")
        if not any(name.startswith("head.") for name in state):
            state |= {f"head.{name}": tensor for name, tensor in part.head.state_dict().items()}
        state_dicts.load_state(part, state, origin=f"{parameter}={str(getattr(self, parameter))!r}")

    @property
    def _has_quality_file(self) -> bool:
        return self.quality_weights is not None and self.quality_weights != "backbone"

    def __sklearn_is_fitted__(self):
        return super().__sklearn_is_fitted__() or self._has_quality_file

    # Features ---------------------------------------------------------------------------------------------------------

    def _views(self, x):
        return transforms.to_tensor(x)[None]

    def _infer(self, rows, failures=RAISE):
        """Yield (row, `Encoded` of each scale), as they become known."""
        self._ensure_network()
        both_scales = prepared(lambda row: self._scales(rows, row), range(len(rows)), self._n_threads, failures)
        jobs = (job for both in both_scales for job in both)
        known: dict[int, dict[int, Encoded]] = {}
        for (row, scale), encoded in self._run_network(jobs, failures):
            known.setdefault(row, {})[scale] = encoded
            if len(known[row]) == 2:
                both = known.pop(row)
                yield row, (both[0], both[1])

    def _scales(self, rows, row: int) -> list[Job]:
        """An image and its half; the name of a job is (row, scale)."""
        x = self._open(rows, row)
        where = f"Row {rows.number(row)} of X ({size_of(x)})"
        with explained_memory(where):
            jobs = (Job((row, scale), self._views(one), where=where) for scale, one in enumerate((x, halved(x))))
            return [job.pinned(self.device_) for job in jobs]

    def _features(self, output):
        return torch.cat([getattr(scale, part)[0] for part in PARTS[self.parts] for scale in output]).numpy()

    @property
    def _n_features_out(self):
        if self.__sklearn_is_fitted__():
            self._ensure_network()
        return 2 * len(PARTS[self.parts]) * self.network_.width  # two scales

    # Training ---------------------------------------------------------------------------------------------------------

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        if self.trained == "none":
            self.n_iter_, self.loss_curve_ = getattr(self, "n_iter_", 0), getattr(self, "loss_curve_", [])
            return
        super()._train(rows, targets, sample_weight, n_epochs, seed, tasks)

    def _stages_before(self, rows, targets, sample_weight):
        if self.trained != "content+quality":
            return
        augment = augmentation(self.content_size)

        def view(x, target):
            pixels = transforms.to_tensor(x)
            views = torch.stack([augment(pixels), augment(pixels)])
            return transforms.normalize(views, self.network_.mean, self.network_.std)

        ends = [round(self.content_epochs * step) for step in CONTENT_STEPS]

        def factor(epoch):
            return 0.1 ** sum(epoch >= end for end in ends)

        yield Stage(
            name="content",
            module=self._contrast(self.network_.content),
            loss=self._loss(),
            n_epochs=self.content_epochs,
            rows=rows,
            targets=targets,
            view=view,
            lr=self.content_lr,
            net_params={
                "optimizer": torch.optim.SGD,
                "optimizer__momentum": 0.9,
                "optimizer__weight_decay": self.weight_decay,
                "iterator_train__batch_size": self.content_batch_size,
                "callbacks": [
                    ("schedule", LRScheduler("LambdaLR", lr_lambda=factor)),
                    ("contrast", AfterStep()),
                ],
            },
        )

    def _contrast(self, encoder):
        return MomentumContrast(encoder, self.queue_size, self.momentum, self.n_groups)

    def _training_module(self, network):
        return self._contrast(network.quality)

    def _loss(self):
        return InfoNCELoss(self.temperature)

    def _net_params(self):
        schedule = WarmUpAndCosine(self.max_epochs, self.warmup_epochs, n_before=self.n_iter_)
        return {
            "optimizer__weight_decay": self.weight_decay,
            "iterator_train__stack_class": Apart,  # of the default batch 9 GB
            "callbacks": [("schedule", schedule), ("contrast", AfterStep())],
        }

    def _train_view(self, x):
        """An image and distorted ones, at two scales -> pairs of patches (m, 2, 3, size, size)."""
        size = self.patch_size
        needed = 2 * transforms.side_of_overlapping_pair(size)  # so that a pair lies in the half as well
        if min(x.shape[:2]) < needed:
            x = transforms.resize_shorter(x, needed, Image.Resampling.BICUBIC)
        rng = np.random.RandomState(int(torch.randint(2**31 - 1, ())))
        stack = distorted_stack(x, self.n_distorted, rng, self.second_distortion)
        full = torch.stack([transforms.to_tensor(image) for image in stack])
        # Not antialiased, other than in inference: so the official code trains.
        half = F.interpolate(full, (x.shape[0] // 2, x.shape[1] // 2), mode="bicubic", align_corners=True)
        pairs, half_pairs = (transforms.overlapping_pair(images, size) for images in (full, half))
        middle = len(stack) // 2
        # Of half the pairs, others at each scale, queries become keys.
        return torch.cat([pairs[:middle].flip(1), pairs[middle:], half_pairs[:middle], half_pairs[middle:].flip(1)])

    def _check_combinations(self):
        for name in ("content_weights", "quality_weights"):
            if self.weights is not None and getattr(self, name) is not None:
                raise ValueError(f"weights are those of both encoders, but {name} is given as well; give one of them.")

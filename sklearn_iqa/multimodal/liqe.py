# SPDX-License-Identifier: BSD-3-Clause
"""LIQE: quality, scene and distortion from prompts that name all three (Zhang et al., CVPR 2023)."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import skorch.callbacks
import torch
from PIL import Image
from sklearn.utils import Bunch, check_consistent_length
from torch import nn

from sklearn_iqa._base.calibration import EpochLine
from sklearn_iqa._base.domains import DomainsMixin, domain_numbers, numbers_by_domain
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import PRETRAINED, PROTOCOL, STOPPING, TRAINING, SequenceOf, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn.clip_backbones import load_clip, tokenize
from sklearn_iqa._nn.clip_text import CLIP_KEY_MAP, CLIP_MEAN, CLIP_STD, PromptNetwork, token_table
from sklearn_iqa._nn.transforms import normalize, resize_shorter, squares, to_tensor
from sklearn_iqa._weights.pretrained import PublishedWeights, pyiqa_file
from sklearn_iqa.multimodal._liqe_batches import LEAST, DomainBatches
from sklearn_iqa.multimodal._liqe_multitask import (
    MultitaskLoss,
    TaskProbabilities,
    TaskWeights,
    distortion_numbers,
    expected_level,
    shown_scenes,
)

QUALITIES = ("bad", "poor", "fair", "good", "perfect")
SCENES = ("animal", "cityscape", "human", "indoor", "landscape", "night", "plant", "still_life", "others")
DISTORTIONS = (
    *("jpeg2000 compression", "jpeg compression", "noise", "blur", "color", "contrast", "overexposure"),
    *("underexposure", "spatial", "quantization", "other"),
)
LONGEST_SHORT_SIDE = 768  # images both of whose sides are at least this long are resized to it
STEP, WIDE_STEP, WIDE = 32, 48, 1024  # pixels between windows; the second where a side is at least as long as the third
TRAINING_WINDOWS = 3
T_MAX = 5  # epochs in which the learning rate falls from its full value to zero
PUBLISHED = tuple(
    PublishedWeights(
        name,
        (pyiqa_file(filename),),
        "https://github.com/zwx8981/LIQE",
        "MIT (copy: CC BY-NC-SA 4.0)",
        trained_on,
        {"backbone": "ViT-B-32-quickgelu", **parameters},
    )
    for name, filename, trained_on, parameters in (
        ("mix", "liqe_mix.pt", "LIVE, CSIQ, BID, LIVE Challenge, KonIQ-10k and KADID-10k", {}),
        ("koniq", "liqe_koniq.pt", "KonIQ-10k", {"scenes": (), "distortions": ()}),
    )
)


def make_prompts(scenes: Sequence[str], distortions: Sequence[str]) -> list[str]:
    """Prompts of all combinations, quality slowest; of quality alone where there are no scenes."""
    if not scenes:
        return [f"a photo with {quality} quality" for quality in QUALITIES]
    return [
        f"a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
        for quality, scene, distortion in itertools.product(QUALITIES, scenes, distortions)
    ]


class LIQENetwork(PromptNetwork):
    """A CLIP, all of which is trained, and prompts on quality, scene and distortion."""

    # A window is but fifty tokens: of five windows, matrices are too small for the processor's best.
    pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**20}

    def __init__(self, backbone: str, scenes: Sequence[str], distortions: Sequence[str]):
        super().__init__(backbone)
        self.clip.logit_scale.requires_grad_(False)
        self.side = int(np.max(self.clip.visual.image_size))  # of a window
        self.shape = (len(QUALITIES), max(1, len(scenes)), max(1, len(distortions)))
        prompts = make_prompts(scenes, distortions)
        rows = [tokenize(prompt) for prompt in prompts]
        self.register_buffer("tokens", token_table(rows, prompts, self.clip.context_length), persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in rows]), persistent=False)

    def embed_prompts(self):
        """Embedded tokens (n_prompts, length, width) and the end of each prompt."""
        return self.clip.token_embedding(self.tokens), self.ends

    def forward(self, windows):
        """(n, 3, side, side), normalised as CLIP's -> logits of the prompts (n, n_prompts)."""
        return self.logits(self.clip.encode_image(windows))

    def probabilities(self, logits):
        """Mean over the windows of n images (n, n_prompts) -> `TaskProbabilities`: one softmax, then its marginals."""
        joint = logits.softmax(-1).unflatten(-1, self.shape)  # (n, 5, n_scenes, n_distortions)
        return TaskProbabilities(joint.sum((-2, -1)), joint.sum((-3, -1)), joint.sum((-3, -2)))


class WindowTraining(nn.Module):
    """The network on some windows of each image, in inference mode as in the official training."""

    def __init__(self, network: LIQENetwork):
        super().__init__()
        self.network = network

    def train(self, mode: bool = True):
        """Stay in inference mode."""
        return super().train(False)

    def forward(self, windows):
        """(n, n_windows, 3, side, side) -> `TaskProbabilities`."""
        logits = self.network(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        return self.network.probabilities(logits.mean(1))


class LIQE(DomainsMixin, QualityRegressor):
    r"""LIQE: blind quality from the agreement of an image with prompts, beside scene and distortion.

    CLIP compares windows of the image with 495 prompts, one for each quality level, scene and distortion: "a photo of
    a human with blur artifacts, which is of poor quality". The cosines, averaged over windows, make one softmax; its
    sums over scenes and distortions are the probabilities :math:`p_1 \dots p_5` of the levels, and the score is

    .. math:: \sum_{c=1}^{5} c\, p_c ,

    in 1..5, **higher is better**. The same softmax gives the probabilities of scenes and distortions, see
    `predict_tasks`. `fit` trains the whole CLIP, on one or several data sets at once.

    Parameters
    ----------
    scenes : sequence of str or None, default=None
        Scenes that the prompts name; None takes the paper's nine. An empty one, together with empty `distortions`,
        takes five prompts on quality alone.
    distortions : sequence of str or None, default=None
        Distortions that the prompts name; None takes the paper's eleven.
    backbone : str or path, default="ViT-B-32-quickgelu"
        A CLIP: a name of `open_clip.list_models()`, or a `*.json` file in its form.
    n_crops : int, default=15
        Windows of each image that a score is made of, spread evenly.
    steps_per_epoch : int or None, default=200
        Steps of the optimiser in an epoch. None takes as many as it takes to draw as many rows as there are.
    domain_batch_sizes : dict or None, default=None
        Rows of each domain in one step of training, by its name; `batch_size` then counts for predicting alone. None
        divides `batch_size` in proportion to the square roots of the domains' sizes, see Notes.
    weight_decay : float, default=1e-3
        Weight decay of AdamW.
    protocol : {"official", "pyiqa"}, default="official"
        How `predict` sees images: as in the authors' code, or as in pyiqa (IQA-PyTorch), for the numbers that it gives.
        `fit` trains on the same views with both.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : str, path or None, default="openai"
        Pretraining of the backbone when `weights` does not hold it: a tag of open_clip for this model, fetched when the
        network is built, or a file; None starts from random numbers.
    batch_size : int, default=48
        Rows in one step of training.
    max_epochs : int, default=80
        Epochs of `steps_per_epoch` steps.
    lr : float, default=5e-6
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
        The network: windows (n, 3, side, side), normalised as CLIP's -> cosines (n, n_prompts) times CLIP's factor.
    task_loss_curve_ : list of tuple of float
        Mean training losses of quality, scene and distortion in each epoch, unweighted; NaN without labels.
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
    Published weights, of which IQA-PyTorch keeps copies: "mix" (the default) of the six data sets below, and "koniq"
    of KonIQ-10k with prompts on quality alone, which it sets. The authors' `LIQE.pt`, on shared drives, loads by path.

    The paper's batches are ``domain_batch_sizes={"LIVE": 4, "CSIQ": 4, "BID": 4, "CLIVE": 4, "KonIQ-10k": 16,
    "KADID-10k": 16}``, with whatever names `domains` has; None gives 4, 5, 4, 5, 15 and 15 for sets of these sizes. The
    rows of each domain are gone through in a random order, again and again. For some hundred images
    ``steps_per_epoch=None`` is enough.

    What differs from the official code: data sets of one image do not count in the loss of quality; `early_stopping`
    looks at quality alone, at the mean over domains of the rank correlation of their held-out images. The class of
    `LIQE.py` sees one corner 15 times; like its `demo.py` and the published numbers, this one sees 15 windows. Images
    with fewer places for a window give all of them, and smaller ones are enlarged, where the official code fails.

    Ranks have no unit: after `fit`, the least-squares line from scores to y gives `predict` the unit of y;
    `partial_fit` opens no image again for it and takes the scores of its steps, which gives a line that is near.
    Several domains have no common unit, and `predict` gives the network's own score.

    References
    ----------
    .. [1] W. Zhang, G. Zhai, Y. Wei, X. Yang, K. Ma, "Blind Image Quality Assessment via Vision-Language
       Correspondence: A Multitask Learning Perspective", CVPR 2023. https://github.com/zwx8981/LIQE

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import LIQE
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8)
    >>> liqe = LIQE(scenes=(), distortions=(), backbone="ViT-S-32-alt", backbone_weights=None, random_state=0)
    >>> quality = liqe.initialize().predict(images)  # of random numbers
    >>> bool(((quality >= 1) & (quality <= 5)).all())
    True
    """

    optimizer = torch.optim.AdamW
    score_range = (1.0, 5.0)
    domain_column = 1
    key_map = CLIP_KEY_MAP
    published = PUBLISHED
    network_: LIQENetwork

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **PROTOCOL,
        "scenes": [SequenceOf(str, min_length=0), None],
        "distortions": [SequenceOf(str, min_length=0), None],
        "backbone": [str, os.PathLike],
        "n_crops": [at_least(1)],
        "steps_per_epoch": [at_least(1), None],
        "domain_batch_sizes": [Mapping, None],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "scenes": ("indoor", "others"),
        "distortions": ("blur", "other"),
        "backbone": "clip_tiny_vit.json",
        "backbone_weights": None,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        scenes=None,
        distortions=None,
        backbone="ViT-B-32-quickgelu",
        n_crops=15,
        steps_per_epoch=200,
        domain_batch_sizes=None,
        weight_decay=1e-3,
        protocol="official",
        weights=None,
        backbone_weights="openai",
        batch_size=48,
        max_epochs=80,
        lr=5e-6,
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
        self.scenes = scenes
        self.distortions = distortions
        self.backbone = backbone
        self.n_crops = n_crops
        self.steps_per_epoch = steps_per_epoch
        self.domain_batch_sizes = domain_batch_sizes
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

    def fit(self, X, y, sample_weight=None, *, scene=None, distortion=None, domains=None):
        """Train on pairs of images of one domain, and on their scenes and distortions where these are given.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each image, higher is better, in any unit.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others of its domain; None draws all alike.
        scene : sequence of n str or of n sequences of str, default=None
            What each image shows, one or several of `scenes`; None does not train scenes.
        distortion : array-like of shape (n,), default=None
            What distorts each image, one of `distortions`; None does not train distortions.
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
            When X, y, labels or a parameter cannot be used; the message says which, and what to do.
        """
        labels = {"scene": scene, "distortion": distortion, "domains": domains}
        return self._fit(X, y, sample_weight, **labels)

    def partial_fit(self, X, y, sample_weight=None, *, scene=None, distortion=None, domains=None):
        """Train for one epoch, going on from where the estimator stands, and learn the unit of this y.

        Parameters
        ----------
        X, y, sample_weight, scene, distortion, domains
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        labels = {"scene": scene, "distortion": distortion, "domains": domains}
        return self._partial_fit(X, y, sample_weight, **labels)

    def predict_tasks(self, X):
        """Quality, scene and distortion of each image.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".

        Returns
        -------
        tasks : :class:`~sklearn.utils.Bunch`
            `quality` as `predict` gives it, and the likeliest `scene` and `distortion`, each of shape (n,);
            `quality_probabilities`, `scene_probabilities` and `distortion_probabilities` are the probabilities of all
            names, of shape (n, n_names). Prompts on quality alone give neither scene nor distortion.
        """
        check_ready(self)
        outputs = dict(self._infer_all(self._rows(X)))
        logits = torch.stack([outputs[row].double().mean(0) for row in range(len(outputs))])
        probabilities = self.network_.probabilities(logits)
        quality = self._to_label_unit(expected_level(probabilities.quality).numpy())
        tasks = Bunch(quality=quality, quality_probabilities=probabilities.quality.numpy())
        for task, names in zip(("scene", "distortion"), self._names(), strict=True):
            if names:
                table = getattr(probabilities, task).numpy()
                tasks |= {task: np.array(names)[table.argmax(1)], f"{task}_probabilities": table}
        return tasks

    def _names(self) -> tuple[Sequence[str], Sequence[str]]:
        scenes, distortions = self._chosen.scenes, self._chosen.distortions
        return SCENES if scenes is None else scenes, DISTORTIONS if distortions is None else distortions

    def _network(self):
        return LIQENetwork(self._chosen.backbone, *self._names())

    def _load_backbone(self, network):
        load_clip(network.clip, self._chosen.backbone, self.backbone_weights)

    def _training_module(self, network):
        return WindowTraining(network)

    def _loss(self):
        return MultitaskLoss()

    def _net_params(self) -> dict[str, Any]:
        n_before = self.n_iter_

        def factor(epoch):  # up and down; every tenth epoch from the sixth, which would have no rate, is skipped
            epoch += n_before
            place = epoch + (epoch + T_MAX - 1) // (2 * T_MAX - 1)
            return (1 + math.cos(math.pi * place / T_MAX)) / 2

        schedule = skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor)
        line = EpochLine(lambda output, target: (expected_level(output.quality), target[:, 0]))
        return {
            "iterator_train__sampler": DomainBatches,
            "iterator_train__sizes": self._domain_sizes,
            "iterator_train__n_batches": self.steps_per_epoch,
            "optimizer__weight_decay": self.weight_decay,
            "callbacks": [("schedule", schedule), ("tasks", TaskWeights(self.task_loss_curve_)), ("line", line)],
        }

    def _views(self, image):
        if self.protocol == "official":
            image = self._resized(image)
            places = self._places(image)
        else:  # native, and windows as close as on small images
            image = self._resized(image, longest=math.inf)
            places = self._places(image, wide_step=STEP)
        if len(places) >= self.n_crops:
            places = places[:: len(places) // self.n_crops][: self.n_crops]
        return squares(image, places, self.network_.side, self._normalized)

    def _train_view(self, image):
        image = self._resized(image)
        if float(torch.rand(())) < 0.5:  # before the windows: their grid begins at the left of what is seen
            image = image[:, ::-1]
        places = self._places(image)
        chosen = [places[i] for i in torch.randint(len(places), (TRAINING_WINDOWS,))]
        return squares(image, chosen, self.network_.side, self._normalized)

    def _resized(self, image, longest=LONGEST_SHORT_SIDE):
        """Resize so that the shorter side is a window's to `longest` pixels."""
        side = max(min(*image.shape[:2], longest), self.network_.side)
        return resize_shorter(image, side, Image.Resampling.BILINEAR)

    def _normalized(self, image) -> torch.Tensor:
        return normalize(to_tensor(image), CLIP_MEAN, CLIP_STD)

    def _places(self, image, wide_step=WIDE_STEP) -> list[tuple[int, int]]:
        """Corners of all windows on a grid, row by row."""
        step = wide_step if max(image.shape) >= WIDE else STEP
        rows, columns = (range(0, length - self.network_.side + 1, step) for length in image.shape[:2])
        return list(itertools.product(rows, columns))

    def _score(self, output):
        return expected_level(self.network_.probabilities(output.double().mean(0, keepdim=True)).quality).item()

    def _check_combinations(self):
        for name, names in zip(("scenes", "distortions"), self._names(), strict=True):
            if len(set(names)) < len(names):
                raise ValueError(f"{name}={names!r} holds a name twice; give different ones, or None for the paper's.")
        if len({len(names) > 0 for names in self._names()}) > 1:
            raise ValueError("One of scenes and distortions is empty; give both, or both empty for quality alone.")

    def _check_targets(self, rows, y, scene=None, distortion=None, domains=None):
        """MOS, number of the domain, number of the distortion, ones at the scenes: (n, 3 + n_scenes); -1 unknown."""
        name, (scenes, distortions) = type(self).__name__, self._names()
        mos = check_quality(rows, y, name)
        check_consistent_length(rows, scene, distortion)
        domain_names, domain = domain_numbers(rows, domains, name)
        least = int(np.minimum(np.bincount(domain), LEAST).sum())
        if self.domain_batch_sizes is None and self.batch_size < least:
            raise ValueError(
                f"{name} learns from pairs of one domain, but batch_size={self.batch_size} cannot hold two images of "
                f"each of {len(domain_names)} domain(s); give batch_size={least} or more."
            )
        # By the number of the domain, for `_net_params`, which knows no names; each call of fit sets it anew.
        self._domain_sizes = None
        if self.domain_batch_sizes is not None:
            given, what = self.domain_batch_sizes, "domain_batch_sizes"
            self._domain_sizes = numbers_by_domain(given, domain_names, what, lowest=LEAST)
        kind = distortion_numbers(distortion, distortions, len(rows))
        return np.column_stack([mos, domain, kind, shown_scenes(scene, scenes, len(rows))])

    def _start(self, targets, sample_weight):
        self.task_loss_curve_ = []  # and no unit: ranks need none before training ends

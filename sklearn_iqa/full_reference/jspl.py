# SPDX-License-Identifier: BSD-3-Clause
"""JSPL: labelled and unlabelled pairs at once, selected by a classifier trained jointly (Cao et al., CVPR 2022)."""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._base.crops import CropsMixin
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import (
    CROPS,
    PRETRAINED,
    STOPPING,
    TRAINING,
    SequenceOf,
    at_least,
    non_negative,
    within,
)
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import Float32Sequential, in_float32
from sklearn_iqa.full_reference._frozen_backbones import FrozenBackbonesMixin, freeze_and_truncate
from sklearn_iqa.full_reference._jspl_semi_supervised import (
    HalvedBatches,
    JudgedScores,
    KeptPseudoScores,
    PseudoScoreWarmUp,
    SemiSupervisedLoss,
    check_partial_quality,
)

# The authors released no code. What the paper leaves open is a parameter of the estimator, and named in its Notes.


class LocalSlicedWasserstein(nn.Module):
    """Difference of two feature maps, invariant to the order of positions inside a window.

    Parameters
    ----------
    n_channels, n_directions : int
        Width of the maps, and number of random unit vectors that they are projected on.
    window_size : int
        Side of the windows.
    """

    def __init__(self, n_channels: int, n_directions: int, window_size: int):
        super().__init__()
        self.window_size = window_size
        self.register_buffer("directions", F.normalize(torch.randn(n_directions, n_channels)))

    @in_float32
    def forward(self, query, reference):
        """(n, c, h, w) twice -> (n, directions, h, w): gaps of sorted projections, in rank order in each window."""
        height, width = query.shape[-2:]
        side = self.window_size
        gap = (self._sorted(query) - self._sorted(reference)).abs()  # (n, m, rows, columns, side * side)
        blocks = gap.unflatten(-1, (side, side)).transpose(3, 4)  # (n, m, rows, side, columns, side)
        return blocks.flatten(4, 5).flatten(2, 3)[..., :height, :width]

    def _sorted(self, features):
        side = self.window_size
        height, width = features.shape[-2:]
        projected = torch.einsum("nchw,mc->nmhw", features, self.directions)
        projected = F.pad(projected, (0, -width % side, 0, -height % side), mode="replicate")
        windows = projected.unflatten(3, (-1, side)).unflatten(2, (-1, side)).transpose(3, 4)
        return windows.flatten(4, 5).sort(dim=-1).values


class JSPLNetwork(nn.Module):
    """Pairs (n, 2, 3, height, width) in [-1, 1] -> `JudgedScores`."""

    trained = ("reduce", "attention", "difference", "head", "classifier")

    # Of fewer crops the maps are too small to keep a processor busy.
    pixels_per_pass: ClassVar[dict[str, int]] = {"cpu": 2**19}

    def __init__(self, cnn, *, layers, crop_size, embed_dim, n_directions, window_size, attention_size, head_width):
        super().__init__()
        self.layers, self.crop_size, self.cnn = list(layers), crop_size, cnn
        n_channels, _, _ = freeze_and_truncate(cnn, self.layers, crop_size)
        self.reduce = nn.Sequential(nn.Conv2d(n_channels, embed_dim, 1), nn.ReLU())
        self.attention = nn.Conv2d(2, 1, attention_size, padding=attention_size // 2)
        self.difference = LocalSlicedWasserstein(embed_dim, n_directions, window_size)
        self.head = Float32Sequential(nn.Conv2d(n_directions, head_width, 1), nn.ReLU(), nn.Conv2d(head_width, 1, 1))
        self.classifier = Float32Sequential(nn.Linear(n_directions, head_width), nn.ReLU(), nn.Linear(head_width, 1))

    def train(self, mode=True):
        """Set the mode of the trained parts; the backbone is frozen, its batch normalisation too."""
        super().train(mode)
        self.cnn.eval()
        return self

    def encode_reference(self, references):
        """(n, 3, h, w) -> features (n, embed_dim, h', w') and the attention (n, 1, h', w') that they draw."""
        features = self._features(references)
        seen = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        return features, self.attention(seen).sigmoid()

    def compare(self, queries, encoded):
        """Queries (n, 3, h, w) and their encoded references -> `JudgedScores`."""
        features, attention = encoded
        difference = self.difference(self._features(queries), features)  # (n, directions, h', w')
        score = self.head(difference * attention).mean((1, 2, 3))
        return JudgedScores(score, self.classifier(difference.mean((2, 3)))[:, 0].sigmoid())

    def forward(self, pairs):
        """Compare the query with the reference of each pair."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def difference_map(self, pairs):
        """Mean over directions of difference times attention: (n, 2, 3, h, w) -> (n, h', w')."""
        features, attention = self.encode_reference(pairs[:, 1])
        return (self.difference(self._features(pairs[:, 0]), features) * attention).mean(1)

    def _features(self, images):
        return self.reduce(torch.cat(timm_backbones.layer_outputs(self.cnn, self.layers, images), dim=1))


class JSPL(FrozenBackbonesMixin, CropsMixin, QualityRegressor):
    r"""Joint semi-supervised and positive-unlabelled learning: ratings for some pairs, none for many.

    Features of a frozen CNN are projected on random directions and sorted inside small windows of query and reference;
    the gaps :math:`D` of the sorted values are invariant to small shifts. The reference gives an attention :math:`A`,
    and a small head reads :math:`D A`. Training also takes pairs without a label. The running mean of the scores
    predicted for such a pair serves as its label if a classifier, trained jointly on labelled (positive) and unlabelled
    pairs, predicts that it resembles the labelled ones.

    The score of a pair is the mean over its crops: about 0 to 1, without bounds, **higher is better**. It is not
    symmetric. All identical pairs get one and the same score; that it is the best one is learned, not built in.

    Parameters
    ----------
    threshold : float, default=0.5
        Probability of being positive from which an unlabelled pair's pseudo score is used, in [0, 1].
    unlabelled_weight : float, default=1.0
        Weight of the squared error to pseudo scores, averaged over the pairs used.
    decay : float, default=0.95
        Weight of the old pseudo score in the new one, in [0, 1].
    warmup : float, default=0.2
        Part of the steps of `max_epochs` before pseudo scores start, in [0, 1].
    pu_weights : tuple of float, default=(1.0, 1.0, 1.0)
        Weights of the classifier's losses: labelled pairs are positive; unlabelled ones are decided; one of a batch at
        least is negative.
    embed_dim : int, default=256
        Channels that the features are reduced to.
    n_directions : int, default=256
        Random directions; they are drawn once and belong to the weights.
    window_size : int, default=7
        Side of the windows in positions of the feature map, of which a crop of 192 pixels has 21 x 21.
    attention_size : int, default=7
        Side of the attention's kernel, odd.
    head_width : int, default=256
        Hidden width of head and classifier.
    crop_size : int, default=192
        Side of the crops in pixels.
    n_crops : int, default=20
        Crops scored for each pair, at the same places of both images.
    crops : {"grid", "random"}, default="grid"
        Where they are: spread evenly, or at random. Random places depend on the pixels of the reference and on an
        integer `random_state` (0 for any other) alone: an image always gets the same.
    backbone : str, default="inception_resnet_v2.tf_in1k"
        Any convolutional network of timm whose layers follow each other.
    layers : tuple of str, default=("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9")
        Names of its layers whose maps are stacked; they have one size.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=32
        Rows in one step of training.
    max_epochs : int, default=50
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
        The network: pairs of crops (n, 2, 3, height, width) in [-1, 1] -> `JudgedScores`, a named tuple of
        `score` (n,) and `positive` (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_iter_ : int
        Epochs trained.
    n_steps_ : int
        Steps of the optimiser, over all epochs.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    pseudo_scores_ : dict of int to float
        Running mean of the predicted scores of each unlabelled row, by its number in X.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    IQT : Attention on the same features, from labelled pairs alone.

    Notes
    -----
    **The numbers of this method cannot be checked against the authors'.** They released neither code nor
    weights. From the paper's summary come the two branches, attention by the reference, sorting in windows, and the
    losses. Remembered from the paper, but not verified, are the backbone, `decay`, Adam with `lr`, and equal halves of
    labelled and unlabelled pairs in a batch. All other sizes, weights and thresholds, the form of attention, head and
    classifier, and the use of pseudo scores after `warmup` alone are choices made here. Tests hold the parts to numbers
    that were worked out by hand. Published weights: none.

    Without unlabelled pairs `fit` is supervised training with the squared error, to labels in 0..1. With them, one half
    of every batch is labelled and the other, of two pairs at least, is not; an epoch takes each pair of the larger kind
    once, and those of the other again and again. Pseudo scores belong to the place of a row: give `partial_fit` the
    same X each time.

    Pairs whose shorter side is below a crop's are enlarged to it (bicubic).

    References
    ----------
    .. [1] Y. Cao, Z. Wan, D. Ren, Z. Yan, W. Zuo, "Incorporating Semi-Supervised and Positive-Unlabeled Learning for
       Boosting Full Reference Image Quality Assessment", CVPR 2022. https://github.com/happycaoyue/JSPL (empty)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import JSPL
    >>> pairs = np.random.default_rng(0).integers(0, 256, (6, 2, 40, 48, 3), dtype=np.uint8)
    >>> y = [3.5, 1.0, np.nan, np.nan, 2.5, np.nan]  # NaN: not rated
    >>> small = {"backbone": "test_resnet", "layers": ("layer2",), "crop_size": 32, "embed_dim": 8, "n_crops": 2}
    >>> jspl = JSPL(**small, backbone_weights=None, max_epochs=1, random_state=0).fit(pairs, y)
    >>> jspl.predict(pairs).shape, jspl.quality_map(pairs[0]).shape
    ((6,), (40, 48))
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        "threshold": [within(0, 1)],
        "unlabelled_weight": [non_negative()],
        "decay": [within(0, 1)],
        "warmup": [within(0, 1)],
        "pu_weights": [SequenceOf(non_negative(), min_length=3, max_length=3)],
        "embed_dim": [at_least(1)],
        "n_directions": [at_least(1)],
        "window_size": [at_least(1)],
        "attention_size": [at_least(1)],
        "head_width": [at_least(1)],
        "crop_size": [at_least(1)],
        "backbone": [str],
        "layers": [SequenceOf(str)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "embed_dim": 8,
        "n_directions": 8,
        "window_size": 2,
        "head_width": 8,
        "crop_size": 32,
        "n_crops": 2,
        "backbone": "test_resnet",
        "layers": ("layer2.0",),
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        threshold=0.5,
        unlabelled_weight=1.0,
        decay=0.95,
        warmup=0.2,
        pu_weights=(1.0, 1.0, 1.0),
        embed_dim=256,
        n_directions=256,
        window_size=7,
        attention_size=7,
        head_width=256,
        crop_size=192,
        n_crops=20,
        crops="grid",
        backbone="inception_resnet_v2.tf_in1k",
        layers=("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9"),
        weights=None,
        backbone_weights="imagenet",
        batch_size=32,
        max_epochs=50,
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
        self.threshold = threshold
        self.unlabelled_weight = unlabelled_weight
        self.decay = decay
        self.warmup = warmup
        self.pu_weights = pu_weights
        self.embed_dim = embed_dim
        self.n_directions = n_directions
        self.window_size = window_size
        self.attention_size = attention_size
        self.head_width = head_width
        self.crop_size = crop_size
        self.n_crops = n_crops
        self.crops = crops
        self.backbone = backbone
        self.layers = layers
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

    def fit(self, X, y, sample_weight=None):
        """Train on pairs, of which some have a quality.

        Parameters
        ----------
        X : container of n pairs
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each row, higher is better, in any unit; `predict` then has this unit. NaN: not rated.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others with or without a label; None draws all of
            them alike.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y or a parameter cannot be used; the message states which, and what to do.
        """
        return super().fit(X, y, sample_weight)

    def quality_map(self, x) -> np.ndarray:
        """Where the query differs from the reference, weighted by the attention of the reference.

        Parameters
        ----------
        x : tuple of two images
            (query, reference) of one size.

        Returns
        -------
        quality : ndarray of shape (height, width), float32
            Minus the mean over directions of difference times attention, D A, on the whole image: 0, the best, where
            windows of the feature maps hold the same values, less elsewhere. D A is what the head reads; it is not in
            the unit of `predict`.
        """
        check_ready(self)
        self._ensure_network()
        pair = self._open(self._rows([x]), 0)
        with torch.inference_mode():
            coarse = -self.network_.difference_map(self._pixels(pair)[None].to(self.device_))
        return F.interpolate(coarse[None], pair[0].shape[:2], mode="bilinear")[0, 0].float().cpu().numpy()

    def _network(self):
        names = ("crop_size", "embed_dim", "n_directions", "window_size", "attention_size", "head_width")
        sizes = {name: getattr(self, name) for name in names}
        return JSPLNetwork(timm_backbones.build_backbone(self.backbone, num_classes=0), layers=self.layers, **sizes)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.cnn, self.backbone, self.backbone_weights)

    def _loss(self):
        names = ("threshold", "unlabelled_weight", "decay", "pu_weights")
        pseudo = np.full(max([self._n_rows, *(row + 1 for row in self.pseudo_scores_)]), np.nan)
        pseudo[list(self.pseudo_scores_)] = list(self.pseudo_scores_.values())
        return SemiSupervisedLoss(**{name: getattr(self, name) for name in names}, pseudo=pseudo)

    def _net_params(self):
        warm_up = PseudoScoreWarmUp(self.warmup, self.max_epochs, self.n_iter_)
        callbacks = [("warm_up", warm_up), ("pseudo_scores", KeptPseudoScores(self))]
        return {"iterator_train__sampler": HalvedBatches, "callbacks": callbacks}

    def _score(self, output):
        return super()._score(output.score)

    def _check_targets(self, rows, y):
        self._n_rows = len(rows)  # for `_loss`, which sees no rows
        labels = check_partial_quality(rows, y, type(self).__name__, self.batch_size)
        if self.early_stopping and np.isnan(labels).any():
            raise ValueError(
                f"y contains NaN in {np.isnan(labels).sum()} rows, which early_stopping cannot score; set "
                "early_stopping=False."
            )
        return labels

    def _start(self, targets, sample_weight):
        self.pseudo_scores_ = {}
        known = ~np.isnan(targets)
        super()._start(targets[known], None if sample_weight is None else sample_weight[known])

    def _encode_targets(self, targets):
        return np.stack([super()._encode_targets(targets), np.arange(len(targets))], axis=1)

    def _check_combinations(self):
        if self.attention_size % 2 == 0:
            raise ValueError(f"attention_size={self.attention_size} is even; take an odd one, such as 7.")

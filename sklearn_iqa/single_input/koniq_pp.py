# SPDX-License-Identifier: BSD-3-Clause
"""KonIQ++: joint prediction of quality and defects (Su et al., BMVC 2021)."""

from typing import Any, ClassVar

import numpy as np
import skorch.callbacks
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LinearRegression
from sklearn.utils import check_array, check_consistent_length
from torch import nn

from sklearn_iqa._base.calibration import EpochLine
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.parameters import PRETRAINED, STOPPING, TRAINING, SequenceOf, at_least, non_negative
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import Float32Linear
from sklearn_iqa._nn.losses import NormInNormLoss
from sklearn_iqa._nn.transforms import normalize, resize, to_tensor

WIDTHS = (64, 64, 64, 64, 128, 128, 256, 256)  # channels that a side network keeps of each of the eight maps
STRIDES = (4, 8, 16, 32)  # of the four stages with two maps each
BACKBONE_RATE = 0.1  # the pretrained part learns with 1e-5, the rest with 1e-4
CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}  # of the official backbone
KEY_MAP = tuple((rf"^features\.{number}\.", f"features.{name}.") for number, name in CHILDREN.items())


def soft_pool(features):
    """Means over cells of 2 x 2 positions, weighted by the sum of exp(x) over channels; an odd last one is dropped."""
    even = features[..., : features.shape[-2] // 2 * 2, : features.shape[-1] // 2 * 2]
    cells = F.pixel_unshuffle(even, 2).unflatten(1, (-1, 4))  # (n, c, 4, h // 2, w // 2)
    weights = cells.logsumexp(1, keepdim=True).softmax(2)  # exp(x) itself may overflow
    return (cells * weights).sum(2)  # (n, c, h // 2, w // 2)


class ChannelPositionGate(nn.Module):
    """A gate for each channel and position: the sigmoid of channel attention times position attention."""

    def __init__(self, width):
        super().__init__()
        self.conv_ca, self.conv_pa = (
            nn.Sequential(nn.Conv2d(width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1), nn.Sigmoid())
            for _ in range(2)
        )

    def forward(self, features):  # (n, c, h, w)
        return torch.sigmoid(self.conv_ca(features.mean((2, 3), keepdim=True)) * self.conv_pa(features))


def conv_norm(n_channels, width):
    return nn.Sequential(nn.Conv2d(n_channels, width, 3, padding=1), nn.BatchNorm2d(width))


class Fusion(nn.Module):
    """Projects the fused earlier maps to the width of the next features, adds these, and gates the sum."""

    def __init__(self, n_channels, width):
        super().__init__()
        self.conv1 = conv_norm(n_channels, width)
        self.attn = ChannelPositionGate(width)

    def forward(self, earlier, features):  # (n, n_channels, h, w), (n, width, h, w)
        fused = self.conv1(earlier) + features
        return fused * self.attn(fused)


class SideNetwork(nn.Module):
    """Eight feature maps of a backbone -> `n_outputs` numbers."""

    def __init__(self, n_channels, n_outputs):
        super().__init__()
        for number, (n_in, width) in enumerate(zip(n_channels, WIDTHS, strict=True)):
            self.add_module(f"head{number}", conv_norm(n_in, width))
        self.fusion_block1 = Fusion(WIDTHS[0], WIDTHS[1])
        self.fusion_block2 = Fusion(WIDTHS[1] + WIDTHS[2], WIDTHS[3])
        self.fusion_block3 = Fusion(WIDTHS[3] + WIDTHS[4], WIDTHS[5])
        self.fusion_block4 = Fusion(WIDTHS[5] + WIDTHS[6], WIDTHS[7])
        self.fc_q = Float32Linear(WIDTHS[7], n_outputs)

    def forward(self, maps):
        """Eight maps -> scores of each position (n, n_outputs, h, w), and their weights (n, 1, h, w), of sum 1."""
        maps = [getattr(self, f"head{number}")(features) for number, features in enumerate(maps)]
        fused = self.fusion_block1(maps[0], maps[1])
        for number, block in enumerate((self.fusion_block2, self.fusion_block3, self.fusion_block4), start=1):
            fused = block(torch.cat([soft_pool(fused), maps[2 * number]], dim=1), maps[2 * number + 1])
        height, width = fused.shape[-2:]  # a stride of 32
        weights = fused.logsumexp(1).flatten(1).softmax(1).reshape(-1, 1, height, width)
        # NOTE[DIFF] paper: a weighted mean; code: times height / width, with which the last layer was trained.
        return self.fc_q(fused.movedim(1, 3) * (height / width)).movedim(3, 1), weights


class KonIQPlusPlusNetwork(nn.Module):
    """Images (n, 3, height, width), normalised, sides multiples of 32 -> quality and defects (n, 1 + n_defects)."""

    def __init__(self, backbone, n_defects):
        super().__init__()
        self.features = timm_backbones.build_backbone(
            backbone, num_classes=0
        ).eval()  # probing must not move running means
        self.layers, n_channels = self._find_layers(backbone)
        self.sub_q = SideNetwork(n_channels, 1)
        self.sub_dist = SideNetwork(n_channels, n_defects)

    def forward(self, images):
        return torch.cat([(scores * weights).sum((2, 3)) for scores, weights in self.maps(images)], dim=1)

    def maps(self, images):
        """Scores and weights of each position for quality, and for defects: two outputs of `SideNetwork`."""
        maps = timm_backbones.layer_outputs(self.features, self.layers, images)
        return self.sub_q(maps), self.sub_dist(maps)

    @torch.no_grad()
    def _find_layers(self, backbone):
        """Names of the first and the last block of the four stages, and their numbers of channels."""
        info, names = getattr(self.features, "feature_info", []), []
        for name in (one["module"] for one in info if one["reduction"] in STRIDES):
            name = f"{name}.blocks" if hasattr(self.features.get_submodule(name), "blocks") else name
            blocks = [child for child, _ in self.features.get_submodule(name).named_children()]
            names += [f"{name}.{block}" for block in blocks[:1] + blocks[-1:]]
        fits = len(names) == len(WIDTHS) and not timm_backbones.input_config(backbone)["fixed_input_size"]
        maps = timm_backbones.layer_outputs(self.features, names, torch.zeros(1, 3, 64, 64)) if fits else []
        if [one.shape[2:] for one in maps] != [(64 // stride,) * 2 for stride in STRIDES for _ in range(2)]:
            raise ValueError(f"backbone={backbone!r} has no stages of blocks with strides {STRIDES}; take a ResNet.")
        return names, [one.shape[1] for one in maps]


class JointLoss(NormInNormLoss):
    """Norm-in-norm of quality, and of the defects: their sum over the number of all columns."""

    def forward(self, scores, labels):  # (n, 1 + n_defects), (n, 1) or (n, 1 + n_defects)
        losses = super().forward(scores[:, : labels.shape[1]], labels)
        return 0.1 * (losses[0] + losses[1:].sum() / len(losses))  # the official gamma, meant for the pair term alone


class KonIQPlusPlus(QualityRegressor):
    r"""KonIQ++: quality and rates of annotated defects from one backbone with two side networks.

    A side network fuses the first and the last block of four stages, finest first, into a map with h x w positions
    :math:`x_i`, whose mean is weighted by activity, :math:`w_i = \sum_c e^{x_{ic}}`:

    .. math:: q = \frac{h}{w}\, a \cdot \sum_i w_i x_i \Big/ \sum_i w_i + b.

    One predicts quality, **higher is better**, the other defects, more is worse; both are unbounded and without a unit.

    Parameters
    ----------
    image_size : tuple of int, default=(480, 640)
        Height and width in pixels to which images are resized, ignoring their aspect; multiples of 32.
    n_defects : int, default=4
        Columns of `defects`: artifacts, blur, contrast and colour in the official labels and weights.
    monotonicity : float, default=0.0
        Weight of a term for pairs in wrong order, 0 or more; 0.1 in the official code, where it is optional.
    backbone : str, default="resnext101_32x8d.tv_in1k"
        Any convolutional network of timm with stages of strides 4, 8, 16 and 32.
    lr_step : int, default=8
        The learning rate falls to a tenth every so many epochs, counted over all calls of `partial_fit`.
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
    max_epochs : int, default=25
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
        The network: images (n, 3, height, width), normalised for the backbone -> (n, 1 + n_defects), quality first.
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    defect_scale_ : ndarray of shape (n_defects, 2) or None
        The same for each defect; None after a `fit` without defects.
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
    Published weights: none by name. The authors' checkpoint, on a shared drive, loads by path, without the unit ("k",
    "b") that it also holds.

    `fit` follows the official code: whole images, no augmentation, Adam, a tenth of `lr` for the backbone. The loss has
    no unit; after training, least-squares lines on the training set map scores to the units of y and of the defects.
    `partial_fit` takes them from the scores in its steps, and opens no image again.

    References
    ----------
    .. [1] S. Su, V. Hosu, H. Lin, Y. Zhang, D. Saupe, "KonIQ++: Boosting No-Reference Image Quality Assessment in the
       Wild by Jointly Predicting Image Quality and Defects", BMVC 2021. https://github.com/SSL92/koniqplusplus

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import KonIQPlusPlus
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    >>> small = {"backbone": "test_resnet", "backbone_weights": None, "image_size": (64, 96), "max_epochs": 1}
    >>> koniq = KonIQPlusPlus(**small, n_defects=2, random_state=0)
    >>> koniq.fit(images, [70.0, 40.0, 55.0], defects=[[0, 10], [80, 20], [30, 0]]).predict_defects(images).shape
    (3, 2)
    """

    key_map = KEY_MAP
    network_: KonIQPlusPlusNetwork

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "image_size": [SequenceOf(at_least(STRIDES[-1]), min_length=2, max_length=2)],
        "n_defects": [at_least(1)],
        "monotonicity": [non_negative()],
        "backbone": [str],
        "lr_step": [at_least(1)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "image_size": (32, 64),
        "backbone": "test_resnet",
        "lr_step": 2,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }
    _test_size: ClassVar[tuple[int, int]] = (32, 64)

    def __init__(
        self,
        *,
        image_size=(480, 640),
        n_defects=4,
        monotonicity=0.0,
        backbone="resnext101_32x8d.tv_in1k",
        lr_step=8,
        weights=None,
        backbone_weights="imagenet",
        batch_size=8,
        max_epochs=25,
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
        self.image_size = image_size
        self.n_defects = n_defects
        self.monotonicity = monotonicity
        self.backbone = backbone
        self.lr_step = lr_step
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

    def fit(self, X, y, sample_weight=None, *, defects=None):
        """Train on images, their quality and their defects.

        Parameters
        ----------
        X, y, sample_weight
            Images, the quality of each (higher is better, in any unit), and how often each is drawn for training.
        defects : array-like of shape (n, n_defects), default=None
            Severity of each defect (more is worse, each column in any unit), such as the fraction of people who
            annotated it. None learns quality alone.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, defects=defects)

    def partial_fit(self, X, y, sample_weight=None, *, defects=None):
        """Train for one epoch, going on from where the estimator stands, and learn the units of these labels.

        Parameters
        ----------
        X, y, sample_weight, defects
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, defects=defects)

    def predict_defects(self, X):
        """Severity of each defect of the images; a ValueError after a `fit` without defects.

        Parameters
        ----------
        X : container of n images
            As in `predict`.

        Returns
        -------
        defects : ndarray of shape (n, n_defects), float64
            After `fit` in the units of its defects, more is worse; with loaded weights alone the network's outputs.
        """
        check_ready(self)
        scale = getattr(self, "defect_scale_", np.tile([1.0, 0.0], (self.n_defects, 1)))
        if scale is None:
            raise ValueError("KonIQPlusPlus was fitted without defects; give fit the labels, fit(X, y, defects=...).")
        return self._outputs(self._rows(X))[:, 1:] * scale[:, 0] + scale[:, 1]

    def quality_map(self, x) -> np.ndarray:
        """Map of quality: the score of each position of the last feature map.

        Parameters
        ----------
        x : image
            As a row of X.

        Returns
        -------
        quality : ndarray of shape (height, width), float32
            In the unit of `predict`, higher is better, interpolated between the positions (15 x 20 by default). The
            score is the mean over the positions, weighted by their activity.
        """
        check_ready(self)
        self._ensure_network()
        image = self._open(self._rows([x]), 0)
        with torch.inference_mode():
            (scores, _), _ = self.network_.maps(self._views(image).to(self.device_))
        quality = F.interpolate(scores, image.shape[:2], mode="bilinear")[0, 0].cpu().numpy()
        return self._to_label_unit(quality).astype(np.float32)

    def _outputs(self, rows) -> np.ndarray:
        outputs = dict(self._infer_all(rows))
        return np.stack([outputs[row][0].double().numpy() for row in range(len(rows))])

    def _score(self, output):
        return output[0, 0].item()

    def _network(self):
        return KonIQPlusPlusNetwork(self.backbone, self.n_defects)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.features, self.backbone, self.backbone_weights)

    def _loss(self):
        return JointLoss(self.monotonicity)

    def _net_params(self):
        n_before, lr_step = self.n_iter_, self.lr_step  # above 0 without an earlier net, as after unpickling
        schedule = skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=lambda n: 0.1 ** ((n_before + n) // lr_step))
        groups = [("features.*", {"lr": BACKBONE_RATE * self.lr})]
        lines = EpochLine(lambda output, target: (output[:, : target.shape[1]], target))  # there may be no defects
        return {"optimizer__param_groups": groups, "callbacks": [("schedule", schedule), ("lines", lines)]}

    def _views(self, x):
        config = timm_backbones.input_config(self.backbone)
        pixels = to_tensor(resize(x, *self.image_size, Image.Resampling.BILINEAR))
        return normalize(pixels, config["mean"], config["std"])[None]  # (1, 3, height, width)

    def _train_view(self, x):
        return self._views(x)[0]

    def _check_combinations(self):
        if any(side % STRIDES[-1] for side in self.image_size):
            raise ValueError(
                f"image_size={self.image_size} does not fit the backbone's strides; give multiples of {STRIDES[-1]}."
            )

    def _check_targets(self, rows, y, defects=None) -> np.ndarray:
        """Quality (n, 1), or quality and defects (n, 1 + n_defects)."""
        quality = check_quality(rows, y, type(self).__name__)
        if min(len(rows), self.batch_size) < 2:
            size = f"n_samples={len(rows)} and batch_size={self.batch_size}"
            raise ValueError(f"KonIQPlusPlus compares the images of a batch, but got {size}; give two or more.")
        if defects is None:
            return quality[:, None]
        defects = check_array(defects, dtype=np.float64, ensure_2d=False, input_name="defects")
        check_consistent_length(rows, defects)
        if defects.shape[1:] != (self.n_defects,):
            raise ValueError(f"defects has shape {defects.shape}; give n_defects={self.n_defects} columns.")
        return np.column_stack([quality, defects])

    def _quality(self, targets):
        return targets.reshape(len(targets), -1)[:, 0]

    def _encode_targets(self, targets):
        return targets

    def _finish(self, rows, targets, sample_weight):
        pairs = zip(self._outputs(rows).T, targets.T, strict=False)  # targets may have no defects
        lines = [LinearRegression().fit(scores[:, None], labels, sample_weight) for scores, labels in pairs]
        self._keep_lines([(float(line.coef_[0]), float(line.intercept_)) for line in lines])

    def _finish_epoch(self, rows, targets, sample_weight):
        self._keep_lines(dict(self.net_.callbacks_)["lines"].lines())

    def _keep_lines(self, lines: list[tuple[float, float]]) -> None:
        self.label_scale_, *of_defects = lines
        self.defect_scale_ = np.array(of_defects) if of_defects else getattr(self, "defect_scale_", None)

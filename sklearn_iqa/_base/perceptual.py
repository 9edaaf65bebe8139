# SPDX-License-Identifier: BSD-3-Clause
"""What estimators around a perceptual distance share: views, maps, and training on pairs or on judged triplets."""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar

import numpy as np
import skorch.callbacks
import torch
from torch import nn

from sklearn_iqa._base.crops import enlarge
from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.quality import check_quality
from sklearn_iqa._base.rows import check_tuples, count_images
from sklearn_iqa._base.training import Subset
from sklearn_iqa._nn.layers import SLICED_BACKBONES
from sklearn_iqa._nn.losses import TwoAlternativeForcedChoiceLoss
from sklearn_iqa._nn.transforms import HALF_MEAN, HALF_STD, normalize, random_square, to_tensor
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa.metrics import two_afc_score

TRIPLET = ("first query", "second query", "reference")


def _sliced_backbone_file(net: str, filename: str, sha256: str) -> pretrained.WeightsFile:
    """Torchvision's ImageNet file of a backbone, its names turned into those of the slices."""
    layers, start = SLICED_BACKBONES[net].layers, 0
    key_map: list[tuple[str, str | None]] = [(r"^(classifier|pre_logits|head)\.", None)]  # torchvision's, timm's
    for number, layer in enumerate(layers, start=1):
        key_map += [(rf"^features\.{index}\.", f"net.slice{number}.{index}.") for index in range(start, layer + 1)]
        start = layer + 1
    key_map.append((r"^features\.", None))  # layers behind the last slice
    return pretrained.WeightsFile(
        filename,
        sha256,
        urls=(f"https://download.pytorch.org/models/{filename}",),
        key_map=tuple(key_map),
        parameter="backbone_weights",
    )


SLICED_BACKBONE_FILES = {
    "alex": _sliced_backbone_file("alex", "alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": _sliced_backbone_file("vgg", "vgg16-397923af.pth", "397923af"),
    "squeeze": _sliced_backbone_file("squeeze", "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
}


def load_sliced_backbone(backbone: nn.Module, net: str, backbone_weights, *, verbose: int = 0) -> None:
    """Load the ImageNet weights of a `sliced_backbone`: torchvision's ("imagenet", fetched), a file like it or None.

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        When the weights cannot be had or do not fit.
    """
    if backbone_weights is None:
        return
    file, path = SLICED_BACKBONE_FILES[net], backbone_weights
    if backbone_weights == "imagenet":
        path = pretrained.fetch(file, verbose=verbose)
    state = state_dicts.rename_keys(state_dicts.read_state(os.fspath(path)), file.key_map)
    own = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    state_dicts.load_state(backbone, own, origin=f"backbone_weights={str(backbone_weights)!r}")


class PerceptualMixin:
    """Inference and training of a `PerceptualDistance`; stands left of `QualityRegressor`.

    `fit` and `score` take pairs (query, reference) with their quality, or triplets (first query, second query,
    reference) with the fraction of people who preferred the second query.
    """

    inputs: ClassVar[tuple[str, ...]] = ("query", "reference")
    higher_is_better: ClassVar[bool] = False
    score_range: ClassVar[tuple[float, float]] = (0.0, np.inf)
    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    # What stands behind it in a method's class.
    crop_size: int
    max_epochs: int
    n_iter_: int
    network_: Any
    device_: torch.device
    _ensure_network: Callable[[], None]
    _open: Callable[..., Any]
    _scores: Callable[[Any], np.ndarray]

    def score(self, X, y, sample_weight=None):
        """Agreement with people, more is better: rank correlation of pairs with y, 2AFC score of triplets.

        Parameters
        ----------
        X : container of n pairs (query, reference), or of n triplets (first query, second query, reference)
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each pair, higher is better; of each triplet the fraction of people who preferred the second
            query, 0 to 1.
        sample_weight : array-like of shape (n,), default=None
            How many rows each row counts as, relative to the others; None counts each once.

        Returns
        -------
        agreement : float
            Of pairs Spearman's rank correlation in [-1, 1], :func:`~sklearn_iqa.metrics.srcc`, with the sign by which
            more is better. Of triplets the mean fraction of people who agree with the distance, in [0, 1],
            :func:`~sklearn_iqa.metrics.two_afc_score`; chance gives 1/2.
        """
        if count_images(X) != len(TRIPLET):
            return super().score(X, y, sample_weight)  # type: ignore[misc]  # of `QualityRegressor`
        check_ready(self)
        distances = self._distances(_PairsOfTriplets(check_tuples(X, TRIPLET, type(self).__name__)))
        return two_afc_score(y, *distances, sample_weight=sample_weight)

    def _distances(self, rows: "_PairsOfTriplets") -> tuple[np.ndarray, np.ndarray]:
        """Distances (n,) of the first and of the second query of each triplet from its reference."""
        first, second = self._scores(rows).reshape(-1, 2).T
        return first, second

    def _held_out_score(self, rows, targets, held_out: np.ndarray, sample_weight) -> Callable[[], float]:
        if self._n_images != len(TRIPLET):
            of_pairs = super()._held_out_score  # type: ignore[misc]  # of `QualityRegressor`
            return of_pairs(rows, targets, held_out, sample_weight)
        weight = None if sample_weight is None else sample_weight[held_out]
        pairs, share = _PairsOfTriplets(Subset(rows, held_out)), targets[held_out]
        return lambda: two_afc_score(share, *self._distances(pairs), sample_weight=weight)

    def _rows(self, X):
        if count_images(X) == len(TRIPLET):
            raise ValueError(
                f"{type(self).__name__} predicts the distance of pairs (query, reference), but X holds three images in "
                "a row; score(X, y) compares triplets with people's choices, and predict takes each of their queries "
                "with the reference."
            )
        return super()._rows(X)  # type: ignore[misc]  # of `ImageEstimator`

    def quality_map(self, x) -> np.ndarray:
        """Where the query differs from the reference, as the method sees it.

        Parameters
        ----------
        x : tuple of two images
            (query, reference) of one size.

        Returns
        -------
        distance_map : ndarray of shape (height, width), float32
            Large where the images differ; its mean is near the distance of the pair.
        """
        check_ready(self)
        self._ensure_network()
        views = self._views(self._open(self._rows([x]), 0)).to(self.device_)
        with torch.inference_mode():
            return self.network_.distance_map(views)[0].float().cpu().numpy()

    def _views(self, x):
        return normalize(to_tensor(x), HALF_MEAN, HALF_STD)[None]  # (1, 2, 3, h, w) in [-1, 1]

    def _train_view(self, x):
        # NOTE[DIFF] official: BAPPS's 64 x 64 patches, resized when of another size (LPIPS: bilinear); here a crop of
        # the native image, as resizing hides fine distortions. For patches of `crop_size` both are the same.
        square = random_square(enlarge(x, self.crop_size), self.crop_size)
        return normalize(to_tensor(square), HALF_MEAN, HALF_STD)

    def _training_rows(self, X):
        self._n_images = count_images(X)
        if self._n_images == len(TRIPLET):
            return check_tuples(X, TRIPLET, type(self).__name__)
        return self._rows(X)

    def _check_targets(self, rows, y) -> np.ndarray:
        y = check_quality(rows, y, type(self).__name__)
        if self._n_images == len(TRIPLET) and ((y < 0) | (y > 1)).any():
            raise ValueError(
                f"y holds {y.min():g}..{y.max():g}, but with triplets y is the fraction of people who preferred the "
                "second query, in 0..1; divide counts by the number of judges."
            )
        return y

    def _take_changes(self) -> None:
        if self._n_images != self._n_images_learned:
            began, now = (
                "triplets" if n == len(TRIPLET) else "pairs" for n in (self._n_images_learned, self._n_images)
            )
            raise ValueError(
                f"Training of this {type(self).__name__} began with {began}, but X holds {now}, which have another "
                f"loss and another unit; go on with {began}, or save_weights and fit a new estimator with weights= of "
                "that file."
            )
        super()._take_changes()  # type: ignore[misc]  # of `ImageEstimator`

    def _start(self, targets, sample_weight) -> None:
        self._n_images_learned = self._n_images
        if self._n_images != len(TRIPLET):  # judgements say nothing on the unit of quality
            super()._start(targets, sample_weight)  # type: ignore[misc]  # of `QualityRegressor`

    def _encode_targets(self, targets):
        return targets if self._n_images == len(TRIPLET) else super()._encode_targets(targets)

    def _training_module(self, network: nn.Module) -> nn.Module:
        return _TripletDistances(network) if self._n_images == len(TRIPLET) else network

    def _loss(self) -> nn.Module:
        return TwoAlternativeForcedChoiceLoss() if self._n_images == len(TRIPLET) else nn.MSELoss()

    def _net_params(self) -> dict[str, Any]:
        n_constant = self.max_epochs // 2
        n_falling = self.max_epochs - n_constant

        n_before = self.n_iter_

        def factor(epoch):  # constant for the first half, then falling by equal steps, never to nothing
            return max(1 - max(0, n_before + epoch - n_constant) / n_falling, 1 / n_falling)

        return {
            "optimizer__betas": (0.5, 0.999),
            "callbacks": [
                ("schedule", skorch.callbacks.LRScheduler("LambdaLR", lr_lambda=factor)),
                ("non_negative", NonNegativeHeads()),
            ],
        }


class _PairsOfTriplets:
    """Of each triplet the rows (first query, reference) and (second query, reference), under its number in X."""

    def __init__(self, triplets):
        self.triplets = triplets
        # Both pairs of a triplet are opened one behind the other, or side by side in threads: who comes first opens it
        # for the other one.
        self.opened: dict[int, Future] = {}
        self.turn = threading.Lock()
        self.keys = functools.cache(triplets.same)

    def __len__(self):
        return 2 * len(self.triplets)

    def __getitem__(self, i):
        with self.turn:
            opened = self.opened.pop(i // 2, None)
            if comes_first := opened is None:
                opened = self.opened[i // 2] = Future()
        if comes_first:
            try:
                opened.set_result(self.triplets[i // 2])
            except BaseException as error:  # whatever it is, the other one must not wait for ever
                opened.set_exception(error)
        *queries, reference = opened.result()
        return queries[i % 2], reference

    def number(self, i: int) -> int:
        """Give the place of the triplet in X."""
        return self.triplets.number(i // 2)

    def same(self, i: int):
        """Give a key that triplets share when their references are equal."""
        return self.keys(i // 2)


class _TripletDistances(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, triplets):
        first, second, reference = triplets.unbind(1)
        encoded = [torch.cat([one, one]) for one in self.network.encode_reference(reference)]
        return self.network.compare(torch.cat([first, second]), encoded).unflatten(0, (2, -1)).T  # (n, 2)


class NonNegativeHeads(skorch.callbacks.Callback):
    """Clamps the channel weights to >= 0 after every step, as the official training does: no distance below zero."""

    def on_batch_end(self, net, **kwargs):
        """Clamp the heads."""
        with torch.no_grad():
            for name, parameter in net.module_.named_parameters():
                if name.endswith(".model.1.weight"):
                    parameter.clamp_(min=0)

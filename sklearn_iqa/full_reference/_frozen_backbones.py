# SPDX-License-Identifier: BSD-3-Clause
"""What methods share that compare crops of a pair behind frozen backbones: views, training, weights without those.

AHIQ's official code grew out of that for IQT, so that both crop, train and save alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from sklearn_iqa._base.training import CosineAnnealing
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.transforms import (
    HALF_MEAN,
    HALF_STD,
    check_crops,
    crops_to_score,
    normalize,
    resize_shorter,
    to_tensor,
)
from sklearn_iqa._weights import state_dicts

# Files of AHIQ were pickled together with the loss, a float64 of NumPy: what such a number is made of, under the names
# of NumPy 2 and 1. No file is opened with more.
MAKE_NUMBER = np.float64().__reduce__()[0]
NUMPY_FLOAT = [
    (MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    (MAKE_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]


class FrozenBackbonesMixin:
    """Crops, loss, schedule and weights of AHIQ and IQT; stands left of `QualityRegressor`.

    The estimator has the parameters `n_crops`, `crops`, `weight_decay` and `random_state`; its network has `crop_size`,
    the side of its input, and `trained`, the names of the parts that training changes.
    """

    inputs = ("query", "reference")
    label_range = (0.0, 1.0)

    def _loss(self):
        return nn.MSELoss()

    def _net_params(self):
        return {"optimizer__weight_decay": self.weight_decay, "callbacks": [("schedule", CosineAnnealing())]}

    def _views(self, x):
        pixels, size = self._pixels(x), self.network_.crop_size  # (2, 3, h, w)
        # NOTE[DIFF] official: one generator for all images, and never the last row or column of places.
        kind = {"crops": self.crops, "random_state": self.random_state}
        return crops_to_score(pixels, size, self.n_crops, image=x[1], **kind)

    def _pixels(self, pair):
        """(query, reference) -> tensor (2, 3, height, width) in [-1, 1], its sides a crop's or longer."""
        size = self.network_.crop_size
        if min(pair[0].shape[:2]) < size:
            pair = tuple(resize_shorter(image, size, Image.Resampling.BICUBIC) for image in pair)
        return normalize(to_tensor(pair), HALF_MEAN, HALF_STD)

    def _load_weights(self, network):
        """Load the whole network, or its trained parts alone where a file holds no more, as official files do."""
        with torch.serialization.safe_globals(NUMPY_FLOAT):
            if self._weights_hold_backbones(network):
                super()._load_weights(network)
                return
            super()._load_weights(TrainedParts({name: network.get_submodule(name) for name in network.trained}))
        self._load_backbone(network)

    def _weights_hold_backbones(self, network):
        if str(self.weights) in {entry.name for entry in self.published}:
            return False
        names = state_dicts.rename_keys(state_dicts.read_state(self._weights_path()), self.key_map)
        return not {name.partition(".")[0] for name in names} <= set(network.trained)

    def _check_parameters(self):
        super()._check_parameters()
        check_crops(self.crops)


class TrainedParts(nn.ModuleDict):
    """The parts of a network that training changes."""


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
            f"The layers {', '.join(layers) or '(none)'} give {', '.join(map(str, shapes)) or 'nothing'} for crops of "
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

# SPDX-License-Identifier: BSD-3-Clause
"""Methods whose network sees crops of its input size: views, recipe of training, and maps of positions.

The official codes of AHIQ and MANIQA and the port of IQT, which grew out of each other, crop and train alike.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from sklearn_iqa._base.failures import check_ready
from sklearn_iqa._base.inference import weighted_map
from sklearn_iqa._base.training import CosineAnnealing
from sklearn_iqa._nn.transforms import places_to_score, random_flip, random_square, resize_shorter, squares


def enlarge(x, side: int):
    """Image, or tuple of images: those whose shorter side is below `side` pixels enlarged to it, bicubic."""
    if isinstance(x, tuple):
        return tuple(enlarge(image, side) for image in x)
    return resize_shorter(x, side, Image.Resampling.BICUBIC) if min(x.shape[:2]) < side else x


class CropsMixin:
    """Training and inference on crops; stands left of `QualityRegressor`.

    The network has `crop_size`, the side of its input; for `_position_map` also `position_scores`: views
    (n, ..., 3, crop_size, crop_size) -> score and weight of each position, both (n, rows, columns).
    """

    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    n_crops: int
    crops: str
    weight_decay: float
    random_state: Any
    n_steps_: int
    network_: Any
    device_: torch.device
    _rows: Callable[..., Any]
    _open: Callable[..., Any]
    _ensure_network: Callable[[], None]
    _to_label_unit: Callable[..., Any]

    @abstractmethod
    def _normalized(self, images) -> torch.Tensor:
        """One row's images, or squares of them -> tensor (..., 3, height, width), each number from its own pixel."""

    def _loss(self) -> nn.Module:
        return nn.MSELoss()

    def _net_params(self) -> dict[str, Any]:
        schedule = CosineAnnealing(self.n_steps_)
        return {"optimizer__weight_decay": self.weight_decay, "callbacks": [("schedule", schedule)]}

    def _train_view(self, x) -> torch.Tensor:
        # NOTE[DIFF] official: flips arrays (3, h, w) upside down (MANIQA with probability 0.7); AHIQ and IQT never cut
        # at the last row or column of places.
        size = self.network_.crop_size
        return random_flip(self._normalized(random_square(enlarge(x, size), size)))

    def _views(self, x) -> torch.Tensor:
        # NOTE[DIFF] official: one generator for all images, and never the last row or column of places.
        image = x[-1] if isinstance(x, tuple) else x  # of a pair the reference, so that its crops serve all queries
        kind = {"crops": self.crops, "random_state": self.random_state}
        size, images = self.network_.crop_size, enlarge(x, self.network_.crop_size)
        places = places_to_score(images, size, self.n_crops, content=image, **kind)
        return squares(images, places, size, self._normalized)

    def _pixels(self, x) -> torch.Tensor:
        """One row's images -> normalised tensor (..., 3, height, width), its sides `crop_size` or longer."""
        return self._normalized(enlarge(x, self.network_.crop_size))

    def _position_map(self, x) -> np.ndarray:
        """One row of X -> scores of positions (height, width) in the unit of `predict`, float32."""
        check_ready(self)
        self._ensure_network()
        x = self._open(self._rows([x]), 0)
        shape = x[-1].shape[:2] if isinstance(x, tuple) else x.shape[:2]

        def positions(crop):
            return self.network_.position_scores(crop[None].to(self.device_))

        quality = weighted_map(self._pixels(x), self.network_.crop_size, positions, shape)
        return self._to_label_unit(quality).astype(np.float32)

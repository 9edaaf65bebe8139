# SPDX-License-Identifier: BSD-3-Clause
"""The line from scores to labels without a further pass over the images: from the steps of an epoch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import skorch.callbacks
import torch

from sklearn_iqa._base.quality import least_squares_line

__all__ = ["EpochLine"]


class EpochLine(skorch.callbacks.Callback):
    """Keeps what the network gave in the steps of the last epoch; the numbers stay on the device, so that none waits.

    Parameters
    ----------
    numbers : callable
        (output of the training module, targets of the batch) -> scores and labels, two tensors of one shape: of any
        one for `line`, (n, k) for `lines`.
    """

    def __init__(self, numbers: Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]):
        self.numbers = numbers

    def on_epoch_begin(self, net, **kwargs):
        """Forget the epoch before."""
        self.kept_: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_batch_end(self, net, batch: Any = None, training=False, y_pred=None, **kwargs):
        """Keep scores and labels of a step."""
        if training:
            scores, labels = self.numbers(y_pred, batch[1])
            self.kept_.append((scores.detach().float(), labels))

    def line(self) -> tuple[float, float]:
        """Slope and intercept of the least-squares line from the scores to the labels."""
        return least_squares_line(*(numbers.ravel() for numbers in self._numbers()))

    def lines(self) -> list[tuple[float, float]]:
        """Slope and intercept for each column."""
        return [
            least_squares_line(*columns) for columns in zip(*(numbers.T for numbers in self._numbers()), strict=True)
        ]

    def _numbers(self) -> list[np.ndarray]:
        """All scores and all labels."""
        return [torch.cat(parts).cpu().double().numpy() for parts in zip(*self.kept_, strict=True)]

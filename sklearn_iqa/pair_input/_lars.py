# SPDX-License-Identifier: BSD-3-Clause
"""Training with large batches: LARS, and a learning rate that warms up and falls along a cosine."""

import math

import skorch.callbacks
import torch

from sklearn_iqa._base.training import EvenBatches


class LARS(torch.optim.Optimizer):
    r"""Gradient descent whose steps are in proportion to the tensor that they change.

    For a tensor :math:`w` of two or more dimensions the gradient with weight decay :math:`g + \lambda w` is scaled to
    the length :math:`\tau \lVert w \rVert`; others (biases, gains) take their gradient as it is, without decay. Then
    momentum, :math:`m \leftarrow \mu m + g'`, and :math:`w \leftarrow w - \alpha m`. Tensors or gradients that are zero
    are not scaled.

    Parameters
    ----------
    params : iterable
        Tensors, or groups of them.
    lr : float
        The rate :math:`\alpha`.
    momentum : float, default=0.9
        The :math:`\mu`.
    weight_decay : float, default=0.0
        The :math:`\lambda`.
    trust : float, default=0.001
        The :math:`\tau`.

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, in the form of MoCo v3.
    """

    def __init__(self, params, lr, momentum=0.9, weight_decay=0.0, trust=0.001):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; `closure` computes loss and gradients anew, and gives the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                step = tensor.grad
                if tensor.ndim > 1:
                    step = step.add(tensor, alpha=group["weight_decay"])
                    length, wanted = torch.linalg.vector_norm(step), torch.linalg.vector_norm(tensor)
                    known = (length > 0) & (wanted > 0)
                    step = step * torch.where(known, group["trust"] * wanted / length, 1.0)
                state = self.state[tensor]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(tensor)
                tensor.add_(state["momentum"].mul_(group["momentum"]).add_(step), alpha=-group["lr"])
        return loss


class WarmUpAndCosine(skorch.callbacks.Callback):
    """Learning rate of PyContrast: a linear warm-up to the value of a cosine, and from there the cosine.

    Parameters
    ----------
    n_epochs : int
        Epochs after which the cosine is at its minimum; it stays there.
    warmup_epochs : int, default=0
        Epochs of the warm-up, in which the rate rises with every batch; they count as part of `n_epochs`.
    warmup_lr : float, default=0.01
        Rate at the start of the warm-up; the cosine's value where that is lower, so that the rate never falls.
    lowest : float, default=0.001
        Lowest rate, as a fraction of the net's.
    n_before : int, default=0
        Epochs trained before the net was made.
    """

    def __init__(self, n_epochs, warmup_epochs=0, warmup_lr=0.01, lowest=0.001, n_before=0):
        self.n_epochs, self.warmup_epochs, self.warmup_lr = n_epochs, warmup_epochs, warmup_lr
        self.lowest, self.n_before = lowest, n_before

    def rate(self, lr: float, epoch: int, part: float) -> float:
        """Rate in an epoch, counted from 1, of which a part in [0, 1) is over."""
        if epoch > self.warmup_epochs:
            return self._cosine(lr, epoch)
        top = self._cosine(lr, self.warmup_epochs)
        start = min(self.warmup_lr, top)
        return start + (top - start) * (epoch - 1 + part) / self.warmup_epochs

    def _cosine(self, lr, epoch):
        fraction = (1 + math.cos(math.pi * min(epoch / self.n_epochs, 1))) / 2
        return lr * (self.lowest + (1 - self.lowest) * fraction)

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Count the steps of an epoch."""
        self.n_batches_ = len(EvenBatches(dataset_train, net.batch_size))

    def on_batch_begin(self, net, training=False, **kwargs):
        """Set the rate; the history has a place for this batch already."""
        part = (len(net.history[-1, "batches"]) - 1) / self.n_batches_
        for group in net.optimizer_.param_groups:
            group["lr"] = self.rate(net.lr, self.n_before + len(net.history), part)

# SPDX-License-Identifier: BSD-3-Clause
"""Momentum contrast: a network learns to tell views that belong together from all others (He et al., CVPR 2020).

Two views of a thing become a query and a key; the key's network follows the query's one slowly and learns nothing by
itself, and keys of earlier steps are kept in a queue as negatives. A method puts a `MomentumContrast` around what it
trains, in `_training_module` or a `Stage`, with `InfoNCELoss` as its loss, and gives `AfterStep()` to the net:

>>> import torch
>>> from torch import nn
>>> from sklearn_iqa._nn.contrastive import InfoNCELoss, MomentumContrast, Projected
>>> contrast = MomentumContrast(Projected(nn.Flatten(), width=12), queue_size=8)
>>> views = torch.rand(4, 2, 3, 2, 2)  # four rows, query and positive
>>> loss = InfoNCELoss()(contrast(views), None)
>>> loss.backward()
>>> contrast.after_step()  # what `AfterStep` does behind the optimiser's step
>>> int(contrast.pointer)
4
"""

import copy
from typing import NamedTuple

import skorch.callbacks
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_iqa._nn.layers import Float32Sequential

KEY_WIDTH = 128


class UnitLength(nn.Module):
    """Vectors (..., c) -> the same of length one; those near zero stay near zero."""

    def forward(self, vectors):
        """Divide by the Euclidean norm, or by 1e-12 where that is larger."""
        return F.normalize(vectors, dim=-1, eps=1e-12)


class Projected(nn.Module):
    """A network and the projection head behind it, which only training uses: images -> unit vectors (n, width_out).

    Parameters
    ----------
    encoder : nn.Module
        Images (n, 3, h, w) -> features (n, width).
    width : int
        Number of features.
    width_out : int, default=128
        Length of the vectors that are compared.
    """

    def __init__(self, encoder: nn.Module, width: int, width_out: int = KEY_WIDTH):
        super().__init__()
        self.encoder = encoder
        self.head = Float32Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width_out), UnitLength())

    def forward(self, images):
        """Give unit vectors."""
        return self.head(self.encoder(images))


class Contrast(NamedTuple):
    """What is compared in one step, all of them unit vectors."""

    query: torch.Tensor  # (n, c)
    positive: torch.Tensor  # (n, c), the key that belongs to each query
    negatives: torch.Tensor  # (n, d, c), keys that each query has for itself; d may be 0
    queue: torch.Tensor  # (m, c), keys of earlier steps, the same for all queries


class MomentumContrast(nn.Module):
    r"""An encoder, its slow copy that makes keys, and the queue of earlier keys; made for training alone.

    After each step a parameter :math:`\theta_k` of the copy becomes :math:`m\,\theta_k + (1 - m)\,\theta_q`, and the
    positive keys replace the oldest ones in the queue, which starts with random unit vectors. Statistics of BatchNorm
    are the copy's own. It trains in eval mode, without dropout, but BatchNorm counts over the batch.

    Parameters
    ----------
    encoder : nn.Module
        What is trained: images (n, 3, h, w) -> unit vectors (n, width). It is shared, not copied.
    queue_size : int, default=65536
        Number of keys that are kept.
    momentum : float, default=0.999
        Share of itself that a parameter of the copy keeps in a step: 1 freezes the copy, 0 sets it to the encoder.
    n_groups : int, default=1
        Parts of a batch over which BatchNorm counts separately. Query and key of a row meet the same company when it
        is 1, which may betray that they belong together; otherwise keys are shuffled over their parts, as the official
        codes do between devices. It is lowered where a part would hold fewer than two.
    width : int, default=128
        Length of the vectors.
    batch_negatives : bool, default=False
        Whether the positive keys of the other rows of a batch are negatives as well.
    """

    queue: torch.Tensor  # (queue_size, width)
    pointer: torch.Tensor  # (), place of the oldest key

    def __init__(self, encoder, queue_size=65536, momentum=0.999, n_groups=1, width=KEY_WIDTH, batch_negatives=False):
        super().__init__()
        self.encoder = encoder
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum, self.n_groups, self.batch_negatives = momentum, n_groups, batch_negatives
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self._keys: torch.Tensor | None = None  # of a step that is not finished

    def train(self, mode: bool = True):
        """Set the mode; in training that of the copy is eval but for BatchNorm."""
        super().train(mode)
        self.key_encoder.eval()
        for module in self.key_encoder.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, views):
        """Views (..., 2 + d, 3, h, w), or rows of them one by one -> `Contrast` of n rows, all leading axes together.

        The first view of a row is its query, the second its positive, and the others are negatives that it has for
        itself. The queue is that of earlier steps. Views lie anywhere; part after part is put beside the network.
        """
        rows = [row for some in views for row in some.reshape(-1, *some.shape[-4:])]  # (2 + d, 3, h, w) each
        n_groups = max(1, min(self.n_groups, len(rows) // 2))
        queries = torch.stack([torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.long)], dim=1)
        query = torch.cat([self.encoder(self._gathered(rows, part)) for part in queries.tensor_split(n_groups)])
        keys = self._encode_keys(rows, n_groups)
        self._keys = positive = keys[:, 0]
        negatives = [keys[:, 1:], of_other_rows(positive)] if self.batch_negatives else [keys[:, 1:]]
        return Contrast(query, positive, torch.cat(negatives, dim=1), self.queue)

    @torch.no_grad()
    def _encode_keys(self, rows, n_groups: int):
        """Encode the views of all rows behind their queries, in shuffled groups: (n, 1 + d, width)."""
        places = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(1, len(rows[0])))
        shuffled = n_groups > 1
        # Drawn on the network's device, as the draws of training are.
        order = torch.randperm(len(places), device=self.queue.device) if shuffled else torch.arange(len(places))
        parts = places[order.cpu()].tensor_split(n_groups)
        keys = torch.cat([self.key_encoder(self._gathered(rows, part)) for part in parts])
        return (keys[order.argsort()] if shuffled else keys).unflatten(0, (len(rows), -1))

    def _gathered(self, rows, places: torch.Tensor) -> torch.Tensor:
        """Give the views at places (m, 2), row and number there, beside the network: a batch may take gigabytes."""
        views = torch.stack([rows[row][number] for row, number in places.tolist()])
        return views.to(self.queue.device, non_blocking=True)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the copy follow the encoder, and put the step's positive keys into the queue."""
        for slow, fast in zip(self.key_encoder.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.momentum)
        if self._keys is not None:
            self.enqueue(self._keys)
            self._keys = None

    @torch.no_grad()
    def enqueue(self, keys) -> None:
        """Replace the oldest keys by new ones (n, c); of more than the queue holds the last ones stay."""
        size = len(self.queue)
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places[-size:]] = keys[-size:]
        self.pointer.copy_((self.pointer + len(keys)) % size)


def of_other_rows(keys: torch.Tensor) -> torch.Tensor:
    """Keys (n, c) -> those of all other rows for each row, (n, n - 1, c)."""
    n_rows = len(keys)
    other = ~torch.eye(n_rows, dtype=torch.bool, device=keys.device)
    return keys.expand(n_rows, -1, -1)[other].unflatten(0, (n_rows, n_rows - 1))


def info_nce(contrast: Contrast, temperature: float) -> torch.Tensor:
    r"""Mean over the queries of the cross-entropy of finding the positive among all keys.

    .. math:: -\log \frac{\exp(q \cdot k_+ / t)}
       {\exp(q \cdot k_+ / t) + \sum_{d \in D} \exp(q \cdot d / t) + \sum_{c \in C} \exp(q \cdot c / t)}

    with the negatives D of the query itself and those C of the queue. 0 without negatives, above 0 with any.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018.

    Parameters
    ----------
    contrast : Contrast
        Unit vectors of n queries.
    temperature : float
        The t of the formula.

    Returns
    -------
    loss : Tensor of shape ()
    """
    query, positive, negatives, queue = contrast
    alike = (query * positive).sum(1, keepdim=True)  # (n, 1)
    apart = (query[:, None] * negatives).sum(2)  # (n, d)
    logits = torch.cat([alike, apart, query @ queue.T], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


class InfoNCELoss(nn.Module):
    """`info_nce` as a loss of training: sees a `Contrast` and no target.

    Parameters
    ----------
    temperature : float, default=0.2
        That of MoCo v2.
    """

    def __init__(self, temperature: float = 0.2):
        super().__init__()
        self.temperature = temperature

    def forward(self, contrast: Contrast, target) -> torch.Tensor:
        """Give the loss; the target is ignored."""
        return info_nce(contrast, self.temperature)


class AfterStep(skorch.callbacks.Callback):
    """Ends each step of a net whose module is a `MomentumContrast`: for `callbacks` of the net's parameters."""

    def on_batch_end(self, net, training=False, **kwargs):
        """Move the copy and the queue, behind the optimiser's step."""
        if training:
            net.module_.after_step()

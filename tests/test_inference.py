# SPDX-License-Identifier: BSD-3-Clause
"""Inference: references that rows share run through a network once, in bounded memory, with unchanged scores."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_iqa import LPIPS, make_pairs
from sklearn_iqa._base.inference import Job, infer


class Difference(nn.Module):
    """Mean difference of two images, counting what it encodes."""

    def __init__(self):
        super().__init__()
        self.n_encoded = 0

    def forward(self, pairs):
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))

    def encode_reference(self, references):
        self.n_encoded += len(references)
        return references, 2 * references

    def compare(self, queries, encoded):
        reference, twice = encoded
        return (queries + reference - twice).mean((1, 2, 3))


def jobs(references, n_views=1):
    """One job per entry; views of row i hold the number i beside the number of their reference."""
    made = []
    for row, reference in enumerate(references):
        views = torch.zeros(n_views, 2, 3, 4, 4)
        views[:, 0] += row
        views[:, 1] += reference
        made.append(Job(row, views, reference))
    return made


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("n_views", [1, 5])
def test_shared_references_are_encoded_once(batch_size, n_views):
    references = [7, 7, 7, 7, 3, 3, 9]
    network = Difference()
    found = dict(infer(network, jobs(references, n_views), batch_size=batch_size, device=torch.device("cpu")))
    assert network.n_encoded == 3 * n_views
    for row, reference in enumerate(references):
        torch.testing.assert_close(found[row], torch.full((n_views,), float(row - reference)))


def test_only_the_last_reference_is_kept():
    network = Difference()
    list(infer(network, jobs([1, 2, 1, 2]), batch_size=1, device=torch.device("cpu")))
    assert network.n_encoded == 4


def test_predict_brings_rows_of_one_reference_together(monkeypatch):
    rng = np.random.default_rng(0)
    queries, originals = rng.integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8)
    X = make_pairs(queries, originals[[0, 1, 2, 0, 1, 2]])
    lpips = LPIPS(net="squeeze", backbone_weights=None, random_state=0, device="cpu").initialize()
    alone = [lpips.predict([pair])[0] for pair in X]
    encode, n_encoded = lpips.network_.encode_reference, []

    def counted(images):
        n_encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(lpips.network_, "encode_reference", counted)
    np.testing.assert_allclose(lpips.predict(X), alone, rtol=1e-5)
    assert sum(n_encoded) == 6 + 3  # LPIPS encodes queries in the same way

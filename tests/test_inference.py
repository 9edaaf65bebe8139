# SPDX-License-Identifier: BSD-3-Clause
"""Inference: references that rows share run through a network once, in bounded memory, with unchanged scores."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_iqa import LPIPS, NIMA, STLPIPS, make_pairs
from sklearn_iqa._base import inference
from sklearn_iqa._base.inference import PIXELS_PER_PASS, Job, infer
from sklearn_iqa._nn.layers import Reach, tiles


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
    for row, reference in enumerate(references):
        views = torch.zeros(n_views, 2, 3, 4, 4)
        views[:, 0] += row
        views[:, 1] += reference
        yield Job(row, views, reference)


@pytest.mark.parametrize("views_per_pass", [1, 2, 3, 100])
@pytest.mark.parametrize("n_views", [1, 5])
def test_shared_references_are_encoded_once(views_per_pass, n_views, monkeypatch):
    monkeypatch.setitem(PIXELS_PER_PASS, "cpu", 2 * 4 * 4 * views_per_pass)
    references = [7, 7, 7, 7, 3, 3, 9]
    network = Difference()
    found = dict(infer(network, jobs(references, n_views), device=torch.device("cpu")))
    assert network.n_encoded == 3 * n_views
    for row, reference in enumerate(references):
        torch.testing.assert_close(found[row], torch.full((n_views,), float(row - reference)))


def test_only_the_last_reference_is_kept(monkeypatch):
    network = Difference()
    monkeypatch.setitem(PIXELS_PER_PASS, "cpu", 1)  # one view at a time
    list(infer(network, jobs([1, 2, 1, 2]), device=torch.device("cpu")))
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


def test_compile_runs_what_torch_makes_of_the_network(monkeypatch):
    calls = []

    def compiled(function, *args, **kwargs):
        def run(*inputs):
            calls.append(function.__name__)
            return function(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pairs = make_pairs(images, images[::-1].copy())
    lpips = LPIPS(net="squeeze", backbone_weights=None, random_state=0, device="cpu").initialize()
    expected = lpips.predict(pairs)
    np.testing.assert_array_equal(lpips.set_params(compile=True).predict(pairs), expected)
    assert set(calls) == {"encode_reference", "compare"}
    copied = copy.deepcopy(lpips)
    calls.clear()
    np.testing.assert_array_equal(copied.set_params(compile=False).predict(pairs), expected)
    np.testing.assert_array_equal(lpips.set_params(compile=False).predict(pairs), expected)
    assert calls == []
    nima = NIMA(backbone="test_resnet", backbone_weights=None, random_state=0, device="cpu", compile=True).initialize()
    nima.predict(images)
    assert calls == ["_call_impl"]


def test_a_gpu_gets_its_next_pass_before_its_outputs_are_waited_for(monkeypatch):
    order = []

    class Noting(nn.Module):
        def forward(self, images):
            order.append("pass")
            return images.mean((1, 2, 3, 4))

    monkeypatch.setitem(PIXELS_PER_PASS, "cuda", 1)  # one view at a time
    monkeypatch.setattr(Job, "pinned", lambda self, device: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)  # there may be no GPU here
    monkeypatch.setattr(inference, "computing", lambda *args: contextlib.nullcontext())
    for name, output in infer(Noting(), jobs([0, 1, 2]), device=torch.device("cuda")):
        order.append((name, output.item()))
    assert order == ["pass", "pass", (0, 0.0), "pass", (1, 1.0), (2, 2.0)]


# Tiles ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "net", "side"),
    [(LPIPS, "alex", 48), (LPIPS, "vgg", 64), (LPIPS, "squeeze", 48), (STLPIPS, "alex", 32), (STLPIPS, "vgg", 64)],
)
@pytest.mark.parametrize("shape", [(150, 211), (257, 96)])
def test_tiles_have_the_distance_of_the_whole(cls, net, side, shape):
    given = {"net": net, "random_state": 0}
    if cls is LPIPS:
        given["backbone_weights"] = None
    network = cls(**given).initialize().network_
    pairs = torch.rand(2, 2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        # A position too many or too few, or one with another value, would change it by 1e-5 and more.
        torch.testing.assert_close(network.in_tiles(pairs, side), network(pairs), rtol=2e-6, atol=0)


def test_axes_are_cut_into_parts_of_equal_size():
    reaches = [Reach(4, 2, 8), Reach(8, 30, 44)]
    parts = list(tiles(100, 40, reaches))
    assert [(part.seen.start, part.seen.stop) for part in parts] == [(0, 76), (0, 100), (32, 100)]
    assert [part.own[0] for part in parts] == [slice(0, 8), slice(8, 16), slice(8, None)]
    assert [part.own[1] for part in parts] == [slice(0, 4), slice(4, 8), slice(4, None)]


def test_large_pairs_are_seen_in_tiles(monkeypatch):
    pairs = [tuple(np.random.default_rng(0).integers(0, 256, (2, 160, 120, 3), dtype=np.uint8))]
    model = STLPIPS(random_state=0).initialize()
    whole, seen = model.predict(pairs), []
    monkeypatch.setattr(inference, "PIXELS_AT_ONCE", 160 * 120 - 1)
    in_tiles = model.network_.in_tiles
    monkeypatch.setattr(model.network_, "in_tiles", lambda views: seen.append(views.shape) or in_tiles(views, side=64))
    np.testing.assert_allclose(model.predict(pairs), whole, rtol=1e-6)
    assert seen == [(1, 2, 3, 160, 120)]
    monkeypatch.setattr(inference, "PIXELS_AT_ONCE", 160 * 120)
    model.predict(pairs)
    assert len(seen) == 1


def test_views_lie_as_the_weights_do():
    layouts = []

    class Layout(nn.Module):
        def forward(self, views):
            layouts.append(views.stride())
            return views.flatten(1).mean(1)

    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    found = dict(infer(Layout(), (Job(row, images[row : row + 1]) for row in range(2)), device=torch.device("cpu")))
    torch.testing.assert_close(torch.cat([found[0], found[1]]), images.flatten(1).mean(1))
    assert all(stride[1] == 1 for stride in layouts)

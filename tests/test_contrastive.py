# SPDX-License-Identifier: BSD-3-Clause
"""Momentum contrast: the loss against numbers worked out by hand, the queue, the copy that makes keys."""

import itertools
import math

import kits
import pytest
import skorch
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._base.training import RowsApart
from sklearn_iqa._nn.contrastive import AfterStep, Contrast, InfoNCELoss, MomentumContrast, Projected, info_nce

QUERY, POSITIVE = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]])
OWN, QUEUE = torch.tensor([[[0.6, 0.8]]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
NO_OWN, NO_QUEUE = OWN[:, :0], QUEUE[:0]


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_contrast(n=5, n_own=3, n_queue=7, width=16):
    return Contrast(*(unit(*shape, width, seed=i) for i, shape in enumerate(((n,), (n,), (n, n_own), (n_queue,)))))


def encoder():
    torch.manual_seed(0)
    return Projected(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten()), width=64)


def moving(**parameters):
    return MomentumContrast(encoder(), **{"queue_size": 6, **parameters})


# The loss -------------------------------------------------------------------------------------------------------------


# t = 0.2: logits 0.8 / 0.2 = 4 of the positive, 0.6 / 0.2 = 3 of the own negative, 0 and -1 / 0.2 = -5 of the queue.
@pytest.mark.parametrize(
    ("negatives", "queue", "expected"),
    [
        (OWN, QUEUE, math.log(1 + math.exp(-1) + math.exp(-4) + math.exp(-9))),  # 0.326652
        (NO_OWN, QUEUE, math.log(1 + math.exp(-4) + math.exp(-9))),  # 0.018271
        (OWN, NO_QUEUE, math.log(1 + math.exp(-1))),  # 0.313262
        (NO_OWN, NO_QUEUE, 0.0),
    ],
)
def test_loss_by_hand(negatives, queue, expected):
    assert float(info_nce(Contrast(QUERY, POSITIVE, negatives, queue), 0.2)) == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_mean_over_queries():
    one, other = (Contrast(QUERY, POSITIVE, own, QUEUE) for own in (OWN, POSITIVE[None]))
    both = Contrast(*(torch.cat([a, b]) for a, b in zip(one[:3], other[:3], strict=True)), QUEUE)
    assert float(info_nce(both, 0.2)) == pytest.approx(float(info_nce(one, 0.2) + info_nce(other, 0.2)) / 2)


# n negatives that equal the positive: the n + 1 keys are equally likely.
@pytest.mark.parametrize(("n_own", "n_queue"), [(1, 0), (0, 1), (2, 3)])
def test_negatives_equal_to_the_positive(n_own, n_queue):
    contrast = Contrast(QUERY, POSITIVE, POSITIVE[None].expand(1, n_own, 2), POSITIVE.expand(n_queue, 2))
    assert float(info_nce(contrast, 0.2)) == pytest.approx(math.log(n_own + n_queue + 1), abs=1e-6)


def test_loss_knows_neither_direction_nor_order():
    contrast = random_contrast()
    loss = info_nce(contrast, 0.2)
    assert loss > 0
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(9)))[0]
    torch.testing.assert_close(info_nce(Contrast(*(part @ rotation for part in contrast)), 0.2), loss)
    turned = contrast._replace(negatives=contrast.negatives.flip(1), queue=contrast.queue[[3, 0, 6, 1, 5, 2, 4]])
    torch.testing.assert_close(info_nce(turned, 0.2), loss)


def test_loss_rises_when_a_negative_comes_nearer():
    contrast = random_contrast(n=1)
    loss = info_nce(contrast, 0.2)
    for i in range(3):
        nearer = contrast.negatives.clone()
        nearer[:, i] = F.normalize(nearer[:, i] + 0.1 * contrast.query, dim=-1)
        assert info_nce(contrast._replace(negatives=nearer), 0.2) > loss
    for i in range(7):
        nearer = contrast.queue.clone()
        nearer[i] = F.normalize(nearer[i] + 0.1 * contrast.query[0], dim=-1)
        assert info_nce(contrast._replace(queue=nearer), 0.2) > loss


def test_limit_of_high_temperature():
    # All exponents tend to 0: one of 1 + 3 + 7 keys.
    assert float(info_nce(random_contrast(), 1e6)) == pytest.approx(math.log(11), abs=1e-5)


def test_a_negative_counts_alike_in_both_places():
    contrast = random_contrast(n=1)
    moved = contrast._replace(
        negatives=contrast.negatives[:, 1:], queue=torch.cat([contrast.queue, contrast.negatives[0, :1]])
    )
    torch.testing.assert_close(info_nce(moved, 0.2), info_nce(contrast, 0.2))


def test_extreme_temperatures_stay_finite():
    for temperature, sign in itertools.product((1e-4, 1e4), (1, -1)):
        assert torch.isfinite(info_nce(Contrast(QUERY, sign * POSITIVE, OWN, QUEUE), temperature))


def test_projection_is_that_of_moco_v2():
    # Linear, ReLU, linear to 128 numbers, which become unit vectors; MoCo v1 has one linear layer.
    first, between, last, _ = Projected(nn.Flatten(), width=48).head
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (48, 48, 48, 128)
    assert isinstance(between, nn.ReLU)
    vectors = Projected(nn.Flatten(), width=48)(torch.rand(5, 3, 4, 4))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


# The queue ------------------------------------------------------------------------------------------------------------


def keys(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 128)


def test_queue_is_a_ring():
    contrast = moving(queue_size=5)
    contrast.queue.zero_()
    for new, content, pointer in [
        ((1, 2), (1, 2, 0, 0, 0), 2),
        ((3, 4), (1, 2, 3, 4, 0), 4),
        ((5, 6, 7), (6, 7, 3, 4, 5), 2),  # beyond the end
        ((8, 9, 10, 11, 12), (11, 12, 8, 9, 10), 2),  # as many as there are places
        (
            tuple(range(20, 32)),
            (28, 29, 30, 31, 27),
            4,
        ),  # one by one: (2 + 12) modulo 5
    ]:
        contrast.enqueue(keys(*new))
        assert contrast.queue[:, 0].tolist() == list(content)
        assert int(contrast.pointer) == pointer


def test_queue_starts_with_random_unit_vectors():
    queue = moving(queue_size=50).queue
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(50))
    assert len(queue.unique(dim=0)) == 50


def test_a_step_does_not_meet_its_own_keys():
    contrast = moving().train()
    before = contrast.queue.clone()
    compared = contrast(torch.rand(4, 2, 3, 4, 4))
    assert torch.equal(compared.queue, before)
    contrast.after_step()
    assert torch.equal(contrast.queue[:4], compared.positive)
    assert torch.equal(contrast.queue[4:], before[4:])
    assert int(contrast.pointer) == 4
    contrast.after_step()  # nothing new came
    assert int(contrast.pointer) == 4
    contrast(torch.rand(4, 2, 3, 4, 4))
    contrast.after_step()
    assert int(contrast.pointer) == 2  # 8 modulo 6


def test_leading_axes_are_rows_and_further_views_negatives():
    contrast = moving(queue_size=64).eval()
    views = torch.rand(2, 3, 5, 3, 4, 4)
    compared = contrast(views)
    assert [tuple(part.shape) for part in compared] == [(6, 128), (6, 128), (6, 3, 128), (64, 128)]
    # In eval mode every view is encoded by itself, and a new copy is equal to its encoder.
    flat = views.flatten(0, 1)
    torch.testing.assert_close(compared.query, contrast.encoder(flat[:, 0]))
    torch.testing.assert_close(compared.positive, contrast.encoder(flat[:, 1]))
    torch.testing.assert_close(compared.negatives[:, 2], contrast.encoder(flat[:, 4]))
    assert compared.query.requires_grad
    assert not compared.positive.requires_grad
    assert not compared.negatives.requires_grad
    contrast.after_step()
    assert int(contrast.pointer) == 6  # one key a row
    assert moving()(torch.rand(3, 2, 3, 4, 4)).negatives.shape == (3, 0, 128)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_rows_may_come_one_by_one(n_groups):
    """Bit by bit the same as from one tensor, and no more than the views of a group are put together."""
    views = torch.rand(5, 4, 2, 3, 4, 4)
    outputs = []
    for given in (views, RowsApart(list(views))):
        contrast = moving(n_groups=n_groups)
        torch.manual_seed(1)
        outputs.append(contrast(given))
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


def test_keys_of_other_rows_are_negatives_when_asked_for():
    plain, contrast = moving(queue_size=64).eval(), moving(queue_size=64, batch_negatives=True).eval()
    views = torch.rand(3, 4, 3, 4, 4)
    compared, expected = contrast(views), plain(views)
    torch.testing.assert_close(compared.negatives[:, :2], expected.negatives)
    for row, others in enumerate(([1, 2], [0, 2], [0, 1])):
        torch.testing.assert_close(compared.negatives[row, 2:], expected.positive[others])
    assert contrast(views[:1]).negatives.shape == (1, 2, 128)  # no other row


# The copy -------------------------------------------------------------------------------------------------------------


def distance(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


# After one step w' of the encoder from w: m w + (1 - m) w' is (1 - m) |w' - w| away from w.
@pytest.mark.parametrize("momentum", [1.0, 0.9, 0.0])
def test_copy_follows(momentum):
    contrast, start = moving(momentum=momentum), encoder()
    with torch.no_grad():
        for parameter in contrast.encoder.parameters():
            parameter += 1
    contrast.after_step()
    assert distance(contrast.key_encoder, start) == pytest.approx(1 - momentum, abs=1e-6)
    assert distance(contrast.key_encoder, contrast.encoder) == pytest.approx(momentum, abs=1e-6)


def trained(n_epochs=2, **parameters):
    net = skorch.NeuralNet(
        module=moving(**parameters),
        criterion=InfoNCELoss(),
        optimizer=torch.optim.SGD,
        lr=0.1,
        batch_size=4,
        max_epochs=n_epochs,
        train_split=None,
        verbose=0,
        callbacks=[AfterStep()],
    )
    views = torch.rand(8, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return net.fit(views, torch.zeros(8)).module_


def test_training_moves_the_copy_by_momentum_alone():
    # At momentum 1 never, at 0 it is the encoder after each step.
    frozen, following = trained(momentum=1.0), trained(momentum=0.0)
    assert distance(frozen.key_encoder, encoder()) == 0
    assert distance(frozen.encoder, encoder()) > 1e-3
    assert distance(following.key_encoder, following.encoder) == 0
    assert distance(following.encoder, encoder()) > 1e-3
    assert int(frozen.pointer) == 16 % 6  # four steps of four keys


def test_copy_has_no_dropout_but_statistics_of_the_batch():
    contrast = moving().train()
    modes = {type(module): module.training for module in contrast.key_encoder.modules()}
    assert modes[nn.BatchNorm2d]
    assert not modes[nn.Dropout]
    assert all(module.training for module in contrast.encoder.modules())
    assert not any(module.training for module in contrast.eval().modules())
    images = 3 + torch.rand(4, 2, 3, 4, 4)
    torch.testing.assert_close(contrast(images).positive[:1], contrast(images[:1]).positive)
    contrast.train()
    assert not torch.allclose(contrast(images).positive[:2], contrast(images[:2]).positive, atol=1e-3)
    assert torch.equal(contrast(images).positive, contrast(images).positive)


def test_groups_count_for_themselves():
    torch.manual_seed(0)
    images = torch.rand(8, 2, 3, 4, 4)
    plain, grouped = moving().train(), moving(n_groups=2).train()
    plain.encoder.encoder[2].eval()  # dropout
    grouped.encoder.encoder[2].eval()
    # Queries: each half as a batch of its own.
    halves = torch.cat([plain(half).query for half in images.split(4)])
    compared = grouped(images)
    torch.testing.assert_close(compared.query, halves)
    # Keys: halves too, but drawn ones, in the order of the rows.
    other = grouped(images)
    assert not torch.equal(other.positive, compared.positive)
    together = plain(images).positive
    assert float((compared.positive * together).sum(1).min()) > 0.9  # near to those of the whole batch, row by row
    wrong_rows = (compared.positive * together.roll(1, 0)).sum(1)
    assert ((compared.positive * together).sum(1) > wrong_rows).all()
    # Of three rows no two groups can be made: each would need two.
    assert torch.equal(grouped(images[:3]).positive, plain(images[:3]).positive)


# The official code's numbers ------------------------------------------------------------------------------------------


def test_parity_toy_loss_and_queue():
    kit = kits.read("re_iqa")
    told, seed = kit["losses"], kit["seed"]
    q, k, queue = (
        torch.from_numpy(kits.fill_tensor(f"toy.{name}", (n, 128), seed))
        for name, n in (("q", 4), ("k", 4), ("memory", 16))
    )
    q = F.normalize(q, dim=1)
    k, queue = F.normalize(k + q, dim=1), F.normalize(queue, dim=1)
    loss = info_nce(Contrast(q, k, q.new_zeros(4, 0, 128), queue), 0.2)
    kits.assert_parity("re_iqa", "loss", loss, told["value"], rtol=kit["tolerance"]["rel"])
    contrast = moving(queue_size=16)
    contrast.queue.copy_(queue)
    contrast.pointer.fill_(14)
    contrast.enqueue(k)
    # As the kit says in `queue after`: rows 14, 15, 0, 1 replaced, pointer 2.
    assert torch.equal(contrast.queue[[14, 15, 0, 1]], k)
    assert torch.equal(contrast.queue[2:14], queue[2:14])
    assert int(contrast.pointer) == 2

# SPDX-License-Identifier: BSD-3-Clause
"""LIQE: the official numbers, windows, three tasks and their weights, several data sets, and that it learns."""

import hashlib
import pickle
from pathlib import Path

import kits
import numpy as np
import pytest
import torch
from held_out import levels
from recipes import coordinate_maps, recorded
from sentences import one_sentence
from sklearn.utils._param_validation import InvalidParameterError

from sklearn_iqa import LIQE
from sklearn_iqa._base.training import TrainingSet
from sklearn_iqa._nn import clip_text
from sklearn_iqa._nn.losses import pairs_within
from sklearn_iqa.multimodal._liqe_batches import DomainBatches, shares
from sklearn_iqa.multimodal._liqe_multitask import MultitaskLoss, TaskProbabilities, expected_level, task_weights
from sklearn_iqa.multimodal.liqe import DISTORTIONS, QUALITIES, SCENES, LIQENetwork, WindowTraining, make_prompts

KIT = kits.read("liqe")
ATOL = KIT["tolerance"]["abs"]  # 1e-4
TINY = {
    **{"backbone": str(Path(__file__).parent / "clip_tiny_vit.json"), "backbone_weights": None, "random_state": 0},
    **{"scenes": ("indoor", "plant", "others"), "distortions": ("blur", "other"), "max_epochs": 2, "batch_size": 4},
    "steps_per_epoch": 2,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)
Y = np.array([4.5, 3.9, 3.1, 2.6, 1.8, 1.2])
SHOWN = ["indoor", ["plant", "indoor"], "others", "plant", "plant", ["others"]]
KINDS = ["blur", "other"] * 3


def kit_images():
    first, second = kits.images(0)
    return [first, second, first // 4, np.repeat(np.repeat(first, 3, axis=0), 3, axis=1)]


@pytest.fixture(scope="module")
def official():
    estimator = LIQE(backbone_weights=None, random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def seen(official):
    """Windows of the four images, and what the image tower gives for them."""
    with torch.inference_mode():
        windows = [official._views(image) for image in kit_images()]
        return windows, [official.network_.clip.encode_image(one) for one in windows]


@pytest.fixture(scope="module")
def logits(official, seen):
    with torch.inference_mode():
        return torch.stack([official.network_.logits(features).mean(0) for features in seen[1]])


class Levels:
    """Stands for probabilities whose expected level is given: two levels, 1 and 2, and what is linear beyond them."""

    def __init__(self, quality):
        self.quality = torch.stack([2 - torch.tensor(quality), torch.tensor(quality) - 1], dim=1)


# Recipe ---------------------------------------------------------------------------------------------------------------

# Images of the official six sets that are trained on, 70 %.
OFFICIAL_SIZES = {"LIVE": 545, "CSIQ": 606, "BID": 410, "CLIVE": 813, "KonIQ-10k": 7051, "KADID-10k": 7088}


def training_set(domain, sample_weight=None):
    targets = np.stack([np.zeros(len(domain)), domain], axis=1)
    return TrainingSet(lambda row: torch.tensor(row), targets, np.arange(len(domain)), sample_weight)


def test_batches_at_the_official_sizes():
    domain = np.repeat(np.arange(6), list(OFFICIAL_SIZES.values()))
    # The square roots are 23.3, 24.6, 20.2, 28.5, 84.0 and 84.2: of 48 images 4.2, 4.5, 3.7, 5.2, 15.2 and 15.3.
    for sizes, expected in ((None, [4, 5, 4, 5, 15, 15]), ([4, 4, 4, 4, 16, 16], [4, 4, 4, 4, 16, 16])):
        batches = DomainBatches(training_set(domain), 48, sizes=sizes, n_batches=200)
        drawn = np.array(list(batches))
        assert drawn.shape == (200, 48)
        assert all((np.bincount(domain[batch]) == expected).all() for batch in drawn)
        # 800 draws from LIVE: every image once or twice; 3,000 or 3,200 from KonIQ-10k: none twice.
        counts = np.bincount(drawn.ravel(), minlength=len(domain))
        assert set(counts[domain == 0]) == {1, 2}
        assert set(counts[domain == 4]) == {0, 1}


@pytest.mark.parametrize(
    ("counts", "batch_size", "sizes"),
    [
        ([100], 48, [48]),
        ([30], 48, [30]),  # no more than there are
        ([10_000, 3], 4, [2, 2]),  # two of each at least
        ([10_000, 1], 8, [7, 1]),
        ([10_000, 3], 48, [46, 2]),  # 1.7 by its root
        ([900, 100], 8, [6, 2]),
        ([9, 4], 48, [9, 4]),
    ],
)
def test_a_batch_is_divided_by_the_roots_of_the_sizes(counts, batch_size, sizes):
    assert shares(counts, batch_size) == sizes


def test_rows_of_a_domain_come_in_rounds():
    domain = np.repeat([0, 1], [5, 7])
    batches = DomainBatches(training_set(domain), 0, sizes=[2, 3], n_batches=35)
    torch.manual_seed(0)
    drawn = np.array(list(batches))
    first, second = drawn[:, :2].reshape(-1, 5), drawn[:, 2:].reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(first, axis=1), np.tile(np.arange(5), (14, 1)))
    np.testing.assert_array_equal(np.sort(second, axis=1), np.tile(np.arange(5, 12), (15, 1)))
    assert len({tuple(one) for one in first}) > 5  # 120 orders
    assert not np.array_equal(list(batches), drawn)


def test_weights_draw_within_a_domain():
    domain = np.repeat([0, 1], [4, 4])
    weight = np.array([1.0, 2, 3, 4, 100, 100, 100, 100])
    drawn = np.array(list(DomainBatches(training_set(domain, weight), 4, sizes=None, n_batches=5000)))
    assert drawn.shape == (5000, 4)
    # 10,000 of each domain; five deviations of the largest count, 4,000, are 245.
    expected = [1000, 2000, 3000, 4000, 2500, 2500, 2500, 2500]
    np.testing.assert_allclose(np.bincount(drawn.ravel()), expected, atol=245)


def test_a_step_sees_images_of_all_domains():
    domains = ["a", "b", "b", "b", "b", "b"]
    with recorded() as phases:
        estimator = LIQE(**{**TINY, "steps_per_epoch": 3}).fit(IMAGES, Y, domains=domains)
        LIQE(**{**TINY, "steps_per_epoch": None}).fit(IMAGES, Y, domains=domains)
        sizes = {"a": 2, "b": 4, "elsewhere": 7}
        LIQE(**TINY, domain_batch_sizes=sizes).fit(IMAGES, Y, domains=domains)
    assert estimator.n_steps_ == 6
    # One image of "a", which has no more, or two where this is asked for; six rows fill two batches of four.
    for phase, n_steps, counts in zip(phases, (6, 4, 4), ([1, 3], [1, 3], [2, 4]), strict=True):
        assert [target[:, 1].int().bincount().tolist() for target in phase.targets] == [counts] * n_steps
        assert set(phase.shapes) == {(sum(counts), 3, 3, 32, 32)}


def test_going_on_draws_what_one_fit_draws():
    with recorded() as at_once:
        LIQE(**{**TINY, "max_epochs": 3}).fit(IMAGES, Y, domains=list("aaabbb"))
    with recorded() as in_parts:
        estimator = LIQE(**TINY)
        for _ in range(3):
            estimator.partial_fit(IMAGES, Y, domains=list("aaabbb"))
            estimator = pickle.loads(pickle.dumps(estimator))
    assert [phase.rows for phase in in_parts] == [at_once[0].rows[:2], at_once[0].rows[2:4], at_once[0].rows[4:]]


def test_three_windows_lie_anywhere_on_the_grid_and_the_image_is_mirrored():
    estimator = LIQE(**TINY).initialize()
    maps = np.stack(
        [coordinate_maps(lambda image, i=i: estimator._train_view(image)[i], 96, 192, n=200) for i in range(3)], axis=1
    )  # (200, 3, 2, 3)
    mirrored = maps[..., 0, 0] < 0
    assert (mirrored == mirrored[:, :1]).all()  # the image as a whole
    assert abs(mirrored[:, 0].sum() - 100) < 36  # five deviations
    left = np.where(mirrored, 191 - maps[..., 0, 2], maps[..., 0, 2]).round().astype(int)  # of the mirrored image
    top = maps[..., 1, 2].round().astype(int)
    assert set(left.ravel()) == {0, 32, 64, 96, 128, 160}
    assert set(top.ravel()) == {0, 32, 64}
    # Each of the 18 places is as likely for each of the three windows: 11 of 200, five deviations are 16.
    places = (top // 32 * 6 + left // 32).T
    counts = np.array([np.bincount(one, minlength=18) for one in places])
    assert counts.min() > 0
    assert counts.max() < 28
    # With replacement: two are equal in 1 of 18 views.
    assert 0 < (places[0] == places[1]).sum() < 28


def test_training_runs_in_inference_mode():
    module = LIQE(**TINY).initialize()._training_module(LIQE(**TINY).initialize().network_)
    module.train()
    assert not any(one.training for one in module.modules())


def test_probabilities_are_those_of_the_mean_over_windows():
    class Known(torch.nn.Module):
        """Takes the first 30 numbers of a window for its logits."""

        probabilities = LIQE(**TINY).initialize().network_.probabilities

        def forward(self, windows):
            return windows.flatten(1)[:, :30]

    windows = 3 * torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = windows.flatten(2)[..., :30]  # 5 levels, 3 scenes, 2 distortions
    got = WindowTraining(Known())(windows)
    torch.testing.assert_close(got.quality, logits.mean(1).softmax(-1).unflatten(-1, (5, 6)).sum(-1))
    torch.testing.assert_close(got.distortion, logits.mean(1).softmax(-1).unflatten(-1, (15, 2)).sum(1))
    estimator = LIQE(**TINY).initialize()
    assert isinstance(estimator._training_module(estimator.network_), WindowTraining)


def test_terms_of_the_loss_are_added_by_their_weights():
    loss = MultitaskLoss()
    generator = torch.Generator().manual_seed(0)
    output = TaskProbabilities(*(torch.rand(4, n, generator=generator).softmax(1) for n in (5, 3, 2)))
    scene = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
    mos, domain, distortion = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 1, 0])
    terms = [loss.quality(output, mos, domain), loss.scene(output, scene), loss.distortion(output, distortion)]
    target = torch.cat([torch.stack([mos, domain, distortion], 1), scene], 1)
    torch.testing.assert_close(loss(output, target), sum(terms))
    loss.weights.copy_(torch.tensor([0.5, 2.0, 3.0]))
    torch.testing.assert_close(loss(output, target), 0.5 * terms[0] + 2 * terms[1] + 3 * terms[2])


def test_pairs_of_different_domains_teach_nothing():
    domain = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0])
    first, second = pairs_within(domain)
    # Three pairs of domain 0, three of domain 1, none of domain 2 with its one image.
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (0, 6), (1, 3), (1, 5), (2, 6), (3, 5)]
    loss, output = MultitaskLoss(), Levels([1.0, 1.2, 1.4, 1.6])
    # The mean over the two domains of 1 - sqrt(Phi(q1 - q2)) for the two pairs, the first of which is in order.
    order = loss.quality(output, torch.tensor([1.0, 2.0, 4.0, 3.0]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    wanted = 1 - (0.579260**0.5 + 0.420740**0.5) / 2  # Phi(0.2) and Phi(-0.2)
    assert order.item() == pytest.approx(wanted, abs=2e-4)  # epsilon under the roots
    alone = loss.quality(output, torch.arange(4.0), torch.arange(4.0))
    assert alone.item() == 0


# Parity ---------------------------------------------------------------------------------------------------------------


def test_prompts_are_official(official):
    config, network = KIT["config"], official.network_
    assert list(QUALITIES) == config["qualities"]
    assert list(SCENES) == config["scenes"]
    assert list(DISTORTIONS) == config["distortions"]
    table = np.zeros((495, 77), dtype="<i8")
    table[:, : network.tokens.shape[1]] = network.tokens
    stated = config["token_table_sha256"].split()[0]
    assert hashlib.sha256(table.tobytes()).hexdigest() == stated
    assert make_prompts((), ()) == KIT["variants"]["quality_only"]["prompts"]


def test_stages_are_official(official, seen, logits):
    with torch.inference_mode():
        got = [seen[0][0], seen[1][0], official.network_.encode_prompts(), logits[:1]]
    for values, stage in zip(got, KIT["stages"], strict=True):
        values = values.double().numpy()
        assert list(values.shape) == stage["shape"]
        numbers = [values.mean(), values.std(), *values.ravel()[:5]]
        want = [stage["mean"], stage["std"], *stage["first5"]]
        kits.assert_parity("liqe", stage["name"], numbers, want, atol=ATOL)


def test_quality_and_probabilities_are_official(official, logits):
    probabilities = official.network_.probabilities(logits)
    kits.assert_parity("liqe", "quality", expected_level(probabilities.quality), KIT["output"], atol=ATOL)
    for task, name in (("quality", "quality [image][5]"), ("scene", "scene [image][9]")):
        kits.assert_parity("liqe", name, getattr(probabilities, task), KIT["distributions"][name], atol=ATOL)
    name = "distortion [image][11]"
    kits.assert_parity("liqe", name, probabilities.distortion, KIT["distributions"][name], atol=ATOL)
    tasks = official.predict_tasks(kit_images()[2:3])  # the estimator's own way
    assert tasks.quality[0] == pytest.approx(KIT["output"][2], abs=ATOL)
    assert tasks.scene == SCENES[np.argmax(KIT["distributions"]["scene [image][9]"][2])]
    assert tasks.distortion == DISTORTIONS[np.argmax(KIT["distributions"][name][2])]


def test_windows_are_official(official, seen):
    numbers = [len(official._places(official._resized(image))) for image in kit_images()]
    assert numbers == KIT["input"]["windows_per_image"]
    assert [len(one) for one in seen[0]] == [15] * 4


def test_variants_are_official(official, seen, monkeypatch):
    monkeypatch.setattr(clip_text, "build_clip", lambda name: official.network_.clip)
    network = LIQE(scenes=(), distortions=(), backbone_weights=None).initialize().network_
    case = KIT["variants"]["quality_only"]
    assert [row[: end + 1].tolist() for row, end in zip(network.tokens, network.ends, strict=True)] == case["token_ids"]
    with torch.inference_mode():
        mean = torch.stack([network.logits(features).mean(0) for features in seen[1]])
        # The corner alone: 15 equal windows are one.
        corner = torch.stack([official.network_.logits(features[:1]).mean(0) for features in seen[1][:3]])
    kits.assert_parity(
        "liqe", "quality_only", expected_level(network.probabilities(mean).quality), case["output"], atol=ATOL
    )
    corner = expected_level(official.network_.probabilities(corner).quality)
    kits.assert_parity("liqe", "corner", corner, KIT["variants"]["liqe_py_single_corner"]["output"], atol=ATOL)


def test_losses_are_official():
    loss, case = MultitaskLoss(), KIT["losses"]["quality"]
    domain = torch.repeat_interleave(torch.arange(2), torch.tensor(case["samples_per_dataset"]))
    got = loss.quality(Levels(case["pred"]), torch.tensor(case["mos"]), domain)
    kits.assert_parity("liqe", "loss of quality", got, case["value"], atol=ATOL)
    probabilities = TaskProbabilities(
        torch.zeros(4, 5),
        torch.tensor(KIT["distributions"]["scene [image][9]"]),
        torch.tensor(KIT["distributions"]["distortion [image][11]"]),
    )
    case = KIT["losses"]["distortion"]
    got = loss.distortion(probabilities, torch.tensor(case["true class index"]))
    kits.assert_parity("liqe", "loss of distortion", got, case["value"], atol=ATOL)
    case, scene = KIT["losses"]["scene"], torch.zeros(4, 9)
    for row, shown in enumerate(case["true class indices"]):
        scene[row, shown] = 1
    kits.assert_parity("liqe", "loss of scene", loss.scene(probabilities, scene), case["value"], atol=ATOL)


def test_task_weights_are_official():
    case = KIT["losses"]["dynamic_weights"]
    batches = np.array(case["losses [epoch][batch][quality,distortion,scene]"])
    weights = task_weights(*batches.mean(1)[:2])
    kits.assert_parity("liqe", "weights", weights, case["weights used in the third epoch"], atol=1e-7)
    total = (weights * batches[2, -1]).sum()
    kits.assert_parity("liqe", "total", total, case["total loss of the last batch"], atol=1e-7)


def test_the_official_file_loads_by_path(tmp_path):
    state = LIQE(**TINY).initialize().network_.state_dict()
    bare = {name.removeprefix("clip."): tensor.half() for name, tensor in state.items()}
    torch.save(bare, tmp_path / "LIQE.pt")
    torch.save({"params": {f"clip_model.{name}": tensor for name, tensor in bare.items()}}, tmp_path / "pyiqa.pt")
    for file in ("LIQE.pt", "pyiqa.pt"):
        loaded = LIQE(**{**TINY, "weights": tmp_path / file, "random_state": 1}).initialize().network_.state_dict()
        # Half precision has 11 binary digits.
        torch.testing.assert_close(loaded, state, rtol=2**-11, atol=1e-7)


# Images and prompts ---------------------------------------------------------------------------------------------------


def test_prompts_are_encoded_once(monkeypatch):
    estimator, passes = LIQE(**TINY).fit(IMAGES, Y), []
    encode = LIQENetwork.encode_prompts
    monkeypatch.setattr(LIQENetwork, "encode_prompts", lambda self: passes.append(self) or encode(self))
    estimator.predict(IMAGES)  # computed by the calibration at the end of fit
    estimator.predict_tasks(IMAGES)
    assert passes == []
    estimator.partial_fit(IMAGES, Y).predict(IMAGES)
    assert len(passes) == 2 + 1  # two batches, and the calibration


def test_tasks_are_probabilities_and_names():
    tasks = LIQE(**TINY).initialize().predict_tasks(IMAGES)
    for name, n in (("quality", 5), ("scene", 3), ("distortion", 2)):
        table = tasks[f"{name}_probabilities"]
        assert table.shape == (6, n)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-6)  # the softmax is in double precision, logits are not
    np.testing.assert_allclose(tasks.quality, tasks.quality_probabilities @ [1, 2, 3, 4, 5])
    assert set(tasks.scene) <= {"indoor", "plant", "others"}
    alone = LIQE(**{**TINY, "scenes": (), "distortions": ()}).initialize().predict_tasks(IMAGES)
    assert sorted(alone) == ["quality", "quality_probabilities"]


@pytest.mark.parametrize(
    ("shape", "n_places", "n_views"),
    [((20, 30), 1, 1), ((32, 32), 1, 1), ((64, 100), 6, 6), ((96, 192), 18, 15), ((40, 1056), 22, 15)],
)
def test_places_of_windows(shape, n_places, n_views):
    # (height - 32) // step + 1 times the same for the width; 32 pixels, but 48 for a side of 1024 or more.
    estimator = LIQE(**TINY).initialize()
    image = np.resize(IMAGES[0], (*shape, 3))
    assert len(estimator._places(estimator._resized(image))) == n_places
    assert estimator._views(image).shape == (n_views, 3, 32, 32)
    assert estimator._train_view(image).shape == (3, 3, 32, 32)


# Training -------------------------------------------------------------------------------------------------------------


def test_tasks_without_labels_are_left_out():
    alone = LIQE(**TINY).fit(IMAGES, Y)
    losses = np.array(alone.task_loss_curve_)
    assert losses.shape == (2, 3)
    assert np.isnan(losses[:, 1:]).all()
    np.testing.assert_allclose(losses[:, 0], alone.loss_curve_, rtol=1e-6)  # weight one
    whole = LIQE(**TINY).fit(IMAGES, Y, scene=SHOWN, distortion=KINDS)
    assert np.isfinite(whole.task_loss_curve_).all()
    # The first two epochs weigh all alike.
    np.testing.assert_allclose(np.sum(whole.task_loss_curve_, axis=1), whole.loss_curve_, rtol=1e-5)
    assert np.isnan(np.array(LIQE(**TINY).fit(IMAGES, Y, scene=SHOWN).task_loss_curve_)[:, 2]).all()


def test_the_third_epoch_weighs_tasks_also_across_calls():
    parameters = {**TINY, "max_epochs": 3, "lr": 1e-3}
    at_once = LIQE(**parameters).fit(IMAGES, Y, scene=SHOWN, distortion=KINDS)
    weights = task_weights(*at_once.task_loss_curve_[:2])
    assert np.ptp(weights) > 1e-4
    assert at_once.loss_curve_[2] == pytest.approx(np.dot(weights, at_once.task_loss_curve_[2]), rel=1e-5)
    in_parts = LIQE(**parameters)
    for _ in range(3):
        in_parts.partial_fit(IMAGES, Y, scene=SHOWN, distortion=KINDS)
    assert in_parts.task_loss_curve_ == at_once.task_loss_curve_


def test_the_rate_swings_and_skips_what_would_be_none():
    estimator = LIQE(**{**TINY, "max_epochs": 16, "lr": 1.0, "scenes": (), "distortions": ()})
    factor = dict(estimator.initialize().fit(IMAGES[:2], Y[:2]).net_.callbacks_)["schedule"].kwargs["lr_lambda"]
    # Places on the cosine of torch's schedule with T_max=5; 5 and 15, where the rate is zero, are stepped over.
    places = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17])
    np.testing.assert_allclose([factor(e) for e in range(16)], (1 + np.cos(np.pi * places / 5)) / 2, atol=1e-12)


def test_all_but_the_factor_learns():
    before = LIQE(**TINY).initialize().network_.state_dict()
    after = LIQE(**{**TINY, "lr": 1e-3}).fit(IMAGES, Y).network_.state_dict()
    same = [name for name in after if torch.equal(after[name], before[name])]
    assert same == ["clip.logit_scale"]


def test_domains_keep_their_own_units():
    domains = np.array(["a", "b"] * 3)
    together = LIQE(**TINY).fit(IMAGES, Y, domains=domains)
    apart = LIQE(**TINY).fit(IMAGES, Y + 64.0 * (domains == "b"), domains=domains)
    # Only the order within a data set counts.
    np.testing.assert_array_equal(apart.predict(IMAGES), together.predict(IMAGES))
    assert together.label_scale_ == (1.0, 0.0)
    assert LIQE(**TINY).fit(IMAGES, Y).label_scale_ != (1.0, 0.0)


def test_it_learns_what_holds_on_new_photographs():
    # A CLIP of random numbers learns what a linear map of pixels can see, from 28 quarters of photographs.
    known = levels(["color_saturation_1"], side=48)
    recipe = {"scenes": (), "distortions": (), "max_epochs": 40, "lr": 5e-4, "batch_size": 42}
    estimator = LIQE(**{**TINY, **recipe})
    before = estimator.initialize().score(known.X_new, known.y_new)
    after = estimator.fit(known.X, known.y).score(known.X_new, known.y_new)
    # Measured on held-out photographs with random_state 0 to 3: -0.09, 0.05, -0.12, -0.20 before; 0.81, 0.73, 0.76,
    # 0.76 after.
    assert before < 0.3
    assert after > 0.65


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "labels", "parts"),
    [
        ({"scenes": ()}, {}, ("is empty",)),
        ({"distortions": ("blur", "blur")}, {}, ("distortions=('blur', 'blur')", "twice")),
        ({}, {"scene": ["sea"] * 6}, ("scene holds 'sea'", "indoor, plant, others", "set scenes")),
        ({}, {"distortion": ["jpeg"] * 6}, ("distortion holds 'jpeg'", "blur, other")),
        ({}, {"domains": range(6)}, ("learns from pairs", "6 domain(s)")),
        ({"batch_size": 1}, {}, ("batch_size=1 cannot hold two images of each of 1 domain(s)", "batch_size=2 or more")),
        ({}, {"domains": list("aabbcc")}, ("batch_size=4 cannot hold two", "3 domain(s)", "batch_size=6 or more")),
        ({}, {"domains": list("aabbbc")}, ("batch_size=4 cannot hold two", "3 domain(s)", "batch_size=5 or more")),
        (
            {"domain_batch_sizes": {"a": 2, "c": 2}},
            {"domains": list("aaabbb")},
            ("domain_batch_sizes={'a': 2, 'c': 2} has no number for the domain 'b'",),
        ),
        (
            {"domain_batch_sizes": {"a": 2, "b": 1}},
            {"domains": list("aaabbb")},
            ("domain_batch_sizes holds 1 for the domain 'b'", "from 2 on"),
        ),
    ],
)
def test_unusable_input_is_named(parameters, labels, parts):
    with one_sentence(ValueError, *parts):
        LIQE(**{**TINY, **parameters}).fit(IMAGES, Y, **labels)


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("scenes", "indoor", "a sequence of 0 or more members, each an instance of 'str' or None"),
        ("distortions", (1, 2), "a sequence of 0 or more members, each an instance of 'str' or None"),
        ("n_crops", 0, r"an int in the range \[1, inf\)"),
        ("steps_per_epoch", 0, r"an int in the range \[1, inf\) or None"),
        ("domain_batch_sizes", 4, "an instance of 'collections.abc.Mapping' or None"),
        ("weight_decay", -1.0, r"a float in the range \[0.0, inf\)"),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused(parameter, value, accepted):
    sentence = rf"^The '{parameter}' parameter of LIQE must be {accepted}\. Got .* instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        LIQE(**{**TINY, parameter: value}).fit(IMAGES, Y)


def test_labels_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[6, 5\]"):
        LIQE(**TINY).fit(IMAGES, Y, distortion=["blur"] * 5)

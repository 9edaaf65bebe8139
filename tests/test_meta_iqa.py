# SPDX-License-Identifier: BSD-3-Clause
"""MetaIQA: parity with the official code, tasks and their two levels, the prior alone, the recipe, and learning."""

import itertools
import pickle

import kits
import numpy as np
import pytest
import torch
from held_out import levels
from recipes import coordinate_maps, recorded
from skimage.transform import resize
from skorch.callbacks import Callback
from torch import nn

from sklearn_iqa import MetaIQA
from sklearn_iqa._nn.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from sklearn_iqa.distortions import DISTORTIONS
from sklearn_iqa.single_input.meta_iqa import MetaLearner, summed

KIT = kits.read("meta_iqa")
RTOL = 1e-4  # the sheet's for scores; the kit's own for losses is 1e-3
TINY = {
    **{"backbone": "test_resnet", "backbone_weights": None, "image_size": 32, "batch_size": 4, "meta_epochs": 0},
    **{"max_epochs": 1, "lr": 1e-3, "random_state": 0, "device": "cpu"},
}


def normalized(image):
    return normalize(to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


KINDS = ["jpeg", "blur"] * 6


@pytest.fixture(scope="module")
def official():
    estimator = MetaIQA(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    return estimator


@pytest.fixture(scope="module")
def small_set():
    X = np.random.default_rng(0).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
    return X, np.linspace(1, 5, 12)


# Official numbers -----------------------------------------------------------------------------------------------------


def test_parity(official):
    # Crops of the network's input size: resizing leaves them as they are.
    crops = [image[:224, :224] for image in kits.images(0)]
    kits.assert_parity("meta_iqa", "output", official.predict(crops), KIT["output"], rtol=RTOL)
    stages = {}

    def keep(name, output):
        stages[name] = output.double().numpy()

    names = {name.split(" ")[0]: name for name in KIT["stages"]}
    hooks = [
        official.network_.get_submodule(module).register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for module, name in names.items()
    ]
    with torch.inference_mode():
        logits = [official.network_(normalized(crop)[None]).logit() for crop in crops[::-1]]  # the first one is kept
    for hook in hooks:
        hook.remove()
    kits.assert_parity("meta_iqa", "pre-activation", torch.cat(logits[::-1]), KIT["pre_activation"], rtol=RTOL)
    assert stages.keys() == KIT["stages"].keys()
    for name, told in KIT["stages"].items():
        assert list(stages[name].shape) == told["shape"]
        got = [stages[name].mean(), stages[name].std()]
        # atol is for the deviation 0 of one number
        kits.assert_parity("meta_iqa", name, got, [told["mean"], told["std"]], rtol=RTOL, atol=1e-12)


def one_task(rows, dtype):
    """One task of the kit's eight crops, the first four to learn from: losses, and change of every meta parameter."""
    estimator = MetaIQA(backbone_weights=None, device="cpu", random_state=0)
    kits.load(estimator, kits.fill(KIT))
    estimator.network_.to(dtype)
    for module in estimator.network_.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = kits.images(0)
    places = ((0, 0, 0), (0, 100, 100), (1, 50, 30), (1, 200, 300), (0, 150, 10), (0, 20, 300), (1, 300, 100))
    crops = [images[i][y : y + 64, x : x + 64] for i, y, x in (*places, (1, 10, 10))]
    target = torch.zeros(8, 4, dtype=dtype)
    target[:, 0] = torch.tensor([0.1, 0.4, 0.6, 0.9, 0.2, 0.3, 0.7, 0.8])[rows]
    names = [name for name, _ in estimator.network_.named_parameters()]
    learner, losses = MetaLearner(estimator.network_, n_support=4, per_update=5), []

    class KeepLosses(nn.MSELoss):
        def forward(self, output, labels):
            losses.append(super().forward(output, labels))
            return losses[-1]

    params = {"optimizer__param_groups": [("network.net.*", {"lr": 1e-2})]}
    net = estimator._net(learner, KeepLosses(), 1e-4, params)
    net.train_step((torch.stack([normalized(crops[row]) for row in rows]).to(dtype), target))
    return [loss.item() for loss in losses], dict(zip(names, learner.update, strict=True))


def test_parity_one_task():
    # Adam's first step has the size of the rate whatever the gradient: where float32 rounds a gradient to noise, the
    # step is noise too, another one on every processor. The losses are therefore compared in double precision, and
    # the changes, which float32's noise makes larger, as means over four orders of the same images.
    wanted = KIT["losses"]
    losses, _ = one_task(list(range(8)), torch.float64)
    before_and_after = [wanted["support_mse_before_any_step"], wanted["query_mse_after_support_step"]]
    kits.assert_parity("meta_iqa", "losses", losses, before_and_after, rtol=1e-3)
    orders = ((0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3), (1, 2, 3, 0))
    updates = [one_task([*order, *(4 + row for row in order)], torch.float32)[1] for order in orders]
    for name, change in wanted["mean_abs_change_of_meta_parameters"].items():
        got = torch.stack([(update[name] / 5).abs().mean() for update in updates]).mean()
        kits.assert_parity("meta_iqa", f"change of {name}", got, change, rtol=1e-3)


def test_official_names(official):
    own = {name: list(tensor.shape) for name, tensor in official.network_.state_dict().items()}
    assert own == {name: shape for name, shape, _ in KIT["manifest"]}


class Surprise:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_networks_are_refused_with_the_way_to_convert_them(tmp_path, new_format):
    # The form of the authors' files. What they hold is not run.
    network = MetaIQA(**TINY).initialize().network_
    network.surprise = Surprise(tmp_path / "ran")
    torch.save(network, tmp_path / "network.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"pickled Python objects.*convert it once.*state_dict\(\)"):
        MetaIQA(**TINY, weights=tmp_path / "network.pt").initialize()
    assert not (tmp_path / "ran").exists()


# Views ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(50, 90), (32, 32), (33, 31), (7, 200), (2, 3), (1, 40), (1, 1)])
def test_images_are_resized_as_scikit_image_does_without_antialiasing(shape, dtype):
    image = kits.images(0, sizes=((64, 200),))[0][: shape[0], : shape[1]]
    image = image if dtype == np.uint8 else image.astype(dtype) / 255
    (view,) = MetaIQA(**TINY)._views(image)
    # timm's test_resnet takes (x - 0.5) / 0.5
    wanted = resize(image, (32, 32), order=1, anti_aliasing=False) * 2 - 1
    np.testing.assert_allclose(view.movedim(0, -1), wanted, atol=1e-6)


def test_halving_an_image_takes_the_mean_of_each_four():
    image = kits.images(0, sizes=((50, 90),))[0]
    halved = MetaIQA(**{**TINY, "image_size": 25})._views(image[:, :50])[0]
    # Bilinear in steps of two pixels.
    fours = image[:, :50].reshape(25, 2, 25, 2, 3).mean((1, 3)) / 127.5 - 1
    np.testing.assert_allclose(halved.movedim(0, -1), fours, atol=1e-6)


@pytest.mark.parametrize(("backbone", "size"), [("test_efficientnet", 32), ("test_vit", 64), ("convnext_atto", 32)])
def test_any_backbone(backbone, size):
    estimator = MetaIQA(**{**TINY, "backbone": backbone, "image_size": size}).initialize()
    assert 0 < estimator.predict([np.zeros((40, 50, 3), np.uint8)])[0] < 1


# Tasks ----------------------------------------------------------------------------------------------------------------


def meta_training(estimator, X, y, sample_weight=None, **labels):
    estimator.initialize()
    rows = estimator._rows(X)
    targets = estimator._check_targets(rows, y, **labels)
    estimator._start(targets, None)
    torch.manual_seed(0)
    return list(estimator._stages_before(rows, targets, sample_weight))


def episodes(stage):
    """Of the images of all episodes of a stage the first target, the row, and kind and level of the distortion."""
    lengths, draw = (stage.net_params[f"iterator_train__{name}"] for name in ("lengths", "draw"))
    places = np.stack([one for n in lengths for one in draw(n)])
    first, kind, level = np.moveaxis(stage.targets[places][..., :3].astype(float), -1, 0)
    return np.stack([first, stage.rows.members[places], kind, level], axis=-1)


def test_a_visit_splits_one_distortion(small_set):
    X, y = small_set
    kinds = np.array(["jpeg", "blur", "noise"] * 4)
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 7}), X, y, distortion=kinds)
    # Four images each: 1 of them for queries, 3 for support, in at most 1.5 * 4; batches of at least 2 repeat the one.
    assert stage.module.n_support == 3
    drawn = episodes(stage)
    assert drawn.shape == (25, 5, 4)  # 7 epochs * 3 tasks, up to a multiple of 5
    splits = set()
    for quality, row, kind, level in np.moveaxis(drawn, -1, 1):
        row = row.astype(int)
        np.testing.assert_array_equal(quality, ((y[row] - 1) / 4).astype(np.float32))  # 1..5 -> 0..1
        assert len(set(kinds[row])) == 1
        assert len(set(row[:3])) == 3
        assert row[3] == row[4] not in row[:3]
        assert len(set(kind)) == 1
        assert (level == 0).all()
        splits.add(tuple(row))
    assert len(splits) > 12  # drawn anew at each visit


def test_tasks_and_their_images_are_drawn_by_weight(small_set):
    X, y = small_set
    kinds, weight = np.array(["jpeg", "blur"] * 6), np.array([1.0, 3.0] * 4 + [1.0, 12.0] * 2)
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 2000}), X, y, sample_weight=weight, distortion=kinds)
    row = episodes(stage)[:, :, 1].astype(int)
    assert (kinds[row] == kinds[row[:, :1]]).all()
    assert all(set(one[: stage.module.n_support]).isdisjoint(one[stage.module.n_support :]) for one in row)
    # Six images of weight 1, four of 3 and two of 12: 6 and 36 of 42.
    assert np.mean(kinds[row[:, 0]] == "blur") == pytest.approx(36 / 42, abs=0.05)
    counts = np.bincount(row.ravel())
    # Not 4 to 1: the heavy ones are sometimes among few, and an image is in one part of an episode only.
    assert counts[[9, 11]].min() > 2 * counts[[1, 3, 5, 7]].max()
    assert np.ptp(counts[::2]) < 0.3 * counts[::2].mean()


def test_groups_make_tasks_of_their_own(small_set):
    X, y = small_set
    kinds, sets = np.array(["jpeg", "blur"] * 6), np.array(["live"] * 6 + ["tid"] * 6)

    def tasks(**labels):
        estimator = MetaIQA(**TINY).initialize()
        targets = estimator._check_targets(estimator._rows(X), y, **labels)
        return targets[:, 1]

    assert len(set(tasks(distortion=kinds))) == len(set(tasks(domains=sets))) == 2
    both = tasks(distortion=kinds, domains=sets)
    assert len(set(both)) == 4
    assert len({(*one,) for one in zip(kinds, sets, both, strict=True)}) == 4
    assert np.isnan(tasks()).all()


def test_without_labels_tasks_are_made(small_set):
    X, y = small_set
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 1, "meta_task_batch": 1}), X, y)
    quality, row, kind, level = np.moveaxis(episodes(stage), -1, 0)
    assert set(row.ravel()) == set(range(12))
    assert set(kind[:, 0]) == set(range(len(DISTORTIONS)))
    assert (kind == kind[:, :1]).all()
    np.testing.assert_allclose(quality, 1.1 - 0.2 * level)  # 0.9, 0.7, 0.5, 0.3, 0.1
    # 60 images of each kind, 48 for support in visits of 6: 8 visits to 25 tasks.
    assert len(quality) == 200
    bright = DISTORTIONS.index("brighten")
    views = torch.stack([stage.view(X[0], np.array([0.0, bright, level, 0])) for level in (1, 5) * 5])
    assert views.shape == (10, 3, 32, 32)
    assert (views[1::2].mean((1, 2, 3)) > views[::2].mean((1, 2, 3)) + 0.1).all()


def test_support_is_augmented_and_queries_are_not(small_set):
    X, y = small_set
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 1}), X, y, distortion=[0] * 12)
    assert stage.module.n_support == 6
    views = [stage.view(X[3], np.array([0.0, 0, 0, is_query])) for is_query in (*[0] * 6, *[1] * 3)]
    assert len({view.numpy().tobytes() for view in views[:6]}) > 1
    query = MetaIQA(**TINY)._views(X[3])[0]
    for view in views[6:]:
        assert torch.equal(view, query)


def test_the_start_moves_by_the_mean_update():
    layer = nn.Linear(2, 1)
    start = layer.weight.detach().clone()
    tasks = MetaLearner(layer, n_support=1, per_update=2)
    for update in (1.0, 5.0):
        tasks.begin()
        assert torch.equal(layer.weight, start)  # each task leaves from the start
        with torch.no_grad():
            layer.weight += update
        tasks.end()
    torch.testing.assert_close(layer.weight.detach(), start + 3.0)  # (1 + 5) / 2
    tasks.begin()
    torch.testing.assert_close(tasks.start[0], start + 3.0)


def test_meta_training_moves_everything_before_fine_tuning(small_set):
    X, y = small_set
    recipe = {**TINY, "meta_epochs": 2, "meta_task_batch": 2, "lr": 1e-12}
    before = MetaIQA(**recipe).initialize().network_.state_dict()
    after = MetaIQA(**recipe).fit(X, y, distortion=[0, 1] * 6).network_.state_dict()
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert unmoved == []
    skipped = MetaIQA(**{**recipe, "meta_epochs": 0}).fit(X, y).network_
    for name, parameter in skipped.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=1e-6, atol=1e-6)


def test_weights_replace_meta_training(small_set, tmp_path):
    X, y = small_set
    MetaIQA(**TINY).fit(X, y).save_weights(tmp_path / "prior.safetensors")
    given = MetaIQA(**{**TINY, "meta_epochs": 3, "weights": tmp_path / "prior.safetensors"})
    assert meta_training(given, X, y) == []
    with pytest.raises(ValueError, match="the tasks of meta-training, which weights replace; leave them out"):
        given.fit(X, y, distortion=KINDS)


@pytest.mark.parametrize("label", ["distortion", "domains"])
def test_tasks_are_refused_where_none_are_learned(small_set, label):
    with pytest.raises(ValueError, match="the tasks of meta-training, which meta_epochs=0 leaves out; leave them out"):
        MetaIQA(**TINY).fit(*small_set, **{label: KINDS})


# The prior alone ------------------------------------------------------------------------------------------------------

PRIOR = {**TINY, "meta_epochs": 2, "meta_task_batch": 2, "max_epochs": 0}


def test_without_epochs_fit_ends_behind_meta_training(small_set):
    X, y = small_set
    with recorded() as phases:
        prior = MetaIQA(**PRIOR).fit(X, y, distortion=KINDS)
    assert [(phase.name, len(phase.rates)) for phase in phases] == [("MetaIQA, meta-training", 8), ("MetaIQA", 0)]
    assert (prior.n_meta_iter_, prior.n_iter_, prior.n_steps_, prior.loss_curve_) == (2, 0, 0, [])
    assert not prior.interrupted_
    assert prior.label_scale_ == (4, 1)  # 0..1 -> 1..5
    assert ((prior.predict(X) > 1) & (prior.predict(X) < 5)).all()


def test_a_saved_prior_is_fine_tuned_like_one_that_goes_on(small_set, tmp_path):
    X, y = small_set
    whole = MetaIQA(**{**PRIOR, "max_epochs": 2}).fit(X, y, distortion=KINDS)
    prior = MetaIQA(**PRIOR).fit(X, y, distortion=KINDS)
    prior.save_weights(tmp_path / "prior.safetensors")
    reused = MetaIQA(**{**PRIOR, "max_epochs": 2}, weights=tmp_path / "prior.safetensors").fit(X, y)
    assert reused.n_meta_iter_ == 0
    again = pickle.loads(pickle.dumps(prior)).set_params(warm_start=True, max_epochs=2)
    for estimator in (reused, again.fit(X, y), prior.set_params(warm_start=True, max_epochs=2).fit(X, y)):
        np.testing.assert_array_equal(estimator.predict(X), whole.predict(X))
    assert again.n_meta_iter_ == 2  # and not meta-trained once more


def test_synthetic_tasks_need_no_quality(small_set):
    X, y = small_set
    one = {**PRIOR, "meta_epochs": 1}
    prior, labelled = MetaIQA(**one).fit(X[:2], None), MetaIQA(**one).fit(X[:2], y[:2])
    for name, tensor in labelled.network_.state_dict().items():
        assert torch.equal(tensor, prior.network_.state_dict()[name])
    scores = prior.predict(X[:2])
    assert not hasattr(prior, "label_scale_")
    assert ((scores > 0) & (scores < 1)).all()  # of the network, without a unit
    prior.partial_fit(X, y)
    assert prior.label_scale_ == (4, 1)  # of the first labels
    assert prior.loss_curve_[0] < 1  # of labels in 0..1


@pytest.mark.parametrize(
    ("parameters", "labels"), [({"max_epochs": 1}, {}), ({}, {"distortion": KINDS}), ({}, {"domains": KINDS})]
)
def test_other_tasks_and_fine_tuning_need_quality(small_set, parameters, labels):
    with pytest.raises(ValueError, match="the target y is None; give one quality per row of X"):
        MetaIQA(**{**PRIOR, **parameters}).fit(small_set[0], None, **labels)
    with pytest.raises(ValueError, match="the target y is None; give one quality per row of X"):
        MetaIQA(**PRIOR).partial_fit(small_set[0], None)


# Recipe ---------------------------------------------------------------------------------------------------------------


def test_views_of_training_are_crops_of_images_resized_a_seventh_larger():
    # 32 * 256 / 224 = 37 pixels a side, from which 32 are cut: six places each way.
    maps = coordinate_maps(MetaIQA(**TINY)._train_view, 74, 111, n=300)
    scale = np.array([3.0, 2.0])  # from 111 x 74
    assert np.abs(maps[:, [0, 1], [0, 1]]) == pytest.approx(np.tile(scale, (300, 1)), rel=0.01)
    flipped = maps[:, 0, 0] < 0
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)
    assert (maps[:, 1, 1] > 0).all()  # never upside down
    lowest = maps[:, [0, 1], 2] + np.where(flipped, 31 * maps[:, 0, 0], 0)[:, None] * [1, 0]
    places = (lowest + 0.5) / scale - 0.5
    np.testing.assert_allclose(places, places.round(), atol=0.2)
    for axis in places.round().T:
        assert set(axis) == {0, 1, 2, 3, 4, 5}


def test_every_epoch_has_all_tasks_in_another_order(small_set):
    X, y = small_set
    kinds = np.array(["jpeg", "blur", "noise"] * 4)
    with recorded() as phases:
        MetaIQA(**{**PRIOR, "meta_epochs": 10, "meta_task_batch": 3}).fit(X, y, distortion=kinds)
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 10, "meta_task_batch": 3}), X, y, distortion=kinds)
    orders = kinds[stage.rows.members[[places[0] for places in phases[0].rows]]].reshape(10, 3)
    assert {tuple(sorted(order)) for order in orders} == {("blur", "jpeg", "noise")}
    assert len({tuple(order) for order in orders}) > 2


@pytest.mark.parametrize(("n_images", "n_support", "n_query"), [(100, 75, 20), (300, 75, 50)])
def test_episodes_have_the_official_sizes(n_images, n_support, n_query):
    # 75 and 50 of the parts of 80 and 20 %; 20 are all queries of 100 images.
    X = np.zeros((n_images, 8, 8, 3), np.uint8)
    estimator = MetaIQA(**{**TINY, "batch_size": 50, "meta_epochs": 1, "meta_task_batch": 1})
    (stage,) = meta_training(estimator, X, np.arange(n_images), distortion=np.zeros(n_images))
    assert stage.module.n_support == n_support
    row = episodes(stage)[0, :, 1]
    assert len(set(row)) == n_support + n_query  # none repeated, none in both parts


def test_both_stages_take_the_squared_error_of_labels_in_0_to_1(small_set):
    X, y = small_set
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 1}), X, y, distortion=KINDS)
    for loss in (stage.loss, MetaIQA(**TINY)._loss()):
        assert loss(torch.tensor([0.2, 0.4]), torch.tensor([0.5, 0.5])).item() == pytest.approx(0.05)  # (.09 + .01) / 2
    with recorded() as phases:
        MetaIQA(**TINY).fit(X, y)
    (phase,) = phases
    np.testing.assert_allclose(sorted(torch.cat(phase.targets).tolist()), np.linspace(0, 1, 12), atol=1e-6)
    assert np.sort(np.concatenate(phase.rows)).tolist() == list(range(12))  # every image once
    assert phase.shapes == [(4, 3, 32, 32)] * 3


def test_episodes_are_drawn_when_it_is_their_turn(small_set):
    X, y = small_set
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 3}), X, y)
    # Of 12 images in 25 kinds and 5 levels, for support or queries, the numbers of a target.
    assert stage.targets.size == 12 * 25 * 5 * 2 * 4
    first, second = itertools.islice(stage.net_params["iterator_train__draw"](10**5), 2)  # of far too many to be held
    assert not np.array_equal(first, second)


def test_an_image_of_an_episode_is_opened_once(small_set, monkeypatch):
    X, y = small_set
    opened, open_ = [], MetaIQA._open
    monkeypatch.setattr(MetaIQA, "_open", lambda self, rows, row: opened.append(row) or open_(self, rows, row))
    with recorded() as phases:
        MetaIQA(**{**PRIOR, "meta_epochs": 1}).fit(X, y, distortion=KINDS)
    assert len(opened) == sum(map(len, phases[0].rows))


def test_dropout_is_a_half_behind_both_hidden_layers():
    head = MetaIQA(**TINY).initialize().network_.net
    assert [(name, one.p) for name, one in head.named_children() if isinstance(one, nn.Dropout)] == [
        ("drop1", 0.5),
        ("drop2", 0.5),
    ]


def test_an_episode_takes_one_step_on_support_and_one_on_query_images(small_set, monkeypatch):
    X, y = small_set
    seen = []
    (stage,) = meta_training(MetaIQA(**{**TINY, "meta_epochs": 1, "meta_task_batch": 1}), X, y, distortion=[0] * 12)
    target = torch.as_tensor(episodes(stage)[0], dtype=torch.float32)

    class Keep(nn.MSELoss):
        def forward(self, output, labels):
            seen.append(labels.clone())
            return super().forward(output, labels)

    estimator = MetaIQA(**TINY).initialize()
    learner = MetaLearner(estimator.network_, stage.module.n_support, per_update=1)
    net = estimator._net(learner, Keep(), 1e-4, {})
    net.train_step((torch.rand(len(target), 3, 32, 32), target))
    n = stage.module.n_support
    assert [labels.tolist() for labels in seen] == [target[:n, 0].tolist(), target[n:, 0].tolist()]


def test_one_adam_and_the_statistics_go_on_over_all_episodes(small_set, monkeypatch):
    X, y = small_set
    nets, run = [], MetaIQA._run

    def kept(self, net, *args):
        nets.append(net)
        run(self, net, *args)

    monkeypatch.setattr(MetaIQA, "_run", kept)
    prior = MetaIQA(**{**PRIOR, "meta_epochs": 3}).fit(X, y, distortion=KINDS)
    # Two tasks in three epochs, two steps on each: neither is set back when a task leaves from the start.
    steps = {int(state["step"]) for state in nets[0].optimizer_.state.values()}
    batches = {int(one) for name, one in prior.network_.named_buffers() if name.endswith("num_batches_tracked")}
    assert steps == batches == {12}


def test_images_of_synthetic_tasks_are_distorted_behind_resizing():
    # Noise of variance 0.01 in 0..1, twice its deviation in -1..1; shrunk with the image it would be half as strong.
    grey, noise = np.full((128, 128, 3), 128, np.uint8), DISTORTIONS.index("white_noise")
    torch.manual_seed(0)
    assert MetaIQA(**TINY)._resized(grey, noise, 5).std().item() == pytest.approx(0.2, rel=0.05)


# Schedules ------------------------------------------------------------------------------------------------------------


class Rates(Callback):
    """Learning rates of all parameter domains in every batch."""

    def __init__(self):
        self.seen = []

    def on_batch_begin(self, net, **kwargs):
        self.seen.append([group["lr"] for group in net.optimizer_.param_groups])


def test_rates_are_multiplied_again_and_again():
    # As the official loops do: rate *= factor ** (epoch // step), on the rate of the epoch before.
    for step in (2, 10):
        exponent = 0
        for epoch in range(35):
            exponent += epoch // step
            assert summed(epoch, step) == exponent


def test_rates_of_meta_training(small_set):
    X, y = small_set
    recipe = {**TINY, "meta_epochs": 5, "meta_task_batch": 1, "inner_lr": 1e-5}
    (stage,) = meta_training(MetaIQA(**recipe), X, y, distortion=[0, 1] * 6)
    rates = Rates()
    stage.net_params["callbacks"].append(("rates", rates))
    estimator = MetaIQA(**recipe).initialize()
    estimator._stages_before = lambda rows, targets, sample_weight: iter([stage])
    estimator._run_stages(estimator._rows(X), None, None, seed=0)
    backbone, head = np.sort(np.array(rates.seen), axis=1).T
    # 5 epochs of 2 visits; exponents 0, 0, 1, 2, 4.
    np.testing.assert_allclose(backbone, np.repeat(1e-5 * 0.9 ** np.array([0, 0, 1, 2, 4]), 2))
    np.testing.assert_allclose(head, 100 * backbone)


def test_rates_of_fine_tuning_go_on(small_set):
    X, y = small_set
    estimator = MetaIQA(**{**TINY, "max_epochs": 12}).fit(X, y)
    rates = estimator.net_.history[:, "event_lr"]
    # Exponents: 0 ten times, then 1, then 2; training that goes on has 3 (epoch 12).
    np.testing.assert_allclose(rates, 1e-3 * 0.8 ** np.array([0] * 10 + [1, 2]))
    estimator.partial_fit(X, y)
    assert estimator.net_.history[-1, "event_lr"] == pytest.approx(1e-3 * 0.8**3)


# Learning -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lite0_wheel")
def test_it_learns():
    made = levels(["gaussian_blur", "white_noise"], side=64)  # 168 pieces of photographs, 72 of three others
    recipe = {"backbone": "tf_efficientnet_lite0", "backbone_weights": "bundled", "image_size": 64, "batch_size": 14}
    recipe |= {"meta_epochs": 3, "meta_task_batch": 2, "max_epochs": 8, "lr": 1e-3, "random_state": 0}
    estimator = MetaIQA(**recipe, device="cpu")
    before = estimator.initialize().score(made.X_new, made.y_new)
    estimator.fit(made.X, made.y, distortion=made.distortion)
    after = estimator.score(made.X_new, made.y_new)
    # Measured: -0.11 before, 0.75 after (seed 1: 0.42 and 0.85; 14 epochs: 0.72, and 0.79 with two threads, which round
    # otherwise). Not 0.80: seven photographs teach no more in the time that a test has; on these it reaches 0.88.
    assert before < 0.3
    assert after > 0.6


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "parameters", "sentence"),
    [
        ({"distortion": ["a", "b"]}, {}, "inconsistent"),
        ({"domains": ["a", "b"]}, {}, "inconsistent"),
        ({"distortion": ["a", "b", "c"]}, {}, "a task needs two"),
        ({}, {"batch_size": 1}, "normalises over batches"),
        ({}, {"image_size": 0}, r"'image_size' parameter of MetaIQA must be an int in the range \[1, inf\)"),
        ({}, {"meta_epochs": -1}, r"'meta_epochs' parameter of MetaIQA must be an int in the range \[0, inf\)"),
        ({}, {"meta_task_batch": 0}, r"'meta_task_batch' parameter of MetaIQA must be an int in the range \[1, inf\)"),
        ({}, {"inner_lr": 0.0}, r"'inner_lr' parameter of MetaIQA must be a float in the range \(0.0, inf\)"),
    ],
)
def test_unusable_input_is_refused(labels, parameters, sentence):
    X = np.zeros((3, 40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=sentence):
        MetaIQA(**{**TINY, "meta_epochs": 1, **parameters}).fit(X, [1.0, 2.0, 3.0], **labels)

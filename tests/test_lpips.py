# SPDX-License-Identifier: BSD-3-Clause
"""LPIPS: parity with the official code, its properties, and learning."""

import dataclasses
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor

import kits
import numpy as np
import pairs
import pytest
import recipes
import torch
from PIL import Image
from sentences import one_sentence
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from sklearn_iqa import LPIPS, STLPIPS
from sklearn_iqa._base import perceptual, rows
from sklearn_iqa._base.training import hold_out
from sklearn_iqa._nn.losses import TwoAlternativeForcedChoiceLoss
from sklearn_iqa._weights import pretrained, state_dicts

KIT = kits.read("lpips")
PAIRS = kits.distorted_pairs()
TOLERANCE = {"rtol": 1e-4, "atol": 1e-8}  # suggested in the method's notes beside the kit


def official(manifest=None, **parameters):
    """LPIPS with the kit's weights."""
    estimator = LPIPS(backbone_weights=None, **parameters)
    kits.load(estimator, kits.fill(KIT, manifest))
    return estimator


@pytest.fixture(scope="module")
def alex():
    return official()


def test_parity_alex(alex):
    kits.assert_parity("lpips", "alex", alex.predict(PAIRS), KIT["output"], **TOLERANCE)


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_parity_other_backbones(net):
    variant = KIT["variants"][net]
    got = official(variant["manifest"], net=net).predict(PAIRS)
    kits.assert_parity("lpips", net, got, variant["output"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "parameters"), [("alex_v0.0", {"version": "0.0"}), ("alex_baseline", {"weighted": False})]
)
def test_parity_variants(name, parameters):
    variant = KIT["variants"][name]
    got = official(variant.get("manifest"), **parameters).predict(PAIRS)
    kits.assert_parity("lpips", name, got, variant["output"], **TOLERANCE)


def test_parity_layers(alex):
    views = torch.cat([alex._views(pair) for pair in PAIRS])
    with torch.inference_mode():
        got = torch.stack(alex.network_.layer_distances(views), dim=1).numpy()
    kits.assert_parity("lpips", "layers", got, KIT["output_per_layer"], **TOLERANCE)


def test_parity_map(alex):
    maps = [alex.quality_map(pair) for pair in PAIRS]
    got = [[one.mean(), one.std(), one[10, 20]] for one in maps]
    kits.assert_parity("lpips", "map", got, KIT["variants"]["alex_spatial"]["output"], **TOLERANCE)


def test_parity_stages(alex):
    with torch.inference_mode():
        scaled = alex.network_.scaling_layer(alex._views(PAIRS[0])[0, :1])
        feature_maps = alex.network_.net(scaled)
        normalised = feature_maps[2] / (feature_maps[2].norm(dim=1, keepdim=True) + 1e-10)
    found = {f"net.relu{number}": feature_map for number, feature_map in enumerate(feature_maps, start=1)}
    found |= {"scaled_input (query A of image 0)": scaled, "unit_normalised net.relu3": normalised}
    assert found.keys() == KIT["stages"].keys()
    for name, stage in KIT["stages"].items():
        assert list(found[name].shape) == stage["shape"]
        got = [found[name].mean(), found[name].std(unbiased=False)]
        kits.assert_parity("lpips", name, got, [stage["mean"], stage["std"]], rtol=1e-4, atol=1e-6)


def test_parity_loss():
    wanted = KIT["losses"]["BCERankingLoss"]
    loss = TwoAlternativeForcedChoiceLoss()
    state_dicts.load_state(loss, kits.fill(KIT, wanted["manifest"]))
    distances = torch.tensor([wanted["inputs"]["d0"], wanted["inputs"]["d1"]]).T
    with torch.no_grad():
        preference = loss.preference(distances)
        value = loss(distances, torch.tensor(wanted["inputs"]["judge01"]))
    kits.assert_parity("lpips", "preference", preference, wanted["sigmoid_outputs"], rtol=1e-6)
    kits.assert_parity("lpips", "loss", value, wanted["value"], rtol=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_parity_published_heads(net, require_wheel):
    (entry,) = [entry for entry in LPIPS.published if entry.name == f"{net}-v0.1"]
    heads = entry.files[1]
    require_wheel(heads)
    estimator = official(None if net == "alex" else KIT["variants"][net]["manifest"], net=net)
    state = estimator.network_.state_dict() | state_dicts.read_state(pretrained.fetch(heads))
    state_dicts.load_state(estimator.network_, state)
    got = estimator.predict(PAIRS)
    kits.assert_parity("lpips", f"heads {net}", got, KIT["real_heads"]["output"][net], **TOLERANCE)
    assert (got > 0).all()


def test_identity_and_symmetry(alex):
    image, other = PAIRS[0]
    same, forth, back = alex.predict([(image, image), (image, other), (other, image)])
    assert same == 0
    # float32 sums in another order
    assert forth == pytest.approx(back, rel=1e-5)


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_smallest_image(net, side):
    estimator = LPIPS(net=net, backbone_weights=None, random_state=0).initialize()
    image = np.zeros((side, side, 3), np.uint8)
    assert estimator.predict([(image, image)])[0] == 0
    with pytest.raises(ValueError, match=f"needs at least {side} pixels"):
        estimator.predict([(image[1:], image[1:])])


def test_backbone_file_is_renamed_to_slices(tmp_path):
    import torchvision

    backbone = torchvision.models.squeezenet1_1(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    estimator = LPIPS(net="squeeze", backbone_weights=tmp_path / "backbone.pth").initialize()
    # Fire module 9 is the first of slice 5; see SLICED_BACKBONES
    torch.testing.assert_close(
        estimator.network_.net.slice5[0].squeeze.weight, backbone.features[10].squeeze.weight, rtol=0, atol=0
    )


def test_heads_alone_ask_for_a_backbone_that_cannot_be_fetched(tmp_path, monkeypatch):
    heads = LPIPS(net="squeeze", backbone_weights=None, random_state=0).initialize().network_.state_dict()
    torch.save({name: tensor for name, tensor in heads.items() if name.startswith("lin")}, tmp_path / "heads.pth")
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{held.getsockname()[1]}/squeezenet1_1-b8a52dc0.pth"
        backbone = dataclasses.replace(perceptual.SLICED_BACKBONE_FILES["squeeze"], urls=(url,))
        monkeypatch.setitem(perceptual.SLICED_BACKBONE_FILES, "squeeze", backbone)
        advice = f"put squeezenet1_1-b8a52dc0.pth, whose SHA-256 begins with b8a52dc0, into the folder {tmp_path}"
        with one_sentence(ConnectionError, url, advice):
            LPIPS(net="squeeze", weights=tmp_path / "heads.pth").initialize()


def test_wrong_published_weights_say_what_to_set():
    with pytest.raises(ValueError, match="set net='vgg'"):
        LPIPS(net="squeeze", weights="vgg-v0.1").initialize()


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("net", "vgg19", ("alex", "vgg", "squeeze")),
        ("version", "1", ("0.1", "0.0")),
        ("trainable", "some", ("heads", "all")),
    ],
)
def test_unknown_options(name, value, options):
    with pytest.raises(ValueError, match=f"'{name}' parameter of LPIPS must be a str among") as caught:
        LPIPS(backbone_weights=None, **{name: value}).initialize()
    assert all(repr(option) in str(caught.value) for option in options)


def learner(**parameters):
    small = {"net": "squeeze", "backbone_weights": None, "crop_size": pairs.SIDE, "batch_size": 16, "random_state": 0}
    return LPIPS(**small, **parameters)


def test_learns_from_quality(tmp_path):
    known = pairs.mild_and_strong()
    estimator = pairs.turned_round(learner(max_epochs=3, lr=3e-2), tmp_path)
    before = estimator.initialize().score(known.X_new, known.y_new)
    estimator.fit(known.X, known.y)
    # Measured on held-out photographs with random_state=0, 1, 2: -0.87, -0.87, -0.86 and 0.87, 0.87, 0.86.
    assert estimator.score(known.X_new, known.y_new) > 0.8 > -0.7 > before
    predicted = estimator.predict(known.X_new)
    assert -5.5 < predicted.mean() < -0.5  # the unit of y, -5 and -1, not a distance
    heads = [p for name, p in estimator.network_.named_parameters() if name.endswith("model.1.weight")]
    assert len(heads) == 7
    assert all((head >= 0).all() for head in heads)


def test_learns_from_judgements():
    known = pairs.mild_and_strong()
    triplets, share = pairs.judged_versions(known.X, known.y)
    estimator = learner(max_epochs=3, lr=1e-2).fit(triplets, share)
    # Chance costs 0.693, and the least that can be had is 0.325, the entropy of shares of 0.9 and 0.1. Measured with
    # random_state=0 to 3: 0.58 to 0.64 in the first epoch, 0.376 to 0.387 in the third.
    assert estimator.loss_curve_[0] > 0.5 > 0.45 > estimator.loss_curve_[-1]
    assert estimator.score(known.X_new, known.y_new) > 0.8  # 0.866, the most that is possible, with all six
    assert estimator.score(*pairs.judged_versions(known.X_new, known.y_new)) > 0.85  # of 0.9
    assert (estimator.predict(known.X_new) >= 0).all()  # judgements have no unit: still a distance
    with pytest.raises(ValueError, match="fraction of people"):
        learner().fit(triplets, share * 10)


# Judged triplets ------------------------------------------------------------------------------------------------------


def judged(n=8, side=32, seed=0):
    """Triplets of an image with little and with much noise, and the fraction of people who preferred the second."""
    rng = np.random.default_rng(seed)
    references = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    milder, stronger = (
        np.clip(references + deviation * rng.normal(size=references.shape), 0, 255).astype(np.uint8)
        for deviation in (10, 60)
    )
    is_second = np.arange(n) % 2 == 0
    places = is_second[:, None, None, None]
    first, second = np.where(places, stronger, milder), np.where(places, milder, stronger)
    return list(zip(first, second, references, strict=True)), np.where(is_second, 0.8, 0.4)


def judge(cls, **parameters):
    of_method = {"backbone_weights": None, "net": "squeeze"} if cls is LPIPS else {"trainable": "heads"}
    return cls(**of_method, crop_size=32, batch_size=4, lr=1e-3, max_epochs=1, random_state=0, **parameters)


every_distance = pytest.mark.parametrize("cls", [LPIPS, STLPIPS])


def agreement(estimator, triplets, share, weight=None):
    """Fraction of people who agree with the distances that an estimator predicts pair by pair."""
    first, second = (estimator.predict([(one[place], one[2]) for one in triplets]) for place in (0, 1))
    assert (first != second).all()
    return np.average(np.where(second < first, share, 1 - share), weights=weight)


@every_distance
def test_score_of_triplets_is_the_2afc_score(cls):
    triplets, share = judged()
    estimator = judge(cls).initialize()
    expected = agreement(estimator, triplets, share)
    assert estimator.score(triplets, share) == pytest.approx(expected, abs=1e-12)
    assert estimator.score(np.array(triplets), share) == pytest.approx(expected, abs=1e-12)
    exchanged = [(second, first, reference) for first, second, reference in triplets]
    assert estimator.score(exchanged, share) == pytest.approx(1 - expected, abs=1e-12)
    weight = [3, 1, 0, 1, 1, 1, 2, 1]
    expected = agreement(estimator, triplets, share, weight)
    assert estimator.score(triplets, share, weight) == pytest.approx(expected, abs=1e-12)
    estimator.fit(triplets, share)
    assert estimator.score(triplets, share) == pytest.approx(agreement(estimator, triplets, share), abs=1e-12)
    # Behind a fit to quality, where `predict` is higher for what is better.
    estimator.fit([(one[0], one[2]) for one in triplets], np.arange(8.0))
    assert estimator.score(triplets, share) == pytest.approx(1 - agreement(estimator, triplets, share), abs=1e-12)


@every_distance
def test_triplets_go_through_cross_validation_and_searches(cls):
    triplets, share = judged()
    folds = list(KFold(2).split(triplets))
    given = {"cv": folds, "error_score": "raise"}
    expected = [
        agreement(judge(cls).fit(*part(triplets, share, kept)), *part(triplets, share, test)) for kept, test in folds
    ]
    np.testing.assert_allclose(cross_val_score(judge(cls), triplets, share, **given), expected, atol=1e-12)
    search = GridSearchCV(judge(cls), {"lr": [1e-3]}, **given).fit(triplets, share)
    assert search.best_score_ == pytest.approx(np.mean(expected))


def part(triplets, share, members):
    return [triplets[row] for row in members], share[members]


def test_an_image_of_a_triplet_is_opened_once(tmp_path, monkeypatch):
    triplets, share = judged(n=3)
    estimator, opened = judge(LPIPS).initialize(), []
    read = rows.read_image
    monkeypatch.setattr(rows, "read_image", lambda image, where: opened.append(where) or read(image, where))
    estimator.score(files(triplets, tmp_path), share)
    assert len(opened) == len(set(opened)) == 9


def test_both_pairs_of_a_triplet_are_opened_side_by_side(tmp_path, monkeypatch):
    triplets, _ = judged(n=16)
    X, opened = rows.check_tuples(files(triplets, tmp_path), perceptual.TRIPLET, "LPIPS"), []
    both, read = perceptual._PairsOfTriplets(X), X.read
    monkeypatch.setattr(X, "read", lambda image, where: opened.append(where) or read(image, where))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(both.__getitem__, range(32)))
    assert len(opened) == len(set(opened)) == 48
    for number, (query, reference) in enumerate(found):
        np.testing.assert_array_equal(query, triplets[number // 2][number % 2])
        np.testing.assert_array_equal(reference, triplets[number // 2][2])
    assert not both.opened


def test_references_of_triplets_are_compared_once(monkeypatch):
    triplets, share = judged()
    digest, digests = rows.hashlib.sha1, []
    monkeypatch.setattr(rows.hashlib, "sha1", lambda pixels: digests.append(1) or digest(pixels))
    judge(LPIPS, early_stopping=True, validation_fraction=0.5).set_params(max_epochs=3).fit(triplets, share)
    assert len(digests) == 8 + 4  # to hold out half of the rows, and to score these in all epochs


def files(triplets, folder):
    """The same as paths."""
    paths = [tuple(folder / f"{row}_{place}.png" for place in range(3)) for row in range(len(triplets))]
    for triplet, names in zip(triplets, paths, strict=True):
        for image, path in zip(triplet, names, strict=True):
            Image.fromarray(image).save(path)
    return paths


def test_unusable_triplets_are_named():
    triplets, share = judged()
    estimator = judge(LPIPS).initialize()
    small = (*triplets[5][:2], triplets[5][2][:-8])
    with one_sentence(ValueError, "Row 5 of X", "first query 32 x 32, second query 32 x 32, reference 24 x 32"):
        estimator.score([*triplets[:5], small, *triplets[6:]], share)
    with one_sentence(ValueError, "Row 5 of X", "needs at least 17 pixels"):
        estimator.score([*triplets[:5], tuple(image[:16] for image in triplets[5]), *triplets[6:]], share)
    with one_sentence(ValueError, "y_true[0] is 8.0", "fraction of people"):
        estimator.score(triplets, share * 10)
    with one_sentence(ValueError, "y_true has 7 values"):
        estimator.score(triplets, share[1:])
    with pytest.raises(NotFittedError):
        judge(LPIPS).score(triplets, share)


@every_distance
def test_triplets_have_no_prediction(cls):
    estimator = judge(cls).initialize()
    for X in (judged()[0], np.array(judged()[0])):
        with one_sentence(ValueError, f"{cls.__name__} predicts the distance of pairs", "three images", "score(X, y)"):
            estimator.predict(X)


@every_distance
def test_early_stopping_of_triplets_takes_the_2afc_score(cls):
    triplets, share = judged()
    estimator = judge(cls, early_stopping=True, validation_fraction=0.5).fit(triplets, share)
    _, held_out = hold_out(estimator._training_rows(triplets), 0.5, estimator._drawn_seed())
    expected = agreement(estimator, *part(triplets, share, held_out))
    assert estimator.validation_scores_ == [pytest.approx(expected, abs=1e-12)]
    weight = 1.0 + np.arange(8)
    expected = agreement(estimator.fit(triplets, share, weight), *part(triplets, share, held_out), weight[held_out])
    assert estimator.validation_scores_ == [pytest.approx(expected, abs=1e-12)]


@every_distance
@pytest.mark.parametrize("way", ["partial_fit", "warm_start"])
@pytest.mark.parametrize("begin", ["pairs", "triplets"])
def test_pairs_and_triplets_do_not_mix(cls, way, begin):
    triplets, share = judged()
    kinds = {"pairs": ([one[::2] for one in triplets], np.arange(8.0)), "triplets": (triplets, share)}
    (other,) = kinds.keys() - {begin}
    estimator = judge(cls, warm_start=way == "warm_start")
    go_on = estimator.partial_fit if way == "partial_fit" else estimator.fit
    go_on(*kinds[begin])
    for again in (estimator, pickle.loads(pickle.dumps(estimator))):
        go_on = again.partial_fit if way == "partial_fit" else again.fit
        before = again.predict(kinds["pairs"][0])
        with one_sentence(ValueError, f"began with {begin}", f"X holds {other}", "save_weights"):
            go_on(*kinds[other])
        np.testing.assert_array_equal(again.predict(kinds["pairs"][0]), before)
        assert go_on(*kinds[begin]).n_iter_ == 2
    # A fit that begins anew takes either.
    estimator.set_params(warm_start=False).fit(*kinds[other])
    assert estimator.n_iter_ == 1


# Recipe ---------------------------------------------------------------------------------------------------------------
# The optimiser, its rates and what trains on pairs are in test_recipes.py.


def recorded_fit(X, y, **parameters):
    """The phase of a fit."""
    small = {"net": "squeeze", "backbone_weights": None, "crop_size": 32, "batch_size": 4, "random_state": 0}
    with recipes.recorded() as phases:
        estimator = LPIPS(**{**small, **parameters}).fit(X, y)
    (phase,) = phases
    return estimator, phase


RANKING_LOSS = {f"loss.net.model.{layer}.{name}" for layer in (0, 2, 4) for name in ("weight", "bias")}
HEADS = {f"lin{number}.model.1.weight" for number in range(7)}


def test_judgements_train_the_heads_and_the_ranking_loss_with_one_optimiser():
    estimator, phase = recorded_fit(*judged(), max_epochs=10)
    assert phase.optimizer is torch.optim.Adam
    assert phase.settings == [{"betas": (0.5, 0.999)}]
    factors = np.array([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(phase.rates, 1e-4 * factors[phase.epochs, None], rtol=1e-9)
    assert set(phase.trained) == {frozenset(f"network.{name}" for name in HEADS) | RANKING_LOSS}
    assert not phase.evaluated  # dropout is on
    assert [one.p for one in estimator.network_.modules() if isinstance(one, torch.nn.Dropout)] == [0.5] * 7


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_the_whole_network_trains_where_it_is_asked_to(kind):
    triplets, share = judged()
    X, y = (triplets, share) if kind == "triplets" else ([one[1:] for one in triplets], np.arange(8.0))
    _, phase = recorded_fit(X, y, trainable="all", max_epochs=1)
    assert phase.trained == [phase.names]
    assert len(phase.names) == 7 + 2 * 25 + (6 if kind == "triplets" else 0)  # SqueezeNet 1.1 without its last layer


@pytest.mark.parametrize(("max_epochs", "factors"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 0.5]), (4, [1, 1, 1, 0.5])])
def test_half_of_the_epochs_have_the_full_rate(max_epochs, factors):
    estimator, phase = recorded_fit(*judged(n=4), max_epochs=max_epochs)
    np.testing.assert_allclose(phase.rates, 1e-4 * np.array(factors)[:, None], rtol=1e-9)
    with recipes.recorded() as phases:
        estimator.partial_fit(*judged(n=4))
    # Behind the last epoch the official rate is 0; training that goes on keeps the lowest.
    np.testing.assert_allclose(phases[0].rates, 1e-4 * np.array([[factors[-1]]]), rtol=1e-9)


def targets_by_row(phase):
    """What the loss compared each row with."""
    seen = zip(phase.rows, phase.targets, strict=True)
    return {row: target for rows_, targets in seen for row, target in zip(rows_, targets.tolist(), strict=True)}


def test_targets_of_triplets_are_the_shares_and_those_of_pairs_distances_from_0_to_1():
    triplets, share = judged()
    _, phase = recorded_fit(triplets, share, max_epochs=1)
    assert targets_by_row(phase) == {row: pytest.approx(share[row]) for row in range(8)}
    _, phase = recorded_fit([one[1:] for one in triplets], np.arange(8.0), max_epochs=1)
    assert targets_by_row(phase) == {row: pytest.approx(1 - row / 7, abs=1e-6) for row in range(8)}


def test_the_first_distance_is_that_of_the_first_query():
    triplets, _ = judged(n=3)
    estimator = judge(LPIPS).initialize()
    estimator._n_images = 3
    views = torch.stack([estimator._train_view(one) for one in triplets])  # the crop is the whole image
    with torch.no_grad():
        distances = estimator._training_module(estimator.network_)(views).numpy()
    expected = [[estimator.predict([(one[query], one[2])])[0] for query in (0, 1)] for one in triplets]
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert (np.abs(np.subtract(*np.transpose(expected))) > 1e-4).all()


@every_distance
def test_training_on_triplets_encodes_the_reference_once(cls, monkeypatch):
    estimator = judge(cls).initialize()
    network, encoded = estimator.network_, []
    module = perceptual._TripletDistances(network).train()
    triplets = torch.rand(3, 3, 3, 32, 32) * 2 - 1
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout
        expected = network(torch.cat([triplets[:, [0, 2]], triplets[:, [1, 2]]])).unflatten(0, (2, -1)).T
        encode = network.net.forward
        monkeypatch.setattr(network.net, "forward", lambda images: encoded.extend(images) or encode(images))
        torch.manual_seed(0)
        got = module(triplets)
    assert len(encoded) == 9
    torch.testing.assert_close(got, expected)


def test_the_ranking_loss_is_the_cross_entropy_of_the_preference():
    torch.manual_seed(0)
    loss, distances = TwoAlternativeForcedChoiceLoss(), torch.rand(5, 2)
    share = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    p = loss.preference(distances)
    torch.testing.assert_close(loss(distances, share), -(share * p.log() + (1 - share) * (1 - p).log()).mean())


@every_distance
def test_clamping_leaves_the_backbone_alone(cls):
    triplets, share = judged(n=4)
    estimator = judge(cls).set_params(trainable="all").fit(triplets, share)
    heads = [getattr(estimator.network_, name).model[1].weight for name in estimator.network_.heads]
    assert all((head >= 0).all() for head in heads)
    assert any((head == 0).any() for head in heads)  # random numbers of both signs, before
    assert all((one < 0).any() for one in estimator.network_.net.parameters() if one.ndim == 4)


@every_distance
def test_training_sees_one_random_crop_of_all_images_in_a_row(cls):
    estimator = judge(cls)

    def seen(place):
        def view(image):
            views = estimator._train_view((image, image // 2, image))
            # -1 to 1; that of the half image is at the same place.
            torch.testing.assert_close(views[1], (views[0] + 1) / 2 - 1, rtol=0, atol=0.01)
            return views[place]

        return recipes.coordinate_maps(view, 40, 48)

    maps = seen(0)
    np.testing.assert_allclose(maps[..., :2], np.broadcast_to(np.eye(2), (64, 2, 2)), atol=0.02)  # 8 bits
    x, y = maps[..., 2].round().T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 16, 0, 8)
    assert len(set(zip(x, y, strict=True))) > 40
    white = np.full((40, 48, 3), 255, np.uint8)
    assert estimator._train_view((white, 0 * white)).unique().tolist() == [-1, 1]


@every_distance
def test_smaller_images_are_enlarged_to_a_crop(cls):
    rng = np.random.default_rng(0)
    X = [
        tuple(rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)) for size in ((24, 30), (40, 48), (32, 32), (50, 21))
    ]
    estimator = judge(cls)
    assert {estimator._train_view(pair).shape for pair in X} == {(2, 3, 32, 32)}
    assert estimator.fit(X, np.arange(4.0)).n_iter_ == 1

# SPDX-License-Identifier: BSD-3-Clause
"""LPIPS: parity with the official code, its properties, and learning."""

import pickle

import kits
import numpy as np
import pytest
import torch
from PIL import Image
from sentences import one_sentence
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from sklearn_iqa import LPIPS, STLPIPS
from sklearn_iqa._base import rows
from sklearn_iqa._base.training import hold_out
from sklearn_iqa._nn.losses import TwoAlternativeForcedChoiceLoss
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa.datasets import load_photographs, make_distorted

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


def test_wrong_published_weights_say_what_to_set():
    with pytest.raises(ValueError, match="set net='vgg'"):
        LPIPS(net="alex", weights="vgg-v0.1").initialize()


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


@pytest.fixture(scope="module")
def distorted():
    return make_distorted(
        load_photographs(size=64).images, distortions=["gaussian_blur", "white_noise"], random_state=0
    )


def learner(**parameters):
    return LPIPS(net="squeeze", backbone_weights=None, batch_size=16, lr=3e-2, random_state=0, **parameters)


def split(distorted):
    pairs = list(zip(distorted.images, distorted.references, strict=True))
    held_out = distorted.groups >= 7
    return (
        [pair for pair, out in zip(pairs, held_out, strict=True) if not out],
        distorted.target[~held_out],
        [pair for pair, out in zip(pairs, held_out, strict=True) if out],
        distorted.target[held_out],
    )


def test_learns_from_quality(distorted):
    X, y, X_new, y_new = split(distorted)
    before = learner().initialize().score(X_new, y_new)
    estimator = learner(max_epochs=5).fit(X, y)
    # measured on held-out photographs: 0.44 with random channel weights, 0.90 with learned ones
    assert estimator.score(X_new, y_new) > 0.8 > 0.6 > before
    predicted = estimator.predict(X_new)
    assert y.min() - 1 < predicted.mean() < y.max() + 1  # the unit of y, not a distance
    heads = [p for name, p in estimator.network_.named_parameters() if name.endswith("model.1.weight")]
    assert len(heads) == 7
    assert all((head >= 0).all() for head in heads)


def test_learns_from_judgements(distorted):
    X, y, X_new, y_new = split(distorted)
    order = np.random.default_rng(0).permutation(len(X))
    # Two versions of one photograph; the milder distortion is preferred by nine of ten.
    by_reference: dict = {}
    for i in order:
        by_reference.setdefault(id(X[i][1]), []).append(i)
    couples = [(a, b) for rows in by_reference.values() for a, b in zip(rows[::2], rows[1::2], strict=False)]
    couples += [(b, a) for a, b in couples]
    triplets = [(X[a][0], X[b][0], X[a][1]) for a, b in couples]
    preferred = np.array([0.5 if y[a] == y[b] else 0.1 + 0.8 * (y[b] > y[a]) for a, b in couples])
    before = learner().initialize().score(X_new, y_new)
    estimator = learner(max_epochs=5).fit(triplets, preferred)
    assert estimator.score(X_new, y_new) > 0.8 > 0.6 > before
    assert (estimator.predict(X_new) >= 0).all()  # judgements have no unit: still a distance
    with pytest.raises(ValueError, match="fraction of people"):
        learner().fit(triplets, preferred * 10)


def test_heads_only_leave_the_backbone(distorted):
    X, y, *_ = split(distorted)
    estimator = LPIPS(net="squeeze", backbone_weights=None, max_epochs=1, random_state=0)
    before = {k: v.clone() for k, v in estimator.initialize().network_.state_dict().items()}
    after = estimator.fit(X[:16], y[:16]).network_.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"lin{number}.model.1.weight" for number in range(7)}


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

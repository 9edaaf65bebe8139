# SPDX-License-Identifier: BSD-3-Clause
"""GIQA: the official numbers of all three scorers, what they promise, and what they learn."""

import warnings

import kits
import numpy as np
import pytest
import torch
from held_out import levels
from PIL import Image
from recipes import coordinate_maps
from sentences import check_sentence
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture

from sklearn_iqa import GIQA, GMMGIQA, KNNGIQA
from sklearn_iqa._weights import pretrained
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc
from sklearn_iqa.single_input import giqa_inception
from sklearn_iqa.single_input.giqa import CIFAR_MEAN, CIFAR_STD, ClassifiersLoss, GIQAOutput

# Classifiers ----------------------------------------------------------------------------------------------------------

MBC = kits.read("giqa")


@pytest.fixture(scope="module")
def official():
    giqa = GIQA(device="cpu", random_state=0)
    kits.load(giqa, kits.fill(MBC))
    return giqa


@pytest.fixture(scope="module")
def crops():
    return [image[:192, :192] for image in kits.images(0)]


def test_parity_classifiers(official, crops):
    outputs = [output for _, output in sorted(official._infer(official._rows(crops)))]
    for what, field in (("probabilities", "probabilities"), ("pre_activation", "logits")):
        kits.assert_parity("giqa", what, [getattr(one, field)[0] for one in outputs], MBC[what], rtol=1e-4)
    kits.assert_parity("giqa", "output", official.predict(crops), MBC["output"], rtol=1e-4)


def test_parity_stages(official, crops):
    network = official.network_
    views = official._views(crops[0])
    with torch.no_grad():
        pool = network.features[:7](views)
        features = network.features(views)
        hidden = network.regression1(features.flatten(1))
        last = network.regression2(hidden.relu())
    for what, tensor in (
        ("features.6 (first max pool)", pool),
        ("features", features),
        ("regression1", hidden),
        ("regression2 (pre-sigmoid)", last),
    ):
        stage = MBC["stages"][what]
        assert list(tensor.shape) == stage["shape"]
        got = [tensor.mean().item(), tensor.std(correction=0).item()]
        kits.assert_parity("giqa", what, got, [stage["mean"], stage["std"]], rtol=1e-3)


def test_parity_loss():
    answers = np.random.default_rng([23, 0]).uniform(0.05, 0.95, (3, 8)).astype(np.float32)
    thresholds = (190e3, 280e3, 370e3, 460e3, 550e3, 640e3, 730e3)
    giqa = GIQA(thresholds=thresholds)
    labels = np.array([[0, 1], [460e3, 0], [107.9e3, 0]])  # the first is a real image
    giqa._start(labels, None)
    targets = giqa._encode_targets(labels)
    np.testing.assert_array_equal(targets[:, :-1], MBC["losses"]["targets"])
    output = GIQAOutput(torch.from_numpy(answers), torch.zeros(3, 8))
    loss = ClassifiersLoss()(output, torch.from_numpy(targets))
    kits.assert_parity("giqa", "BCELoss", [loss.item()], [MBC["losses"]["BCELoss"]], rtol=1e-6)


@pytest.mark.parametrize(("side", "n_cells"), [(32, 4), (64, 4), (128, 4), (192, 3), (224, 7), (256, 4)])
def test_official_input_sizes(side, n_cells):
    network = GIQA(input_size=side, n_channels=2, random_state=0).initialize().network_
    assert network.n_cells == n_cells  # the sheet of the official configurations: 4x4, 3x3, 7x7 cells
    assert network.features(torch.zeros(1, 3, side, side)).shape[2:] == (n_cells, n_cells)


def test_patches_are_averaged():
    giqa = GIQA(input_size=32, n_channels=2, random_state=0, device="cpu").initialize()
    flat = np.full((64, 64, 3), 90, np.uint8)
    output = giqa.network_(giqa._views(flat))
    assert output.probabilities.shape == (1, 8)
    # A flat image: the four patches differ at the image's border alone, and their mean lies between them.
    features = giqa.network_.features(giqa._views(flat))  # (1, c, 8, 8)
    corners = [features[:, :, i : i + 4, j : j + 4].flatten(1) for i in (0, 4) for j in (0, 4)]
    network = giqa.network_
    each = torch.stack([network.regression2(network.regression1(one).relu()).sigmoid() for one in corners])
    torch.testing.assert_close(output.probabilities, each.mean(0))


# Recipe of the classifiers --------------------------------------------------------------------------------------------


def test_training_crops_are_turned_by_15_degrees_and_mirrored():
    giqa, n, side = GIQA(input_size=64), 200, 64

    def middle(image):  # out of reach of the black corners
        return giqa._train_view(image)[:, 16:48, 16:48]

    maps = coordinate_maps(middle, 200, 256, n=n)
    mirrored = maps[:, 0, 0] < 0
    assert 0.4 < mirrored.mean() < 0.6  # half, within three deviations of 200 draws
    scale = np.hypot(maps[:, 0, 0], maps[:, 1, 0])
    np.testing.assert_allclose(scale, 1, atol=0.03)  # native size
    assert (maps[:, 1, 1] > 0).all()  # never upside down
    angles = np.degrees(np.arctan2(maps[:, 1, 0], np.abs(maps[:, 0, 0])))
    # Uniform in -15..15, mirrored or not: of 80 draws the extremes lie within 1.5 degrees of the ends in all but 2 % of
    # the cases, and their mean within three deviations, 3 * 30 / sqrt(12) / sqrt(80), of 0.
    for some in (angles[mirrored], angles[~mirrored]):
        assert -15.5 < some.min() < -13.5
        assert 13.5 < some.max() < 15.5
        assert abs(some.mean()) < 2.9
    # The centre of a crop does not move when it is turned, and lies anywhere in 256 x 200.
    centers = maps @ (15.5, 15.5, 1.0)
    for places, free in ((centers[:, 0], 256 - side), (centers[:, 1], 200 - side)):
        assert side / 2 - 1.5 < places.min() < side / 2 + 0.1 * free
        assert side / 2 + 0.9 * free < places.max() < side / 2 + free + 0.5


def test_training_crops_are_normalised_behind_black_corners():
    white, mean, std = np.full((40, 40, 3), 255, np.uint8), torch.tensor(CIFAR_MEAN), torch.tensor(CIFAR_STD)
    torch.manual_seed(0)
    views = torch.stack([GIQA(input_size=32)._train_view(white) for _ in range(20)])
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]))
    torch.testing.assert_close(std, torch.tensor([0.2023, 0.1994, 0.2010]))
    for channel in range(3):
        expected = [(value - mean[channel]) / std[channel] for value in (0, 1)]
        torch.testing.assert_close(views[:, channel].unique(), torch.stack(expected))


def test_network_starts_as_officially():
    network = GIQA(n_channels=16, random_state=0).initialize().network_
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            out = layer.out_channels
            # sqrt(2 / (k k out)); a sample of n has a deviation of 1 / sqrt(2 n) of it.
            n = layer.weight.numel()
            ratio = layer.weight.std().item() / np.sqrt(2 / (9 * out))
            assert abs(ratio - 1) < 4 / np.sqrt(2 * n)
        elif isinstance(layer, torch.nn.Linear):
            ratio = layer.weight.std().item() / 0.01
            assert abs(ratio - 1) < 4 / np.sqrt(2 * layer.weight.numel())
        else:
            continue
        assert not layer.bias.any()


def test_loss_is_the_mean_over_all_classifiers():
    # Of -ln(0.5), -ln(0.8), -ln(1 - 0.1), -ln(0.25): the last column is that of real images.
    output = GIQAOutput(torch.tensor([[0.5, 0.8], [0.1, 0.25]]), torch.zeros(2, 2))
    loss = ClassifiersLoss()(output, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert loss.item() == pytest.approx(-np.log([0.5, 0.8, 0.9, 0.25]).mean(), rel=1e-6)


def test_without_real_images_the_last_classifier_learns_zeros():
    giqa = GIQA(n_thresholds=3, input_size=32, n_channels=2, batch_size=3, max_epochs=1, random_state=0)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    giqa.fit(images, np.arange(6.0))
    targets = giqa._encode_targets(np.stack([np.arange(6.0), np.zeros(6)], axis=1))
    # Thresholds are the quartiles 1.25, 2.5, 3.75.
    expected = [[0, 0, 0, 0]] * 2 + [[1, 0, 0, 0], [1, 1, 0, 0]] + [[1, 1, 1, 0]] * 2
    np.testing.assert_array_equal(targets[:, :-1], expected)


def test_thresholds_are_evenly_spaced_quantiles():
    # Of 1, 2, 4, ..., 1024 every second one: of 11 ranks those at 1/5, 2/5, 3/5 and 4/5 of the way.
    giqa = GIQA(n_thresholds=4)
    giqa._start(np.stack([2.0 ** np.arange(11), np.zeros(11)], axis=1), None)
    np.testing.assert_allclose(giqa.thresholds_, [4, 16, 64, 256])


def test_learning():
    known = levels(["gaussian_blur"], side=64, levels=(1, 2, 3, 4, 5))
    giqa = GIQA(
        **{"n_thresholds": 4, "input_size": 32, "n_channels": 8, "batch_size": 10, "max_epochs": 40, "lr": 0.02},
        **{"random_state": 0, "device": "cpu"},
    )
    before = giqa.initialize().score(known.X_new, known.y_new)
    after = giqa.fit(known.X, known.y).score(known.X_new, known.y_new)
    # measured on held-out photographs: 0.15 before, 0.86 after training; with random_state 1 and 2 -0.54 and 0.88,
    # -0.71 and 0.89
    assert after >= 0.80 > 0.60 > before
    # The more is asked, the fewer say yes.
    assert (np.diff(giqa.predict_probabilities(known.X_new)[:, :-1].mean(0)) < 0).all()


def test_real_images_are_told_step_by_step():
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = {"y": [1, 2, 3, 4, 0, 0], "real": [0, 0, 0, 0, 1, 1]}
    recipe = {"n_thresholds": 3, "input_size": 32, "n_channels": 2, "batch_size": 3, "max_epochs": 2, "random_state": 0}
    at_once, in_steps = GIQA(**recipe).fit(images, **labels), GIQA(**recipe)
    for _ in range(2):
        in_steps.partial_fit(images, **labels)
    np.testing.assert_array_equal(in_steps.predict_probabilities(images), at_once.predict_probabilities(images))
    without = GIQA(**recipe).partial_fit(images, labels["y"])
    assert not np.array_equal(without.thresholds_, in_steps.thresholds_)


def test_real_images_are_above_all_thresholds():
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    giqa = GIQA(n_thresholds=3, input_size=32, n_channels=2, batch_size=3, max_epochs=1, random_state=0)
    giqa.fit(images, [1, 2, 3, 4, 0, 0], real=[0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(giqa.thresholds_, [1.75, 2.5, 3.25])  # quartiles of 1..4
    targets = giqa._encode_targets(np.array([[0, 1], [2.5, 0]]))
    np.testing.assert_array_equal(targets[:, :-1], [[1, 1, 1, 1], [1, 0, 0, 0]])
    assert np.isfinite(giqa.predict(images)).all()


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({"thresholds": (3.0, 2.0, 1.0)}, [1, 2, 3, 4], "rising numbers"),
        ({"thresholds": (1.0, 2.0)}, [1, 2, 3, 4], "n_thresholds=3 rising numbers"),
        ({"thresholds": ("1", "2", "3")}, [1, 2, 3, 4], "'thresholds' parameter of GIQA must be a sequence"),
        ({"thresholds": 2.0}, [1, 2, 3, 4], "'thresholds' parameter of GIQA must be a sequence"),
        ({"input_size": 100}, [1, 2, 3, 4], "'input_size' parameter of GIQA must be a int among .*Got 100"),
    ],
)
def test_errors(parameters, y, message):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    giqa = GIQA(**{"n_thresholds": 3, "input_size": 32, "n_channels": 2, "max_epochs": 1, **parameters})
    with pytest.raises(ValueError, match=message):
        giqa.fit(images, y)


@pytest.mark.parametrize("real", [[1, 1, 1, 1], [0, 0, 2, 0]])
def test_wrong_real(real):
    giqa = GIQA(n_thresholds=3, input_size=32, n_channels=2, max_epochs=1)
    with pytest.raises(ValueError, match="true or false for each row, and false for some"):
        giqa.fit(np.zeros((4, 32, 32, 3), np.uint8), [1, 2, 3, 4], real=real)


# Densities ------------------------------------------------------------------------------------------------------------

FEATURES = kits.read("giqa_inception")


@pytest.fixture(scope="module")
def inception():
    knn = KNNGIQA(backbone_weights=None, pca=None, device="cpu", random_state=0)
    kits.load(knn, kits.fill(FEATURES))
    return knn


def kit_queries():
    first, second = kits.images(0)
    query = first[:128, :128]
    noise = np.random.default_rng([19, 0]).normal(0, 40, query.shape)
    return [query, np.clip(np.rint(query + noise), 0, 255).astype(np.uint8), second[100:228, 200:328]]


def kit_bank():
    rng = np.random.default_rng([17, 0, 24])
    bank = []
    for number in range(24):
        image = kits.images(0)[number % 2]
        top, left = (int(rng.integers(0, side - 128 + 1)) for side in image.shape[:2])
        bank.append(image[top : top + 128, left : left + 128])
    return bank


def features_of(knn, images):
    return np.stack([output[0].double().numpy() for _, output in sorted(knn._infer(knn._rows(images)))])


@pytest.fixture(scope="module")
def features(inception):
    return features_of(inception, kit_queries()), features_of(inception, kit_bank())


def test_parity_features(features):
    queries, _ = features
    kits.assert_parity("giqa_inception", "output", queries[:, :8].ravel(), FEATURES["output"], rtol=1e-3, atol=1e-6)
    kits.assert_parity("giqa_inception", "feature_mean", queries.mean(1), FEATURES["feature_mean"], rtol=1e-3)
    kits.assert_parity("giqa_inception", "feature_std", queries.std(1), FEATURES["feature_std"], rtol=1e-3)


def test_both_layouts_of_the_inception_load(inception, tmp_path, monkeypatch):
    expected = {name: tensor.clone() for name, tensor in inception.network_.state_dict().items()}
    # The file of pytorch-fid has torchvision's names, with the classifier; that network was not at hand.
    torchvision = {name.removeprefix("backbone."): tensor for name, tensor in expected.items()}
    torchvision |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path / giqa_inception.FID_FILE.filename
    monkeypatch.setenv("SKLEARN_IQA_HOME", str(tmp_path))
    for state in (torchvision, kits.fill(FEATURES)):  # officially the layers are numbered by block
        torch.save(state, path)
        file = pretrained.WeightsFile(path.name, pretrained.sha256(path))
        monkeypatch.setattr(giqa_inception, "FID_FILE", file)
        for backbone_weights in (path, "imagenet"):
            got = KNNGIQA(backbone_weights=backbone_weights, random_state=1).initialize().network_.state_dict()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items() if tensor.ndim)


def test_parity_inception_stages(inception):
    backbone = inception.network_.backbone
    images = inception._views(kit_queries()[0])
    names = list(dict(backbone.named_children()))
    ends = {
        "blocks.0.0": "Conv2d_1a_3x3",
        "blocks.0": "maxpool1",
        "blocks.1": "maxpool2",
        "blocks.2.0 (Mixed_5b)": "Mixed_5b",
        "blocks.2": "Mixed_6e",
        "blocks.3.0 (Mixed_7a)": "Mixed_7a",
        "blocks.3.1 (Mixed_7b)": "Mixed_7b",
        "blocks.3.2 (Mixed_7c)": "Mixed_7c",
    }
    resized = torch.nn.functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        for what, end in ends.items():
            tensor = backbone[: names.index(end) + 1](2 * resized - 1)
            stage = FEATURES["stages"][what]
            assert list(tensor.shape) == stage["shape"]
            got = [tensor.mean().item(), tensor.std(correction=0).item()]
            kits.assert_parity("giqa_inception", what, got, [stage["mean"], stage["std"]], rtol=1e-3)
        features = inception.network_(images)[:, :, None, None]
    stage = FEATURES["stages"]["blocks.3 (2048-d feature)"]
    assert list(features.shape) == stage["shape"]
    got = [features.mean().item(), features.std(correction=0).item()]
    kits.assert_parity("giqa_inception", "blocks.3", got, [stage["mean"], stage["std"]], rtol=1e-3)


@pytest.mark.parametrize(
    ("key", "n_neighbors", "pca", "rtol"),
    [("knn_K1", 1, None, 1e-3), ("knn_K5", 5, None, 1e-3), ("knn_K5_after_pca95", 5, 0.95, 1e-2)],
)
def test_parity_nearest(features, key, n_neighbors, pca, rtol):
    queries, bank = features
    knn = KNNGIQA(n_neighbors=n_neighbors, pca=pca)
    knn._fit_density(bank, seed=0)
    kits.assert_parity("giqa_inception", key, knn._densities(queries), FEATURES["scores"][key], rtol=rtol)
    if pca:
        assert knn.pca_.n_components_ == FEATURES["scores"]["pca_n_components"]


def test_parity_mixture(features):
    # The kit starts EM at stated values, on the first six coordinates: means two rows of the bank, precisions the
    # inverse of the coordinates' variance.
    queries, bank = features
    pca = PCA(0.95).fit(bank)
    ratio = FEATURES["scores"]["pca_explained_ratio_first3"]
    kits.assert_parity("giqa_inception", "pca_explained", pca.explained_variance_ratio_[:3], ratio, rtol=1e-2)
    six = pca.transform(bank)[:, :6]
    start = {
        "means_init": six[:2],
        "weights_init": [0.5, 0.5],
        "precisions_init": np.array([np.eye(6) / six.var()] * 2),
    }
    gmm = GMMGIQA(n_components=2)
    gmm.pca_ = SixOf(pca)
    with pytest.warns(ConvergenceWarning):  # five steps of EM, as in the kit
        gmm.mixture_ = GaussianMixture(2, max_iter=5, tol=0, **start).fit(six)
    want = FEATURES["scores"]["gmm_score_samples"]
    kits.assert_parity("giqa_inception", "gmm_score_samples", gmm._densities(queries), want, rtol=1e-2)


class SixOf:
    """The first six coordinates of a reduction."""

    def __init__(self, pca):
        self.pca = pca

    def transform(self, features):
        return self.pca.transform(features)[:, :6]


SMALL = {"backbone": "test_resnet", "backbone_weights": None, "pca": 4, "device": "cpu", "random_state": 0}


# Recipe of the densities ----------------------------------------------------------------------------------------------


def test_mixture_of_the_defaults():
    # Five full Gaussians on the principal components that hold 95 % of the variance, which keep their variances.
    bank = np.random.default_rng(0).normal(size=(60, 4)) * [4, 4, 4, 0.1]
    giqa = GMMGIQA()
    giqa._fit_density(bank, seed=0)
    assert giqa.mixture_.covariances_.shape == (5, 3, 3)  # two of the three hold two thirds of the variance
    spread = np.square(giqa._reduced(bank)).sum()
    np.testing.assert_allclose(spread, np.square(bank - bank.mean(0))[:, :3].sum(), rtol=1e-3)


def test_nearest_of_the_defaults():
    # Of (3, 0) and (2, 2) the first is nearer to the origin by the sum of differences, 3 and 4, the second by the root
    # of their squares. One neighbour counts.
    giqa = KNNGIQA(pca=None)
    giqa._fit_density(np.array([[3.0, 0.0], [2.0, 2.0]]), seed=0)
    np.testing.assert_allclose(giqa._densities(np.zeros((1, 2))), 1 / 3, rtol=1e-6)
    assert (KNNGIQA().n_neighbors, KNNGIQA().pca) == (1, 0.95)


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
def test_the_unit_of_y_is_learned_from_images_outside_of_the_bank(cls):
    images = load_photographs(size=64).images
    y = np.array([9.0, 8, 7, 6, 5, 1, 2, 0, 4, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # contents of photographs say nothing of y
        giqa = cls(**{**SMALL, "pca": 2, "reference_fraction": 0.5}, **({"n_components": 1} if cls is GMMGIQA else {}))
        giqa.fit(images, y)
    known, outside = giqa._densities(features_of(giqa, images[:5])), giqa._densities(features_of(giqa, images[5:]))
    assert known.mean() > outside.mean()  # the five best are the bank
    np.testing.assert_allclose(giqa.label_scale_, np.polyfit(outside, y[5:], 1), rtol=1e-6)


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
def test_without_labels_all_images_make_the_bank(cls):
    images = load_photographs(size=64).images
    giqa = cls(**SMALL).fit(images)
    assert giqa.bank_size_ == len(images)
    assert not hasattr(giqa, "label_scale_")


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
def test_with_labels_the_best_make_the_bank(cls):
    images = load_photographs(size=64).images[:8]
    giqa = cls(**SMALL, reference_fraction=0.75).fit(images, np.arange(8.0))
    assert giqa.bank_size_ == 6
    again = cls(**SMALL).fit(images[2:])
    slope, intercept = giqa.label_scale_
    np.testing.assert_allclose(giqa.predict(images), slope * again.predict(images) + intercept, rtol=1e-5)


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
def test_a_density_that_falls_with_quality_is_told(cls):
    # The best are light; of the others, the darker ones are less like them.
    greys = [np.full((40, 48, 3), level, np.uint8) for level in (200, 202, 205, 209, 180, 150, 120, 90)]
    giqa = cls(**{**SMALL, "pca": None, "reference_fraction": 0.5}, **({"n_components": 1} if cls is GMMGIQA else {}))
    with pytest.warns(UserWarning, match=r"falls where y rises.*slope of label_scale_ is -.*ranks.* last") as caught:
        giqa.fit(greys, [13, 12, 11, 10, 1, 2, 3, 4])
    check_sentence(str(caught[0].message))
    assert caught[0].filename == __file__
    scores = giqa.predict(greys)
    assert giqa.label_scale_[0] < 0
    assert scores[:4].max() < scores[4:].min()  # what the sentence says
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        giqa.fit(greys, [13, 12, 11, 10, 4, 3, 2, 1])
        assert giqa.label_scale_[0] > 0
        giqa.fit(greys)


def test_an_image_of_the_bank_has_a_finite_score():
    # Distance 0 in each of 4 coordinates, to each of which 1e-6 is added: 1 / 4e-6.
    images = load_photographs(size=64).images
    np.testing.assert_allclose(KNNGIQA(**SMALL).fit(images).predict(images), 1 / 4e-6, rtol=1e-3)


@pytest.mark.parametrize(("cls", "many"), [(GMMGIQA, {"n_components": 9}), (KNNGIQA, {"n_neighbors": 9})])
def test_small_bank(cls, many):
    with pytest.raises(ValueError, match="the bank has 5 images; give more good images, or lower n_"):
        cls(**SMALL, **many).fit(load_photographs(size=64).images[:5])


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"reference_fraction": 0.0}, r"'reference_fraction' parameter .* a float in the range \(0.0, 1.0\]"),
        ({"pca": 0}, r"'pca' parameter of \w+ must be an int in the range \[1, inf\)"),
        ({"pca": 1.5}, r"'pca' parameter of \w+ must be .* a float in the range \(0.0, 1.0\) or None"),
    ],
)
def test_unusable_parameters_are_refused(cls, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        cls(**{**SMALL, **parameters}).fit(load_photographs(size=64).images)


@pytest.mark.parametrize("cls", [GMMGIQA, KNNGIQA])
def test_not_fitted_by_initialize(cls):
    with pytest.raises(NotFittedError):
        cls(**SMALL).initialize().predict(load_photographs(size=64).images)


# On photographs of all kinds densities tell what an image shows, not how good it is: with a bank of 112 pieces of seven
# photographs and features of EfficientNet-Lite0, the scores' SRCC with the level of noise of pieces of others was 0.18
# (mixture) and -0.20 (nearest); with 28 pieces and blur 0.14 and -0.04. The paper has tens of thousands of images of
# one kind. Written digits are images of one kind that scikit-learn has.
def digits(n):
    """The first n of scikit-learn's 8 x 8 digits, enlarged to 64 x 64 pixels."""
    enlarge = {"size": (64, 64), "resample": Image.Resampling.BICUBIC}
    small = (load_digits().images[:n] * (255 / 16)).astype(np.uint8)
    return [np.asarray(Image.fromarray(one).resize(**enlarge).convert("RGB")) for one in small]


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [(GMMGIQA, {"n_components": 1, "pca": 10}), (KNNGIQA, {"pca": None})],
    ids=["mixture", "nearest"],
)
def test_scores_of_new_digits_fall_with_their_noise(cls, parameters):
    clean = digits(180)
    bank, new = clean[:150], clean[150:]
    made = make_distorted(new, distortions=["white_noise"], levels=(0, 1, 3, 5), random_state=0)
    bad = make_distorted(bank, distortions=["white_noise"], levels=(5,), random_state=0).images
    giqa = cls(**{**SMALL, **parameters})
    from_good = srcc(made.target, giqa.fit(bank).predict(made.images))
    from_bad = srcc(made.target, giqa.fit(bad).predict(made.images))
    # measured: 0.97 and -0.97 (mixture), 0.94 and -0.94 (nearest); labels with so many ties allow 0.97. Of blur the
    # same random features tell 0.56 and 0.60.
    assert from_good >= 0.80 > 0.60 > from_bad


@pytest.mark.parametrize(
    ("cls", "parameters"), [(GMMGIQA, {"n_components": 2}), (KNNGIQA, {"n_neighbors": 5})], ids=["mixture", "nearest"]
)
def test_density_falls_with_the_distance_from_the_bank(cls, parameters):
    rng = np.random.default_rng(0)
    giqa = cls(pca=None, **parameters)
    giqa._fit_density(rng.normal(size=(200, 8)), seed=0)
    distance = np.repeat([0.0, 6.0, 12.0, 24.0], 10)
    features = rng.normal(size=(40, 8)) + distance[:, None] / np.sqrt(8)
    assert srcc(-distance, giqa._densities(features)) >= 0.95  # ties of ten rows allow 0.97

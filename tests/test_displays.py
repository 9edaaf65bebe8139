# SPDX-License-Identifier: BSD-3-Clause
"""Displays: what is drawn, labels, and that matplotlib is imported no earlier."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LinearRegression

from sklearn_iqa import AHIQ, JSPL, LPIPS, MANIQA, STLPIPS, ContentDiverseIQA, KonIQPlusPlus
from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.displays import AgreementDisplay, QualityMapDisplay
from sklearn_iqa.metrics import fit_logistic, plcc, plcc_logistic, srcc

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def plt():
    """A backend without windows; all figures are closed afterwards."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def noisy():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, size=60)
    return 1 + 4 / (1 + np.exp(-(scores - 0.5) / 0.1)) + rng.normal(0, 0.3, size=60), scores


class BlockMap:
    """Stands for an estimator with a map of a size other than the image's."""

    def __init__(self, higher_is_better, quality_map):
        self.higher_is_better = higher_is_better
        self.map = quality_map

    def quality_map(self, x):
        self.asked_for = x
        return self.map


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_agreement_draws_scores_curve_and_metrics(noisy, plt):
    mos, scores = noisy
    display = AgreementDisplay.from_predictions(mos, scores, name="MANIQA")
    np.testing.assert_array_equal(display.scatter_.get_offsets(), np.stack([scores, mos], axis=1))
    x, y = display.line_.get_data()
    assert (x[0], x[-1]) == (scores.min(), scores.max())
    np.testing.assert_array_equal(y, fit_logistic(mos, scores)(x))
    assert texts(display.ax_.get_legend()) == [
        f"MANIQA (SRCC = {srcc(mos, scores):.3f})",
        f"Logistic curve (PLCC = {plcc_logistic(mos, scores):.3f})",
    ]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Predicted score", "Mean opinion score")
    assert display.figure_ is display.ax_.figure
    display.figure_.canvas.draw()


def test_agreement_without_curve_states_plain_plcc(noisy):
    mos, scores = noisy
    display = AgreementDisplay.from_predictions(mos, scores, logistic=False)
    assert display.line_ is None
    assert texts(display.ax_.get_legend()) == [f"SRCC = {srcc(mos, scores):.3f}, PLCC = {plcc(mos, scores):.3f}"]


def test_agreement_takes_axes_styles_and_names(noisy, plt):
    mos, scores = noisy
    _, ax = plt.subplots()
    display = AgreementDisplay(y_true=mos, y_pred=scores, name="stored")
    display.plot(ax, name="given", scatter_kwargs={"marker": "x", "s": 7}, line_kwargs={"color": "red"})
    assert display.ax_ is ax
    assert display.scatter_.get_sizes().tolist() == [7]
    assert display.line_.get_color() == "red"
    assert texts(ax.get_legend())[0].startswith("given (")
    # A second display on the same axes adds to the legend: two points and two curves.
    AgreementDisplay.from_predictions(mos, -scores, ax=ax, name="second")
    assert len(texts(ax.get_legend())) == 4
    assert len(plt.get_fignums()) == 1


def test_agreement_names_the_straight_line():
    with pytest.warns(UserWarning, match="a straight line is used"):
        display = AgreementDisplay.from_predictions([1, 2, 3, 4.5], [1, 2, 3, 4])
    assert texts(display.ax_.get_legend())[1].startswith("Straight line (PLCC = ")


def test_agreement_from_estimator(noisy):
    mos, scores = noisy
    X = scores[:, None]
    estimator = LinearRegression().fit(X, mos)
    display = AgreementDisplay.from_estimator(estimator, X, mos)
    np.testing.assert_array_equal(display.y_pred, estimator.predict(X))
    assert texts(display.ax_.get_legend())[0].startswith("LinearRegression (SRCC")
    assert AgreementDisplay.from_estimator(estimator, X, mos, name="mine").name == "mine"


def test_agreement_refuses_nan():
    with pytest.raises(ValueError, match=r"y_pred\[1\] is nan"):
        AgreementDisplay.from_predictions([1, 2, 3], [1, np.nan, 3])


@pytest.mark.parametrize("as_path", [False, True])
def test_quality_map_covers_the_image(tmp_path, as_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    display = QualityMapDisplay(np.eye(3, 4), path if as_path else image, name="title").plot(alpha=0.3, cmap="magma")
    # Pixel centres are whole numbers, so that 40 x 30 pixels reach from -0.5 to 39.5 and 29.5.
    assert tuple(display.map_.get_extent()) == (-0.5, 39.5, 29.5, -0.5)
    np.testing.assert_array_equal(display.image_.get_array(), image)
    np.testing.assert_array_equal(display.map_.get_array(), np.eye(3, 4))
    assert (display.map_.get_alpha(), display.map_.get_cmap().name) == (0.3, "magma")
    assert display.map_.get_interpolation() == "bilinear"
    assert display.colorbar_.ax.get_ylabel() == "Local quality (higher is better)"
    assert display.ax_.get_title() == "title"
    display.figure_.canvas.draw()


def test_quality_map_alone_is_opaque(plt):
    _, ax = plt.subplots()
    display = QualityMapDisplay(np.eye(3), label="Blur (lower is better)").plot(ax)
    assert display.image_ is None
    assert display.map_.get_alpha() == 1.0
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert display.colorbar_.ax.get_ylabel() == "Blur (lower is better)"


@pytest.mark.parametrize(
    ("higher_is_better", "label"),
    [(True, "Local quality (higher is better)"), (False, "Local distortion (lower is better)")],
)
def test_quality_map_from_estimator_states_direction(higher_is_better, label):
    image = np.zeros((8, 9, 3), np.uint8)
    display = QualityMapDisplay.from_estimator(BlockMap(higher_is_better, np.eye(2)), image)
    assert display.colorbar_.ax.get_ylabel() == label
    assert display.ax_.get_title() == "BlockMap"
    display = QualityMapDisplay.from_estimator(BlockMap(higher_is_better, np.eye(2)), image, label="own", name="mine")
    assert (display.colorbar_.ax.get_ylabel(), display.ax_.get_title()) == ("own", "mine")


@pytest.mark.parametrize(
    "estimator",
    [
        MANIQA(
            **{"backbone": "test_vit", "layers": (1, 2), "embed_dim": 16, "dim_mlp": 16, "window_size": 5},
            **{"n_crops": 1, "backbone_weights": None, "random_state": 0},
        ),
        KonIQPlusPlus(backbone="test_resnet", backbone_weights=None, image_size=(64, 96), random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_quality_map_of_methods_without_reference(estimator):
    # An untrained network on noise: each pixel of the image has a finite number of the method's own map.
    image = np.random.default_rng(0).integers(0, 256, (170, 200, 3), dtype=np.uint8)
    display = QualityMapDisplay.from_estimator(estimator.initialize(), image)
    np.testing.assert_array_equal(display.map_.get_array(), estimator.quality_map(image))
    assert display.map_.get_array().shape == (170, 200)
    assert np.isfinite(display.map_.get_array()).all()
    assert display.colorbar_.ax.get_ylabel() == "Local quality (higher is better)"
    assert display.ax_.get_title() == type(estimator).__name__


@pytest.mark.parametrize("container", [tuple, list, np.stack])
def test_quality_map_of_a_pair_shows_the_query(container):
    query, reference = np.zeros((8, 9, 3), np.uint8), np.full((8, 9, 3), 255, np.uint8)
    estimator = BlockMap(False, np.eye(2))
    pair = container([query, reference])
    display = QualityMapDisplay.from_estimator(estimator, pair)
    assert estimator.asked_for is pair
    np.testing.assert_array_equal(display.image_.get_array(), query)


@pytest.mark.parametrize(
    "estimator",
    [
        LPIPS(net="squeeze", weighted=False, backbone_weights=None, random_state=0),
        STLPIPS(weights="alex-bapps"),
        ContentDiverseIQA(net="squeeze", backbone_weights=None, random_state=0),
        JSPL(
            **{"backbone": "test_resnet", "layers": ("layer2.0",), "crop_size": 64, "window_size": 2, "embed_dim": 32},
            **{"n_crops": 1, "backbone_weights": None, "random_state": 0},
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_maps_of_distances_show_the_place_and_state_its_direction(estimator, require_wheel):
    if estimator.weights is None:
        estimator.initialize()
    else:
        require_wheel(estimator.published[0].files[0])
    reference = load_photographs(size=128).images[0]
    query = reference.copy()
    query[32:64, 64:96] = 255 - query[32:64, 64:96]
    display = QualityMapDisplay.from_estimator(estimator, (query, reference))
    quality = np.asarray(display.map_.get_array())
    assert quality.shape == (128, 128)
    distortion = quality if "Local distortion" in display.colorbar_.ax.get_ylabel() else -quality
    near = np.zeros(quality.shape, dtype=bool)
    near[16:80, 48:112] = True  # receptive fields reach beyond the place itself
    assert distortion[near].mean() > 5 * abs(distortion[~near].mean())


def test_map_of_scores_states_its_direction():
    tiny = {"vit": "test_vit", "vit_layers": (0, 1), "cnn": "test_resnet", "cnn_layers": ("layer1.0",), "embed_dim": 8}
    estimator = AHIQ(**tiny, backbone_weights=None, random_state=0).initialize()
    pair = load_photographs(size=160).images[:2]
    display = QualityMapDisplay.from_estimator(estimator, tuple(pair))
    assert display.colorbar_.ax.get_ylabel() == "Local quality (higher is better)"
    np.testing.assert_array_equal(display.map_.get_array(), estimator.quality_map(tuple(pair)))


def test_quality_map_errors_are_one_sentence():
    with pytest.raises(TypeError, match=r"LinearRegression has no method quality_map\(x\)"):
        QualityMapDisplay.from_estimator(LinearRegression(), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"two-dimensional array \(height, width\), got shape \(1, 4, 4\)"):
        QualityMapDisplay(np.zeros((1, 4, 4))).plot()


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes the import fail
    with pytest.raises(ImportError, match=r"pip install 'sklearn-iqa\[plot\]'"):
        AgreementDisplay.from_predictions([1, 2, 3], [1, 2, 4], logistic=False)
    with pytest.raises(ImportError, match=r"QualityMapDisplay draws with matplotlib"):
        QualityMapDisplay(np.eye(3)).plot()


def test_import_leaves_matplotlib_and_torch_alone():
    code = "import sys, sklearn_iqa.displays; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

# SPDX-License-Identifier: BSD-3-Clause
"""CVRKDIQA: the official numbers, references of any content and size, teacher and student."""

import copy
import itertools
import pickle

import kits
import numpy as np
import pytest
import torch
from PIL import Image
from recipes import coordinate_maps
from torchvision.transforms.functional import rotate

from sklearn_iqa import CVRKDIQA, make_pairs
from sklearn_iqa._base.training import hold_out
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc
from sklearn_iqa.reduced_reference import cvrkd_iqa
from sklearn_iqa.reduced_reference.cvrkd_iqa import Distillation, TeacherDistillationLoss, other_content

KIT = kits.read("cvrkd_iqa")
RTOL = 1e-4  # the kit's
SMALL = {
    "backbone": "test_resnet",
    "backbone_weights": None,
    "n_crops": 2,
    "crop_size": 32,
    "embed_dim": 16,
    "depth": 1,
    "teacher_epochs": 1,
    "max_epochs": 1,
    "batch_size": 4,
    "lr": 1e-3,
    "device": "cpu",
    "random_state": 0,
}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small():
    return CVRKDIQA(**SMALL).initialize()


@pytest.fixture(scope="module")
def pairs():
    """Four queries with their references, of which the first two are one."""
    references = [picture(40, 48, seed) for seed in (0, 0, 1, 2)]
    return make_pairs([picture(40, 48, seed) for seed in (5, 6, 7, 8)], references)


# Parity ---------------------------------------------------------------------------------------------------------------


def distorted(image):
    """As in the kit: mean of four shifted copies, and noise of deviation 12."""
    shifted = [np.roll(image.astype(np.float64), shift, axis=(0, 1)) for shift in ((0, 0), (1, 0), (0, 1), (1, 1))]
    noise = np.random.default_rng([11, 0]).normal(0, 12, image.shape)
    return np.clip(np.rint(np.mean(shifted, axis=0) + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def official():
    """Official state, the maps of the backbone for all images of the kit, and what hooks saw of the first."""
    estimator = CVRKDIQA(backbone_weights=None, device="cpu")
    kits.load(estimator, kits.fill(KIT))
    network = estimator.network_

    def patches(image):
        height, width = image.shape[:2]
        corners = [((37 * k) % (height - 223), (53 * k) % (width - 223)) for k in range(10)]
        pixels = estimator._pixels(image)
        return torch.stack([pixels[:, y : y + 224, x : x + 224] for y, x in corners])[None]

    a, b = kits.images(0)
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen.setdefault(name, output)  # of the first image

        return hook

    backbone = network.feature_extractor
    hooks = [getattr(backbone, name).register_forward_hook(keep(name)) for name in ("layer1", "layer4")]
    with torch.inference_mode():  # the distorted first image comes first
        maps = [network.levels(patches(image)) for image in (distorted(a), distorted(b), a, b)]
    for hook in hooks:
        hook.remove()
    return network, maps, seen


DISTORTED_A, DISTORTED_B, A, B = range(4)
PAIRS = [(DISTORTED_A, A), (DISTORTED_A, B), (DISTORTED_B, A), (A, A)]


@pytest.fixture
def known(official, monkeypatch):
    """Give the network, which takes numbers of images in place of their crops: the backbone has run already."""
    network, maps, _ = official

    def levels(crops):
        images = crops[:, 0, 0, 0, 0].int().tolist()
        return [torch.cat([maps[image][level] for image in images]) for level in range(4)]

    monkeypatch.setattr(network, "levels", levels)
    return network


def numbered(images):
    return torch.tensor(images, dtype=torch.float32)[..., None, None, None, None].expand(-1, -1, 10, 3, 1, 1)


def test_parity_of_scores(known):
    with torch.inference_mode():
        scores = known(numbered(PAIRS))
    kits.assert_parity("cvrkd_iqa", "output", scores, KIT["output"], rtol=RTOL)


def test_parity_of_stages(official, known):
    _, maps, seen = official
    query = maps[DISTORTED_A]
    parts = {
        "MLP_encoder_lq.mlp[0] rearranged": known.MLP_encoder_lq.mlp[0],
        "MLP_encoder_lq.mlp[1] linear": known.MLP_encoder_lq.mlp[1],
        "MLP_encoder_lq.mlp[2] first mixer block": known.MLP_encoder_lq.mlp[2],
        "MLP_encoder_lq output": known.MLP_encoder_lq,
        "MLP_encoder_diff.mlp[0] rearranged": known.MLP_encoder_diff.mlp[0],
        "MLP_encoder_diff output": known.MLP_encoder_diff,
        "regressor.l1": known.regressor.l1,
    }
    got = {f"feature_extractor.{name}(query patches)": output for name, output in seen.items()}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: got.__setitem__(name, output))
        for name, part in parts.items()
    ]
    with torch.inference_mode():
        got |= {f"lda{level}_process(query)": known.lda_process[level - 1](query[level - 1]) for level in (1, 4)}
        known(numbered(PAIRS[:1]))
    for hook in hooks:
        hook.remove()
    assert got.keys() == KIT["stages"].keys()
    for name, stage in KIT["stages"].items():
        output = got[name][0] if isinstance(got[name], tuple) else got[name]
        output = output.mT if name.endswith("rearranged") else output
        assert list(output.shape) == stage["shape"]
        kits.assert_parity("cvrkd_iqa", f"mean of {name}", output.mean(), stage["mean"], rtol=RTOL)
        deviation = output.std(correction=0)
        kits.assert_parity("cvrkd_iqa", f"deviation of {name}", deviation, stage["std"], rtol=RTOL)


@pytest.mark.parametrize(
    ("blocks", "setting", "n_layers"),
    [
        (range(11), "distillation_layer=18", 11),  # the 18 blocks, cut to the first 11 by the shorter list beside them
        (range(9, 18), "distillation_layer=9", 9),
    ],
)
def test_parity_of_losses(official, known, blocks, setting, n_layers):
    losses = KIT["losses"]
    assert [count for name, count in losses.items() if name.startswith(setting) and "number" in name] == [n_layers]
    [gap] = [value for name, value in losses.items() if name.startswith(setting) and "sum" in name and "diff" in name]
    [error] = [value for name, value in losses.items() if name.startswith("prediction_l1")]
    # The first row's other content is the second row, whose crops anywhere are those of image B.
    crops = numbered([(DISTORTED_A, A, A), (DISTORTED_A, A, B)])
    with torch.inference_mode():
        output = Distillation(known, known, blocks)(crops, torch.tensor([0, 1]))
        score, apart = (one[:1] for one in output)
        loss = TeacherDistillationLoss()((score, apart), torch.tensor([3.0]))
    kits.assert_parity("cvrkd_iqa", f"{setting}, sum over blocks", apart, [gap], rtol=RTOL)
    kits.assert_parity("cvrkd_iqa", f"{setting}, loss", loss, gap + error, rtol=RTOL)


def test_every_block_is_distilled_unless_named(pairs):
    assert list(CVRKDIQA(**SMALL).fit(pairs, np.arange(4.0)).net_.module_.blocks) == [0, 1]
    assert list(CVRKDIQA(**SMALL, distilled_blocks=(1,)).fit(pairs, np.arange(4.0)).net_.module_.blocks) == [1]


# Properties of the network --------------------------------------------------------------------------------------------


def test_equal_crops_leave_no_difference(small):
    crops = torch.randn(1, 2, 3, 32, 32)
    query = small.network_.encode_reference(crops)
    seen = []
    hook = small.network_.MLP_encoder_diff.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    small.network_(torch.stack([crops, crops], dim=1))
    hook.remove()
    assert query.std() > 0
    assert (seen[0] == 0).all()


def test_places_of_crops_matter(small):
    crops = torch.randn(1, 2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    score = small.network_(crops)
    assert small.network_(crops.flip(2)) != score
    assert small.network_(crops.flip(1)) != score  # nor are query and reference alike


# References -----------------------------------------------------------------------------------------------------------


def test_reference_may_have_another_content_and_size(small):
    query = picture(70, 90)
    references = [picture(70, 90, 1), picture(50, 130, 2), picture(20, 25, 3)]
    scores = small.predict([(query, reference) for reference in references])
    assert len(np.unique(scores)) == 3  # and the reference matters
    np.testing.assert_allclose(small.predict([(query, references[1])]), scores[1], rtol=1e-6)


@pytest.mark.parametrize(("size", "enlarged"), [((20, 31), (32, 49)), ((31, 20), (49, 32)), ((8, 60), (32, 240))])
def test_small_images_are_enlarged_to_a_crop(small, size, enlarged):
    image, other = picture(*size), picture(64, 64, 1)
    # Pillow wants (width, height); 31 * 32 / 20 = 49.6 is cut, not rounded.
    by_hand = np.asarray(Image.fromarray(image).resize(enlarged[::-1], Image.Resampling.BICUBIC))
    pairs = [(image, other), (other, image)]
    expected = small.predict([(by_hand, other), (other, by_hand)])
    np.testing.assert_allclose(small.predict(pairs), expected, rtol=1e-6)


def test_crops_of_the_official_network_have_224_pixels():
    views = CVRKDIQA(crop_size=224)._views((picture(224, 300), picture(100, 130)))
    assert views.shape == (1, 2, 10, 3, 224, 224)
    # 100 x 130 becomes 224 x 291: like the query's 224 x 300, it has room for ten different places.
    assert [len(crops.flatten(1).unique(dim=0)) for crops in views[0]] == [10, 10]


def test_random_places_depend_on_the_image_alone():
    image, other = picture(80, 80), picture(80, 80, 1)
    one, again, elsewhere = (
        CVRKDIQA(**{**SMALL, "random_state": seed}, crops="random")._views(pair)[0]
        for seed, pair in ((0, (image, other)), (0, (other, image)), (1, (image, other)))
    )
    assert torch.equal(one, again.flip(0))
    assert not torch.equal(one, elsewhere)
    # Not the grid's corners, which two crops touch.
    assert not torch.equal(one, CVRKDIQA(**SMALL)._views((image, other))[0])


# Training -------------------------------------------------------------------------------------------------------------


def test_frozen_backbone_stays_and_the_teacher_too(pairs):
    y = np.arange(4.0)
    start = CVRKDIQA(**SMALL).initialize().network_.state_dict()
    estimator = CVRKDIQA(**SMALL).partial_fit(pairs, y)
    teacher = {name: array.copy() for name, array in estimator.teacher_.items()}
    estimator.partial_fit(pairs, y)
    state = estimator.network_.state_dict()
    for name, tensor in state.items():
        frozen = name.startswith("feature_extractor.")
        assert torch.equal(tensor, start[name]) == frozen, name  # running statistics included
        assert (name in teacher) != frozen
    for name, array in teacher.items():
        np.testing.assert_array_equal(estimator.teacher_[name], array)
        np.testing.assert_array_equal(estimator.net_.module_.teacher.get_parameter(name).numpy(), array)
        assert not np.array_equal(array, start[name].numpy())
        assert not np.array_equal(array, state[name].numpy())
    assert estimator.net_.module_.teacher.feature_extractor is estimator.network_.feature_extractor


def test_teacher_travels(pairs):
    y = np.arange(4.0)
    estimator = CVRKDIQA(**SMALL, warm_start=True).fit(pairs, y)
    travelled = pickle.loads(pickle.dumps(estimator)).fit(pairs, y)
    for name, array in estimator.teacher_.items():
        np.testing.assert_array_equal(travelled.net_.module_.teacher.get_parameter(name).numpy(), array)


def test_early_stopping_compares_with_references_of_other_content(monkeypatch):
    references = [picture(40, 48, seed) for seed in (0, 1, 2, 3)]
    X = [(picture(40, 48, 10 + row), references[row % 4]) for row in range(16)]
    y = np.random.default_rng(0).normal(size=16)
    estimator = CVRKDIQA(**{**SMALL, "max_epochs": 2, "n_crops": 1}, early_stopping=True, validation_fraction=0.5)
    seen, scores = [], CVRKDIQA._scores

    def recorded(self, rows):
        seen.append([rows[row] for row in range(len(rows))])
        return scores(self, rows)

    monkeypatch.setattr(CVRKDIQA, "_scores", recorded)
    estimator.fit(X, y)
    _, held_out = hold_out(estimator._training_rows(X), 0.5, estimator._drawn_seed())
    assert len(held_out) == 8
    assert len(seen) == 2
    numbers = {reference.tobytes(): number for number, reference in enumerate(references)}
    for epoch in seen:
        assert all(np.array_equal(query, X[row][0]) for (query, _), row in zip(epoch, held_out, strict=True))
        taken = np.array([numbers[reference.tobytes()] for _, reference in epoch])
        assert (taken != held_out % 4).all()  # not its own, ...
        for content in np.unique(held_out % 4):
            assert len(set(taken[held_out % 4 == content])) == 3  # ... but any of the others, ...
    np.testing.assert_array_equal([pair[1] for pair in seen[0]], [pair[1] for pair in seen[1]])  # ... in all epochs
    best = srcc(y[held_out], estimator.predict(seen[0]))  # the best weights are kept
    assert max(estimator.validation_scores_) == pytest.approx(best, abs=1e-12)


@pytest.mark.usefixtures("lite0_wheel")
def test_it_learns_to_judge_beside_other_content():
    photographs = load_photographs(size=96).images
    made = make_distorted(photographs, distortions=["gaussian_blur", "white_noise"], levels=(1, 3, 5), random_state=0)
    held_out = np.isin(made.groups, [1, 4, 7])
    X = [pair for pair, out in zip(make_pairs(made.images, made.references), held_out, strict=True) if not out]
    another = {1: 4, 4: 7, 7: 1}
    X_test = [
        (image, photographs[another[group]])
        for image, group, out in zip(made.images, made.groups, held_out, strict=True)
        if out
    ]
    estimator = CVRKDIQA(
        **{
            **SMALL,
            "backbone": "tf_efficientnet_lite0",
            "backbone_weights": "bundled",
            "embed_dim": 64,
            "batch_size": 6,
        },
        **{"teacher_lr": 3e-4},
    ).set_params(teacher_epochs=10, max_epochs=28)
    before = estimator.initialize().score(X_test, made.target[held_out])
    after = estimator.fit(X, made.target[~held_out]).score(X_test, made.target[held_out])
    # Measured with random_state 0, 1, 2, 3: -0.16, 0.45, -0.01 before with the first three (all but the backbone is
    # random), 0.85, 0.90, 0.93, 0.84 after; with PyTorch 2.6, which rounds otherwise, 0.90, 0.89, 0.81, 0.77.
    assert before < 0.6
    assert after >= 0.7


# Recipe ---------------------------------------------------------------------------------------------------------------
# Optimiser, rates and what trains: test_recipes.py; terms of the loss: parity.


def test_other_references_have_another_content():
    content = torch.tensor([7, 7, 3, 5])
    torch.manual_seed(0)
    drawn = torch.stack([other_content(content) for _ in range(100)])
    # 100 draws from two or three rows miss one of them with a probability below 1e-15.
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]
    assert other_content(torch.tensor([4, 4])).tolist() == [0, 1]  # no other content: the own reference


def test_content_is_identified_by_the_pixels_of_the_reference(small, pairs):
    contents = [small._train_view(pair)["content"] for pair in pairs]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3


def test_teacher_and_query_see_the_same_places(small):
    reference = picture(60, 70).astype(np.float32) / 510
    pair = (reference + np.float32(0.25), reference)
    # 0.25 divided by 0.5, the deviation that timm states for test_resnet.
    apart = torch.full((2, 3, 32, 32), 0.5)
    torch.manual_seed(0)
    for crops in (small._train_view(pair)["crops"], small._teacher_view(pair, None)):
        torch.testing.assert_close(crops[0] - crops[1], apart, rtol=1e-5, atol=1e-5)
    assert small._train_view(pair)["crops"].shape == (3, 2, 3, 32, 32)


def references_seen(estimator, X):
    """Crops (n, p, 3, s, s) that the student takes as references, and those of the good image in each row."""
    network, seen = estimator.network_, []
    module = Distillation(network, copy.deepcopy(network), range(2))
    batch = torch.utils.data.default_collate([estimator._train_view(x) for x in X])
    with pytest.MonkeyPatch.context() as patch:
        encode = network.encode_reference
        patch.setattr(network, "encode_reference", lambda crops: seen.append(crops) or encode(crops))
        module(**batch)
    return seen[0], batch["crops"][:, 2]


def with_pool(estimator, pool):
    """The estimator as it is within a fit that was given a pool; of the same network."""
    estimator = copy.copy(estimator)
    estimator._check_targets(range(2), np.arange(2.0), pool)
    return estimator


def test_student_sees_the_originals_of_other_rows(small, pairs):
    torch.manual_seed(0)
    seen, own = references_seen(small, [pairs[0], pairs[2]])
    assert torch.equal(seen, own[[1, 0]])


def test_student_sees_what_was_drawn_from_the_pool(small, pairs):
    pool = [np.full((40, 60, 3), level, np.uint8) for level in (10, 90, 170, 250)]  # another size than the queries
    estimator = with_pool(small, pool)
    torch.manual_seed(0)
    seen, own = references_seen(estimator, pairs)
    assert torch.equal(seen, own)
    levels = []
    for _ in range(400):
        centres = estimator._train_view(pairs[0])["crops"][2, :, :, 16, 16]  # turning leaves them
        assert (centres == centres[0, 0]).all()  # both crops are of one image
        levels.append(round(255 * (centres[0, 0].item() + 1) / 2))
    counts = [levels.count(level) for level in (10, 90, 170, 250)]
    assert sum(counts) == 400
    assert min(counts) >= 65  # 100 are expected: four standard deviations


def test_corners_of_turned_images_are_black(small, monkeypatch):
    monkeypatch.setattr(cvrkd_iqa, "rotate", lambda crop, _: rotate(crop, 45.0))
    crops = small._turned_crops(np.full((40, 60, 3), 255, np.uint8))
    torch.testing.assert_close(crops[:, :, 16, 16], torch.ones(2, 3))  # white: (1 - 0.5) / 0.5
    torch.testing.assert_close(crops[:, :, 0, 0], -torch.ones(2, 3))  # black, as of an 8-bit image that is turned


def test_no_estimator_keeps_the_pool(pairs):
    pool = [picture(40, 48, 20)]
    estimator = CVRKDIQA(**SMALL).fit(pairs, np.arange(4.0), reference_pool=pool)
    assert estimator._pool is None
    with pytest.raises(FileNotFoundError):
        estimator.fit(pairs, np.arange(4.0), reference_pool=["nowhere.png"])
    assert estimator._pool is None


def test_each_step_of_the_student_opens_one_image_of_the_pool(tmp_path, pairs, monkeypatch):
    pool = []
    for number in range(3):
        pool.append(tmp_path / f"{number}.png")
        Image.fromarray(picture(50, 50, number)).save(pool[-1])
    opened = []
    read = cvrkd_iqa.read_image
    monkeypatch.setattr(cvrkd_iqa, "read_image", lambda item, where: opened.append(item) or read(item, where))
    estimator = CVRKDIQA(**{**SMALL, "teacher_epochs": 5, "max_epochs": 2}).fit(
        pairs, np.arange(4.0), reference_pool=pool
    )
    assert len(opened) == 8  # four rows in two epochs; the teacher sees none
    estimator.partial_fit(pairs, np.arange(4.0), reference_pool=pool)
    assert len(opened) == 12
    assert set(opened) == set(pool)
    estimator.partial_fit(pairs, np.arange(4.0), [0.0, 1.0, 1.0, 1.0], reference_pool=pool)
    assert len(opened) == 15


def test_held_out_queries_are_compared_with_the_pool(monkeypatch):
    X = [(picture(40, 48, 10 + row), picture(40, 48, row // 2)) for row in range(12)]
    pool = [picture(40, 48, 30 + number) for number in range(3)]
    seen, scores = [], CVRKDIQA._scores
    monkeypatch.setattr(CVRKDIQA, "_scores", lambda self, rows: seen.append(list(rows)) or scores(self, rows))
    estimator = CVRKDIQA(**{**SMALL, "n_crops": 1}, early_stopping=True, validation_fraction=0.5)
    y = np.random.default_rng(0).normal(size=12)
    estimator.fit(X, y, reference_pool=pool)
    _, held_out = hold_out(estimator._training_rows(X), 0.5, estimator._drawn_seed())
    assert len(seen) == 1
    for (query, reference), row in zip(seen[0], held_out, strict=True):
        np.testing.assert_array_equal(query, X[row][0])
        np.testing.assert_array_equal(reference, pool[row % 3])
    best = srcc(y[held_out], estimator.predict(seen[0]))
    assert estimator.validation_scores_ == [pytest.approx(best, abs=1e-12)]


def test_good_images_are_cut_anywhere_mirrored_and_turned(small, monkeypatch):
    angles = []
    monkeypatch.setattr(cvrkd_iqa, "rotate", lambda crop, angle: angles.append(angle) or crop)
    maps = coordinate_maps(lambda image: small._turned_crops(image)[0], 64, 80, n=200)
    # Corners of the crops, which are 32 wide: pixels from 0 to 48 and 0 to 32; a mirrored one counts from its end.
    left = np.where(maps[:, 0, 0] > 0, maps[:, 0, 2], maps[:, 0, 2] - 31).round()
    top = np.where(maps[:, 1, 1] > 0, maps[:, 1, 2], maps[:, 1, 2] - 31).round()
    assert (left.min(), left.max(), top.min(), top.max()) == (0, 48, 0, 32)
    mirrored = np.stack([maps[:, 0, 0] < 0, maps[:, 1, 1] < 0], axis=1)
    for way in itertools.product([False, True], repeat=2):
        assert 25 <= (mirrored == way).all(1).sum() <= 75  # of 200, 50 expected: four standard deviations
    quarters = np.bincount((np.array(angles) // 90).astype(int), minlength=4) / len(angles)
    np.testing.assert_allclose(quarters, 1 / 4, atol=0.1)


def test_queries_of_the_student_are_cut_at_random_and_nothing_else(small):
    maps = coordinate_maps(lambda image: small._train_view((image, image))["crops"][0, 1], 64, 80, n=200)
    np.testing.assert_allclose(maps[:, :, :2], np.broadcast_to(np.eye(2), (200, 2, 2)), atol=0.02)
    left, top = maps[:, 0, 2].round(), maps[:, 1, 2].round()
    assert (left.min(), left.max(), top.min(), top.max()) == (0, 48, 0, 32)


def test_pairs_of_the_teacher_are_mirrored_both_ways(small):
    maps = coordinate_maps(lambda image: small._teacher_view((image, image), None)[0, 1], 40, 48, n=200)
    np.testing.assert_allclose(np.abs(maps[:, :, :2]), np.broadcast_to(np.eye(2), (200, 2, 2)), atol=0.02)
    mirrored = np.stack([maps[:, 0, 0] < 0, maps[:, 1, 1] < 0], axis=1)
    for way in itertools.product([False, True], repeat=2):
        assert 25 <= (mirrored == way).all(1).sum() <= 75


def test_teacher_and_student_learn_labels_of_kadid_by_their_absolute_errors(pairs):
    y, encoded = np.array([0.0, 2.0, 5.0, 10.0]), [1.0, 1.8, 3.0, 5.0]
    estimator = CVRKDIQA(**SMALL).initialize()
    estimator._start(y, None)
    np.testing.assert_allclose(estimator._encode_targets(y), encoded)
    stage = next(estimator._stages_before(estimator._training_rows(pairs), y, None))
    np.testing.assert_allclose(stage.targets, encoded)
    scores, targets = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 7.0])
    assert stage.loss(scores, targets).item() == 2.5
    assert estimator._loss()((scores, torch.tensor([0.25, 0.75])), targets).item() == 2.5 + 0.5


def test_weights_start_small_and_biases_at_zero():
    network = CVRKDIQA(**{**SMALL, "embed_dim": 64, "n_crops": 4}).initialize().network_
    trained = {name: module for name, module in network.named_modules() if not name.startswith("feature_extractor.")}
    n_checked = 0
    for name, module in trained.items():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert (module.bias == 0).all(), name
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.Conv1d) and module.weight.numel() > 1000:
            n_inputs, n_checked = module.weight[0].numel(), n_checked + 1
            # A tenth of Kaiming's normal distribution; convolutions that mix positions as torch makes them, uniform.
            deviation = (3 * n_inputs) ** -0.5 if isinstance(module, torch.nn.Conv1d) else 0.1 * (2 / n_inputs) ** 0.5
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.1), name
    assert n_checked == 4 + 2 + 3 * 4 + 1  # levels, entries of two mixers, their three blocks, regressor.l1


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        ("DIV2K", TypeError, "reference_pool cannot be used as images: X is a single str"),
        ([], ValueError, "reference_pool cannot be used as images: X is empty"),
        (["nowhere.png"], FileNotFoundError, r"Image 0 of reference_pool.*nowhere\.png"),
    ],
)
def test_unusable_pools_are_named(pairs, pool, error, message):
    with pytest.raises(error, match=message):
        CVRKDIQA(**SMALL).fit(pairs, np.arange(4.0), reference_pool=pool)


def test_fit_needs_originals_of_the_size_of_the_query(pairs):
    X = [*pairs[:3], (picture(40, 48), picture(40, 50))]
    with pytest.raises(ValueError, match=r"Row 3 of X .*query 40 x 48, reference 40 x 50.*fit of CVRKDIQA.*resize"):
        CVRKDIQA(**SMALL).fit(X, np.arange(4.0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"crops": "centre"}, "'crops' parameter of CVRKDIQA must be a str among .*'grid'"),
        ({"distilled_blocks": ()}, "'distilled_blocks' parameter of CVRKDIQA must be a sequence of 1 or more members"),
        ({"distilled_blocks": (0, 2)}, r"distilled_blocks=\[0, 2\] must ascend within 0..1"),
        ({"distilled_blocks": (1, 0)}, r"distilled_blocks=\[1, 0\] must ascend"),
        ({"crop_size": 0}, r"'crop_size' parameter of CVRKDIQA must be an int in the range \[1, inf\)"),
        ({"depth": 0}, r"'depth' parameter of CVRKDIQA must be an int in the range \[1, inf\)"),
        ({"teacher_epochs": 0}, r"'teacher_epochs' parameter of CVRKDIQA must be an int in the range \[1, inf\)"),
        ({"teacher_lr": 0.0}, r"'teacher_lr' parameter of CVRKDIQA must be a float in the range \(0.0, inf\)"),
        ({"n_crops": 0}, r"'n_crops' parameter of CVRKDIQA must be an int in the range \[1, inf\)"),
        ({"backbone": "test_vit"}, "backbone='test_vit' needs crop_size=160"),
        ({"backbone": "resnet_of_nobody"}, "resnet_of_nobody"),
    ],
)
def test_unusable_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        CVRKDIQA(**{**SMALL, **parameters}).initialize()


def test_another_number_of_crops_does_not_fit_the_weights(small, tmp_path):
    small.save_weights(tmp_path / "two_crops.safetensors")
    with pytest.raises(ValueError, match="of another shape"):
        CVRKDIQA(**{**SMALL, "n_crops": 3}, weights=tmp_path / "two_crops.safetensors").initialize()


def test_other_backbones_fit():
    pairs = [(picture(160, 170), picture(170, 180, 1))]
    for backbone in ("test_vit", "test_efficientnet"):
        estimator = CVRKDIQA(**{**SMALL, "backbone": backbone, "crop_size": 160, "n_crops": 1}).initialize()
        assert np.isfinite(estimator.predict(pairs)).all()

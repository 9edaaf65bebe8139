# SPDX-License-Identifier: BSD-3-Clause
"""CLIP-IQA: the official numbers, prompts encoded once, words that are learned, prompts in a search."""

import copy
import pickle
from pathlib import Path

import kits
import numpy as np
import pytest
import recipes
import torch
from held_out import levels
from PIL import Image
from sentences import one_sentence
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError
from torch.nn import functional as F

from sklearn_iqa import CLIPIQA, LIQE
from sklearn_iqa._base import rows
from sklearn_iqa._base.training import hold_out
from sklearn_iqa._nn import clip_backbones, clip_text
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.metrics import srcc
from sklearn_iqa.multimodal import clip_iqa
from sklearn_iqa.multimodal.clip_iqa import CLIPIQANetwork

KIT, PLUS_KIT = kits.read("clip_iqa"), kits.read("clip_iqa_plus")
ATOL = KIT["tolerance"]["abs"]  # 2e-5, in both kits
TINY = {"backbone": str(Path(__file__).parent / "clip_tiny_resnet.json"), "backbone_weights": None, "random_state": 0}
VIT = TINY | {"backbone": str(Path(__file__).parent / "clip_tiny_vit.json")}
MEAN_POOL = str(Path(__file__).parent / "clip_tiny_mean.json")  # a ViT whose features are a mean of all tokens
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)
Y = np.array([4.5, 3.9, 3.1, 2.6, 1.8, 1.2])
TWO = [("Good photo.", "Bad photo."), ("Bright photo.", "Dark photo.")]


def kit_images():
    first, second = kits.images(0)
    return [first, second, first // 4, first[32:288, 64:384]]


def stage(kit, name):
    return next(one for one in kit["stages"] if one["name"] == name)


def assert_stage(kit, name, got, *, rtol=1e-4, atol=ATOL):
    want, values = stage(KIT if kit == "clip_iqa" else PLUS_KIT, name), got.double().numpy()
    assert list(values.shape) == want["shape"]
    numbers = [values.mean(), values.std(), *values.ravel()[:5]]
    kits.assert_parity(kit, name, numbers, [want["mean"], want["std"], *want["first5"]], rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def state():
    return kits.fill(KIT)


@pytest.fixture(scope="module")
def official(state):
    estimator = CLIPIQA(backbone_weights=None, random_state=0)
    kits.load(estimator, state)
    return estimator


@pytest.fixture(scope="module")
def maps(official):
    """What the image tower sees in the four images, each of its own size."""
    with torch.inference_mode():
        return [official.network_.maps(official._views(image)) for image in kit_images()]


@pytest.fixture(scope="module")
def features(official, maps):
    with torch.inference_mode():
        return torch.cat([official.network_.pool(one) for one in maps])


@pytest.fixture
def again(official, monkeypatch):
    """Make an estimator of other parameters around the CLIP of `official`."""
    monkeypatch.setattr(clip_text, "build_clip", lambda name: official.network_.clip)
    return lambda **parameters: CLIPIQA(backbone_weights=None, random_state=0, **parameters).initialize()


# Parity ---------------------------------------------------------------------------------------------------------------


def test_output_logits_and_loss_are_official(official, features):
    network = official.network_
    with torch.inference_mode():
        kits.assert_parity("clip_iqa", "logits", network.logits(features), KIT["logits"], atol=ATOL)
        output = network.judge(features)
    kits.assert_parity("clip_iqa", "output", output[:, 0], KIT["output"], atol=ATOL)
    loss = official._loss()(output, torch.tensor([[0.7], [0.2], [0.4], [0.9]]))
    kits.assert_parity("clip_iqa", "loss", loss, KIT["losses"]["value"], atol=ATOL)
    # The estimator's own way, on the image that is no multiple of 32.
    assert official.predict(kit_images()[1:2])[0] == pytest.approx(KIT["output"][1], abs=ATOL)


def test_stages_are_official(official):
    network, seen = official.network_, {}
    parts = ("avgpool", "layer1", "layer2", "layer3", "layer4", "attnpool")
    names = dict(zip(parts, [one["name"] for one in KIT["stages"]], strict=False))
    hooks = [
        getattr(network.clip.visual, part).register_forward_hook(
            lambda module, inputs, output, part=part: seen.update({part: output})
        )
        for part in parts[:-1]
    ]
    with torch.inference_mode():
        seen["attnpool"] = network.pool(network.maps(official._views(kit_images()[0])))
        texts = network.encode_prompts()
    for hook in hooks:
        hook.remove()
    for part, name in names.items():
        assert_stage("clip_iqa", name, seen[part])
    assert_stage("clip_iqa", "text features before L2 norm (2,1024)", texts)


def ids(network):
    """Numbers of the tokens of each prompt."""
    return [row[: end + 1].tolist() for row, end in zip(network.tokens, network.ends, strict=True)]


def test_tokens_are_official(official):
    assert ids(official.network_) == KIT["config"]["token_ids"]


@pytest.mark.parametrize("variant", ["attributes", "pyiqa_five_pairs"])
def test_other_prompts_are_official(features, again, variant):
    case = KIT["variants"][variant]
    if variant == "attributes":
        pairs, want = case["prompt_pairs"], case["output [image][pair]"]
        tokens = [row for pair in case["token_ids"] for row in pair]
    else:
        flat = case["prompts in order good,bad,good,bad..."]
        pairs, want, tokens = list(zip(flat[::2], flat[1::2], strict=True)), case["output"], case["token_ids"]
    network = again(prompts=pairs).network_
    assert ids(network) == tokens
    with torch.inference_mode():
        output = network.judge(features)
    output = output if variant == "attributes" else output.mean(1)
    kits.assert_parity("clip_iqa", variant, output, want, atol=ATOL)


def test_the_table_of_positions_is_officially_stretched(again, maps):
    network = again(pos_embedding=True).network_
    with torch.inference_mode():
        got = torch.cat([network.judge(network.pool(one))[:, 0] for one in maps])
    kits.assert_parity("clip_iqa", "pos_embedding", got, KIT["variants"]["pos_embedding_true"]["output"], atol=ATOL)


def test_learned_words_are_official(state, features, again):
    (name, shape, dtype), *clip = PLUS_KIT["manifest"]
    assert clip == KIT["manifest"]  # filled by name: the CLIP of both kits is one
    plus = again(n_context=16)
    state = {**kits.fill(PLUS_KIT, manifest=[(name, shape, dtype)]), **state}
    state_dicts.load_state(plus.network_, state, key_map=plus.key_map)
    network = plus.network_
    with torch.inference_mode():
        embedded, ends = network.embed_prompts()
        output, raw = network.judge(features)[:, 0], network.encode_prompts()
    assert ends.tolist() == PLUS_KIT["config"]["eot_index"]
    blank = network.clip.token_embedding.weight[0].expand(2, 77 - embedded.shape[1], 512)  # behind the end
    assert_stage("clip_iqa_plus", "prompts (2,77,512)", torch.cat([embedded, blank], dim=1).detach())
    assert_stage("clip_iqa_plus", "prompt text features (2,1024)", raw)
    kits.assert_parity("clip_iqa_plus", "output", output, PLUS_KIT["output"], atol=ATOL)
    loss = F.mse_loss(output, torch.tensor([0.7, 0.2, 0.4, 0.9]))
    kits.assert_parity("clip_iqa_plus", "loss", loss, PLUS_KIT["losses"]["value"], atol=ATOL)
    for got, want in zip(network.tokens.tolist(), PLUS_KIT["config"]["tokenized_prompts"], strict=True):
        # 343 is CoOp's "X", which holds the places of the learned vectors, all in front; here 0 does where they stand.
        assert [number for number in got if number] == [number for number in want if number != 343]
        assert [place for place, number in enumerate(got) if not number] == [*range(1, 9), *range(12, 20)]


# Weights --------------------------------------------------------------------------------------------------------------


def test_official_files_load(tmp_path):
    plus = CLIPIQA(n_context=4, **TINY).initialize()
    state = plus.network_.state_dict()
    clip = {name.removeprefix("clip."): tensor for name, tensor in state.items() if name.startswith("clip.")}
    prefix = "generator.clipmodel_0."
    official = {
        "step_counter": torch.zeros(1),
        f"{prefix}logit_scale": clip["logit_scale"],
        f"{prefix}prompt_learner.ctx": state["contexts.0"] + 1,
        f"{prefix}prompt_learner.token_prefix": torch.zeros(2, 1, 32),
        f"{prefix}prompt_learner.token_suffix": torch.zeros(2, 72, 32),
        **{f"{prefix}prompt_learner.clip_model.{name}": tensor for name, tensor in clip.items()},
        **{f"{prefix}image_encoder.{name[7:]}": tensor for name, tensor in clip.items() if name[:7] == "visual."},
        **{f"{prefix}text_encoder.{name}": clip[name] for name in ("ln_final.weight", "text_projection")},
    }
    torch.save({"meta": {}, "state_dict": official, "optimizer": {}}, tmp_path / "iter_80000.pth")
    torch.save((state["contexts.0"] + 2).half(), tmp_path / "vectors.pth")
    torch.save({**clip, "input_resolution": torch.tensor(32)}, tmp_path / "clip.pt")
    for file, shift in (("iter_80000.pth", 1), ("vectors.pth", 2)):
        # Another seed: the CLIP must come from a file.
        parameters = {**TINY, "backbone_weights": tmp_path / "clip.pt", "random_state": 1}
        loaded = CLIPIQA(n_context=4, weights=tmp_path / file, **parameters).initialize().network_
        # 2e-3: half precision near 2 has steps of 2^-9.
        torch.testing.assert_close(loaded.contexts[0], state["contexts.0"] + shift, rtol=0, atol=2e-3)
        torch.testing.assert_close(loaded.clip.state_dict(), clip, rtol=0, atol=0)


def test_openai_weights_are_those_of_open_clip(monkeypatch):
    config = clip_backbones.clip_config(TINY["backbone"])
    monkeypatch.setattr(clip_backbones, "clip_config", lambda name: config)  # small, under an official name
    fetched = clip_backbones.build_clip("RN50-quickgelu")

    def create_model(name, pretrained):
        assert (name, pretrained) == ("RN50-quickgelu", "openai")
        return fetched

    monkeypatch.setattr(clip_backbones, "reach_hub", lambda *names: None)
    monkeypatch.setattr(clip_backbones.open_clip, "create_model", create_model)
    loaded = CLIPIQA(random_state=0).initialize().network_.clip
    torch.testing.assert_close(loaded.state_dict(), fetched.state_dict(), rtol=0, atol=0)

    def refuse(name, pretrained):
        raise RuntimeError("no connection")

    monkeypatch.setattr(clip_backbones.open_clip, "create_model", refuse)
    with one_sentence(ConnectionError, "'openai' of RN50-quickgelu", "no connection", "a file", "None for random"):
        CLIPIQA().initialize()


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch):
    """Counts how often the text tower runs."""
    counted = []
    encode = clip_text.PromptNetwork.encode_prompts

    def count(self):
        counted.append(self)
        return encode(self)

    monkeypatch.setattr(clip_text.PromptNetwork, "encode_prompts", count)
    return counted


def test_prompts_are_encoded_once_per_fit(passes):
    estimator = CLIPIQA(prompts=TWO, **TINY).fit(IMAGES, Y)
    for _ in range(3):
        estimator.predict(IMAGES)
    estimator.predict_attributes(IMAGES)
    estimator.score(IMAGES, Y)
    assert len(passes) == 1
    images = estimator._views(IMAGES[0]).requires_grad_()  # as a loss: CLIP is frozen, its prompts stay as they are
    estimator.network_(images)[0, 0].backward()
    assert images.grad.abs().sum() > 0
    assert len(passes) == 1
    estimator.fit(IMAGES, Y).predict(IMAGES)
    assert len(passes) == 2


def test_prompts_with_learned_vectors_are_encoded_when_these_change(passes):
    estimator = CLIPIQA(n_context=2, max_epochs=3, batch_size=3, **TINY).fit(IMAGES, Y)
    assert len(passes) == 3 * 2  # epochs, batches
    before = estimator.predict(IMAGES)
    estimator.predict(IMAGES)
    assert len(passes) == 7
    with torch.no_grad():
        estimator.network_.contexts[0].add_(1.0)
    assert not np.array_equal(estimator.predict(IMAGES), before)
    assert len(passes) == 8


def test_attributes_have_names_and_are_probabilities():
    estimator = CLIPIQA(prompts=TWO, **TINY).initialize()
    attributes = estimator.predict_attributes(IMAGES)
    assert list(attributes) == ["Good photo. / Bad photo.", "Bright photo. / Dark photo."]
    second = CLIPIQA(prompts=TWO, attribute=1, **TINY).initialize()
    np.testing.assert_array_equal(estimator.predict(IMAGES), attributes["Good photo. / Bad photo."])
    np.testing.assert_array_equal(second.predict(IMAGES), attributes["Bright photo. / Dark photo."])
    turned = CLIPIQA(prompts=[pair[::-1] for pair in TWO], **TINY).initialize()
    # The softmax of a pair sums to one; 1e-6: single precision.
    np.testing.assert_allclose(turned.predict(IMAGES), 1 - estimator.predict(IMAGES), atol=1e-6)


def test_images_of_any_size_are_judged_whole():
    estimator = CLIPIQA(**TINY).initialize()
    image = IMAGES[0]
    wide = np.tile(image, (2, 3, 1))
    assert estimator._views(wide).shape == (1, 3, 80, 144)
    assert estimator.network_.clip.visual.attnpool.positional_embedding.shape == (2, 256)  # (32 / 32)^2 + 1 positions
    assert np.isfinite(estimator.predict([image, wide, wide[:33, :101]])).all()


def test_the_attention_pool_does_not_know_positions():
    network = CLIPIQA(**TINY).initialize().network_
    maps = torch.randn(1, 256, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.pool(maps.flip(2, 3)), network.pool(maps))
        network.pos_embedding = True
        assert not torch.allclose(network.pool(maps.flip(2, 3)), network.pool(maps))


def test_a_vit_is_its_own_at_its_own_size():
    estimator = CLIPIQA(**VIT, pos_embedding=True).initialize()
    network, image = estimator.network_, torch.from_numpy(IMAGES[:, :32, :32]).movedim(3, 1) / 255
    with torch.inference_mode():
        torch.testing.assert_close(network.pool(network.maps(image)), network.clip.encode_image(image))


def test_a_vit_takes_images_of_any_size():
    estimator = CLIPIQA(**VIT, pos_embedding=True).initialize()
    network = estimator.network_
    with torch.inference_mode():
        maps = network.maps(estimator._views(IMAGES[0]))
        assert maps.shape == (1, 32, 5, 6)  # patches of 8 pixels
        # The official way, see the pool of the residual networks: one image of 1 + 16 rows, enlarged to 1 + 30.
        table = F.interpolate(network.clip.visual.positional_embedding[None, None], (31, 32), mode="bicubic")[0, 0]
        visual = network.clip.visual
        tokens = torch.cat([visual.class_embedding[None, None], maps.flatten(2).mT], dim=1) + table
        expected = visual.ln_post(visual.transformer(visual.ln_pre(tokens)))[:, 0] @ visual.proj
        torch.testing.assert_close(network.pool(maps), expected)
        turned = network.pool(maps.flip(2, 3))
        assert not torch.allclose(turned, network.pool(maps))
        network.pos_embedding = False
        torch.testing.assert_close(network.pool(maps.flip(2, 3)), network.pool(maps))
    assert np.isfinite(estimator.predict([IMAGES[0], np.tile(IMAGES[0], (2, 3, 1))])).all()


def test_prompts_go_through_a_search():
    candidates = [[("Good photo.", "Bad photo.")], (("Sharp photo.", "Blurry photo."),), TWO]
    search = GridSearchCV(CLIPIQA(**TINY), {"prompts": candidates}, cv=2, error_score="raise")
    search.fit(IMAGES, Y)
    assert search.best_params_["prompts"] in candidates
    assert len(search.cv_results_["params"]) == 3


# Learning -------------------------------------------------------------------------------------------------------------


def test_without_learned_vectors_only_the_line_is_learned():
    estimator = CLIPIQA(**TINY).fit(IMAGES, Y)
    raw = CLIPIQA(**TINY).initialize().predict(IMAGES)
    slope, intercept = np.polyfit(raw, Y, 1)
    np.testing.assert_allclose(estimator.predict(IMAGES), slope * raw + intercept, rtol=1e-6)
    assert (estimator.n_iter_, estimator.loss_curve_) == (0, [])


def test_the_line_counts_rows_by_weight():
    weight = np.arange(len(IMAGES)) % 3
    repeated = np.arange(len(IMAGES)).repeat(weight)
    weighted = CLIPIQA(**TINY).fit(IMAGES, Y, weight)
    by_hand = CLIPIQA(**TINY).fit([IMAGES[row] for row in repeated], np.asarray(Y)[repeated])
    np.testing.assert_allclose(weighted.label_scale_, by_hand.label_scale_, rtol=1e-4)  # single precision


def test_clip_itself_does_not_change():
    estimator = CLIPIQA(n_context=2, max_epochs=2, lr=1.0, **TINY)
    before = {name: tensor.clone() for name, tensor in estimator.initialize().network_.state_dict().items()}
    after = estimator.fit(IMAGES, Y).network_.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["contexts.0"]


@pytest.fixture
def seen(monkeypatch):
    """Numbers of images in the passes of the image tower."""
    numbers, see = [], CLIPIQANetwork.maps
    monkeypatch.setattr(CLIPIQANetwork, "maps", lambda self, images: numbers.append(len(images)) or see(self, images))
    return numbers


def test_an_image_is_seen_once_and_once_mirrored(seen):
    CLIPIQA(n_context=2, max_epochs=8, **TINY).fit(IMAGES, Y)
    assert sum(seen) == 2 * len(IMAGES)


@pytest.mark.parametrize("weight", [None, [1, 0, 2, 1, 1, 1]])
def test_images_are_opened_once_in_all_epochs(weight, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    opened, read = [], rows.read_image
    monkeypatch.setattr(rows, "read_image", lambda image, where: opened.append(image) or read(image, where))
    CLIPIQA(n_context=2, max_epochs=8, **TINY).fit(paths, Y, weight)
    assert sorted(opened) == [path for row, path in enumerate(paths) if weight is None or weight[row] > 0]


def test_training_that_goes_on_encodes_new_images_alone(seen):
    estimator = CLIPIQA(n_context=2, **TINY).partial_fit(IMAGES[:4], Y[:4])
    seen.clear()
    estimator.partial_fit(IMAGES[:4], Y[:4]).partial_fit(IMAGES[3::-1], Y[3::-1])
    assert seen == []
    estimator.partial_fit(IMAGES[2:], Y[2:])
    assert sum(seen) == 2 * 2
    table = estimator.net_.module_.table
    torch.testing.assert_close(table, CLIPIQA(n_context=2, **TINY).fit(IMAGES[2:], Y[2:]).net_.module_.table)


def test_features_do_not_travel():
    estimator = CLIPIQA(n_context=2, **TINY).fit(IMAGES, Y)
    features = estimator.net_.module_.table.cpu().numpy()[0, 0].tobytes()
    for carried in (pickle.dumps(estimator), pickle.dumps(copy.deepcopy(estimator))):
        assert features not in carried


def test_held_out_images_are_encoded_once(seen):
    recipe = {**TINY, "n_context": 2, "max_epochs": 6, "early_stopping": True, "validation_fraction": 0.5}
    estimator = CLIPIQA(**recipe).fit(IMAGES, Y)
    # The half that is trained on also mirrored, the other half as it is.
    assert sum(seen) == len(IMAGES) // 2 * 2 + len(IMAGES) // 2
    _, held_out = hold_out(estimator._rows(IMAGES), 0.5, estimator._drawn_seed())
    best = srcc(np.asarray(Y)[held_out], estimator.predict([IMAGES[row] for row in held_out]))
    assert max(estimator.validation_scores_) == pytest.approx(best, abs=1e-12)


def test_each_pair_learns_its_own_vectors():
    y = np.stack([Y, Y[::-1]], axis=1)
    recipe = {**TINY, "prompts": TWO, "n_context": 4, "max_epochs": 40, "lr": 20.0}
    estimator = CLIPIQA(**recipe).fit(IMAGES, y)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    assert estimator.score(IMAGES, y) == estimator.score(IMAGES, Y)
    assert CLIPIQA(**recipe, attribute=1).fit(IMAGES, y).score(IMAGES, y) == pytest.approx(
        np.corrcoef(*np.argsort(np.argsort([Y[::-1], estimator.predict_attributes(IMAGES)[" / ".join(TWO[1])]])))[0, 1]
    )


def test_learned_vectors_turn_a_score_that_points_the_wrong_way(tmp_path):
    # Zero-shot scores of a CLIP of random numbers mean nothing. One that LIQE has taught what good and bad colours are
    # stands for OpenAI's; the pair is asked the wrong way round, so that words must be learned that turn it.
    known = levels(["color_saturation_1"], side=48)
    recipe = {**TINY, "batch_size": 42}
    words = {"scenes": (), "distortions": ()}
    teacher = LIQE(**{**recipe, "random_state": 1}, **words, max_epochs=20, steps_per_epoch=2, lr=5e-4)
    state = teacher.fit(known.X, known.y).network_.clip.state_dict()
    torch.save(state, tmp_path / "clip.pt")
    recipe |= {"backbone_weights": tmp_path / "clip.pt", "prompts": [("Bad photo.", "Good photo.")], "n_context": 16}
    estimator = CLIPIQA(**recipe, max_epochs=200, lr=1.0)
    before = estimator.initialize().score(known.X_new, known.y_new)
    after = estimator.fit(known.X, known.y).score(known.X_new, known.y_new)
    # Measured on held-out photographs with random_state=0 to 3: -0.69 or -0.68 before, 0.68 or 0.69 after; behind 60
    # epochs one of the four is still at 0.22. 0.80 is not to be had from a tower that is frozen and of which LIQE
    # itself, all trained, makes 0.65 there; four times as many pieces gave 0.63 and 0.65.
    assert before < -0.5
    assert after > 0.55


# Recipe ---------------------------------------------------------------------------------------------------------------
# The optimiser, its first rate and what trains are in test_recipes.py.


def recorded_fit(X, y, **parameters):
    """The phase of a fit."""
    with recipes.recorded() as phases:
        estimator = CLIPIQA(**{**TINY, "n_context": 4, "batch_size": 2, **parameters}).fit(X, y)
    (phase,) = phases
    return estimator, phase


def test_the_rate_follows_the_official_schedule(monkeypatch):
    assert (clip_iqa.N_STEPS, clip_iqa.LOWEST_LR) == (500_000, 1e-7)
    monkeypatch.setattr(clip_iqa, "N_STEPS", 4)
    estimator, phase = recorded_fit(IMAGES, Y, max_epochs=1)
    # Half a cosine from step 0 to step 4; three batches an epoch.
    fall = (1 + np.cos(np.pi * np.array([0, 1, 2, 3, 4, 4])[:, None] / 4)) / 2
    rates = 1e-7 + (0.002 - 1e-7) * fall
    np.testing.assert_allclose(phase.rates, rates[:3], rtol=1e-9)
    with recipes.recorded() as phases:
        estimator.partial_fit(IMAGES, Y)
    np.testing.assert_allclose(phases[0].rates, rates[3:], rtol=1e-9)


def test_only_the_vectors_move_by_their_gradient_times_the_rate():
    estimator = CLIPIQA(**{**TINY, "n_context": 4, "max_epochs": 1, "lr": 2.0})  # six images in one batch
    start = estimator.initialize().network_.contexts[0].detach().clone()
    estimator.fit(IMAGES, Y)
    moved = estimator.network_.contexts[0].detach()
    assert not torch.equal(moved, start)
    # SGD without momentum or decay: the step is the gradient of the mean squared error times the rate.
    torch.testing.assert_close(moved, start - 2.0 * estimator.network_.contexts[0].grad)


def test_vectors_start_from_normal_numbers_of_deviation_002_for_each_pair_of_prompts():
    contexts = CLIPIQA(**TINY, n_context=16, prompts=TWO).initialize().network_.contexts
    assert [one.shape for one in contexts] == [(16, 32)] * 2  # one set for both prompts of a pair
    assert not torch.equal(*contexts)
    for one in contexts:
        assert one.std().item() == pytest.approx(0.02, rel=0.1)  # 512 numbers: 3 % each way
        assert abs(one.mean().item()) < 0.005


def test_each_prompt_has_vectors_of_its_own():
    shared = CLIPIQA(**TINY, n_context=4, prompts=TWO).initialize().network_
    own = CLIPIQA(**TINY, n_context=4, prompts=TWO, shared_context=False).initialize().network_
    assert [one.shape for one in own.contexts] == [(2, 4, 32)] * 2
    with torch.no_grad():
        own.clip.load_state_dict(shared.clip.state_dict())
        for mine, both in zip(own.contexts, shared.contexts, strict=True):
            mine.copy_(both.expand(2, -1, -1))
        before = own.encode_prompts()
        torch.testing.assert_close(before, shared.encode_prompts(), rtol=0, atol=0)
        own.contexts[1][0].mul_(-1.0)  # those of "Bright photo."
        moved = (own.encode_prompts() != before).any(1)
    assert moved.tolist() == [False, False, True, False]


def test_own_vectors_are_all_learned():
    estimator = CLIPIQA(**TINY, n_context=2, shared_context=False, max_epochs=2, lr=1.0)
    before = estimator.initialize().network_.contexts[0].detach().clone()
    moved = estimator.fit(IMAGES, Y).network_.contexts[0].detach() - before
    assert moved.shape == (2, 2, 32)
    assert (moved.abs().amax((1, 2)) > 0).all()
    assert not torch.equal(*moved)


def test_training_sees_whole_images_of_which_half_are_mirrored():
    estimator = CLIPIQA(**TINY, n_context=4).initialize()
    places = [int(estimator._train_view(3)) for _ in range(200)]
    assert set(places) == {6, 7}
    assert abs(places.count(7) - 100) < 36  # 5 deviations of a binomial count of 200 draws
    module = estimator.fit(IMAGES, Y).net_.module_
    white = estimator._views(np.full((40, 48, 3), 255, np.uint8))[0].mean((1, 2))
    torch.testing.assert_close(white, (1 - torch.tensor(clip_text.CLIP_MEAN)) / torch.tensor(clip_text.CLIP_STD))
    with torch.no_grad():
        for row, image in enumerate(IMAGES):
            pixels = estimator._views(image)
            for place, seen in ((2 * row, pixels), (2 * row + 1, pixels.flip(-1))):
                features = estimator.network_.pool(estimator.network_.maps(seen))
                torch.testing.assert_close(module.table.flatten(0, 1)[place][None], features)
                torch.testing.assert_close(module(torch.tensor([place])), estimator.network_.judge(features))
        assert not torch.allclose(module.table[:, 0], module.table[:, 1])


def test_labels_are_probabilities_from_0_to_1():
    _, phase = recorded_fit(IMAGES, Y, max_epochs=1)
    assert torch.cat(phase.targets).shape == (6, 1)
    got = dict(zip(np.concatenate(phase.rows), torch.cat(phase.targets).flatten().tolist(), strict=True))
    assert got == {row: pytest.approx((Y[row] - 1.2) / 3.3, abs=1e-6) for row in range(6)}
    # Of several pairs all columns are in one unit.
    _, phase = recorded_fit(IMAGES, np.stack([Y, 2 * Y], axis=1), prompts=TWO, max_epochs=1)
    rows, targets = np.concatenate(phase.rows), torch.cat(phase.targets).numpy()
    np.testing.assert_allclose(targets, (np.stack([Y, 2 * Y], axis=1)[rows] - 1.2) / 7.8, atol=1e-6)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "kind", "parts"),
    [
        ({"prompts": [("Good photo.", "")]}, ValueError, ("prompts=[('Good photo.', '')]", "an empty prompt")),
        ({"prompts": [TWO[0], TWO[0]]}, ValueError, ("a pair twice", "different pairs of opposite prompts")),
        ({"prompts": [("word " * 80, "Bad photo.")]}, ValueError, ("82 tokens", "takes 77")),
        ({"attribute": 1}, ValueError, ("attribute=1", "prompts has 1", "at most 0")),
        ({"n_context": 2, "prompts": TWO}, ValueError, ("2 pairs of prompts", "one column")),
        ({"backbone": "RN5O"}, ValueError, ("no model 'RN5O'", "such as")),
        ({"backbone": "missing.json"}, FileNotFoundError, ("'missing.json'", "FileNotFoundError")),
        ({"backbone": MEAN_POOL}, ValueError, ("clip_tiny_mean.json'", "another image tower")),
        ({"backbone": "ViT-B-16-SigLIP"}, ValueError, ("another text tower",)),
        ({"backbone_weights": "opanai"}, FileNotFoundError, ("'opanai' is neither a file nor",)),
    ],
    ids=lambda value: None if isinstance(value, type | tuple) else str(value)[:40],
)
def test_unusable_parameters_are_named(parameters, kind, parts):
    with one_sentence(kind, *parts):
        CLIPIQA(**{**TINY, **parameters}).fit(IMAGES, Y)


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("prompts", [], "a sequence of 1 or more members, each a sequence of 2 members, each an instance of 'str'"),
        ("prompts", "Good photo.", "a sequence of 1 or more members"),
        ("prompts", ("Good photo.", "Bad photo."), "a sequence of 2 members, each an instance of 'str'"),
        ("prompts", [("Good photo.", "Bad photo.", "Photo.")], "a sequence of 2 members, each an instance of 'str'"),
        ("attribute", -1, r"an int in the range \[0, inf\)"),
        ("n_context", -1, r"an int in the range \[0, inf\)"),
        ("pos_embedding", "no", "an instance of 'bool'"),
        ("backbone_weights", 5, "'os.PathLike' or None"),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused(parameter, value, accepted):
    sentence = rf"^The '{parameter}' parameter of CLIPIQA must be .*{accepted}.*\. Got .* instead\.$"
    with pytest.raises(InvalidParameterError, match=sentence):
        CLIPIQA(**{**TINY, parameter: value}).fit(IMAGES, Y)

# SPDX-License-Identifier: BSD-3-Clause
"""What each paper's recipe fixes, as a table, held against what `fit` with the default parameters does.

A row of the table says for every phase of training: the optimiser, its groups and their settings, the rate of every
step, and which parameters train. Settings that are not named must be torch's defaults. What a method draws from images,
how batches are formed, and the terms of losses are tested in the method's own file, under "Recipe".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipes import recorded

import sklearn_iqa
from sklearn_iqa.pair_input._lars import LARS

FOLDER = Path(__file__).parent
TINIEST = 4  # rows


@dataclass
class Group:
    """Parameters of the optimiser that share settings.

    Attributes
    ----------
    names : str
        Regular expression that matches whole names of the parameters, as the trained module calls them.
    lr : float
        Rate of the first step.
    settings : dict
        What else is not torch's default, such as `weight_decay`.
    """

    names: str
    lr: float
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Training:
    """One phase: a stage, or the training itself.

    Attributes
    ----------
    groups : list of Group
        In the order of the optimiser.
    optimizer : type, default=torch.optim.Adam
    stage : str, default=""
        Name of the stage; of the training itself "".
    n_epochs : int, default=None
        Epochs of a stage; those of the training itself are `max_epochs`.
    factor : callable, default=1 throughout
        (epoch, step), both from 0 -> rate, in units of that of the first step; or one factor per group.
    trained : callable, default=all of the groups
        epoch -> regular expression of the names that have a gradient in it.
    evaluated : str, default=""
        Regular expression of the BatchNorm and dropout modules that stay in eval mode.
    """

    groups: list[Group]
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    stage: str = ""
    n_epochs: int | None = None
    factor: Callable[[int, int], float | list[float]] = lambda epoch, step: 1.0
    trained: Callable[[int], str] = lambda epoch: ".*"
    evaluated: str = ""


@dataclass
class Recipe:
    """The recipe of a method.

    Attributes
    ----------
    phases : list of Training
        In their order.
    defaults : dict
        What the constructor gives of itself; the recorded training takes these too, where `tiny` does not say another.
    tiny : dict
        What makes the recorded training small, beside the method's `_test_params`.
    n_rows : int, default=4
        Images or pairs that it learns from.
    fit : dict
        Further arguments of `fit`.
    labels : callable, default=numbers from 0
        Number of rows -> y.
    one_scene : bool, default=False
        Whether all pairs have one reference.
    """

    phases: list[Training]
    defaults: dict[str, Any]
    tiny: dict[str, Any] = field(default_factory=dict)
    n_rows: int = TINIEST
    fit: dict[str, Any] = field(default_factory=dict)
    labels: Callable[[int], Any] = lambda n: np.arange(n, dtype=float)
    one_scene: bool = False


def driqa_phase(trained, **kwargs):
    """A phase of DRIQA's training, in which biases and BatchNorm's gains do not decay; `trained` are parts."""
    gains = r".*\.(bn\d|downsample\.2|[qd][st]e_1\.[14])\.weight"
    settings = {"momentum": 0.9, "nesterov": True}
    groups = [
        Group(rf".*\.bias|{gains}", 0.16, settings),
        Group(rf"(?!{gains}).*\.weight", 0.16, {**settings, "weight_decay": 1e-4}),
    ]
    return Training(groups, torch.optim.SGD, trained=lambda epoch: rf"network\.({trained})\..*", **kwargs)


def re_iqa_rate(epoch, step, n_epochs, n_batches):
    """Rate of ReIQA: PyContrast's cosine, of epochs counted from 1, behind a warm-up of five epochs by steps."""
    top, end = (0.012 + 11.988 * (1 + np.cos(np.pi * done / n_epochs)) / 2 for done in (5, epoch + 1))
    return 0.01 + (top - 0.01) * step / (5 * n_batches) if epoch < 5 else end


RECIPES = {
    # Talebi and Milanfar: the new layer at ten times the rate, rates lower by 5 % every ten epochs; Adam is pyiqa's.
    "NIMA": Recipe(
        phases=[
            Training(
                [Group(r"classifier\..*", 5e-4), Group(r"base_model\..*", 5e-5)],
                factor=lambda epoch, step: 0.95 ** (epoch // 2),
            )
        ],
        defaults={"lr": 5e-5, "batch_size": 64, "max_epochs": 20, "dropout": 0.75}
        | {"solver": "adam", "momentum": 0.9, "lr_decay": 0.95, "lr_step": 10},
        tiny={"max_epochs": 5, "lr_step": 2},
    ),
    # Yang et al.: the rate swings between its full value and zero, by batches.
    "MANIQA": Recipe(
        phases=[
            Training(
                [Group(r".*", 1e-5, {"weight_decay": 1e-5})],
                factor=lambda epoch, step: (1 + np.cos(np.pi * step / 50)) / 2,
            )
        ],
        defaults={"lr": 1e-5, "batch_size": 8, "max_epochs": 30, "weight_decay": 1e-5, "drop": 0.1, "scale": 0.8},
        tiny={"batch_size": 2, "max_epochs": 3},
    ),
    # Su et al.: the hyper network's rate is ten times as high and falls to a tenth every six of the authors' epochs, of
    # 25 crops each; after the tenth, which this run does not reach, the factor of ten ends.
    "HyperIQA": Recipe(
        phases=[
            Training(
                [
                    Group(r"res\..*", 2e-5, {"weight_decay": 5e-4}),
                    Group(r"lda\d_.*", 2e-5, {"weight_decay": 5e-4}),
                    Group(r"(conv1|fc\d)[._bw].*", 2e-4, {"weight_decay": 5e-4}),
                ],
                factor=lambda epoch, step: [1.0, 1.0, 0.1 ** (epoch // 2)],
            )
        ],
        defaults={
            **{"lr": 2e-5, "lr_ratio": 10.0, "lr_step": 6 * 25, "max_epochs": 16 * 25, "batch_size": 96},
            **{"weight_decay": 5e-4, "crop_size": 224, "image_size": None},
        },
        tiny={"crop_size": 32, "lr_step": 2, "max_epochs": 6},
    ),
    # Qin et al., for LIVE Challenge: a warm-up of three of the authors' epochs, of ten crops each, then a tenth every
    # three. Vectors, positions and the class token do not decay.
    "DEIQT": Recipe(
        phases=[
            Training(
                [
                    *(
                        Group(names, 2e-7, {"weight_decay": 0.0})
                        for names in (r".*bias", r".*norm\d?\.weight", r"vit\.pos_embed", r"vit\.cls_token")
                    ),
                    Group(
                        r"head\.bunch_embedding|.*in_proj_weight|.*(?<!norm)(?<!norm\d)\.weight",
                        2e-7,
                        {"weight_decay": 0.05},
                    ),
                ],
                optimizer=torch.optim.AdamW,
                factor=lambda epoch, step: 1 + 999 * epoch / 3 if epoch < 3 else 1000 * 0.1 ** ((epoch - 3) // 2),
            )
        ],
        defaults={
            **{"lr": 2e-4, "warmup_epochs": 3 * 10, "lr_step": 3 * 10, "max_epochs": 9 * 10, "batch_size": 16},
            **{"weight_decay": 0.05, "image_size": None, "n_members": 6},
        },
        tiny={"warmup_epochs": 3, "lr_step": 2, "max_epochs": 8},
    ),
    # Sun et al.: graphs of types and levels first, at constant rates throughout; the backbone never learns, the
    # statistics of its BatchNorm do.
    "GraphIQA": Recipe(
        phases=[
            Training(
                [Group(r".*", 1e-5)],
                stage="types and levels",
                n_epochs=1,
                trained=lambda epoch: r"0\.(gcn_v|gcn_e|hyperpred|domain_learner)\..*",
            ),
            Training([Group(r".*", 5e-6)], trained=lambda epoch: r"(gcn_v|gcn_e|hyperpredmos)\..*"),
        ],
        defaults={
            **{"lr": 5e-6, "max_epochs": 50 * 25, "batch_size": 32, "edge_dim": 16, "crop_size": 224},
            **{"pretrain_lr": 1e-5, "pretrain_steps": 5000},
        },
        tiny={"crop_size": 32, "pretrain_steps": 3, "batch_size": 4, "max_epochs": 3},
    ),
    # insert: MANIQA, HyperIQA, DEIQT, GraphIQA
    # The official code: two steps of Adam per episode, of which there are two in an epoch here; rates that fell already
    # fall again, by 0.9 ** (epoch // 2) in meta-training and 0.8 ** (epoch // 10) in fine-tuning.
    "MetaIQA": Recipe(
        phases=[
            Training(
                [Group(r"network\.net\..*", 1e-2), Group(r"network\.resnet_layer\..*", 1e-4)],
                stage="meta-training",
                n_epochs=5,
                factor=lambda epoch, step: 0.9 ** sum(i // 2 for i in range(step // 4 + 1)),
            ),
            Training([Group(".*", 1e-4)], factor=lambda epoch, step: 0.8 ** sum(i // 10 for i in range(epoch + 1))),
        ],
        defaults={"meta_epochs": 50, "meta_task_batch": 5, "inner_lr": 1e-4, "batch_size": 50, "max_epochs": 100}
        | {"lr": 1e-4, "image_size": 224},
        tiny={"meta_epochs": 5, "max_epochs": 12, "image_size": 32},
        fit={"distortion": ["jpeg", "jpeg", "blur", "blur"]},
    ),
    # The official code: SGD for the S-CNN, from 1e-2 to 1e-5 in equal factors, and for the last layer alone; then Adam.
    "DBCNN": Recipe(
        phases=[
            Training(
                [Group(".*", 1e-2, {"momentum": 0.9, "weight_decay": 5e-4})],
                torch.optim.SGD,
                stage="S-CNN",
                n_epochs=3,
                factor=lambda epoch, step: 1e-3 ** (epoch / 2),
            ),
            Training(
                [Group(".*", 1e-3, {"momentum": 0.9, "weight_decay": 5e-4})],
                torch.optim.SGD,
                stage="last layer",
                n_epochs=2,
                trained=lambda epoch: r"network\.fc\..*",
            ),
            Training([Group(".*", 1e-5, {"weight_decay": 5e-4})]),
        ],
        defaults={"scnn_epochs": 30, "scnn_batch_size": 128, "scnn_lr": 1e-2, "head_epochs": 50, "head_lr": 1e-3}
        | {"batch_size": 8, "max_epochs": 50, "lr": 1e-5, "weight_decay": 5e-4, "crop_size": 384},
        tiny={"scnn_epochs": 3, "head_epochs": 2, "max_epochs": 2, "crop_size": 32},
    ),
    # The official code: a tenth of the rate in the backbone, all rates a tenth every eight epochs, no weight decay.
    "KonIQPlusPlus": Recipe(
        phases=[
            Training(
                [Group(r"features\..*", 1e-5), Group(r"sub_.*", 1e-4)],
                factor=lambda epoch, step: 0.1 ** (epoch // 8),
            )
        ],
        defaults={"lr": 1e-4, "lr_step": 8, "batch_size": 8, "max_epochs": 25, "monotonicity": 0.0, "n_defects": 4}
        | {"image_size": (480, 640)},
        tiny={"max_epochs": 9, "image_size": (32, 64)},
        fit={"defects": np.arange(16.0).reshape(4, 4)},
    ),
    # Zhang et al., 2021: the last layer alone for three epochs; the rate falls to a tenth every three of both.
    "UNIQUE": Recipe(
        phases=[
            Training(
                [Group(r".*", 1e-4, {"weight_decay": 5e-4})],
                factor=lambda epoch, step: 0.1 ** (epoch // 3),
                trained=lambda epoch: r"network\.fc\..*" if epoch < 3 else ".*",
            )
        ],
        defaults={
            **{"lr": 1e-4, "lr_step": 3, "weight_decay": 5e-4, "max_epochs": 12, "warmup_epochs": 3},
            **{"batch_size": 32, "warmup_batch_size": 128, "n_pairs": "auto", "crop_size": 384},
            **{"backbone": "resnet34.tv_in1k", "backbone_weights": "imagenet"},
        },
        tiny={"backbone": "test_resnet", "backbone_weights": None, "crop_size": 32, "max_epochs": 7},
        labels=lambda n: np.stack([np.arange(n), 1 + np.arange(n)], axis=1),
    ),
    # Zhang et al., 2023: all but CLIP's factor; the rate swings between its full value and zero in five epochs, and
    # epochs at zero, the sixth and every tenth behind it, are skipped.
    "LIQE": Recipe(
        phases=[
            Training(
                [Group(r".*", 5e-6, {"weight_decay": 1e-3})],
                optimizer=torch.optim.AdamW,
                factor=lambda epoch, step: (1 + np.cos(np.pi * (epoch + (epoch > 4)) / 5)) / 2,
                trained=lambda epoch: r"(?!.*logit_scale).*",
            )
        ],
        defaults={
            **{"lr": 5e-6, "weight_decay": 1e-3, "max_epochs": 80, "batch_size": 48, "steps_per_epoch": 200},
            **{"domain_batch_sizes": None, "n_crops": 15, "scenes": None, "distortions": None},
            **{"backbone": "ViT-B-32-quickgelu", "backbone_weights": "openai"},
        },
        tiny={
            **{"backbone": str(FOLDER / "clip_tiny_vit.json"), "backbone_weights": None, "steps_per_epoch": 1},
            **{"scenes": ("indoor", "others"), "distortions": ("blur", "other"), "max_epochs": 12},
        },
        fit={"scene": ["indoor", "others"] * 2, "distortion": ["blur", "blur", "other", "other"]},
    ),
    # Cao et al., as far as they say: all but the backbone, at a constant rate; a quarter of the pairs has no label.
    "JSPL": Recipe(
        phases=[
            Training(
                [Group(r".*", 1e-4)],
                trained=lambda epoch: r"(reduce|attention|head|classifier)\..*",
                evaluated=r"cnn\..*",
            )
        ],
        defaults={
            **{"lr": 1e-4, "batch_size": 32, "max_epochs": 50, "crop_size": 192, "threshold": 0.5, "decay": 0.95},
            **{"unlabelled_weight": 1.0, "warmup": 0.2, "pu_weights": (1.0, 1.0, 1.0), "window_size": 7},
            **{"n_directions": 256, "embed_dim": 256, "backbone": "inception_resnet_v2.tf_in1k"},
        },
        tiny={
            **{"backbone": "test_resnet", "crop_size": 32, "max_epochs": 2, "window_size": 2},
            **{"n_directions": 8, "embed_dim": 8},
        },
        n_rows=8,
        labels=lambda n: np.where(np.arange(n) < 6, np.arange(n), np.nan),
    ),
    # insert: UNIQUE, LIQE, JSPL
    # The official code: ten epochs of comparisons, twenty of distillation, at a constant rate.
    "DRIQA": Recipe(
        phases=[
            driqa_phase("qse_[12]|aux_csp|fc1_", stage="comparisons", n_epochs=10),
            driqa_phase("[qd][st]e_[12]|csp|fc_"),
        ],
        defaults={"lr": 0.16, "batch_size": 64, "comparison_epochs": 10, "max_epochs": 20, "weight_decay": 1e-4}
        | {"distillation_weight": 30.0, "elo_scale": None, "image_size": 288, "head_width": 2048},
        tiny={"max_epochs": 3, "image_size": 32, "head_width": 64},
        one_scene=True,
    ),
    # Yin et al.: the teacher's rate falls to a tenth after 20 epochs, the student's after every 30; no part of the
    # backbone, nor of the teacher behind its stage, learns.
    "CVRKDIQA": Recipe(
        phases=[
            Training(
                [Group(".*", 2e-4, {"weight_decay": 5e-4})],
                stage="teacher",
                n_epochs=22,
                factor=lambda epoch, step: 0.1 ** (epoch // 20),
                trained=lambda epoch: r"(?!feature_extractor\.).*",
                evaluated=r"feature_extractor\..*",
            ),
            Training(
                [Group(".*", 2e-5, {"weight_decay": 5e-4})],
                factor=lambda epoch, step: 0.1 ** (epoch // 30),
                trained=lambda epoch: r"student\.(?!feature_extractor\.).*",
                evaluated=r"student\.feature_extractor\..*",
            ),
        ],
        defaults={"teacher_lr": 2e-4, "teacher_epochs": 100, "lr": 2e-5, "max_epochs": 100, "weight_decay": 5e-4}
        | {"batch_size": 32, "n_crops": 10, "crops": "grid", "crop_size": 224, "distilled_blocks": None}
        | {"embed_dim": 256, "depth": 9},
        tiny={"teacher_epochs": 22, "max_epochs": 61, "n_crops": 1, "crop_size": 32, "embed_dim": 16, "depth": 1},
    ),
    # Lao et al.: half a cosine in 50 steps, and back in 50; both backbones frozen.
    "AHIQ": Recipe(
        phases=[
            Training(
                [Group(".*", 1e-4, {"weight_decay": 1e-5})],
                factor=lambda epoch, step: (1 + np.cos(np.pi * step / 50)) / 2,
                trained=lambda epoch: r"(deform_net|regressor)\..*",
                evaluated=r"(vit|cnn)\..*",
            )
        ],
        defaults={"lr": 1e-4, "weight_decay": 1e-5, "batch_size": 4, "max_epochs": 200}
        | {"n_crops": 20, "crops": "grid", "embed_dim": 256},
        tiny={"max_epochs": 3, "embed_dim": 8},
    ),
    # The port, as AHIQ; without the causal mask, behind which a part of the decoder has no gradient but of rounding.
    "IQT": Recipe(
        phases=[
            Training(
                [Group(".*", 2e-4, {"weight_decay": 1e-5})],
                factor=lambda epoch, step: (1 + np.cos(np.pi * step / 50)) / 2,
                trained=lambda epoch: r"(?!cnn\.).*",
                evaluated=r"cnn\..*",
            )
        ],
        defaults={"lr": 2e-4, "weight_decay": 1e-5, "batch_size": 16, "max_epochs": 300, "drop": 0.1, "crop_size": 192}
        | {"causal": True, "n_crops": 20, "crops": "grid"},
        tiny={"max_epochs": 102, "crop_size": 32, "causal": False},
    ),
    # insert: DRIQA, CVRKDIQA, AHIQ, IQT
    # Zhang et al.: BAPPS, ten epochs: the rate falls by a fifth behind each from the sixth on. Trunk frozen ("lin").
    "LPIPS": Recipe(
        phases=[
            Training(
                [Group(".*", 1e-4, {"betas": (0.5, 0.999)})],
                factor=lambda epoch, step: min(1, (10 - epoch) / 5),
                trained=lambda epoch: r"lin\d\.model\.1\.weight",
            )
        ],
        defaults={
            **{"net": "alex", "version": "0.1", "weighted": True, "trainable": "heads", "backbone_weights": "imagenet"},
            **{"crop_size": 64, "batch_size": 50, "max_epochs": 10, "lr": 1e-4},
        },
        tiny={"net": "squeeze", "backbone_weights": None, "crop_size": 32},
    ),
    # Ghildyal and Liu: as LPIPS, but all from random numbers.
    "STLPIPS": Recipe(
        phases=[
            Training([Group(".*", 1e-4, {"betas": (0.5, 0.999)})], factor=lambda epoch, step: min(1, (10 - epoch) / 5))
        ],
        defaults={
            **{"net": "alex", "trainable": "all", "crop_size": 64},
            **{"batch_size": 50, "max_epochs": 10, "lr": 1e-4},
        },
        tiny={"crop_size": 24},
    ),
    # Wang et al.: words alone, by SGD without momentum; the fall of the rate shows in its own test file only.
    "CLIPIQA": Recipe(
        phases=[
            Training(
                [Group(".*", 0.002)],
                optimizer=torch.optim.SGD,
                trained=lambda epoch: r"network\.contexts\.0",
                evaluated=r"network\.clip\..*",
            )
        ],
        defaults={
            **{"prompts": (("Good photo.", "Bad photo."),), "backbone": "RN50-quickgelu", "pos_embedding": False},
            **{"backbone_weights": "openai", "batch_size": 128, "max_epochs": 1450, "lr": 0.002},
        },
        tiny={"backbone": str(FOLDER / "clip_tiny_resnet.json"), "backbone_weights": None, "max_epochs": 2},
    ),
    # Thong et al., after the names of the released runs (bs64, ep10, ps256, wd 1e-4); the rate is chosen here, see the
    # page.
    "ContentDiverseIQA": Recipe(
        phases=[
            Training(
                [Group(".*", 1e-4, {"weight_decay": 1e-4})],
                factor=lambda epoch, step: 0.1 + 0.9 * (1 + np.cos(np.pi * epoch / 10)) / 2,
            )
        ],
        defaults={
            **{"distance": "dists", "net": "vgg", "trainable": "all", "backbone_weights": "imagenet"},
            **{"pair_loss": "bce", "pair_weight": 1.0, "pearson_weight": 1.0, "spearman_weight": 1.0},
            **{"kendall_weight": 1.0, "correlation_error": "abs", "logistic": True, "temperature": 0.01},
            **{"margin": 0.2, "non_negative": False, "crop_size": 256, "weight_decay": 1e-4},
            **{"batch_size": 64, "max_epochs": 10, "lr": 1e-4},
        },
        tiny={"net": "squeeze", "backbone_weights": None, "crop_size": 32},
    ),
    # insert: LPIPS, STLPIPS, CLIPIQA, ContentDiverseIQA
    # Saha et al.: LARS with a warm-up of five epochs from 0.01 to the cosine of 12, which ends at a thousandth; here of
    # eight epochs. What the copy for the keys holds follows the encoder and is never trained.
    "ReIQA": Recipe(
        phases=[
            Training(
                [Group(r"(key_)?encoder\..*", 0.01, {"weight_decay": 1e-4})],
                optimizer=LARS,
                factor=lambda epoch, step: re_iqa_rate(epoch, step, n_epochs=8, n_batches=2) / 0.01,
                trained=lambda epoch: r"encoder\..*",
            )
        ],
        defaults={
            **{"trained": "quality", "quality_weights": None, "lr": 12.0, "max_epochs": 40, "warmup_epochs": 5},
            **{"batch_size": 630, "n_distorted": 11, "second_distortion": 0.0, "patch_size": 160, "n_groups": 6},
            **{"queue_size": 65536, "momentum": 0.999, "temperature": 0.2, "weight_decay": 1e-4},
            **{"content_epochs": 200, "content_size": 224, "content_batch_size": 256, "content_lr": 0.03},
        },
        tiny={"max_epochs": 8, "batch_size": 2, "n_distorted": 1, "patch_size": 16, "queue_size": 16},
        labels=None,
    ),
    # Zhao et al., as MoCo v2: half a cosine down to zero over all epochs.
    "QPT": Recipe(
        phases=[
            Training(
                [Group(r"(key_)?encoder\..*", 0.03, {"momentum": 0.9, "weight_decay": 1e-4})],
                optimizer=torch.optim.SGD,
                factor=lambda epoch, step: (1 + np.cos(np.pi * epoch / 4)) / 2,
                trained=lambda epoch: r"encoder\..*",
            )
        ],
        defaults={
            **{"lr": 0.03, "max_epochs": 200, "batch_size": 256, "crop_size": 224, "n_rounds": 2, "skip": 0.5},
            **{"queue_size": 65536, "batch_negatives": False, "momentum": 0.999, "temperature": 0.2},
            **{"weight_decay": 1e-4},
        },
        tiny={"max_epochs": 4, "batch_size": 2, "crop_size": 32, "queue_size": 16},
        labels=None,
    ),
    # Gu et al.: a tenth at a quarter, half and three quarters of the epochs.
    "GIQA": Recipe(
        phases=[
            Training(
                [Group(r".*", 0.05, {"momentum": 0.9, "weight_decay": 5e-4})],
                optimizer=torch.optim.SGD,
                factor=lambda epoch, step: 0.1 ** (epoch // 2),
            )
        ],
        defaults={
            **{"lr": 0.05, "max_epochs": 112, "batch_size": 512, "weight_decay": 5e-4, "input_size": 192},
            **{"n_thresholds": 7, "thresholds": None},
        },
        tiny={"max_epochs": 8, "batch_size": 2, "input_size": 32},
    ),
    # Ke et al., for KonIQ-10k: half a cosine down to zero; no decay in fine-tuning.
    "MUSIQ": Recipe(
        phases=[
            Training(
                [Group(r".*", 1e-4, {"momentum": 0.9})],
                optimizer=torch.optim.SGD,
                factor=lambda epoch, step: (1 + np.cos(np.pi * epoch / 4)) / 2,
            )
        ],
        defaults={
            **{"lr": 1e-4, "max_epochs": 30, "batch_size": 96, "max_patches": 512, "longer_sides": (224, 384)},
            **{"n_bins": 1},
        },
        tiny={"max_epochs": 4, "batch_size": 2, "max_patches": 4, "longer_sides": (32,)},
    ),
    # insert: ReIQA, QPT, GIQA, MUSIQ
}


def small(name):
    """The method in its small form; what the recipe's defaults say is left to the constructor."""
    method, recipe = getattr(sklearn_iqa, name), RECIPES[name]
    params = {key: value for key, value in method._test_params.items() if key not in recipe.defaults}
    params = {key: str(FOLDER / value) if str(value).endswith(".json") else value for key, value in params.items()}
    return method(**{**params, "device": "cpu", "random_state": 0, **recipe.tiny})


def images(name):
    """Random images, or pairs of them."""
    method, n_rows = getattr(sklearn_iqa, name), RECIPES[name].n_rows
    X = np.random.default_rng(0).integers(0, 256, (n_rows, len(method.inputs), *method._test_size, 3), dtype=np.uint8)
    if RECIPES[name].one_scene:
        X[:, -1] = X[0, -1]
    return X if len(method.inputs) > 1 else X[:, 0]


@pytest.mark.parametrize("name", RECIPES)
def test_defaults_are_those_of_the_recipe(name):
    defaults = getattr(sklearn_iqa, name)().get_params()
    assert {key: defaults[key] for key in RECIPES[name].defaults} == RECIPES[name].defaults


@pytest.mark.parametrize("name", RECIPES)
def test_training_follows_the_recipe(name):
    recipe, estimator = RECIPES[name], small(name)
    with recorded() as phases:
        estimator.fit(images(name), *([] if recipe.labels is None else [recipe.labels(recipe.n_rows)]), **recipe.fit)
    stages = [phase.name.removeprefix(name).removeprefix(", ") for phase in phases]
    assert stages == [training.stage for training in recipe.phases]
    for phase, training in zip(phases, recipe.phases, strict=True):
        expected_epochs = estimator.max_epochs if training.n_epochs is None else training.n_epochs
        assert (phase.n_epochs, phase.optimizer) == (expected_epochs, training.optimizer)
        assert phase.groups == [_matching(phase.names, group.names) for group in training.groups]
        assert phase.settings == [group.settings for group in training.groups]
        first = np.array([group.lr for group in training.groups])
        factors = [training.factor(epoch, step) for step, epoch in enumerate(phase.epochs)]
        rates = np.array([np.broadcast_to(factor, first.shape) for factor in factors]) * first
        np.testing.assert_allclose(phase.rates, rates, rtol=1e-6, atol=1e-12)
        grouped = frozenset().union(*phase.groups)
        assert phase.trained == [_matching(grouped, training.trained(epoch)) for epoch in range(expected_epochs)]
        assert phase.evaluated == _matching(phase.moded, training.evaluated)
        assert phase.evaluated or not training.evaluated


def _matching(names, pattern) -> frozenset[str]:
    return frozenset(name for name in names if re.fullmatch(pattern, name))


def test_every_method_that_trains_has_a_recipe():
    names = [name for name in sklearn_iqa.__all__ if hasattr(getattr(sklearn_iqa, name), "_train_view")]
    trained = {name for name in names if "max_epochs" in getattr(sklearn_iqa, name)().get_params()}
    assert trained == set(RECIPES)

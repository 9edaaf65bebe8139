# SPDX-License-Identifier: BSD-3-Clause
"""
How do nine methods see one photograph getting worse?
=====================================================

All methods that compare with a reference judge one photograph, distorted in six ways at rising levels. ST-LPIPS comes
with its published weights; the others learn here, from three other photographs, in seconds, so their lines show how to
use them, not how good they are. The last figure asks five of them where an image is distorted.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import timm
import torch

import sklearn_iqa as iqa
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.distortions import distort

start = time.process_time()
kinds = ["jpeg", "gaussian_blur", "white_noise", "pixelate", "color_saturation_2", "contrast_change"]
photographs = load_photographs(size=192)
by_name = dict(zip(photographs.names, photographs.images, strict=True))
judged = make_distorted([by_name["coffee"]], distortions=kinds, levels=range(6), random_state=0)
others = [by_name[name] for name in ("astronaut", "chelsea", "flower")]
learned = make_distorted(others, distortions=kinds, levels=(0, 2, 4), random_state=1)

# %%
# Small networks stand in for the large ones of the papers: EfficientNet-Lite0 from an installed package where a method
# keeps its backbone as it is, random numbers elsewhere. `fit` sees levels of distortion in place of people's opinions.
# CVRKD-IQA may be given any good image, and gets one of other content when it judges.

lite0 = {"backbone": "tf_efficientnet_lite0", "backbone_weights": "bundled", "layers": ("blocks.2.0", "blocks.2.1")}
crops = {"crop_size": 96, "n_crops": 4, "lr": 1e-3, "batch_size": 8}
perceptual = {"net": "squeeze", "backbone_weights": None, "crop_size": 96, "batch_size": 16}

# AHIQ reads its two backbones from one file: a small transformer of random numbers, and the CNN with the weights of the
# installed package, as NIMA has it.
torch.manual_seed(0)
vit = timm.create_model("test_vit", num_classes=0)
nima = iqa.NIMA(backbone=lite0["backbone"], backbone_weights="bundled").initialize()
backbones = {"vit": vit, "cnn": nima.network_.base_model}
folder = tempfile.TemporaryDirectory()
backbone_file = Path(folder.name, "backbones.pth")
torch.save({part: backbone.state_dict() for part, backbone in backbones.items()}, backbone_file)
methods = {
    "LPIPS": iqa.LPIPS(**perceptual, lr=3e-2, max_epochs=5, random_state=0),
    "ST-LPIPS, published": iqa.STLPIPS(weights="alex-bapps"),
    "AHIQ": iqa.AHIQ(
        **{
            "vit": "test_vit",
            "vit_layers": (0,),
            "cnn": lite0["backbone"],
            "cnn_layers": lite0["layers"],
            "embed_dim": 16,
        },
        **{"backbone_weights": backbone_file, "n_crops": 2, "lr": 2e-3, "batch_size": 4, "max_epochs": 5},
        **{"random_state": 0},
    ),
    "IQT": iqa.IQT(**lite0, **crops, embed_dim=32, dim_mlp=64, dim_projection=32, max_epochs=12, random_state=0),
    "JSPL": iqa.JSPL(
        **{**lite0, **crops, "embed_dim": 64, "n_directions": 64, "window_size": 2, "head_width": 64},
        **{"pu_weights": (0, 0, 0), "max_epochs": 20, "random_state": 0},
    ),
    "DR-IQA": iqa.DRIQA(
        **{"backbone": "test_resnet", "backbone_weights": None, "image_size": 128, "comparison_epochs": 2},
        **{"max_epochs": 8, "lr": 0.01, "batch_size": 8, "random_state": 0},
    ),
    "SRIF": iqa.SRIF(),
    "CVRKD-IQA": iqa.CVRKDIQA(
        **{"backbone": "tf_efficientnet_lite0", "backbone_weights": "bundled", "embed_dim": 64, "depth": 1},
        **{"crop_size": 96, "n_crops": 2, "teacher_lr": 1e-3, "lr": 1e-3, "batch_size": 8, "random_state": 0},
        **{"teacher_epochs": 5, "max_epochs": 5},
    ),
    "ContentDiverseIQA": iqa.ContentDiverseIQA(
        **perceptual, distance="lpips", trainable="heads", lr=1e-2, max_epochs=8, random_state=0
    ),
}
pairs = iqa.make_pairs(judged.images, judged.references)
scores = {}
for name, method in methods.items():
    began = time.process_time()
    X = iqa.make_pairs(judged.images, others[0]) if name == "CVRKD-IQA" else pairs
    if method.weights is None:
        method.fit(iqa.make_pairs(learned.images, learned.references), learned.target)
        score = method.predict(X)  # in the unit of the levels, higher is better
    else:
        score = -method.predict(X)  # published: a distance
    worst, best = score.min(), score[judged.level == 0].mean()
    scores[name] = (score - worst) / (best - worst)
    print(f"{name:20} {time.process_time() - began:5.1f} s of the processor")

# %%
# One panel for each kind. Every method has its own range: 1 is what it says of the photograph beside itself, 0 its
# lowest score in all panels. Level 3 of one kind need not look as bad as level 3 of another, and there methods differ:
# how much blur is as bad as how much noise. A line that rises with the level is wrong, whatever the kind: so is that of
# DR-IQA for noise, whose backbone of random numbers has not learned to see it.

fig, axes = plt.subplots(2, 3, figsize=(11, 7), sharex=True, sharey=True, layout="constrained")
for ax, kind in zip(axes.flat, kinds, strict=True):
    part = judged.distortion == kind
    for name, score in scores.items():
        style = {"color": "black", "linewidth": 2.5} if "published" in name else {}
        ax.plot(judged.level[part], score[part], marker="o", markersize=3, label=name, **style)
    ax.set_title(kind)
fig.supxlabel("Level of distortion")
fig.supylabel("Score in the method's own range (higher is better)")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
plt.show()

# %%
# Where is it? A quarter of the photograph is blurred, and the five methods that can say where point at it, AHIQ least
# clearly, as it has to learn what is bad. Some maps tell distortion, others quality: each bar states its direction.

query = by_name["coffee"].copy()
query[:96, 96:] = distort(by_name["coffee"], "gaussian_blur", 4)[:96, 96:]

fig, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
axes[0, 0].imshow(query)
axes[0, 0].set_axis_off()
axes[0, 0].set_title("Query: upper right is blurred")
mapped = [name for name, method in methods.items() if hasattr(method, "quality_map")]
for ax, name in zip(axes.flat[1:], mapped, strict=True):
    iqa.QualityMapDisplay.from_estimator(methods[name], (query, by_name["coffee"]), ax=ax, name=name)
plt.show()
print(f"{time.process_time() - start:.0f} s of the processor in all")

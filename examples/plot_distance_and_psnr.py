# SPDX-License-Identifier: BSD-3-Clause
"""
Do a perceptual distance and PSNR agree?
========================================

Two photographs are distorted in six ways at five levels. PSNR counts the squared error of the pixels; ST-LPIPS
compares deep features and was trained on what people see. Within one kind of distortion both go
the same way. Across kinds they do not: an image of 20 dB can be fine or ruined.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from sklearn_iqa import STLPIPS, make_pairs
from sklearn_iqa.datasets import load_photographs, make_distorted
from sklearn_iqa.metrics import srcc

kinds = ["jpeg", "gaussian_blur", "white_noise", "jitter", "mean_shift", "contrast_change"]
photographs = load_photographs(size=112)
chosen = [photographs.images[photographs.names.index(name)] for name in ("astronaut", "coffee")]
data = make_distorted(chosen, distortions=kinds, random_state=0)

distance = STLPIPS(weights="alex-bapps").predict(make_pairs(data.images, data.references))
psnr = np.array([peak_signal_noise_ratio(r, q) for q, r in zip(data.images, data.references, strict=True)])

# %%
# Agreement with the level, over all images of one kind and over all kinds together. A level is the strength of a
# distortion, not an opinion of people. The distance gets a minus, as its lower values are better.

print(f"{'':16} ST-LPIPS   PSNR")
for kind in [*kinds, "all"]:
    part = (data.distortion == kind) | (kind == "all")
    by_distance, by_psnr = (srcc(data.target[part], score[part]) for score in (-distance, psnr))
    print(f"{kind:16} {by_distance:8.3f} {by_psnr:6.3f}")

# %%
# One panel for each kind, a line for each photograph, and all other points in grey. Follow the height of 20 dB from
# panel to panel: a shift of brightness has almost no perceptual distance there, displaced pixels (jitter) little, blur
# more than any other.

fig, axes = plt.subplots(2, 3, figsize=(10, 6), sharex=True, sharey=True, layout="constrained")
for ax, kind in zip(axes.flat, kinds, strict=True):
    ax.scatter(distance, psnr, s=6, color="lightgrey")
    for group in range(len(chosen)):
        line = (data.distortion == kind) & (data.groups == group)
        ax.plot(distance[line], psnr[line], marker="o", markersize=4)
    ax.set_title(kind)
fig.supxlabel("ST-LPIPS (lower is better)")
fig.supylabel("PSNR in dB (higher is better)")
plt.show()

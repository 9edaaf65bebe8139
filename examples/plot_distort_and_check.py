# SPDX-License-Identifier: BSD-3-Clause
"""
What do the 25 distortions look like?
=====================================

The kinds of KADID-10k, each in five levels of rising strength. They make training material, and they check a method: a
score that does not fall when an image gets worse cannot be trusted.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.distortions import DISTORTIONS, distort

photographs = load_photographs(size=128)
original = photographs.images[photographs.names.index("chelsea")]
versions = {kind: [distort(original, kind, level, random_state=0) for level in range(1, 6)] for kind in DISTORTIONS}

# %%
# The check: PSNR, the error of the pixels in decibels, falls from level to level for every kind.

psnr = {
    kind: np.array([peak_signal_noise_ratio(original, image) for image in images]) for kind, images in versions.items()
}
rising = [kind for kind, decibels in psnr.items() if (np.diff(decibels) >= 0).any()]
print("kinds whose PSNR does not fall at every step:", rising or "none")

# %%
# All kinds at levels 1, 3 and 5, from left to right, with their PSNR.

fig, axes = plt.subplots(9, 3, figsize=(10, 12.5), layout="compressed")
for ax in axes.flat:
    ax.set_axis_off()
for ax, (kind, images) in zip(axes.flat, versions.items(), strict=False):
    ax.imshow(np.hstack(images[::2]))
    ax.set_title(f"{kind}: " + ", ".join(f"{decibels:.0f}" for decibels in psnr[kind][::2]) + " dB", fontsize=9)
plt.show()

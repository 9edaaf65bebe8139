# SPDX-License-Identifier: BSD-3-Clause
"""
How good is this image, and where is it bad?
============================================

A photograph is compressed harder and harder. The model that comes with the package scores each version by itself, and
ST-LPIPS with its published weights compares it with the original. Nothing is trained. The numbers say how good a
version is and how far from the original, the map says where.
"""

import matplotlib.pyplot as plt

from sklearn_iqa import STLPIPS, QualityMapDisplay, load_quality_model, make_pairs
from sklearn_iqa.datasets import load_photographs
from sklearn_iqa.distortions import distort

photographs = load_photographs(size=256)
original = photographs.images[photographs.names.index("coffee")]
levels = [1, 3, 5]
queries = [distort(original, "jpeg", level, random_state=0) for level in levels]

# %%
# One line gives a score: what people would say, from 0 (bad) to 1 (excellent).

scores = load_quality_model().predict([original, *queries])
print("score of the original and of JPEG level 1, 3, 5:", scores.round(2))

# %%
# Methods that compare take pairs (query, reference). The published number of ST-LPIPS is a distance: 0 means equal, and
# the estimator says which way it points.

stlpips = STLPIPS(weights="alex-bapps")
distances = stlpips.predict(make_pairs(queries, original))
print("higher is better:", stlpips.higher_is_better)
print("distance at JPEG level 1, 3, 5:", distances.round(3))

# %%
# Levels 1 and 3 look alike, to people and to the method. At level 5 the shading falls apart into blocks of one colour,
# and the map lights up there: on the table around the saucer and along the rims. All maps share one scale.

fig, axes = plt.subplots(2, 3, figsize=(10, 6), layout="compressed")
maps = [
    QualityMapDisplay.from_estimator(stlpips, (query, original), ax=ax, name="", alpha=1.0, cmap="magma")
    for query, ax in zip(queries, axes[1], strict=True)
]
highest = max(one.quality_map.max() for one in maps)
for one, query, ax, level, distance in zip(maps, queries, axes[0], levels, distances, strict=True):
    one.map_.set_clim(0, highest)
    ax.imshow(query)
    ax.set_axis_off()
    ax.set_title(f"JPEG, level {level}: distance {distance:.3f}")
plt.show()

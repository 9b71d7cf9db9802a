"""ComfyUI: ``diffusion_model.`` and the native name, or names of diffusers where it takes them (its ``comfy/lora.py``)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, Kronecker, LowRank, check_fits, is_dora
from finetrainers.export.formats.native import Keys, Weights, matrices, native_layers, scaled, whole_change
from finetrainers.export.names import Names, Native
from finetrainers.export.source import Adapter

ENDINGS = (".lora_A.weight", ".lora_B.weight")


def comfyui_keys(adapter: Adapter, names: Names, weights: Weights) -> Keys:
    """Write changes in the keys that ComfyUI reads for a family; for DoRA, the base's weights are read.

    Raises:
        ConfigError: If it is DoRA of a family whose code there reads none.
    """
    refuse_dora(adapter.changes, names)
    if names.comfyui != "native":
        return _by_own_names(adapter, names, weights)
    layers = native_layers(adapter.changes, names)
    keys = Keys(lost=layers.lost)
    for native, parts in layers.parts.items():
        name = f"diffusion_model.{native.name}"
        keys.tensors |= matrices(name, whole_change(native, parts), ENDINGS, always_alpha=False)
        if any(is_dora(part) for part in parts.values()):
            keys.tensors[f"{name}.dora_scale"] = _dora_scale(native, parts, adapter, names, weights)
    return keys


def _by_own_names(adapter: Adapter, names: Names, weights: Weights) -> Keys:
    """Keys by names of diffusers."""
    keys = Keys()
    for layer, change in adapter.changes.items():
        is_lycoris = isinstance(change, Kronecker) and names.comfyui == "diffusers"
        name = f"lycoris_{layer.replace('.', '_')}" if is_lycoris else f"transformer.{layer}"
        written = scaled(change) if names.comfyui == "scaled" else change
        keys.tensors |= matrices(name, written, ENDINGS, always_alpha=False)
        if is_dora(change):
            keys.tensors[f"{name}.dora_scale"] = _scale_of(change, weights(layer))
    return keys


def refuse_dora(changes: Mapping[str, Change], names: Names) -> None:
    """Refuse what is not read where a custom node generates with a family.

    Raises:
        ConfigError: If there is a magnitude.
    """
    if names.comfyui == "scaled" and any(is_dora(change) for change in changes.values()):
        raise ConfigError(
            f"--to comfyui: what generates with {names.family} there reads no DoRA; take --to diffusers, or --rank N, "
            "which makes a LoRA of it"
        )


def _dora_scale(native: Native, parts: Mapping[int, Change], adapter: Adapter, names: Names, weights: Weights) -> Tensor:
    """Scales of all rows of a native layer [O, 1]; rows that do not change are scaled to the length that they have."""
    own = native.layers or tuple(layer for layer in adapter.changes if names.find(layer) == native)
    return torch.cat([_scale_of(parts.get(number), weights(layer)) for number, layer in enumerate(own)])


def _scale_of(change: Change | None, weight: Tensor) -> Tensor:
    """What ComfyUI multiplies rows with, after it has divided them by their length before the change [O, 1].

    peft divides by their length after it (arXiv:2402.09353), so the magnitude itself is not what ComfyUI takes.
    """
    before = weight.float().flatten(1)
    length: Tensor = before.norm(dim=1)
    if isinstance(change, LowRank) and change.magnitude is not None:
        check_fits(change, weight)
        after: Tensor = (before + change.product()).norm(dim=1)
        length = change.magnitude.float() * length / after
    return length[:, None]

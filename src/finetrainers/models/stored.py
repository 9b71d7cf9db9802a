"""A network whose weights stay in its files, which are mapped, until each is read on its way to the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""As files name those that networks are made in."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A network as its files have it."""

    network: Any
    """On the host; its weights have the types of its files."""
    types: Mapping[str, torch.dtype]
    """Types that its parameters and buffers have where they work; those that are not named have them already."""
    mapped: Mapping[str, Tensor]
    """Its parameters, by name, that are in memory once for all processes of a host."""


def stored_of(network: Any, own: torch.dtype, types: Mapping[str, torch.dtype]) -> Stored | None:
    """Tell what of a network is mapped.

    Args:
        network: As its files have it.
        own: Type of its files.
        types: As ``Stored`` has them.

    Returns:
        None if it computes buffers in the type of its files, which are other ones in the type that is asked for.
    """
    saved = network.state_dict().keys()
    if any(types.get(name, buffer.dtype) != buffer.dtype and name not in saved for name, buffer in network.named_buffers()):
        return None
    return Stored(network, types, mapped_of(network, own))


def mapped_of(network: nn.Module, own: torch.dtype) -> dict[str, Tensor]:
    """Find the parameters that are as files of this type have them: others were cast."""
    return {name: weight.detach() for name, weight in network.named_parameters() if weight.dtype == own}


def type_of(files: Sequence[Path]) -> torch.dtype | None:
    """The type of all numbers with a point in safetensors files, by their headers; None if there are several or none."""
    found = set[str]()
    try:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError):
        return None  # whoever reads them says what is wrong
    floating = {name for name in found if not name.startswith(("I", "U", "BOOL"))}
    return TYPES.get(floating.pop()) if len(floating) == 1 else None


def mapped_in(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files, none of which is read yet."""
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name; what is tied has one name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}

"""Changes of layers in diffusers as changes of native layers, where q, k and v may be one matrix."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from finetrainers.export.changes import Change, Kronecker, LowRank
from finetrainers.export.names import Names, Native

Weights = Callable[[str], Tensor]
"""Reads the weight of a layer of the base, by its name in diffusers."""


@dataclass(slots=True)
class Keys:
    """What is written, and what the format has no place for."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """Layers that it cannot carry, by name in diffusers, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the header has to say for them to count as they do."""


@dataclass(slots=True)
class Layers:
    """Changes by native layer."""

    parts: dict[Native, dict[int, Change]] = field(default_factory=dict)
    """Of each native layer, as its first part: the parts that change."""
    lost: dict[str, str] = field(default_factory=dict)


def native_layers(changes: Mapping[str, Change], names: Names) -> Layers:
    """Sort changes by the native layers that hold them."""
    layers = Layers()
    for layer, change in changes.items():
        native = names.find(layer)
        if native is None:
            layers.lost[layer] = f"{names.family} has no layer for it"
        elif isinstance(change, Kronecker) and len(native.parts) > 1:
            layers.lost[layer] = (
                "it is rows of a larger matrix there, which LoKr cannot change alone; --rank N makes it LoRA"
            )
        else:
            layers.parts.setdefault(replace(native, part=0), {})[native.part] = change
    return layers


def whole_change(native: Native, parts: Mapping[int, Change]) -> Change:
    """The change of a native layer, of which some parts change."""
    if len(native.parts) == 1:
        return parts[0]
    return joined({number: part for number, part in parts.items() if isinstance(part, LowRank)}, native)


def joined(parts: Mapping[int, LowRank], native: Native) -> LowRank:
    """Make the change of a whole matrix from those of its parts [O_n, I], exactly: each part has ranks of its own.

    Rows of parts that do not change are zeros. Magnitudes are left out.
    """
    width = next(iter(parts.values())).down.shape[1]
    rows = [width * multiple for multiple in native.parts]
    scales = {part.scale for part in parts.values()}
    scale = scales.pop() if len(scales) == 1 else 1.0
    up = torch.zeros(sum(rows), sum(part.rank for part in parts.values()), dtype=next(iter(parts.values())).up.dtype)
    rank = 0
    for number, part in sorted(parts.items()):
        begin = sum(rows[:number])
        up[begin : begin + rows[number], rank : rank + part.rank] = part.up * (part.scale / scale)
        rank += part.rank
    return LowRank(torch.cat([part.down for _, part in sorted(parts.items())]), up, scale)


def matrices(name: str, change: Change, endings: tuple[str, str], *, always_alpha: bool) -> dict[str, Tensor]:
    """Keys of one layer: its matrices, and beside them ``alpha``, which readers divide by the rank and multiply by.

    Args:
        name: Of the layer, as the format has it.
        change: Of the layer.
        endings: Of the keys of down and up.
        always_alpha: Write it where it changes nothing as well.
    """
    rank = change.rank
    tensors = (
        {f"{name}{endings[0]}": change.down, f"{name}{endings[1]}": change.up}
        if isinstance(change, LowRank)
        else {f"{name}.{factor}": tensor for factor, tensor in change.factors.items()}
    )
    if rank is None:  # two whole factors: readers take no alpha
        first = f"{name}.lokr_w1"
        return {**tensors, first: tensors[first] * change.scale}
    if change.scale != 1.0 or always_alpha:
        tensors[f"{name}.alpha"] = torch.tensor(float(change.scale * rank))
    return tensors


def scaled(change: Change) -> Change:
    """The same change without a scale beside its matrices."""
    if isinstance(change, LowRank):
        return LowRank(change.down, change.up * change.scale, 1.0, change.magnitude)
    first = next(name for name in ("lokr_w1", "lokr_w1_a") if name in change.factors)
    return Kronecker({**change.factors, first: change.factors[first] * change.scale}, 1.0)

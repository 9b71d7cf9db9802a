"""Names of layers in the authors' checkpoints, which other programs use, by their names in diffusers.

A table has blocks by the place of their number, which is written as ``*``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Native:
    """The layer of an original checkpoint that holds a layer of diffusers."""

    name: str
    part: int = 0
    """Which of its parts the layer of diffusers is."""
    parts: tuple[int, ...] = (1,)
    """How many rows each part has, as multiples of the layer's inputs: (1, 1, 1) where q, k and v are one matrix."""
    layers: tuple[str, ...] = ()
    """Names of all parts in diffusers, where there are several."""


QKV = (1, 1, 1)
QKV_MLP = (1, 1, 1, 4)
"""Rows of a single block's first layer: q, k, v, and the first layer of a perceptron that is four times as wide."""


@dataclass(frozen=True, slots=True)
class Names:
    """What other programs call the layers of a family."""

    family: str
    denoiser_class: str
    """In diffusers."""
    find: Callable[[str], Native | None]
    """Look a layer up by its name in diffusers; None if there is no counterpart."""
    comfyui: Literal["native", "diffusers", "scaled"] = "native"
    """What ComfyUI, or the custom node that generates with the family there, takes: native names, those of diffusers, or
    those of diffusers without a scale beside the matrices."""
    kohya: Callable[[str], Native | None] | None = None
    """Looks layers up for kohya's format, where ``find`` knows names of ComfyUI's own: readers go by those of diffusers."""
    implementation: str = "diffusers"
    """Address of the code whose names these are (``modelspec.implementation``)."""
    version: str = ""
    """What kohya's tools call the base (``ss_base_model_version``)."""
    in_comfyui: str = ""
    """What users should know of a file for ComfyUI."""

    def for_kohya(self) -> Self:
        """Names of the same family for kohya's format."""
        return self if self.kohya is None else replace(self, find=self.kohya, implementation="diffusers")


def by_table(table: Mapping[str, Native]) -> Callable[[str], Native | None]:
    """Look names up in a table: as they are, and with the first number as ``*``."""

    def find(layer: str) -> Native | None:
        if layer in table:
            return table[layer]
        number = re.search(r"(?<=\.)\d+(?=\.)", layer)
        if number is None:
            return None
        native = table.get(f"{layer[: number.start()]}*{layer[number.end() :]}")
        if native is None:
            return None
        layers = tuple(own.replace("*", number[0], 1) for own in native.layers)
        return Native(native.name.replace("*", number[0], 1), native.part, native.parts, layers)

    return find


def fused(names: tuple[str, ...], native: str, parts: tuple[int, ...] = QKV) -> dict[str, Native]:
    """Layers of diffusers that are the parts of one native layer, in their order."""
    return {name: Native(native, number, parts, names) for number, name in enumerate(names)}

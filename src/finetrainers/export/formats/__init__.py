"""Keys of the files that other programs read, one file a format."""

from typing import Literal

from finetrainers.export.formats.comfyui import comfyui_keys
from finetrainers.export.formats.diffusers import diffusers_keys
from finetrainers.export.formats.kohya import kohya_keys
from finetrainers.export.formats.native import Keys as Keys, Weights as Weights
from finetrainers.export.names import names_of
from finetrainers.export.source import Adapter

Format = Literal["comfyui", "kohya", "diffusers"]


def make_keys(to: str, adapter: Adapter, family: str | None, weights: Weights) -> Keys:
    """Write an adapter in the keys of a format; of DoRA, the base's weights may be read.

    Raises:
        ConfigError: If the format has no names for the family, or no keys for the adapter.
    """
    if to == "diffusers":
        return diffusers_keys(adapter)
    names = names_of(family, to=to)
    return kohya_keys(adapter, names) if to == "kohya" else comfyui_keys(adapter, names, weights)

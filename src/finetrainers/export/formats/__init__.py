"""Keys of the files that other programs read, one file a format."""

from collections.abc import Mapping

from finetrainers.export.changes import Change
from finetrainers.export.formats import comfyui, kohya
from finetrainers.export.formats.comfyui import comfyui_keys
from finetrainers.export.formats.diffusers import diffusers_keys
from finetrainers.export.formats.kohya import kohya_keys
from finetrainers.export.formats.native import Keys as Keys, Weights as Weights, native_layers
from finetrainers.export.names import names_of
from finetrainers.export.source import Adapter


def make_keys(to: str, adapter: Adapter, family: str | None, weights: Weights) -> Keys:
    """Write an adapter in the keys of a format; of DoRA, the base's weights may be read.

    Raises:
        ConfigError: If the format has no names for the family, or no keys for the adapter.
    """
    if to == "diffusers":
        return diffusers_keys(adapter)
    names = names_of(family, to=to)
    return kohya_keys(adapter, names) if to == "kohya" else comfyui_keys(adapter, names, weights)


def lost_layers(to: str, changes: Mapping[str, Change], family: str) -> dict[str, str]:
    """Name the layers that comfyui or kohya has no place for, and why; nothing of the changes but their kind is looked at.

    Raises:
        ConfigError: If the format has no names for the family, or no keys for the adapter.
    """
    names = names_of(family, to=to)
    if to == "kohya":
        kohya.refuse_dora(changes)
        return native_layers(changes, names.for_kohya()).lost
    comfyui.refuse_dora(changes, names)
    return native_layers(changes, names).lost if names.comfyui == "native" else {}

"""kohya's tools: ``lora_unet_`` and the native name with underscores (sd-scripts, musubi-tuner)."""

from collections.abc import Mapping

from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, is_dora
from finetrainers.export.formats.native import Keys, matrices, native_layers, whole_change
from finetrainers.export.names import Names
from finetrainers.export.source import Adapter

ENDINGS = (".lora_down.weight", ".lora_up.weight")


def kohya_keys(adapter: Adapter, names: Names) -> Keys:
    """Write changes in the keys that kohya's tools read for a family.

    Raises:
        ConfigError: If it is DoRA, which they do not read.
    """
    refuse_dora(adapter.changes)
    layers = native_layers(adapter.changes, names.for_kohya())
    keys = Keys(lost=layers.lost)
    for native, parts in layers.parts.items():
        name = f"lora_unet_{native.name.replace('.', '_')}"
        keys.tensors |= matrices(name, whole_change(native, parts), ENDINGS, always_alpha=True)
    return keys


def refuse_dora(changes: Mapping[str, Change]) -> None:
    """Refuse what kohya's tools do not read.

    Raises:
        ConfigError: If there is a magnitude.
    """
    if any(is_dora(change) for change in changes.values()):
        raise ConfigError("--to kohya: kohya's tools read no DoRA; take --to comfyui, or --rank N, which makes a LoRA of it")

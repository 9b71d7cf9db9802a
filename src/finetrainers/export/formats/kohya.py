"""kohya's tools: ``lora_unet_`` and the native name with underscores (sd-scripts, musubi-tuner)."""

from finetrainers.errors import ConfigError
from finetrainers.export.changes import LowRank
from finetrainers.export.formats.native import Keys, matrices, native_layers, whole_change
from finetrainers.export.names import Names
from finetrainers.export.source import Adapter

ENDINGS = (".lora_down.weight", ".lora_up.weight")


def kohya_keys(adapter: Adapter, names: Names) -> Keys:
    """Write changes in the keys that kohya's tools read for a family.

    Raises:
        ConfigError: If it is DoRA, which they do not read.
    """
    if any(isinstance(change, LowRank) and change.magnitude is not None for change in adapter.changes.values()):
        raise ConfigError("--to kohya: kohya's tools read no DoRA; take --to comfyui, or --rank N, which makes a LoRA of it")
    layers = native_layers(adapter.changes, names)
    keys = Keys(lost=layers.lost)
    for native, parts in layers.parts.items():
        name = f"lora_unet_{native.name.replace('.', '_')}"
        keys.tensors |= matrices(name, whole_change(native, parts), ENDINGS, always_alpha=True)
    return keys

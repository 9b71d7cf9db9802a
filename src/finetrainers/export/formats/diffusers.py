"""diffusers: ``transformer.`` and peft's names, with peft's settings in the header."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from finetrainers.export.changes import LowRank
from finetrainers.export.formats.native import Keys, scaled
from finetrainers.export.source import Adapter
from finetrainers.tuning.exported import PREFIX


def diffusers_keys(adapter: Adapter) -> Keys:
    """Write changes in the keys that pipelines load, or denoisers where it is LoKr; by the settings that they had."""
    keys = Keys()
    is_own = bool(adapter.settings)  # else they were made here, and each has a rank and a scale of its own
    for layer, change in adapter.changes.items():
        own = change if is_own else scaled(change)
        if isinstance(own, LowRank):
            keys.tensors |= {f"{PREFIX}{layer}.lora_A.weight": own.down, f"{PREFIX}{layer}.lora_B.weight": own.up}
            if own.magnitude is not None:
                keys.tensors[f"{PREFIX}{layer}.lora_magnitude_vector"] = own.magnitude
        else:
            keys.tensors |= {f"{PREFIX}{layer}.{factor}": tensor for factor, tensor in own.factors.items()}
    settings = adapter.settings if is_own else _settings(adapter)
    keys.settings = {f"{PREFIX}{name}": value for name, value in settings.items()}
    return keys


def _settings(adapter: Adapter) -> Mapping[str, Any]:
    """Peft's settings of LoRA without a scale, whose layers may have different ranks."""
    low_rank = {layer: change for layer, change in adapter.changes.items() if isinstance(change, LowRank)}
    if len(low_rank) < len(adapter.changes):  # LoKr whose header has none: diffusers takes them from the shapes
        return {}
    ranks = {layer: change.rank for layer, change in low_rank.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {layer: rank for layer, rank in ranks.items() if rank != usual}
    return {
        "target_modules": sorted(ranks),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_dora": any(change.magnitude is not None for change in low_rank.values()),
    }

"""``checkpoint.export``: with the weights of each step, the files that other programs read."""

from collections.abc import Iterable
from pathlib import Path

import torch

from finetrainers.config import Config, LoraConfig
from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, Kronecker, LowRank
from finetrainers.export.export import Asked, export_sources
from finetrainers.export.formats import lost_layers
from finetrainers.export.source import read_weights
from finetrainers.export.writing import some


def export_saved(folder: Path, config: Config, step: int) -> None:
    """Write the files that the configuration names into the folder of a step's weights, in one folder a format."""
    for to in config.checkpoint.export:
        source = read_weights(folder, path=folder, config=config, step=step)
        export_sources(Asked([folder], to, output=folder / to), [source])


def check_saved(config: Config, family: str, layers: Iterable[str]) -> None:
    """Refuse formats that cannot carry what will be trained: a run would know it at its first save.

    Args:
        config: Of the run.
        family: Of its model.
        layers: Names of the layers that its adapter changes.

    Raises:
        ConfigError: Naming what they cannot carry.
    """
    nothing = torch.empty(0, 0)
    is_lora = isinstance(config.tuning, LoraConfig)
    magnitude = nothing if isinstance(config.tuning, LoraConfig) and config.tuning.dora else None
    change: Change = LowRank(nothing, nothing, 1.0, magnitude) if is_lora else Kronecker({}, 1.0)
    for to in config.checkpoint.export:
        try:
            lost = lost_layers(to, dict.fromkeys(layers, change), family)
        except ConfigError as error:
            raise ConfigError(f"checkpoint.export: {to}: {str(error).removeprefix(f'--to {to}: ')}") from None
        if lost:
            reason = lost[min(lost)]
            raise ConfigError(
                f"checkpoint.export: {to} has no place for {len(lost)} of the layers that tuning.targets has, such as "
                f"{some(lost)}: {reason}; leave them out there, or remove {to} and use `finetrainers export` later"
            )

"""A LoRA of a given rank from full weights: of their difference to the base."""

from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from finetrainers.errors import ConfigError
from finetrainers.export.base import Base, names_in, weight_files
from finetrainers.export.changes import LowRank
from finetrainers.export.lowrank import Left, nearest
from finetrainers.export.source import component_settings

WEIGHT = ".weight"


@dataclass(slots=True)
class Extracted:
    """What was extracted, and what a LoRA cannot hold."""

    changes: dict[str, LowRank] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Tensors that changed and are no matrices, such as biases and norms."""


def extract(folder: Path, component: str, base: Base, *, rank: int, left: Left) -> Extracted:
    """Extract the LoRA of a rank from the full weights of a component, reading one tensor at a time.

    Raises:
        ConfigError: If they are of another model than the base, or quantised.
    """
    if "quantization_config" in component_settings(folder):
        raise ConfigError(f"--rank: {folder} has quantised weights, from which no LoRA is extracted; train without qat")
    base.settings(component)
    places, found = base.places(component), Extracted()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in names_in(file):
                _extract_one(name, opened.get_tensor(name), _stored(places, name, file), rank=rank, found=found, left=left)
    if not found.changes:
        raise ConfigError(f"{folder}: no matrix differs from the base; is --base what it was trained from?")
    return found


def _extract_one(name: str, tensor: Tensor, before: Tensor, *, rank: int, found: Extracted, left: Left) -> None:
    if tensor.shape != before.shape:
        raise ConfigError(
            f"--base: {name} has shape {list(before.shape)}, and the full weights have {list(tensor.shape)}: LoRA keeps "
            "shapes; take --to diffusers, or the base that it was trained from"
        )
    matrix = tensor.float() - before.to(tensor.dtype).float()  # as training began: rounding of the base is no change
    if not matrix.any():
        return
    if not name.endswith(WEIGHT) or tensor.ndim != 2:
        found.others.append(name)
        return
    layer = name.removesuffix(WEIGHT)
    found.changes[layer] = low_rank = nearest(matrix, rank)
    left.add(layer, matrix, low_rank)


def _stored(places: dict[str, Path], name: str, file: Path) -> Tensor:
    if name not in places:
        raise ConfigError(f"--base: it has no {name}, which {file} has; name what the weights were trained from")
    with safe_open(places[name], framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor

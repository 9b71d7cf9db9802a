"""What is exported: the weights of a step of a run, or a folder or file of weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetrainers.config import Config, load_config
from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, Kronecker, LowRank
from finetrainers.files.steps import STEP_NAME, name_of_step
from finetrainers.models.weights import read_settings
from finetrainers.sampling.sample import find_weights
from finetrainers.tuning.exported import COMPONENT, FIRST, LAYERS_FILE, PREFIX, adapter_files, adapter_settings

ENDINGS = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude"}
"""How peft's names end, and what they are of ``LowRank``."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes of one component."""

    changes: Mapping[str, Change]
    """By the names of the layers in diffusers."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the header of its file says of it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """peft's, by which it counts as it was trained; empty where the header has none."""
    layers: Path | None = None
    """File of layers that were trained in full beside it, such as those of a control."""


@dataclass(frozen=True, slots=True)
class Source:
    """Weights that are exported."""

    path: Path
    """As it was given."""
    name: str
    """Of the run, or of the folder or file."""
    step: int | None
    """Of which they are; None where nothing says so."""
    config: Config | None
    """Of their run; None if it is not there."""
    adapters: Mapping[str, Adapter]
    """By component; empty for full weights."""
    full: Mapping[str, Path]
    """Folders of full weights, by component; empty for adapters."""

    @property
    def folder(self) -> Path:
        """Where what is made of it goes, unless told otherwise."""
        return Path("exports") if self.config is None else self.config.output_dir / "exports"

    @property
    def stem(self) -> str:
        """Name of what is made of it, which says run and step."""
        return self.name if self.step is None else name_of_step(self.name, self.step)


def open_source(path: Path, step: int | None = None) -> Source:
    """Find the weights of a run, of one of its steps, or of a folder or file.

    Raises:
        ConfigError: If there are none, or none that can be read.
    """
    if (path / "config.yaml").is_file():
        folder = find_weights(path, step)
        return read_weights(folder, path=path, config=_config_of(path), step=_step_of(folder))
    if step is not None:
        raise ConfigError(f"--step: {path} is not a run, which has the weights of several steps; remove it, or name the run")
    if not path.exists():
        raise ConfigError(f"export: there is no {path}; name a run, a folder weights/step-000500, or a file of weights")
    run, own_step = path.resolve().parent.parent, _step_of(path.resolve())
    is_of_run = own_step is not None and (run / "config.yaml").is_file()
    return read_weights(path, path=path, config=_config_of(run) if is_of_run else None, step=own_step)


def _config_of(run: Path) -> Config:
    """The configuration of a run, which may have been moved."""
    return load_config(run / "config.yaml").model_copy(update={"output_dir": run})


def _step_of(folder: Path) -> int | None:
    match = STEP_NAME.fullmatch(folder.name)
    return None if match is None else int(match[1])


def read_weights(folder: Path, *, path: Path, config: Config | None, step: int | None) -> Source:
    """Read the weights in a folder, or in a file.

    Args:
        folder: The folder of a step, or a folder or file of someone else.
        path: What the user calls it.
        config: Of the run whose weights they are.
        step: Of which they are.

    Raises:
        ConfigError: If there are none, or none that can be read.
    """
    files = _adapter_files(folder) if folder.is_dir() else {FIRST: folder}
    layers = {file.parent.name: file for file in folder.glob(f"*/{LAYERS_FILE}")}
    full = {file.parent.name: file.parent for file in folder.glob("*/config.json") if file.parent.name not in layers}
    if not full and (folder / "config.json").is_file():  # a denoiser's own folder, whose files are no adapters
        full = {folder.name: folder}
    if not files and not full:
        raise ConfigError(f"{path}: {folder} has no adapter, and no folder of full weights; name a run, or weights of one")
    return Source(
        path=path,
        name=(folder if config is None else config.output_dir).resolve().name.removesuffix(".safetensors"),
        step=None if config is None else step,
        config=config,
        adapters=dict(_read_adapter(file, component, layers) for component, file in files.items()),
        full={} if files else full,
    )


def _adapter_files(folder: Path) -> dict[str, Path]:
    try:
        return {} if (folder / "config.json").is_file() else adapter_files(folder)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder}: its files of weights cannot be read: {error}") from error


def _read_adapter(file: Path, component: str, layers: Mapping[str, Path]) -> tuple[str, Adapter]:
    """Read an adapter, and which component it is of: the header may say so, or else the name of its file."""
    try:
        settings = adapter_settings(file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name.removeprefix(PREFIX): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    is_lokr = any(".lokr_" in name for name in tensors)
    changes = _kronecker(tensors, settings) if is_lokr else _low_rank(tensors, settings, file)
    component = metadata.get(COMPONENT, component)
    return component, Adapter(changes, metadata, settings, layers.get(component))


def _low_rank(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], file: Path) -> dict[str, Change]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
        if ending is None:
            raise ConfigError(f"{file}: {name} is no key of diffusers' LoRA or LoKr; only those can be exported")
        found.setdefault(name.removesuffix(ending), {})[ENDINGS[ending]] = tensor
    for layer, own in found.items():
        if not {"down", "up"} <= own.keys():
            raise ConfigError(f"{file}: {layer} has only its {' and '.join(own)}; the file is no whole LoRA")
    return {layer: LowRank(**own, scale=_scale(settings, len(own["down"]))) for layer, own in found.items()}


def _kronecker(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Change]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, factor = name.rpartition(".")
        found.setdefault(layer, {})[factor] = tensor
    scale = settings["alpha"] / settings["r"] if {"alpha", "r"} <= settings.keys() else 1.0
    return {layer: Kronecker(factors, scale) for layer, factors in found.items()}


def _scale(settings: Mapping[str, Any], rank: int) -> float:
    """By what peft multiplies; a file that does not say so counts as it is."""
    if "lora_alpha" not in settings:
        return 1.0
    divisor = rank**0.5 if settings.get("use_rslora", False) else rank
    return float(settings["lora_alpha"] / divisor)


def recorded_family(source: Source) -> str | None:
    """Family that the header of an adapter's file names."""
    return next((own.metadata.get("finetrainers.family") for own in source.adapters.values()), None)


def component_settings(folder: Path) -> dict[str, Any]:
    """The config of full weights.

    Raises:
        ModelError: If it cannot be read.
    """
    return read_settings(folder / "config.json")

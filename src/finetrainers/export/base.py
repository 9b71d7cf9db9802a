"""The base model that was trained from: its files are read one tensor at a time."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetrainers.config import Config
from finetrainers.config.model import ModelConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models.pretrained import Pretrained
from finetrainers.models.weights import files_in_index


class Base:
    """The denoisers of a pipeline in diffusers layout."""

    def __init__(self, config: ModelConfig) -> None:
        """Take where the pipeline is; nothing is read."""
        self._pretrained = Pretrained(config, {})
        self._files: dict[str, dict[str, Path]] = {}

    def files(self, component: str) -> list[Path]:
        """Files of a component's weights, downloaded if they are on the Hub.

        Raises:
            ModelError: If it has none.
        """
        return self._pretrained.weight_files(component)

    def settings(self, component: str) -> dict[str, Any]:
        """Config of a component.

        Raises:
            ConfigError: If its weights are stored quantised: nothing can be added to them.
        """
        settings = dict(self._pretrained.settings(component))
        if "quantization_config" in settings:
            raise ConfigError(
                f"--base: the {component} of {self._pretrained.config.path} is stored quantised, and nothing can be "
                "added to it; name the same model in bfloat16"
            )
        return settings

    def weight(self, component: str, layer: str) -> Tensor:
        """Weight of a layer as it is stored.

        Raises:
            ModelError: If there is none.
        """
        name = f"{layer}.weight"
        places = self.places(component)
        if name not in places:
            raise ModelError(f"{self._pretrained.config.path}: its {component} has no {name}: was it another base?")
        with safe_open(places[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def places(self, component: str) -> dict[str, Path]:
        """In which file each tensor of a component is.

        Raises:
            ModelError: If a file cannot be read.
        """
        if component not in self._files:
            self._files[component] = {name: file for file in self.files(component) for name in names_in(file)}
        return self._files[component]


def names_in(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def base_of(config: Config | None, path: str | None) -> Base | None:
    """The base that is named, or that of a run; None if there is neither."""
    if path is not None:
        return Base(ModelConfig(path=path))
    return None if config is None else Base(config.model)


def needed(base: Base | None, why: str) -> Base:
    """Insist on a base.

    Raises:
        ConfigError: If there is none.
    """
    if base is None:
        raise ConfigError(f"--base: {why}, and no run says which it is; name its folder or Hub id")
    return base


def weight_files(folder: Path) -> list[Path]:
    """Files of full weights in a folder, or their index's.

    Raises:
        ModelError: If the index cannot be read.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return [folder / name for name in files_in_index(indices[0])]
    return sorted(folder.glob("*.safetensors"))

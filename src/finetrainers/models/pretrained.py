"""Where a pretrained pipeline is, locally or on the Hub, and its components, loaded one by one."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetrainers.compat.tokenizers import FAITHFUL_CLASSES
from finetrainers.config import ComponentConfig, MemoryConfig, ModelConfig
from finetrainers.distributed.reading import SharedReading
from finetrainers.errors import ModelError
from finetrainers.models.base import Settings
from finetrainers.models.place import Place
from finetrainers.models.stored import Stored, mapped_in, mapped_of, stored_of, tensors_of, type_of
from finetrainers.models.weight_files import DIFFUSERS_FILE, network_files
from finetrainers.models.weights import (
    Settle,
    Weights,
    fill_at_random,
    fill_from_files,
    leave_empty,
    make_shell,
    read_settings,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def config_name(component: str) -> str:
    """Name the file that holds a component's settings, which every component of its kind has."""
    kinds = {"scheduler": "scheduler_config", "tokenizer": "tokenizer_config", "processor": "preprocessor_config"}
    return next((f"{name}.json" for kind, name in kinds.items() if kind in component), "config.json")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pipeline in diffusers layout, none of whose weights are loaded yet."""

    config: ModelConfig
    index: Mapping[str, Any]
    """The pipeline's model_index.json."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """How the VAE saves memory, wherever it is loaded."""

    def place(self, component: str) -> Place:
        """Where a component is, overrides included."""
        override = self.config.components.get(component, ComponentConfig())
        dtype = DTYPES[override.dtype or self.config.dtype]
        if override.path is not None:
            return Place(override.path, override.revision, override.subfolder or "", dtype)
        return Place(self.config.path, override.revision or self.config.revision, override.subfolder or component, dtype)

    def settings(self, component: str) -> Settings:
        """A component's config, without its weights.

        Raises:
            ModelError: If it is not there or damaged.
        """
        return read_settings(self.place(component).file(config_name(component)))

    def files(self, component: str) -> list[Path]:
        """All files of a local component, in order of their names.

        Raises:
            ModelError: If there are none.
        """
        place = self.place(component)
        folder = Path(place.path) / place.subfolder
        files = sorted(file for file in folder.glob("*") if file.is_file())
        if not files:
            raise ModelError(f"{component}: {folder} has no files; is this a pipeline in diffusers layout?")
        return files

    def has_weights(self, component: str) -> bool:
        """Whether a component is a network, and no tokenizer, processor or scheduler."""
        return issubclass(self.component_class(component), torch.nn.Module)

    def component_class(self, component: str) -> Any:
        """Class that loads a component.

        Raises:
            ModelError: If the pipeline does not have it, or nobody knows the class.
        """
        library, class_name = self._class_of(component)
        try:
            return getattr(importlib.import_module(library), FAITHFUL_CLASSES.get(class_name, class_name))
        except (ImportError, AttributeError) as error:
            raise ModelError(
                f"{component}: {library}.{class_name} of model_index.json cannot be imported ({error}); install a "
                f"version of {library} that has it"
            ) from error

    def load(self, component: str) -> Any:
        """Load a component, on the CPU and in evaluation mode; weights in their configured data type.

        Raises:
            ModelError: If it cannot be loaded.
        """
        return self._load(component)

    def load_empty(self, component: str) -> Any:
        """Load a network of transformers without its weights: all its parameters and buffers are on the meta device.

        Raises:
            ModelError: If it cannot be loaded.
        """
        return self._load(component, device_map={"": "meta"}).to("meta")

    def load_stored(self, component: str) -> Stored:
        """Load a network as its files have it: what they hold in one type is mapped, and takes no memory before it is read.

        Raises:
            ModelError: If it cannot be loaded.
        """
        own = type_of(network_files(self.place(component), self._class_of(component)[0]))
        is_quantized = "quantization_config" in self.settings(component)
        if own is None or is_quantized:
            return Stored(self._load(component), {}, {})
        if own == self.place(component).dtype:
            network = self._load(component)
            return Stored(network, {}, mapped_of(network, own))
        empty = self.load_empty(component) if self._class_of(component)[0] == "transformers" else self.shell(component)
        types = {name: tensor.dtype for name, tensor in tensors_of(empty).items()}
        network = self._load(component, dtype=own)
        found = stored_of(network, own, types) if tensors_of(network).keys() == types.keys() else None
        return Stored(self._load(component), {}, {}) if found is None else found

    def _load(self, component: str, *, dtype: torch.dtype | None = None, **more: Any) -> Any:
        library, class_name = self._class_of(component)
        place, component_class = self.place(component), self.component_class(component)
        has_weights = issubclass(component_class, torch.nn.Module)
        options: dict[str, Any] = {"subfolder": place.subfolder, "revision": place.revision, **more}
        if has_weights:
            options["torch_dtype" if library == "diffusers" else "dtype"] = dtype or place.dtype
        try:
            loaded = component_class.from_pretrained(place.path, **options)
        except (OSError, ValueError) as error:
            raise ModelError(f"{component}: {class_name} cannot be loaded from {place.path}: {error}") from error
        return loaded.eval().requires_grad_(False) if has_weights else loaded

    def shell(self, component: str) -> Any:
        """Make a component of diffusers as its config has it, without weights: parameters are on the meta device.

        Raises:
            ModelError: If the config does not fit its class.
        """
        _, class_name = self._class_of(component)
        component_class = self.component_class(component)
        try:
            return make_shell(component_class, self.settings(component), self.place(component).dtype)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{component}: {class_name} cannot be made from its config.json: {error}") from error

    def load_denoiser(
        self,
        component: str,
        device: torch.device,
        *,
        weights: Weights = "stored",
        settle: Settle | None = None,
        reading: SharedReading | None = None,
    ) -> Any:
        """Load a denoiser straight onto a device, one tensor at a time, in evaluation mode.

        Args:
            component: Its name.
            device: Where its weights go; with ``weights="none"``, nothing goes anywhere.
            weights: What it is filled with.
            settle: Makes of its modules what is kept of them.
            reading: Of all processes that load it together.

        Raises:
            ModelError: If it cannot be loaded.
        """
        shell = self.shell(component)
        if weights == "none":
            leave_empty(shell, settle)
        elif weights == "random":
            fill_at_random(shell, device, settle)
        else:
            files = self.weight_files(component) if reading is None or reading.is_leader else []
            fill_from_files(shell, files, device, settle, reading)
        return shell

    def mapped_weights(self, component: str) -> dict[str, torch.Tensor]:
        """Weights of a denoiser by the names that its files have, whose pages are in memory once for all processes."""
        return mapped_in(self.weight_files(component))

    def weight_files(self, component: str) -> list[Path]:
        """The safetensors files of a denoiser, downloaded if they are on the Hub.

        Raises:
            ModelError: If it has none.
        """
        place = self.place(component)
        return network_files(place, "diffusers") or [place.file(DIFFUSERS_FILE)]  # which says that there is none

    def pipeline(self, class_name: str, components: Mapping[str, Any]) -> Any:
        """Make a pipeline of the given components, with the settings of its own that model_index.json has.

        All other components are None; the class may be another than the model's own, of another task.
        """
        import diffusers

        pipeline_class = getattr(diffusers, class_name)
        known = inspect.signature(pipeline_class.__init__).parameters
        given = {name: value for name, value in self.index.items() if name in known}
        given |= {name: components.get(name) for name, value in given.items() if isinstance(value, list)}
        pipeline = pipeline_class(**given)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def commit(self, component: str) -> str | None:
        """Commit of the Hub repository that a component comes from; None if it is local."""
        place = self.place(component)
        if place.is_local:
            return None
        return place.file(config_name(component)).resolve().as_posix().split("/snapshots/")[-1].split("/")[0]

    def _class_of(self, component: str) -> tuple[str, str]:
        entry = self.index.get(component)
        if not isinstance(entry, list) or entry[0] is None:
            raise ModelError(f"{self.config.path}: model_index.json names no {component}")
        return entry[0], entry[1]

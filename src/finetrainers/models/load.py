"""Find a pretrained pipeline, locally or on the Hub, and load its components one by one."""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetrainers.config import ComponentConfig, ModelConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models.base import ModelAdapter, Settings
from finetrainers.models.registry import adapter_of_pipeline, get_adapter, load_adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one component is."""

    path: str
    """Local folder or Hub id."""
    revision: str | None
    subfolder: str
    """Empty if the component is at the top."""
    dtype: torch.dtype

    @property
    def is_local(self) -> bool:
        return Path(self.path).is_dir()

    def file(self, name: str) -> Path:
        """Find a file of the component, downloading it if it is on the Hub.

        Raises:
            ModelError: If it is not there.
        """
        if self.is_local:
            found = Path(self.path) / self.subfolder / name
            if not found.is_file():
                raise ModelError(
                    f"{self.path}: has no {Path(self.subfolder) / name}; is this a pipeline in diffusers layout?"
                )
            return found
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.path):
            raise ModelError(f"model path {self.path!r} is neither a folder that exists nor a Hub id such as user/name")
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.path, name, subfolder=self.subfolder or None, revision=self.revision))
        except (OSError, ValueError) as error:  # all of huggingface_hub's errors are one of these
            raise ModelError(f"{self.path} (revision {self.revision or 'main'}): {name} cannot be had: {error}") from error


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pipeline in diffusers layout, none of whose weights are loaded yet."""

    config: ModelConfig
    index: Mapping[str, Any]
    """The pipeline's model_index.json."""

    def place(self, component: str) -> Place:
        """Where a component is, overrides included."""
        override = self.config.components.get(component, ComponentConfig())
        dtype = DTYPES[override.dtype or self.config.dtype]
        if override.path is not None:
            return Place(override.path, override.revision, override.subfolder or "", dtype)
        return Place(self.config.path, override.revision or self.config.revision, override.subfolder or component, dtype)

    def settings(self, component: str) -> Settings:
        """A component's config, without its weights."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        settings: Settings = json.loads(self.place(component).file(name).read_text())
        return settings

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

    def load(self, component: str) -> Any:
        """Load a component, on the CPU and in evaluation mode; weights in their configured data type.

        Raises:
            ModelError: If it cannot be loaded.
        """
        library, class_name = self._class_of(component)
        place = self.place(component)
        component_class = getattr(importlib.import_module(library), class_name)
        has_weights = issubclass(component_class, torch.nn.Module)
        options: dict[str, Any] = {"subfolder": place.subfolder, "revision": place.revision}
        if has_weights:
            options["torch_dtype" if library == "diffusers" else "dtype"] = place.dtype
        try:
            loaded = component_class.from_pretrained(place.path, **options)
        except (OSError, ValueError) as error:
            raise ModelError(f"{component}: {class_name} cannot be loaded from {place.path}: {error}") from error
        return loaded.eval().requires_grad_(False) if has_weights else loaded

    def pipeline(self, class_name: str, components: Mapping[str, Any]) -> Any:
        """Make a pipeline of the given components; all others are None."""
        import diffusers

        names = [name for name, value in self.index.items() if isinstance(value, list)]
        optional = {name: components.get(name) for name in names}
        pipeline = getattr(diffusers, class_name)(**optional)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def commit(self, component: str) -> str | None:
        """Commit of the Hub repository that a component comes from; None if it is local."""
        place = self.place(component)
        if place.is_local:
            return None
        name = "tokenizer_config.json" if component.startswith("tokenizer") else "config.json"
        return place.file(name).resolve().as_posix().split("/snapshots/")[-1].split("/")[0]

    def _class_of(self, component: str) -> tuple[str, str]:
        entry = self.index.get(component)
        if not isinstance(entry, list) or entry[0] is None:
            raise ModelError(f"{self.config.path}: model_index.json names no {component}")
        return entry[0], entry[1]


@dataclass(frozen=True, slots=True)
class Model:
    """A pretrained pipeline with the adapter of its family and the task that it is tuned for."""

    pretrained: Pretrained
    adapter: ModelAdapter
    task: str

    @property
    def pipeline_class(self) -> str:
        """Name of the diffusers pipeline that samples for the task."""
        return self.adapter.pipelines[self.task]

    @property
    def takes_image(self) -> bool:
        """Whether the task takes more from the given frames than the latents in their place."""
        return self.task in self.adapter.image_tasks

    @property
    def image_components(self) -> tuple[str, ...]:
        """Components besides the VAE that the task needs for its given frames, as far as this model has them."""
        if not self.takes_image:
            return ()
        index = self.pretrained.index
        return tuple(name for name in self.adapter.image_components if index.get(name, [None])[0] is not None)

    def load_image_components(self, device: torch.device) -> dict[str, Any]:
        """Load ``image_components``; models among them go to the device."""
        loaded = {name: self.pretrained.load(name) for name in self.image_components}
        return {name: part.to(device) if isinstance(part, torch.nn.Module) else part for name, part in loaded.items()}

    @property
    def max_length(self) -> int:
        """T, prompt tokens."""
        configured = self.pretrained.config.max_sequence_length
        return self.adapter.max_sequence_length if configured is None else configured


def open_model(config: ModelConfig) -> Model:
    """Find the model's family and task and read its configs; no weights are loaded.

    Raises:
        ConfigError: If family, task or a component's name does not exist.
        ModelError: If the model is not there or not in diffusers layout.
    """
    index_file = Place(config.path, config.revision, "", DTYPES[config.dtype]).file("model_index.json")
    pretrained = Pretrained(config, json.loads(index_file.read_text()))
    for component in config.components:
        if component not in pretrained.index:
            known = ", ".join(name for name, value in pretrained.index.items() if isinstance(value, list))
            raise ConfigError(f"model.components: this pipeline has no component {component!r}; it has {known}")
    if config.adapter is not None:
        adapter_class, task = load_adapter(config.adapter), None
    elif config.family is not None:
        adapter_class, task = get_adapter(config.family), None
    else:
        adapter_class, task = adapter_of_pipeline(pretrained.index["_class_name"])
    task = config.task or task or next(iter(adapter_class.pipelines))
    if task not in adapter_class.pipelines:
        raise ConfigError(
            f"model.task: {adapter_class.name} has no task {task!r}; it has {', '.join(adapter_class.pipelines)}"
        )
    adapter = adapter_class(pretrained.settings("vae"), pretrained.settings(adapter_class.denoiser), pretrained.index)
    return Model(pretrained, adapter, task)

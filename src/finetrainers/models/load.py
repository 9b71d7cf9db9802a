"""Find a pretrained pipeline, locally or on the Hub, and load its components one by one."""

import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetrainers.batch import Text
from finetrainers.compat.tokenizers import FAITHFUL_CLASSES
from finetrainers.config import ComponentConfig, MemoryConfig, ModelConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models.base import ModelAdapter, Settings
from finetrainers.models.experts import Denoisers, choose_experts
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
        """A component's config, without its weights."""
        settings: Settings = json.loads(self.place(component).file(config_name(component)).read_text())
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
        component_class = getattr(importlib.import_module(library), FAITHFUL_CLASSES.get(class_name, class_name))
        has_weights = issubclass(component_class, torch.nn.Module)
        options: dict[str, Any] = {"subfolder": place.subfolder, "revision": place.revision}
        if has_weights:
            options["torch_dtype" if library == "diffusers" else "dtype"] = place.dtype
        try:
            loaded = component_class.from_pretrained(place.path, **options)
        except (OSError, ValueError) as error:
            raise ModelError(f"{component}: {class_name} cannot be loaded from {place.path}: {error}") from error
        return loaded.eval().requires_grad_(False) if has_weights else loaded

    def shell(self, component: str) -> Any:
        """Make a component of diffusers as its config has it, without weights, on the meta device.

        Raises:
            ModelError: If the config does not fit its class.
        """
        library, class_name = self._class_of(component)
        component_class = getattr(importlib.import_module(library), class_name)
        try:
            with torch.device("meta"):
                return component_class.from_config(self.settings(component)).eval().requires_grad_(False)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{component}: {class_name} cannot be made from its config.json: {error}") from error

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


@dataclass(frozen=True, slots=True)
class Model:
    """A pretrained pipeline with the adapter of its family and the task that it is tuned for."""

    pretrained: Pretrained
    adapter: ModelAdapter
    task: str

    @property
    def pipeline_class(self) -> str:
        """Name of the diffusers pipeline that samples for the task."""
        return self.adapter.tasks[self.task]

    @property
    def denoisers(self) -> Denoisers:
        """What is trained."""
        experts = self.adapter.experts()
        return choose_experts(experts, self.pretrained.config.expert) if experts else Denoisers((self.adapter.denoiser,))

    @property
    def dtype(self) -> torch.dtype:
        """Data type of what is trained from, and of all computation with it."""
        return self.pretrained.place(self.denoisers.trained[0]).dtype

    def load_denoiser(self) -> Any:
        """Load what is trained, as one module."""
        return self.denoisers.join({name: self.pretrained.load(name) for name in self.denoisers.trained})

    @property
    def text_sees_image(self) -> bool:
        """Whether the text encoder sees the picture that the task starts from."""
        return self.adapter.text_sees_image(self.task)

    @property
    def text_components(self) -> tuple[str, ...]:
        """Components that encode captions, as far as this model has them."""
        return self._own(self.adapter.text.components)

    def encode_text(self, pipeline: Any, captions: Sequence[str], images: Sequence[Any], *, device: torch.device) -> Text:
        """Encode captions, each with its PIL image if the text encoder sees one; tensors [B, T, D] or [B, D]."""
        if self.text_sees_image:
            return self.adapter.encode_seen_prompt(pipeline, captions, images, max_length=self.max_length, device=device)
        return self.adapter.encode_prompt(pipeline, captions, max_length=self.max_length, device=device)

    @property
    def takes_image(self) -> bool:
        """Whether the task takes more from the given frames than the latents in their place."""
        return self.task in self.adapter.pictures.image_tasks

    @property
    def image_components(self) -> tuple[str, ...]:
        """Components besides the VAE that the task needs for its given frames, as far as this model has them."""
        return self._own(self.adapter.pictures.image_components) if self.takes_image else ()

    def _own(self, components: Sequence[str]) -> tuple[str, ...]:
        index = self.pretrained.index
        return tuple(name for name in components if index.get(name, [None])[0] is not None)

    def load_image_components(self, device: torch.device) -> dict[str, Any]:
        """Load ``image_components``; models among them go to the device."""
        loaded = {name: self.pretrained.load(name) for name in self.image_components}
        return {name: part.to(device) if isinstance(part, torch.nn.Module) else part for name, part in loaded.items()}

    @property
    def max_length(self) -> int:
        """T, prompt tokens."""
        configured = self.pretrained.config.max_sequence_length
        return self.adapter.text.max_length if configured is None else configured


def open_model(config: ModelConfig, memory: MemoryConfig | None = None) -> Model:
    """Find the model's family and task and read its configs; no weights are loaded.

    Raises:
        ConfigError: If family, task or a component's name does not exist.
        ModelError: If the model is not there or not in diffusers layout.
    """
    index_file = Place(config.path, config.revision, "", DTYPES[config.dtype]).file("model_index.json")
    pretrained = Pretrained(config, json.loads(index_file.read_text()), MemoryConfig() if memory is None else memory)
    for component in config.components:
        if component not in pretrained.index:
            known = ", ".join(name for name, value in pretrained.index.items() if isinstance(value, list))
            raise ConfigError(f"model.components: this pipeline has no component {component!r}; it has {known}")
    if config.adapter is not None:
        adapter_class = load_adapter(config.adapter)
    elif config.family is not None:
        adapter_class = get_adapter(config.family)
    else:
        adapter_class, _ = adapter_of_pipeline(pretrained.index["_class_name"])
    vae, denoiser, scheduler = (pretrained.settings(name) for name in ("vae", adapter_class.denoiser, "scheduler"))
    adapter = adapter_class(vae, denoiser, pretrained.index, scheduler)
    own = (task for task, name in adapter.tasks.items() if name == pretrained.index.get("_class_name"))
    task = config.task or next(own, next(iter(adapter.tasks)))
    if task not in adapter.tasks:
        who = f"this model of {adapter.name}" if task in adapter.pipelines else adapter.name
        raise ConfigError(f"model.task: {who} has no task {task!r}; it has {', '.join(adapter.tasks)}")
    if config.expert is not None and not adapter.experts():
        raise ConfigError(f"model.expert: {config.expert} has no effect: {config.path} has one denoiser; remove it")
    return Model(pretrained, adapter, task)

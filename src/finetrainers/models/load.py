"""A pretrained pipeline with the adapter of its family and the task that it is tuned for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from finetrainers.batch import Text
from finetrainers.compat.packages import import_quietly
from finetrainers.config import MemoryConfig, ModelConfig
from finetrainers.distributed.reading import SharedReading
from finetrainers.errors import ConfigError
from finetrainers.files.whole import sample_file
from finetrainers.models.base import ModelAdapter
from finetrainers.models.experts import Denoisers, choose_experts
from finetrainers.models.place import Place
from finetrainers.models.pretrained import DTYPES, Pretrained
from finetrainers.models.registry import adapter_of_pipeline, get_adapter, load_adapter
from finetrainers.models.stated import check_needed, check_stated, check_text
from finetrainers.models.weights import Settle, Weights, read_settings

FINGERPRINT_BYTES = 8
CPU = torch.device("cpu")


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

    def fingerprint(self) -> str:
        """Hash the weights of what is trained: a part of each file, spread over it; they are downloaded if need be."""
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
        for name in self.denoisers.trained:
            for file in self.pretrained.weight_files(name):
                digest.update(sample_file(file))
        return digest.hexdigest()

    @property
    def dtype(self) -> torch.dtype:
        """Data type of what is trained from, and of all computation with it."""
        return self.pretrained.place(self.denoisers.trained[0]).dtype

    def load_denoiser(
        self,
        device: torch.device = CPU,
        *,
        weights: Weights = "stored",
        settle: Settle | None = None,
        reading: SharedReading | None = None,
    ) -> Any:
        """Load what is trained, as one module; see ``Pretrained.load_denoiser``."""
        load = partial(self.pretrained.load_denoiser, device=device, weights=weights, settle=settle, reading=reading)
        return self.denoisers.join({name: load(name) for name in self.denoisers.trained})

    @property
    def text_sees_image(self) -> bool:
        """Whether the text encoder sees the picture that the task starts from."""
        return self.adapter.text_sees_image(self.task)

    @property
    def text_components(self) -> tuple[str, ...]:
        """Components that encode captions, as far as this model has them."""
        return self._own(self.adapter.text.components)

    def encode_text(self, pipeline: Any, captions: Sequence[str], images: Sequence[Any], *, device: torch.device) -> Text:
        """Encode captions, each with its PIL image if the text encoder sees one; tensors [B, T, D] or [B, D].

        Raises:
            ModelError: If the adapter returns something else.
        """
        if self.text_sees_image:
            text = self.adapter.encode_seen_prompt(pipeline, captions, images, max_length=self.max_length, device=device)
        else:
            text = self.adapter.encode_prompt(pipeline, captions, max_length=self.max_length, device=device)
        return check_text(text, self.adapter, len(captions))

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

    @property
    def max_length(self) -> int:
        """T, prompt tokens."""
        configured = self.pretrained.config.max_sequence_length
        return self.adapter.text.max_length if configured is None else configured


def open_model(config: ModelConfig, memory: MemoryConfig | None = None) -> Model:
    """Find the model's family and task and read its configs; no weights are loaded.

    Raises:
        ConfigError: If family, task or a component's name does not exist.
        ModelError: If the model is not there or not in diffusers layout, or if its adapter states what cannot be.
    """
    import_quietly("diffusers.quantizers")  # which import torchao and bitsandbytes, where they are installed
    index_file = Place(config.path, config.revision, "", DTYPES[config.dtype]).file("model_index.json")
    pretrained = Pretrained(config, read_settings(index_file), MemoryConfig() if memory is None else memory)
    for component in config.components:
        if component not in pretrained.index:
            known = ", ".join(name for name, value in pretrained.index.items() if isinstance(value, list))
            raise ConfigError(f"model.components: this pipeline has no component {component!r}; it has {known}")
    adapter_class = _adapter_class(config, pretrained)
    vae, denoiser, scheduler = (pretrained.settings(name) for name in ("vae", adapter_class.denoiser, "scheduler"))
    adapter = adapter_class(vae, denoiser, pretrained.index, scheduler)
    check_stated(adapter)
    own = (task for task, name in adapter.tasks.items() if name == pretrained.index.get("_class_name"))
    task = config.task or next(own, next(iter(adapter.tasks)))
    if task not in adapter.tasks:
        who = f"this model of {adapter.name}" if task in adapter.pipelines else adapter.name
        raise ConfigError(f"model.task: {who} has no task {task!r}; it has {', '.join(adapter.tasks)}")
    if config.expert is not None and not adapter.experts():
        raise ConfigError(f"model.expert: {config.expert} has no effect: {config.path} has one denoiser; remove it")
    return Model(pretrained, adapter, task)


def _adapter_class(config: ModelConfig, pretrained: Pretrained) -> type[ModelAdapter]:
    """The adapter that the configuration names, or that of the family of the pipeline."""
    if config.adapter is not None:
        adapter = load_adapter(config.adapter)
        check_needed(adapter)
        return adapter
    if config.family is not None:
        return get_adapter(config.family)
    return adapter_of_pipeline(pretrained.index["_class_name"])[0]

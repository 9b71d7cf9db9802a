"""What every kind of tuning does."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finetrainers.files.whole import sort_metadata_of
from finetrainers.models import ModelAdapter
from finetrainers.tuning.exported import FILE

NOT_EXPORTED = ("_name_or_path", "_use_default_values")
"""Keys of a loaded config that are of this disk, or in no order; diffusers' own files have neither."""


class Tuning(ABC):
    """Chooses the trained parameters of a denoiser, and exports them in diffusers' layout."""

    @abstractmethod
    def apply(
        self, denoiser: Any, adapter: ModelAdapter, *, component: str, seed: int, full_modules: Sequence[str] = ()
    ) -> None:
        """Leave gradients on for exactly what trains: as exported weights have it, or initialized from the seed.

        Args:
            denoiser: The pipeline's component of this name.
            adapter: Of its family.
            component: Its name.
            seed: Decides what is drawn.
            full_modules: Names of modules that are trained in full, whatever else is.

        Raises:
            ConfigError: If what is to be trained is not there, or the weights to begin from do not fit.
        """

    @abstractmethod
    def without_adapter(self, denoiser: nn.Module) -> AbstractContextManager[None]:
        """Let a denoiser answer as the base model does, as if nothing was ever trained.

        Raises:
            ConfigError: If nothing of it is left.
        """

    @abstractmethod
    def exported(self, denoiser: Any, facts: "ExportFacts") -> Iterator[tuple[str, Tensor]]:
        """Yield what is exported of a pipeline's component, in the type that it is exported in; sharded as it is there."""

    @abstractmethod
    def export(self, denoiser: Any, tensors: Mapping[str, Tensor], directory: Path, facts: "ExportFacts") -> None:
        """Write what ``exported`` yields into a directory, so that the pipeline's class loads it.

        Args:
            denoiser: The component, of which only the config and names are read: it may train meanwhile.
            tensors: On the CPU, whole and apart from the component's own.
            directory: Receives the files.
            facts: What there is to know of the component.
        """

    @abstractmethod
    def load_exported(self, pipeline: Any, directory: Path) -> None:
        """Put exported weights into a plain pipeline that was loaded without them, and takes the same inputs."""

    @abstractmethod
    def snippet(self, base: str, weights: str, components: Mapping[str, "ExportFacts"]) -> str:
        """Lines of Python that load the weights in plain diffusers.

        Args:
            base: Folder or Hub id of the pipeline.
            weights: Folder or Hub id of the weights.
            components: What was exported, by the names of the components that were trained.
        """


@dataclass(frozen=True, slots=True)
class Size:
    """How many weights there are."""

    trained: int
    whole: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.trained + other.trained, self.whole + other.whole)


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the export of one component has to know."""

    component: str
    """Its name in the pipeline."""
    pipeline_class: str
    """Name of the class in diffusers whose layout the files have."""
    dtype: torch.dtype
    """Data type that it was trained and is exported in."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its config says otherwise than that of the base, such as more input channels."""
    drawing_class: str | None = None
    """Name of the class in diffusers that generates with it, if that is another."""
    file: str = FILE
    """Name of the file of an adapter."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the header of the file says to people, and to programs that list models."""


def exported_config(denoiser: Any, facts: ExportFacts) -> dict[str, Any]:
    """The config of an exported denoiser; where the base is on this disk is nobody else's business."""
    return {name: value for name, value in {**denoiser.config, **facts.settings}.items() if name not in NOT_EXPORTED}


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; equal tensors and metadata give equal bytes."""
    save_file(dict(tensors), file, {"format": "pt", **metadata})
    sort_metadata_of(file)


def size_of(denoiser: nn.Module) -> Size:
    """Count what trains of a denoiser, and all of it, adapters included."""
    trained = sum(parameter.numel() for parameter in trained_parameters(denoiser).values())
    return Size(trained, sum(parameter.numel() for parameter in denoiser.parameters()))


def trained_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter of all that trains, in the order of the modules."""
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}

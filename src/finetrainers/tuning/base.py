"""What every kind of tuning does."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetrainers.models import ModelAdapter


class Tuning(ABC):
    """Chooses the trained parameters of a denoiser, and exports them in diffusers' layout."""

    needs_autocast: bool
    """Whether trained float32 weights meet frozen ones of another type in one layer, which autocast has to reconcile."""

    @abstractmethod
    def apply(self, denoiser: Any, adapter: ModelAdapter, *, seed: int) -> None:
        """Leave gradients on for exactly what trains, in float32, initialized from the seed."""

    @abstractmethod
    def export(self, denoiser: Any, directory: Path, *, component: str, pipeline_class: Any, dtype: torch.dtype) -> None:
        """Write the weights of a pipeline's component into a directory, so that the pipeline's class loads them."""

    @abstractmethod
    def load_exported(self, pipeline: Any, directory: Path) -> None:
        """Put exported weights into a plain pipeline that was loaded without them."""

    @abstractmethod
    def snippet(self, base: str, weights: str, *, components: Sequence[str], pipeline_class: str, dtype: torch.dtype) -> str:
        """Lines of Python that load the weights in plain diffusers.

        Args:
            base: Folder or Hub id of the pipeline.
            weights: Folder or Hub id of the weights.
            components: Names of the components that were trained.
            pipeline_class: Name of the pipeline's class in diffusers.
            dtype: Data type that it was trained and is exported in.
        """


def trained_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter of all that trains, in the order of the modules."""
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def to_float32(denoiser: nn.Module) -> None:
    """Hold trained parameters in float32: updates of a small learning rate would round to nothing in bfloat16."""
    for parameter in trained_parameters(denoiser).values():
        parameter.data = parameter.data.float()

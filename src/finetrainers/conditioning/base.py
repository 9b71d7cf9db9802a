"""Prompt-only conditioning, and the points that a richer one may change."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor

from finetrainers.batch import Batch, Medium, Prompt
from finetrainers.data.frames import FrameSelection
from finetrainers.data.streams import Stream
from finetrainers.models import Model, ModelAdapter
from finetrainers.objectives.base import Predict


class Conditioning:
    """Plain SFT. Subclasses override what they need; nobody overrides the loop."""

    streams: tuple[Stream, ...] = ()
    """What is computed from media or read beside them; none where there is the prompt alone."""
    frames: Mapping[str, FrameSelection] = MappingProxyType({})
    """Which latent frames of a stream are shown, by its name; all of one that has none."""

    def prepare(self, denoiser: Any, adapter: ModelAdapter) -> None:
        """Change a denoiser, so that it takes ``model_input``; at first it must answer what it did."""

    def trained_modules(self, denoiser: Any, adapter: ModelAdapter) -> tuple[str, ...]:
        """Names of the denoiser's modules that are trained in full, whatever the tuning trains.

        Raises:
            ConfigError: If it has none of what is asked for.
        """
        return ()

    def exported_settings(self, denoiser: Any, adapter: ModelAdapter) -> Mapping[str, Any]:
        """What the config of the exported denoiser says otherwise."""
        return {}

    def drawing_class(self, model: Model) -> str | None:
        """Name the diffusers pipeline that generates with what is exported; None if only ``finetrainers sample`` does."""
        return model.pipeline_class

    def model_input(self, noisy: Tensor, batch: Batch) -> tuple[Tensor, Prompt]:
        """What to feed the denoiser: [B, C', F, H, W] from noisy latents [B, C, F, H, W], and what it is told besides."""
        return noisy, batch.prompt

    def verify(self, denoisers: Sequence[Any], adapter: ModelAdapter, predict: Predict, batch: Batch) -> None:
        """Make sure, by a batch of one sample, that prepared denoisers are shown what ``prepare`` made them for.

        Raises:
            ModelError: If they are not.
        """

    @contextmanager
    def sampling(self, denoisers: Sequence[Any], adapter: ModelAdapter, media: Mapping[str, Medium]) -> Iterator[None]:
        """Let pipelines that call the denoisers generate with the media of one sample, by the name of the stream."""
        yield

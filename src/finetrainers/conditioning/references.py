"""References: pictures at a size of their own, as further tokens of the denoiser, as in FLUX.1 Kontext.

Shape letters as in ``finetrainers.batch``; H' and W' are latent height and width of one picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from finetrainers.batch import Batch, Medium, Prompt
from finetrainers.conditioning.base import Conditioning
from finetrainers.config import ReferencesConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.frames import FrameSelection
from finetrainers.data.streams import Stream
from finetrainers.models import Model, ModelAdapter

REFERENCE = "reference"
"""Name of the stream; the pictures of a sample are reference.0, reference.1 and so on."""


class References(Conditioning):
    """Shows the denoiser pictures in files beside the media; nothing of it is changed."""

    def __init__(self, config: ReferencesConfig) -> None:
        sizes = resolve_buckets(config.budget)
        self.streams = (Stream(REFERENCE, "condition", follows=None, is_many=True, sizes=sizes, samples_posterior=False),)
        self.frames = {REFERENCE: FrameSelection(dropout=1 - config.probability)}

    def drawing_class(self, model: Model) -> str | None:
        return model.adapter.pictures.reference_pipelines.get(model.task)

    def model_input(self, noisy: Tensor, batch: Batch) -> tuple[Tensor, Prompt]:
        pictures = [picture for picture in pictures_of(batch.media) if picture.is_shown.any()]  # on the CPU: nobody waits
        assert all(bool(own.is_shown.all()) for own in pictures), "samples of a step share whether they have references"
        return noisy, replace(batch.prompt, references=tuple(picture.latents for picture in pictures))

    @contextmanager
    def sampling(self, denoisers: Sequence[Any], adapter: ModelAdapter, media: Mapping[str, Medium]) -> Iterator[None]:
        references = [picture.latents for picture in pictures_of(media)]

        def append(_module: Any, args: Any, told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, adapter.append_references(told, references) if references else told

        with ExitStack() as stack:
            for denoiser in denoisers:
                stack.callback(denoiser.register_forward_pre_hook(append, with_kwargs=True, prepend=True).remove)
            yield


def pictures_of(media: Mapping[str, Medium]) -> list[Medium]:
    """Choose the references among the media of a batch, in their order."""
    numbers = sorted(int(name.rpartition(".")[2]) for name in media if name.startswith(f"{REFERENCE}."))
    return [media[f"{REFERENCE}.{number}"] for number in numbers]

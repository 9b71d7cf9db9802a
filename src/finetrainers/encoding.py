"""The encoding stage: what the cache lacks, in batches, through one group of encoders at a time.

With ``cache.batch_size: 1``, the default, an interrupted run encodes the same bits as one that nobody interrupted. In larger
batches the last bits of an item depend on its row, since matrix products are blocked by rows.
"""

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from finetrainers.config import CacheConfig
from finetrainers.data.cache import GB, Cache, make_key
from finetrainers.data.media import decode
from finetrainers.data.memo import Memo
from finetrainers.data.order import Order
from finetrainers.data.plan import LatentsJob, Plan, SampleJob, TextJob
from finetrainers.data.sources import Problem
from finetrainers.data.view import Clip
from finetrainers.errors import ConfigError, DataError
from finetrainers.models import Model
from finetrainers.models.vae import encode_pixels

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, items done, items in all)."""

T = TypeVar("T")

DECODED_BATCHES_AHEAD = 2
"""Batches of decoded pixels that wait for the encoder: bounds the memory."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Fills a cache with what a model's encoders make of media and captions."""

    model: Model
    cache: Cache
    memo: Memo
    config: CacheConfig
    device: torch.device
    progress: StageProgress
    has_tiling: bool = False
    has_slicing: bool = False

    def identities(self) -> tuple[str, str]:
        """Identify the VAE and the text encoders by their weights and settings; no weights are loaded.

        Local weights are hashed once and remembered; those from the Hub are known by repository and commit.
        """
        adapter = self.model.adapter
        latents = make_key("vae", self._identity("vae"), adapter.samples_posterior, self.has_tiling)
        encoders = [self._identity(name) for name in adapter.text_components]
        return latents, make_key("text", adapter.name, self.model.max_length, *encoders)

    def fill(self, latents: Iterable[LatentsJob], texts: Iterable[TextJob]) -> list[Problem]:
        """Encode what the cache lacks; return the media that could not be decoded."""
        self._fill_texts([job for job in _distinct(texts) if not self.cache.has("text", job.key)])
        return self._fill_latents([job for job in _distinct(latents) if not self.cache.has("latents", job.key)])

    def window(self, plan: Plan, order: Order, steps: range, *, pinned: Sequence[str]) -> int:
        """Return the step before which all that the steps read fits into ``cache.max_gb``, beside the pinned items.

        Raises:
            ConfigError: If not even one step fits.
        """
        if self.config.max_gb is None:
            return steps.stop
        texts = plan.step(order, steps.start)[0].text
        self.fill([], [texts])
        text_bytes = self.cache.file("text", texts.key).stat().st_size
        left = int(self.config.max_gb * GB) - sum(e.bytes for e in self.cache.entries() if e.key in set(pinned))
        needed: set[str] = set(pinned)
        for step in steps:
            for job in plan.step(order, step):
                left -= 0 if job.text.key in needed else text_bytes
                left -= 0 if job.latents.key in needed else self._latents_bytes(job)
                needed |= {job.text.key, job.latents.key}
            if left < 0 and step == steps.start:
                raise ConfigError(
                    f"cache.max_gb: {self.config.max_gb} GB cannot hold the items of one optimizer step "
                    f"(and of the validation); {self.config.max_gb - left / GB:.3f} GB can"
                )
            if left < 0:
                return step
        return steps.stop

    def make_room(self, jobs: Sequence[SampleJob], *, pinned: Sequence[str]) -> None:
        """Remove least recently used items that these jobs do not need, so that what they lack will fit."""
        if self.config.max_gb is None:
            return
        keep = {*pinned, *(key for job in jobs for key in (job.text.key, job.latents.key))}
        lacking = {j.latents.key: self._latents_bytes(j) for j in jobs if not self.cache.has("latents", j.latents.key)}
        self.cache.evict(int(self.config.max_gb * GB) - sum(lacking.values()), keep=keep)

    def _latents_bytes(self, job: SampleJob) -> int:
        dtype = self.model.pretrained.place("vae").dtype
        values = torch.Size(self.model.adapter.grid.latent_shape(job.bucket)).numel()
        header = 1000  # names, shapes and metadata of a file
        return values * dtype.itemsize * (2 if self.model.adapter.samples_posterior else 1) + header

    def _identity(self, component: str) -> str:
        pretrained = self.model.pretrained
        place = pretrained.place(component)
        if not place.is_local:
            return f"{place.path}@{pretrained.commit(component)}/{place.subfolder} {place.dtype}"
        return make_key(
            *((file.name, self.memo.digest(file).hex()) for file in pretrained.files(component)), str(place.dtype)
        )

    def _fill_texts(self, jobs: list[TextJob]) -> None:
        if not jobs:
            return
        adapter, pretrained = self.model.adapter, self.model.pretrained
        components = {name: pretrained.load(name) for name in adapter.text_components}
        pipeline = pretrained.pipeline(next(iter(adapter.pipelines.values())), components).to(self.device)
        done = 0
        for batch in _batches(jobs, self.config.batch_size):
            captions = [job.caption for job in batch]
            with torch.no_grad():  # outside of their __call__, pipelines record gradients
                text = adapter.encode_prompt(pipeline, captions, max_length=self.model.max_length, device=self.device)
            for row, job in enumerate(batch):
                self.cache.write("text", job.key, {name: t[row].cpu() for name, t in text.items()}, {})
            done += len(batch)
            self.progress("encode text", done, len(jobs))
        del pipeline, components
        free_memory()

    def _fill_latents(self, jobs: list[LatentsJob]) -> list[Problem]:
        problems: list[Problem] = []
        vae: Any = None
        done = 0
        for batch, clips in self._decoded(jobs):
            good = [(job, clip) for job, clip in zip(batch, clips, strict=True) if isinstance(clip, Clip)]
            problems += [clip for clip in clips if isinstance(clip, Problem)]
            if good and vae is None:  # loaded only when there is something to encode
                vae = self._load_vae()
            if good:
                self._encode_clips(vae, good)
            done += len(batch)
            self.progress("encode media", done, len(jobs))
        del vae
        free_memory()
        return problems

    def _load_vae(self) -> Any:
        vae = self.model.pretrained.load("vae").to(self.device)
        if self.has_tiling:
            vae.enable_tiling()
        if self.has_slicing:
            vae.enable_slicing()
        return vae

    def _encode_clips(self, vae: Any, clips: list[tuple[LatentsJob, Clip]]) -> None:
        pixels = torch.stack([clip.pixels for _, clip in clips])
        mean, std = encode_pixels(vae, self.model.adapter, pixels)
        for row, (job, clip) in enumerate(clips):
            tensors = {"mean": mean[row]} if std is None else {"mean": mean[row], "std": std[row]}
            self.cache.write("latents", job.key, tensors, {"fps": repr(clip.fps)})

    def _decoded(self, jobs: list[LatentsJob]) -> Iterator[tuple[list[LatentsJob], list[Clip | Problem]]]:
        """Batches of one size with their pixels, decoded ahead by a few threads: FFmpeg and Pillow release the GIL."""

        def shape(job: LatentsJob) -> tuple[int, int, int]:
            return job.view.num_frames, job.view.height, job.view.width

        by_shape = itertools.groupby(sorted(jobs, key=shape), key=shape)
        batches = (batch for _, group in by_shape for batch in _batches(list(group), self.config.batch_size))
        with ThreadPoolExecutor(max(1, self.config.workers)) as pool:
            waiting: list[tuple[list[LatentsJob], list[Future[Clip | Problem]]]] = []
            for batch in batches:
                waiting.append((batch, [pool.submit(_decode, job) for job in batch]))
                if len(waiting) > DECODED_BATCHES_AHEAD:
                    ready, futures = waiting.pop(0)
                    yield ready, [future.result() for future in futures]
            for ready, futures in waiting:
                yield ready, [future.result() for future in futures]


def free_memory() -> None:
    """Give back what was just dropped, so that the next model finds room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _decode(job: LatentsJob) -> Clip | Problem:
    from pathlib import Path

    try:
        return decode(Path(job.path), job.view)
    except DataError as error:
        return Problem(job.path, str(error).removeprefix(f"{job.path}: "))


def _distinct(jobs: Iterable[T]) -> list[T]:
    return list({job.key: job for job in jobs}.values())  # type: ignore[attr-defined]  # both kinds of job have a key


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))

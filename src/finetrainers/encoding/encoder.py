"""The encoding stage: what the cache lacks, in batches, through one group of encoders at a time.

With ``cache.batch_size: 1``, the default, an interrupted run encodes the same bits as one that nobody interrupted. In larger
batches the last bits of an item depend on its row, since matrix products are blocked by rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import PIL.Image
import torch

from finetrainers.batch import Image
from finetrainers.config import CacheConfig
from finetrainers.data.cache.claims import Claims
from finetrainers.data.cache.item import without_zeros
from finetrainers.data.cache.leases import Lease
from finetrainers.data.cache.memory import AnyCache, Unbuffered
from finetrainers.data.cache.store import IMAGE, Kind
from finetrainers.data.cache.writing import Batches
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.media.view import Clip
from finetrainers.data.order.jobs import Failure, LatentsJob, TextJob
from finetrainers.data.order.lazy import Lazy
from finetrainers.distributed.board import Place
from finetrainers.distributed.world import World, alone
from finetrainers.encoding.cells import cell_means
from finetrainers.encoding.decoding import decoded, looked_at
from finetrainers.encoding.identity import identities
from finetrainers.encoding.shares import Found, Progress, Share, chosen, missing, missing_places
from finetrainers.errors import ConfigError, DataError, Interrupted
from finetrainers.memory.residency import Residency
from finetrainers.models import Model
from finetrainers.models.padding import hide_padding
from finetrainers.models.stated import check_image
from finetrainers.models.vae import encode_pixels

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, items done, items in all)."""

Job = TypeVar("Job", LatentsJob, TextJob)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Encoder:
    """Fills a cache with what a model's encoders make of media and captions."""

    model: Model
    cache: AnyCache
    memo: Memo
    config: CacheConfig
    residency: Residency
    progress: StageProgress
    warn: Callable[[str], None]
    """Takes what a user should know of, as a sentence."""
    lease: Lease | None = None
    """Keeps what the run needs from being removed by others."""
    world: World = field(default_factory=alone)
    """Processes that fill the cache together."""
    interrupt: Callable[[str], None] = lambda _: None
    """Called after each batch with the stage; may raise, and the cache keeps what is done."""

    def identities(self) -> tuple[str, str]:
        """Identify the VAE and the text encoders by their weights and settings; no weights are loaded."""
        return identities(self.model, self.memo)

    def rows(self, batch_size: int) -> slice:
        """Samples of an optimizer step whose items the cache of this process is to have."""
        return self.world.rows(batch_size) if self.cache.is_own else slice(None)

    def by_owners(self, do: Callable[[], Value]) -> list[Value]:
        """Let the first process do something with a cache that all share, or each with its own; return what comes of it."""
        if not self.cache.is_own:
            return [self.world.first(do)]
        with self.world.together():
            own = do()
        return self.world.talk.gather(own)

    def fill(self, latents: Sequence[LatentsJob], texts: Sequence[TextJob]) -> list[Failure]:
        """Encode what the cache lacks, in this process alone; return what could not be decoded or encoded."""
        found = self._fill(missing(self.cache, "latents", latents), missing(self.cache, "text", texts), Place())
        self._warn(found)
        return found.failures

    def fill_together(self, latents: Sequence[LatentsJob], texts: Sequence[TextJob]) -> list[Failure]:
        """As ``fill``, by all processes of the run, each of which encodes some; all of them return what any of them found.

        They wait for each other before and after, and not meanwhile: what a process that dies had begun, others encode.
        """
        world = self.world
        if world.is_alone:
            return self.fill(latents, texts)
        if self.cache.is_own:
            return self._fill_own(latents, texts)
        with world.together():
            lacking = missing(self.cache, "latents", latents), missing(self.cache, "text", texts)
        if self.residency.shares_encoders:  # of which all make one list: another run may write meanwhile
            lacking = lacking[0], chosen(texts, world.first(lambda: missing_places(self.cache, "text", texts)))
        found = Found()
        with world.apart() as place:
            found = self._fill(*lacking, place)
        every = world.talk.gather(found)
        if world.is_first:
            self._warn(Found.joined(every))
        return Found.joined(every).failures

    def _fill_own(self, latents: Sequence[LatentsJob], texts: Sequence[TextJob]) -> list[Failure]:
        """As ``fill_together``, where each process encodes all that it lacks itself."""
        found = Found()
        with self.world.apart() as place:
            lacking = missing(self.cache, "latents", latents), missing(self.cache, "text", texts)
            found = self._fill(*lacking, Place(watched=place))
        every = Found.joined(self.world.talk.gather(found)).distinct()  # several may lack the same
        if self.world.is_first:
            self._warn(every)
        return every.failures

    def _fill(self, latents: Lazy[LatentsJob], texts: Lazy[TextJob], place: Place) -> Found:
        """Encode what of missing items is this process's to encode."""
        found = Found()
        with self.cache.claims() as claims, self.cache.in_batches() as batches:
            share = partial(self._share, batches=batches, claims=claims, place=place)
            if texts and self.residency.shares_encoders:
                self._fill_texts_in_step(texts, place, found)
            elif texts:
                self._fill_texts(share("text", texts), found)
            if latents:
                self._fill_latents(share("latents", latents), found)
            if place.size > 1 and claims.problem is not None:
                self.warn(
                    f"cache.path: {self.config.path} cannot be shared by the processes of this run ({claims.problem}): each "
                    "of them encodes all that it finds missing; name a folder on a file system that has locks"
                )
        return found

    def _share(
        self, kind: Kind, jobs: Lazy[Job], *, batches: Batches | Unbuffered, claims: Claims, place: Place
    ) -> Share[Job]:
        stage = "encode text" if kind == "text" else "encode media"
        progress = Progress(partial(self.progress, stage), len(jobs), place, stage, partial(self.interrupt, stage))
        return Share(kind, jobs, cache=self.cache, batches=batches, claims=claims, place=place, progress=progress)

    def _fill_texts(self, share: Share[TextJob], found: Found) -> None:
        """Encode captions; what encodes them is loaded only when there is something to encode."""
        pipeline: Any = None
        with ExitStack() as loaded:
            batches = (batch for jobs in share.rounds() for batch in looked_at(jobs, self.config, share.take))
            for batch, images in batches:
                good = [(job, image) for job, image in zip(batch, images, strict=True) if not isinstance(image, Failure)]
                bad = [(job, image) for job, image in zip(batch, images, strict=True) if isinstance(image, Failure)]
                if good:
                    pipeline = loaded.enter_context(self._text_pipeline()) if pipeline is None else pipeline
                    found.cut += self._too_long(pipeline, [job.caption for job, _ in good])
                    self._encode_captions(pipeline, good)
                found.failures += [image for _, image in bad]
                share.done(batch, {job.key for job, _ in bad})

    def _fill_texts_in_step(self, texts: Lazy[TextJob], place: Place, found: Found) -> None:
        """Encode this process's part of the captions, as often asking the encoders as the others do.

        Raises:
            DataError: If this process is alone.
        """
        if place.size == 1:
            raise DataError(
                f"cache.path: {len(texts)} encoded captions are gone, and memory.shard_text_encoders encodes them only with "
                "all processes; start the same command again"
            )
        progress = Progress(partial(self.progress, "encode text"), len(texts), place, "encode text")
        own, batch_size = texts[place.rank :: place.size], self.config.batch_size
        batches = looked_at(own, self.config, take=list)
        with self._text_pipeline() as pipeline:
            for _ in range(0, math.ceil(len(texts) / place.size), batch_size):
                batch, images = next(batches, ([], []))
                found.failures += [image for image in images if isinstance(image, Failure)]
                good = [(job, image) for job, image in zip(batch, images, strict=True) if not isinstance(image, Failure)]
                if good:
                    found.cut += self._too_long(pipeline, [job.caption for job, _ in good])
                    self._encode_captions(pipeline, good)
                else:
                    black = PIL.Image.new("RGB", (64, 64)) if self.model.text_sees_image else None
                    with torch.no_grad():
                        self.model.encode_text(pipeline, [""], [black], device=self.residency.device)
                self._count_in_step(progress, len(batch))
        progress.end()

    def _count_in_step(self, progress: Progress, count: int) -> None:
        """Count, and let all leave after the same batch where a signal has come to one of them."""
        stop: Interrupted | None = None
        try:
            progress.add(count)
        except Interrupted as asked:
            stop = asked
        if self.world.agree(stop is not None):
            raise stop or Interrupted("stopped by a signal to another process while encoding; start the same command again")

    def _fill_latents(self, share: Share[LatentsJob], found: Found) -> None:
        """Encode media; what encodes them is loaded only when there is something to encode."""
        pipeline, is_one_of_many = None, share.is_one_of_many
        with ExitStack() as loaded:
            batches = (
                batch
                for jobs in share.rounds()
                for batch in decoded(jobs, self.config, share.take, largest_first=is_one_of_many)
            )
            for batch, clips in batches:
                good = [(job, clip) for job, clip in zip(batch, clips, strict=True) if isinstance(clip, Clip)]
                failures = [clip for clip in clips if isinstance(clip, Failure)]
                is_encoded = bool(good) and good[0][0].stream.encoder == "vae"
                if is_encoded and pipeline is None:
                    pipeline = loaded.enter_context(self._image_pipeline())
                if is_encoded:
                    failures += self._encode_clips(pipeline, good)
                elif good:
                    found.black += [(job.stream.name, job.path) for job in self._store_cells(good)]
                found.failures += failures
                share.done(batch, {failure.key for failure in failures})

    def _warn(self, found: Found) -> None:
        """Say what a user should know of what was encoded."""
        if found.cut:
            self.warn(
                f"{len(found.cut)} captions are longer than model.max_sequence_length ({self.model.max_length} tokens), "
                f"and the rest is cut off; the first begins {found.cut[0][:60]!r}"
            )
        if found.black:
            name, path = found.black[0]
            self.warn(f"{len(found.black)} items of {name} show nothing but black; the first is of {path}")

    def _encode_captions(self, pipeline: Any, jobs: list[tuple[TextJob, PIL.Image.Image | None]]) -> None:
        """Encode and store captions, with the images that the text encoder sees beside them."""
        captions, images = [job.caption for job, _ in jobs], [image for _, image in jobs]
        with torch.no_grad():  # outside of their __call__, pipelines record gradients
            text = self.model.encode_text(pipeline, captions, images, device=self.residency.device)
        for row, (job, _) in enumerate(jobs):
            own = hide_padding({name: t[row].cpu() for name, t in text.items()}, self.model.adapter.text)
            self.cache.write("text", job.key, *without_zeros(own))

    def _too_long(self, pipeline: Any, captions: list[str]) -> list[str]:
        """Choose the captions that the denoiser will not see all of."""
        tokenizer = getattr(pipeline, self.model.adapter.text.main_tokenizer)
        tokens = tokenizer(captions, truncation=False, verbose=False)["input_ids"]
        return [c for c, own in zip(captions, tokens, strict=True) if len(own) > self.model.max_length]

    @contextmanager
    def _text_pipeline(self) -> Iterator[Any]:
        """Have the text encoders on the device."""
        model = self.model
        with self.residency.alone(*model.text_components) as components:
            yield model.pretrained.pipeline(model.pipeline_class, components)

    @contextmanager
    def _image_pipeline(self) -> Iterator[Any]:
        """Have the VAE on the device, and what else the task needs for the frames that are given."""
        model = self.model
        with self.residency.alone("vae", *model.image_components) as components:
            yield model.pretrained.pipeline(model.pipeline_class, components)

    def _encode_clips(self, pipeline: Any, clips: list[tuple[LatentsJob, Clip]]) -> list[Failure]:
        """Encode and store clips of one size; return those that the VAE makes nothing finite of."""
        failures, vae, model = [], pipeline.vae, self.model
        pixels = torch.stack([clip.pixels for _, clip in clips])
        mean, std = encode_pixels(vae, model.adapter, pixels)
        image: Image = {}
        if model.takes_image and clips[0][0].stream.role == "target":
            with torch.no_grad():
                image = model.adapter.encode_image(pipeline, pixels, task=model.task)
            check_image(image, model.adapter, len(clips))
        for row, (job, clip) in enumerate(clips):
            tensors = {"mean": mean[row]} if std is None else {"mean": mean[row], "std": std[row]}
            tensors |= {IMAGE + name: tensor[row].cpu() for name, tensor in image.items()}
            if all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                self.cache.write("latents", job.key, tensors, {"fps": repr(clip.fps)})
            elif job.stream.transform.is_computed:  # no fault of the file's
                raise ConfigError(
                    f"{job.stream.transform.setting}: the VAE makes latents of {job.path} that are not finite in {vae.dtype}"
                )
            else:  # in the cache they would poison all runs
                reason = f"the VAE's latents are not finite in {vae.dtype}; try model.components.vae.dtype: float32"
                failures.append(Failure.of(job, reason))
        return failures

    def _store_cells(self, clips: list[tuple[LatentsJob, Clip]]) -> list[LatentsJob]:
        """Store clips of one size as they are, but for their size: that of latents. Return those that are black."""
        black: list[LatentsJob] = []
        grid = self.model.adapter.grid
        for job, clip in clips:
            mean = cell_means(clip.pixels[None], step=grid.vae_step, frame_step=grid.vae_frame_step)[0]
            self.cache.write("latents", job.key, {"mean": mean}, {"fps": repr(clip.fps)})
            if not mean.any():
                black.append(job)
        return black

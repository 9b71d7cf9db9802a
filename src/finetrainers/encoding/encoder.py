"""The encoding stage: what the cache lacks, in batches, through one group of encoders at a time.

With ``cache.batch_size: 1``, the default, an interrupted run encodes the same bits as one that nobody interrupted. In larger
batches the last bits of an item depend on its row, since matrix products are blocked by rows.
"""

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import torch

from finetrainers.batch import Image
from finetrainers.config import CacheConfig
from finetrainers.data.cache.leases import Lease
from finetrainers.data.cache.store import IMAGE, Cache, Kind, make_key
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.media.view import Clip
from finetrainers.data.order.jobs import Failure, LatentsJob, TextJob
from finetrainers.data.order.lazy import Lazy
from finetrainers.encoding.cells import cell_means
from finetrainers.encoding.decoding import ahead, decoded, in_batches, look
from finetrainers.errors import ConfigError
from finetrainers.memory.residency import Residency
from finetrainers.models import Model
from finetrainers.models.vae import encode_pixels

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, items done, items in all)."""

Job = TypeVar("Job", LatentsJob, TextJob)

SEEN_SLOTS = 1 << 20
"""Keys that are remembered while the cache is searched; one that is forgotten costs another look at the disk."""
SECONDS_BETWEEN_REPORTS = 1.0


@dataclass(frozen=True, slots=True)
class Encoder:
    """Fills a cache with what a model's encoders make of media and captions."""

    model: Model
    cache: Cache
    memo: Memo
    config: CacheConfig
    residency: Residency
    progress: StageProgress
    warn: Callable[[str], None]
    """Takes what a user should know of, as a sentence."""
    lease: Lease | None = None
    """Keeps what the run needs from being removed by others."""

    def identities(self) -> tuple[str, str]:
        """Identify the VAE and the text encoders by their weights and settings; no weights are loaded.

        Local weights are hashed once and remembered; those from the Hub are known by repository and commit.
        """
        adapter = self.model.adapter
        own = self._user_code()
        image: list[object] = list(own)
        if self.model.takes_image:
            image += [adapter.name, self.model.task, *map(self._identity, self.model.image_components)]
        vae = adapter.latents
        facts = vae.samples_posterior, adapter.grid.frame_patch, vae.statistics, vae.is_image_vae
        if adapter.grid.frame_patch > 1:
            image.append("without padding")  # items of earlier versions had it
        latents = make_key("vae", self._identity("vae"), self.model.pretrained.memory.vae_tiling, *facts, *image)
        encoders: list[object] = [*own, *(self._identity(name) for name in self.model.text_components)]
        if settings := adapter.text_settings(self.model.task):
            encoders.append(dict(settings))
        if (weights := self.model.pretrained.memory.text_encoder_weights) != "none":
            encoders.append(f"weights in {weights}")
        return latents, make_key("text", adapter.name, self.model.max_length, *encoders)

    def fill(self, latents: Sequence[LatentsJob], texts: Sequence[TextJob]) -> list[Failure]:
        """Encode what the cache lacks; return what could not be decoded or encoded."""
        failures = self._fill_texts(self._missing("text", texts))
        return failures + self._fill_latents(self._missing("latents", latents))

    def _user_code(self) -> list[str]:
        """Identify an adapter that is a file of the user's: what it encodes changes as the file does."""
        place = self.model.pretrained.config.adapter
        return [] if place is None else [self.memo.digest(Path(place.rpartition(":")[0]).expanduser()).hex()]

    def _identity(self, component: str) -> str:
        pretrained = self.model.pretrained
        place = pretrained.place(component)
        if not place.is_local:
            return f"{place.path}@{pretrained.commit(component)}/{place.subfolder} {place.dtype}"
        return make_key(
            *((file.name, self.memo.digest(file).hex()) for file in pretrained.files(component)), str(place.dtype)
        )

    def _missing(self, kind: Kind, jobs: Sequence[Job]) -> Lazy[Job]:
        """Jobs whose items the cache lacks, each key once, in the order of first use."""
        seen, keys, places = array("Q", bytes(8 * SEEN_SLOTS)), array("Q"), array("q")
        for place, job in enumerate(jobs):
            key = int(job.key[:16], 16)
            if seen[key % SEEN_SLOTS] == key:
                continue
            seen[key % SEEN_SLOTS] = key
            if not self.cache.has(kind, job.key):
                keys.append(key)
                places.append(place)
        _, first = np.unique(np.array(keys, np.uint64), return_index=True)
        chosen = np.array(places, np.int64)[np.sort(first)]
        return Lazy(lambda index: jobs[int(chosen[index])], len(chosen))

    def _fill_texts(self, jobs: Lazy[TextJob]) -> list[Failure]:
        if not jobs:
            return []
        with self.residency.alone(*self.model.text_components) as components:
            return self._encode_texts(jobs, components)

    def _encode_texts(self, jobs: Lazy[TextJob], components: Mapping[str, Any]) -> list[Failure]:
        model = self.model
        pipeline = model.pretrained.pipeline(model.pipeline_class, components)
        report = self._reporter("encode text", len(jobs))
        cut: list[str] = []
        failures: list[Failure] = []
        for batch, images in ahead(in_batches(jobs, self.config.batch_size), look, self.config):
            failures += [image for image in images if isinstance(image, Failure)]
            good = [(job, image) for job, image in zip(batch, images, strict=True) if not isinstance(image, Failure)]
            if good:
                cut += self._too_long([job.caption for job, _ in good], components[model.adapter.text.main_tokenizer])
                self._encode_captions(pipeline, good)
            report(len(batch))
        if cut:
            self.warn(
                f"{len(cut)} captions are longer than model.max_sequence_length ({self.model.max_length} tokens), "
                f"and what is beyond is not seen; the first begins {cut[0][:60]!r}"
            )
        return failures

    def _encode_captions(self, pipeline: Any, jobs: list[tuple[TextJob, PIL.Image.Image | None]]) -> None:
        """Encode and store captions, with the images that the text encoder sees beside them."""
        captions, images = [job.caption for job, _ in jobs], [image for _, image in jobs]
        with torch.no_grad():  # outside of their __call__, pipelines record gradients
            text = self.model.encode_text(pipeline, captions, images, device=self.residency.device)
        for row, (job, _) in enumerate(jobs):
            self.cache.write("text", job.key, {name: t[row].cpu() for name, t in text.items()}, {})

    def _too_long(self, captions: list[str], tokenizer: Any) -> list[str]:
        """Choose the captions that the denoiser will not see all of."""
        tokens = tokenizer(captions, truncation=False, verbose=False)["input_ids"]
        return [c for c, own in zip(captions, tokens, strict=True) if len(own) > self.model.max_length]

    def _fill_latents(self, jobs: Lazy[LatentsJob]) -> list[Failure]:
        if not jobs:
            return []
        with ExitStack() as loaded:
            return self._encode_media(jobs, loaded)

    def _encode_media(self, jobs: Lazy[LatentsJob], loaded: ExitStack) -> list[Failure]:
        black: list[LatentsJob] = []
        failures: list[Failure] = []
        pipeline: Any = None
        report = self._reporter("encode media", len(jobs))
        for batch, clips in decoded(jobs, self.config):
            good = [(job, clip) for job, clip in zip(batch, clips, strict=True) if isinstance(clip, Clip)]
            failures += [clip for clip in clips if isinstance(clip, Failure)]
            is_encoded = bool(good) and good[0][0].stream.encoder == "vae"
            if is_encoded and pipeline is None:  # loaded only when there is something to encode
                pipeline = loaded.enter_context(self._image_pipeline())
            if is_encoded:
                failures += self._encode_clips(pipeline, good)
            elif good:
                black += self._store_cells(good)
            report(len(batch))
        if black:
            self.warn(
                f"{len(black)} items of {black[0].stream.name} show nothing but black; the first is of {black[0].path}"
            )
        return failures

    def _reporter(self, stage: str, total: int) -> Callable[[int], None]:
        """Return what counts items that are done, and tells of them at most once a second, and at the end."""
        done, told = 0, -SECONDS_BETWEEN_REPORTS

        def report(count: int) -> None:
            nonlocal done, told
            done += count
            if done == total or time.monotonic() - told >= SECONDS_BETWEEN_REPORTS:
                told = time.monotonic()
                self.progress(stage, done, total)

        return report

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
                failures.append(Failure(job, reason))
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

"""What each step of a run needs from the cache: from sample positions to the names of encoded items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.cache.store import make_key
from finetrainers.data.catalog.catalog import Catalog, Dataset, caption_of, view_of
from finetrainers.data.catalog.followers import following_view
from finetrainers.data.catalog.left_out import BadViews, LeftOut
from finetrainers.data.media.view import View
from finetrainers.data.order.choices import NO_CAPTION, Choices
from finetrainers.data.order.distinct import distinct_choices, first_uses
from finetrainers.data.order.jobs import LatentsJob, Picture, SampleJob, TextJob
from finetrainers.data.order.lazy import Lazy
from finetrainers.data.order.order import Indices, Order
from finetrainers.data.sources.beside import about_file
from finetrainers.data.sources.items import Problem
from finetrainers.data.streams import MEDIA, Stream, name_of_picture
from finetrainers.files.whole import hash_file

VIEW_FIELDS = tuple(field.name for field in fields(View))


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs of many samples: a few bytes each, since the jobs themselves are made one at a time."""

    plan: "Plan"
    samples: Indices
    positions: Indices
    views: NDArray[np.int32]
    captions: NDArray[np.int32]
    """NO_CAPTION where it is dropped."""

    def __len__(self) -> int:
        return len(self.samples)

    def all(self) -> Lazy[SampleJob]:
        """Jobs of all samples."""
        return Lazy(self._job, len(self))

    def latents(self) -> Lazy[LatentsJob]:
        """Jobs of all that the VAE encodes, each view of a sample once, in the order of first use."""
        first = first_uses(self.samples * (1 + int(self.views.max(initial=0))) + self.views)
        samples, views, make = self.samples[first], self.views[first], self.plan.nth_media_job
        ends = np.cumsum(self.plan.num_media(samples))

        def job(index: int) -> LatentsJob:
            place = int(np.searchsorted(ends, index, side="right"))
            return make(int(samples[place]), int(views[place]), index - (int(ends[place - 1]) if place else 0))

        return Lazy(job, int(ends[-1]) if len(ends) else 0)

    def texts(self) -> Lazy[TextJob]:
        """Jobs of the captions, each caption of a sample (and of a view, if it is seen) once, in the order of first use."""
        codes = self.samples * (2 + int(self.captions.max(initial=0))) + self.captions - NO_CAPTION
        if self.plan.text_sees_image:
            codes = codes * (1 + int(self.views.max(initial=0))) + self.views
        else:
            codes[self.captions == NO_CAPTION] = -1  # the same for all samples
        first = first_uses(codes)
        samples, captions, views = (index[first] for index in (self.samples, self.captions, self.views))
        make = self.plan.sample_text
        return Lazy(lambda i: make(int(samples[i]), int(captions[i]), view=int(views[i])), len(first))

    def _job(self, index: int) -> SampleJob:
        sample, view, caption = int(self.samples[index]), int(self.views[index]), int(self.captions[index])
        return self.plan.job(sample, int(self.positions[index]), view=view, caption=caption)


@dataclass(frozen=True, slots=True)
class Plan:
    """The samples of a run with the encoders that make them; says which items each step reads."""

    catalog: Catalog
    seed: int
    latents_encoder: str
    """Identity of the VAE and its data type: part of each key."""
    text_encoder: str
    """Identity of the text encoders and their settings."""
    text_sees_image: bool = False
    """Whether the text encoder sees the first frame beside the caption."""
    streams: tuple[Stream, ...] = (MEDIA,)
    """What each sample has: the media themselves first."""
    takes_image: bool = False
    """Whether items of the media hold more than their latents, which pictures of a size of their own have nothing of."""
    frame_step: int = 1
    """Frames of one latent frame: a file that is shorter than its clip ends with a whole one."""
    bad: BadViews = field(default_factory=BadViews)
    """Views of samples that cannot be made: other samples stand in for them."""

    @property
    def choices(self) -> Choices:
        """What each position shows."""
        return Choices(self.catalog, self.seed, self.bad)

    @property
    def num_samples(self) -> int:
        """Samples to train on."""
        return self.catalog.num_samples - self.bad.num_samples

    def fingerprint(self) -> str:
        """Hash what the order and the samples depend on besides the configuration: files, and a signal of the user's."""
        files, others = self.catalog.fingerprint(), self.streams[1:]
        return make_key(files, *(stream.transform.identity for stream in others))[:16] if others else files

    def step(self, order: Order, step: int) -> list[SampleJob]:
        """Jobs of one optimizer step, in the order of positions."""
        positions = step * order.batch_size + np.arange(order.batch_size)
        samples, views, captions = self.choices.at(order, positions)
        return list(Jobs(self, samples, positions, views, captions).all())

    def distinct(self, order: Order, start: int, stop: int, rows: slice = slice(None)) -> Jobs:
        """Jobs of the optimizer steps from ``start`` to ``stop``, each pair of items once, in the order of first use.

        With ``rows``, of some samples of each step.
        """
        return Jobs(self, *distinct_choices(self.choices, order, start, stop, rows))

    def held_out(self, count: int) -> list[SampleJob]:
        """The first view and caption of ``count`` samples spread over all data sets, fixed for all runs."""
        return [self.job(sample, place, view=0, caption=0) for place, sample in self.spread(count)]

    def spread(self, count: int) -> list[tuple[int, int]]:
        """Choose ``count`` samples over all data sets; those that are good, each with its place among all."""
        chosen = np.unique(np.linspace(0, self.catalog.num_samples - 1, min(count, self.catalog.num_samples)).astype(int))
        is_bad = np.isin(chosen * self.bad.num_views, self.bad.codes)
        return [(i, int(sample)) for i, sample in enumerate(chosen) if not is_bad[i]]

    def leaving_out(self, items: Sequence[LeftOut]) -> "Plan":
        """Return the plan in which other samples stand in for those that need one of these items."""
        since = {item.key: item.since for item in items}
        pairs = [(sample, view, since[job.key]) for sample, view, job in self._needing(items)]
        return replace(self, bad=BadViews.of(pairs, max(data.config.num_views for data in self.catalog.sets)))

    def problems(self, items: Sequence[LeftOut]) -> list[tuple[Dataset, Problem]]:
        """What these items make of the data sets: each medium that needs one of them, once."""
        reasons = {item.key: item.reason for item in items}
        found: dict[tuple[int, str], tuple[Dataset, Problem]] = {}
        for sample, _, job in self._needing(items):
            data, row = self.catalog.locate(sample)
            medium, reason = data.path(row, MEDIA.name), reasons[job.key]
            if job.stream.has_files:
                reason = about_file(job.stream.name, job.path, reason)
            found.setdefault((id(data), medium), (data, Problem(medium, reason)))
        return list(found.values())

    def _needing(self, items: Sequence[LeftOut]) -> Iterator[tuple[int, int, LatentsJob]]:
        """Samples and views that need one of these items, each with the job that makes it."""
        keys = {item.key for item in items}
        digests = np.array([list(bytes.fromhex(item.digest)) for item in items], np.uint8)
        for sample in self.catalog.samples_of(digests) if items else ():
            for view in range(self.catalog.locate(sample)[0].config.num_views):
                jobs = dict.fromkeys(self.media_jobs(sample, view).values())
                yield from ((sample, view, job) for job in jobs if job.key in keys)

    def text_job(self, caption: str, picture: str | None = None) -> TextJob:
        """Job of any caption, such as a prompt of the validation with the file of the picture that it starts from."""
        if not self.text_sees_image or picture is None:
            return TextJob(make_key("text", self.text_encoder, caption), caption)
        return self._seeing_job(caption, Picture(hash_file(Path(picture)).hex(), picture))

    def media_jobs(self, sample: int, view: int) -> dict[str, LatentsJob]:
        """Jobs of all media of one view of a sample, by the name of the stream."""
        media = self._media_job(sample, view)
        jobs: dict[str, LatentsJob] = {}
        for stream in self.streams:
            if stream.has_own_size:
                count = self._num_pictures(stream, sample)
                jobs |= {name_of_picture(stream.name, n): self._picture_job(stream, sample, n) for n in range(count)}
            else:
                jobs[stream.name] = self._job_beside(stream, media, sample)
        return jobs

    def num_media(self, samples: Indices) -> Indices:
        """Count the media of samples [n]."""
        return sum(not stream.has_own_size for stream in self.streams) + self.catalog.num_pictures(samples)

    def nth_media_job(self, sample: int, view: int, number: int) -> LatentsJob:
        """One of the ``media_jobs``, without the others."""
        for stream in self.streams:
            count = self._num_pictures(stream, sample) if stream.has_own_size else 1
            if number < count:
                return (
                    self._picture_job(stream, sample, number)
                    if stream.has_own_size
                    else self.stream_job(stream, sample, view)
                )
            number -= count
        raise IndexError(number)

    def stream_job(self, stream: Stream, sample: int, view: int) -> LatentsJob:
        """Job of one stream of one view of a sample; of one that shows the frames of the media it is the media's own."""
        return self._job_beside(stream, self._media_job(sample, view), sample)

    def _media_job(self, sample: int, view: int) -> LatentsJob:
        data, row = self.catalog.locate(sample)
        pixels = view_of(data, row, view=view, bucket=self.catalog.buckets[data.bucket[row]])
        digest = data.digest(row, MEDIA.name)
        key = make_key("latents", self.latents_encoder, digest, _values(pixels))
        return LatentsJob(key, digest, data.path(row, MEDIA.name), pixels)

    def _job_beside(self, stream: Stream, media: LatentsJob, sample: int) -> LatentsJob:
        if stream == MEDIA or stream.is_the_followed:
            return media
        path, digest, pixels = media.path, media.digest, media.view
        if stream.has_files:
            data, row = self.catalog.locate(sample)
            path, digest = data.path(row, stream.name), data.digest(row, stream.name)
            pixels = following_view(data, row, stream.name, media.view, frame_step=self.frame_step)
        frames = media.view.num_frames  # which changes nothing of the item: caches that are filled know it by this name
        made_by = [] if stream.encoder == "vae" else [stream.encoder]
        made_from = digest, _values(pixels), frames
        key = make_key(stream.name, self.latents_encoder, stream.transform.identity, *made_from, *made_by)
        return LatentsJob(key, digest, path, pixels, stream)

    def _num_pictures(self, stream: Stream, sample: int) -> int:
        data, row = self.catalog.locate(sample)
        return len(data.pictures[stream.name].of(int(data.item[row])))

    def _picture_job(self, stream: Stream, sample: int, number: int) -> LatentsJob:
        """Job of one of the pictures that a sample has of a stream."""
        data, row = self.catalog.locate(sample)
        pictures = data.pictures[stream.name]
        picture = pictures.of(int(data.item[row]))[number]
        digest, pixels = pictures.digest(picture), pictures.view(picture)
        made_from = self.latents_encoder, digest, _values(pixels)
        if stream.encoder == "vae" and not self.takes_image:  # an item as media have it: one that is both is encoded once
            key = make_key("latents", *made_from)
        else:
            key = make_key(stream.name, stream.encoder, *made_from)
        return LatentsJob(key, digest, data.paths(row, stream.name)[number], pixels, stream)

    def sample_text(self, sample: int, caption: int, *, view: int) -> TextJob:
        """Job of one caption of a sample, or of none; with the view, if the text encoder sees it."""
        text = "" if caption == NO_CAPTION else caption_of(*self.catalog.locate(sample), caption)
        return self._seeing_job(text, self._media_job(sample, view)) if self.text_sees_image else self.text_job(text)

    def job(self, sample: int, position: int, *, view: int, caption: int) -> SampleJob:
        """Job of a sample at a position."""
        data, row = self.catalog.locate(sample)
        bucket, text = self.catalog.buckets[data.bucket[row]], self.sample_text(sample, caption, view=view)
        return SampleJob(position, bucket, self.media_jobs(sample, view), text, data.config.loss_weight)

    def _seeing_job(self, caption: str, seen: LatentsJob | Picture) -> TextJob:
        return TextJob(make_key("text", self.text_encoder, caption, seen.key), caption, seen)


def _values(view: View) -> list[object]:
    """The values of the fields, in their order; ``astuple`` copies each deeply, which is most of the time of a job."""
    return [getattr(view, name) for name in VIEW_FIELDS]

"""What each step of a run needs from the cache: from sample positions to the names of encoded items."""

from dataclasses import astuple, dataclass

import numpy as np

from finetrainers.config import Bucket
from finetrainers.data.cache import make_key
from finetrainers.data.catalog import Catalog, caption_of, view_of
from finetrainers.data.draws import uniform
from finetrainers.data.order import Indices, Order
from finetrainers.data.view import View

NO_CAPTION = -1


@dataclass(frozen=True, slots=True)
class LatentsJob:
    """One item of latents, and what it is made of."""

    key: str
    path: str
    view: View


@dataclass(frozen=True, slots=True)
class TextJob:
    """One encoded caption."""

    key: str
    caption: str


@dataclass(frozen=True, slots=True)
class SampleJob:
    """The two items of one sample."""

    position: int
    bucket: Bucket
    latents: LatentsJob
    text: TextJob


@dataclass(frozen=True, slots=True)
class Plan:
    """The samples of a run with the encoders that make them; says which items each step reads."""

    catalog: Catalog
    seed: int
    latents_encoder: str
    """Identity of the VAE and its data type: part of each key."""
    text_encoder: str
    """Identity of the text encoders and their settings."""

    def step(self, order: Order, step: int) -> list[SampleJob]:
        """Jobs of one optimizer step, in the order of positions."""
        chosen = order.step(step)
        views, captions = self._choices(chosen.samples, chosen.positions)
        rows = zip(chosen.samples, chosen.positions, views, captions, strict=True)
        return [self._job(int(s), int(n), view=int(v), caption=int(c)) for s, n, v, c in rows]

    def distinct(self, order: Order, start: int, stop: int) -> list[SampleJob]:
        """Jobs of the optimizer steps from ``start`` to ``stop``, each pair of items once, in the order of first use."""
        if start == stop:
            return []
        samples = np.concatenate([order.step(step).samples for step in range(start, stop)])
        positions = np.arange(start * order.batch_size, stop * order.batch_size)
        views, captions = self._choices(samples, positions)
        _, first = np.unique(np.stack([samples, views, captions]), axis=1, return_index=True)
        first.sort()
        rows = zip(samples[first], positions[first], views[first], captions[first], strict=True)
        return [self._job(int(s), int(n), view=int(v), caption=int(c)) for s, n, v, c in rows]

    def held_out(self, count: int) -> list[SampleJob]:
        """The first view and caption of ``count`` samples spread over all data sets, fixed for all runs."""
        chosen = np.unique(np.linspace(0, self.catalog.num_samples - 1, min(count, self.catalog.num_samples)).astype(int))
        return [self._job(int(sample), i, view=0, caption=0) for i, sample in enumerate(chosen)]

    def text_job(self, caption: str) -> TextJob:
        """Job of any caption, such as a prompt of the validation."""
        return TextJob(make_key("text", self.text_encoder, caption), caption)

    def _choices(self, samples: Indices, positions: Indices) -> tuple[Indices, Indices]:
        """View and caption of each sample at its position; caption NO_CAPTION where it is dropped."""
        views, captions = np.zeros_like(samples), np.zeros_like(samples)
        view, dropout, caption = (uniform(self.seed, positions, p) for p in ("view", "dropout", "caption"))
        start = 0
        for data in self.catalog.sets:
            own = (samples >= start) & (samples < start + len(data.item))
            counts = data.num_captions[data.item[samples[own] - start]]
            views[own] = (view[own] * data.config.num_views).astype(np.int64)
            captions[own] = (caption[own] * counts).astype(np.int64)
            captions[own & (dropout < data.config.caption_dropout)] = NO_CAPTION
            start += len(data.item)
        return views, captions

    def _job(self, sample: int, position: int, *, view: int, caption: int) -> SampleJob:
        data, row = self.catalog.locate(sample)
        item, bucket = int(data.item[row]), self.catalog.buckets[data.bucket[row]]
        pixels = view_of(data, row, view=view, bucket=bucket)
        text = "" if caption == NO_CAPTION else caption_of(data, row, caption)
        key = make_key("latents", self.latents_encoder, data.digests[item].tobytes().hex(), astuple(pixels))
        path = data.table["media"][item].as_py()
        return SampleJob(position, bucket, LatentsJob(key, path, pixels), self.text_job(text))

"""Contact sheets: what the trainer sees of a few samples of each bucket, crop, window and caption as encoding has them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetrainers.config import Bucket
from finetrainers.data.catalog.cropped import most_cropped
from finetrainers.data.media.files import decode
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.order.plan import Plan
from finetrainers.errors import DataError
from finetrainers.training.prepared import Prepared

PER_BUCKET = 12
"""Samples of a bucket, spread over all of it."""
SHEET_SIDE = 240
"""Pixels of the longer side of a picture on the sheet."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample of a sheet."""

    ref: str
    caption: str
    pictures: tuple[Image.Image, ...]
    """At the bucket's size: of a still it, of a clip its first, middle and last frame."""


def sheets(prepared: Prepared) -> Iterator[tuple[Bucket, list[Shown]]]:
    """Yield the samples of each bucket that has any; what cannot be decoded is left out."""
    for bucket, samples in spread_samples(prepared, PER_BUCKET):
        shown = (show(prepared.plan, sample) for sample in samples)
        yield bucket, [one for one in shown if one is not None]


def most_shown(prepared: Prepared) -> list[Shown | None]:
    """Show the samples that lose most to the crop, as ``most_cropped`` has them."""
    return [show(prepared.plan, sample) for sample in most_cropped(prepared.plan.catalog)]


def spread_samples(prepared: Prepared, count: int) -> list[tuple[Bucket, list[int]]]:
    """Choose so many samples of each bucket that has any, spread over all of it."""
    catalog, found = prepared.plan.catalog, []
    buckets = np.concatenate([data.bucket for data in catalog.sets])
    for number, bucket in enumerate(catalog.buckets):
        samples = np.flatnonzero(buckets == number)
        if len(samples):
            places = np.unique(np.linspace(0, len(samples) - 1, count).astype(int))
            found.append((bucket, samples[places].tolist()))
    return found


def show(plan: Plan, sample: int) -> Shown | None:
    """Decode a sample as encoding would; None of what cannot be decoded."""
    job: SampleJob = plan.job(sample, 0, view=0, caption=0)
    try:
        pixels = decode(job.target.path, job.target.view).pixels
    except (DataError, OSError):
        return None
    chosen = sorted({0, len(pixels) // 2, len(pixels) - 1})
    return Shown(job.target.path, job.text.caption, tuple(Image.fromarray(pixels[frame].numpy()) for frame in chosen))

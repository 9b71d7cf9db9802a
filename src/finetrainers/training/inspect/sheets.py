"""Contact sheets: what the trainer sees of a few samples of each bucket, crop, window and caption as encoding has them."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetrainers.config import Bucket
from finetrainers.data.media.files import decode
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.order.plan import Plan
from finetrainers.errors import DataError
from finetrainers.training.prepared import Prepared

PER_BUCKET = 12
"""Samples of a bucket, spread over all of it."""
SHEET_SIDE = 240
"""Pixels of the longer side of a picture on the sheet."""
QUALITY = 80


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample of a sheet."""

    ref: str
    caption: str
    pictures: tuple[Image.Image, ...]
    """At the bucket's size: of a still it, of a clip its first, middle and last frame."""


def sheets(prepared: Prepared) -> Iterator[tuple[Bucket, list[Shown]]]:
    """Yield the samples of each bucket that has any; what cannot be decoded is left out."""
    plan = prepared.plan
    buckets = np.concatenate([data.bucket for data in plan.catalog.sets])
    for number, bucket in enumerate(plan.catalog.buckets):
        samples = np.flatnonzero(buckets == number)
        if len(samples):
            places = np.unique(np.linspace(0, len(samples) - 1, PER_BUCKET).astype(int))
            shown = (_show(plan, int(sample)) for sample in samples[places])
            yield bucket, [one for one in shown if one is not None]


def _show(plan: Plan, sample: int) -> Shown | None:
    job: SampleJob = plan.job(sample, 0, view=0, caption=0)
    try:
        pixels = decode(job.target.path, job.target.view).pixels
    except (DataError, OSError):
        return None
    chosen = sorted({0, len(pixels) // 2, len(pixels) - 1})
    return Shown(job.target.path, job.text.caption, tuple(Image.fromarray(pixels[frame].numpy()) for frame in chosen))


def data_uri(picture: Image.Image) -> str:
    """Write a picture, small, as text that a page can hold."""
    small = picture.copy()
    small.thumbnail((SHEET_SIDE, SHEET_SIDE))
    file = io.BytesIO()
    small.save(file, "jpeg", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

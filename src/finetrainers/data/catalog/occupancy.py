"""How many samples each bucket has: what a run says of its data before it trains."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetrainers.config import Bucket
from finetrainers.config.data import Buckets, PixelBudget
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.cropped import by_bucket

Occupancy = Mapping[str, Any]
"""Of one bucket: its size [frames, height, width], its samples, those that the held-out loss is measured on, and the mean
and the largest part of its pictures that the crop removes."""


def occupancy(catalog: Catalog, held_out: Catalog | None, measured: Sequence[Bucket]) -> list[Occupancy]:
    """Count the samples of each bucket, empty ones included.

    Args:
        catalog: What is trained on.
        held_out: What is held out; None where nothing is.
        measured: Bucket of each sample that the held-out loss is measured on.
    """
    counts, held = _counts(catalog), Counter(measured)
    buckets = dict.fromkeys([*catalog.buckets, *(() if held_out is None else held_out.buckets)])
    means, most = (dict(zip(catalog.buckets, own, strict=True)) for own in by_bucket(catalog))
    return [
        {"size": list(b), "samples": counts[b], "held_out": held[b], **_crops(counts[b], means.get(b), most.get(b))}
        for b in buckets
    ]


def _crops(count: int, mean: float | None, most: float | None) -> Occupancy:
    """Mean and largest part of its pictures that a bucket's crop removes; nothing of an empty one."""
    if not count or mean is None or most is None:
        return {}
    return {"cropped": round(float(mean), 3), "most_cropped": round(float(most), 3)}


def about_empty(catalog: Catalog, section: str, *, is_wanted: Callable[[Buckets], bool] = lambda _: True) -> list[str]:
    """Say which of the listed buckets have no sample, and of which frame counts no generated one has any.

    Most of the sizes that a pixel budget generates have none: these are not named one by one. Buckets that nobody has
    asked for (``is_wanted``) may well be empty, as those for single images are where there are clips alone.
    """
    counts = _counts(catalog)
    listed: dict[Bucket, None] = {}
    lengths: dict[int, None] = {}
    for data in catalog.sets:
        if not is_wanted(data.config.buckets):
            continue
        if isinstance(data.config.buckets, PixelBudget):
            lengths |= dict.fromkeys(data.config.buckets.frames)
        else:
            listed |= dict.fromkeys(resolve_buckets(data.config.buckets))
    filled = {bucket[0] for bucket, count in counts.items() if count}
    empty = [f"the bucket {list(bucket)}" for bucket in listed if not counts[bucket]]
    empty += [f"any bucket of {_plural(frames, 'frame')}" for frames in lengths if frames not in filled]
    return [
        f"{section}: no sample is in {name}: nothing fits it, or other buckets are nearer; remove it, or add media for it"
        for name in empty
    ]


def _plural(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _counts(catalog: Catalog) -> Counter[Bucket]:
    counts: Counter[Bucket] = Counter()
    for data in catalog.sets:
        numbers, found = np.unique(data.bucket, return_counts=True)
        counts.update({catalog.buckets[n]: int(count) for n, count in zip(numbers, found, strict=True)})
    return counts

"""What crops remove of the pictures of a catalog: by bucket, and of which pictures most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.dataset import Dataset

MUCH = 0.25
"""Part of a picture whose loss is warned of: beyond it, what the caption names may be gone."""
NUM_NAMED = 5
"""Pictures that are named."""


def by_bucket(catalog: Catalog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest part that is removed of the samples of each bucket, by its number; 0 where it has none."""
    num_buckets = len(catalog.buckets)
    total, count, most = np.zeros(num_buckets), np.zeros(num_buckets), np.zeros(num_buckets, np.float32)
    for data in catalog.sets:
        cropped = data.cropped[data.item].astype(np.float32)
        total += np.bincount(data.bucket, cropped, minlength=num_buckets)
        count += np.bincount(data.bucket, minlength=num_buckets)
        np.maximum.at(most, data.bucket, cropped)
    return total / np.maximum(count, 1), most.astype(np.float64)


def count_much(catalog: Catalog) -> int:
    """Count the items that lose more than ``MUCH``."""
    return sum(int((data.cropped[data.item[_firsts(data)]] > MUCH).sum()) for data in catalog.sets)


def most_cropped(catalog: Catalog) -> list[int]:
    """Samples of the items that lose most, one of each item, those that lose most first; of as many as are named."""
    found: list[tuple[float, int]] = []
    start = 0
    for data in catalog.sets:
        first = _firsts(data)
        lost = data.cropped[data.item[first]].astype(np.float32)
        found += [(float(lost[row]), start + int(first[row])) for row in _largest(lost, NUM_NAMED) if lost[row] > 0]
        start += len(data.item)
    return [sample for _, sample in sorted(found, key=lambda own: -own[0])[:NUM_NAMED]]


def _firsts(data: Dataset) -> NDArray[np.int64]:
    """Find the first sample of each item that has any: of several windows of a clip, one."""
    return np.flatnonzero(np.diff(data.item, prepend=-1))


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Find the rows of the largest values, without sorting all; of equal ones the first."""
    if len(values) > count:
        least = np.partition(values, -count)[-count]
        rows = np.concatenate([np.flatnonzero(values > least), np.flatnonzero(values == least)])[:count]
    else:
        rows = np.arange(len(values))
    return rows[np.argsort(-values[rows], kind="stable")]


def describe_crops(catalog: Catalog, samples: Sequence[int]) -> list[dict[str, Any]]:
    """Tell of samples their path, their bucket, and the part of the picture that its crop removes."""
    located = [catalog.locate(sample) for sample in samples]
    return [
        {
            "path": data.path(row, "media"),
            "bucket": list(catalog.buckets[data.bucket[row]]),
            "cropped": round(float(data.cropped[data.item[row]]), 3),
        }
        for data, row in located
    ]


def about_crops(catalog: Catalog) -> list[str]:
    """Warn of items that lose much, and name those that lose most; nothing if there are none."""
    count = count_much(catalog)
    if not count:
        return []
    worst = [own for own in describe_crops(catalog, most_cropped(catalog)) if own["cropped"] > MUCH]
    named = ", ".join(f"{own['path']} ({own['cropped']:.0%} for {own['bucket']})" for own in worst)
    total = sum(len(_firsts(data)) for data in catalog.sets)
    return [
        f"data: {count} of {total} items {'lose' if count > 1 else 'loses'} more than {MUCH:.0%} to the crop: {named}; add "
        "buckets of their proportions to data.N.buckets; finetrainers data inspect CONFIG --output FILE.html shows the crops"
    ]

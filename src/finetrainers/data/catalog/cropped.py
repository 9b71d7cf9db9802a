"""What crops remove of the pictures of a catalog: by bucket, and of which pictures most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.catalog.catalog import Catalog

MUCH = 0.25
"""Part of a picture whose loss is warned of: beyond it, what the caption names may be gone."""
NUM_NAMED = 5
"""Pictures that are named."""


def by_bucket(catalog: Catalog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest part that is removed of the samples of each bucket, by its number; 0 where it has none."""
    num_buckets = len(catalog.buckets)
    total, most, count = np.zeros(num_buckets), np.zeros(num_buckets), np.zeros(num_buckets)
    for data in catalog.sets:
        cropped = data.cropped[data.item]
        total += np.bincount(data.bucket, cropped, minlength=num_buckets)
        count += np.bincount(data.bucket, minlength=num_buckets)
        np.maximum.at(most, data.bucket, cropped)
    return total / np.maximum(count, 1), most


def count_much(catalog: Catalog) -> int:
    """Count the items that lose more than ``MUCH``."""
    return sum(int((data.cropped[np.unique(data.item)] > MUCH).sum()) for data in catalog.sets)


def most_cropped(catalog: Catalog) -> list[int]:
    """Samples of the items that lose most, one of each item, those that lose most first; of as many as are named."""
    found: list[tuple[float, int]] = []
    start = 0
    for data in catalog.sets:
        items, first = np.unique(data.item, return_index=True)  # of several windows of a clip, one
        lost = data.cropped[items]
        rows = np.argsort(-lost, kind="stable")[:NUM_NAMED]
        found += [(float(lost[row]), start + int(first[row])) for row in rows if lost[row] > 0]
        start += len(data.item)
    return [sample for _, sample in sorted(found, key=lambda own: -own[0])[:NUM_NAMED]]


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
    total = sum(len(np.unique(data.item)) for data in catalog.sets)
    return [
        f"data: {count} of {total} items lose more than {MUCH:.0%} of their picture to the crop: {named}; add buckets of "
        "their proportions to data.N.buckets; finetrainers data inspect --output FILE.html shows the crops"
    ]

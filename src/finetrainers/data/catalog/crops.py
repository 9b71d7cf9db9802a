"""How much of each picture the crop to its bucket removes, and of which pictures most.

Shape letters: N pictures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetrainers.config import Bucket
from finetrainers.data.catalog.buckets import BLOCK_ITEMS
from finetrainers.data.catalog.dataset import Dataset

MUCH = 0.25
"""Part of a picture whose loss is warned of: beyond it, what the caption names may be gone."""
NUM_NAMED = 5
"""Pictures that are named."""

Numbers = NDArray[np.integer]


def cropped_shares(
    height: Numbers, width: Numbers, bucket_height: Numbers | int, bucket_width: Numbers | int
) -> NDArray[np.float64]:
    """Part [N] of the pixels of pictures, by height and width [N], that the crop to their buckets ([N], or one) removes."""
    across, along = bucket_height / np.maximum(height, 1), bucket_width / np.maximum(width, 1)
    shares: NDArray[np.float64] = 1 - across * along / np.maximum(across, along) ** 2
    return shares


def crops_of_items(
    facts: NDArray[np.void], choice: NDArray[np.int32], *, buckets: Sequence[Bucket], resize: str
) -> NDArray[np.float16]:
    """Part [N] of each item that is removed; 0 where it has no bucket.

    Args:
        facts: What each file [N] is.
        choice: Number [N] of each item's bucket, -1 for none.
        buckets: By their number.
        resize: How items are brought to them.
    """
    shares = np.zeros(len(choice), np.float16)
    if resize == "stretch":
        return shares
    height, width = (np.array([bucket[side] for bucket in buckets]) for side in (1, 2))
    for start in range(0, len(choice), BLOCK_ITEMS):
        rows = start + np.flatnonzero(choice[start : start + BLOCK_ITEMS] >= 0)
        own = choice[rows]
        shares[rows] = cropped_shares(facts["height"][rows], facts["width"][rows], height[own], width[own])
    return shares


def by_bucket(sets: Sequence[Dataset], num_buckets: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest part that is removed of the samples of each bucket, by its number; 0 where it has none."""
    total, most, count = np.zeros(num_buckets), np.zeros(num_buckets), np.zeros(num_buckets)
    for data in sets:
        cropped = data.cropped[data.item]
        total += np.bincount(data.bucket, cropped, minlength=num_buckets)
        count += np.bincount(data.bucket, minlength=num_buckets)
        np.maximum.at(most, data.bucket, cropped)
    return total / np.maximum(count, 1), most


def count_much(sets: Sequence[Dataset]) -> int:
    """Count the items that lose more than ``MUCH``."""
    return sum(int((data.cropped[np.unique(data.item)] > MUCH).sum()) for data in sets)


def most_cropped(sets: Sequence[Dataset], buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
    """Name the items that lose most, each once, those that lose most first: path, bucket, and the part that is removed."""
    found: list[dict[str, Any]] = []
    for data in sets:
        items, first = np.unique(data.item, return_index=True)  # of several windows of a clip, one
        chosen = np.argsort(-data.cropped[items], kind="stable")[:NUM_NAMED]
        found += [
            {
                "path": data.path(int(first[row]), "media"),
                "bucket": list(buckets[data.bucket[first[row]]]),
                "cropped": round(float(data.cropped[items[row]]), 3),
            }
            for row in chosen
            if data.cropped[items[row]] > 0
        ]
    return sorted(found, key=lambda own: -own["cropped"])[:NUM_NAMED]

"""How much of each picture the crop to its bucket removes.

Shape letters: N pictures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetrainers.config import Bucket
from finetrainers.data.catalog.buckets import BLOCK_ITEMS

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

"""Media that several data sets list alike, so that they come more often than one who names both may think."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.streams import MEDIA

WHERE_AND_HOW_OFTEN = {"path", "layout", "split", "repeats", "weight", "on_error", "recheck"}
"""Keys that change nothing about what is made of a medium: sets that differ in others are views of it that are wanted."""


def about_shared(sets: Sequence[Dataset], keys: Sequence[str]) -> Iterator[str]:
    """Say of each two data sets, at these keys, how many media both have and make the same of."""
    made = [data.config.model_dump(exclude=WHERE_AND_HOW_OFTEN) for data in sets]
    for one, other in combinations(range(len(sets)), 2):
        if made[one] != made[other]:
            continue
        first, second = (_media_of(sets[number]) for number in (one, other))
        shared = first.filter(pc.is_in(first, value_set=second))
        if len(shared):
            yield (
                f"{keys[one]} and {keys[other]} both have {len(shared)} of their media, such as {shared[0]}, which come "
                "twice as often; remove one of them, or set repeats if that is meant"
            )


def _media_of(data: Dataset) -> pa.Array:
    """References of the media that are trained on."""
    return data.table[MEDIA.name].combine_chunks().take(pa.array(np.unique(data.item)))

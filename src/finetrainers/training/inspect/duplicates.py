"""Equal and similar media."""

from typing import Any

import numpy as np

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.dataset import as_scalars
from finetrainers.data.curate.hashes import NearIndex
from finetrainers.data.streams import MEDIA
from finetrainers.training.inspect.facts import NUM_EXAMPLES

NEAR_BITS = 6
"""Bits of 64 by which the perceptual hashes of two media may differ that are called similar."""


def exact_duplicates(catalog: Catalog) -> dict[str, Any]:
    """Find media of the same bytes among what is trained on, each place of a file once."""
    places: dict[bytes, dict[str, None]] = {}
    digests = [as_scalars(data.digests[MEDIA.name])[np.unique(data.item)] for data in catalog.sets]
    values, counts = np.unique(np.concatenate(digests), return_counts=True)
    several = values[counts > 1]
    for data, own in zip(catalog.sets, digests, strict=True):
        rows = np.unique(data.item)
        for place in np.flatnonzero(np.isin(own, several)).tolist():
            path = data.table[MEDIA.name][int(rows[place])].as_py()
            places.setdefault(own[place].tobytes(), {})[path] = None
    groups = sorted((list(paths) for paths in places.values() if len(paths) > 1), key=lambda group: (-len(group), group))
    return {
        "groups": len(groups),
        "files": sum(map(len, groups)),
        "examples": [group[:NUM_EXAMPLES] for group in groups[:NUM_EXAMPLES]],
    }


def near_duplicates(media: list[tuple[str, str, bool, int]]) -> dict[str, Any]:
    """Find similar media among (reference, content, is held out, perceptual hash); those of equal bytes are none.

    Returns:
        How many have a similar one before them, and how many of these pairs have one side that is held out.
    """
    index, pairs = NearIndex(1, NEAR_BITS), []
    kept: list[tuple[str, str, bool]] = []
    for path, content, is_held_out, bits in media:
        found = index.earliest([bits])
        if found is not None and kept[found[0]][1] != content:
            other = kept[found[0]]
            pairs.append({"paths": [other[0], path], "bits": found[1], "crosses": other[2] != is_held_out})
        index.add([bits])
        kept.append((path, content, is_held_out))
    crossing = [pair for pair in pairs if pair["crosses"]]
    shown = [*crossing, *(pair for pair in pairs if not pair["crosses"])][:NUM_EXAMPLES]
    return {"count": len(pairs), "crossing": len(crossing), "examples": shown}

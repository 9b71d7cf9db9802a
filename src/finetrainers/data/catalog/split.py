"""Which contents training sees and which are held out: no bytes are on both sides, whatever data set they are in.

What decides is the file of the media: its caption, what follows it, its bucket and its windows do not.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetrainers.data.catalog.dataset import Dataset, as_scalars
from finetrainers.data.streams import MEDIA
from finetrainers.errors import ConfigError
from finetrainers.files.whole import DIGEST_BYTES

NO_CONTENTS = np.empty(0, np.dtype((np.void, DIGEST_BYTES)))
NUM_EXAMPLES = 3
"""Files that a warning names."""


def held_out_items(sets: Sequence[Dataset], fraction: float) -> list[npt.NDArray[np.bool_]]:
    """Which items of each data set are held out: those whose hash, read as a number in [0, 1), is below one limit for all.

    The limit is the fraction, moved so that at least one content is on either side.

    Raises:
        ConfigError: If there are too few different items, or if a data set has none left to train on.
    """
    numbers = [numbers_of(data.digests[MEDIA.name]) for data in sets]
    used = np.unique(np.concatenate([number[data.item] for number, data in zip(numbers, sets, strict=True)]))
    if len(used) < 2:
        where = ", ".join(dict.fromkeys(data.config.path for data in sets))
        raise ConfigError(
            f"validation.held_out: {where} has {len(used)} different items; at least 2 are needed to hold one out"
        )
    limit = limit_of(used, fraction)
    chosen: list[npt.NDArray[np.bool_]] = [number < limit for number in numbers]
    for data, own in zip(sets, chosen, strict=True):
        if len(data.item) and own[data.item].all():
            raise ConfigError(
                f"validation.held_out: at {fraction:g} all different items of {data.config.path} are held out, and none is "
                "left to train on; set a smaller part, add items to it, or name the held-out ones in validation.data"
            )
    return chosen


def numbers_of(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Read hashes [N, bytes] as numbers [N] in [0, 1)."""
    numbers: npt.NDArray[np.float64] = digests[:, -8:].copy().view(np.uint64)[:, 0] / 2.0**64
    return numbers


def limit_of(used: npt.NDArray[np.float64], fraction: float) -> float:
    """Move the fraction so that at least one of the numbers, two or more in ascending order, is on either side."""
    return min(max(fraction, float(np.nextafter(used[0], 1))), float(used[-1]))


def contents(sets: Sequence[Dataset]) -> npt.NDArray[np.void]:
    """Hashes of all contents that have samples, each once, as opaque bytes."""
    found = [as_scalars(data.digests[MEDIA.name])[np.unique(data.item)] for data in sets]
    return np.unique(np.concatenate([NO_CONTENTS, *found]))


def without_contents(data: Dataset, others: npt.NDArray[np.void]) -> tuple[Dataset, list[str]]:
    """Leave out the items whose content is among the others; return their files, too."""
    is_shared = np.isin(as_scalars(data.digests[MEDIA.name]), others)
    left_out = np.unique(data.item[is_shared[data.item]])
    return data.only(~is_shared[data.item]), [data.table["media"][int(item)].as_py() for item in left_out]


def about_left_out(data: Dataset, files: Sequence[str]) -> str:
    """Say which items of a data set are not trained on."""
    more = f" and {len(files) - NUM_EXAMPLES} more" if len(files) > NUM_EXAMPLES else ""
    return (
        f"{data.config.path}: validation.data has the contents of {len(files)} of its items, which are not trained on: "
        f"{', '.join(files[:NUM_EXAMPLES])}{more}"
    )

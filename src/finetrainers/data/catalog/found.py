"""What was found where each data set lies: what a run says of it before it trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.dataset import Dataset

MAX_KINDS = 5
"""Kinds of what is passed over that a line names."""

FoundSet = Mapping[str, Any]
"""Of one data set: its path, its layout, by what that was found, its items, and what is left out and passed over."""


def found_sets(catalog: Catalog) -> list[FoundSet]:
    """Tell of each data set how it is laid out, and how much of it is trained on."""
    return [
        {
            "path": data.config.path,
            "layout": data.layout,
            "why": data.why + _without_caption(data),
            "items": len(np.unique(data.item)),
            "left_out": len(data.problems),
            "passed_over": dict(data.passed_over),
        }
        for data in catalog.sets
    ]


def _without_caption(data: Dataset) -> str:
    """Say how many of the items that are trained on have the prefix for a caption."""
    if not data.config.caption_prefix:
        return ""
    rows = np.unique(data.item)
    captions = data.table["captions"].combine_chunks().take(pa.array(rows))
    bare = int(pc.sum(pc.equal(pc.list_flatten(captions), "")).as_py() or 0)
    if not bare:
        return ""
    if bare == len(rows):
        return f", no captions: {data.config.caption_prefix!r} alone"
    return f", {bare} without a caption but {data.config.caption_prefix!r}"


def set_lines(sets: Sequence[FoundSet]) -> list[str]:
    """Write one line for each data set, such as "data/crush: webdataset (12 .tar shards), 1200 items, 3 left out"."""
    return [_line(found) for found in sets]


def _line(found: FoundSet) -> str:
    line = f"{found['path']}: {found['layout']} ({found['why']}), {found['items']} item{'s' * (found['items'] != 1)}"
    if found["left_out"]:
        line += f", {found['left_out']} left out"
    over = most_passed_over(found["passed_over"])
    return f"{line}, not used: {over}" if over else line


def most_passed_over(passed_over: Mapping[str, int]) -> str:
    """Name what is passed over, that of which there is most first; nothing if there is none."""
    over = sorted(passed_over.items(), key=lambda kind: -kind[1])
    return ", ".join(f"{count} {kind}" for kind, count in over[:MAX_KINDS]) + ", ..." * (len(over) > MAX_KINDS)

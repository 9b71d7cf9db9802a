"""Which file holds the control of each item. No media is opened here.

Shape letters: N items.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config import DataConfig
from finetrainers.data.sources.folders import nearest, suffixes, walk
from finetrainers.errors import DataError

Paired = tuple[pa.Array, dict[int, str]]
"""Path of each item's control [N], null where there is none; and why, by item, for those without."""


def about_control(path: str, reason: str) -> str:
    """Say of an item what is wrong with its control."""
    return f"its control {path}: {reason}"


def list_controls(folder: Path, config: DataConfig, media_folder: Path) -> list[str]:
    """All media below the folder of controls."""
    if not folder.is_dir():
        raise DataError(f"data.control_path: there is no folder {config.control_path!r}{nearest(folder)}")
    if media_folder.is_dir() and folder.samefile(media_folder):
        raise DataError(
            f"data.control_path: {config.control_path!r} holds the media themselves; give the folder of the controls"
        )
    files = list(walk(folder, Counter()))
    if not files:
        raise DataError(f"data.control_path: there are no images or videos in {folder} ({suffixes()})")
    return files


def pair_by_place(media: pa.ChunkedArray, folder: Path, files: Sequence[str], control_folder: Path) -> Paired:
    """Pair media [N] below ``folder`` with the files of the same place and name, but for the suffix, in the other folder."""
    places = relative_to(media, folder)
    found = pa.array(files, pa.large_string())
    by_place = _without_suffix(pc.utf8_slice_codeunits(found, start=len(f"{control_folder}/")))
    counted = pc.value_counts(by_place)
    repeated = pc.is_in(by_place, value_set=counted.field("values").filter(pc.greater(counted.field("counts"), 1)))
    several: dict[str, list[str]] = {}
    for place, file in zip(by_place.filter(repeated).to_pylist(), found.filter(repeated).to_pylist(), strict=True):
        several.setdefault(place, []).append(file)
    wanted = _without_suffix(places)
    is_unclear = pc.is_in(wanted, value_set=pa.array(list(several), pa.large_string()))
    controls = pc.if_else(is_unclear, None, found.take(pc.index_in(wanted, value_set=by_place)))
    reasons = {}
    for row in pc.indices_nonzero(pc.is_null(controls)).to_pylist():
        place = wanted[row].as_py()
        if place is None:
            reasons[row] = (
                f"lies outside {folder}, so that data.control_path names no control for it; use data.control_column"
            )
        elif place in several:
            reasons[row] = f"has {len(several[place])} controls, {', '.join(sorted(several[place]))}; remove all but one"
        else:
            reasons[row] = f"has no control {control_folder}/{place}, with the suffix of an image or a video"
    return controls, reasons


def relative_to(media: pa.ChunkedArray, folder: Path) -> pa.Array:
    """Paths [N] relative to a folder; null where they lie outside of it."""
    prefix = f"{folder}/"
    is_plain = pc.and_(pc.starts_with(media, prefix), pc.invert(pc.match_substring_regex(media, r"/\.\.?/")))
    relative = pc.if_else(is_plain, pc.utf8_slice_codeunits(media, start=len(prefix)), None).combine_chunks()
    others = pc.indices_nonzero(pc.invert(is_plain))
    if len(others) == 0:
        return relative
    detours = [os.path.relpath(path, folder) for path in media.take(others).to_pylist()]
    kept = pa.array([None if path.startswith("../") else path for path in detours], relative.type)
    return pc.replace_with_mask(relative, pc.invert(is_plain).combine_chunks(), kept)


def _without_suffix(paths: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(paths, pattern=r"\.[^./]*$", replacement="")

"""One data set from the list of its items: a look at each file, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

import pyarrow.compute as pc

from finetrainers.config import Bucket, DataConfig
from finetrainers.config.of_set import numbered
from finetrainers.data.catalog.assign import assign, clips_of_other_rates
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.followers import probe_followers
from finetrainers.data.catalog.pictures import probe_pictures
from finetrainers.data.catalog.probe import Look
from finetrainers.data.catalog.rates import resampled_fps
from finetrainers.data.sources.items import Listing
from finetrainers.data.sources.named import flat
from finetrainers.data.streams import MEDIA, Stream, beside


class Common(TypedDict):
    """Arguments of ``build_dataset`` that all data sets of a run have in common, as ``build_catalog`` explains them."""

    streams: Sequence[Stream]
    min_frames: Mapping[str, int]
    native_fps: float | None
    frame_step: int
    warn: Callable[[str], None]


def build_dataset(
    config: DataConfig,
    listing: Listing,
    look: Look,
    *,
    streams: Sequence[Stream],
    min_frames: Mapping[str, int],
    native_fps: float | None,
    frame_step: int,
    buckets: dict[Bucket, int],
    warn: Callable[[str], None],
    key: str,
) -> Dataset:
    """Look at all files of a data set, and give its items their buckets and windows; arguments as of ``build_catalog``."""
    for note in listing.notes:
        warn(numbered(note, key))
    table = listing.table
    least = {stream.name: min_frames.get(stream.name, 1) for stream in beside(streams) if not stream.has_own_size}
    facts, problems = look(table[MEDIA.name])
    fps = resampled_fps(config, facts["fps"], native_fps)
    targets = [stream.name for stream in streams if stream.role == "target"]
    followers, unfit = probe_followers(config, table, facts, look, fps=fps, min_frames=least, targets=targets)
    pictures, unusable = probe_pictures(table, facts, [stream for stream in streams if stream.has_own_size], look)
    bad = [*listing.problems, *problems, *unfit, *unusable]
    assigned = assign(config, table, facts, bad, fps=fps, buckets=buckets, frame_step=frame_step)
    for note in clips_of_other_rates(assigned, facts, tuple(buckets), native_fps):
        warn(numbered(note, key))
    return replace(
        assigned,
        problems=tuple(replace(problem, reason=numbered(problem.reason, key)) for problem in assigned.problems),
        digests={**assigned.digests, **{name: files.digests for name, files in followers.items()}},
        frames={**assigned.frames, **{name: files.frames for name, files in followers.items()}},
        pictures=pictures,
        unlisted=listing.unlisted,
        layout=listing.layout,
        why=listing.why,
        passed_over=listing.passed_over,
    )


def num_files(listing: Listing, streams: Sequence[Stream]) -> int:
    """Count the files that are looked at: media, and each that lies beside them once."""
    table = listing.table
    others = [flat(table[stream.name].combine_chunks()) for stream in beside(streams)]
    return len(table) + sum(int(pc.count_distinct(files).as_py()) for files in others)

"""Gives the items of a data set their buckets and their windows.

Shape letters: N items.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.config import Bucket, DataConfig
from finetrainers.data.catalog.buckets import assign_buckets, resolve_buckets, why_unassigned
from finetrainers.data.catalog.crops import crops_of_items
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.probe import Facts
from finetrainers.data.catalog.rates import (
    about_fast_clips,
    about_slow_clips,
    describe_length,
    is_too_fast,
    is_too_slow,
    rate_of_view,
)
from finetrainers.data.media.view import count_frames
from finetrainers.data.sources.items import Problem
from finetrainers.data.streams import MEDIA

NUM_EXAMPLES = 3
"""Files that a warning names."""


def assign(
    config: DataConfig,
    table: pa.Table,
    facts: Facts,
    problems: list[Problem],
    *,
    fps: NDArray[np.float64],
    buckets: dict[Bucket, int],
    frame_step: int = 1,
) -> Dataset:
    """Give each good item its bucket and its windows.

    Args:
        config: Of the data set.
        table: Its items [N].
        facts: What each file is.
        problems: Those that are known; items without a bucket are added.
        fps: [N] rates that the items are resampled to, as ``resampled_fps`` says.
        buckets: Numbers of all data sets' buckets; new ones are added.
        frame_step: Frames that a bucket for clips may have more or fewer.
    """
    own = resolve_buckets(config.buckets)
    frames = count_frames(facts["num_frames"], facts["seconds"], fps=fps, stride=config.stride)
    choice = assign_buckets(
        frames,
        facts["height"],
        facts["width"],
        buckets=own,
        max_upscale=config.max_upscale,
        stays_video=(facts["num_frames"] > 1) & (not config.videos_as_images),
    )
    choice[~facts["is_good"]] = -1
    for row in np.flatnonzero(facts["is_good"] & (choice < 0)).tolist():
        reason = _why_unassigned(config, facts[row], int(frames[row]), rate_of_view(fps[row]), frame_step)
        problems.append(Problem(table["media"][row].as_py(), reason))
    item, chunk = _windows(config, frames, choice, own)
    number = np.array([buckets.setdefault(bucket, len(buckets)) for bucket in own], np.int32)
    return Dataset(
        config=config,
        table=table,
        digests={MEDIA.name: facts["digest"]},
        frames={MEDIA.name: frames},
        fps=fps,
        item=item,
        chunk=chunk,
        bucket=number[choice[item]],
        num_captions=pc.list_value_length(table["captions"]).to_numpy(),
        problems=tuple(problems),
        cropped=crops_of_items(facts, choice, buckets=own, resize=config.resize),
    )


def _windows(
    config: DataConfig, frames: NDArray[np.int64], choice: NDArray[np.int32], buckets: Sequence[Bucket]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Item and window of each sample: one of each item that has a bucket, or all consecutive ones."""
    item = np.flatnonzero(choice >= 0)
    chunk = np.zeros(len(item), np.int32)
    if config.frame_sampling == "chunks":
        windows = frames[item] // np.array([bucket[0] for bucket in buckets])[choice[item]]
        chunk = np.concatenate([np.arange(count, dtype=np.int32) for count in windows]) if len(item) else chunk
        item = np.repeat(item, windows)
    return item, chunk


def _why_unassigned(config: DataConfig, fact: np.void, frames: int, fps: float | None, frame_step: int) -> str:
    """Say why an item, of which ``frames`` are left at ``fps``, has no bucket."""
    buckets, num_frames = resolve_buckets(config.buckets), int(fact["num_frames"])
    reason = why_unassigned(
        frames,
        int(fact["height"]),
        int(fact["width"]),
        buckets=buckets,
        max_upscale=config.max_upscale,
        length=describe_length(num_frames, float(fact["fps"]), available=frames, resampled=fps, stride=config.stride),
        stays_video=num_frames > 1 and not config.videos_as_images,
        longest=1 + (frames - 1) // frame_step * frame_step,
    )
    lengths = [bucket[0] for bucket in buckets if bucket[0] > 1]
    if fps is not None and lengths and frames < min(lengths) <= num_frames:
        reason += "; with fps: null it would keep its own frames"
    return reason


def clips_of_other_rates(data: Dataset, facts: Facts, buckets: Sequence[Bucket], native_fps: float | None) -> Iterator[str]:
    """Say which clips of a data set keep their own frames although the model has fewer or more a second.

    Args:
        data: After ``assign``.
        facts: What each of its files is.
        buckets: All of the catalog's.
        native_fps: The model's rate; None if it has none of its own.
    """
    is_video = np.array([bucket[0] > 1 for bucket in buckets], np.bool_)
    used = np.unique(data.item[is_video[data.bucket]])
    for find, about in ((is_too_slow, about_slow_clips), (is_too_fast, about_fast_clips)):
        found = used[find(data.config, facts["fps"][used], native_fps)]
        if native_fps is None or not len(found):
            continue
        lengths = (describe_length(int(f["num_frames"]), float(f["fps"])) for f in facts[found[:NUM_EXAMPLES]])
        files = (data.table["media"][int(row)].as_py() for row in found[:NUM_EXAMPLES])
        examples = [f"{file} ({length})" for file, length in zip(files, lengths, strict=True)]
        yield about(data.config.path, len(found), examples, native_fps)

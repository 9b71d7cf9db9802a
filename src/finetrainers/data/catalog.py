"""All data sets of a run after a look at each file: arrays, so that ten million samples stay small.

A sample is one item, or one window of it with ``frame_sampling: chunks``, in one bucket.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.config import Bucket, DataConfig
from finetrainers.data.buckets import assign_buckets, resolve_buckets, why_unassigned
from finetrainers.data.captions import final_caption
from finetrainers.data.controls import Controls, look_at_controls
from finetrainers.data.dataset import DataSet as DataSet
from finetrainers.data.draws import seed_of, uniform
from finetrainers.data.look import Facts, Progress, look_at_all
from finetrainers.data.memo import Memo
from finetrainers.data.order import Group
from finetrainers.data.sources import Problem, list_items
from finetrainers.data.view import View, count_frames
from finetrainers.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Catalog:
    """Data sets, and the buckets that they share."""

    sets: tuple[DataSet, ...]
    buckets: tuple[Bucket, ...]

    @property
    def num_samples(self) -> int:
        return sum(len(data.item) for data in self.sets)

    def fingerprint(self) -> str:
        """Hash what the order depends on: the contents of all items, their windows and their buckets."""
        digest = hashlib.blake2b(repr(self.buckets).encode(), digest_size=8)
        for data in self.sets:
            for array in (data.digests, data.item, data.chunk, data.bucket, data.control_digests):
                if array is not None:
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def groups(self) -> list[Group]:
        """Samples by data set and bucket, numbered through all data sets."""
        groups: list[Group] = []
        start = 0
        for data in self.sets:
            groups += [
                Group(int(bucket), start + np.flatnonzero(data.bucket == bucket), data.config.repeats)
                for bucket in np.unique(data.bucket)
            ]
            start += len(data.item)
        return groups

    def locate(self, sample: int) -> tuple[DataSet, int]:
        """Find a sample's data set, and its number there."""
        for data in self.sets:
            if sample < len(data.item):
                return data, sample
            sample -= len(data.item)
        raise IndexError(sample)

    def samples_of(self, digests: NDArray[np.uint8]) -> list[int]:
        """All samples whose media or control is one of these contents [N, DIGEST_BYTES]."""
        found: list[int] = []
        start = 0
        for data in self.sets:
            is_of = np.zeros(len(data.table), np.bool_)
            for own in (data.digests, data.control_digests):
                if own is not None:
                    is_of |= np.isin(_as_scalars(own), _as_scalars(digests))
            found += (start + np.flatnonzero(is_of[data.item])).tolist()
            start += len(data.item)
        return found

    def split(self, fraction: float) -> "tuple[Catalog, Catalog]":
        """Cut into (training, held out) by content: equal files stay together, and new ones move no other.

        Raises:
            ConfigError: If a data set has too few different items.
        """
        parts = [(data, _held_out_items(data, fraction)[data.item]) for data in self.sets]
        train, held_out = (tuple(d.only(chosen == wanted) for d, chosen in parts) for wanted in (False, True))
        return replace(self, sets=train), replace(self, sets=held_out)


def view_of(data: DataSet, sample: int, *, view: int, bucket: Bucket) -> View:
    """Everything that fixes the pixels of a sample; random parts depend on the item's content and the view's number."""
    config, item = data.config, data.item[sample]
    content = seed_of(data.digests[item].tobytes().hex())
    window, y, x = (float(uniform(content, np.array(view), purpose)) for purpose in ("window", "crop y", "crop x"))
    frames, height, width = bucket
    return View(
        num_frames=frames,
        height=height,
        width=width,
        frame_sampling=config.frame_sampling,
        fps=config.fps,
        stride=config.stride,
        window=window if config.frame_sampling == "random" else 0.0,
        chunk=int(data.chunk[sample]),
        resize=config.resize,
        crop=(y, x) if config.resize == "random_crop" else (0.5, 0.5),
        flip=config.horizontal_flip and view % 2 == 1,
    )


def caption_of(data: DataSet, sample: int, caption: int) -> str:
    """One of a sample's captions, prefix and clean-up applied."""
    return final_caption(data.table["captions"][int(data.item[sample])][caption].as_py(), data.config)


def build_catalog(
    configs: Sequence[DataConfig],
    memo: Memo,
    *,
    workers: int,
    progress: Progress,
    has_controls: bool = False,
    min_control_frames: int = 1,
) -> Catalog:
    """List all data sets and look at each file that the memo does not know; ``has_controls`` if items have one each.

    Each control has to have ``min_control_frames``, after resampling.

    Raises:
        DataError: If a data set cannot be listed; or, naming all bad samples of all data sets that do not skip them.
    """
    listings = [list_items(config, has_controls) for config in configs]
    total = sum(_num_files(listing.table) for listing in listings)
    done = 0
    sets: list[DataSet] = []
    buckets: dict[Bucket, int] = {}
    for config, listing in zip(configs, listings, strict=True):
        table = listing.table

        def report(count: int, start: int = done) -> None:
            progress(start + count, total)

        facts, problems = look_at_all(table["media"], memo, workers, report)
        controls: Controls | None = None
        if has_controls:
            after_media = partial(report, start=done + len(table))
            controls, found = look_at_controls(
                config, table, facts, memo, min_frames=min_control_frames, workers=workers, report=after_media
            )
            problems += found
        assigned = _assign(config, table, facts, [*listing.problems, *problems], buckets)
        sets.append(replace(_with_controls(assigned, controls), unlisted=listing.unlisted))
        done += _num_files(table)
    raise_if_failing(sets)
    return Catalog(tuple(sets), tuple(buckets))


def _num_files(table: pa.Table) -> int:
    """Count the files that are looked at: media, and each control once."""
    return len(table) + (pc.count_distinct(table["control"]).as_py() if "control" in table.column_names else 0)


def _with_controls(data: DataSet, controls: Controls | None) -> DataSet:
    return data if controls is None else replace(data, control_digests=controls.digests, control_frames=controls.frames)


def _as_scalars(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """View hashes [N, bytes] as N values that can be compared."""
    return np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1])))[:, 0]


def raise_if_failing(sets: Sequence[DataSet]) -> None:
    """List all problems of the data sets that are not to skip them, in one error."""
    raise_if_any([problem for data in sets if data.config.on_error == "fail" for problem in data.problems])


def raise_if_any(failing: Sequence[Problem]) -> None:
    """List problems in one error, if there are any."""
    if failing:
        lines = "\n  ".join(f"{problem.path}: {problem.reason}" for problem in failing)
        raise DataError(
            f"data: {len(failing)} bad samples:\n  {lines}\n"
            "Mend or remove them, or set data.N.on_error=skip to leave them out"
        )


def _assign(
    config: DataConfig, table: pa.Table, facts: Facts, problems: list[Problem], buckets: dict[Bucket, int]
) -> DataSet:
    """Give each good item its bucket and its windows."""
    own = resolve_buckets(config.buckets)
    frames = count_frames(facts["num_frames"], facts["seconds"], fps=config.fps, stride=config.stride)
    choice = assign_buckets(frames, facts["height"], facts["width"], buckets=own, max_upscale=config.max_upscale)
    choice[~facts["is_good"]] = -1
    for row in np.flatnonzero(facts["is_good"] & (choice < 0)):
        reason = why_unassigned(
            int(frames[row]),
            int(facts["height"][row]),
            int(facts["width"][row]),
            buckets=own,
            max_upscale=config.max_upscale,
        )
        problems.append(Problem(table["media"][int(row)].as_py(), reason))
    item = np.flatnonzero(choice >= 0)
    chunk = np.zeros(len(item), np.int32)
    if config.frame_sampling == "chunks":
        windows = frames[item] // np.array([bucket[0] for bucket in own])[choice[item]]
        chunk = np.concatenate([np.arange(count, dtype=np.int32) for count in windows]) if len(item) else chunk
        item = np.repeat(item, windows)
    number = np.array([buckets.setdefault(bucket, len(buckets)) for bucket in own], np.int32)
    return DataSet(
        config=config,
        table=table,
        digests=facts["digest"],
        fps=facts["fps"],
        item=item,
        chunk=chunk,
        bucket=number[choice[item]],
        num_captions=pc.list_value_length(table["captions"]).to_numpy(),
        problems=tuple(problems),
    )


def _held_out_items(data: DataSet, fraction: float) -> NDArray[np.bool_]:
    """Which items of a data set are held out: those whose hash, read as a number in [0, 1), is below the fraction."""
    number = data.digests[:, -8:].copy().view(np.uint64)[:, 0] / 2.0**64
    used = np.unique(number[data.item])
    if len(used) < 2:
        raise ConfigError(
            f"validation.held_out: {data.config.path} has {len(used)} different items; at least 2 are needed to hold one out"
        )
    limit = min(max(fraction, float(np.nextafter(used[0], 1))), float(used[-1]))  # at least one on either side
    chosen: NDArray[np.bool_] = number < limit
    return chosen

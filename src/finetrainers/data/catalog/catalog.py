"""All data sets of a run after a look at each file: arrays, so that ten million samples stay small.

A sample is one item, or one window of it with ``frame_sampling: chunks``, in one bucket.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.config import Bucket, DataConfig
from finetrainers.data.catalog.assign import assign, slow_clips
from finetrainers.data.catalog.dataset import Dataset as Dataset
from finetrainers.data.catalog.followers import probe_followers
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import Progress, probe_all
from finetrainers.data.catalog.rates import rate_of_view, resampled_fps
from finetrainers.data.catalog.split import about_left_out, as_scalars, contents, held_out_items, without_contents
from finetrainers.data.media.view import View
from finetrainers.data.order.draws import seed_of, uniform
from finetrainers.data.order.order import Group
from finetrainers.data.sources.captions import final_caption
from finetrainers.data.sources.items import Problem, list_items
from finetrainers.data.streams import MEDIA, Stream, beside
from finetrainers.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Catalog:
    """Data sets, and the buckets that they share."""

    sets: tuple[Dataset, ...]
    buckets: tuple[Bucket, ...]

    @property
    def num_samples(self) -> int:
        return sum(len(data.item) for data in self.sets)

    def fingerprint(self) -> str:
        """Hash what the order depends on: the contents of all items, their windows and their buckets."""
        digest = hashlib.blake2b(repr(self.buckets).encode(), digest_size=8)
        for data in self.sets:
            media, *others = data.digests.values()
            for array in (media, data.item, data.chunk, data.bucket, *others):
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

    def locate(self, sample: int) -> tuple[Dataset, int]:
        """Find a sample's data set, and its number there."""
        for data in self.sets:
            if sample < len(data.item):
                return data, sample
            sample -= len(data.item)
        raise IndexError(sample)

    def samples_of(self, digests: NDArray[np.uint8]) -> list[int]:
        """All samples of which a file is one of these contents [N, DIGEST_BYTES]."""
        found: list[int] = []
        start = 0
        for data in self.sets:
            is_of = np.zeros(len(data.table), np.bool_)
            for own in data.digests.values():
                is_of |= np.isin(as_scalars(own), as_scalars(digests))
            found += (start + np.flatnonzero(is_of[data.item])).tolist()
            start += len(data.item)
        return found

    def split(self, fraction: float) -> "tuple[Catalog, Catalog]":
        """Cut into (training, held out) by content: equal files stay together, and new ones move no other.

        Raises:
            ConfigError: If there are too few different items, or if a data set has none left to train on.
        """
        parts = [(data, own[data.item]) for data, own in zip(self.sets, held_out_items(self.sets, fraction), strict=True)]
        train, held_out = (tuple(d.only(chosen == wanted) for d, chosen in parts) for wanted in (False, True))
        return replace(self, sets=train), replace(self, sets=held_out)

    def apart_from(self, held_out: "Catalog") -> "tuple[Catalog, list[str]]":
        """Leave out the items whose content is held out; return what to tell of each data set that has some.

        Raises:
            ConfigError: If a data set has no others.
        """
        others = contents(held_out.sets)
        sets, told = [], []
        for data in self.sets:
            rest, files = without_contents(data, others)
            if files and not len(rest.item):
                raise ConfigError(
                    f"validation.data: all items of {data.config.path} are held out there, and none is left to train on; "
                    "remove this data set, or name others in validation.data"
                )
            sets.append(rest)
            told += [about_left_out(data, files)] if files else []
        return replace(self, sets=tuple(sets)), told

    def check_apart(self, held_out: "Catalog") -> None:
        """Assert that no content is trained on and held out."""
        both = np.intersect1d(contents(self.sets), contents(held_out.sets), assume_unique=True)
        if len(both):
            raise AssertionError(f"{len(both)} contents of {held_out.num_samples} held-out samples are trained on as well")


def view_of(data: Dataset, sample: int, *, view: int, bucket: Bucket) -> View:
    """Everything that fixes the pixels of a sample; random parts depend on the item's content and the view's number."""
    config, item = data.config, data.item[sample]
    content = seed_of(data.digest(sample, MEDIA.name))
    window, y, x = (float(uniform(content, np.array(view), purpose)) for purpose in ("window", "crop y", "crop x"))
    frames, height, width = bucket
    return View(
        num_frames=frames,
        height=height,
        width=width,
        frame_sampling=config.frame_sampling,
        fps=rate_of_view(data.fps[item]),
        stride=config.stride,
        window=window if config.frame_sampling == "random" else 0.0,
        chunk=int(data.chunk[sample]),
        resize=config.resize,
        crop=(y, x) if config.resize == "random_crop" else (0.5, 0.5),
        flip=config.horizontal_flip and view % 2 == 1,
    )


def caption_of(data: Dataset, sample: int, caption: int) -> str:
    """One of a sample's captions, prefix and clean-up applied."""
    return final_caption(data.table["captions"][int(data.item[sample])][caption].as_py(), data.config)


def build_catalog(
    configs: Sequence[DataConfig],
    memo: Memo,
    *,
    workers: int,
    progress: Progress,
    streams: Sequence[Stream] = (MEDIA,),
    min_frames: Mapping[str, int] | None = None,
    native_fps: float | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Catalog:
    """List all data sets and look at each file that the memo does not know.

    Args:
        configs: Of the data sets.
        memo: What is known of files.
        workers: Threads that look at files.
        progress: Called with (files done, files in all).
        streams: What each item has.
        min_frames: Frames that each file of a stream has to have, after resampling, by the stream's name.
        native_fps: Rate to which ``fps: auto`` brings faster clips; None if the model has none of its own.
        warn: Takes what a user should know of, as a sentence.

    Raises:
        DataError: If a data set cannot be listed; or, naming all bad samples of all data sets that do not skip them.
    """
    least = {stream.name: (min_frames or {}).get(stream.name, 1) for stream in beside(streams)}
    targets = [stream.name for stream in beside(streams) if stream.role == "target"]
    listings = [list_items(config, tuple(least)) for config in configs]
    total = sum(_num_files(listing.table, least) for listing in listings)
    done = 0
    sets: list[Dataset] = []
    buckets: dict[Bucket, int] = {}
    for config, listing in zip(configs, listings, strict=True):
        table = listing.table

        def report(count: int, start: int = done) -> None:
            progress(start + count, total)

        facts, problems = probe_all(table[MEDIA.name], memo, workers, report)
        fps = resampled_fps(config, facts["fps"], native_fps)
        after_media = partial(report, start=done + len(table))
        followers, unfit = probe_followers(
            config, table, facts, memo, fps=fps, min_frames=least, targets=targets, workers=workers, report=after_media
        )
        assigned = assign(config, table, facts, [*listing.problems, *problems, *unfit], fps=fps, buckets=buckets)
        slow = slow_clips(assigned, facts, tuple(buckets), native_fps)
        if slow is not None:
            warn(slow)
        digests = {**assigned.digests, **{name: files.digests for name, files in followers.items()}}
        frames = {**assigned.frames, **{name: files.frames for name, files in followers.items()}}
        sets.append(replace(assigned, digests=digests, frames=frames, unlisted=listing.unlisted))
        done += _num_files(table, least)
    raise_if_failing(sets)
    return Catalog(tuple(sets), tuple(buckets))


def _num_files(table: pa.Table, names: Iterable[str]) -> int:
    """Count the files that are looked at: media, and each that follows them once."""
    return len(table) + sum(int(pc.count_distinct(table[name]).as_py()) for name in names)


def raise_if_failing(sets: Sequence[Dataset]) -> None:
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

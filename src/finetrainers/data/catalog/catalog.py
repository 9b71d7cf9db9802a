"""All data sets of a run after a look at each file: arrays, so that ten million samples stay small.

A sample is one item, or one window of it with ``frame_sampling: chunks``, in one bucket.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finetrainers.config import Bucket, DataConfig
from finetrainers.config.of_set import about_set, set_keys
from finetrainers.data.catalog.build import Common, build_dataset, num_files
from finetrainers.data.catalog.dataset import Dataset as Dataset, as_scalars
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.mix import epoch_repeats
from finetrainers.data.catalog.probe import Progress, make_look
from finetrainers.data.catalog.rates import rate_of_view
from finetrainers.data.catalog.shared import about_shared
from finetrainers.data.catalog.snapshot import Snapshots
from finetrainers.data.catalog.split import about_left_out, contents, held_out_items, without_contents
from finetrainers.data.media.view import View
from finetrainers.data.order.draws import seed_of, uniform
from finetrainers.data.order.order import Group, Indices
from finetrainers.data.sources.captions import final_caption
from finetrainers.data.sources.items import Problem, list_items
from finetrainers.data.sources.listing import WITHOUT_CAPTION
from finetrainers.data.streams import MEDIA, Stream, beside
from finetrainers.errors import ConfigError, DataError
from finetrainers.events.words import plural


@dataclass(frozen=True, slots=True)
class Catalog:
    """Data sets, and the buckets that they share."""

    sets: tuple[Dataset, ...]
    buckets: tuple[Bucket, ...]
    known_as: str = ""
    """Hash of the whole that it is a part of, such as one chapter of a streamed set."""

    @property
    def num_samples(self) -> int:
        return sum(len(data.item) for data in self.sets)

    def fingerprint(self) -> str:
        """Hash what the order depends on: the contents of all items, their windows and their buckets."""
        if self.known_as:
            return self.known_as
        digest = hashlib.blake2b(repr(self.buckets).encode(), digest_size=8)
        for data in self.sets:
            media, *others = data.digests.values()
            for array in (media, data.item, data.chunk, data.bucket, *others):
                digest.update(np.ascontiguousarray(array).data)
            for name, pictures in data.pictures.items():
                digest.update(repr((name, pictures.sizes)).encode())
                for array in (pictures.offsets, pictures.digests, pictures.size):
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def groups(self) -> list[Group]:
        """Samples by data set and by what those of one optimizer step share, numbered through all data sets.

        That is the bucket. Where there are pictures of a size of their own, it is also how many and of which sizes: all such
        shapes that samples have are numbered in ascending order.

        Raises:
            DataError: If a data set is to have a share of the samples, and has none.
        """
        groups: list[Group] = []
        start = 0
        for data, numbers, repeats in zip(self.sets, self.shape_numbers(), epoch_repeats(self.sets), strict=True):
            groups += [
                Group(int(number), start + np.flatnonzero(numbers == number), repeats) for number in np.unique(numbers)
            ]
            start += len(data.item)
        return groups

    def shape_numbers(self) -> list[NDArray[np.integer]]:
        """Number of the group of each sample, by data set."""
        if not any(data.pictures for data in self.sets):
            return [data.bucket for data in self.sets]
        found = [data.shapes() for data in self.sets]
        number = {shape: n for n, shape in enumerate(sorted({shape for shapes, _ in found for shape in shapes}))}
        return [np.array([number[shape] for shape in shapes], np.int64)[index] for shapes, index in found]

    def num_pictures(self, samples: Indices) -> NDArray[np.int64]:
        """Count the pictures of a size of their own that samples [n] have."""
        counts = np.zeros(len(samples), np.int64)
        start = 0
        for data in self.sets:
            own = (samples >= start) & (samples < start + len(data.item))
            for pictures in data.pictures.values():
                counts[own] += pictures.counts[data.item[samples[own] - start]]
            start += len(data.item)
        return counts

    def about_shape(self, sample: int) -> str:
        """Say what a sample shares with the others of its optimizer step, such as "bucket [1, 64, 64]"."""
        data, row = self.locate(sample)
        said = f"bucket {list(self.buckets[data.bucket[row]])}"
        for name, pictures in data.pictures.items():
            sizes = [str(list(pictures.sizes[pictures.size[picture]])) for picture in pictures.of(int(data.item[row]))]
            said += f" with {name} {', '.join(sizes)}"
        return said

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
            is_of = data.has_content(as_scalars(digests))
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
    frame_step: int = 1,
    warn: Callable[[str], None] = warnings.warn,
    snapshots: Snapshots | None = None,
    keys: Sequence[str] | None = None,
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
        frame_step: Frames that a bucket for clips may have more or fewer, for messages.
        warn: Takes what a user should know of, as a sentence.
        snapshots: What earlier starts have found of unchanged data sets; None to keep nothing.
        keys: Of the data sets, for messages; by default data.0, data.1 and so on.

    Raises:
        DataError: If a data set cannot be listed; or, naming all bad samples of all data sets that do not skip them.
    """
    names = [stream.name for stream in beside(streams)]
    many = [stream.name for stream in streams if stream.is_many]
    snapshots = Snapshots(None, warn) if snapshots is None else snapshots
    found, keys = [], set_keys(configs) if keys is None else keys
    for config, key in zip(configs, keys, strict=True):
        with about_set(key):
            found.append(snapshots.find(config, streams, partial(list_items, config, names, many)))
    total = sum(num_files(own.listing, streams) for own in found)
    look = make_look(memo, workers=workers, progress=progress, total=total)
    buckets: dict[Bucket, int] = {}
    common = Common(streams=streams, min_frames=min_frames or {}, native_fps=native_fps, frame_step=frame_step, warn=warn)
    build = partial(build_dataset, **common)
    sets = []
    for config, own, key in zip(configs, found, keys, strict=True):
        with about_set(key):
            sets.append(build(config, own.listing, own.look(look), buckets=buckets, key=key))
        snapshots.keep(config, streams, own)
    raise_if_failing(sets, keys)
    for note in about_shared(sets, keys):
        warn(note)
    return Catalog(tuple(sets), tuple(buckets))


def raise_if_failing(sets: Sequence[Dataset], keys: Sequence[str]) -> None:
    """List all problems of the data sets, at these keys, that are not to skip them, in one error."""
    failing = [(data, key) for data, key in zip(sets, keys, strict=True) if data.config.on_error == "fail" and data.problems]
    raise_if_any([problem for data, _ in failing for problem in data.problems], dict.fromkeys(key for _, key in failing))


def raise_if_any(failing: Sequence[Problem], keys: Iterable[str] = ("data.N",)) -> None:
    """List problems of the data sets at these keys in one error, if there are any."""
    if failing:
        lines = "\n  ".join(f"{problem.path}: {problem.reason}" for problem in failing)
        skips, prefixes = (" and ".join(f"{key}.{name}" for key in keys) for name in ("on_error=skip", "caption_prefix"))
        is_bare = any(problem.reason.startswith(WITHOUT_CAPTION) for problem in failing)
        hint = f"\n{prefixes}, such as a trigger word, is the caption of what has none" if is_bare else ""
        raise DataError(
            f"data: {plural(len(failing), 'bad sample')}:\n  {lines}\n"
            f"Fix or remove them, or set {skips} to leave them out{hint}"
        )

"""Chapters: what is trained on of data sets that are read shard by shard, a small catalog at a time.

The shards of a streamed set come in passes, each in another order; all sets advance together, by the part of a pass that
they have done times ``repeats``, so that any number of chapters shows them in the proportion of their sizes. A chapter is
made of the next shards and of as many samples of the sets whose items are known. What is left over of a bucket begins the
bucket's samples in the next chapter. All of it is a function of the seed, the contents, and where the chapter begins.

Shape letters: T optimizer steps, B batch size, M samples of a chapter.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetrainers.config import Bucket, DataConfig
from finetrainers.config.of_set import about_set
from finetrainers.data.catalog.catalog import Catalog, raise_if_failing
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.probe import Look
from finetrainers.data.catalog.split import without_contents
from finetrainers.data.order.draws import Indices, keys_of, seed_of, shuffled
from finetrainers.data.order.order import Order, StepSamples
from finetrainers.data.sources.items import Problem
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, join

Digests = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Shards:
    """One data set that is read shard by shard."""

    layout: Layout
    wanted: Wanted
    root: str
    """Reference of the folder that has them."""
    refs: tuple[str, ...]
    """In the order of their names."""

    @property
    def config(self) -> DataConfig:
        return self.wanted.config

    def nth(self, number: int, seed: int) -> str:
        """Choose the n-th shard of endless passes, each of which has every shard once."""
        turn, place = divmod(number, len(self.refs))
        return self.refs[int(_shuffled(len(self.refs), seed, "shards", turn)[place])]

    def list(self, refs: Sequence[str]) -> Listing:
        """List the items of some shards."""
        return join([self.layout.shard_items(ref, self.wanted) for ref in refs])


@dataclass(frozen=True, slots=True)
class Known:
    """One data set whose items are all known."""

    data: Dataset


Source = Shards | Known


@dataclass(frozen=True, slots=True)
class Rest:
    """Samples of one data set that a chapter has left over."""

    samples: tuple[int, ...] = ()
    """Of a set whose items are known, their numbers there; of another, the window of each row of ``items``."""
    items: pa.Table | None = None
    """Items of a set that is read shard by shard, as in ``Listing.table``."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a chapter begins."""

    number: int
    step: int
    """Its first optimizer step."""
    taken: tuple[int, ...]
    """By data set: shards, or samples, that came before."""
    rests: tuple[Rest, ...]
    """By data set."""
    shards: tuple[tuple[str, ...], ...] | None = None
    """By data set: what the chapter consists of, if that is settled."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """What some optimizer steps are trained on."""

    begin: Begin
    catalog: Catalog
    order: "WrittenOrder"
    end: Begin
    """Where the next one begins."""
    problems: tuple[Problem, ...]
    """Bad samples of the shards."""
    num_new: int
    """Samples that no chapter before had left over."""


class WrittenOrder(Order):
    """An order of some optimizer steps that is written down, from ``start`` to ``stop``."""

    def __init__(
        self, batch_size: int, start: int, buckets: Indices, samples: Indices, pool: tuple[Indices, Indices]
    ) -> None:
        """Take buckets [T] and samples [T, B], and of all that may stand in for others the buckets [M] and samples [M]."""
        self.batch_size, self.start, self.stop = batch_size, start, start + len(buckets)
        self._rows, self._pool = (buckets, samples), pool

    def __reduce__(  # type: ignore[override]
        self,
    ) -> "tuple[type[WrittenOrder], tuple[int, int, Indices, Indices, tuple[Indices, Indices]]]":
        return WrittenOrder, (self.batch_size, self.start, *self._rows, self._pool)

    @property
    def buckets(self) -> list[int]:
        return list(np.unique(self._rows[0]).tolist())

    def step(self, step: int) -> StepSamples:
        buckets, samples = self.steps(step, step + 1)
        return StepSamples(int(buckets[0]), samples[0], step * self.batch_size + np.arange(self.batch_size))

    def steps(self, start: int, stop: int) -> tuple[Indices, Indices]:
        if not self.start <= start <= stop <= self.stop:
            raise IndexError(f"steps {start} to {stop} of a chapter from {self.start} to {self.stop}")
        buckets, samples = (own[start - self.start : stop - self.start] for own in self._rows)
        return buckets.copy(), samples.copy()

    def samples_of(self, bucket: int) -> Indices:
        buckets, samples = self._pool
        found: Indices = samples[buckets == bucket]
        return found

    def pick(self, bucket: int, draws: npt.NDArray[np.float64]) -> Indices:
        samples = self.samples_of(bucket)
        return samples[(draws * len(samples)).astype(np.int64)]

    @property
    def stand_ins(self) -> range:
        return range(self.start, self.stop)

    def first_step(self, epoch: int) -> int:
        return self.start if epoch == 0 else self.stop

    def epoch_of(self, step: int) -> int:
        return 0

    def starved(self, steps: int) -> list[int]:
        return []


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Samples of a chapter that are of one data set."""

    source: int
    data: Dataset
    places: Indices
    """Samples that come, by their numbers in ``data``."""
    num_old: int
    """How many of them, from the first on, were left over by the chapter before."""


@dataclass(frozen=True)
class Book:
    """Makes the chapters of a run."""

    seed: int
    batch_size: int
    sources: tuple[Source, ...]
    buckets: tuple[Bucket, ...]
    """Of all data sets."""
    build: Callable[..., Dataset]
    """``build_dataset`` with what all data sets have in common."""
    look: Callable[[int], Look]
    """Makes what looks at so many files."""
    held_out: Digests
    """Contents that are not trained on."""
    known_as: str
    """Hash of what the run is trained on, as far as it is known beforehand."""
    problems: tuple[Problem, ...] = ()
    """Folders that cannot be listed, and that are to be skipped."""

    @property
    def num_shards(self) -> int:
        """Shards of one pass of all data sets."""
        return sum(len(source.refs) for source in self.sources if isinstance(source, Shards))

    def first(self) -> Begin:
        """Where the first chapter begins."""
        return Begin(0, 0, (0,) * len(self.sources), (Rest(),) * len(self.sources))

    def open(self, begin: Begin) -> Chapter:
        """List and plan a chapter.

        Raises:
            DataError: Naming all bad samples that are not to be skipped.
        """
        begin, listings = self._listed(begin)
        taken = self._taken_after(begin)
        parts: list[_Part] = []
        for number, source in enumerate(self.sources):
            old, start = begin.rests[number], begin.taken[number]
            if isinstance(source, Known):
                places = np.concatenate([np.array(old.samples, np.int64), self._drawn(number, source, start, taken[number])])
                parts.append(_Part(number, source.data, places, len(old.samples)))
            else:
                parts += self._read(number, source, old, listings.get(number))
        shown = [part for part in parts if isinstance(self.sources[part.source], Shards)]
        read = [part.data for part in shown]
        raise_if_failing(read, [f"data.{part.source}" for part in shown])
        catalog = Catalog(tuple(part.data for part in parts), self.buckets, known_as=self.known_as)
        order, rests = self._order(begin, catalog, parts)
        end = Begin(begin.number + 1, order.stop, taken, rests)
        num_new = sum(len(part.places) - part.num_old for part in parts)
        return Chapter(begin, catalog, order, end, tuple(problem for data in read for problem in data.problems), num_new)

    def _listed(self, begin: Begin) -> tuple[Begin, dict[int, Listing]]:
        """Choose the shards of a chapter, unless they are settled, and list them."""
        if begin.shards is not None:
            named = {number: refs for number, refs in enumerate(begin.shards) if refs}
            return begin, {number: self._list(number, refs) for number, refs in named.items()}
        found: dict[int, list[tuple[str, Listing]]] = {}
        while True:
            number = self._next(begin, {own: len(listed) for own, listed in found.items()})
            source, listed = self._shards(number), found.setdefault(number, [])
            ref = source.nth(begin.taken[number] + len(listed), self.seed)
            listed.append((ref, self._list(number, [ref])))
            num_items = sum(len(listing.table) for _, listing in listed)
            is_end_of_pass = (begin.taken[number] + len(listed)) % len(source.refs) == 0
            if num_items >= source.config.chapter_items or is_end_of_pass:
                break
        refs = tuple(tuple(ref for ref, _ in found.get(number, ())) for number in range(len(self.sources)))
        joined = {number: join(listing for _, listing in listed) for number, listed in found.items()}
        return replace(begin, shards=refs), joined

    def _list(self, number: int, refs: Sequence[str]) -> Listing:
        with about_set(f"data.{number}"):
            return self._shards(number).list(refs)

    def _next(self, begin: Begin, listed: Mapping[int, int]) -> int:
        """Choose the data set whose next shard is due: the one that will have done the least of its pass."""
        due = [
            (self._progress(number, begin.taken[number] + listed.get(number, 0) + 1), number)
            for number, source in enumerate(self.sources)
            if isinstance(source, Shards)
        ]
        return min(due)[1]

    def _progress(self, number: int, taken: int) -> Fraction:
        """How many epochs are done when so many shards of a data set are taken."""
        source = self._shards(number)
        return Fraction(taken, len(source.refs)) / Fraction(str(source.config.repeats))

    def _taken_after(self, begin: Begin) -> tuple[int, ...]:
        """By data set: shards, or samples, that have come when a chapter ends."""
        shards = begin.shards or ()
        taken = {n: begin.taken[n] + len(shards[n]) for n, own in enumerate(self.sources) if isinstance(own, Shards)}
        epochs = max(self._progress(number, count) for number, count in taken.items())
        for number, source in enumerate(self.sources):
            if isinstance(source, Known):
                rate = Fraction(str(source.data.config.repeats)) * len(source.data.item)
                taken[number] = max(begin.taken[number], math.floor(epochs * rate))
        return tuple(taken[number] for number in range(len(self.sources)))

    def _drawn(self, number: int, source: Known, start: int, stop: int) -> Indices:
        """Samples of endless passes of a data set, each in another order."""
        count = len(source.data.item)
        draws, turns = np.arange(start, stop) % max(1, count), np.arange(start, stop) // max(1, count)
        return shuffled(draws, np.array(count), keys_of(np.array(seed_of(self.seed, "pass", number), np.uint64), turns))

    def _read(self, number: int, source: Shards, old: Rest, new: Listing | None) -> Iterator[_Part]:
        """Look at what was left over of a data set, and at what its next shards have."""
        if old.items is not None:
            data = self._dataset(number, Listing(old.items, (), 0))
            data = data.only(data.chunk == np.array(old.samples, np.int32)[data.item])
            yield _Part(number, data, np.arange(len(data.item)), len(data.item))
        if new is not None:
            data, _ = without_contents(self._dataset(number, new), self.held_out)
            yield _Part(number, data, np.arange(len(data.item)), 0)

    def _dataset(self, number: int, listing: Listing) -> Dataset:
        buckets, key = {bucket: place for place, bucket in enumerate(self.buckets)}, f"data.{number}"
        with about_set(key):
            config, look = self._shards(number).config, self.look(len(listing.table))
            return self.build(config, listing, look, buckets=buckets, key=key)

    def _order(self, begin: Begin, catalog: Catalog, parts: Sequence[_Part]) -> tuple[WrittenOrder, tuple[Rest, ...]]:
        """Cut each bucket's samples into batches, those that were left over first; return what is left over now, too."""
        ends = np.cumsum([len(part.data.item) for part in parts])
        starts = ends - [len(part.data.item) for part in parts]
        buckets = np.concatenate(catalog.shape_numbers())
        old, new = (
            np.concatenate([start + own for start, own in zip(starts, chosen, strict=True)])
            for chosen in ([p.places[: p.num_old] for p in parts], [p.places[p.num_old :] for p in parts])
        )
        new = new[_shuffled(len(new), self.seed, "chapter", begin.number)]
        rows, left = [], []
        for bucket in np.unique(buckets[np.concatenate([old, new])]).tolist():
            samples = np.concatenate([own[buckets[own] == bucket] for own in (old, new)])
            full = len(samples) // self.batch_size * self.batch_size
            rows.append(samples[:full].reshape(-1, self.batch_size))
            left.append(samples[full:])
        batches = np.concatenate(rows) if rows else np.empty((0, self.batch_size), np.int64)
        batches = batches[_shuffled(len(batches), self.seed, "batches", begin.number)]
        rest = np.concatenate(left) if left else np.empty(0, np.int64)
        owner = np.searchsorted(ends, rest, side="right")
        own = [(part, rest[owner == place] - starts[place]) for place, part in enumerate(parts)]
        rests = tuple(self._rest(n, [each for each in own if each[0].source == n]) for n in range(len(self.sources)))
        pool = np.unique(np.concatenate([old, new]))
        return WrittenOrder(self.batch_size, begin.step, buckets[batches[:, 0]], batches, (buckets[pool], pool)), rests

    def _rest(self, number: int, left: Sequence[tuple[_Part, Indices]]) -> Rest:
        """Gather what is left over of one data set."""
        if isinstance(self.sources[number], Known):
            return Rest(tuple(sample for _, samples in left for sample in samples.tolist()))
        tables = [part.data.table.take(part.data.item[samples]) for part, samples in left if len(samples)]
        chunks = tuple(chunk for part, samples in left for chunk in part.data.chunk[samples].tolist())
        return Rest(chunks, pa.concat_tables(tables).combine_chunks()) if tables else Rest()

    def _shards(self, number: int) -> Shards:
        source = self.sources[number]
        assert isinstance(source, Shards), f"data.{number} is not read shard by shard"
        return source


def _shuffled(count: int, *seed: object) -> Indices:
    """Shuffle 0 .. count-1, as a pure function of the seed."""
    return shuffled(np.arange(count), np.array(count), np.array(seed_of(*seed), np.uint64))

"""Chapters: what is trained on of data sets that are read shard by shard, a small catalog at a time.

The shards of a streamed set come in passes, each in another order; all sets advance together, so that any number of
chapters shows them in the proportion of their sizes times ``repeats``, or of their weights. A chapter is made of the next
shards and of as many samples of the sets whose items are known. What is left over of a bucket begins the
bucket's samples in the next chapter. All of it is a function of the seed, the contents, and where the chapter begins.

Shape letters: T optimizer steps, B batch size, M samples of a chapter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetrainers.config import Bucket
from finetrainers.config.of_set import about_set
from finetrainers.data.catalog.catalog import Catalog, raise_if_failing
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.probe import Look
from finetrainers.data.catalog.split import without_contents
from finetrainers.data.order.advance import Advance
from finetrainers.data.order.chapter import Begin, Chapter, Known, Rest, Shards, Source
from finetrainers.data.order.draws import Indices, keys_of, seed_of, shuffled, shuffled_range
from finetrainers.data.order.written import WrittenOrder
from finetrainers.data.sources.items import Problem
from finetrainers.data.sources.listing import Listing, join
from finetrainers.errors import DataError

Digests = npt.NDArray[np.void]


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
    def advance(self) -> Advance:
        """How the data sets advance."""
        return Advance(self.sources)

    def first(self) -> Begin:
        """Where the first chapter begins."""
        none, count = (0,) * len(self.sources), len(self.sources)
        return Begin(0, 0, taken=none, seen=none, in_pass=none, shown=((0, 0),) * count, rests=(Rest(),) * count)

    def open(self, begin: Begin) -> Chapter:
        """List and plan a chapter.

        Raises:
            DataError: Naming all bad samples that are not to be skipped; or a data set with a whole pass without a good one.
        """
        begin, listings = self._listed(begin)
        read = [
            part
            for number, source in enumerate(self.sources)
            if isinstance(source, Shards)
            for part in self._read(number, source, begin.rests[number], listings.get(number))
        ]
        raise_if_failing([part.data for part in read], [f"data.{part.source}" for part in read])
        taken, seen = self._counted(begin, read)
        in_pass = self._in_pass(begin, read, taken)
        parts = sorted([*read, *self._known(begin, taken)], key=lambda part: part.source)
        catalog = Catalog(tuple(part.data for part in parts), self.buckets, known_as=self.known_as)
        order, rests = self._order(begin, catalog, parts)
        end = Begin(begin.number + 1, order.stop, taken, seen, in_pass, begin.shown, rests)
        problems = tuple(problem for part in read for problem in part.data.problems)
        return Chapter(begin, catalog, order, end, tuple(part.source for part in parts), problems)

    def _listed(self, begin: Begin) -> tuple[Begin, dict[int, Listing]]:
        """Choose the shards of a chapter, unless they are settled, and list them."""
        if begin.shards is None:
            found = self._chosen(begin)
        else:
            settled = enumerate(zip(begin.shards, begin.skipped, strict=True))
            found = {n: [(ref, self._list(n, ref, skipped)) for ref in refs] for n, (refs, skipped) in settled if refs}
        numbers = range(len(self.sources))
        refs = tuple(tuple(ref for ref, _ in found.get(number, ())) for number in numbers)
        skipped = tuple(_skipped(found.get(number, ())) for number in numbers)
        joined = {number: join(listing for _, listing in listed) for number, listed in found.items()}
        return replace(begin, shards=refs, skipped=skipped), joined

    def _chosen(self, begin: Begin) -> dict[int, list[tuple[str, Listing]]]:
        """Choose the shards of a chapter, by data set, with their listings."""
        found: dict[int, list[tuple[str, Listing]]] = {}
        while True:
            items = {own: [len(listing.table) for _, listing in listed] for own, listed in found.items()}
            number = self.advance.due(begin, items)
            source, listed = self._shards(number), found.setdefault(number, [])
            ref = source.nth(begin.taken[number] + len(listed), self.seed)
            listed.append((ref, self._list(number, ref)))
            num_items = sum(len(listing.table) for _, listing in listed)
            is_end_of_pass = (begin.taken[number] + len(listed)) % len(source.refs) == 0
            if num_items >= source.config.chapter_items or is_end_of_pass:
                return found

    def _list(self, number: int, ref: str, skipped: Mapping[str, str] = MappingProxyType({})) -> Listing:
        with about_set(f"data.{number}"):
            return self._shards(number).list(ref, skipped)

    def _counted(self, begin: Begin, read: Sequence[_Part]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """By data set: shards, or samples, that have come when a chapter ends; and samples that all shards so far had."""
        shards, seen = begin.shards or (), list(begin.seen)
        for part in read:
            seen[part.source] += len(part.places) - part.num_old
        taken = {n: begin.taken[n] + len(shards[n]) for n, own in enumerate(self.sources) if isinstance(own, Shards)}
        taken |= {n: max(begin.taken[n], count) for n, count in self.advance.known(taken, seen).items()}
        return tuple(taken[number] for number in range(len(self.sources))), tuple(seen)

    def _in_pass(self, begin: Begin, read: Sequence[_Part], taken: Sequence[int]) -> tuple[int, ...]:
        """By data set: samples of the pass that goes on when a chapter ends, none of whose shards is of the next pass.

        Raises:
            DataError: If a whole pass had none: those to come would have none either, and no step would ever be taken.
        """
        found = list(begin.in_pass)
        for part in read:
            found[part.source] += len(part.places) - part.num_old
        for number, refs in enumerate(begin.shards or ()):
            if not refs or taken[number] % len(self._shards(number).refs):
                continue
            if not found[number]:
                self._raise_barren(number, [bad for part in read if part.source == number for bad in part.data.problems])
            found[number] = 0
        return tuple(found)

    def _raise_barren(self, number: int, problems: Sequence[Problem]) -> NoReturn:
        source = self._shards(number)
        last = f"; the last problem is of {problems[-1].path}: {problems[-1].reason}" if problems else ""
        with about_set(f"data.{number}"):
            raise DataError(
                f"data.path: {source.config.path!r} has no sample to train on in any of {len(source.refs)} shards{last}. "
                "Remove this data set, or see that its shards can be read and have media and captions that fit its buckets"
            )

    def _known(self, begin: Begin, taken: Sequence[int]) -> Iterator[_Part]:
        """Choose what comes of the data sets whose items are known."""
        for number, source in enumerate(self.sources):
            if isinstance(source, Known):
                old = np.array(begin.rests[number].samples, np.int64)
                new = self._drawn(number, source, begin.taken[number], taken[number])
                yield _Part(number, source.data, np.concatenate([old, new]), len(old))

    def _drawn(self, number: int, source: Known, start: int, stop: int) -> Indices:
        """Samples of endless passes of a data set, each in another order."""
        count = len(source.data.item)
        draws, turns = np.arange(start, stop) % max(1, count), np.arange(start, stop) // max(1, count)
        return shuffled(draws, np.array(count), keys_of(np.array(seed_of(self.seed, "pass", number), np.uint64), turns))

    def _read(self, number: int, source: Shards, old: Rest, new: Listing | None) -> Iterator[_Part]:
        """Look at what was left over of a data set, and at what its next shards have."""
        if old.items is not None:
            data = self._dataset(number, source, Listing(old.items, (), 0))
            data = data.only(data.chunk == np.array(old.samples, np.int32)[data.item])
            yield _Part(number, data, np.arange(len(data.item)), len(data.item))
        if new is not None:
            data, _ = without_contents(self._dataset(number, source, new), self.held_out)
            yield _Part(number, data, np.arange(len(data.item)), 0)

    def _dataset(self, number: int, source: Shards, listing: Listing) -> Dataset:
        listing = replace(listing, layout=source.layout.name, why=source.why)
        buckets, key = {bucket: place for place, bucket in enumerate(self.buckets)}, f"data.{number}"
        with about_set(key):
            return self.build(source.config, listing, self.look(len(listing.table)), buckets=buckets, key=key)

    def _order(self, begin: Begin, catalog: Catalog, parts: Sequence[_Part]) -> tuple[WrittenOrder, tuple[Rest, ...]]:
        """Cut each bucket's samples into batches, those that were left over first; return what is left over now, too."""
        ends = np.cumsum([len(part.data.item) for part in parts])
        starts = ends - [len(part.data.item) for part in parts]
        buckets = np.concatenate(catalog.shape_numbers())
        old, new = (
            np.concatenate([start + own for start, own in zip(starts, chosen, strict=True)])
            for chosen in ([p.places[: p.num_old] for p in parts], [p.places[p.num_old :] for p in parts])
        )
        new = new[shuffled_range(len(new), self.seed, "chapter", begin.number)]
        rows, left = [], []
        for bucket in np.unique(buckets[np.concatenate([old, new])]).tolist():
            samples = np.concatenate([own[buckets[own] == bucket] for own in (old, new)])
            full = len(samples) // self.batch_size * self.batch_size
            rows.append(samples[:full].reshape(-1, self.batch_size))
            left.append(samples[full:])
        batches = np.concatenate(rows) if rows else np.empty((0, self.batch_size), np.int64)
        batches = batches[shuffled_range(len(batches), self.seed, "batches", begin.number)]
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


def _skipped(listed: Sequence[tuple[str, Listing]]) -> dict[str, str]:
    """Reasons of the shards that could not be read, by their references."""
    return {ref: bad.reason for ref, own in listed if not len(own.table) for bad in own.problems if bad.path == ref}

"""What a chapter is made of: data sets that are read shard by shard or are known, and what was left over of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pyarrow as pa

from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.order.draws import shuffled_range
from finetrainers.data.order.written import WrittenOrder
from finetrainers.data.sources.items import Problem
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing
from finetrainers.errors import DataError


@dataclass(frozen=True, slots=True)
class Shards:
    """One data set that is read shard by shard."""

    layout: Layout
    wanted: Wanted
    root: str
    """Reference of the folder that has them."""
    refs: tuple[str, ...]
    """In the order of their names."""
    why: str = ""
    """By what the layout was found."""

    @property
    def config(self) -> DataConfig:
        return self.wanted.config

    def nth(self, number: int, seed: int) -> str:
        """Choose the n-th shard of endless passes, each of which has every shard once."""
        turn, place = divmod(number, len(self.refs))
        return self.refs[int(shuffled_range(len(self.refs), seed, "shards", turn)[place])]

    def list(self, ref: str, skipped: Mapping[str, str] = MappingProxyType({})) -> Listing:
        """List the items of a shard; if it cannot be read, and such are to be skipped, it has none, and is a problem.

        Args:
            ref: Of the shard.
            skipped: Reasons of those that could not be read when the chapter was made: it stays what it was.

        Raises:
            DataError: If it cannot be read, and is not to be skipped.
        """
        wanted, text = self.wanted, pa.large_string()
        lists = {"captions", *wanted.many}
        kinds = {name: pa.large_list(text) if name in lists else text for name in ("media", "captions", *wanted.columns)}
        reason = skipped.get(ref)
        if reason is None:
            try:
                listing = self.layout.shard_items(ref, wanted)
                return replace(listing, table=listing.table.select(list(kinds)))
            except DataError as error:
                if self.config.on_error == "fail":
                    raise
                reason = str(error).removeprefix(f"{ref}: ")
        return Listing(pa.schema(kinds).empty_table(), (Problem(ref, reason),), 0)


@dataclass(frozen=True, slots=True)
class Known:
    """One data set whose items are all known."""

    data: Dataset

    @property
    def config(self) -> DataConfig:
        return self.data.config


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
    seen: tuple[int, ...]
    """By data set: samples that the shards before had; 0 of one whose items are known."""
    in_pass: tuple[int, ...]
    """By data set: those of them that are of the pass that goes on."""
    shown: tuple[tuple[int, int], ...]
    """By data set: images and videos that the steps before showed."""
    rests: tuple[Rest, ...]
    """By data set."""
    shards: tuple[tuple[str, ...], ...] | None = None
    """By data set: what the chapter consists of, if that is settled."""
    skipped: tuple[Mapping[str, str], ...] = ()
    """By data set: those of ``shards`` that could not be read, and why; empty if the shards are not settled."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """What some optimizer steps are trained on."""

    begin: Begin
    catalog: Catalog
    order: WrittenOrder
    end: Begin
    """Where the next one begins."""
    owners: tuple[int, ...]
    """By set of the catalog: number of the data set that it is a part of."""
    problems: tuple[Problem, ...]
    """Bad samples of the shards."""

"""WebDataset: samples in tar archives, called shards."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from finetrainers.config.data import DataConfig
from finetrainers.data.media.blob import blob_of
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, join
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.splits import about_missing, choose_split
from finetrainers.data.sources.tar_shard import list_shard
from finetrainers.errors import DataError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LISTED_AT_ONCE = 8
"""Shards of other machines that are listed at the same time."""


class WebDataset(Layout):
    """A folder of tar archives, or one."""

    name = "webdataset"
    settings = frozenset({"split", "caption_lines", "media_column", "caption_column", "control_column", "columns"})
    names_streams = True
    looks_below = True

    def detect(self, place: Place, config: DataConfig) -> str | None:
        found = place.tree((".tar", *COMPRESSED))
        return f"{len(found)} .tar shard{'s' * (len(found) != 1)}" if found else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        names, split, passed_over = _choose(place, wanted.config)
        refs = [place.ref(name) for name in names]
        if all(blob_of(ref).path is not None for ref in refs):
            listing = join(list_shard(ref, wanted) for ref in refs)
        else:
            with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
                listing = join(pool.map(partial(list_shard, wanted=wanted), refs))
        if len(listing.table) == 0 and not listing.problems:
            found = ", ".join(f"{count} {kind}" for kind, count in listing.passed_over.items()) or "no members"
            raise DataError(f"{place}: no media in {len(refs)} tar archives, but {found}")
        notes = (*listing.notes, *(f"{place}: {note}" for note in about_missing(names)))
        return replace(listing, why=split, passed_over={**passed_over, **listing.passed_over}, notes=notes)

    def shards(self, place: Place, config: DataConfig) -> list[str] | None:
        return [place.ref(name) for name in _choose(place, config)[0]]

    def shard_items(self, ref: str, wanted: Wanted) -> Listing:
        return list_shard(ref, wanted)


def _choose(place: Place, config: DataConfig) -> tuple[list[str], str, dict[str, int]]:
    """Choose the shards of the split."""
    compressed = place.tree(COMPRESSED)
    if compressed:
        raise DataError(
            f"{place}: {compressed[0]} is compressed as a whole, so that its members cannot be read one by one; unpack it "
            "to a plain .tar (images and videos are compressed already)"
        )
    names = place.tree((".tar",))
    if not names:
        raise DataError(f"{place}: there is no .tar, which data.layout: webdataset needs")
    return choose_split(names, config, str(place))

"""Parquet and Arrow tables that hold media in their cells, or name them."""

from dataclasses import replace

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, join
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.splits import about_missing, choose_split
from finetrainers.data.sources.table_file import TABLE_SUFFIXES, has_embedded, has_media, list_table
from finetrainers.errors import DataError


class Table(Layout):
    """A folder of tables, or one."""

    name = "table"
    settings = frozenset({"split", "media_column", "caption_column", "control_column", "columns"})
    names_streams = True
    looks_below = True

    def detect(self, place: Place, config: DataConfig) -> str | None:
        if place.has("state.json") or place.has("dataset_dict.json"):
            return None  # written by save_to_disk
        names = _tables(place)
        if not names or not has_media(place.ref(names[0]), config):
            return None
        kinds = sorted({name.rpartition(".")[2] for name in names})
        return f"{len(names)} .{' and .'.join(kinds)} file{'s' * (len(names) != 1)} with a column of media"

    def items(self, place: Place, wanted: Wanted) -> Listing:
        names, split, passed_over = _choose(place, wanted.config)
        listing = join(list_table(place.ref(name), wanted) for name in names)
        if len(listing.table) == 0 and not listing.problems:
            raise DataError(f"{place}: lists no media in {len(names)} tables")
        notes = (*listing.notes, *(f"{place}: {note}" for note in about_missing(names)))
        return replace(listing, why=split, passed_over={**passed_over, **listing.passed_over}, notes=notes)

    def shards(self, place: Place, config: DataConfig) -> list[str] | None:
        return [place.ref(name) for name in _choose(place, config)[0]]

    def shard_items(self, ref: str, wanted: Wanted) -> Listing:
        return list_table(ref, wanted)


def _choose(place: Place, config: DataConfig) -> tuple[list[str], str, dict[str, int]]:
    """Choose the tables of the split."""
    names = place.tree(TABLE_SUFFIXES)
    if not names:
        raise DataError(f"{place}: there is no {', '.join(TABLE_SUFFIXES)}, which data.layout: table needs")
    return choose_split(names, config, str(place))


def _tables(place: Place) -> list[str]:
    """Names of the tables of a place, without those that list files beside them, which are metadata files."""
    lists = [place.path.name] if place.is_file and place.suffix == ".parquet" else ["metadata.parquet"]
    names = place.tree(TABLE_SUFFIXES)
    return [name for name in names if name.rpartition("/")[2] not in lists or has_embedded(place.ref(name))]

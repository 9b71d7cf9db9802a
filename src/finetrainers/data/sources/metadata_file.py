"""A metadata file: ``metadata.csv``, ``.json``, ``.jsonl`` or ``.parquet`` with a row for each item."""

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, pair
from finetrainers.data.sources.metadata import METADATA_READERS, read_metadata
from finetrainers.data.sources.named import Source, list_named, named_files, named_lists
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.table_file import has_embedded
from finetrainers.errors import DataError


class MetadataFile(Layout):
    """Rows of paths and captions."""

    name = "metadata"
    settings = frozenset({"media_column", "caption_column", "control_column", "columns"})
    names_streams = True

    def detect(self, place: Place, config: DataConfig) -> str | None:
        found = _found(place)
        return f"{', '.join(found)} list items" if found else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        found = _found(place)
        if len(found) > 1:
            raise DataError(
                f"{place}: {', '.join(found)} all list items; remove all but one, or set data.path to the one to use"
            )
        if not found:
            known = ", ".join(METADATA_READERS)
            raise DataError(f"data.path: {place} is not a metadata file ({known}) and has none of the name metadata")
        source = Source(place.root, found[0])
        odd: dict[int, str] = {}
        with place.file(source.name) as path:
            items = read_metadata(path, wanted.config, wanted.columns, wanted.many, odd=odd)
        listing = list_named(source, "row", items, odd, prefix=wanted.config.caption_prefix)
        for name in wanted.columns:
            check = named_lists if name in wanted.many else named_files
            listing = pair(listing, name, check(listing.table[name], source, name))
        return listing


def _found(place: Place) -> list[str]:
    if place.is_file:
        names = [place.path.name] if place.suffix in METADATA_READERS else []
    else:
        names = [name for name in (f"metadata{suffix}" for suffix in METADATA_READERS) if place.has(name)]
    return [name for name in names if not name.lower().endswith(".parquet") or not has_embedded(place.ref(name))]

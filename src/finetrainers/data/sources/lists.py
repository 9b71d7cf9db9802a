"""Two lists: ``captions.txt`` beside ``videos.txt`` or ``images.txt``, line by line."""

import numpy as np
import pyarrow as pa

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing
from finetrainers.data.sources.named import Source, list_named
from finetrainers.data.sources.place import Place
from finetrainers.errors import DataError

CAPTION_LISTS = ("captions.txt", "prompts.txt", "prompt.txt")
MEDIA_LISTS = ("videos.txt", "images.txt")


class Lists(Layout):
    """Line n of one file belongs to line n of the other."""

    name = "lists"

    def detect(self, place: Place, config: DataConfig) -> str | None:
        captions, media = (
            [] if place.is_file else [n for n in names if place.has(n)] for names in (CAPTION_LISTS, MEDIA_LISTS)
        )
        return f"{', '.join([*captions, *media])} list items" if captions and media else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        names = [_only(place, names) for names in (CAPTION_LISTS, MEDIA_LISTS)]
        captions, media = names
        texts, paths = _lines(place, captions), _lines(place, media)
        if len(texts) != len(paths):
            raise DataError(
                f"{captions} has {len(texts)} lines, but {media} has {len(paths)}, in {place.root}; line n of "
                "one belongs to line n of the other"
            )
        single = pa.LargeListArray.from_arrays(pa.array(np.arange(len(texts) + 1)), pa.array(texts, pa.large_string()))
        items = pa.record_batch([pa.array(paths, pa.large_string()), single], names=["media", "captions"])
        return list_named(Source(place.root, media), "line", items, prefix=wanted.config.caption_prefix)


def _only(place: Place, names: tuple[str, ...]) -> str:
    found = [name for name in names if place.has(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{place}: {', '.join(found)} all list items; remove all but one")
    raise DataError(f"{place}: there is none of {', '.join(names)}, which data.layout: lists needs")


def _lines(place: Place, name: str) -> list[str]:
    """Lines of a file without the blank ones at its end."""
    text = place.read_text(name)
    return text.rstrip().split("\n") if text.strip() else []  # not splitlines(), which also cuts at exotic separators

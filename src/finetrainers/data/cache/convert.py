"""From files of their own into packs: what an older version wrote, and what many small fills leave."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finetrainers.data.cache.item import is_whole
from finetrainers.data.cache.packs import KINDS, Kind, write_pack
from finetrainers.data.cache.reading import read_part
from finetrainers.data.cache.rewrite import upkeep
from finetrainers.data.cache.store import OWN_FILE, Cache
from finetrainers.data.cache.upkeep import Stored, Tally, stored_files
from finetrainers.data.cache.writing import BATCH_BYTES, BATCH_ITEMS


def convert(cache: Cache, tell: Callable[[int], None] = lambda _: None) -> tuple[Tally, list[Path]]:
    """Put all items that have files of their own into packs.

    A file is removed when its item is in a pack that is on the disk and in the index: whatever kills this loses nothing, and
    the same again goes on. Items that were used together stay together, so that eviction finds old packs.

    Args:
        cache: Any number of runs may use it meanwhile.
        tell: Called with the number of items that are done.

    Returns:
        What is in packs now, and files that are left because they are damaged.
    """
    done, left = Tally(), list[Path]()
    for kind in KINDS:
        own = [one for one in stored_files(cache) if one.kind == kind and OWN_FILE.fullmatch(one.file.name)]
        own.sort(key=lambda one: one.used)
        for part in _parts(own):
            with upkeep(cache.root):
                done += _convert(cache, kind, part, left)
            tell(done.items)
    return done, left


def _parts(own: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Cut a list into what makes a pack each."""
    part, size = list[Stored](), 0
    for one in own:
        if part and (len(part) == BATCH_ITEMS or size + one.bytes > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += one.bytes
    if part:
        yield part


def _convert(cache: Cache, kind: Kind, files: list[Stored], left: list[Path]) -> Tally:
    """Put some items into one pack; those that are in one already only lose their files."""
    places = cache.index.places([(kind, bytes.fromhex(one.file.stem)) for one in files]) if cache.packs.is_dir() else {}
    items, converted = list[tuple[bytes, bytes]](), list[Stored]()
    for one in files:
        key = bytes.fromhex(one.file.stem)
        try:
            data = read_part(one.file)
        except FileNotFoundError:  # a run has removed it meanwhile
            continue
        if not is_whole(data):
            left.append(one.file)
            continue
        converted.append(one)
        place = places.get((kind, key))
        if place is None or not is_whole(read_part(cache.packs / place.pack, place.start, place.length)):
            items.append((key, data.tobytes()))
    if items:
        pack = write_pack(cache.root, kind, items, used=max(one.used for one in converted))
        cache.index.add(pack)
    for one in converted:
        one.file.unlink(missing_ok=True)
    return Tally(len(converted), sum(one.bytes for one in converted))

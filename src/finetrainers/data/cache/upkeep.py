"""What keeps a cache small and whole: eviction, the search for damage, and what killed runs have left."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetrainers.data.cache.item import is_whole
from finetrainers.data.cache.leases import FOLDER as LEASES
from finetrainers.data.cache.packs import FOLDER as PACKS, KINDS, Kind, is_pack, kind_of, read_pack
from finetrainers.data.cache.reading import read_part
from finetrainers.data.cache.rewrite import contents, upkeep
from finetrainers.data.cache.store import SNAPSHOTS, Cache, Entry

LEFTOVER_SECONDS = 3600.0
"""Age from which a temporary file is one that a killed run has left: no write takes so long."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of the cache: an item, or a pack of many."""

    file: Path
    kind: Kind
    bytes: int
    used: float
    """Seconds since the epoch."""
    items: int
    is_pack: bool

    def is_used_since(self) -> bool:
        """Whether a run has found that it needs something of it after it was listed, or has removed it."""
        try:
            return self.file.stat().st_mtime != self.used
        except FileNotFoundError:
            return True


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of something there is."""

    items: int = 0
    bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.items + other.items, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What came of making room."""

    removed: Tally = Tally()
    held: Tally = Tally()
    """What living runs need, besides one's own."""
    over: int = 0
    """Bytes that are still too many."""


def stored_files(cache: Cache) -> Iterator[Stored]:
    """All files that hold items."""
    for kind in KINDS:
        for file in sorted((cache.root / kind).glob("??/*.safetensors")):
            yield from _stored(file, kind, 1, is_pack=False)
    if cache.packs.is_dir():
        cache.refresh()
        known = cache.index.packs()
        for file in sorted(file for file in cache.packs.iterdir() if is_pack(file.name)):
            yield from _stored(file, kind_of(file.name), known.get(file.name, (0, 0))[1], is_pack=True)


def _stored(file: Path, kind: Kind, items: int, *, is_pack: bool) -> Iterator[Stored]:
    try:
        stat = file.stat()
    except FileNotFoundError:  # another run has removed it meanwhile
        return
    yield Stored(file, kind, stat.st_size, stat.st_mtime, items, is_pack)


def evict(cache: Cache, max_bytes: int, *, keep: Collection[str] = (), since: float | None = None) -> Eviction:
    """Remove the least recently used files until at most ``max_bytes`` are left.

    Keys in ``keep`` stay, and files that were used at or after ``since``: living runs need something of them. Where that is
    not enough, packs of which little is kept are written anew. What killed runs have left goes.
    """
    with upkeep(cache.root):
        remove_leftovers(cache)
        stored = sorted(stored_files(cache), key=lambda one: one.used)
        surplus = sum(one.bytes for one in stored) - max_bytes
        needed = _needed(cache, stored, keep)
        held = [one for one in stored if since is not None and one.used >= since and needed[one.file] < one.items]
        free = set(stored) - set(held)
        removed, gone = Tally(), list[Stored]()
        for one in stored:
            if surplus <= 0:
                break
            if one in free and not needed[one.file] and not one.is_used_since():
                gone.append(one)
                removed += Tally(one.items, one.bytes)
                surplus -= one.bytes
        if packs := [one.file.name for one in gone if one.is_pack]:
            cache.index.add(instead_of=packs)  # while they can tell what is in them
        for one in gone:
            one.file.unlink(missing_ok=True)
        kept = {bytes.fromhex(key) for key in keep} if cache.packs.is_dir() else set()
        parts = [one for one in stored if one in free and one.is_pack and 0 < needed[one.file] < one.items]
        for one in parts if surplus > 0 else ():
            freed = cache.rewrite(one.file.name, kept.__contains__)
            removed += Tally(one.items - needed[one.file], freed)
            surplus -= freed
            if surplus <= 0:
                break
        if removed.items and cache.packs.is_dir():
            cache.index.restore()
    return Eviction(removed, sum((Tally(one.items, one.bytes) for one in held), Tally()), max(0, surplus))


def _needed(cache: Cache, stored: Sequence[Stored], keep: Collection[str]) -> Counter[Path]:
    """Count the items of each file that are to be kept."""
    needed = Counter(one.file for one in stored if not one.is_pack and one.file.stem in keep)
    if any(one.is_pack for one in stored):
        keys = [bytes.fromhex(key) for key in keep]
        places = cache.index.places([(kind, key) for kind in KINDS for key in keys])
        needed.update(cache.packs / place.pack for place in places.values())
    return needed


def remove_leftovers(cache: Cache) -> int:
    """Delete the temporary files that killed runs have left; return how many."""
    count, before = 0, time.time() - LEFTOVER_SECONDS
    patterns = (*(f"{kind}/??/.*.tmp" for kind in KINDS), *(f"{folder}/.*.tmp" for folder in (PACKS, LEASES, SNAPSHOTS)))
    for file in (file for pattern in patterns for file in cache.root.glob(pattern)):
        try:
            if file.stat().st_mtime < before:
                file.unlink()
                count += 1
        except FileNotFoundError:  # another run did the same
            continue
    return count


def damaged(cache: Cache) -> Iterator[Entry]:
    """Items whose contents are not what was written."""
    for one in stored_files(cache):
        name = one.file.name if one.is_pack else None
        items = contents(cache.root, cache.index, one.file.name) if one.is_pack else [(b"", 0, one.bytes)]
        for key, start, length in items:
            try:
                data = read_part(one.file, start, length)
            except OSError:
                continue  # it is gone, or cannot be read now: nothing is known of what it holds
            if not is_whole(data):
                yield Entry(one.kind, key.hex() or one.file.stem, length, one.used, name)


def mend_packs(cache: Cache) -> list[Path]:
    """Write packs anew whose directories are damaged, and return them. Of one that is not in the index, nothing is left."""
    packs = [one.file for one in stored_files(cache) if one.is_pack and read_pack(cache.root, one.file.name) is None]
    with upkeep(cache.root):
        for file in packs:
            cache.rewrite(file.name, lambda _: True)
    return packs

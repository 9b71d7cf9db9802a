"""What a cache keeps beside its items: copies of remote objects, and snapshots of data sets.

All of it can be had again: copies are fetched anew, and data sets listed. What a living process uses stays: it holds a lock
for the folder of copies, and on each snapshot that it has mapped; the system lets go of these even after kill -9.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetrainers.data.cache.store import SNAPSHOTS, Cache
from finetrainers.data.cache.upkeep import Eviction, Tally
from finetrainers.data.catalog.snapshot import What, what_is_kept
from finetrainers.data.media.remote_disk import FOLDER as REMOTE, LEFTOVER_SECONDS, in_use_since

COPY = re.compile(r"[0-9a-f]{40}")
DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Beside:
    """One file."""

    file: Path
    bytes: int
    used: float
    """Seconds since the epoch."""

    def is_unused_since(self) -> bool:
        """Whether nobody has used or replaced it after it was listed."""
        try:
            return self.file.stat().st_mtime == self.used
        except FileNotFoundError:
            return False


def copies(cache: Cache) -> list[Beside]:
    """All copies of remote objects, the least recently used first."""
    return sorted((one for one in _files(cache.root / REMOTE) if COPY.fullmatch(one.file.name)), key=lambda one: one.used)


def unfinished(cache: Cache) -> list[Beside]:
    """Copies that were begun and are old enough for the process to be gone."""
    before = time.time() - LEFTOVER_SECONDS
    return [one for one in _files(cache.root / REMOTE) if one.file.name.endswith(".tmp") and one.used < before]


def copies_in_use_since(cache: Cache) -> float | None:
    """Since when living processes have used copies; None if there is none."""
    return in_use_since(cache.root / REMOTE)


def snapshots(cache: Cache) -> list[Beside]:
    """All snapshots, the least recently used first."""
    files = (cache.root / SNAPSHOTS).glob("[!.]*.arrow")
    return sorted((one for file in files for one in _looked_at(file)), key=lambda one: one.used)


def about(snapshot: Beside) -> What | None:
    """What a snapshot is of; None if it is damaged."""
    return what_is_kept(snapshot.file)


def prune_copies(cache: Cache, max_bytes: int) -> Eviction:
    """Remove the least recently used copies until at most ``max_bytes`` are left, and what killed processes have left.

    Copies stay that were used since the first of the living processes began which use them.
    """
    _unlink(*unfinished(cache))
    found, since = copies(cache), copies_in_use_since(cache)
    surplus = sum(one.bytes for one in found) - max_bytes
    held = [one for one in found if since is not None and one.used >= since]
    removed = Tally()
    for one in found[: len(found) - len(held)]:
        if surplus <= 0:
            break
        if one.is_unused_since():
            _unlink(one)
            removed += Tally(1, one.bytes)
            surplus -= one.bytes
    return Eviction(removed, sum((Tally(1, one.bytes) for one in held), Tally()), max(0, surplus))


def prune_snapshots(cache: Cache, max_days: float) -> Eviction:
    """Remove snapshots that no start has used for so many days, but for those that a living process has mapped."""
    before = time.time() - max_days * DAY_SECONDS
    removed, held = Tally(), Tally()
    for one in snapshots(cache):
        if one.used >= before:
            break
        if is_mapped(one.file):
            held += Tally(1, one.bytes)
        elif one.is_unused_since():
            _unlink(one)
            removed += Tally(1, one.bytes)
    return Eviction(removed, held)


def remove_damaged(cache: Cache) -> list[Path]:
    """Remove snapshots that are not what was written, and return them."""
    found = [one for one in snapshots(cache) if about(one) is None and one.is_unused_since()]
    _unlink(*found)
    return [one.file for one in found]


def remove_unfinished(cache: Cache) -> int:
    """Remove the copies that killed processes have begun; return how many."""
    found = unfinished(cache)
    _unlink(*found)
    return len(found)


def is_mapped(snapshot: Path) -> bool:
    """Whether a living process has a snapshot in use."""
    try:
        with snapshot.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is locked, or cannot be looked into: taken for one in use
        return True
    return False


def _unlink(*gone: Beside) -> None:
    for one in gone:
        one.file.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Beside]:
    """All files of the folders in a folder of copies."""
    parts = (
        [entry.path for entry in os.scandir(folder) if len(entry.name) == 2 and entry.is_dir()] if folder.is_dir() else []
    )
    for part in parts:
        for entry in os.scandir(part):
            yield from _looked_at(Path(entry.path))


def _looked_at(file: Path) -> Iterator[Beside]:
    with suppress(FileNotFoundError):  # another process has removed it meanwhile
        stat = file.stat()
        yield Beside(file, stat.st_size, stat.st_mtime)

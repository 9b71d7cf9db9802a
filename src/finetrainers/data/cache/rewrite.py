"""What is taken out of packs: a pack is written anew without it, and then takes the place of the old one."""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from finetrainers.data.cache.index import Index
from finetrainers.data.cache.packs import FOLDER, kind_of, read_pack, write_pack
from finetrainers.data.cache.reading import read_part

LOCK = "upkeep.lock"


@contextmanager
def upkeep(root: Path) -> Iterator[None]:
    """Let one process at a time rewrite and remove; the system lets go of the lock of one that dies.

    Where there are no locks, two may do the same work, which loses nothing.
    """
    try:
        lock = (root / LOCK).open("ab")
    except OSError:  # who may not write here cannot rewrite either, and is told so then
        yield
        return
    with lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def rewrite(root: Path, index: Index, name: str, keeps: Callable[[bytes], bool]) -> int:
    """Take items out of a pack, besides those that are cut off; return the bytes that this frees.

    The new pack is on the disk before the index names it, and the old one is removed last: whatever kills this leaves each
    item in one of them.

    Raises:
        DataError: If the new pack cannot be written.
    """
    file = root / FOLDER / name
    before = file.stat()
    kept = []
    for key, start, length in contents(root, index, name):
        if keeps(key) and start + length <= before.st_size:
            kept.append((key, read_part(file, start, length).tobytes()))
    new = [write_pack(root, kind_of(name), kept, used=before.st_mtime)] if kept else []
    index.add(*new, instead_of=[name])
    file.unlink(missing_ok=True)
    return before.st_size - sum((root / FOLDER / pack.name).stat().st_size for pack in new)


def contents(root: Path, index: Index, name: str) -> Sequence[tuple[bytes, int, int]]:
    """Key, start and length of the items of a pack; as the index has them, if its own directory is damaged."""
    pack = read_pack(root, name)
    if pack is None:
        return index.contents(name)
    keys = (key.tobytes() for key in pack.directory["key"])
    return list(zip(keys, pack.directory["start"].tolist(), pack.directory["length"].tolist(), strict=True))

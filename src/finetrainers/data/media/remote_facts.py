"""What is known of remote objects without reading them: sizes and stamps, as listings gave them.

A million of them are arrays, so that no object is asked for one by one. Shape letters: N objects of a listing.
"""

import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

VERSIONS = ("ETag", "etag", "version_id", "generation", "md5Hash", "Content-MD5", "sha256", "blob_id", "content_hash")
"""Fields by which backends tell what changes with the bytes; the first that is there is taken."""
TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "modified", "created")
BLOCK_ROWS = 65536
"""Objects of a listing that are held as Python objects at a time."""
THIS_PROCESS = secrets.token_hex(8)
"""Stamp of what shows no change: it holds until this process ends."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one object."""

    size: int
    """Bytes; -1 where the server does not tell."""
    stamp: str
    """Changes when the bytes do."""


def facts_of(info: Mapping[str, object]) -> Facts:
    """Choose from what a backend tells of an object."""
    given = info.get("size")
    size = given if isinstance(given, int) else -1
    lfs = info.get("lfs")
    version = getattr(lfs, "sha256", None)  # a file of the Hub
    for name in (*VERSIONS, *TIMES):
        if version is None and info.get(name):
            version = info[name]
    return Facts(size, f"{size} {THIS_PROCESS if version is None else version}")


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Files [N] that a listing gave, sorted by name."""

    names: pa.Array
    """[N] large_string, relative to what was listed."""
    sizes: NDArray[np.int64]
    """[N] bytes; -1 where it does not tell."""
    stamps: pa.Array
    """[N] large_string."""
    folders: tuple[str, ...] = ()
    """Names of the folders in it; only those of the listed folder itself."""

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[tuple[str, Facts]]:
        """Yield names and facts."""
        for name, size, stamp in zip(self.names, self.sizes, self.stamps, strict=True):
            yield name.as_py(), Facts(int(size), stamp.as_py())


def listed(found: Iterable[tuple[str, Facts]], folders: Iterable[str] = ()) -> Listed:
    """Gather names and facts, of which only a few are held as Python objects at a time."""
    names, sizes, stamps = [], [], []
    found = iter(found)
    while block := list(itertools.islice(found, BLOCK_ROWS)):
        names.append(pa.array([name for name, _ in block], pa.large_string()))
        sizes.append(np.array([facts.size for _, facts in block], np.int64))
        stamps.append(pa.array([facts.stamp for _, facts in block], pa.large_string()))
    if not names:
        return Listed(
            pa.array([], pa.large_string()), np.zeros(0, np.int64), pa.array([], pa.large_string()), tuple(folders)
        )
    all_names, all_stamps = pa.concat_arrays(names), pa.concat_arrays(stamps)
    order = pc.sort_indices(all_names)
    return Listed(
        all_names.take(order), np.concatenate(sizes)[order.to_numpy()], all_stamps.take(order), tuple(sorted(folders))
    )


class _Table:
    """Facts [N] of the objects below a prefix, found by the hash of their names."""

    def __init__(self, found: Listed) -> None:
        names = itertools.chain.from_iterable(
            found.names.slice(start, BLOCK_ROWS).to_pylist() for start in range(0, len(found), BLOCK_ROWS)
        )
        hashes = np.fromiter(map(hash, names), np.int64, len(found))
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.int64] = hashes[self._rows]
        self._names, self._sizes, self._stamps = found.names, found.sizes, found.stamps

    def get(self, name: str) -> Facts | None:
        place = int(np.searchsorted(self._hashes, hash(name)))
        while place < len(self._hashes) and self._hashes[place] == hash(name):
            row = int(self._rows[place])
            if self._names[row].as_py() == name:
                return Facts(int(self._sizes[row]), self._stamps[row].as_py())
            place += 1
        return None


_tables: dict[str, dict[str, _Table]] = {}
"""By prefix of the references, and by what listed them."""


def remember(prefix: str, found: Listed, *, source: str = "") -> None:
    """Keep what a listing tells, in place of what the last such listing told; a prefix and a name are a reference.

    The prefix is a folder, with a slash at its end, a whole reference, or nothing.
    """
    tables = _tables.setdefault(prefix, {})
    tables.pop(source, None)
    tables[source] = _Table(found)


def recall(ref: str) -> Facts | None:
    """What the latest listing of an object's nearest folder told of it; None if none had it."""
    end = len(ref)
    while True:
        for table in reversed(list(_tables.get(ref[:end], {}).values())):
            facts = table.get(ref[end:])
            if facts is not None:
                return facts
        if end <= 0:
            return None
        end = ref.rfind("/", 0, end - 1) + 1


forget_all = _tables.clear

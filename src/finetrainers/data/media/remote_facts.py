"""What is known of remote objects without reading them: sizes and stamps, as listings gave them.

A million of them are arrays, so that no object is asked for one by one. Shape letters: N objects of a listing.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

VERSIONS = ("ETag", "etag", "version_id", "generation", "md5Hash", "Content-MD5", "sha256", "blob_id", "content_hash")
"""Fields by which backends tell what changes with the bytes; the first that is there is taken."""
TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "modified", "created")
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


class _Table:
    """Facts [N] of the objects below a prefix, found by the hash of their names."""

    def __init__(self, names: Sequence[str], facts: Iterable[Facts]) -> None:
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        rows = np.argsort(hashes, kind="stable")
        pairs = list(facts)
        self._hashes: NDArray[np.int64] = hashes[rows]
        self._rows = rows
        self._names = pa.array(names, pa.large_string())
        self._sizes = np.fromiter((own.size for own in pairs), np.int64, len(pairs))
        self._stamps = pa.array([own.stamp for own in pairs], pa.large_string())

    def get(self, name: str) -> Facts | None:
        place = int(np.searchsorted(self._hashes, hash(name)))
        while place < len(self._hashes) and self._hashes[place] == hash(name):
            row = int(self._rows[place])
            if self._names[row].as_py() == name:
                return Facts(int(self._sizes[row]), self._stamps[row].as_py())
            place += 1
        return None


_tables: dict[tuple[str, str], _Table] = {}
"""By prefix of the references, and by what listed them."""


def remember(prefix: str, names: Sequence[str], facts: Iterable[Facts], *, source: str = "") -> None:
    """Keep what a listing tells of objects, in place of what the last such listing told; ``prefix + name`` is a reference."""
    _tables.pop((prefix, source), None)
    _tables[prefix, source] = _Table(names, facts)


def recall(ref: str) -> Facts | None:
    """What the latest listing with an object told of it; None if none had it."""
    for (prefix, _), table in reversed(_tables.items()):
        if ref.startswith(prefix):
            facts = table.get(ref[len(prefix) :])
            if facts is not None:
                return facts
    return None


forget_all = _tables.clear

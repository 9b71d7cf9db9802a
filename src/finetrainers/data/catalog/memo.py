"""What is known of files by their path, size and time of change, so that unchanged files are never read again."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from finetrainers.errors import StorageError
from finetrainers.files.whole import hash_file

BUSY_SECONDS = 60.0
WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another run has held it for too long; wait for it to end, or name another cache.path",
    sqlite3.SQLITE_READONLY: "the cache lacks something and may not be written; change its permissions, or name another",
    sqlite3.SQLITE_CANTOPEN: "change the permissions of its folder, or name another cache.path",
    sqlite3.SQLITE_FULL: "make room there, or name another cache.path",
    sqlite3.SQLITE_CORRUPT: "remove it: what is known of files is found out again",
    sqlite3.SQLITE_NOTADB: "name a folder that is a cache or is not there yet, or remove the file",
}
"""By SQLite's code of the error."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Stamp":
        """Read a file's stamp without opening it."""
        stat = os.stat(path)  # noqa: PTH116 - a string path costs a third of a Path, and there may be millions
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Fact:
    """What a file was found to be."""

    digest: bytes
    """Hash of the file's bytes, DIGEST_BYTES long."""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    seconds: float = 0.0


FACT_COLUMNS = ", ".join(field.name for field in fields(Fact))


class Memo:
    """A small database beside the cache; any number of processes may use it at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        with self._errors(), self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
                "digest BLOB, num_frames INTEGER, height INTEGER, width INTEGER, fps REAL, seconds REAL)"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            way_out = WAYS_OUT.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "mend it, or name another cache.path")
            raise StorageError(f"cache.path: {self._path} cannot be used: {error}; {way_out}") from error

    def get(self, path: str, stamp: Stamp) -> Fact | None:
        """Recall what is known of an unchanged file."""
        with self._errors():
            row = self._connection.execute(
                f"SELECT {FACT_COLUMNS} FROM files WHERE path = ? AND size = ? AND mtime_ns = ?",
                (path, stamp.size, stamp.mtime_ns),
            ).fetchone()
        return None if row is None else Fact(*row)

    def put(self, found: Sequence[tuple[str, Stamp, Fact]]) -> None:
        """Remember files, in one transaction."""
        if not found:  # the cache may be read only
            return
        with self._errors(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(path, *astuple(stamp), *astuple(fact)) for path, stamp, fact in found],
            )

    def digest(self, path: Path) -> bytes:
        """Hash of a file's bytes, read only if it changed."""
        name, stamp = str(path.resolve()), Stamp.of(path)
        known = self.get(name, stamp)
        if known is None:
            known = Fact(hash_file(path))
            self.put([(name, stamp, known)])
        return known.digest

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

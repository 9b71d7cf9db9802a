"""What is known of media by reference and stamp, so that unchanged ones are never read again."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from finetrainers.data.media.blob import LocalFile, ref_of
from finetrainers.errors import StorageError
from finetrainers.files.whole import hash_file

BUSY_SECONDS = 60.0
MAX_COPIED_BYTES = 1 << 28
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
class Fact:
    """What a medium was found to be."""

    digest: bytes
    """Hash of its bytes, DIGEST_BYTES long."""
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
                "CREATE TABLE IF NOT EXISTS media (ref TEXT PRIMARY KEY, stamp TEXT, digest BLOB, "
                "num_frames INTEGER, height INTEGER, width INTEGER, fps REAL, seconds REAL)"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            way_out = WAYS_OUT.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "fix it, or name another cache.path")
            raise StorageError(f"cache.path: {self._path} cannot be used: {error}; {way_out}") from error

    def get(self, ref: str, stamp: str) -> Fact | None:
        """Recall what is known of an unchanged medium."""
        with self._errors():
            row = self._connection.execute(
                f"SELECT {FACT_COLUMNS} FROM media WHERE ref = ? AND stamp = ?", (ref, stamp)
            ).fetchone()
        return None if row is None else Fact(*row)

    def recall(self, media: Sequence[tuple[str, str | None]]) -> list[Fact | None]:
        """Recall what is known of many media, references and stamps, in one query; None for each that is not known."""
        wanted = json.dumps([ref for ref, _ in media])
        with self._errors():
            rows = self._connection.execute(
                f"SELECT ref, stamp, {FACT_COLUMNS} FROM media WHERE ref IN (SELECT value FROM json_each(?))", (wanted,)
            ).fetchall()
        known = {(ref, stamp): Fact(*facts) for ref, stamp, *facts in rows}
        return [known.get((ref, stamp)) if stamp is not None else None for ref, stamp in media]

    def put(self, found: Sequence[tuple[str, str, Fact]]) -> None:
        """Remember media, in one transaction."""
        if not found:  # the cache may be read only
            return
        with self._errors(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(ref, stamp, *astuple(fact)) for ref, stamp, fact in found],
            )

    def digest(self, path: Path) -> bytes:
        """Hash of a file's bytes, read only if it changed."""
        blob = LocalFile(ref_of(path.resolve()))
        stamp = blob.stamp()
        known = self.get(blob.ref, stamp)
        if known is None:
            known = Fact(hash_file(path))
            self.put([(blob.ref, stamp, known)])
        return known.digest

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()


def copy_memo(file: Path, target: Path) -> None:
    """Copy what is known of media, as far as it can be read; a memo of millions of them, which takes long, is not."""
    if not file.is_file() or file.stat().st_size > MAX_COPIED_BYTES:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as before,
            closing(sqlite3.connect(target)) as copied,
        ):
            before.backup(copied)
    except sqlite3.Error:  # of which the run's own errors tell
        target.unlink(missing_ok=True)

"""Copies of remote objects on the local disk: whole files, as many as fit, of which the least recently used go first.

Any number of processes and threads may share a folder. What is open stays readable, even when it is removed.
"""

import fcntl
import hashlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from finetrainers.errors import StorageError

FOLDER = "remote"
"""Below the folder of the cache."""
LEFTOVER_SECONDS = 24 * 3600.0
"""Age from which a temporary file is one that a killed process has left."""
ROOM = 0.9
"""Part of the limit that is left filled when room is made: it is made rarely."""
SHARE = 0.05
"""Part of the limit after which a process looks again at what others have written."""

LOCK = f"{FOLDER}.lock"
"""Beside the folder: each process that uses copies holds a lock on it; its time is that when the first of them began."""
_locks: dict[Path, int] = {}
"""Open files of this process, by the folder: the system lets go of the locks when it ends."""

Fetch = Callable[[Path], None]
"""Writes an object into a file."""


@dataclass(slots=True, eq=False)
class Disk:
    """A folder of copies."""

    folder: Path | None
    """None keeps nothing: each is removed as soon as it is open."""
    limit: int = 0
    """Bytes, of all of them."""
    _held: int | None = None
    """Bytes that were there when they were last counted, and what was written since."""
    _since: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: dict[str, threading.Lock] = field(default_factory=dict)
    """A lock for each that is being fetched, so that two threads do not fetch the same."""

    def open(self, key: str, fetch: Fetch) -> BinaryIO:
        """Open a copy, after fetching it if it is not there.

        Raises:
            StorageError: If the copy cannot be written.
        """
        if self.folder is None:
            return _unnamed(fetch, None)
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        file = self.folder / name[:2] / name
        with self._lock:
            _hold(self.folder)
            busy = self._busy.setdefault(name, threading.Lock())
        try:
            with busy:
                return _opened(file) or self._fetch(file, fetch)
        finally:
            with self._lock:
                self._busy.pop(name, None)

    def _fetch(self, file: Path, fetch: Fetch) -> BinaryIO:
        temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
        try:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary.touch()
            except OSError as error:
                raise _unwritable(file, error) from error
            fetch(temporary)
            size = temporary.stat().st_size
            if size > self.limit:
                return temporary.open("rb")
            self._make_room(size)
            opened = temporary.open("rb")  # before others can see, and remove, it
            temporary.replace(file)
            return opened
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, if another ``size`` bytes would be too many."""
        with self._lock:
            if self._held is None or self._held + size > self.limit or self._since > SHARE * self.limit:
                self._held, self._since = self._trim(size), 0
            self._held += size
            self._since += size

    def _trim(self, size: int) -> int:
        """Count what is there, remove the oldest if it is too much, and return what is left."""
        found = [] if self.folder is None else _files(self.folder)
        held = sum(copy.bytes for copy in found)
        if held + size <= self.limit:
            return held
        for copy in sorted(found, key=lambda copy: copy.used):
            if held + size <= ROOM * self.limit or held == 0:
                break
            with suppress(OSError):
                os.unlink(copy.path)  # noqa: PTH108 - a text: there may be many
                held -= copy.bytes
        return held


@dataclass(frozen=True, slots=True)
class _Copy:
    path: str
    bytes: int
    used: float


def _files(folder: Path) -> list[_Copy]:
    """All copies below a folder; what killed processes have left is removed."""
    found: list[_Copy] = []
    for part in os.scandir(folder) if folder.is_dir() else ():
        if len(part.name) != 2 or not part.is_dir():
            continue
        for entry in os.scandir(part.path):
            try:
                stat = entry.stat()
                if not entry.name.startswith("."):
                    found.append(_Copy(entry.path, stat.st_size, stat.st_mtime))
                elif stat.st_mtime < time.time() - LEFTOVER_SECONDS:
                    os.unlink(entry.path)  # noqa: PTH108
            except OSError:  # another process was faster
                continue
    return found


def in_use_since(folder: Path) -> float | None:
    """Since when living processes have used copies, as the file system's clock tells; None if there is none."""
    try:
        lock = folder.with_name(LOCK).open("rb")
    except FileNotFoundError:
        return None
    with lock:
        since = os.fstat(lock.fileno()).st_mtime
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is held
            return since
    return None


def _hold(folder: Path) -> None:
    """Let others know that this process uses copies; in a folder that others own and that may only be read, it cannot."""
    if folder in _locks:
        return
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _locks[folder] = os.open(folder.with_name(LOCK), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # others use copies since before
            pass
        else:
            os.utime(lock)
        fcntl.flock(lock, fcntl.LOCK_SH)


def _opened(file: Path) -> BinaryIO | None:
    """Open a copy that is there, and mark it as used now."""
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(file, error) from error
    with suppress(OSError):  # one that others own may be read
        os.utime(file)
    return opened


def _unnamed(fetch: Fetch, folder: Path | None) -> BinaryIO:
    """Fetch into a file that is gone when it is closed."""
    with tempfile.TemporaryDirectory(prefix="finetrainers-", dir=folder) as temporary:
        file = Path(temporary) / "object"
        file.touch()
        fetch(file)
        return file.open("rb")


def _unwritable(file: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cache.path: {file} cannot be written: {error.strerror}; make room or fix it, or name another cache.path"
    )

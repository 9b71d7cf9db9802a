"""Leases: while a run lives, nobody's ``cache.max_gb`` removes the items that its present window needs.

A run renews its lease, a file in the cache, and then marks what the window needs as used (``Cache.has``). So an item whose
last use is not before the oldest lease of a living run may be needed by that run. Both times are the file system's own: the
clocks of several machines need not agree. A lock on the file tells that the run lives; the system lets go of it even after
kill -9.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FOLDER = "leases"


class Lease:
    """The lease of one run on one cache; there is none before it is renewed for the first time."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / FOLDER
        self._lock: BinaryIO | None = None
        self.file: Path | None = None

    def renew(self) -> None:
        """Begin a window: what is marked from now on is needed, and what was marked before is needed no more.

        A cache that others own and that may only be read has no lease: its owners do not know of this run.
        """
        with suppress(OSError):
            if self.file is None:
                self._take()
            else:
                os.utime(self.file)

    def close(self) -> None:
        """Let others remove what this run needed."""
        if self.file is not None and self._lock is not None:
            with suppress(OSError):
                self.file.unlink()
            self._lock.close()
        self._lock = self.file = None

    def _take(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{secrets.token_hex(8)}.lease"
        temporary = file.with_name(f".{file.stem}.tmp")
        lock = temporary.open("xb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(file)  # with the lock: others never see a lease that looks as if its run were gone
        except OSError:
            lock.close()
            temporary.unlink(missing_ok=True)
            raise
        os.register_at_fork(after_in_child=lock.close)  # of all holders: a loader worker may outlive us by seconds
        self._lock, self.file = lock, file


def oldest_lease(cache: Path, *, besides: Lease | None = None) -> float | None:
    """When the oldest lease of all living runs, besides one's own, was renewed; None if there is none.

    Files that runs have left which live no more are removed.
    """
    files = [file for file in (cache / FOLDER).glob("*.lease") if besides is None or file != besides.file]
    return min((time for time in map(_renewed, files) if time is not None), default=None)


def _renewed(file: Path) -> float | None:
    """When a living run renewed its lease; None if the run is gone."""
    try:
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            file.unlink()
    except FileNotFoundError:
        return None
    except OSError:  # it is locked, or cannot be looked into: taken for a living run's
        with suppress(FileNotFoundError):
            return file.stat().st_mtime
    return None

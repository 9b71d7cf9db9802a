"""Claims: of all processes that fill one cache, of one run or of several, one at a time makes an item.

A claim is a lock on one byte of a file in the cache, at a place that the item's key says. The system lets go of it when the
process ends, even after kill -9: what a dead one had begun is free for the living. Nothing is written, and nothing stays.
"""

import errno
import fcntl
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FILE = "claims"
KEY_DIGITS = 15
"""Hexadecimal digits of a key that say its place: files of 2^63 bytes have places for all of them."""
TAKEN = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The claims of this process on one cache.

    To close any handle of the file lets go of all locks that a process has on it: one at a time is open in a process.
    """

    def __init__(self, cache: Path | None) -> None:
        """Take the folder of the cache; None if no other process makes items of it, so that all are free."""
        self._path = None if cache is None else cache / FILE
        self._file: BinaryIO | None = None
        self.problem: str | None = None
        """Why items cannot be claimed here; then each process makes what it finds missing."""

    def __enter__(self) -> "Claims":
        if self._path is None:
            return self
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        except OSError as error:  # who may not write here cannot write items either, and is told so then
            self.problem = error.strerror
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self, key: str) -> bool:
        """Claim an item; False if another process has it."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except OSError as error:
            if error.errno in TAKEN:
                return False
            self.problem = error.strerror  # a file system without locks: the same work is done twice, and right
        return True

    def release(self, key: str) -> None:
        """Let others have an item, which is made or cannot be."""
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(key))


def _place(key: str) -> int:
    return int(key[:KEY_DIGITS], 16)

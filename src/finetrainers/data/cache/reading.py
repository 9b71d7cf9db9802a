"""Bytes of items, read from the files that hold them."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""[n]."""


class Parts:
    """Reads parts of files; the last file stays open, since a batch has many parts of one."""

    def __init__(self) -> None:
        self._file, self._source = "", -1

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def read(self, file: str, start: int = 0, length: int | None = None) -> Bytes:
        """Read bytes [n] of a file, to its end by default; fewer where it is cut off."""
        if file != self._file:
            self._close()
            self._source = os.open(file, os.O_RDONLY)  # a Path's file costs twice as much, and a batch reads many
            self._file = file
        length = max(0, os.fstat(self._source).st_size - start) if length is None else length
        data, done = np.empty(length, np.uint8), 0  # torch's own are aligned, and so seldom fit where others were
        while done < length and (count := os.preadv(self._source, [data[done:].data], start + done)):
            done += count
        return data if done == length else data[:done]

    def _close(self) -> None:
        if self._file:
            self._file = ""
            os.close(self._source)


def read_part(file: Path, start: int = 0, length: int | None = None) -> Bytes:
    """As ``Parts.read``, of one file."""
    with Parts() as parts:
        return parts.read(str(file), start, length)

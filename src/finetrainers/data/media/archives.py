"""Media inside tar archives, read where they lie: nothing is unpacked, and no other member is looked at.

``tar:<reference of the archive>#<offset>:<size>/<name>`` says at which byte of the archive a member begins, how many it has,
and its name, which serves messages and the suffix only. The archive may itself be anything that a reference names.
"""

import io
import os
import time
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote_from_bytes

from finetrainers.data.media.blob import Blob, blob_of, register_scheme
from finetrainers.errors import DataError

TAR = "tar:"
OFFSET_DIGITS = 12
"""Digits of an offset, so that references in the order of their text are in the order of the archive, up to 1 TB."""
STAMP_SECONDS = 60.0
"""How long the stamp of an archive that is no local file is remembered: its members would ask for it one by one."""
BUFFER_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class TarMember(Blob):
    """A file in a tar archive."""

    def open(self) -> BinaryIO:
        container, (offset, size), _ = part(self.ref)
        return io.BufferedReader(Slice(blob_of(container).open(), offset, size), BUFFER_BYTES)

    def stamp(self) -> str:
        return container_stamp(part(self.ref)[0])


class Slice(io.RawIOBase):
    """Some bytes of an open file as a file of its own, which closes that file with itself."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        super().__init__()
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}, before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer cannot be sliced
        wanted = max(0, min(len(buffer), self._size - self._position))
        if wanted == 0:
            return 0
        self._file.seek(self._offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def member_ref(archive: str, offset: int, size: int, name: str) -> str:
    """Reference of a member by the bytes that it takes in the archive of this reference."""
    return f"{TAR}{archive}#{offset:0{OFFSET_DIGITS}d}:{size}/{escaped(name)}"


def part(ref: str) -> tuple[str, tuple[int, int], str]:
    """Part ``scheme:container#number:number/name`` into the container's reference, the numbers, and the escaped name.

    Raises:
        DataError: If it is not of this form.
    """
    container, _, place = ref.partition(":")[2].rpartition("#")
    numbers, _, name = place.partition("/")
    first, _, second = numbers.partition(":")
    if not (container and first.isdecimal() and second.isdecimal()):
        raise DataError(f"{ref}: no reference to something in a file; that is {TAR}FILE#OFFSET:SIZE/NAME, or of this form")
    return container, (int(first), int(second)), name


def escaped(name: str) -> str:
    """Write a name so that no part of a reference follows that looks like its own mark, and that it is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(name))
    return name.replace("%", "%25").replace("#", "%23")


def container_stamp(container: str) -> str:
    """Stamp of what holds media; that of one that is no local file is remembered for a while."""
    blob = blob_of(container)
    if blob.path is not None:
        return blob.stamp()
    now = time.monotonic()
    known = _stamps.get(container)
    if known is None or known[0] < now:
        known = _stamps[container] = (now + STAMP_SECONDS, blob.stamp())
    return known[1]


_stamps: dict[str, tuple[float, str]] = {}
"""When each is forgotten, and the stamp, by the reference."""

register_scheme(TAR.removesuffix(":"), TarMember)

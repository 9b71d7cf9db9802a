"""What a medium is read from, be it a file, a member of an archive or a cell of a table: a blob, named by a reference.

A reference is text: a path, or ``scheme:place`` for what is not a file of its own. It says where bytes are found; what they
are, their hash says. References are columns of tables: a blob is made of one when it is read.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from finetrainers.errors import DataError

SCHEME_END = ":"


@dataclass(frozen=True, slots=True)
class Blob(ABC):
    """The bytes of one medium; what reads them opens, and closes, a file of its own."""

    ref: str
    """The reference; names it in messages."""

    def __str__(self) -> str:
        return self.ref

    @abstractmethod
    def open(self) -> BinaryIO:
        """Open it for reading, from its start; the file can seek.

        Raises:
            OSError: If it cannot be read.
        """

    @abstractmethod
    def stamp(self) -> str:
        """Tell what changes when the bytes do, without reading them: such as size and times of a file, or its version.

        Raises:
            OSError: If there is no such thing.
        """

    @property
    def name(self) -> str:
        """Name whose suffix says what it is, such as ``crush.mp4``."""
        return PurePosixPath(self.ref).name

    @property
    def suffix(self) -> str:
        """Suffix of the name in lower case, such as ``.mp4``."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def path(self) -> Path | None:
        """The file that has these bytes and no others, for what reads files faster by their path; None if there is none."""
        return None


@dataclass(frozen=True, slots=True)
class LocalFile(Blob):
    """A file of this machine: its reference is its path, or a ``file:`` reference where that is not text."""

    @property
    def path(self) -> Path:
        return Path(local_path(self.ref))

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def stamp(self) -> str:
        stat = os.stat(local_path(self.ref))  # noqa: PTH116 - a string path costs a third of a Path, and there may be millions
        return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"  # a copy may keep a time of change, not of the inode


def local_path(ref: str) -> str:
    """Path of a file of this machine by its reference."""
    if not ref.startswith(FILE):
        return ref
    return os.fsdecode(unquote_to_bytes(ref.removeprefix(FILE)))


def ref_of(path: str | os.PathLike[str]) -> str:
    """Reference of a file of this machine: its path, unless that holds bytes that are no text."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return FILE + quote_from_bytes(os.fsencode(text))
    return text


FILE = "file:"
_schemes: dict[str, Callable[[str], Blob]] = {FILE.removesuffix(SCHEME_END): LocalFile}


def register_scheme(scheme: str, make: Callable[[str], Blob]) -> None:
    """Have references ``scheme:...`` made into blobs by ``make``, which is given the whole reference."""
    _schemes[scheme] = make


def blob_of(media: "Media") -> Blob:
    """Make of a reference, or of a path, what it stands for.

    Raises:
        DataError: If nothing is known to read such a reference.
    """
    if isinstance(media, Blob):
        return media
    if not isinstance(media, str):
        return LocalFile(ref_of(media))
    scheme, colon, _ = media.partition(SCHEME_END)
    if media.startswith("/") or not colon or not scheme.replace("+", "").isalnum():
        return LocalFile(media)
    make = _schemes.get(scheme)
    if make is None:
        raise DataError(
            f"{media}: nothing here reads {scheme}:; references begin with {', '.join(sorted(_schemes))}, or a /"
        )
    return make(media)


Media = str | os.PathLike[str] | Blob
"""What a medium may be given as: a reference, the path of a file, or the blob itself."""

"""What the operating system refuses, as one message with the path and the way out."""

import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from finetrainers.errors import StorageError

FULL = "make room there, or name another place"
CLOSED = "change its permissions, or name another place"
IN_THE_WAY = "something of that name is in the way; remove it, or name another place"
WAYS_OUT = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "raise the limit of the size of files (`ulimit -f`), or name another place",
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
    errno.EROFS: CLOSED,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EEXIST: IN_THE_WAY,
    errno.EISDIR: IN_THE_WAY,
    errno.ENOTEMPTY: IN_THE_WAY,
    errno.ENOENT: "name one that is there",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ENOLCK: "name another place, on a file system with locks",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


@contextmanager
def storage_errors(places: Mapping[str, Path] | None = None) -> Iterator[None]:
    """Raise what the operating system refuses as a StorageError.

    Args:
        places: Key of the configuration to the path that it names, so that the message can name the key.
    """
    try:
        yield
    except BrokenPipeError:  # nothing is refused: whoever reads our output has seen enough
        raise
    except OSError as error:
        raise StorageError(_message(error, places or {})) from error
    except sqlite3.Error as error:
        raise StorageError(f"a database of the cache cannot be used: {error}; name another cache.path") from error


def check_writable(key: str, directory: Path) -> None:
    """Refuse a folder that cannot be made, or written into.

    Raises:
        StorageError: Naming the key, and the folder that is in the way.
    """
    place = existing(directory)
    if not place.is_dir():
        raise StorageError(f"{key}: {place}: is a file where a folder is to be; remove it, or name another place")
    if not may(place, os.W_OK | os.X_OK):
        raise StorageError(f"{key}: {place}: may not be written into; {CLOSED}")


def may(place: Path, mode: int) -> bool:
    """Whether this process may do something with a file or folder."""
    return os.access(place, mode, effective_ids=os.access in os.supports_effective_ids)


def existing(directory: Path) -> Path:
    """Return the nearest of a folder and those that it lies in which is there."""
    return next(place for place in (directory, *directory.parents) if os.path.lexists(place))


def closed_folder(path: Path) -> Path | None:
    """Find the folder that refuses a path; None where it is the path itself.

    One that may not be entered, or the nearest that is there if it may not be written into.
    """
    above = [folder for folder in reversed(path.absolute().parents) if os.path.lexists(folder)]
    shut = next((folder for folder in above if not may(folder, os.X_OK)), None)
    if shut is None and (may(path, os.R_OK) or not os.path.lexists(path)) and not may(above[-1], os.W_OK):
        return above[-1]  # what may be read, or is not there yet, was to be written
    return shut


def _message(error: OSError, places: Mapping[str, Path]) -> str:
    """Name the key, if there is one, the path and the way out."""
    if error.errno is None:  # a library's own error, which says what there is to say
        return str(error)
    way_out = WAYS_OUT.get(error.errno, "see to it, and give the same command again")
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return f"a file or the output cannot be read or written: {error.strerror}; {way_out}"
    path = Path(os.fsdecode(error.filename))
    folder = closed_folder(path) if way_out == CLOSED else None
    reason = f"{error.strerror}{'' if folder is None else f' in the folder {folder}'}; {way_out}"
    keys = [key for key, place in places.items() if path.is_relative_to(place)]
    key = max(keys, key=lambda key: len(places[key].parts), default=None)
    return f"{path}: {reason}" if key is None else f"{key}: {path}: {reason}"

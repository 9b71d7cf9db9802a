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


def _message(error: OSError, places: Mapping[str, Path]) -> str:
    """Name the key, if there is one, the path and the way out."""
    if error.errno is None:  # a library's own error, which says what there is to say
        return str(error)
    reason = f"{error.strerror}; {WAYS_OUT.get(error.errno, 'see to it, and give the same command again')}"
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return f"a file or the output cannot be read or written: {reason}"
    path = Path(os.fsdecode(error.filename))
    keys = [key for key, place in places.items() if path.is_relative_to(place)]
    key = max(keys, key=lambda key: len(places[key].parts), default=None)
    return f"{path}: {reason}" if key is None else f"{key}: {path}: {reason}"

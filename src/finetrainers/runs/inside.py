"""Files of a run directory, and of no other place: what a link or a name leads out of it is not read."""

import os
from collections.abc import Iterator
from pathlib import Path

from finetrainers.errors import DataError


def inside(root: Path, name: str | os.PathLike[str]) -> Path:
    """Find a file or folder below a folder, which has to be resolved itself; it need not be there.

    Raises:
        DataError: If the name leads out of the folder, be it by ``..``, as an absolute path or by a link.
    """
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
        raise DataError(f"{root}: {os.fspath(name)!r} is no name of a file") from None
    if not path.is_relative_to(root):
        raise DataError(f"{root}: {os.fspath(name)!r} leads out of the folder")
    return path


def is_inside(root: Path, name: str | os.PathLike[str]) -> bool:
    """Whether a name leads to something in a folder, which has to be resolved itself."""
    try:
        return inside(root, name).exists()
    except (DataError, OSError):
        return False


def files_below(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of a folder and of those in it with their bytes, in no order.

    Left out are links, folders that cannot be read, and what goes away meanwhile, such as a temporary file.
    """
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            try:
                num_bytes = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            yield Path(entry.path), num_bytes

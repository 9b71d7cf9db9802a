"""Folders: which media lie in them, found without opening any."""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.blob import local_path, ref_of
from finetrainers.data.media.files import CONVERT, IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_media, why_unreadable
from finetrainers.errors import DataError
from finetrainers.files.marks import SYSTEM_FOLDERS, is_hidden_folder, is_no_data


def refuse(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed."""
    raise DataError(f"{error.filename}: the folder {why_unreadable(error)}") from error


def walk(
    folder: Path,
    others: Counter[str],
    without: Sequence[str] = (),
    *,
    on_error: Callable[[OSError], None] = refuse,
    left: Callable[[str, list[str]], None] | None = None,
) -> Iterator[str]:
    """Yield references of the media below a folder, through links too, but not of hidden ones.

    Nor of those in folders of systems, or that a run or a cache has made, unless that is the given one. Other files are
    counted by suffix.

    Args:
        folder: Where to begin.
        others: The count.
        without: Folders inside of it that are left out.
        on_error: Is told of each folder inside that cannot be listed; raises a DataError if nothing else is given.
        left: Is given each folder with the names of the files in it that are no media.
    """
    excluded = [Path(place).expanduser() for place in without]
    inside = {_identity(place) for place in excluded if place.is_dir()}
    seen = inside - {_identity(folder)}
    for name, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        if _identity(Path(name)) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(_identity(Path(name)))
        if Path(name) != folder and is_no_data(Path(name), files):
            others["folders of runs or caches"] += 1
            folders.clear()
            continue
        if systems := SYSTEM_FOLDERS.intersection(folders):
            others["folders of the system"] += len(systems)
        folders[:] = sorted(child for child in folders if not is_hidden_folder(child))
        shown = sorted(file for file in files if not file.startswith("."))
        for file in shown:
            if is_media(Path(file)):
                yield ref_of(f"{name.rstrip('/')}/{file}")
            else:
                others[Path(file).suffix] += 1
        if left is not None:
            left(name, shown)


def _identity(folder: Path) -> tuple[int, int]:
    """What is the same by whatever path the folder is reached."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def media_beside(media: pa.Array, folder: Path) -> list[str]:
    """All media in the folders of the listed ones and of the list itself."""
    folders = set(
        map(local_path, pc.unique(pc.replace_substring_regex(media, pattern="/[^/]*$", replacement="")).to_pylist())
    )
    return [file for name in sorted(folders | {str(folder)}) if os.path.isdir(name) for file in _media_in(name)]  # noqa: PTH112


def _media_in(folder: str) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except OSError:  # its files may be read nevertheless: each is looked at
        return
    with entries:
        yield from (ref_of(e.path) for e in entries if not e.name.startswith(".") and is_media(Path(e.name)) and e.is_file())


def nearest(path: Path) -> str:
    """Say what may have been meant by a path that is not there."""
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, [sibling.name for sibling in path.parent.iterdir()], n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (from {Path.cwd()})"


def how_to_convert(suffix: str) -> str:
    """Say what to do with media of a suffix that is known and cannot be read; nothing of other files."""
    return f"; convert it, {CONVERT[suffix.lower()]}" if suffix.lower() in CONVERT else ""


def suffixes() -> str:
    """Name the suffixes of media."""
    return " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)

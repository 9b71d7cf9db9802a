"""Folders: which media lie in them, found without opening any."""

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_media
from finetrainers.files.marks import is_no_data


def walk(folder: Path, others: Counter[str], without: Sequence[str] = ()) -> Iterator[str]:
    """Yield the media below a folder, through links too, but not hidden ones, nor those in folders of it ``without`` which.

    Nor those in folders that a run or a cache has made, unless that is the given one. Other files are counted by suffix.
    """
    excluded = [Path(place).expanduser() for place in without]
    inside = {_identity(place) for place in excluded if place.is_dir()}
    seen = inside - {_identity(folder)}
    for name, folders, files in os.walk(folder, followlinks=True):
        if _identity(Path(name)) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(_identity(Path(name)))
        if Path(name) != folder and is_no_data(Path(name), files):
            others["folders of runs or caches"] += 1
            folders.clear()
            continue
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        for file in sorted(file for file in files if not file.startswith(".")):
            if is_media(Path(file)):
                yield str(Path(name) / file)
            else:
                others[Path(file).suffix] += 1


def _identity(folder: Path) -> tuple[int, int]:
    """What is the same by whatever path the folder is reached."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def media_beside(media: pa.Array, folder: Path) -> list[str]:
    """All media in the folders of the listed ones and of the list itself."""
    folders = set(pc.unique(pc.replace_substring_regex(media, pattern="/[^/]*$", replacement="")).to_pylist())
    return [file for name in sorted(folders | {str(folder)}) if Path(name).is_dir() for file in _media_in(name)]


def _media_in(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (e.path for e in entries if not e.name.startswith(".") and is_media(Path(e.name)) and e.is_file())


def nearest(path: Path) -> str:
    """Say what may have been meant by a path that is not there."""
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, [sibling.name for sibling in path.parent.iterdir()], n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (from {Path.cwd()})"


def suffixes() -> str:
    """Name the suffixes of media."""
    return " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)

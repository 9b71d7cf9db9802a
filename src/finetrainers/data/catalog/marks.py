"""Whether folders are as they were: one hash of what is in them, made without opening a file."""

import hashlib
import os
from array import array
from collections.abc import Iterable
from os.path import splitext
from pathlib import Path
from typing import Literal

from finetrainers.data.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from finetrainers.files.marks import CACHE_TAG, RUN_MARK, is_no_data

Recheck = Literal["files", "folders"]
DIGEST_BYTES = 16
NO_FILE = (0, 0, 0, 0)
"""Facts of a link that leads nowhere."""


class Marks:
    """A hash of folders, made as they are added.

    With ``files`` it is of the size, times and inode of each file; with ``folders`` the files of single items (media, and
    what has the name of one but for the suffix) count by their names alone. Hidden files do not count, nor do folders of
    runs and caches below one that is added.
    """

    def __init__(self, recheck: Recheck) -> None:
        self._recheck = recheck
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._seen: set[tuple[int, int]] = set()
        self._folders: set[str] = set()

    def hexdigest(self) -> str:
        """The hash of all that was added."""
        return self._hash.hexdigest()

    def add_file(self, path: Path) -> None:
        """Add one file."""
        try:
            stat = path.stat()
            facts = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        except OSError:
            facts = NO_FILE
        self._update(str(path), [], array("q", facts))

    def add_tree(self, folder: Path) -> None:
        """Add a folder and all below it, through links too."""
        left = [str(folder)]
        while left:
            here = left.pop()
            left += sorted(self._add(here, is_top=here == str(folder)), reverse=True)

    def add_folders(self, folders: Iterable[str]) -> None:
        """Add folders without those below them; those that are in already are left out."""
        for folder in sorted(set(folders) - self._folders):
            self._add(folder, is_top=True)

    def _add(self, folder: str, *, is_top: bool) -> list[str]:
        """Add one folder; return those in it."""
        try:
            own = os.stat(folder)  # noqa: PTH116 - as below: a string path costs a third of a Path
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            self._update(f"{folder}: {error.errno}", [], array("q"))
            return []
        marks = [entry.name for entry in entries if entry.name in (RUN_MARK, CACHE_TAG)]
        if (own.st_dev, own.st_ino) in self._seen or (not is_top and is_no_data(Path(folder), marks)):
            return []
        self._seen.add((own.st_dev, own.st_ino))
        self._folders.add(folder)
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry.path for entry in entries if _is_folder(entry)]
        if self._recheck == "files":
            facts = _facts_of(entries)
        else:
            facts = _facts_of(_but_items(entries))
            facts.extend((own.st_mtime_ns, own.st_ctime_ns, own.st_ino))
        self._update(folder, [entry.name for entry in entries], facts)
        return folders

    def _update(self, folder: str, names: list[str], facts: "array[int]") -> None:
        for part in ("\0".join([folder, *names]).encode(errors="surrogateescape"), facts.tobytes()):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _but_items(entries: "list[os.DirEntry[str]]") -> "list[os.DirEntry[str]]":
    """Leave out media, and what has the name of one but for the suffix."""
    parts = [splitext(entry.name) for entry in entries]  # noqa: PTH122 - there may be millions
    media = {stem for stem, suffix in parts if suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES}
    return [entry for entry, (stem, _) in zip(entries, parts, strict=True) if stem not in media]


def _facts_of(entries: "Iterable[os.DirEntry[str]]") -> "array[int]":
    """Size, time of change, that of the inode, and its number: whatever is done to a file, one of them is another."""
    facts = array("q")
    for entry in entries:
        try:
            if not entry.is_dir():
                stat = entry.stat()
                facts.extend((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
        except OSError:  # a link that leads nowhere
            facts.extend(NO_FILE)
    return facts

"""Whether folders are as they were: one hash of what is in them, made without opening a file."""

import hashlib
import os
from array import array
from collections.abc import Iterable
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Literal

from finetrainers.data.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from finetrainers.files.marks import SYSTEM_FOLDERS, is_hidden_folder, is_no_data

Recheck = Literal["files", "folders"]
DIGEST_BYTES = 16
MEDIA_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
FACTS = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
NO_FILE = (0, 0, 0, 0)
"""Facts of a link that leads nowhere."""


class Marks:
    """A hash of folders, made as they are added.

    With ``files`` it is of the size, times and inode of each file; with ``folders`` the files of single items (media, and
    what has the name of one but for the suffix) count by their names alone. Hidden files do not count, nor do folders of
    systems, runs and caches below one that is added.
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
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return self._add_open(folder, handle, is_top=is_top)
            finally:
                os.close(handle)
        except OSError as error:
            self._update(f"{folder}: {error.errno}", [], array("q"))
            return []

    def _add_open(self, folder: str, handle: int, *, is_top: bool) -> list[str]:
        """Add one folder that is open."""
        own = os.fstat(handle)
        names, folders = _names_in(handle)
        if (own.st_dev, own.st_ino) in self._seen or (not is_top and is_no_data(Path(folder), names)):
            return []
        self._seen.add((own.st_dev, own.st_ino))
        self._folders.add(folder)
        names = [name for name in names if name[0] != "." and name not in SYSTEM_FOLDERS]
        files = [name for name in names if name not in folders] if folders else names
        if self._recheck == "files":
            facts = _facts_of(files, handle)
        else:
            facts = _facts_of(_but_items(files), handle)
            facts.extend((own.st_mtime_ns, own.st_ctime_ns, own.st_ino))
        self._update(folder, names, facts)
        return [f"{folder.rstrip('/')}/{name}" for name in names if name in folders]

    def _update(self, folder: str, names: list[str], facts: "array[int]") -> None:
        for part in ("\0".join([folder, *names]).encode(errors="surrogateescape"), facts.tobytes()):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)


def _names_in(folder: int) -> tuple[list[str], set[str]]:
    """Names in an open folder, in the order in which it has them; and those of folders that are not hidden."""
    names, folders = [], set()
    with os.scandir(folder) as found:
        for entry in found:  # there may be millions
            names.append(entry.name)
            try:
                if entry.is_dir() and not is_hidden_folder(entry.name):
                    folders.add(entry.name)
            except OSError:  # a link to itself
                pass
    return names, folders


def _but_items(names: list[str]) -> list[str]:
    """Leave out media, and what has the name of one but for the suffix."""
    parts = [name.rpartition(".")[::2] if "." in name else (name, "") for name in names]  # there may be millions
    media = {stem for stem, suffix in parts if suffix and f".{suffix}".lower() in MEDIA_SUFFIXES}
    return [name for name, (stem, _) in zip(names, parts, strict=True) if stem not in media]


def _facts_of(names: Iterable[str], folder: int) -> "array[int]":
    """Size, time of change, that of the inode, and its number: whatever is done to a file, one of them is another.

    By names in an open folder, which takes half of the time that paths take.
    """
    facts, left = array("q"), iter(names)
    while True:
        try:
            facts.extend(chain.from_iterable(map(FACTS, map(partial(os.stat, dir_fd=folder), left))))
        except OSError:  # a link that leads nowhere
            facts.extend(NO_FILE)
        else:
            return facts

"""Where a data set lies: what ``data.path`` names. No media is opened here."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetrainers.data.media.blob import FILE, Blob, blob_of, local_path, ref_of
from finetrainers.data.media.remote import HUB, is_remote
from finetrainers.data.sources.folders import nearest
from finetrainers.data.sources.patterns import files_of, is_pattern
from finetrainers.data.sources.texts import read_text, why_no_text
from finetrainers.data.sources.unparsed import refuse_others
from finetrainers.errors import DataError
from finetrainers.files.marks import is_hidden_folder, is_no_data


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of this machine, or one file, or those files of a folder that a pattern names."""

    path: Path
    """Absolute."""
    chosen: tuple[str, ...] = ()
    """Names of the files of a pattern in the folder; nothing else there belongs to it."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_file(self) -> bool:
        """Whether it is one file, that lists items or holds them, and not a folder."""
        return self.path.is_file()

    @property
    def suffix(self) -> str:
        """Suffix of its name in lower case."""
        return self.path.suffix.lower()

    @property
    def folder(self) -> Path:
        """The folder, or that of the file: what names in lists are relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def has(self, name: str) -> bool:
        """Whether there is such a file in the folder itself."""
        return (self.folder / name).is_file() and (not self.chosen or name in self.chosen)

    def top(self) -> list[str]:
        """Names of the files of the folder itself, sorted, without hidden ones; of one file, its name."""
        if self.is_file or self.chosen:
            return list(self.chosen) or [self.path.name]
        return sorted(file.name for file in self.path.iterdir() if not file.name.startswith(".") and file.is_file())

    def tree(self, suffixes: tuple[str, ...]) -> list[str]:
        """Names, relative to the folder, of the files with one of these suffixes in it and all below it, sorted.

        Not those that are hidden, nor those that a run or a cache has made.
        """
        if self.is_file or self.chosen:
            return [name for name in self.top() if name.lower().endswith(suffixes)]
        found: list[str] = []
        for folder, files in self._walk(lambda _: None):  # ``closed`` tells of them
            names = [name for name in files if name.lower().endswith(suffixes) and not name.startswith(".")]
            found += names if folder == "." else [f"{folder}/{name}" for name in names]
        return sorted(found)

    def closed(self) -> list[OSError]:
        """Why folders below this one cannot be listed; ``tree`` has nothing of them."""
        found: list[OSError] = []
        if not self.is_file and not self.chosen:
            for _ in self._walk(found.append):
                pass
        return found

    def _walk(self, on_error: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder, relative to this one, with its files."""
        seen: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(self.path, onerror=on_error, followlinks=True):
            stat = os.stat(folder)  # noqa: PTH116 - a string path costs less, and there may be many
            if (stat.st_dev, stat.st_ino) in seen:  # a link back up
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            relative = os.path.relpath(folder, self.path)
            if relative != "." and is_no_data(Path(folder), files):
                folders.clear()
                continue
            folders[:] = [name for name in folders if not is_hidden_folder(name)]
            yield relative, files

    def inside(self, folder: str) -> "Place":
        """Return a folder of this one as a place of its own."""
        return self if folder == "." else place_of(self.ref(folder))

    def ref(self, name: str) -> str:
        """Reference of a file by its name in the folder."""
        return ref_of(self.folder / name)

    def blob(self, name: str) -> Blob:
        """Return a file by its name in the folder."""
        return blob_of(self.ref(name))

    def blobs(self, suffixes: tuple[str, ...]) -> Iterator[Blob]:
        """Yield those of the ``top`` files that have one of these suffixes, sorted by name."""
        yield from (self.blob(name) for name in self.top() if name.lower().endswith(suffixes))

    @property
    def is_remote(self) -> bool:
        """Whether it is of another machine; then ``path`` tells names only, and ``root`` where it is."""
        return False

    @property
    def root(self) -> str:
        """Reference of the folder, without a slash at its end."""
        return ref_of(self.folder)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield the path of a file of the folder, or of a copy of it, for what reads files by their paths."""
        yield self.folder / name

    def read_text(self, name: str) -> str:
        """Read a text of the folder.

        Raises:
            DataError: If it is not UTF-8.
        """
        try:
            with self.file(name) as path:
                refuse_others(path)
                return read_text(path)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.ref(name)}: {why_no_text(error)}") from error


def place_of(path: str) -> Place:
    """Find what ``data.path`` names.

    Raises:
        DataError: If there is no such thing.
    """
    if is_remote(path):
        from finetrainers.data.sources.hub import find_hub_place  # these are places, and so need this file
        from finetrainers.data.sources.remote_place import find_remote_place

        return find_hub_place(path) if path.startswith(HUB) else find_remote_place(path)
    path = local_path(path) if path.startswith(f"{FILE}/") else path
    place = Place(Path(path).expanduser().absolute())
    if is_pattern(path) and not place.path.exists():
        return Place(*files_of(place.path))
    if not place.path.is_dir() and not place.is_file:
        is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None
        hub = f"; a repository of the Hub is hf://datasets/{path}" if is_id else ""
        raise DataError(f"data.path: there is no file or folder {path!r}{nearest(place.path)}{hub}")
    return place

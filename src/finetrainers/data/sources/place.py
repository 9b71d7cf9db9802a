"""Where a data set lies: what ``data.path`` names. No media is opened here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetrainers.data.media.blob import Blob, blob_of, ref_of
from finetrainers.data.sources.folders import nearest
from finetrainers.errors import DataError


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of this machine, or one file."""

    path: Path
    """Absolute."""

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
        return (self.folder / name).is_file()

    def top(self) -> list[str]:
        """Names of the files of the folder itself, sorted, without hidden ones; of one file, its name."""
        if self.is_file:
            return [self.path.name]
        return sorted(file.name for file in self.path.iterdir() if not file.name.startswith(".") and file.is_file())

    def ref(self, name: str) -> str:
        """Reference of a file by its name in the folder."""
        return ref_of(self.folder / name)

    def blob(self, name: str) -> Blob:
        """Return a file by its name in the folder."""
        return blob_of(self.ref(name))

    def blobs(self, suffixes: tuple[str, ...]) -> Iterator[Blob]:
        """Yield those of the ``top`` files that have one of these suffixes, sorted by name."""
        yield from (self.blob(name) for name in self.top() if name.lower().endswith(suffixes))


def place_of(path: str) -> Place:
    """Find what ``data.path`` names.

    Raises:
        DataError: If there is no such thing.
    """
    place = Place(Path(path).expanduser().absolute())
    if not place.path.is_dir() and not place.is_file:
        raise DataError(f"data.path: there is no file or folder {path!r}{nearest(place.path)}")
    return place

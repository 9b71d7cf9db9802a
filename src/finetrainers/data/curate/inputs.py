"""Which raw media there are, in an order that stays."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from finetrainers.data.media.blob import local_path
from finetrainers.data.sources.folders import nearest, suffixes, walk
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """All raw media."""

    paths: pa.Array
    """[N] as bytes: not all names are text."""
    folders: tuple[Path, ...]
    starts: tuple[int, ...]
    """Where each folder's media begin."""
    digest: str
    """Hash of all paths."""
    others: dict[str, int]
    """Files that are no media, by suffix."""

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Of a medium."""
        return Path(os.fsdecode(self.paths[index].as_py()))

    def origin(self, index: int) -> str:
        """Name a medium by its path in its folder, as text."""
        number = max(place for place, start in enumerate(self.starts) if start <= index)
        return os.fsencode(self.path(index).relative_to(self.folders[number])).decode("utf-8", "backslashreplace")


def list_inputs(folders: Sequence[str], output: Path) -> Inputs:
    """List all media below folders, none of which may hold the output.

    Raises:
        ConfigError: If a folder is not there, or holds no media, or the output is in it.
    """
    others: Counter[str] = Counter()
    found = [_folder(folder, output) for folder in folders]
    digest, starts, arrays, count = hashlib.blake2b(digest_size=16), [], [], 0
    for folder in found:
        starts.append(count)
        arrays.append(pa.array(_hashed(walk(folder, others), digest), pa.large_binary()))
        count += len(arrays[-1])
        if len(arrays[-1]) == 0:
            raise ConfigError(f"input: there are no images or videos in {folder} ({suffixes()})")
    return Inputs(pa.concat_arrays(arrays), tuple(found), tuple(starts), digest.hexdigest(), dict(others))


def _folder(name: str, output: Path) -> Path:
    folder = Path(name).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"input: there is no folder {name!r}{nearest(folder)}")
    if output.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"output.path: {output} lies in the input {name!r}; name a folder next to it")
    return folder


def _hashed(files: Iterator[str], digest: "hashlib.blake2b") -> Iterator[bytes]:
    for file in files:
        name = os.fsencode(local_path(file))
        digest.update(name + b"\0")
        yield name

"""One data set after a look at each of its files: arrays, so that ten million samples stay small."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetrainers.config import DataConfig
from finetrainers.data.catalog.pictures import Pictures
from finetrainers.data.sources.items import Problem

Shape = tuple[int | bytes, ...]
"""Number of a bucket, and the sizes of the pictures of each stream that has a size of its own, as ``Pictures.shapes``."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set: its items, and their samples."""

    config: DataConfig
    table: pa.Table
    """One row an item: its media (path), its captions (list of text), and a path for each stream in files of its own, or a
    list of paths for one that may have several."""
    digests: Mapping[str, NDArray[np.uint8]]
    """[items, DIGEST_BYTES] hash of the bytes of each file by stream: the media first, then those in files of their own."""
    frames: Mapping[str, NDArray[np.int64]]
    """[items] frames of each file that are left after resampling, by the same streams."""
    fps: NDArray[np.float64]
    """[items] frames per second that each is resampled to, as ``resampled_fps`` says; 0 where its own are taken."""
    item: NDArray[np.int64]
    """[samples] row of each sample's item."""
    chunk: NDArray[np.int32]
    """[samples] number of the window."""
    bucket: NDArray[np.int32]
    """[samples] index into the catalog's buckets."""
    num_captions: NDArray[np.int64]
    """[items]."""
    problems: tuple[Problem, ...]
    """Items that cannot be used."""
    cropped: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))
    """[items] part of the picture of each that the crop to its bucket removes; 0 where it has none."""
    unlisted: int = 0
    """Media in the folders that no list or metadata file names."""
    pictures: Mapping[str, Pictures] = field(default_factory=dict)
    """What is known of the files of streams that have a size of their own."""
    layout: str = ""
    """Name of the layout that was found."""
    why: str = ""
    """By what it was found, and which part of it is used."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What is not part of any item, by what it is, and how much of it there is."""

    def path(self, sample: int, name: str) -> str:
        """Path of a sample's file of a stream."""
        path: str = self.table[name][int(self.item[sample])].as_py()
        return path

    def paths(self, sample: int, name: str) -> list[str]:
        """Paths of a sample's files of a stream of which it may have several."""
        found: str | list[str] = self.table[name][int(self.item[sample])].as_py()
        return [found] if isinstance(found, str) else found

    def digest(self, sample: int, name: str) -> str:
        """Hash of the bytes of that file, in hexadecimal digits."""
        digest: bytes = self.digests[name][self.item[sample]].tobytes()
        return digest.hex()

    def has_content(self, digests: NDArray[np.void]) -> NDArray[np.bool_]:
        """Tell for each item whether a file of it is one of these contents."""
        is_of = np.zeros(len(self.table), np.bool_)
        for own in self.digests.values():
            is_of |= np.isin(as_scalars(own), digests)
        for pictures in self.pictures.values():
            is_of[pictures.owners[np.isin(as_scalars(pictures.digests), digests)]] = True
        return is_of

    def shapes(self) -> tuple[list[Shape], NDArray[np.int64]]:
        """List what the samples of one optimizer step have to share, each once, and tell which each sample has."""
        code, found = self.bucket.astype(np.int64), []
        for pictures in self.pictures.values():
            values, codes = pictures.shapes()
            found.append((values, codes[self.item]))
            code = code * max(1, len(values)) + found[-1][1]
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        shapes = [(int(self.bucket[i]), *(values[codes[i]] for values, codes in found)) for i in first.tolist()]
        return shapes, index

    def only(self, chosen: NDArray[np.bool_]) -> "Dataset":
        """Return the data set with the chosen of its samples."""
        return replace(self, item=self.item[chosen], chunk=self.chunk[chosen], bucket=self.bucket[chosen])


def as_scalars(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """View hashes [N, DIGEST_BYTES] as N values that can be compared."""
    return np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1])))[:, 0]

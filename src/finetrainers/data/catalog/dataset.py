"""One data set after a look at each of its files: arrays, so that ten million samples stay small."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetrainers.config import DataConfig
from finetrainers.data.sources.items import Problem


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set: its items, and their samples."""

    config: DataConfig
    table: pa.Table
    """One row an item: its media (path), its captions (list of text), and a path for each stream in files of its own."""
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
    unlisted: int = 0
    """Media in the folders that no list or metadata file names."""

    def path(self, sample: int, name: str) -> str:
        """Path of a sample's file of a stream."""
        path: str = self.table[name][int(self.item[sample])].as_py()
        return path

    def digest(self, sample: int, name: str) -> str:
        """Hash of the bytes of that file, in hexadecimal digits."""
        digest: bytes = self.digests[name][self.item[sample]].tobytes()
        return digest.hex()

    def only(self, chosen: NDArray[np.bool_]) -> "Dataset":
        """Return the data set with the chosen of its samples."""
        return replace(self, item=self.item[chosen], chunk=self.chunk[chosen], bucket=self.bucket[chosen])

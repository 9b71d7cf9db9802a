"""One data set after a look at each of its files: arrays, so that ten million samples stay small."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetrainers.config import DataConfig
from finetrainers.data.sources.items import Problem


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set: its items, and their samples."""

    config: DataConfig
    table: pa.Table
    """Columns media (path), captions (list of text) and, where items have controls, control (path); one row an item."""
    digests: NDArray[np.uint8]
    """[items, DIGEST_BYTES] hash of each item's bytes."""
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
    control_digests: NDArray[np.uint8] | None = None
    """[items, DIGEST_BYTES] hash of the bytes of each item's control; None where items have none."""
    control_frames: NDArray[np.int64] | None = None
    """[items] frames of each control that are left after resampling; None where items have none."""

    def only(self, chosen: NDArray[np.bool_]) -> "DataSet":
        """Return the data set with the chosen of its samples."""
        return replace(self, item=self.item[chosen], chunk=self.chunk[chosen], bucket=self.bucket[chosen])

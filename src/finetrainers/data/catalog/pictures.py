"""Pictures that have a size of their own, of which an item may have several: which of the possible sizes each is given.

Shape letters: N items of a data set, M pictures of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.config import Bucket
from finetrainers.data.catalog.buckets import assign_buckets
from finetrainers.data.catalog.probe import Facts, Look
from finetrainers.data.media.view import View
from finetrainers.data.sources.beside import about_file
from finetrainers.data.sources.items import Problem
from finetrainers.data.streams import MEDIA, Stream

ANY_UPSCALE = 1e6
"""Largest factor by which a picture may be enlarged to fill its size: all of them may."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What is known of the pictures of one stream: flat arrays, since items may have different numbers of them."""

    sizes: tuple[Bucket, ...]
    """The possible ones."""
    offsets: NDArray[np.int64]
    """[N + 1]: item n has the pictures ``offsets[n]`` .. ``offsets[n + 1]``."""
    digests: NDArray[np.uint8]
    """[M, DIGEST_BYTES] hash of each file's bytes."""
    size: NDArray[np.uint16]
    """[M] index into the sizes; 0 for what cannot be used."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pictures of each item [N]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Item of each picture [M]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def of(self, item: int) -> range:
        """Numbers of the pictures of an item."""
        return range(int(self.offsets[item]), int(self.offsets[item + 1]))

    def digest(self, picture: int) -> str:
        """Hash of the bytes of a picture, in hexadecimal digits."""
        return bytes(self.digests[picture]).hex()

    def view(self, picture: int) -> View:
        """Show a picture at its size."""
        return picture_view(self.sizes[self.size[picture]])

    def shapes(self) -> tuple[list[bytes], NDArray[np.int64]]:
        """List what items have, as the numbers of the sizes of their pictures in order, and tell which each item [N] has."""
        width = np.dtype(">u2")  # so that bytes are in the order of the numbers
        offsets, sizes = self.offsets * width.itemsize, np.ascontiguousarray(self.size, width)
        buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(sizes)]
        items = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers).dictionary_encode()
        return items.dictionary.to_pylist(), items.indices.to_numpy().astype(np.int64)


def nearest_sizes(height: NDArray[np.integer], width: NDArray[np.integer], sizes: Sequence[Bucket]) -> NDArray[np.int32]:
    """Choose for pictures [M] the sizes of the nearest proportions, by index; -1 for what has no height or width."""
    frames = np.ones(len(height), np.int64)
    return assign_buckets(frames, height, width, buckets=sizes, max_upscale=ANY_UPSCALE)


def picture_view(size: Bucket) -> View:
    """Show a picture as media are shown by default: scaled to cover the size, and cut to it around the middle."""
    return View(*size)


def probe_pictures(
    table: pa.Table, media: Facts, streams: Sequence[Stream], look: Look
) -> tuple[dict[str, Pictures], list[Problem]]:
    """Look at each picture once; items [N] of which one cannot be used lose their ``is_good``, and a problem says why."""
    pictures: dict[str, Pictures] = {}
    problems: list[Problem] = []
    for stream in streams:
        offsets, files = _flat(table[stream.name])
        facts, unusable = look.each(files)
        size = nearest_sizes(facts["height"], facts["width"], stream.sizes)
        own = Pictures(stream.sizes, offsets, facts["digest"], np.maximum(size, 0).astype(np.uint16))
        is_still = (facts["num_frames"] == 1) & (facts["fps"] == 0)
        owners, wrong = own.owners, dict[int, dict[str, None]]()
        for picture in np.flatnonzero(media["is_good"][owners] & (~facts["is_good"] | ~is_still)).tolist():
            path = files[picture].as_py()
            reason = about_file(stream.name, path, unusable.get(path) or _about_video(facts[picture]))
            wrong.setdefault(int(owners[picture]), {})[reason] = None
        for row, reasons in wrong.items():
            problems.append(Problem(table[MEDIA.name][row].as_py(), "; ".join(reasons)))
            media["is_good"][row] = False
        pictures[stream.name] = own
    return pictures, problems


def _about_video(fact: np.void) -> str:
    count = int(fact["num_frames"])
    frames = "1 frame" if count == 1 else f"{count} frames"
    return f"is a video of {frames}, where an image is needed; save one of its frames as an image"


def _flat(files: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets [N + 1] and paths [M] of a column of paths, or of lists of them."""
    column = files.combine_chunks()
    if not pa.types.is_large_list(column.type):
        return np.arange(len(column) + 1), column
    return np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())]), pc.list_flatten(column)

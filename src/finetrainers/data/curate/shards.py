"""Finished items as tar shards or Parquet files: each is written whole as soon as it is full, and known by its place.

Which items a shard holds follows from their sizes and order alone, so that a second process makes the same shards.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetrainers.data.curate.rows import Row
from finetrainers.files.whole import whole_file

MB = 10**6
GROUP_BYTES = 32 * MB
"""Media of a row group of Parquet, about: what a reader has to hold."""


class Shards:
    """Collects items, and writes a shard when they are enough."""

    def __init__(self, output: Path, staged: Path, *, kind: str, max_bytes: int) -> None:
        self._output = output
        self._staged = staged
        self._write, self._suffix = WRITERS[kind]
        self._max_bytes = max_bytes
        self._rows: list[Row] = []
        self._num_bytes = self._number = 0

    def add(self, row: Row, num_bytes: int) -> None:
        """Take an item, whose file lies among the staged ones unless its shard is written."""
        if self._rows and self._num_bytes + num_bytes > self._max_bytes:
            self.close()
        self._rows.append(row)
        self._num_bytes += num_bytes

    def close(self) -> None:
        """Write the shard of what has been collected, unless an earlier process has; its staged files go."""
        if not self._rows:
            return
        file = self._output / f"{self._number:06d}{self._suffix}"
        if not file.exists():
            self._write_whole(file)
        for row in self._rows:
            (self._staged / row["file_name"]).unlink(missing_ok=True)
        self._rows, self._num_bytes, self._number = [], 0, self._number + 1

    def is_written(self) -> bool:
        """Whether the shard that the next item goes to is there, so that it needs no staged file."""
        return (self._output / f"{self._number:06d}{self._suffix}").exists()

    def _write_whole(self, file: Path) -> None:
        with whole_file(file) as temporary:
            self._write(temporary, self._rows, self._staged)


def write_tar(file: Path, rows: Sequence[Row], staged: Path) -> None:
    """Write a WebDataset shard: of each item its media, caption (.txt) and the rest (.json), under one key."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows:
            media = staged / row["file_name"]
            key = media.stem
            with media.open("rb") as data:
                entry = _entry(key + media.suffix, media.stat().st_size)
                tar.addfile(entry, data)
            texts = {".txt": row["caption"], ".json": json.dumps(_facts(row), ensure_ascii=False)}
            for suffix, text in texts.items():
                if text is not None:
                    data_of = str(text).encode("utf-8", "backslashreplace")
                    tar.addfile(_entry(key + suffix, len(data_of)), io.BytesIO(data_of))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """Make an entry without times and owners, which would differ from run to run."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


def _facts(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "file_name"}


def write_parquet(file: Path, rows: Sequence[Row], staged: Path) -> None:
    """Write a Parquet file with a column ``media`` of {bytes, path}, the caption, and a column for each of the rest."""
    schema = _schema(rows[0])
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        group: list[Row] = []
        num_bytes = 0
        for row in rows:
            media = staged / row["file_name"]
            group.append({"media": {"bytes": media.read_bytes(), "path": media.name}, **_facts(row)})
            num_bytes += media.stat().st_size
            if num_bytes >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, num_bytes = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


def _schema(row: Row) -> pa.Schema:
    """Types of the columns: whole numbers by name, text by name, and all others numbers."""
    kinds = {"caption": pa.large_string(), "origin": pa.large_string()}
    kinds |= dict.fromkeys(("frames", "height", "width", "origin_start", "origin_stop"), pa.int64())
    media = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    return pa.schema([("media", media), *((name, kinds.get(name, pa.float64())) for name in _facts(row))])


WRITERS: dict[str, tuple[Callable[[Path, Sequence[Row], Path], None], str]] = {
    "webdataset": (write_tar, ".tar"),
    "parquet": (write_parquet, ".parquet"),
}
"""How a shard is written, and its suffix, by the format's name."""

"""Media inside the cells of Parquet and Arrow tables, which are bytes, or ``{bytes, path}`` as ``datasets`` writes them.

``parquet:<reference of the table>#<row group>:<row>/<column>/<name>``, or ``arrow:`` with the number of the record batch.
The rows of a group are read in order and once, however many media are asked for one after the other.
"""

import io
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from finetrainers.data.media.archives import container_stamp, escaped, part
from finetrainers.data.media.blob import Blob, blob_of, register_scheme
from finetrainers.data.media.sniff import HEAD_BYTES, suffix_of
from finetrainers.errors import DataError

PARQUET, ARROW = "parquet:", "arrow:"
GROUP_DIGITS, ROW_DIGITS = 6, 9
"""Digits of the numbers, so that references in the order of their text are in the order of the table."""
KEPT_TABLES = 4
"""Columns of row groups, or Arrow files, that a process has open: an item may have several."""
KEPT_BYTES = 128 << 20
"""Bytes that are kept of each row group: workers do not ask in the very order of the rows."""
BATCH_BYTES = 8 << 20
"""Bytes that are read of a row group at a time, about."""


@dataclass(frozen=True, slots=True)
class Cell(Blob):
    """A cell of a table."""

    def open(self) -> BinaryIO:
        container, (group, row), name = part(self.ref)
        column = unquote(name.partition("/")[0])
        try:
            data = _read(self.ref.partition(":")[0] + ":", container, column, (group, row))
        except (pa.ArrowException, LookupError, ValueError) as error:
            raise DataError(f"{self.ref}: cannot be read: {error}") from error
        if data is None:
            raise DataError(f"{self.ref}: the cell is empty (null)")
        if not data:
            raise DataError(f"{self.ref}: the cell is empty (zero bytes)")
        return io.BytesIO(data)

    def stamp(self) -> str:
        return container_stamp(part(self.ref)[0])

    @property
    def suffix(self) -> str:
        """Suffix of the name; of what has none, that of its first bytes."""
        named = Blob.suffix.fget(self)  # type: ignore[attr-defined]  # super() knows no class with slots
        if named:
            return str(named)
        with self.open() as file:
            return suffix_of(file.read(HEAD_BYTES))


def cell_refs(scheme: str, container: str, column: str, *, group: int, names: list[str]) -> list[str]:
    """References of the cells of a column in a row group or batch, each with a name of its own, or an empty one."""
    start = f"{scheme}{container}#{group:0{GROUP_DIGITS}d}"
    end = escaped(column).replace("/", "%2F")
    return [f"{start}:{row:0{ROW_DIGITS}d}/{end}/{escaped(name)}" for row, name in enumerate(names)]


class _Source(Protocol):
    """An open table, read forward."""

    def cell(self, group: int, row: int) -> bytes | None: ...
    def close(self) -> None: ...


def _read(scheme: str, container: str, column: str, place: tuple[int, int]) -> bytes | None:
    """Read one cell; None if it is null."""
    key = (scheme, container, container_stamp(container), column, place[0] if scheme == PARQUET else -1)
    with _lock:
        source = _open_sources.pop(key, None)
        if source is None:
            while len(_open_sources) >= KEPT_TABLES:
                _open_sources.popitem(last=False)[1].close()
            source = _ParquetColumn(container, column, place[0]) if scheme == PARQUET else _ArrowFile(container, column)
        _open_sources[key] = source
        try:
            return source.cell(*place)
        except BaseException:
            _open_sources.pop(key).close()
            raise


_lock = threading.Lock()
_open_sources: OrderedDict[tuple[str, str, str, str, int], _Source] = OrderedDict()


class _ParquetColumn:
    """One column of one row group: the last KEPT_BYTES of it that were read."""

    def __init__(self, container: str, column: str, group: int) -> None:
        self._handle = blob_of(container).open()
        try:
            self._file = pyarrow.parquet.ParquetFile(self._handle, pre_buffer=False, buffer_size=1 << 16)
            is_struct = pa.types.is_struct(self._file.schema_arrow.field(column).type)
        except BaseException:
            self._handle.close()
            raise
        self._leaf, self._group = f"{column}.bytes" if is_struct else column, group
        self._rewind()

    def cell(self, group: int, row: int) -> bytes | None:
        if self._kept and row < self._kept[0][0]:
            self._rewind()
        while row >= self._end:
            values = next(self._batches, None)
            if values is None:
                raise IndexError(f"row group {group} has {self._end} rows")
            self._kept.append((self._end, values))
            self._end += len(values)
            self._bytes += values.nbytes
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popleft()[1].nbytes
        start, values = next(kept for kept in reversed(self._kept) if kept[0] <= row)
        return _bytes(values, row - start)

    def _rewind(self) -> None:
        self._kept: deque[tuple[int, pa.Array]] = deque()
        self._end = self._bytes = 0
        self._batches = self._values()

    def _values(self) -> Iterator[pa.Array]:
        group = self._file.metadata.row_group(self._group)
        columns = [group.column(i) for i in range(group.num_columns)]
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self._leaf)
        rows = max(1, min(1024, BATCH_BYTES * group.num_rows // max(1, size)))
        for batch in self._file.iter_batches(rows, row_groups=[self._group], columns=[self._leaf], use_threads=False):
            yield content(batch.column(0))

    def close(self) -> None:
        self._file.close()
        self._handle.close()


class _ArrowFile:
    """The record batches of an Arrow file: of a local one all that were seen, which are mapped; of others the last."""

    def __init__(self, container: str, column: str) -> None:
        self._container, self._column, self._is_local = container, column, blob_of(container).path is not None
        self._table = open_arrow(container, [column])
        self._kept: dict[int, pa.Array] = {}
        self._batches = enumerate(self._table.batches())

    def cell(self, group: int, row: int) -> bytes | None:
        if group not in self._kept:
            self._kept[group] = self._seek(group)
        return _bytes(self._kept[group], row)

    def _seek(self, wanted: int) -> pa.Array:
        if not self._is_local:
            self._kept.clear()
        if self._table.is_random:
            return content(self._table.batch(wanted).column(self._column))
        for _ in range(2):
            for number, batch in self._batches:
                values = content(batch.column(self._column))
                if number == wanted:
                    return values
                if self._is_local:
                    self._kept[number] = values
            self.close()
            self._table = open_arrow(self._container, [self._column])
            self._batches = enumerate(self._table.batches())
        raise IndexError(f"there is no batch {wanted}")

    def close(self) -> None:
        self._table.close()


class ArrowTable:
    """An Arrow file of either format: batches that are read forward, and at random where ``is_random``."""

    def __init__(
        self, handle: BinaryIO | pa.NativeFile, reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader
    ) -> None:
        self._handle, self._reader = handle, reader
        self.is_random = isinstance(reader, pa.RecordBatchFileReader)
        self.is_mapped = isinstance(handle, pa.MemoryMappedFile)
        self.schema: pa.Schema = reader.schema

    def batch(self, number: int) -> pa.RecordBatch:
        """Read one batch, where that is possible."""
        return self._reader.get_batch(number)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all batches, in order."""
        if self.is_random:
            yield from map(self.batch, range(self._reader.num_record_batches))
        else:
            yield from self._reader

    def close(self) -> None:
        """Close the file; batches of a mapped one stay valid."""
        self._handle.close()


def open_arrow(container: str, columns: Sequence[str] = ()) -> ArrowTable:
    """Open an Arrow file in the format for files (also called Feather 2) or in that for streams; a local one is mapped.

    Args:
        container: Its reference.
        columns: Those that are read; all by default. Of a file, but not of a stream, no bytes of others are fetched.

    Raises:
        pa.ArrowInvalid: If it is neither.
    """
    blob = blob_of(container)
    handle = blob.open() if blob.path is None else pa.memory_map(str(blob.path))
    try:
        is_file = handle.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        read = pa.ipc.open_file if is_file else pa.ipc.open_stream
        handle.seek(0)
        reader = read(handle)
        if columns:
            numbers = [number for number, name in enumerate(reader.schema.names) if name in columns]
            handle.seek(0)
            reader = read(handle, options=pa.ipc.IpcReadOptions(included_fields=numbers))
        return ArrowTable(handle, reader)
    except BaseException:
        handle.close()
        raise


def detached(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Copy a batch: a column shares the memory of all that was read with it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


ARROW_MAGIC = b"ARROW1"


def content(values: pa.Array) -> pa.Array:
    """Bytes of cells, which may stand in a field of their own."""
    return pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values


def _bytes(values: pa.Array, row: int) -> bytes | None:
    cell = values[row].as_py()
    return cell if cell is None or isinstance(cell, bytes) else bytes(cell)


register_scheme(PARQUET.removesuffix(":"), Cell)
register_scheme(ARROW.removesuffix(":"), Cell)

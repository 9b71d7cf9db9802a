"""The items of one Parquet or Arrow file, whose cells hold media, or name files. No media is opened here.

Shape letters: N rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from finetrainers.config.data import DataConfig
from finetrainers.data.media.blob import blob_of, ref_of
from finetrainers.data.media.cells import ARROW, PARQUET, cell_refs, content, detached, open_arrow
from finetrainers.data.media.contents import what_it_is
from finetrainers.data.media.remote import is_remote
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.layout import Wanted
from finetrainers.data.sources.listing import Listing, Problem, finish, pair
from finetrainers.data.sources.metadata import CAPTION_COLUMNS, MEDIA_COLUMNS, choose_columns, join_lists, text_column
from finetrainers.data.sources.named import absolute, check_files, named_lists
from finetrainers.errors import DataError

ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
TABLE_SUFFIXES = (".parquet", *ARROW_SUFFIXES)
EMBEDDED_COLUMNS = (*MEDIA_COLUMNS, "img", "clip", "jpg", "jpeg", "png", "webp", "mp4", "webm")
"""Common names of columns that hold media."""
TEXT_COLUMNS = (*CAPTION_COLUMNS, "txt")


class _Parquet:
    scheme = PARQUET

    def __init__(self, file: pyarrow.parquet.ParquetFile) -> None:
        self.schema: pa.Schema = file.schema_arrow
        self._file = file

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self._file.read(columns=list(columns))

    def groups(self, column: str) -> Iterator[tuple[pa.Array | None, pa.Array]]:
        """Yield for each row group the paths beside the bytes [N], if there are any, and whether the bytes are null [N]."""
        is_struct = pa.types.is_struct(self.schema.field(column).type)
        leaf = f"{column}.bytes" if is_struct else column
        for number in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(number)
            chunks = [group.column(i) for i in range(group.num_columns)]
            known = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == leaf), None)
            nulls = known.null_count if known is not None and known.has_null_count else None
            if nulls in (0, group.num_rows):
                is_null = pa.repeat(nulls != 0, group.num_rows)
            else:
                batches = self._file.iter_batches(64, row_groups=[number], columns=[leaf], use_threads=False)
                is_null = pa.concat_arrays([content(batch.column(0)).is_null() for batch in batches])
            yield (self._paths(column, number) if is_struct else None), is_null

    def _paths(self, column: str, number: int) -> pa.Array | None:
        if self.schema.field(column).type.get_field_index("path") < 0:
            return None
        table = self._file.read_row_group(number, columns=[f"{column}.path"])
        return pc.struct_field(table.column(0), "path").combine_chunks()


class _Arrow:
    """Reads what is asked for, one batch after the other, and holds none: remote ones would fill the memory with media."""

    scheme = ARROW

    def __init__(self, ref: str) -> None:
        self._ref = ref
        with closing(open_arrow(ref)) as table:
            self.schema = table.schema

    def read(self, columns: Sequence[str]) -> pa.Table:
        schema = pa.schema([self.schema.field(name) for name in columns])
        with closing(open_arrow(self._ref, columns)) as table:
            batches = (batch.select(list(columns)) for batch in table.batches()) if columns else ()
            return pa.Table.from_batches(batches if table.is_mapped else map(detached, batches), schema)

    def groups(self, column: str) -> Iterator[tuple[pa.Array | None, pa.Array]]:
        """Yield for each batch what ``_Parquet.groups`` yields for a row group."""
        with closing(open_arrow(self._ref, [column])) as table:
            for batch in table.batches():
                values = batch.column(column)
                has_path = pa.types.is_struct(values.type) and values.type.get_field_index("path") >= 0
                yield (pc.struct_field(values, "path") if has_path else None), content(values).is_null()


@contextmanager
def _opened(ref: str) -> Iterator[_Parquet | _Arrow]:
    blob = blob_of(ref)
    try:
        if blob.suffix in ARROW_SUFFIXES:
            yield _Arrow(ref)
        else:
            with blob.open() as handle, pyarrow.parquet.ParquetFile(handle) as file:
                yield _Parquet(file)
    except pa.ArrowException as error:
        what = what_it_is(blob) or f": {error}"
        raise DataError(f"{ref}: cannot be read as {blob.suffix[1:]}{what}") from error
    except OSError as error:
        raise DataError(f"{ref}: {why_unreadable(error)}") from error


def has_embedded(ref: str) -> bool:
    """Whether a column of the table holds bytes; False for what cannot be read, which others say."""
    try:
        with _opened(ref) as source:
            return bool(_embedded(source.schema))
    except DataError:
        return False


def columns_of(ref: str) -> list[str]:
    """Names of the columns of the table."""
    with _opened(ref) as source:
        return list(source.schema.names)


def has_media(ref: str, config: DataConfig) -> bool:
    """Whether a column of the table holds media or names them."""
    with _opened(ref) as source:
        names = [name.strip().lower() for name in source.schema.names]
        return config.media_column in source.schema.names or bool(set(names) & set(EMBEDDED_COLUMNS))


def list_table(ref: str, wanted: Wanted) -> Listing:
    """List the rows of one file by its reference. That it has none is no error.

    Raises:
        DataError: If it cannot be read, or which columns to take is unclear.
    """
    with _opened(ref) as source:
        config = _with_columns(wanted.config, source.schema)
        media, files, captions = choose_columns(source.schema.names, config, wanted.columns, Path(ref))
        columns = {
            name: _files(source, ref, column, is_many=name in wanted.many)
            for name, column in zip(("media", *wanted.columns), (media, *files), strict=True)
        }
        table = source.read(captions)
        texts = [text_column(table[name], f"{ref}: column {name!r}", is_list=True) for name in captions]
    return _listing(ref, pa.table({**columns, "captions": join_lists(texts)}), wanted)


def _listing(ref: str, table: pa.Table, wanted: Wanted) -> Listing:
    """Leave out the rows that name no media, or none that is there, and those without their files of a stream."""
    reasons = _reasons(table["media"].combine_chunks(), ref, "media")
    rows = sorted(reasons)
    named = table["media"].take(pa.array(rows, pa.int64())).to_pylist()
    problems = [Problem(path or f"{ref}, row {row + 1}", reasons[row]) for row, path in zip(rows, named, strict=True)]
    is_good = np.ones(len(table), np.bool_)
    is_good[rows] = False
    listing = finish(table.filter(pa.array(is_good)), problems, unlisted=0, prefix=wanted.config.caption_prefix)
    for name in wanted.columns:
        column = listing.table[name]
        if name in wanted.many:
            listing = pair(listing, name, named_lists(column, Path(ref), name))
            continue
        wrong = _reasons(column.combine_chunks(), ref, name)
        is_good = np.ones(len(column), np.bool_)
        is_good[list(wrong)] = False
        listing = pair(listing, name, (pc.if_else(pa.array(is_good), column.combine_chunks(), None), wrong))
    return listing


def _reasons(files: pa.Array, ref: str, what: str) -> dict[int, str]:
    """Say by row which references [N] cannot be used, and why: null ones, and files of this machine that are not there."""
    reasons = dict.fromkeys(pc.indices_nonzero(files.is_null()).to_pylist(), f"its cell holds no {what}, and names none")
    path = blob_of(ref).path
    plain = pc.indices_nonzero(pc.fill_null(pc.starts_with(files, "/"), False))
    if path is not None and len(plain):
        wrong = check_files(files.take(plain), path)[1]
        reasons |= {plain[row].as_py(): reason for row, reason in wrong.items()}
    return reasons


def _embedded(schema: pa.Schema) -> list[str]:
    """Columns that hold bytes, or ``{bytes, path}``."""
    found = []
    for field in schema:
        kind = field.type
        if _has_no_bytes(kind):
            found.append(field.name)
            continue
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field(kind.get_field_index("bytes")).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            found.append(field.name)
    return found


def _has_no_bytes(kind: pa.DataType) -> bool:
    """Whether cells are ``{bytes, path}`` all of whose bytes are null, as Arrow writes them where there are paths alone."""
    if not pa.types.is_struct(kind) or -1 in (kind.get_field_index("path"), kind.get_field_index("bytes")):
        return False
    return bool(pa.types.is_null(kind.field(kind.get_field_index("bytes")).type))


def _with_columns(config: DataConfig, schema: pa.Schema) -> DataConfig:
    """Name the columns that are clear: the only one of common name that holds bytes, and the only one of common name."""
    taken = (*config.named_columns, *STREAM_NAMES)
    candidates = [name for name in _embedded(schema) if name.lower() in EMBEDDED_COLUMNS and name not in taken]
    texts = [name for name in schema.names if name.lower() in TEXT_COLUMNS]
    found: dict[str, object] = {}
    if config.media_column is None and len(candidates) == 1:
        found["media_column"] = candidates[0]
    if config.caption_column is None and len(texts) == 1:
        found["caption_column"] = texts[0]
    return config.model_copy(update=found)


STREAM_NAMES = ("control", "mask", "reference", "rejected")


def _files(source: _Parquet | _Arrow, ref: str, column: str, *, is_many: bool) -> pa.Array:
    """References of the media in or named by a column [N]; null where there is none."""
    folder = ref.rpartition("/")[0] if is_remote(ref) else ref_of(Path(blob_of(ref).path or Path(ref)).parent)
    kind = source.schema.field(column).type
    if column not in _embedded(source.schema):
        if is_many and (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not pa.types.is_string(kind.value_type):
            raise DataError(f"{ref}: column {column!r} holds {kind}; lists are read of paths, and not of what files hold")
        texts = text_column(source.read([column])[column], f"{ref}: column {column!r}", is_list=is_many)
        return absolute(texts, folder)
    refs: list[pa.Array] = []
    for number, (named, is_null) in enumerate(source.groups(column)):
        paths = pa.nulls(len(is_null), pa.large_string()) if named is None else named.cast(pa.large_string())
        names = [path.rpartition("/")[2] for path in pc.fill_null(paths, "").to_pylist()]
        cells = pa.array(cell_refs(source.scheme, ref, column, group=number, names=names), pa.large_string())
        refs.append(pc.if_else(is_null, absolute(paths, folder), cells))
    files = pa.concat_arrays(refs) if refs else pa.array([], pa.large_string())
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(files) + 1)), files) if is_many else files

"""Metadata files (csv, json, jsonl, parquet): one row for each item, with a column of paths and columns of captions.

Everything stays in Arrow arrays, so that ten million rows fit; only ``.json`` is parsed through Python objects.
Shape letters: N rows.
"""

import difflib
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from finetrainers.config.data import DataConfig
from finetrainers.errors import DataError

MEDIA_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "path", "media", "media_path"),
    *("video", "video_path", "video_file", "image", "image_path", "image_file"),
)
CONTROL_COLUMNS = (
    *("control", "control_image", "control_video", "control_path", "control_file", "control_file_name"),
    *("conditioning", "conditioning_image", "conditioning_video", "conditioning_path"),
    *("source", "source_image", "source_video", "source_path", "source_file"),
)
STREAM_COLUMNS = {"control": CONTROL_COLUMNS}
"""Common names of the columns of streams; others have the stream's own name. The first of them that is there is taken, and
none is among the names of media columns."""
SEPARATOR = ";"
"""Between the paths of one cell of a csv file, where an item may have several files of a stream."""
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "prompts", "description")

ChooseColumns = Callable[[Sequence[str]], list[str]]


def read_metadata(path: Path, config: DataConfig, streams: Sequence[str] = (), many: Collection[str] = ()) -> pa.RecordBatch:
    """Read the columns of the items [N]; nulls stay as they are.

    Args:
        path: Of the file.
        config: Of the data set.
        streams: Names of what each item has in files of its own beside the media.
        many: Those of them that may have several: their cells are lists of paths, or one, and in csv separated by SEPARATOR.

    Returns:
        Columns media (large_string), captions (large_list of large_string) and, as media, one of each stream's name; as
        captions for those of ``many``.

    Raises:
        DataError: If the file cannot be parsed, or which columns to take is unclear.
    """
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        media, files, captions = choose_columns(names, config, streams, path)
        chosen.extend([media, *files, *captions])
        return chosen

    try:
        table = METADATA_READERS[path.suffix.lower()](path, choose)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}{_hint(path)}") from error
    names = ["media", *streams]
    columns = []
    for name, column in itertools.zip_longest(names, chosen):
        cells = table[column]
        if name in many and path.suffix.lower() == ".csv":
            cells = pc.split_pattern(cells, pattern=SEPARATOR)
        columns.append(text_column(cells, f"{path}: column {column!r}", is_list=name is None or name in many))
    return pa.record_batch([*columns[: len(names)], join_lists(columns[len(names) :])], names=[*names, "captions"])


def choose_columns(
    names: Sequence[str], config: DataConfig, streams: Sequence[str], path: Path
) -> tuple[str, list[str], list[str]]:
    """Choose the columns of the media, of each stream and of captions, by what is configured or by common names.

    Raises:
        DataError: If one is not there, or which one to take is unclear.
    """
    media = _choose_media(names, config, path)
    captions = _choose_captions(names, config, path)
    files: list[str] = []
    for stream in streams:
        files.append(_choose_files(stream, names, config, path, taken=[media, *captions, *files]))
    return media, files, captions


def join_lists(columns: Sequence[pa.Array]) -> pa.Array:
    """Join columns of lists, each [N], row by row, in the order of the columns."""
    if len(columns) == 1:
        return columns[0]
    rows = np.concatenate([pc.list_parent_indices(column).to_numpy() for column in columns])
    values = pa.concat_arrays([pc.list_flatten(column) for column in columns])
    return group(rows, values, len(columns[0]))


def group(rows: np.ndarray, values: pa.Array, num_rows: int) -> pa.Array:
    """Gather values into lists [num_rows]: value i goes to row ``rows[i]``; the order within a row is kept."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), values.take(pa.array(np.argsort(rows, kind="stable")))
    )


def _hint(path: Path) -> str:
    if path.suffix.lower() == ".csv":
        return "; captions that contain commas must stand in double quotes"
    return "; one object a line is .jsonl, one list of objects is .json" if "json" in path.suffix.lower() else ""


def _choose_media(names: Sequence[str], config: DataConfig, path: Path) -> str:
    if config.media_column is not None:
        return _named(config.media_column, names, f"{path}: data.media_column")
    others = [name for name in names if name not in config.named_columns]
    return _by_synonym(MEDIA_COLUMNS, others, path, key="media_column", what="media paths")


def _choose_files(stream: str, names: Sequence[str], config: DataConfig, path: Path, *, taken: Sequence[str]) -> str:
    """Choose the column that is named, else the first of the common names; never one that is taken for something else."""
    key, column = f"data.{config.key_of_column(stream)}", config.column_of(stream)
    if column in taken:
        raise DataError(f"{path}: {key}: {column!r} is taken for media or captions; name another column")
    if column is not None:
        return _named(column, names, f"{path}: {key}")
    by_name = {name.strip().lower(): name for name in names if name not in (*taken, *config.named_columns)}
    synonyms = (*STREAM_COLUMNS.get(stream, (stream,)), f"{stream}_file_name")
    found = [by_name[synonym] for synonym in synonyms if synonym in by_name]
    if found:
        return found[0]
    raise DataError(
        f"{path}: no column of {stream}s among {', '.join(names)}; expected one of {', '.join(synonyms)}, or its name "
        f"in {key}, or a folder of {stream}s in data.{config.key_of_folder(stream)}"
    )


def _choose_captions(names: Sequence[str], config: DataConfig, path: Path) -> list[str]:
    if config.caption_column is None:
        return [_by_synonym(CAPTION_COLUMNS, names, path, key="caption_column", what="captions")]
    wanted = [config.caption_column] if isinstance(config.caption_column, str) else config.caption_column
    return [_named(name, names, f"{path}: data.caption_column") for name in wanted]


def _named(name: str, names: Sequence[str], where: str) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: there is no column {name!r}, only {', '.join(names)}{hint}")


def _by_synonym(synonyms: Sequence[str], names: Sequence[str], path: Path, *, key: str, what: str) -> str:
    found = [name for name in names if name.strip().lower() in synonyms]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path}: columns {', '.join(found)} may all hold {what}; name one in data.{key}")
    close = [name for name in names if difflib.get_close_matches(name.lower(), synonyms, n=1, cutoff=0.6)]
    hint = f"; perhaps {' or '.join(map(repr, close))}?" if close else ""
    expected = f"expected one of {', '.join(synonyms)}, or its name in data.{key}"
    raise DataError(f"{path}: no column of {what} among {', '.join(names) or 'none'}; {expected}{hint}")


def text_column(column: pa.ChunkedArray, where: str, *, is_list: bool) -> pa.Array:
    """Cast a column to large_string, or to lists of it; a column of plain text becomes lists of one."""
    kind = pa.large_list(pa.large_string())
    is_nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    content = column.type.value_type if is_nested and is_list else column.type
    if pa.types.is_dictionary(content):
        content = content.value_type
    if not (pa.types.is_string(content) or pa.types.is_large_string(content) or pa.types.is_null(content)):
        raise DataError(f"{where} holds {column.type}; expected text{' or lists of text' if is_list else ''}")
    if is_nested:
        return pa.concat_arrays([chunk.cast(kind) for chunk in column.chunks] or [pa.array([], kind)])
    texts = column.cast(pa.large_string())
    text = pa.concat_arrays(texts.chunks or [pa.array([], pa.large_string())])
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(text) + 1), pa.int64()), text) if is_list else text


def _read_csv(path: Path, choose: ChooseColumns) -> pa.Table:
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(path, parse_options=parse) as header:
        columns = choose(header.schema.names)
    as_text = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string()))
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=as_text)  # "007.mp4" must not lose its zeros


def _read_jsonl(path: Path, choose: ChooseColumns) -> pa.Table:
    table = pyarrow.json.read_json(path)
    columns = choose(table.column_names)
    dates = [name for name in columns if pa.types.is_timestamp(table[name].type)]
    if dates:  # Arrow takes text that looks like a date for one
        schema = pa.schema([(name, pa.string()) for name in dates])
        table = pyarrow.json.read_json(path, parse_options=pyarrow.json.ParseOptions(explicit_schema=schema))
    return table.select(columns)


def _read_json(path: Path, choose: ChooseColumns) -> pa.Table:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: holds {type(rows).__name__}; expected a list of objects, each with a path and a caption")
    columns = choose(list(dict.fromkeys(name for row in rows for name in row)))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})


def _read_parquet(path: Path, choose: ChooseColumns) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns=choose(file.schema_arrow.names))


METADATA_READERS = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}

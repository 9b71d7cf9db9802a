"""Metadata files (csv, json, jsonl, parquet): one row for each item, with a column of paths and columns of captions.

Everything stays in Arrow arrays, so that ten million rows fit. ``rows`` reads the files.
Shape letters: N rows.
"""

import difflib
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.rows import read_csv, read_json, read_jsonl, read_parquet, single
from finetrainers.data.sources.unparsed import about_header, refuse_others, why_unparsed
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

LISTS = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)


def read_metadata(
    path: Path,
    config: DataConfig,
    streams: Sequence[str] = (),
    many: Collection[str] = (),
    *,
    odd: dict[int, str] | None = None,
) -> pa.RecordBatch:
    """Read the columns of the items [N]; nulls stay as they are.

    Args:
        path: Of the file.
        config: Of the data set.
        streams: Names of what each item has in files of its own beside the media.
        many: Those of them that may have several: their cells are lists of paths, or one, and in csv separated by SEPARATOR.
        odd: Is given, by row, what is wrong with cells of json and jsonl that are no text where others are; such cells are
            null. Without it, such a cell is an error.

    Returns:
        Columns media (large_string), captions (large_list of large_string) and, as media, one of each stream's name; as
        captions for those of ``many``.

    Raises:
        DataError: If the file cannot be parsed, or which columns to take is unclear.
    """
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        media, files, captions = choose_columns(names, config, streams, path)
        chosen[:] = [media, *files, *captions]
        repeated = [name for name in chosen if names.count(name) > 1]
        if repeated:
            raise DataError(f"{path}: has several columns of the name {repeated[0]!r}; rename all but one of them")
        return chosen

    wrong: dict[int, str] = {}
    try:
        refuse_others(path)
        table = METADATA_READERS[path.suffix.lower()](path, choose, wrong)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {why_unparsed(path, error)}") from error
    names = ["media", *streams]
    columns = []
    for name, column in itertools.zip_longest(names, chosen):
        cells = table[column]
        if name in many and path.suffix.lower() == ".csv":
            cells = pc.split_pattern(cells, pattern=SEPARATOR)
        if name is not None and name not in many and "json" in path.suffix.lower():
            cells = single(cells, column, wrong)
        columns.append(text_column(cells, f"{path}: column {column!r}", is_list=name is None or name in many))
    if wrong and odd is None:
        raise DataError(f"{path}: row {min(wrong) + 1}: {wrong[min(wrong)]}")
    if odd is not None:
        odd.update(wrong)
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
    raise DataError(f"{path}: no column of {what} among {', '.join(names) or 'none'}; {expected}{hint}{about_header(names)}")


def text_column(column: pa.ChunkedArray, where: str, *, is_list: bool) -> pa.Array:
    """Cast a column to large_string, or to lists of it; a column of plain text becomes lists of one."""
    kind = pa.large_list(pa.large_string())
    is_nested = any(is_kind(column.type) for is_kind in LISTS)
    content = column.type.value_type if is_nested and is_list else column.type
    if pa.types.is_dictionary(content):
        content = content.value_type
    if not any(is_kind(content) for is_kind in TEXTS):
        raise DataError(
            f"{where} holds {column.type}; expected text{' or lists of text' if is_list else ''}, alone in a column"
        )
    if is_nested:
        return pa.concat_arrays([chunk.cast(kind) for chunk in column.chunks] or [pa.array([], kind)])
    texts = column.cast(pa.large_string())
    text = pa.concat_arrays(texts.chunks or [pa.array([], pa.large_string())])
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(text) + 1), pa.int64()), text) if is_list else text


METADATA_READERS = {".csv": read_csv, ".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet}

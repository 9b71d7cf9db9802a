"""Rows of metadata files, by the columns that are used: what the others hold does not matter.

Csv, parquet and well-formed jsonl are read by Arrow; json, and jsonl that Arrow refuses, through Python objects.
"""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from finetrainers.data.sources.texts import as_utf8, read_text
from finetrainers.errors import DataError

ChooseColumns = Callable[[Sequence[str]], list[str]]
"""Is given the names of all columns, and says which are used."""
Odd = dict[int, str]
"""By row, what is wrong with a cell of it."""

ITEMS = "items"
"""Key of the list in a json document that is an object."""
MAX_KEYS = 5
"""Keys that an error names."""
BLOCK_ROWS = 65536
"""Rows that are held as Python objects at a time."""
BLOCK_BYTES = 1 << 20
TEXT, TEXTS = pa.large_string(), pa.large_list(pa.large_string())


def read_csv(path: Path, choose: ChooseColumns, _: Odd) -> pa.Table:
    """Read all cells as text: "007.mp4" must not lose its zeros."""
    _check_commas(path)
    _check_quotes(path)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(as_utf8(path), parse_options=parse) as header:
        columns = choose(header.schema.names)
    as_text = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, TEXT))
    return pyarrow.csv.read_csv(as_utf8(path), parse_options=parse, convert_options=as_text)


def _check_commas(path: Path) -> None:
    """Refuse columns that are separated otherwise, as spreadsheets of many countries save them."""
    with path.open("rb") as file:
        header = file.readline(BLOCK_BYTES)
    found = next((name for sign, name in ((b";", "semicolons"), (b"\t", "tabs")) if sign in header), None)
    if found and b"," not in header:
        raise DataError(f"{path}: its columns are separated by {found}; save it with commas between them")


def _check_quotes(path: Path) -> None:
    """Refuse quotes that Arrow would read somehow: one that is never closed swallows the rows below it."""
    with path.open("rb") as file:
        if not any(b'"' in block for block in iter(lambda: file.read(BLOCK_BYTES), b"")):
            return
    limit = csv.field_size_limit(sys.maxsize)
    begin = 1
    source = as_utf8(path)
    encoding = "utf-8" if isinstance(source, str) else "utf-16"
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            for _ in reader:
                begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: the row that begins in line {begin} has a quote that is not closed, or closed too early ({error}); "
            "a value with quotes, commas or line breaks stands in double quotes, and quotes inside of it are doubled: "
            '"5"" wide"'
        ) from error
    finally:
        csv.field_size_limit(limit)


def read_jsonl(path: Path, choose: ChooseColumns, odd: Odd) -> pa.Table:
    """Read one object a line; what Arrow cannot read, such as rows longer than its blocks, is read line by line."""
    try:
        table = pyarrow.json.read_json(as_utf8(path))
        columns = choose(table.column_names)
        dates = [name for name in columns if pa.types.is_timestamp(table[name].type)]
        if dates:  # Arrow takes text that looks like a date for one
            as_text = pyarrow.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in dates]))
            table = pyarrow.json.read_json(as_utf8(path), parse_options=as_text)
        return table.select(columns)
    except pa.ArrowInvalid as error:
        names: dict[str, None] = {}
        for row in _lines(path, error):
            names.update(dict.fromkeys(row))
        return _table(_lines(path, error), choose(list(names)), odd)


def _lines(path: Path, arrows: pa.ArrowInvalid) -> Iterator[Mapping[str, object]]:
    """Parse line by line; lines end as json has them, not at the exotic separators that may stand in texts."""
    source = as_utf8(path)
    with path.open("rb") if isinstance(source, str) else source as file:
        number = 0
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                comma = "remove the commas at the ends of lines; " if line.rstrip().endswith(b",") else ""
                raise DataError(
                    f"{path}: cannot be read as jsonl: line {number}: {error}; {comma}one object a line is .jsonl, one "
                    "list of objects is .json"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: cannot be read as jsonl: line {number} holds {_kind(row)}; expected an object with a path and "
                    "a caption, for one list of objects is .json"
                )
            yield row
    if number == 0:
        raise arrows


def read_json(path: Path, choose: ChooseColumns, odd: Odd) -> pa.Table:
    """Read a list of objects, or an object that holds such a list under ITEMS and nothing else."""
    rows = json.loads(read_text(path))
    expected = f'expected a list of objects, each with a path and a caption, or {{"{ITEMS}": [...]}} with such a list alone'
    if isinstance(rows, dict):
        others = [repr(name) for name in rows if name != ITEMS]
        if others or not rows:
            named = f"the keys {', '.join(others[:MAX_KEYS])}{', ...' * (len(others) > MAX_KEYS)}" if others else "no key"
            raise DataError(f"{path}: holds an object with {named}; {expected}")
        rows = rows[ITEMS]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        inside = [] if not isinstance(rows, list) else [row for row in rows if not isinstance(row, dict)]
        found = f"{_kind(inside[0])} in its list" if inside else _kind(rows)
        raise DataError(f"{path}: holds {found}; {expected}")
    return _table(rows, choose(list(dict.fromkeys(name for row in rows for name in row))), odd)


def _table(rows: Iterable[Mapping[str, object]], columns: Sequence[str], odd: Odd) -> pa.Table:
    """Gather the columns; cells that are no text where others are become null, and are said to be odd."""
    gathered = {name: _Column() for name in columns}
    for number, row in enumerate(rows):
        for name, column in gathered.items():
            column.add(row.get(name), number)
    for name, column in gathered.items():
        if column.odd and not column.num_texts:
            raise ValueError(f"column {name!r} holds {min(column.odd.items())[1]}; expected text or lists of text")
        for number, reason in column.odd.items():
            odd.setdefault(number, f"column {name!r} holds {reason}; expected text or a list of texts")
    return pa.table({name: column.finish() for name, column in gathered.items()})


class _Column:
    """Texts, or lists of them, as they come; a column without lists is one of plain text."""

    def __init__(self) -> None:
        self.odd: Odd = {}
        self.num_texts = 0
        self._cells: list[str | list[str | None] | None] = []
        self._blocks: list[pa.Array] = []
        self._has_lists = False

    def add(self, value: object, number: int) -> None:
        cell, reason = _cell(value)
        if reason:
            self.odd[number] = reason
        self.num_texts += cell is not None
        self._has_lists |= isinstance(cell, list)
        self._cells.append(cell)
        if len(self._cells) == BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._blocks.append(pa.array([[cell] if isinstance(cell, str) else cell for cell in self._cells], TEXTS))
        self._cells.clear()

    def finish(self) -> pa.ChunkedArray:
        self._flush()
        lists = pa.chunked_array(self._blocks, TEXTS)
        return lists if self._has_lists else pc.list_element(lists, 0)


def single(cells: pa.ChunkedArray, name: str, odd: Odd) -> pa.ChunkedArray:
    """Take the text of each cell, where a list has one; lists of more are odd, unless half of the cells are such.

    A column that holds no lists, or is one of lists, stays as it is.
    """
    if not (pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)):
        return cells
    counts = pc.fill_null(pc.list_value_length(cells), 0)
    several = pc.indices_nonzero(pc.greater(counts, 1)).to_pylist()
    if 2 * len(several) >= len(cells):
        return cells
    for row in several:
        odd.setdefault(row, f"column {name!r} holds {counts[row]} texts; expected one")
    return pc.list_element(pc.if_else(pc.equal(counts, 1), cells, pa.scalar(None, cells.type)), 0)


def _cell(value: object) -> tuple[str | list[str | None] | None, str]:
    """Text of a cell, or a list of texts, or None where there is none; and what it is if it is something else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes what is missing as NaN
        return None, ""
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, list) and all(text is None or isinstance(text, str) for text in value):
        wrong = [reason for text in value if text is not None and (reason := _encodable(text)[1])]
        return (None, wrong[0]) if wrong else (value, "")
    return None, f"{_kind(value)} ({json.dumps(value)[:40]})"


def _encodable(text: str) -> tuple[str | None, str]:
    """Refuse half of a surrogate pair, which JSON can write and nothing can encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, f"half of a character ({ascii(text)[:40]})"
    return text, ""


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "nothing")


def read_parquet(path: Path, choose: ChooseColumns, _: Odd) -> pa.Table:
    """Read the chosen columns only."""
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns=choose(file.schema_arrow.names))

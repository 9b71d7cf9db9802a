"""What is said of each item of the finished set."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from finetrainers.data.curate.journal import Record
from finetrainers.data.curate.piece import Value

Row = dict[str, Any]  # of plain values, as JSON holds them


def rows_of(records: Iterable[Record], scores: Sequence[str]) -> Iterator[Row]:
    """One row for each item, all with the same keys, in order."""
    for record in records:
        for kept in record["kept"]:
            yield row_of(record, kept, scores)


def row_of(record: Record, kept: Record, scores: Sequence[str]) -> Row:
    """Say of an item where its file is, its caption, what it shows, and where it is from."""
    found: dict[str, Value | None] = {name: kept["scores"].get(name) for name in scores}
    return {
        "file_name": kept["file"],
        "caption": kept["caption"],
        **{name: kept[name] for name in ("seconds", "frames", "fps", "height", "width")},
        **found,
        "origin": record["origin"],
        "origin_start": kept["start"],
        "origin_stop": kept["stop"],
    }


def json_lines(rows: Iterable[Row]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"

"""Write the edit pairs of parquet files as pictures with a metadata.jsonl: python unpack.py FOLDER_OF_PARQUET TARGET."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

COLUMNS = {"src_img": "source_image", "edited_img": "file_name"}
"""Columns of OmniEdit that hold encoded pictures, and the columns that name their files."""


def suffix(picture: bytes) -> str:
    """Suffix of a PNG or of a JPEG, by its first byte."""
    return ".png" if picture[:1] == b"\x89" else ".jpg"


def unpack(parquet: Path, target: Path) -> Iterator[dict[str, object]]:
    """Write the pictures of all parquet files below a folder; yield the row of each pair."""
    number = 0
    for file in sorted(parquet.rglob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16, columns=[*COLUMNS, "edited_prompt_list"]):
            for row in batch.to_pylist():
                names = {}
                for column, name in COLUMNS.items():
                    picture = row[column]["bytes"]
                    names[name] = f"{column}/{number:07d}{suffix(picture)}"
                    (target / column).mkdir(parents=True, exist_ok=True)
                    (target / names[name]).write_bytes(picture)
                yield {**names, "caption": row["edited_prompt_list"]}
                number += 1


def main(parquet: str, target: str) -> None:
    """Unpack into a folder that ``data.path`` names."""
    Path(target).mkdir(parents=True, exist_ok=True)
    with (Path(target) / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row)}\n" for row in unpack(Path(parquet), Path(target)))


if __name__ == "__main__":
    main(*sys.argv[1:])

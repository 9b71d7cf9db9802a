"""Metadata files in folders: those of one split are used, and each is relative to its own folder."""

import json
from pathlib import Path

import pytest

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.items import Listing, list_items
from finetrainers.errors import DataError


def listed(path: Path, *streams: str, **options: object) -> Listing:
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options), streams)


def write(folder: Path, *records: dict[str, str]) -> None:
    """Records, and an empty file for each name in them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    for record in records:
        for key, name in record.items():
            if key.endswith("file_name"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()


def test_one_split_of_several_folders(tmp_path: Path) -> None:
    write(tmp_path / "train", {"file_name": "x/a.png", "text": "A"})
    write(tmp_path / "test", {"file_name": "a.png", "text": "B"})
    (tmp_path / "train/extra.png").touch()
    found = listed(tmp_path)
    assert found.table.to_pylist() == [{"media": f"{tmp_path}/train/x/a.png", "captions": ["A"]}]
    assert (found.layout, found.why) == ("imagefolder", "metadata files in test and 1 more, split train")
    assert (found.passed_over, found.unlisted) == ({"files of the split test": 1}, 1)
    assert listed(tmp_path, split="test").table["captions"].to_pylist() == [["B"]]


def test_folders_that_are_no_splits_are_parts_of_one_set(tmp_path: Path) -> None:
    for name in ("cats", "dogs/small"):
        write(tmp_path / name, {"file_name": "a.png", "text": name})
    assert listed(tmp_path).table["captions"].to_pylist() == [["cats"], ["dogs/small"]]


def test_streams_have_file_names_of_their_own(tmp_path: Path) -> None:
    record = {"file_name": "a.png", "mask_file_name": "m/a.png", "control_file_name": "c/a.png", "text": "A"}
    write(tmp_path / "train", record)
    (row,) = listed(tmp_path, "mask", "control").table.to_pylist()
    assert (row["mask"], row["control"]) == (f"{tmp_path}/train/m/a.png", f"{tmp_path}/train/c/a.png")


def test_a_file_that_lists_all_and_others_in_folders(tmp_path: Path) -> None:
    """The one at the top is used, as before."""
    write(tmp_path / "train", {"file_name": "a.png", "text": "A"})
    write(tmp_path, {"file_name": "train/a.png", "text": "All"})
    assert listed(tmp_path).layout == "metadata"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no folder has one of metadata.csv"):
        listed(empty, layout="imagefolder")

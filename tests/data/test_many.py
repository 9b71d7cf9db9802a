"""Several files of a stream for each item: named in every kind of list, or found by the place of the media."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_controls import config_of, reasons, touch, write_layout

from finetrainers.data.sources.items import Listing, list_items
from finetrainers.errors import DataError

NAMES = ("a.png", "b.mp4", "sub/c.png")
CELLS = (["top.png"], ["r/2.png", "r/größe.jpg", "r/1.png"], ["./r//10.png", "r/9.png"])
FOUND = {"a.png": ["top.png"], "b.mp4": ["r/2.png", "r/größe.jpg", "r/1.png"], "sub/c.png": ["r/10.png", "r/9.png"]}


def listed(path: Path, *, is_many: bool = True, **options: Any) -> Listing:
    return list_items(config_of(path, **options), ["reference"], ["reference"] if is_many else [])


def references(listing: Listing, folder: Path) -> dict[str, list[str]]:
    """References by media, relative to a folder."""
    rows = listing.table.select(["media", "reference"]).to_pylist()
    return {os.path.relpath(row["media"], folder): [os.path.relpath(p, folder) for p in row["reference"]] for row in rows}


def write_list(folder: Path, suffix: str, cells: Any, names: tuple[str, ...] = NAMES, column: str = "reference") -> Path:
    """A metadata file with a column of cells, each a text, a list of texts or nothing."""
    touch(folder, *names)
    file = folder / f"items{suffix}"
    rows = [{"file_name": name, "text": "A cat", column: cell} for name, cell in zip(names, cells, strict=True)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".csv":
        texts = ["" if cell is None else cell if isinstance(cell, str) else "; ".join(cell) for cell in cells]
        lines = [f"{name},A cat,{text}" for name, text in zip(names, texts, strict=True)]
        file.write_text("\n".join([f"file_name,text,{column}", *lines]), encoding="utf-8")
    else:
        text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
        file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["reference", "before"])
def test_a_cell_names_one_file_or_several_in_their_order(tmp_path: Path, suffix: str, column: str) -> None:
    """The column of the stream's own name is found; another one has to be named."""
    touch(tmp_path, *(file for files in FOUND.values() for file in files), "unused.png")
    file = write_list(tmp_path, suffix, CELLS, column=column)
    options = {} if column == "reference" else {"columns": {"reference": column}}
    found = listed(file, **options)
    assert references(found, tmp_path) == FOUND
    assert (found.problems, found.unlisted) == ((), 1)  # beside the media, and no reference
    assert found.table.schema.field("reference").type == pa.large_list(pa.large_string())
    plain = write_list(tmp_path, suffix, ["r/1.png", "r/2.png", "r/2.png"], column=column)
    assert references(listed(plain, **options), tmp_path) == {"a.png": ["r/1.png"]} | dict.fromkeys(NAMES[1:], ["r/2.png"])
    one = listed(plain, is_many=False, **options).table["reference"].to_pylist()
    assert one == [f"{tmp_path}/r/1.png", f"{tmp_path}/r/2.png", f"{tmp_path}/r/2.png"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_items_without_all_the_files_that_are_named_are_problems(tmp_path: Path, suffix: str) -> None:
    """Each of them says all that is wrong; an item with nothing in its list has no reference."""
    touch(tmp_path, "r/1.png", "r/1.txt")
    names = ("a.png", "b.png", "c.png", "d.png", "e.png")
    cells = [["r/1.png"], ["r/1.png", "r/none.png", "r/1.txt"], None if suffix == ".csv" else [], None, ["r/1.png", ""]]
    file = write_list(tmp_path, suffix, cells, names)
    found = listed(file)
    assert references(found, tmp_path) == {"a.png": ["r/1.png"]}
    said = reasons(found, tmp_path)
    none, text = f"its reference {tmp_path}/r/none.png", f"its reference {tmp_path}/r/1.txt"
    assert said.pop("b.png").startswith(
        f"{none}: is listed in {file.name}, but there is no such file; {text}: suffix '.txt' is none of"
    )
    assert said == {
        "c.png": f"{file.name} names no reference for it",
        "d.png": f"{file.name} names no reference for it",
        "e.png": f"{file.name} names an empty path among its references",
    }


def test_a_list_is_refused_where_an_item_has_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "r/1.png", "r/2.png")
    with pytest.raises(DataError, match=r"column 'reference' holds .*list.*; expected text"):
        listed(write_list(tmp_path, ".jsonl", CELLS), is_many=False)


def test_a_data_set_without_references_is_told_the_key(tmp_path: Path) -> None:
    write_layout(tmp_path, "sidecars", ("a.png",))
    expected = (
        r"data\.folders\.reference: nothing in .* names the reference files that conditioning\.kind: references needs; "
        r"set it to the folder of the reference files, or list media and reference files in a metadata file"
    )
    with pytest.raises(DataError, match=expected):
        listed(tmp_path)
    (tmp_path / "a.txt").unlink()
    write_layout(tmp_path, "metadata.csv", ("a.png",))
    with pytest.raises(DataError, match=r"no column of references .*, or its name in data\.columns\.reference, or a folder"):
        listed(tmp_path)


@pytest.mark.parametrize("layout", ["sidecars", "lists", "metadata.csv", "metadata.parquet"])
def test_a_folder_has_one_file_or_numbered_ones_or_a_folder_for_each_item(tmp_path: Path, layout: str) -> None:
    """In the order of numbers, not of letters; suffixes do not matter, and links and places further down are fine."""
    names = ("a.png", "v1.2 clip.mp4", "sub/c.png", "sub/d.png", "e.webp")
    write_layout(tmp_path / "media", layout, names)
    numbered = ["sub/c.10.jpg", "sub/c.2.png", "sub/c.1.webp"]
    inside = ["sub/d/x10.png", "sub/d/x9.png", "sub/d/front.png", "sub/d/back.jpg", "e/2.png", "e/10.png"]
    touch(
        tmp_path / "r", "a.jpg", "v1.2 clip.png", *numbered, *inside, "unused.png", "sub/unused.3.png", "a.txt", ".a.1.png"
    )
    found = listed(tmp_path / "media", folders={"reference": str(tmp_path / "r")})
    assert found.problems == ()
    assert references(found, tmp_path / "r") == {
        "../media/a.png": ["a.jpg"],
        "../media/v1.2 clip.mp4": ["v1.2 clip.png"],
        "../media/sub/c.png": ["sub/c.1.webp", "sub/c.2.png", "sub/c.10.jpg"],
        "../media/sub/d.png": ["sub/d/back.jpg", "sub/d/front.png", "sub/d/x9.png", "sub/d/x10.png"],
        "../media/e.webp": ["e/2.png", "e/10.png"],
    }


def test_a_file_at_the_place_of_one_item_belongs_to_no_other(tmp_path: Path) -> None:
    """Media whose names look like those of another's numbered files, or lie in a folder of another's name."""
    write_layout(tmp_path / "media", "sidecars", ("a.png", "a.1.png", "a/b.png", "a/b/c.png"))
    touch(tmp_path / "r", "a.1.png", "a.2.png", "a.3.png", "a/b.png", "a/b/c.1.png")
    found = listed(tmp_path / "media", folders={"reference": str(tmp_path / "r")})
    assert references(found, tmp_path / "r") == {
        "../media/a.1.png": ["a.1.png"],
        "../media/a.png": ["a.2.png", "a.3.png"],
        "../media/a/b.png": ["a/b.png"],
        "../media/a/b/c.png": ["a/b/c.1.png"],
    }


def test_items_that_share_a_place_share_its_files(tmp_path: Path) -> None:
    write_layout(tmp_path / "media", "metadata.csv", ("a.png", "a.mp4", "a.png"))
    touch(tmp_path / "r", "a.1.png", "a.2.png")
    found = listed(tmp_path / "media", folders={"reference": str(tmp_path / "r")})
    assert found.table["reference"].to_pylist() == [[f"{tmp_path}/r/a.1.png", f"{tmp_path}/r/a.2.png"]] * 3


def test_items_without_files_in_a_clear_order_are_problems(tmp_path: Path) -> None:
    media, folder = tmp_path / "media", tmp_path / "r"
    write_layout(media, "metadata.csv", ("good.png", "none.png", "two.png", "both.png", "twice.png", "../outside.png"))
    touch(folder, "good.1.png", "two.png", "two.jpg", "both.png", "both.1.png", "twice.1.png", "twice.01.png", "outside.png")
    found = listed(media, folders={"reference": str(folder)})
    assert references(found, folder) == {"../media/good.png": ["good.1.png"]}

    def unclear(name: str, *files: str) -> str:
        at = f"{folder}/{name}"
        return (
            f"has 2 references, {', '.join(f'{folder}/{file}' for file in files)}, whose order is unclear; "
            f"number all of them {at}.1, {at}.2 and so on, or put all of them into the folder {at}"
        )

    assert reasons(found, media) == {
        "none.png": (
            f"has no reference {folder}/none, {folder}/none.1 or in a folder {folder}/none, "
            "with the suffix of an image or a video"
        ),
        "two.png": unclear("two", "two.jpg", "two.png"),
        "both.png": unclear("both", "both.png", "both.1.png"),
        "twice.png": unclear("twice", "twice.01.png", "twice.1.png"),
        "../outside.png": (
            f"lies outside {media}, so that data.folders.reference names no reference for it; use data.columns.reference"
        ),
    }


def test_of_a_stream_of_one_file_a_folder_has_the_file_of_the_same_place(tmp_path: Path) -> None:
    write_layout(tmp_path / "media", "sidecars", ("a.png", "b.png"))
    touch(tmp_path / "r", "a.jpg", "b.1.png")
    found = listed(tmp_path / "media", is_many=False, folders={"reference": str(tmp_path / "r")})
    assert found.table["reference"].to_pylist() == [f"{tmp_path}/r/a.jpg"]
    assert list(reasons(found, tmp_path / "media")) == ["b.png"]

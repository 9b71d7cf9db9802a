"""Folders and tables as phones, NAS, downloads and spreadsheets leave them: read rightly, or named with a way out."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_makers import write_tar
from PIL import Image

from finetrainers.config import Config
from finetrainers.config.data import DataConfig
from finetrainers.data.catalog.marks import Marks
from finetrainers.data.curate.reading import _caption
from finetrainers.data.media.files import probe
from finetrainers.data.media.remote_listing import _is_hidden
from finetrainers.data.sources.folders import walk
from finetrainers.data.sources.items import list_items
from finetrainers.data.sources.listing import Listing
from finetrainers.errors import DataError
from finetrainers.files.marks import SYSTEM_FOLDERS

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"
IS_POINTER = "the pointer to a file that git-lfs has not fetched"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(path: Path, **options: Any) -> Listing:
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options))


def names(listing: Listing) -> list[str]:
    return [Path(media).name for media in listing.table["media"].to_pylist()]


def reasons(listing: Listing) -> dict[str, str]:
    return {Path(problem.path).name: problem.reason for problem in listing.problems}


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        listed(path, **options)
    return str(error.value)


@pytest.mark.parametrize("system", sorted(SYSTEM_FOLDERS))
def test_what_a_system_keeps_beside_files_is_no_data(tmp_path: Path, system: str) -> None:
    """With a trigger word, thumbnails of a NAS and what was thrown away would be trained on."""
    touch(tmp_path, "a.png", f"{system}/a.png/thumb.jpg", f"sub/{system}/b.png", "sub/b.png")
    found = listed(tmp_path, caption_prefix="T")
    assert names(found) == ["a.png", "b.png"]
    assert found.passed_over == {"folders of the system": 2}
    assert _is_hidden(f"sub/{system}/b.png")
    assert not _is_hidden(f"sub/my{system}/b.png")
    assert names(listed(tmp_path / system, caption_prefix="T")) == ["thumb.jpg"]  # named itself, it is data


def test_a_second_start_does_not_look_into_folders_of_the_system(tmp_path: Path) -> None:
    def mark() -> str:
        marks = Marks("files")
        marks.add_tree(tmp_path)
        return marks.hexdigest()

    touch(tmp_path, "a.png", "@eaDir/a.png/thumb.jpg")
    before = mark()
    touch(tmp_path, "@eaDir/b.png/thumb.jpg")
    assert mark() == before


NO_CAPTIONS = {
    "pointer": (POINTER, IS_POINTER),
    "page": (b"<!DOCTYPE HTML>\n<html>404", "a web page"),
    "rich": (rb"{\rtf1\ansi hello}", "rich text; save it as plain text"),
    "utf16": ("sixteen".encode("utf-16-le"), "characters of value 0, as UTF-16 without a byte order mark; save it as UTF-8"),
    "latin": ("café".encode("latin-1"), "is not UTF-8 text (byte 0xe9 at 3); save it as such"),
    "unseen": ("\u200b\ufeff \u00a0".encode(), "the caption is empty"),
}


@pytest.mark.parametrize("kind", NO_CAPTIONS)
def test_a_text_that_is_no_caption_is_not_trained_on(tmp_path: Path, kind: str) -> None:
    data, said = NO_CAPTIONS[kind]
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt").write_bytes("\ufeff🐈 <html> of\r\nversion https://git-lfs".encode())
    found = listed(tmp_path)
    assert found.table["captions"].to_pylist() == [["🐈 <html> of\nversion https://git-lfs"]]
    assert said in reasons(found)["a.png"]
    if kind != "unseen":  # data prepare reads captions too
        with pytest.raises(DataError, match=r"a\.txt"):
            _caption(tmp_path / "a.txt")
        assert names(listed(tmp_path, caption_prefix="T")) == ["b.png"]
    assert _caption(tmp_path / "b.txt") == "🐈 <html> of\nversion https://git-lfs"


def test_captions_of_a_table_are_looked_at_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,<html>no</html>\nb.png,yes\n")
    found = listed(tmp_path)
    assert names(found) == ["b.png"]
    assert reasons(found)["a.png"].startswith("the caption is a web page")


@pytest.mark.parametrize("name", ["a.caption", "a.TXT", "a.cap", "a.png.txt"])
def test_a_caption_of_another_name_is_told(tmp_path: Path, name: str) -> None:
    """With a trigger word nobody would see that it is not read."""
    touch(tmp_path, "a.png", name)
    (note,) = listed(tmp_path, caption_prefix="T").notes
    assert note.startswith(f"{tmp_path}: 1 files may be captions and are not read")
    assert note.endswith(f"rename them: {tmp_path}/{name}")
    assert f"rename them: {tmp_path}/{name}" in error_of(tmp_path)
    (tmp_path / "a.txt").write_text("A")
    assert not any("may be captions" in note for note in listed(tmp_path).notes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("more.zip", "1 archives are not read: unpack them"),
        ("b.png.part", "1 files were not downloaded to their end: download them again"),
        ("list.tsv", "1 tables are of formats that are not read: save them as .csv"),
    ],
)
def test_what_may_hold_more_data_is_told(tmp_path: Path, name: str, said: str) -> None:
    touch(tmp_path, "a.png", name)
    found = listed(tmp_path, caption_prefix="T")
    assert [note.partition(": ")[2].startswith(said) for note in found.notes] == [True]
    assert found.passed_over == {Path(name).suffix: 1}
    (tmp_path / "a.png").unlink()
    assert said in error_of(tmp_path)


def test_a_link_that_leads_nowhere_is_said_to_be_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "b.txt").write_text("B")
    (tmp_path / "a.txt").symlink_to("/nowhere/a.txt")
    said = "its caption file a.txt is a link to /nowhere/a.txt, which is not there"
    assert reasons(listed(tmp_path)) == {"a.png": said}
    assert reasons(listed(tmp_path, caption_prefix="T")) == {"a.png": said}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (r"C:\data\a.png", "a.png"),
        ("/home/other/set/sub/b.png", "sub/b.png"),
        ("set/sub/b.png", "sub/b.png"),
        ("file:///mnt/a.png", "a.png"),
        ("a", "a.png"),
        ("c.png", None),
    ],
)
def test_a_missing_file_is_looked_for_by_the_rest_of_its_name(tmp_path: Path, name: str, meant: str | None) -> None:
    """Lists are written on another machine or system, from another folder, or without suffixes."""
    touch(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name},A\n")
    (problem,) = listed(tmp_path).problems
    hint = "" if meant is None else f"; did you mean {meant!r}? Names are relative to the folder of metadata.csv"
    assert problem.reason == f"is listed in metadata.csv, but there is no such file{hint}"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.json", "x.parquet", "0.tar", "captions.txt"])
def test_a_pointer_in_the_place_of_a_list_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "images.txt") if name == "captions.txt" else None
    (tmp_path / name).write_bytes(POINTER)
    message = error_of(tmp_path)
    assert name in message
    assert IS_POINTER in message
    assert "git lfs pull" in message


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"file_name,text\na.png,caf\xe9\n", "line 2 is not UTF-8 text; save it as such"),
        ("a.csv", b"a.png,a cat\n", "its first row names a medium: put one above it that names the columns"),
        ("a.csv", b"PK\x03\x04\x14", "is a zip archive or a spreadsheet by its first bytes; unpack or convert it"),
        ("a.jsonl", b'{"file_name": "a.png", "text": "A"},\n', "remove the commas at the ends of lines"),
        ("a.jsonl", b'[{"file_name": "a.png", "text": "A"}]\n', "one list of objects is .json"),
        ("a.zip", b"PK\x03\x04\x14", "unpack it, and name the folder"),
        ("a.png", b"", "name the folder that it lies in"),
    ],
)
def test_a_list_that_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    message = error_of(tmp_path / name)
    assert said in message
    assert "double quotes" not in message


def test_a_table_of_unknown_columns_names_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["https://example.com/a.jpg"], "caption": ["A"]}), tmp_path / "x.parquet")
    assert "x.parquet has the columns url, caption: name that of the media in data.media_column" in error_of(tmp_path)


def test_cells_of_paths_alone_are_read(tmp_path: Path) -> None:
    """Arrow writes ``bytes`` of a type of its own where all are null."""
    touch(tmp_path, "a.png")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "a.png"}], "text": ["A"]}), tmp_path / "train.parquet")
    assert listed(tmp_path).table["media"].to_pylist() == [f"{tmp_path}/a.png"]


def test_cells_that_hold_nothing_known_are_named(tmp_path: Path) -> None:
    cells = [{"bytes": data, "path": None} for data in (b"", b"junk", b"\x00\x01")]
    pq.write_table(pa.table({"image": cells, "text": ["A", "B", "C"]}), tmp_path / "train.parquet")
    said = []
    for media in listed(tmp_path).table["media"].to_pylist():
        with pytest.raises(DataError) as error:
            probe(media)
        said.append(str(error.value).removeprefix(f"{media}: "))
    nothing = "has no suffix, and is not an image or video by its first bytes"
    text = f"{nothing}: by its first bytes it is text ('junk'); rename or replace it"
    assert said == ["the cell is empty (zero bytes)", text, nothing]


@pytest.mark.parametrize("suffix", [".parquet", ".tar"])
def test_a_shard_that_is_not_there_is_told(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"data/train-00000-of-00003{suffix}"
    file.parent.mkdir()
    if suffix == ".tar":
        write_tar(file, [("a.png", b"one"), ("a.txt", b"A")])
    else:
        pq.write_table(pa.table({"image": [b"one"], "text": ["A"]}), file)
    missing = f"data/train-00001-of-00003{suffix}"
    assert listed(tmp_path).notes == (f"{tmp_path}: 2 of 3 files are not there and not used, such as {missing}",)


def test_text_in_the_place_of_an_image_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text('{"error": "denied"}')
    with pytest.raises(DataError, match=r"""by its first bytes it is text \('{"error": "denied"}'\)"""):
        probe(tmp_path / "a.jpg")


def test_the_cache_is_no_data_set(tmp_path: Path) -> None:
    """A second start would find two layouts in it."""
    sections = {"output_dir": "run", "model": {"path": "m"}, "data": [{"path": str(tmp_path), "buckets": [[1, 8, 8]]}]}
    with pytest.raises(ValueError, match=r"cache\.path.*is the folder of data\.0; give the cache a folder of its own"):
        Config(**sections, cache={"path": tmp_path})
    assert Config(**sections, cache={"path": tmp_path / "cache"}).cache.path == tmp_path / "cache"


def test_walking_counts_what_a_system_keeps(tmp_path: Path) -> None:
    touch(tmp_path, "@eaDir/a.png")
    others: Counter[str] = Counter()
    assert list(walk(tmp_path, others)) == []
    assert others == {"folders of the system": 1}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert list(walk(tmp_path, others)) == [f"{tmp_path}/a.png"]

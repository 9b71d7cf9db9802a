# ruff: noqa: PTH102, PTH118, PTH119, PTH123 - names of bytes, which Path does not take
"""Odd tables and folders: read by what is used, or named with row and line; nothing is lost without a word."""

import json
import os
import re
import unicodedata
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_makers import write_tar

from finetrainers.config.data import DataConfig
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.files import probe
from finetrainers.data.sources.folders import walk
from finetrainers.data.sources.items import list_items, open_shards
from finetrainers.errors import DataError


def listed(path, **options):
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options))


def captions(listing):
    """Captions by the name of the file."""
    return {os.path.basename(row["media"]): row["captions"] for row in listing.table.to_pylist()}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def reasons(listing):
    return {os.path.basename(problem.path): problem.reason for problem in listing.problems}


def error_of(path, **options):
    with pytest.raises(DataError) as error:
        listed(path, **options)
    return str(error.value)


# Tables


@pytest.fixture
def folder(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a.png,"a 5 inch screen\nb.png,two\nc.png,three\n', 2),
        ('a.png,one\nb.png,"two\nc.png,"three"\n', 3),
        ('a.png,"one\nand more"\nb.png,"two" of them\nc.png,three\n', 4),
    ],
)
def test_a_quote_that_is_not_closed_is_named_with_its_line(folder, text, line):
    """Otherwise the rows below would be a part of the caption."""
    (folder / "metadata.csv").write_text("file_name,caption\n" + text)
    assert f"the row that begins in line {line} has a quote that is not closed" in error_of(folder)


def test_quotes_in_csv_that_are_right(folder):
    (folder / "metadata.csv").write_text('file_name,caption\na.png,"5"" wide,\nred"\nb.png,5" wide\nc.png,three\n')
    assert captions(listed(folder)) == {"a.png": ['5" wide,\nred'], "b.png": ['5" wide'], "c.png": ["three"]}


def test_rows_of_jsonl_may_be_longer_than_arrows_blocks(folder):
    rows = [{"file_name": "a.png", "text": "one", "flow": [0.5] * 700_000}, {"file_name": "b.png", "text": ["2", "zwei"]}]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert captions(listed(folder)) == {"a.png": ["one"], "b.png": ["2", "zwei"]}


@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl"])
def test_columns_that_are_not_used_may_hold_anything(folder, name):
    rows = [{"file_name": "a.png", "text": "one", "x": 1}, {"file_name": "b.png", "text": "two", "x": {"y": ["z"]}}]
    rows.append({"file_name": "c.png", "text": "three", "x": "text"})
    text = json.dumps(rows) if name.endswith("json") else "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / name).write_text(text)
    assert captions(listed(folder)) == {"a.png": ["one"], "b.png": ["two"], "c.png": ["three"]}


def test_an_object_of_items_is_read_as_a_bare_list(folder):
    rows = [{"file_name": "a.png", "text": ["one", "eins"]}, {"file_name": "b.png", "text": 5}]
    (folder / "metadata.json").write_text(json.dumps(rows))
    bare = listed(folder)
    (folder / "metadata.json").write_text(json.dumps({"items": rows}))
    wrapped = listed(folder)
    assert captions(wrapped) == captions(bare) == {"a.png": ["one", "eins"]}
    assert reasons(wrapped) == reasons(bare)


@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("5", r"column 'text' holds a number \(5\); expected text or a list of texts"),
        ('{"en": "two"}', "column 'text' holds an object"),
        ("NaN", "the caption is missing"),
        ("null", "the caption is missing"),
        ('"\\ud800"', "column 'text' holds half of a character"),
    ],
)
def test_one_odd_cell_is_one_bad_sample(folder, name, value, reason):
    rows = [f'{{"file_name": "{n}.png", "text": {v}}}' for n, v in (("a", '"one"'), ("b", value), ("c", '"three"'))]
    (folder / name).write_text("\n".join(rows) if name.endswith("l") else f"[{', '.join(rows)}]")
    found = listed(folder)
    assert captions(found) == {"a.png": ["one"], "c.png": ["three"]}
    (problem,) = found.problems
    assert problem.path.endswith(("metadata.json, row 2", "metadata.jsonl, row 2", "b.png"))
    assert re.search(reason, problem.reason)


def test_a_list_may_name_one_file(folder):
    rows = [{"file_name": ["a.png"], "text": "one"}, {"file_name": ["b.png", "c.png"], "text": "two"}]
    rows.append({"file_name": "c.png", "text": "three"})
    (folder / "metadata.json").write_text(json.dumps(rows))
    found = listed(folder)
    assert captions(found) == {"a.png": ["one"], "c.png": ["three"]}
    assert reasons(found) == {"metadata.json, row 2": "column 'file_name' holds 2 texts; expected one"}


def test_a_line_that_is_no_json_is_named(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one"}\n\n{"file_name": "b.png", "text": \n')
    assert "cannot be read as jsonl: line 3: " in error_of(folder)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())),
        *(pa.list_(pa.string_view()), pa.list_view(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 1)),
    ],
    ids=str,
)
def test_all_kinds_of_text_in_parquet(folder, kind):
    is_list = "list" in str(kind)
    texts = pa.array([["one"], ["two"]] if is_list else ["one", "two"], kind)
    names = pa.array(["a.png", "b.png"], pa.string_view() if is_list else kind)
    others = pa.array([b"1", None], pa.binary_view())
    pq.write_table(pa.table({"file_name": names, "caption": texts, "other": others}), folder / "metadata.parquet")
    assert captions(listed(folder)) == {"a.png": ["one"], "b.png": ["two"]}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.json", "metadata.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_ends_of_lines(folder, name, encoding, end):
    rows = [{"file_name": "a.png", "caption": "größe"}, {"file_name": "b.png", "caption": 'sh"e'}]
    text = {
        "metadata.csv": 'file_name,caption\na.png,größe\nb.png,"sh""e"\n',
        "metadata.json": json.dumps(rows, ensure_ascii=False, indent=1),
        "metadata.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }[name]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (folder / name).write_bytes((mark + text.replace("\n", end)).encode(encoding))
    assert captions(listed(folder)) == {"a.png": ["größe"], "b.png": ['sh"e']}


def test_a_column_that_is_there_twice(folder):
    (folder / "metadata.csv").write_text("file_name,caption,caption\na.png,one,two\n")
    assert "columns caption, caption may all hold captions" in error_of(folder)
    assert "several columns of the name 'caption'" in error_of(folder, caption_column="caption")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.json", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\xff\xfe", b"\xff\xfea", b"file_name\xff"])
def test_files_of_no_table_are_errors_that_name_them(folder, name, data):
    (folder / name).write_bytes(data)
    assert name in error_of(folder)


def test_names_that_no_file_can_have(folder):
    rows = [{"file_name": name, "text": "x"} for name in ("a\0.png", "n" * 300 + ".png", "a.png/b.png", "a.png")]
    (folder / "metadata.json").write_text(json.dumps(rows))
    found = listed(folder)
    assert captions(found) == {"a.png": ["x"]}
    said = "is listed in metadata.json, but there is no such file"
    assert [problem.reason.partition(";")[0] for problem in found.problems] == [said] * 3


# Names


def test_names_that_look_right_are_found_and_told(tmp_path):
    touch(tmp_path, unicodedata.normalize("NFD", "é/café.png"), "sub/b.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\né/café.png,one\nsub\\b.png,two\n", encoding="utf-8")
    found = listed(tmp_path)
    assert captions(found) == {unicodedata.normalize("NFD", "café.png"): ["one"], "b.png": ["two"]}
    assert "2 names are not spelled as their files" in found.notes[0]
    assert "1 with backslashes" in found.notes[0]
    assert "1 in another Unicode normalization" in found.notes[0]
    assert found.unlisted == 0


def test_a_name_in_other_case_is_not_taken_but_told(tmp_path):
    touch(tmp_path, "Photo.PNG", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\nphoto.png,one\nb.png,two\n")
    assert reasons(listed(tmp_path)) == {
        "photo.png": "is listed in metadata.csv, but there is no such file; did you mean 'Photo.PNG' (other case)?"
    }


def test_a_name_that_could_be_of_two_files_is_not_taken(tmp_path):
    """Two spellings of one name lie there, and neither is that of the list."""
    mixed = "e\u0301\u00e9.png", "\u00e9e\u0301.png"
    touch(tmp_path, *mixed, "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\n\u00e9\u00e9.png,one\nb.png,two\n", encoding="utf-8")
    assert list(captions(listed(tmp_path))) == ["b.png"]


def test_names_that_are_no_text_are_references(tmp_path):
    """Names of old archives: Latin-1."""
    try:
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    for suffix in (b"png", b"txt"):
        with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9", b"\xff." + suffix), "w") as file:
            file.write("a caption")
    touch(tmp_path, "b.png")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "b.png", "text": "B"}) + "\n")
    found = listed(tmp_path, layout="sidecars")
    (odd,) = [row for row in found.table.to_pylist() if row["captions"] == ["a caption"]]
    assert odd["media"] == f"file:{tmp_path}/caf%E9/%FF.png"
    with blob_of(odd["media"]).open() as file:
        assert file.read() == b"a caption"
    with pytest.raises(DataError, match=r"^file:.*caf%E9/%FF\.png: not an image"):
        probe(odd["media"])
    assert len(listed(tmp_path, layout="metadata").table) == 1


def test_files_of_a_stream_are_paired_by_names_that_are_no_text(tmp_path):
    for place in (b"data", b"depth"):
        folder = os.path.join(os.fsencode(tmp_path), place)
        os.mkdir(folder)
        for name in (b"\xe9.png", b"b.png"):
            with open(os.path.join(folder, name), "wb"):
                pass
    for name in (b"\xe9.txt", b"b.txt"):
        with open(os.path.join(os.fsencode(tmp_path), b"data", name), "w") as file:
            file.write("text")
    config = DataConfig(path=str(tmp_path / "data"), buckets=[[1, 8, 8]], folders={"control": str(tmp_path / "depth")})
    found = list_items(config, ["control"])
    assert found.problems == ()
    assert [row["control"].replace("depth", "data") for row in found.table.to_pylist()] == found.table["media"].to_pylist()


# Folders


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path, monkeypatch):
    """And where nothing can take note of it, an error."""
    touch(tmp_path, "a.png", "more/b.png")
    (tmp_path / "a.txt").write_text("a")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = listed(tmp_path)
    assert captions(found) == {"a.png": ["a"]}
    assert reasons(found) == {"more": "the folder cannot be read: Permission denied"}
    with pytest.raises(DataError, match="more: the folder cannot be read: Permission denied"):
        list(walk(tmp_path, Counter()))


LAID_OUT = {
    "webdataset": lambda folder, stem: write_tar(folder / f"{stem}.tar", [("a.png", b"x"), ("a.txt", b"a")]),
    "table": lambda folder, stem: pq.write_table(
        pa.table({"image": [{"bytes": b"x", "path": "a.png"}], "text": ["a"]}), folder / f"{stem}.parquet"
    ),
    "imagefolder": lambda folder, stem: (
        touch(folder, "a.png") or (folder / "metadata.csv").write_text("file_name,text\na.png,a\n")
    ),
    "kohya": lambda folder, stem: touch(folder, "a.png") or (folder / "a.caption").write_text("a"),
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_shards_in_a_folder_that_cannot_be_listed_are_a_problem(tmp_path, monkeypatch, layout):
    for place in ("open", "closed"):
        (tmp_path / place).mkdir()
        LAID_OUT[layout](tmp_path / place, place)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = listed(tmp_path, layout=layout)
    assert len(found.table) == 1
    assert reasons(found) == {"closed": "the folder cannot be read: Permission denied"}
    if layout in ("webdataset", "table"):
        config = DataConfig(path=str(tmp_path), stream=True, layout=layout, buckets=[[1, 8, 8]])
        with pytest.raises(DataError, match=r"closed: the folder cannot be read: Permission denied; .*on_error: skip"):
            open_shards(config)
        found = open_shards(config.model_copy(update={"on_error": "skip"}))
        assert (len(found.refs), [os.path.basename(problem.path) for problem in found.problems]) == (1, ["closed"])


@pytest.mark.parametrize("kind", ["link to itself", "folder", "forbidden"])
def test_a_caption_file_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch, kind):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a")
    if kind == "folder":
        (tmp_path / "b.txt").mkdir()
    else:
        (tmp_path / "b.txt").symlink_to("b.txt")
    found = listed(tmp_path)
    assert captions(found) == {"a.png": ["a"]}
    assert reasons(found)["b.png"].startswith("its caption file b.txt cannot be read: ")


def test_captions_in_utf16_are_read(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("größe\r\nzwei", encoding="utf-16", newline="")
    assert captions(listed(tmp_path)) == {"a.png": ["größe\nzwei"]}


def test_what_a_folder_leaves_over_is_told(tmp_path):
    touch(tmp_path, "a.png", "b.heic", "c.heic", "d.jpg", "d.png", "notes.md")
    for name in ("a", "b", "d", "gone", "readme"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = listed(tmp_path)
    assert captions(found) == {"a.png": ["a"], "d.jpg": ["d"], "d.png": ["d"]}
    assert list(reasons(found)) == ["b.heic"]
    assert "convert it, such as to .png" in reasons(found)["b.heic"]
    assert found.notes == (
        f"{tmp_path}: 1 caption files have no image or video next to them: {tmp_path}/gone.txt",
        f"{tmp_path}: 1 media without captions are of formats that cannot be read here; "
        f"convert it, such as to .png or .jpg: {tmp_path}/c.heic",
        f"{tmp_path}: 1 caption files belong to several media of the same name, and are used for each: {tmp_path}/d.txt",
    )


@pytest.mark.parametrize("has_captions", [False, True])
def test_a_table_that_nobody_reads_is_told_where_media_have_no_captions(tmp_path, has_captions):
    """With a trigger word these media are items; what the table says of them would be lost without a word."""
    touch(tmp_path, "a.png", "a.json", "captions.csv")
    if has_captions:
        (tmp_path / "a.txt").write_text("A")
    found = list_items(DataConfig(path=str(tmp_path), buckets=[[1, 8, 8]], caption_prefix="ohwx"))
    told = f"{tmp_path}: 1 files may list captions and are not read: name one as data.path if it does, or call it metadata"
    assert found.notes == (() if has_captions else (f"{told}: {tmp_path}/captions.csv",))


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_columns_that_are_not_separated_by_commas_are_named(tmp_path, sign, name):
    (tmp_path / "metadata.csv").write_text(f"file_name{sign}text\na.png{sign}A, B\n")
    with pytest.raises(DataError, match=f"its columns are separated by {name}; save it with commas"):
        list_items(DataConfig(path=str(tmp_path), buckets=[[1, 8, 8]]))


def test_a_remote_list_may_name_local_files(tmp_path):
    import fsspec

    touch(tmp_path, "a.png")
    listed_there = f"file_name,text\n{tmp_path}/a.png,A\n{tmp_path}/b.png,B\n"
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/metadata.csv", listed_there.encode())
    found = list_items(DataConfig(path=f"memory://{tmp_path.name}/metadata.csv", buckets=[[1, 8, 8]]))
    assert found.table["media"].to_pylist() == [str(tmp_path / "a.png")]
    assert "there is no such file" in found.problems[0].reason

"""Parquet and Arrow tables that hold media, and folders of save_to_disk: cells as files, and which rows are items."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from layout_makers import STRUCT
from media_factory import counter
from PIL import Image

from finetrainers.config.data import DataConfig
from finetrainers.data.media import blob as blobs, cells
from finetrainers.data.media.blob import Blob, blob_of, register_scheme
from finetrainers.data.media.files import probe
from finetrainers.data.media.sniff import suffix_of
from finetrainers.data.sources import table_file
from finetrainers.data.sources.items import Listing, list_items
from finetrainers.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"


def listed(path: Path, streams: tuple[str, ...] = (), many: tuple[str, ...] = (), **options: object) -> Listing:
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options), streams, many)


def rows(listing: Listing) -> dict[bytes, list[str]]:
    """Captions by what the media hold, which no test here takes for pixels."""
    return {content(row["media"]): row["captions"] for row in listing.table.to_pylist()}


def content(ref: str) -> bytes:
    with blob_of(ref).open() as file:
        return file.read()


def reasons(listing: Listing) -> str:
    return "\n".join(f"{problem.path}: {problem.reason}" for problem in listing.problems)


def struct(*values: tuple[bytes | None, str | None] | None) -> pa.Array:
    return pa.array(
        [None if value is None else dict(zip(("bytes", "path"), value, strict=True)) for value in values], STRUCT
    )


def write(path: Path, table: pa.Table, rows_each: int = 2) -> Path:
    """A table in the format of the suffix, with several row groups or batches."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_each)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path, chunksize=rows_each)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows_each)
    return path


SUFFIXES = (".parquet", ".feather", ".arrow")


# Cells as files


class Piece(bytes):
    """What was read, counted as long as somebody holds it."""

    held = 0

    def __new__(cls, data: bytes) -> "Piece":
        Piece.held += len(data)
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Piece.held -= len(self)


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    num_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = Piece(super().read(size))
        Counted.num_bytes += len(data)
        return data


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files that are no files of this machine, by their references."""
    data: dict[str, bytes] = {}

    @dataclass(frozen=True, slots=True)
    class Kept(Blob):
        def open(self) -> BinaryIO:
            return Counted(data[self.ref])

        def stamp(self) -> str:
            return str(len(data[self.ref]))

    monkeypatch.setattr(blobs, "_schemes", dict(blobs._schemes))
    register_scheme("kept", Kept)
    return data


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("is_local", [True, False], ids=["local", "elsewhere"])
@pytest.mark.parametrize("order", ["forward", "back", "threads"])
def test_every_cell_is_read_in_any_order(
    tmp_path: Path, kept: dict[str, bytes], suffix: str, order: str, *, is_local: bool
) -> None:
    values = [bytes([65 + n]) * n for n in range(1, 20)]
    table = pa.table({"a.b/c": pa.array(values, pa.large_binary()), "image": struct(*((v, "x.png") for v in values))})
    path = write(tmp_path / f"x{suffix}", table, rows_each=3)
    container = str(path)
    if not is_local:
        container = f"kept:{path.name}"
        kept[container] = path.read_bytes()
    scheme = cells.PARQUET if suffix == ".parquet" else cells.ARROW
    for column in table.column_names:
        refs = [cells.cell_refs(scheme, container, column, group=n // 3, names=["a.png"] * 3)[n % 3] for n in range(19)]
        if order == "back":
            refs, expected = refs[::-1], values[::-1]
        else:
            expected = values
        with ThreadPoolExecutor(4 if order == "threads" else 1) as pool:
            assert list(pool.map(content, refs)) == expected
    assert refs == sorted(refs, reverse=order == "back")


def test_the_rows_of_a_group_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, or nearly so as by several threads; and what is kept of it is bounded."""
    path = write(tmp_path / "x.parquet", pa.table({"image": [bytes([n]) * 1000 for n in range(100)]}), rows_each=100)
    monkeypatch.setattr(cells, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(cells, "KEPT_BYTES", 30_000)
    rewound = []
    rewind = cells._ParquetColumn._rewind
    monkeypatch.setattr(cells._ParquetColumn, "_rewind", lambda self: (rewound.append(self), rewind(self)))
    refs = cells.cell_refs(cells.PARQUET, str(path), "image", group=0, names=[""] * 100)
    order = [n ^ 3 for n in range(100)]
    assert [content(refs[n])[0] for n in order] == order
    assert len(rewound) == 1
    assert sum(values.nbytes for _, values in rewound[0]._kept) <= 40_000
    assert content(refs[0])[0] == 0
    assert len(rewound) == 2


def test_a_table_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    ref = cells.cell_refs(cells.PARQUET, str(path), "image", group=0, names=[""])[0]
    for value in (b"one", b"two"):
        write(path, pa.table({"image": [value]}))
        assert content(ref) == value


def test_only_some_tables_stay_open(tmp_path: Path) -> None:
    for n in range(cells.KEPT_TABLES + 3):
        listing = listed(write(tmp_path / f"{n}.parquet", pa.table({"image": [b"x"], "text": ["A"]})))
        content(listing.table["media"][0].as_py())
    assert len(cells._open_sources) == cells.KEPT_TABLES


@pytest.mark.parametrize(
    ("place", "said"), [("#0:0/image/", "null"), ("#0:9/image/", "cannot be read"), ("#9:0/image/", "cannot be read")]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cell_that_is_not_there_is_named(tmp_path: Path, suffix: str, place: str, said: str) -> None:
    path = write(tmp_path / f"x{suffix}", pa.table({"image": pa.array([None, b"x"], pa.binary())}))
    ref = f"{cells.PARQUET if suffix == '.parquet' else cells.ARROW}{path}{place}"
    with pytest.raises(DataError, match=said):
        content(ref)


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (PNG, ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"RIFF\0\0\0\0AVI LIST", ".avi"),
        (b"GIF89a", ".gif"),
        (b"\0\0\0 ftypisom", ".mp4"),
        (b"\0\0\0 ftypqt  ", ".mov"),
        (bytes.fromhex("1a45dfa39f4286") + b"\x42\x82\x84webm", ".webm"),
        (bytes.fromhex("1a45dfa39f4286") + b"\x42\x82\x88matroska", ".mkv"),
        (b"\x80\x04pickle", ""),
    ],
)
def test_media_without_a_name_are_known_by_their_first_bytes(tmp_path: Path, head: bytes, suffix: str) -> None:
    assert suffix_of(head) == suffix
    path = write(tmp_path / "x.parquet", pa.table({"image": [head], "text": ["A"]}))
    assert blob_of(listed(path).table["media"][0].as_py()).suffix == suffix


# Rows


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_may_hold_bytes_or_name_a_file(tmp_path: Path, suffix: str) -> None:
    """In one column; each row that does neither is named, and so is each file that is not there."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.png").write_bytes(b"file")
    image = struct(
        (b"cell", "/elsewhere/a.png"), (None, "sub/b.png"), (None, None), None, (None, "gone.png"), (b"five", None)
    )
    found = listed(write(tmp_path / f"x{suffix}", pa.table({"image": image, "text": list("ABCDEF")})))
    assert rows(found) == {b"cell": ["A"], b"file": ["B"], b"five": ["F"]}
    assert found.table["media"].to_pylist()[0] == f"{tmp_path}/sub/b.png"
    said = reasons(found)
    assert f"{tmp_path}/gone.png: is listed in x{suffix}, but there is no such file" in said
    for row in (3, 4):
        assert f"x{suffix}, row {row}: its cell holds no media, and names none" in said
    assert len(found.problems) == 3


TYPES = {
    "string_view": pa.array(["A", "B"], pa.string_view()),
    "large": pa.array(["A", "B"], pa.large_string()),
    "dictionary": pa.array(["A", "B"]).dictionary_encode(),
    "lists": pa.array([["A"], ["B"]], pa.list_(pa.string())),
}


@pytest.mark.parametrize("kind", ["large", "dictionary", "lists"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_of_any_arrow_type(tmp_path: Path, suffix: str, kind: str) -> None:
    table = pa.table({"image": pa.array([b"one", b"two"], pa.large_binary()), "text": TYPES[kind], "id": [1, 2]})
    assert rows(listed(write(tmp_path / f"x{suffix}", table))) == {b"one": ["A"], b"two": ["B"]}


@pytest.mark.parametrize("media", ["image", "video", "jpg", "mp4", "img"])
@pytest.mark.parametrize("caption", ["text", "caption", "txt"])
def test_columns_of_common_names_are_found(tmp_path: Path, media: str, caption: str) -> None:
    """A column of names beside that of bytes does not make it unclear."""
    table = pa.table({media: [b"one"], caption: ["A"], "file_name": ["a.png"], "__key__": ["a"]})
    assert rows(listed(write(tmp_path / "x.parquet", table))) == {b"one": ["A"]}


def test_columns_are_named_where_they_are_unclear(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", pa.table({"image": [b"one"], "video": [b"two"], "text": ["A"]}))
    with pytest.raises(DataError, match="columns image, video may all hold media paths; name one in data.media_column"):
        listed(path)
    assert rows(listed(path, media_column="video")) == {b"two": ["A"]}


def test_streams_are_columns(tmp_path: Path) -> None:
    table = {"image": [b"one", b"two"], "control": struct((b"c", "c.png"), None), "text": ["A", "B"]}
    (tmp_path / "r.png").touch()
    table["reference"] = pa.array([["r.png", "r.png"], ["r.png"]])
    found = listed(write(tmp_path / "x.parquet", pa.table(table)), ("control", "reference"), ("reference",))
    (row,) = found.table.to_pylist()
    assert (content(row["media"]), content(row["control"])) == (b"one", b"c")
    assert row["reference"] == [f"{tmp_path}/r.png"] * 2
    assert "its cell holds no control" in reasons(found)
    table["reference"] = pa.array([[{"bytes": b"x", "path": None}]] * 2, pa.list_(STRUCT))
    with pytest.raises(DataError, match="column 'reference' holds list"):
        listed(write(tmp_path / "y.parquet", pa.table(table)), ("reference",), ("reference",))


def test_captions_are_read_without_the_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where statistics tell that no cell is null, listing reads no bytes of any."""
    path = write(tmp_path / "x.parquet", pa.table({"image": struct((b"x" * 1000, "a.png")), "text": ["A"]}))
    read: list[str] = []
    iterate, group = pq.ParquetFile.iter_batches, pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, *a, **k: (read.extend(k["columns"]), iterate(self, *a, **k))[1]
    )
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, n, columns: (read.extend(columns), group(self, n, columns))[1]
    )
    assert len(listed(path).table) == 1
    assert read == ["image.path"]


@pytest.mark.parametrize("kind", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_file_elsewhere_is_listed_with_one_batch_of_it_in_memory(
    kept: dict[str, bytes], kind: Callable[..., Any]
) -> None:
    """And of one in the format for files only the columns that are used are fetched."""
    media, names = struct(*((bytes(1_000_000), f"{n}.png") for n in range(8))), [f"picture {n}" for n in range(8)]
    table, sink = pa.table({"image": media, "text": names, "other": [bytes(1_000_000)] * 8}), io.BytesIO()
    with kind(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    kept["kept:x.arrow"] = sink.getvalue()
    Counted.num_bytes = 0
    before, held = in_memory(), []
    with table_file._opened("kept:x.arrow") as source:
        captions = source.read(["text"])
        held.append(in_memory() - before)
        for named, is_null in source.groups("image"):
            assert (named is not None, is_null.to_pylist()) == (True, [False])
            held.append(in_memory() - before)
    assert captions["text"].to_pylist() == names
    assert held[0] < 500_000
    assert (len(held), max(held) < 3_000_000) == (9, True)
    assert kind is pa.ipc.new_stream or Counted.num_bytes < 8_200_000


def in_memory() -> int:
    """Bytes that Arrow holds: of a stream, batches lie in what its file returned; of a file, in Arrow's own memory."""
    return pa.total_allocated_bytes() + Piece.held


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_table_is_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", pa.table({"image": [b"x" * 1000], "text": ["A"]}))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=rf"x\{suffix}: cannot be read"):
        listed(path, layout="table")


def test_a_damaged_picture_in_a_cell_is_named_by_its_row(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(counter(7)).save(file, "png")
    table = pa.table({"image": [file.getvalue(), file.getvalue()[:200]], "text": ["A", "B"]})
    good, cut = listed(write(tmp_path / "x.parquet", table)).table["media"].to_pylist()
    assert probe(good).width == 128
    with pytest.raises(DataError, match=r"x\.parquet#000000:000000001/image/: cannot be decoded"):
        probe(cut)


# Which tables


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, number in (("train", 0), ("train", 1), ("test", 0)):
        table = pa.table({"image": [f"{split} {number}".encode()], "text": ["A"]})
        write(tmp_path / f"data/{split}-0000{number}-of-00002.parquet", table)
    (tmp_path / "README.md").touch()
    found = listed(tmp_path)
    assert sorted(rows(found)) == [b"train 0", b"train 1"]
    assert (found.layout, found.why) == ("table", "3 .parquet files with a column of media, split train")
    assert found.passed_over == {"files of the split test": 1}
    assert list(rows(listed(tmp_path, split="test"))) == [b"test 0"]


def test_a_table_without_media_is_no_claim(tmp_path: Path) -> None:
    """Such as one of scores beside pictures with captions."""
    write(tmp_path / "scores.parquet", pa.table({"id": [1], "score": [0.5]}))
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_text("A")
    assert listed(tmp_path).layout == "sidecars"


# save_to_disk


def save(folder: Path, **columns: list[object]) -> datasets.Dataset:
    data = datasets.Dataset.from_dict(columns)
    data.save_to_disk(folder)
    return data


def test_saved_paths_and_several_batches(tmp_path: Path) -> None:
    media = [str(tmp_path / f"{n:04d}.png") for n in range(2500)]
    for path in media:
        Path(path).touch()
    data = datasets.Dataset.from_dict({"image": media, "caption": [str(n) for n in range(2500)]})
    data.save_to_disk(tmp_path / "set", num_shards=2)
    found = listed(tmp_path / "set")
    assert dict(zip(found.table["media"].to_pylist(), found.table["captions"].to_pylist(), strict=True)) == {
        path: [str(n)] for n, path in enumerate(media)
    }
    assert (found.layout, found.why) == ("saved", "state.json of save_to_disk")


def test_saved_splits(tmp_path: Path) -> None:
    parts = {
        name: datasets.Dataset.from_dict({"image": [name.encode()], "text": ["A"]}) for name in ("train", "test", "odd")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    found = listed(tmp_path / "set")
    assert (list(rows(found)), found.why) == ([b"train"], "dataset_dict.json of save_to_disk, split train")
    assert found.passed_over == {"splits": 2}
    assert list(rows(listed(tmp_path / "set", split="odd"))) == [b"odd"]
    with pytest.raises(DataError, match="data.split: 'trial'"):
        listed(tmp_path / "set", split="trial")
    with pytest.raises(DataError, match="is one data set without splits"):
        listed(tmp_path / "set/train", split="train")


def test_a_state_that_names_other_places_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "set", image=[b"x"], text=["A"])
    state = json.loads((tmp_path / "set/state.json").read_text())
    state["_data_files"] = [{"filename": "../../etc/x.arrow"}]
    (tmp_path / "set/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="which is not a file next to it"):
        listed(tmp_path / "set")
    (tmp_path / "set/state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json: cannot be read"):
        listed(tmp_path / "set")


def test_a_table_of_no_batches_has_no_items(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema):
        pass
    with pytest.raises(DataError, match=r"x\.arrow|no media|no item"):
        listed(tmp_path / "x.arrow")


def test_splits_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../out"]}')
    with pytest.raises(DataError, match="names a split that is not a folder in it"):
        listed(tmp_path, layout="saved")


def test_several_references_may_be_bytes_in_cells(tmp_path: Path) -> None:
    """What is in a cell is not looked for as a file."""
    table = pa.table({"image": pa.array([b"one", b"two"]), "reference": pa.array([b"r1", b"r2"]), "text": ["One", "Two"]})
    found = listed(write(tmp_path / "x.parquet", table), ("reference",), ("reference",))
    assert found.problems == ()
    assert [[content(ref) for ref in row] for row in found.table["reference"].to_pylist()] == [[b"r1"], [b"r2"]]

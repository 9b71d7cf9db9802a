"""WebDataset shards: which members are items, and that nothing of the others vanishes without a word or is ever run."""

import gzip
import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
from layout_makers import write_tar

from finetrainers.config.data import DataConfig
from finetrainers.data.media.archives import Slice, member_ref
from finetrainers.data.media.blob import blob_of
from finetrainers.data.sources.items import LAYOUTS, Listing, list_items
from finetrainers.data.sources.layout import Wanted
from finetrainers.data.sources.place import place_of
from finetrainers.errors import DataError


def listed(path: Path | str, streams: tuple[str, ...] = (), many: tuple[str, ...] = (), **options: object) -> Listing:
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options), streams, many)


def rows(listing: Listing) -> dict[str, list[str]]:
    """Captions by what the media hold, which no test here takes for pixels."""
    return {content(row["media"]): row["captions"] for row in listing.table.to_pylist()}


def content(ref: str) -> str:
    with blob_of(ref).open() as file:
        return file.read().decode()


def reasons(listing: Listing) -> str:
    return "\n".join(f"{problem.path}: {problem.reason}" for problem in listing.problems)


def as_json(**record: object) -> bytes:
    return json.dumps(record).encode()


# What is an item


def test_members_of_one_name_are_one_sample_wherever_they_stand(tmp_path: Path) -> None:
    """The name ends at its first dot, and folders are part of it."""
    members = [("a/1.jpg", b"one"), ("b/1.png", b"two"), ("./a/1.txt", b"One"), ("b/1.cap", b"Two"), ("a/1.5.x", b"")]
    found = listed(write_tar(tmp_path / "x.tar", members))
    assert rows(found) == {"one": ["One"], "two": ["Two"]}
    assert (found.layout, found.why) == ("webdataset", "1 .tar shard")
    assert (found.problems, found.passed_over) == ((), {".x": 1})
    found = listed(write_tar(tmp_path / "y.tar", [*members, ("c.jpg", b"three")]), caption_prefix="SKS")
    assert rows(found) == {"one": ["One"], "two": ["Two"], "three": [""]}


@pytest.mark.parametrize(
    ("members", "options", "expected"),
    [
        ([("a.txt", b"One ")], {}, ["One"]),
        ([("a.caption", b"One")], {}, ["One"]),
        ([("a.json", as_json(text="One", id=3))], {}, ["One"]),
        ([("a.json", as_json(captions=["One", "Two"]))], {}, ["One", "Two"]),
        ([("a.json", as_json(caption="Two")), ("a.txt", b"One")], {}, ["One"]),
        (
            [("a.json", as_json(short="Two", caption="")), ("a.txt", b"One")],
            {"caption_column": ["short", "txt"]},
            ["Two", "One"],
        ),
        ([("a.long.txt", b"Two"), ("a.txt", b"One")], {"caption_column": "long"}, ["Two"]),
        ([("a.txt", b"One\nTwo\n")], {"caption_lines": True}, ["One", "Two"]),
        ([("a.txt", "größe".encode("utf-8-sig"))], {}, ["größe"]),
    ],
)
def test_captions(tmp_path: Path, members: list[tuple[str, bytes]], options: dict[str, object], expected: list[str]) -> None:
    found = listed(write_tar(tmp_path / "x.tar", [("a.jpg", b"media"), *members]), **options)
    assert rows(found) == {"media": expected}


def test_streams_are_members_with_their_name(tmp_path: Path) -> None:
    members = [("a.png", b"media"), ("a.mask.png", b"mask"), ("a.control_image.jpg", b"control"), ("a.txt", b"A")]
    members += [("a.reference.10.png", b"ten"), ("a.reference.9.png", b"nine"), ("a.depth.png", b"deep")]
    path = write_tar(tmp_path / "x.tar", members)
    row = listed(path, ("mask", "control", "reference"), ("reference",)).table.to_pylist()[0]
    named = {name: content(row[name]) for name in ("media", "mask", "control")}
    assert named == {"media": "media", "mask": "mask", "control": "control"}
    assert [content(ref) for ref in row["reference"]] == ["nine", "ten"]
    other = listed(path, ("control",), columns={"control": "depth"}).table.to_pylist()[0]
    assert content(other["control"]) == "deep"
    assert sum(listed(path).passed_over.values()) == 5
    assert "has no member a.rejected.SUFFIX, its rejected" in reasons(listed(path, ("rejected",)))


def test_media_may_have_a_name_of_their_own(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.image.png", b"one"), ("a.other.png", b"two"), ("a.txt", b"A")])
    assert rows(listed(path)) == {"one": ["A"]}
    assert rows(listed(path, media_column="other")) == {"two": ["A"]}
    twice = write_tar(tmp_path / "y.tar", [("a.png", b"one"), ("a.jpg", b"two"), ("a.txt", b"A")])
    assert "has 2 media, a.png, a.jpg; name one in data.media_column" in reasons(listed(twice))


# What is none


def test_what_is_no_item_is_counted_or_named(tmp_path: Path) -> None:
    members = [("a.jpg", b"one"), ("a.txt", b"One"), ("a.cls", b"3"), ("a.json", b"{"), ("._a.jpg", b""), ("a.cap", b"")]
    members += [("bare.jpg", b""), ("lonely.txt", b"No media"), ("odd.jpg", b""), ("odd.txt", b"\xff"), ("README", b"")]
    members += [("number.jpg", b""), ("number.json", as_json(caption=3)), ("list.jpg", b""), ("list.json", b"[]")]
    found = listed(write_tar(tmp_path / "x.tar", [*members, ("long.jpg", b""), ("long.txt", b"a" * (1 << 21))]))
    assert rows(found) == {"one": ["One"]}
    assert found.passed_over == {
        ".cls": 1,
        "hidden files": 1,
        "without suffix": 1,
        ".json, where a .txt is the caption": 1,
        ".cap, where a .txt is the caption": 1,
    }
    said = reasons(found)
    for part in (
        "bare.jpg: the caption is missing",
        "lonely: has a caption, but no media",
        "odd: its caption cannot be read",
    ):
        assert part in said
    for part in (
        "number: its caption cannot be read: 'caption' of its .json holds 3",
        "list: its caption",
        "more than a caption",
    ):
        assert part in said


def test_two_keys_that_may_be_captions_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b""), ("a.json", as_json(text="A", prompt="B"))])
    with pytest.raises(DataError, match=r"x\.tar: a: text, prompt may all hold captions; name one in data.caption_column"):
        listed(path)


def test_a_malicious_archive_writes_runs_and_reads_nothing(tmp_path: Path) -> None:
    """No name leads out, no link is followed, and what can hold pickles is not read; each is named."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    members = [
        ("../out.png", b"x"),
        (f"{tmp_path}/abs.png", b"x"),
        ("a/../../up.txt", b"x"),
        ("b.pkl", bomb),
        ("b.pth", bomb),
    ]
    path = write_tar(tmp_path / "set" / "x.tar", [("good.png", b"good"), ("good.txt", b"Good"), *members])
    with tarfile.open(path, "a") as archive:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../secret.png"
            archive.addfile(member)
    found = listed(path.parent)
    assert rows(found) == {"good": ["Good"]}
    assert reasons(found).count("its name leads out of the archive; it is not read") == 3
    for name in ("s.png", "h.png"):
        assert f"{name}: is a link to ../secret.png; store the file itself" in reasons(found)
    assert "d.png: is no plain file" in reasons(found)
    assert found.passed_over == {".pkl (never read)": 1, ".pth (never read)": 1}
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["secret.png", "set", "x.tar"]


# Shards that are damaged


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    members = [pair for n in range(4) for pair in ((f"{n}.jpg", bytes([65 + n]) * 700), (f"{n}.txt", b"A"))]
    return write_tar(tmp_path / "x.tar", members)


@pytest.mark.parametrize("kept", [512 * 13 + 100, 512 * 14 + 100, 512 * 15])
def test_a_truncated_shard_is_named_and_the_rest_of_it_is_kept(shard: Path, kept: int) -> None:
    """In a header, in a member, and between two of them: 5 blocks a sample."""
    shard.write_bytes(shard.read_bytes()[:kept])
    found = listed(shard)
    assert len(found.table) in (2, 3)
    assert f"{shard}: truncated" in reasons(found)


def test_damage_in_the_middle_of_a_shard_is_named(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[512 * 10 : 512 * 11] = b"\xaa" * 512
    shard.write_bytes(data)
    found = listed(shard)
    assert len(found.table) == 2
    assert f"{shard}: something that is no member begins at byte 5120" in reasons(found)


def test_archives_one_after_the_other_are_named(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes() * 2)
    assert "archives were put one after the other" in reasons(listed(shard))


@pytest.mark.parametrize("data", [b"", b"not a tar" * 100, gzip.compress(b"x" * 2000, mtime=0)])
def test_what_is_no_tar_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar: cannot be read as a tar archive"):
        listed(tmp_path)


def test_a_compressed_shard_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"x\.tar\.gz is compressed as a whole.*unpack it to a plain \.tar"):
        listed(tmp_path)


# Which shards


def shards(folder: Path, *names: str) -> None:
    for name in names:
        write_tar(folder / name, [("a.jpg", name.encode()), ("a.txt", b"A")])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s-{00..02}.tar", ["s-00.tar", "s-01.tar", "s-02.tar"]),
        ("{s-00,t-1}.tar", ["s-00.tar", "t-1.tar"]),
        ("s-*.tar", ["s-00.tar", "s-01.tar", "s-02.tar", "s-10.tar"]),
        ("[st]-?{0,1}.tar", ["s-00.tar", "s-01.tar", "s-10.tar"]),
        ("", ["s-00.tar", "s-01.tar", "s-02.tar", "s-10.tar", "t-1.tar"]),
        ("../sh*/t-1.tar", ["t-1.tar"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    shards(tmp_path / "shards", "s-00.tar", "s-01.tar", "s-02.tar", "s-10.tar", "t-1.tar")
    assert sorted(rows(listed(f"{tmp_path}/shards/{pattern}"))) == expected


@pytest.mark.parametrize("pattern", ["s-{00..02}.tar", "t*.tar"])
def test_a_pattern_whose_files_are_not_there_is_an_error(tmp_path: Path, pattern: str) -> None:
    shards(tmp_path, "s-00.tar", "s-02.tar")
    with pytest.raises(DataError, match=r"data.path: there is no file .*(s-01|t\*)\.tar of the pattern"):
        listed(tmp_path / pattern)
    with pytest.raises(DataError, match="stands for"):
        listed(tmp_path / "{0..9999999}.tar")


def test_the_split_is_train_unless_another_is_named(tmp_path: Path) -> None:
    shards(tmp_path, "train-0.tar", "train-1.tar", "test/0.tar", "my_val.tar", "latest.tar")
    found = listed(tmp_path)
    assert (sorted(rows(found)), found.why) == (["train-0.tar", "train-1.tar"], "5 .tar shards, split train")
    assert found.passed_over == {"files of the split test": 1, "files of the split validation": 1, "files of no split": 1}
    assert sorted(rows(listed(tmp_path, split="validation"))) == ["my_val.tar"]
    assert sorted(rows(listed(tmp_path, split="val"))) == ["my_val.tar"]
    with pytest.raises(DataError, match="data.split: 'trial': no file of .* there are test, train, validation"):
        listed(tmp_path, split="trial")


def test_splits_without_train_are_an_error_that_lists_them(tmp_path: Path) -> None:
    shards(tmp_path, "test-0.tar", "valid-0.tar")
    with pytest.raises(DataError, match="has the splits test, validation; name one in data.split"):
        listed(tmp_path)


def test_shards_and_pictures_in_one_folder_are_two_layouts(tmp_path: Path) -> None:
    shards(tmp_path, "0.tar")
    (tmp_path / "b.jpg").touch()
    (tmp_path / "b.txt").write_text("B")
    with pytest.raises(DataError, match=r"has several layouts \(sidecars: .*; webdataset: 1 \.tar shard\)"):
        listed(tmp_path)
    assert list(rows(listed(tmp_path, layout="webdataset"))) == ["0.tar"]


def test_pieces_listed_alone_are_the_whole(tmp_path: Path) -> None:
    shards(tmp_path, "train-0.tar", "train-1.tar", "test-0.tar")
    layout = next(layout for layout in LAYOUTS if layout.name == "webdataset")
    config = DataConfig(path=str(tmp_path), buckets=[[1, 8, 8]])
    pieces = layout.shards(place_of(config.path), config)
    assert pieces == [f"{tmp_path}/train-0.tar", f"{tmp_path}/train-1.tar"]
    alone = [row for ref in pieces for row in layout.shard_items(ref, Wanted(config)).table.to_pylist()]
    assert alone == listed(tmp_path).table.to_pylist()


# Members as files


def test_a_member_is_a_file_that_ends_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "odd # 1:2" / "x.tar"
    write_tar(path, [("a#3:4/50%.jpg", b"0123456789"), ("a#3:4/50%.txt", b"A")])
    ref = listed(path).table["media"][0].as_py()
    assert (blob_of(ref).suffix, blob_of(ref).stamp()) == (".jpg", blob_of(str(path)).stamp())
    with blob_of(ref).open() as file:
        assert (file.read(), file.read()) == (b"0123456789", b"")
        assert (file.seek(-3, os.SEEK_END), file.read(100), file.tell()) == (7, b"789", 10)
        assert (file.seek(2), file.seek(3, os.SEEK_CUR), file.read(2)) == (2, 5, b"56")
        assert (file.seek(20), file.read()) == (20, b"")


def test_closing_a_member_closes_its_archive() -> None:
    archive = io.BytesIO(b"0123456789")
    with io.BufferedReader(Slice(archive, 2, 3)) as file:
        assert file.read() == b"234"
    assert archive.closed


def test_a_member_of_an_archive_in_an_archive(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "inner.tar", [("a.jpg", b"deep")]).read_bytes()
    outer = write_tar(tmp_path / "outer.tar", [("inner.tar", inner)])
    ref = member_ref(member_ref(str(outer), 512, len(inner), "inner.tar"), 512, 4, "a.jpg")
    assert content(ref) == "deep"
    assert blob_of(ref).stamp() == blob_of(str(outer)).stamp()


@pytest.mark.parametrize("ref", ["tar:", "tar:/x.tar", "tar:/x.tar#12/a.jpg", "tar:/x.tar#a:b/c.jpg"])
def test_a_reference_of_another_form_is_named(ref: str) -> None:
    with pytest.raises(DataError, match="no reference to something in a file"):
        blob_of(ref).open()


@pytest.mark.long
def test_a_member_more_costs_little(tmp_path: Path) -> None:
    """1 000 000 members are to take minutes: 60 us each at most, with room for a busy machine."""
    members = [pair for n in range(5000) for pair in ((f"{n:06d}.jpg", b"x"), (f"{n:06d}.txt", b"A caption"))]
    path = write_tar(tmp_path / "x.tar", members)
    start = time.process_time()
    assert len(listed(path).table) == 5000
    assert (time.process_time() - start) / len(members) < 200e-6


def test_a_member_of_negative_size_ends_the_shard(tmp_path: Path) -> None:
    """Python before 3.13.6 would read it again and again (CVE-2025-8194)."""
    file = write_tar(tmp_path / "x.tar", [("a.jpg", b"one"), ("a.txt", b"One"), ("b.jpg", b"two"), ("b.txt", b"Two")])
    data = bytearray(file.read_bytes())
    header = data.index(b"b.jpg")
    data[header + 124 : header + 136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    info = tarfile.TarInfo.frombuf  # the checksum of a header is of all its bytes, itself as blanks
    data[header + 148 : header + 156] = b" " * 8
    data[header + 148 : header + 156] = f"{sum(data[header : header + 512]):06o}\0 ".encode()
    assert info(bytes(data[header : header + 512]), "utf-8", "strict").size == -512
    file.write_bytes(data)
    found = listed(file)
    assert rows(found) == {"one": ["One"]}
    assert "damaged" in reasons(found)  # read as its end, or by a later Python as no member


@pytest.mark.parametrize("record", [b'{"caption": "\\ud800"}', b"[" * 200_000])
def test_a_record_that_cannot_be_read_is_a_bad_sample(tmp_path: Path, record: bytes) -> None:
    members = [("a.jpg", b"one"), ("a.json", record), ("b.jpg", b"two"), ("b.txt", b"Two")]
    found = listed(write_tar(tmp_path / "x.tar", members))
    assert rows(found) == {"two": ["Two"]}
    assert "its caption cannot be read" in reasons(found)


def test_shards_in_linked_folders_are_found(tmp_path: Path) -> None:
    shards(tmp_path / "elsewhere", "0.tar")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "back").symlink_to(tmp_path / "set")
    assert len(listed(tmp_path / "set").table) == 1

"""Remote data: a run on it is the run on a local folder, whatever the server does meanwhile."""

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from layout_makers import LAYOUT_MAKERS
from runs import config_of, curve, flux_tree, write_pictures
from servers import Bucket, S3Requests, Web, s3_server, web_server

from finetrainers.config.data import DataConfig
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import probe_all
from finetrainers.data.media import remote, remote_facts, remote_retry
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.remote_disk import Disk
from finetrainers.data.sources.items import LAYOUTS, list_items
from finetrainers.data.sources.place import place_of
from finetrainers.errors import DataError, StorageError
from finetrainers.training.run import train

SIDECARS = {"a.txt": b"a red ball", "b.txt": b"a blue ball\r\n", "deep/c.txt": b"a cube", "notes.md": b"-"}
Server = tuple[Any, S3Requests]
"""A client of it, and its requests."""


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    import botocore.session

    with s3_server() as (address, requests):
        yield botocore.session.get_session().create_client("s3", endpoint_url=address), requests


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


@pytest.fixture
def bucket(s3: Server, request: pytest.FixtureRequest) -> Bucket:
    client, requests = s3
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    client.create_bucket(Bucket=name)
    requests.all.clear()
    return Bucket(name, client, requests)


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of copies of the test's own, nothing known of earlier ones, and little patience."""
    remote_facts.forget_all()
    monkeypatch.setattr(remote_retry, "PATIENCE", remote_retry.Patience(attempts=4, first_seconds=0.01))
    remote.keep_copies(tmp_path / "copies", 10**9)
    yield tmp_path / "copies"
    remote.keep_copies(None, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures with captions, one of them in a folder below."""
    write_pictures(tmp_path / "local", 3)
    (tmp_path / "local/deep").mkdir()
    for file in (tmp_path / "local").glob("02.*"):
        file.rename(tmp_path / "local/deep" / file.name)
    return tmp_path / "local"


def data_config(path: object, **changes: object) -> DataConfig:
    return DataConfig(path=str(path), buckets=[(1, 64, 64)], **changes)


def items_of(path: object, **changes: object) -> list[tuple[str, list[str]]]:
    """Names below the place, and captions."""
    table = list_items(data_config(path, **changes)).table
    prefix = f"{str(path).removesuffix('/metadata.jsonl')}/"
    return [(row["media"].removeprefix(prefix), row["captions"]) for row in table.to_pylist()]


def read(ref: str) -> bytes:
    with blob_of(ref).open() as file:
        return file.read()


# ---------------------------------------------------------------------------------------------- single objects


def test_an_object_is_read_once_and_then_from_the_disk(bucket: Bucket) -> None:
    ref = bucket.put("a.bin", b"1234567")
    assert read(ref) == read(ref) == b"1234567"
    assert bucket.requests.gets() == [f"/{bucket.name}/a.bin"]


def test_a_stamp_changes_with_the_bytes_and_only_then(bucket: Bucket, web: Web) -> None:
    for put in (lambda data: bucket.put("a", data), lambda data: web.put("stamped", data)):
        first = blob_of(put(b"one")).stamp()
        assert blob_of(put(b"one")).stamp() == first
        assert blob_of(put(b"two")).stamp() != first
        assert read(put(b"two")) == b"two"


def test_what_shows_no_version_is_told_apart_by_no_later_process(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ETag or time, equal stamps would pass changed bytes for the old ones."""
    ref = web.put("plain", b"one", tells_version=False)
    first = blob_of(ref).stamp()
    assert blob_of(ref).stamp() == first
    monkeypatch.setattr(remote_facts, "THIS_PROCESS", "another")
    assert blob_of(ref).stamp() != first


@pytest.mark.parametrize("trouble", [{"refuse": 2}, {"refuse": 2, "status": 429}, {"cut": 2}, {"seconds": 0.05}])
def test_trouble_that_passes_is_not_seen(web: Web, trouble: dict[str, object]) -> None:
    data = bytes(range(256)) * 100
    ref = web.put("trouble.bin", data, **trouble)
    assert read(ref) == data


@pytest.mark.parametrize("trouble", [{"refuse": 99}, {"cut": 99}, {"extra_length": 9}])
def test_trouble_that_does_not_pass_ends_a_run_and_leaves_nothing_half(
    web: Web, trouble: dict[str, object], disk: Path
) -> None:
    """It is no fault of the sample: ``on_error: skip`` must not train on less because a network was down."""
    ref = web.put("trouble.bin", b"12345678", **trouble)
    with pytest.raises(StorageError, match=rf"^{ref}: cannot be read now .*tried 4 times"):
        read(ref)
    assert [file for file in disk.rglob("*") if file.is_file()] == []


def test_a_length_that_the_listing_does_not_know_is_not_taken(web: Web) -> None:
    """A server that sends less than it said before is asked again, and then refused."""
    ref = web.put("short.bin", b"12345678")
    remote_facts.remember(ref, remote_facts.listed([("", remote_facts.Facts(9, "9"))]))
    with pytest.raises(StorageError, match="8 bytes came, not 9"):
        read(ref)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_lasts_is_not_tried_again(web: Web, status: int) -> None:
    ref = web.put(f"lasting-{status}.bin", b"1", refuse=99, status=status)
    with pytest.raises(FileNotFoundError if status >= 404 else PermissionError):
        remote.copy(ref, Path("/dev/null"))
    assert web.count("GET")[f"/lasting-{status}.bin"] == 1


def test_large_archives_are_read_in_blocks_where_the_server_can(
    web: Web, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    data = bytes(range(251)) * 50
    whole = web.put("whole.tar", data, has_ranges=False)
    for ref in (web.put("parts.tar", data), bucket.put("parts.tar", data), whole):
        with blob_of(ref).open() as file:
            file.seek(5500)
            assert file.read(20) == data[5500:5520]
            assert file.seek(-7, 2) == len(data) - 7
            assert file.read() == data[-7:]
            assert ref == whole or web.count("GET")["/parts.tar"] in (0, 3), "two blocks, and whether it has ranges"
            file.seek(0)
            assert file.read() == data
        web.requests.clear()


def test_copies_stay_within_their_limit_and_the_latest_stay(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "copies", limit=10_000)
    fetched: list[str] = []

    def get(name: str, size: int = 1000) -> None:
        def fetch(file: Path) -> None:
            fetched.append(name)
            file.write_bytes(name.encode() * size)

        with disk.open(name, fetch) as file:
            assert file.read() == name.encode() * size
        copies = [file.stat().st_size for file in (tmp_path / "copies").rglob("*") if file.is_file()]
        assert sum(copies) <= 10_000

    for name in "abcdefghijklmnopqrstuvwxyz":
        get(name)
        get("a")
    assert fetched.count("a") == 1
    get("z")
    assert fetched.count("z") == 1
    get("B", size=20_000)  # more than the limit: it is read, not kept


def test_an_open_copy_stays_readable_when_it_has_to_go(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "copies", limit=1000)
    with disk.open("a", lambda file: file.write_bytes(b"a" * 900) and None) as first:
        with disk.open("b", lambda file: file.write_bytes(b"b" * 900) and None) as second:
            assert second.read() == b"b" * 900
        assert first.read() == b"a" * 900


def test_a_disk_that_takes_no_copy_is_named(bucket: Bucket, tmp_path: Path) -> None:
    ref = bucket.put("a.bin", b"1234567")
    (tmp_path / "file").touch()
    remote.keep_copies(tmp_path / "file/copies", 10**9)
    with pytest.raises(StorageError, match=r"^cache\.path: .*cannot be written"):
        read(ref)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"gs://bucket/a\.png: .*pip install '\./finetrainers\[gcs\]'"):
        read("gs://bucket/a.png")


def test_objects_are_copied_many_at_once_before_they_are_looked_at(web: Web, folder: Path, tmp_path: Path) -> None:
    """One thread that looks at them waits for the server once, not for each of them."""
    refs = [web.put(f"slow/{number}.png", (folder / "00.png").read_bytes(), seconds=0.2) for number in range(8)]
    remote_facts.remember("", remote_facts.listed([(ref, blob_of(ref).facts()) for ref in refs[:1]]))
    stamp = remote_facts.recall(refs[0])
    remote_facts.remember("", remote_facts.listed([(ref, stamp) for ref in refs]))
    memo = Memo(tmp_path / "memo.sqlite")
    web.most_at_once = 0
    facts, problems = probe_all(pa.chunked_array([refs]), memo, 1, lambda _: None)
    memo.close()
    assert facts["is_good"].all()
    assert problems == []
    assert web.most_at_once > 3
    assert max(web.count("GET")[f"/slow/{number}.png"] for number in range(8)) == 1


@pytest.mark.parametrize(
    "module, name, arguments, kind",
    [
        ("botocore.exceptions", "NoCredentialsError", {}, "denied"),
        ("botocore.exceptions", "ReadTimeoutError", {"endpoint_url": "x"}, "passes"),
        ("botocore.exceptions", "EndpointConnectionError", {"endpoint_url": "x"}, "passes"),
        ("aiohttp", "ClientPayloadError", {}, "passes"),
        ("aiohttp", "ServerDisconnectedError", {}, "passes"),
        ("builtins", "TimeoutError", {}, "passes"),
        ("builtins", "ConnectionResetError", {}, "passes"),
        ("builtins", "FileNotFoundError", {}, "missing"),
        ("builtins", "PermissionError", {}, "denied"),
        ("builtins", "IsADirectoryError", {}, "other"),
    ],
)
def test_what_a_failure_means(module: str, name: str, arguments: dict[str, Any], kind: str) -> None:
    error = getattr(importlib.import_module(module), name)(**arguments)
    assert remote_retry.kind_of(error) == kind


def test_what_gives_access_is_named(bucket: Bucket) -> None:
    from botocore.exceptions import NoCredentialsError

    def refuse() -> None:
        raise NoCredentialsError

    with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID .*FSSPEC_S3_ANON=true"):
        remote_retry.patiently("s3://bucket/a.png", refuse)


def test_a_mistake_of_ours_is_not_told_as_one_of_the_server() -> None:
    def mistake() -> None:
        raise TypeError("ours")

    with pytest.raises(TypeError):
        remote_retry.patiently("s3://bucket/a.png", mistake)


# ---------------------------------------------------------------------------------------------- places


def test_a_remote_folder_has_the_items_of_the_local_one(bucket: Bucket, folder: Path) -> None:
    (folder / "00.txt").write_bytes(b"\xef\xbb\xbffirst\r\nsecond \r\n")
    (folder / "alone.png").write_bytes((folder / "00.png").read_bytes())
    place = bucket.put_folder(folder, "set")
    for changes in ({}, {"caption_lines": True}, {"caption_prefix": "SKS"}):
        assert items_of(place, **changes) == items_of(folder, **changes)
    here, there = list_items(data_config(folder)), list_items(data_config(f"{place}/"))
    assert [(Path(p.path).name, p.reason) for p in there.problems] == [(Path(p.path).name, p.reason) for p in here.problems]
    assert (there.layout, there.why) == (here.layout, here.why)


def test_captions_are_fetched_again_only_when_they_change(bucket: Bucket, folder: Path) -> None:
    place = bucket.put_folder(folder, "set")
    first = items_of(place)
    bucket.requests.all.clear()
    assert items_of(place) == first
    assert bucket.requests.gets() == []
    bucket.put("set/01.txt", b"another")
    assert dict(items_of(place))["01.png"] == ["another"]
    assert bucket.requests.gets() == [f"/{bucket.name}/set/01.txt"]


@pytest.mark.parametrize("layout", ["metadata", "lists"])
def test_remote_lists_name_what_is_beside_them(bucket: Bucket, folder: Path, layout: str) -> None:
    names = ["00.png", "./deep/02.png", "01.png", "none.png"]
    for text in folder.rglob("*.txt"):
        text.unlink()
    if layout == "metadata":
        rows = [json.dumps({"file_name": name, "caption": f"about {name}"}) for name in names]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    else:
        (folder / "images.txt").write_text("\n".join(names))
        (folder / "captions.txt").write_text("\n".join(f"about {name}" for name in names))
    place = bucket.put_folder(folder, "set")
    assert items_of(place) == items_of(folder)
    assert len(items_of(place)) == 3
    (problem,) = list_items(data_config(place)).problems
    assert problem.path == f"{place}/none.png"
    assert "there is no such object" in problem.reason


def test_a_local_list_may_name_objects_anywhere(bucket: Bucket, web: Web, folder: Path, tmp_path: Path) -> None:
    picture = (folder / "00.png").read_bytes()
    many = [bucket.put(f"many/{number:02d}.png", picture) for number in range(12)]
    there = [web.put("one picture.png", picture), bucket.put("few/1.png", picture), str(folder / "01.png"), *many]
    gone = [f"{web.address}/gone.png", f"{bucket.address}/few/gone.png", f"{bucket.address}/many/0.png"]
    listed = tmp_path / "list.jsonl"
    listed.write_text("\n".join(json.dumps({"image": ref, "caption": "x"}) for ref in [*there, *gone]))
    listing = list_items(data_config(listed))
    assert listing.table["media"].to_pylist() == sorted(there)
    assert [problem.path for problem in listing.problems] == sorted(gone)
    asked = len(bucket.requests.all)
    stamps = [blob_of(ref).stamp() for ref in there]
    assert len(set(stamps)) >= 2
    assert len(bucket.requests.all) == asked, "objects that were listed are asked for again"


def test_a_folder_of_controls_may_be_remote(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    media, controls = bucket.put_folder(folder, "set"), bucket.put_folder(folder, "controls")
    listing = list_items(data_config(media, control_path=controls), streams=["control"])
    expected = [ref.replace("/set/", "/controls/") for ref in listing.table["media"].to_pylist()]
    assert listing.table["control"].to_pylist() == expected
    assert len(expected) == 3
    with pytest.raises(DataError, match="data.control_path: .*holds the media themselves"):
        list_items(data_config(media, control_path=f"{media}/"), streams=["control"])


@pytest.mark.parametrize(
    "path, message",
    [
        ("s3://BUCKET/sett", r"data\.path: there is no file or folder '.*sett'; did you mean 'set'\?"),
        ("s3://no-such-bucket-here/a", r"data\.path: there is no file or folder"),
        ("WEB/folder/", r"folders of web servers cannot be listed; name a metadata file or a shard there"),
        ("WEB/none.jsonl", r"data\.path: there is no file or folder 'http.*none\.jsonl'"),
        ("s3://BUCKET/empty", r"no media .*1 \.md; expected media files"),
        ("org/name-of-a-set", r"there is no file or folder 'org/name-of-a-set'.*hf://datasets/org/name-of-a-set"),
    ],
)
def test_places_that_are_none_are_named(bucket: Bucket, web: Web, folder: Path, path: str, message: str) -> None:
    bucket.put_folder(folder, "set")
    bucket.put("empty/notes.md", b"-")
    with pytest.raises(DataError, match=message):
        list_items(data_config(path.replace("BUCKET", bucket.name).replace("WEB", web.address)))


def test_a_web_server_serves_a_metadata_file_and_its_media(web: Web, folder: Path) -> None:
    for name in ("00.png", "01.png"):
        web.put(f"set/{name}", (folder / name).read_bytes())
    rows = [json.dumps({"file_name": name, "caption": name}) for name in ("00.png", "01.png")]
    place = web.put("set/metadata.jsonl", "\n".join(rows).encode())
    assert items_of(place) == [("00.png", ["00.png"]), ("01.png", ["01.png"])]
    web.put("set/metadata.jsonl", b"{")
    with pytest.raises(DataError, match=rf"^{place}: cannot be read as jsonl"):
        items_of(place)


def test_folders_in_memory_and_by_file_address_work_too(folder: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").put(str(folder), "/set", recursive=True)
    assert items_of("memory://set") == items_of(folder)
    assert list_items(data_config(f"file://{folder}")).table.equals(list_items(data_config(folder)).table)


MAKERS = [
    name for name in LAYOUT_MAKERS if name != "kohya" and re.split("[.,]", name)[0] in {layout.name for layout in LAYOUTS}
]


@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_may_be_remote(bucket: Bucket, folder: Path, tmp_path: Path, name: str) -> None:
    """The same items, captions and bytes; no medium is asked for, or read, twice."""
    pictures = [((folder / "00.png").read_bytes(), "a.png", "a ball"), ((folder / "01.png").read_bytes(), "b.png", "a cube")]
    here = LAYOUT_MAKERS[name](tmp_path / "set", pictures)
    there = bucket.put_folder(tmp_path / "set", "set") + str(here).removeprefix(str(tmp_path / "set"))
    tables = [list_items(data_config(path)).table for path in (here, there)]
    assert tables[1]["captions"].equals(tables[0]["captions"])
    assert tables[1]["captions"].to_pylist() == [["a ball"], ["a cube"]]
    assert [read(ref) for ref in tables[1]["media"].to_pylist()] == [data for data, _, _ in pictures]
    assert all(blob_of(ref).stamp() == blob_of(ref).stamp() for ref in tables[1]["media"].to_pylist())
    asked = Counter(request for request in bucket.requests.all if request[1].endswith(".png"))
    assert not asked or max(asked.values()) == 1


@pytest.mark.parametrize("pattern", ["meta{0..1}.parquet", "meta*.parquet"])
def test_patterns_of_remote_files_are_places(bucket: Bucket, pattern: str) -> None:
    for name in ("meta0.parquet", "meta1.parquet", "other.parquet"):
        bucket.put(f"set/{name}", b"-")
    place = place_of(f"{bucket.address}/set/{pattern}")
    assert (place.top(), place.tree((".parquet",)), place.root) == (2 * (["meta0.parquet", "meta1.parquet"],)) + (
        f"{bucket.address}/set",
    )
    assert not place.has("other.parquet")
    with pytest.raises(DataError, match="there is no file"):
        place_of(f"{bucket.address}/set/none-{pattern}")


# ---------------------------------------------------------------------------------------------- the Hub

COMMIT = "0123456789" * 4


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A Hub on this machine, and an empty cache of it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", web.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", web.address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    web.requests.clear()
    return web


def put_repository(hub: Web, folder: Path, name: str) -> str:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    info = {"id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": []}
    hub.put(f"api/datasets/{name}/revision/main", json.dumps(info).encode())
    tree = [
        {"type": "file", "path": path, "size": len(data), "oid": f"{i:040}"} for i, (path, data) in enumerate(files.items())
    ]
    hub.put(f"api/datasets/{name}/tree/{COMMIT}", json.dumps(tree).encode())
    for path, data in files.items():
        hub.put(f"datasets/{name}/resolve/{COMMIT}/{path}", data, headers={"X-Repo-Commit": COMMIT})
    return f"hf://datasets/{name}"


def test_a_repository_is_downloaded_once_and_then_read_without_the_hub(hub: Web, folder: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    place = put_repository(hub, folder, "owner/set")
    table = list_items(data_config(place)).table
    assert table["captions"].to_pylist() == list_items(data_config(folder)).table["captions"].to_pylist()
    assert all(f"/snapshots/{COMMIT}/" in ref for ref in table["media"].to_pylist())
    assert len(list_items(data_config(f"{place}@{COMMIT}/deep")).table) == 1
    assert max(hub.count("GET").values()) == 1
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list_items(data_config(place)).table.equals(table)
    assert hub.requests == []
    with pytest.raises(StorageError, match=r"hf://datasets/owner/other: the Hub cannot be reached .*unset HF_HUB_OFFLINE"):
        list_items(data_config("hf://datasets/owner/other"))


@pytest.mark.parametrize(
    "address, code, message",
    [
        ("hf://datasets/owner/gated", "GatedRepo", "its owners have to let you in.*HF_TOKEN"),
        ("hf://datasets/owner/none", "RepoNotFound", "no such repository, or it is private.*HF_TOKEN"),
        ("hf://owner/none", "RepoNotFound", "a data set is hf://datasets/owner/none"),
        ("hf://datasets/owner/set@old", "RevisionNotFound", "there is no revision 'old'"),
        ("hf://datasets/owner", "", "names no repository; write hf://datasets/owner/name"),
        ("hf://datasets/owner/set/depe", "", "has no 'depe' at commit 0123"),
    ],
)
def test_what_the_hub_refuses_is_named(hub: Web, folder: Path, address: str, code: str, message: str) -> None:
    put_repository(hub, folder, "owner/set")
    status = 403 if code == "GatedRepo" else 404
    for path in (
        "datasets/owner/gated/revision/main",
        "datasets/owner/none/revision/main",
        "models/owner/none/revision/main",
    ):
        hub.put(f"api/{path}", b"", refuse=99, status=status, headers={"X-Error-Code": code})
    hub.put("api/datasets/owner/set/revision/old", b"", refuse=99, status=404, headers={"X-Error-Code": code})
    with pytest.raises(DataError, match=rf"^data\.path: .*{message}"):
        list_items(data_config(address))


# ---------------------------------------------------------------------------------------------- whole runs


def test_a_changed_object_is_looked_at_again(web: Web, tmp_path: Path, folder: Path) -> None:
    picture = (folder / "00.png").read_bytes()
    ref = web.put("changing.png", picture, etag="1")
    memo = Memo(tmp_path / "memo.sqlite")

    def look() -> bytes:
        return probe_all(pa.chunked_array([[ref]]), memo, 1, lambda _: None)[0]["digest"].tobytes()

    first = look()
    web.requests.clear()
    assert look() == first
    assert web.count("GET")["/changing.png"] == 0
    web.put("changing.png", (folder / "01.png").read_bytes(), etag="2")
    assert look() != first
    memo.close()


def test_a_run_on_s3_is_the_run_on_the_local_folder(bucket: Bucket, tiny_flux: Path, folder: Path, tmp_path: Path) -> None:
    place = bucket.put_folder(folder, "set")
    runs = {}
    for name, path, cache in (("local", folder, "a"), ("s3", place, "b"), ("again", place, "b")):
        bucket.requests.all.clear()
        tree = flux_tree(tiny_flux, folder, tmp_path, train={"steps": 2}, loader={"workers": int(name == "s3")})
        tree |= {"output_dir": str(tmp_path / f"run-{name}"), "data": [{"path": str(path), "buckets": [[1, 64, 64]]}]}
        train(config_of({**tree, "cache": {"path": str(tmp_path / cache), "workers": 2}}))
        runs[name] = curve(tmp_path / f"run-{name}", "loss", "grad_norm")
        gets = bucket.requests.gets()
        assert len(gets) == len(set(gets)) == (6 if name == "s3" else 0), gets
    assert runs["s3"] == runs["local"] == runs["again"]
    assert len(runs["s3"]) == 2


def test_what_is_fetched_ahead_ends_when_it_is_left(bucket: Bucket, tmp_path: Path) -> None:
    from finetrainers.data.media.remote_ahead import FetchAhead

    refs = [bucket.put(f"ahead/{number}.png", b"-") for number in range(3)] * 3000
    with pytest.raises(KeyError), FetchAhead(refs):
        raise KeyError

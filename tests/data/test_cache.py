"""The cache and the memo: whole or not there, and never stale."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from finetrainers.data.cache.item import DamagedError, from_bytes, to_bytes
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.data.cache.upkeep import Tally, damaged, evict, remove_leftovers
from finetrainers.data.catalog.memo import Fact, Memo
from finetrainers.data.media.blob import blob_of
from finetrainers.errors import DataError
from finetrainers.files.whole import hash_file


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    tensors = {"mean": torch.randn(4, 1, 2, 3).bfloat16(), "mask": torch.tensor([True, False])}
    assert not cache.has("latents", "ab12")
    cache.write("latents", "ab12", tensors, {"fps": "25.0"})
    assert cache.has("latents", "ab12")
    assert not cache.has("text", "ab12")
    read, metadata = cache.read("latents", "ab12")
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)
    assert metadata["fps"] == "25.0"


def test_equal_items_are_equal_files(tmp_path: Path) -> None:
    metadata = {name: name for name in "hgfedcba"}
    caches = [Cache(tmp_path / str(number)) for number in range(4)]
    for cache in caches:
        cache.write("text", "ab12", {"x": torch.arange(3)}, metadata)
    assert len({cache.file("text", "ab12").read_bytes() for cache in caches}) == 1


def test_a_view_of_a_larger_tensor_is_stored_alone(tmp_path: Path) -> None:
    """A row of a batch must not drag the batch into its file."""
    size = Cache(tmp_path).write("text", "ab", {"x": torch.zeros(100, 1000)[3]}, {})
    assert size < 10_000


def test_a_header_is_read_wherever_its_metadata_stand() -> None:
    data = to_bytes({"x": torch.arange(6.0).view(2, 3), "y": torch.zeros(0, 4)}, {"fps": "25.0"})
    size = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + size])
    metadata_last = json.dumps({**{name: tree[name] for name in ("x", "y")}, "__metadata__": tree["__metadata__"]}).encode()
    moved = len(metadata_last).to_bytes(8, "little") + metadata_last + data[8 + size :]
    for own in (data, moved):
        tensors, metadata = from_bytes(np.frombuffer(bytearray(own), np.uint8))
        assert torch.equal(tensors["x"], torch.arange(6.0).view(2, 3))
        assert (tensors["y"].shape, metadata["fps"]) == ((0, 4), "25.0")


@pytest.mark.parametrize(
    ("was", "instead"),
    [(b"[2,3]", b"[3,3]"), (b"[2,3]", b"[1,3]"), (b'"F32"', b'"F99"'), (b'{"__m', b'{"__n'), (b"}}", b"} ")],
)
def test_a_header_that_was_changed_is_damage(was: bytes, instead: bytes) -> None:
    data = to_bytes({"x": torch.zeros(2, 3)}, {"fps": "25.0"})
    from_bytes(np.frombuffer(bytearray(data), np.uint8))  # what is known of a header must not hide another
    with pytest.raises(DamagedError, match="header"):
        from_bytes(np.frombuffer(bytearray(data.replace(was, instead, 1)), np.uint8))


def test_keys_depend_on_every_part() -> None:
    keys = [
        make_key("a", 1, (0.5, 0.5)),
        make_key("a", 1, (0.5, 0.6)),
        make_key("a", 2, (0.5, 0.5)),
        make_key("b", 1, (0.5, 0.5)),
    ]
    assert len(set(keys)) == 4
    assert make_key("a", 1, (0.5, 0.5)) == keys[0]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = Cache(tmp_path)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        cache.write("text", "abcd", {"x": torch.zeros(3)}, {})
    assert not cache.has("text", "abcd")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    for key in ("aa11", "bb22"):
        cache.write("text", key, {"x": torch.arange(100.0)}, {})
    file = cache.file("text", "aa11")
    data = bytearray(file.read_bytes())
    match damage:
        case "truncated":
            del data[-20:]
        case "flipped":
            data[-20] ^= 1
        case "empty":
            data.clear()
    file.write_bytes(data)
    assert [entry.key for entry in damaged(cache)] == ["aa11"]


def test_a_missing_item_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone or damaged.*cache verify"):
        Cache(tmp_path).read("text", "nothere")


def test_least_recently_used_items_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    sizes = [cache.write("text", key, {"x": torch.zeros(1000)}, {}) for key in ("k1", "k2", "k3", "k4")]
    for age, key in enumerate(("k4", "k3", "k2", "k1")):  # k4 is the newest by its time stamp
        os.utime(cache.file("text", key), (time.time() - 100 * age - 100,) * 2)
    assert cache.has("text", "k1")  # which marks it as used
    assert evict(cache, sum(sizes) - 1, keep={"k2"}).removed == Tally(1, sizes[2])
    assert sorted(entry.key for entry in cache.entries()) == ["k1", "k2", "k4"]
    assert evict(cache, sum(sizes[:2]), keep={"k2"}).removed.items == 1
    assert sorted(entry.key for entry in cache.entries()) == ["k1", "k2"]
    assert evict(cache, 0, keep={"k2"}).over == sizes[1]
    assert [entry.key for entry in cache.entries()] == ["k2"]
    assert [entry.key for entry in cache.entries()] == ["k2"]


def test_the_memo_knows_unchanged_files_only(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    memo = Memo(tmp_path / "memo.sqlite")
    stamp = blob_of(file).stamp()
    fact = Fact(hash_file(file), 3, 4, 5, 24.0, 0.125)
    memo.put([(str(file), stamp, fact)])
    assert Memo(tmp_path / "memo.sqlite").get(str(file), stamp) == fact
    file.write_bytes(b"two!")
    assert memo.get(str(file), blob_of(file).stamp()) is None
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert memo.get(str(file), blob_of(file).stamp()) is None
    memo.close()


def test_the_memo_hashes_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(3_000_000))
    memo = Memo(tmp_path / "memo.sqlite")
    digest = memo.digest(file)
    assert digest == hash_file(file)
    monkeypatch.setattr("finetrainers.data.catalog.memo.hash_file", lambda _: pytest.fail("the file was read again"))
    assert memo.digest(file) == digest
    memo.close()


def test_two_runs_with_one_process_number_write_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers on one volume: neither may rename what the other is writing."""
    names: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: names.append(self.name) or replace(self, target))
    for _ in range(2):
        Cache(tmp_path).write("text", "abcd", {"x": torch.zeros(3)}, {})
    assert len(set(names)) == 2


def test_what_killed_runs_have_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    size = cache.write("text", "abcd", {"x": torch.zeros(3)}, {})
    old, new = (cache.file("text", "abcd").with_name(f".abcd.{name}.tmp") for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    assert evict(cache, size).removed.items == 0
    assert (old.exists(), new.exists(), cache.has("text", "abcd")) == (False, True, True)
    os.utime(new, (time.time() - 4000,) * 2)
    assert remove_leftovers(cache) == 1
    assert not new.exists()

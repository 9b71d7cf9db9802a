"""Packs: many items in a file, which survive whatever kills a writer, and an index that is never more than a help."""

import multiprocessing
import os
import pickle
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from finetrainers.cli.entry import main
from finetrainers.data.cache import convert as converting, packs, writing
from finetrainers.data.cache.convert import convert
from finetrainers.data.cache.index import Index
from finetrainers.data.cache.item import from_bytes, without_zeros
from finetrainers.data.cache.leases import Lease, oldest_lease
from finetrainers.data.cache.packs import KINDS, Kind, Pack, keys_of
from finetrainers.data.cache.reading import Parts
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.data.cache.upkeep import damaged, evict, stored_files
from finetrainers.errors import DONE, USER_ERROR, DataError, MissingItemError, StorageError

SIZE = 100


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No item has a file of its own, but for those of a batch that is too small; ten make a batch."""
    monkeypatch.setattr(writing, "NUM_ALONE", 0)
    monkeypatch.setattr(writing, "BATCH_ITEMS", 10)
    monkeypatch.setattr(converting, "BATCH_ITEMS", 10)


def fill(cache: Cache, numbers: Iterable[int], kinds: Sequence[Kind] = ("latents",)) -> None:
    with cache.in_batches():
        for number in numbers:
            for kind in kinds:
                cache.write(kind, make_key(number), {"x": torch.full((SIZE,), float(number))}, {"number": str(number)})


def numbers_in(cache: Cache) -> list[int]:
    """Which items can be read, all of them with their own numbers."""
    found = []
    for entry in cache.entries():
        tensors, metadata = cache.read(entry.kind, entry.key)
        assert torch.equal(tensors["x"], torch.full((SIZE,), float(metadata["number"])))
        found.append(int(metadata["number"]))
    return sorted(found)


def packs_in(cache: Cache) -> list[Path]:
    return sorted(cache.packs.glob("*.pack"))


def known(cache: Cache, numbers: Sequence[int]) -> list[bool]:
    return list(cache.known("latents", keys_of([make_key(number) for number in numbers])))


def in_child(do: Callable[[], object]) -> int:
    """Run in a forked process; return its exit status, or minus the signal that ended it."""
    process = multiprocessing.get_context("fork").Process(target=do)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- reading and writing ----------------------------------------------------------------------------------------------


def test_items_of_a_batch_are_one_file_and_each_is_read_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(25))
    assert len(packs_in(cache)) == 3
    assert not list(tmp_path.rglob("*.safetensors"))
    assert numbers_in(Cache(tmp_path)) == list(range(25))
    assert known(cache, [3, 99, 24, 3]) == [True, False, True, True]
    assert cache.sizes([("latents", make_key(3)), ("text", make_key(3))])[1] is None
    (place,) = cache.index.places([("latents", bytes.fromhex(make_key(3)))]).values()
    own = (cache.packs / place.pack).read_bytes()[place.start : place.start + place.length]
    assert torch.equal(load(own)["x"], torch.full((SIZE,), 3.0))  # any tool of safetensors reads it


def test_items_begin_at_lines_of_the_processors_cache_and_those_of_older_packs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    monkeypatch.setattr(packs, "ALIGNMENT", 1)  # as in packs of older versions
    fill(cache, range(10, 20))
    new, old = (
        cache._places([("latents", make_key(number)) for number in numbers]).values()
        for numbers in (range(10), range(10, 20))
    )
    assert {place.start % 64 for place in new} == {0}
    assert sorted(place.start for place in old) == [place.length * number for number, place in enumerate(old)]
    assert numbers_in(cache) == list(range(20))


def test_the_first_items_of_a_fill_have_a_file_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there at once, and a small cache is files that other tools open."""
    monkeypatch.setattr(writing, "NUM_ALONE", 5)
    cache = Cache(tmp_path)
    fill(cache, range(25))
    assert len(list(tmp_path.glob("latents/??/*.safetensors"))) == 5
    assert [one.items for one in stored_files(cache) if one.is_pack] == [10, 10]
    assert numbers_in(cache) == list(range(25))


def test_a_batch_opens_each_pack_once_and_has_its_items_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, opened, system_open = Cache(tmp_path), list[str](), os.open
    fill(cache, range(33))  # three packs, and three items with a file each
    numbers = [*np.random.default_rng(0).permutation(33).tolist(), 7, 31]
    items: list[tuple[Kind, str]] = [("latents", make_key(number)) for number in numbers]
    cache.sizes(items)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda file, *rest: opened.append(file) or system_open(file, *rest))
        found = cache.read_all(items)
    assert [int(tensors["x"][0]) for tensors, _ in found] == numbers
    assert sorted(file for file in opened if file.endswith(".pack")) == [str(pack) for pack in packs_in(cache)]


@pytest.mark.parametrize("num_asked", [1, 30, 3000])
def test_what_is_known_is_what_is_there(tmp_path: Path, num_asked: int) -> None:
    """Whether the index is asked for some keys, or looked through, and whether own files are looked for or listed."""
    cache, random = Cache(tmp_path), np.random.default_rng(num_asked)
    fill(cache, range(0, 400, 2))
    for number in range(1000, 1003):
        cache.write("latents", make_key(number), {"x": torch.zeros(SIZE)}, {"number": str(number)})
    asked = random.integers(0, 3000, num_asked).tolist()
    expected = [number in range(0, 400, 2) or number in range(1000, 1003) for number in asked]
    assert known(cache, asked) == expected
    assert not cache.known("text", keys_of([make_key(number) for number in asked])).any()


def test_a_batch_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a slow encoder loses little when it is killed."""
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(writing.time, "monotonic", lambda: float(next(clock)))
    cache = Cache(tmp_path)
    with cache.in_batches() as batches:
        waiting = []
        for number in range(5):
            cache.write("latents", make_key(number), {"x": torch.zeros(1)}, {})
            waiting.append(len(batches.waiting))
    assert max(waiting) < 5
    assert waiting[-1] < max(waiting)
    assert cache.has("latents", make_key(0))


def test_an_error_between_two_items_keeps_what_is_done(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def items() -> Iterator[int]:
        yield from range(7)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(cache, items())
    assert numbers_in(cache) == list(range(7))


def test_zeros_at_the_end_of_a_text_are_not_stored(tmp_path: Path) -> None:
    """Wan's captions are [512, 4096] however short they are."""
    text = torch.zeros(512, 4096, dtype=torch.bfloat16)
    text[:20] = torch.randn(20, 4096)
    text[7] = 0
    whole = {"prompt_embeds": text, "pooled": torch.zeros(16), "empty": torch.zeros(4, 3)}
    cache = Cache(tmp_path)
    size = cache.write("text", make_key(0), *without_zeros(whole))
    assert size < 20 * 4096 * 2 + 1000
    read, _ = cache.read("text", make_key(0))
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in whole.items())


# -- processes --------------------------------------------------------------------------------------------------------


def test_a_forked_process_opens_the_index_for_itself(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    assert known(cache, [1]) == [True]

    def read() -> None:
        before = cache.index._opened
        assert before is not None
        assert cache.read("latents", make_key(4))[1]["number"] == "4"
        assert cache.index._opened is not None
        assert cache.index._opened[1] is not before[1]

    assert in_child(read) == 0
    fill(cache, range(10, 20))
    assert numbers_in(cache) == list(range(20))


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    """Packs are their own, and the index takes both."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(Cache(tmp_path), range(first, first + 200))) for first in (0, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert numbers_in(Cache(tmp_path)) == list(range(300))


@pytest.mark.parametrize("place", ["rename", "index"])
def test_a_writer_that_is_killed_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Before the pack has its name, or between the pack and the index."""
    cache = Cache(tmp_path)
    fill(cache, range(10))
    target, name = (Path, "replace") if place == "rename" else (type(cache.index), "add")

    def filling() -> None:
        monkeypatch.setattr(target, name, lambda *_, **__: die())
        fill(Cache(tmp_path), range(10, 20))

    assert in_child(filling) == -signal.SIGKILL
    num_whole = 10 if place == "rename" else 20  # what is in a pack is found, whoever was to enter it
    assert known(Cache(tmp_path), range(20)) == [number < num_whole for number in range(20)]
    assert numbers_in(cache) == list(range(num_whole))
    for file in cache.packs.glob(".*.tmp"):
        os.utime(file, (1e9, 1e9))
    evict(cache, 10**9)
    assert not list(cache.packs.glob(".*.tmp"))


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=rf"^cache.path: {cache.packs}/\S+ cannot be written: No space .* make room"):
            fill(cache, range(10, 20))
    assert numbers_in(Cache(tmp_path)) == list(range(10))
    assert len(list(cache.packs.iterdir())) == 1
    fill(cache, range(10, 20))
    assert numbers_in(Cache(tmp_path)) == list(range(20))


@pytest.mark.parametrize("bad", KINDS)
def test_what_cannot_be_written_of_one_kind_costs_nothing_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Kind
) -> None:
    write_pack = writing.write_pack

    def refusing(root: Path, kind: Kind, items: Sequence[tuple[bytes, bytes]]) -> Pack:
        if kind == bad:
            raise DataError("no room")
        return write_pack(root, kind, items)

    monkeypatch.setattr(writing, "write_pack", refusing)
    cache = Cache(tmp_path)
    with pytest.raises(DataError, match="no room"):
        fill(cache, range(5), KINDS)
    assert {entry.kind for entry in cache.entries()} == set(KINDS) - {bad}
    assert len(list(cache.entries())) == 5


# -- the index --------------------------------------------------------------------------------------------------------


def test_an_index_that_is_lost_is_made_again(tmp_path: Path) -> None:
    fill(Cache(tmp_path), range(25))
    (tmp_path / "index.sqlite").unlink()
    assert all(known(Cache(tmp_path), range(25)))
    assert numbers_in(Cache(tmp_path)) == list(range(25))


@pytest.mark.parametrize("may_write", [False, True])
def test_a_cache_that_may_only_be_read_needs_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    fill(Cache(tmp_path), range(25))
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / "index.sqlite").symlink_to(tmp_path / "nowhere" / "index.sqlite")  # cannot be made, not even by root
    monkeypatch.setattr(os, "access", lambda *_: may_write)
    if may_write:
        with pytest.raises(StorageError, match="change the permissions"):
            known(Cache(tmp_path), range(25))
        return
    assert Cache(tmp_path).has("latents", make_key(3))
    assert all(known(Cache(tmp_path), range(25)))
    assert numbers_in(Cache(tmp_path)) == list(range(25))


def test_a_cache_that_may_only_be_read_serves_packs_that_its_index_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(Cache(tmp_path), range(10))
    with monkeypatch.context() as patch:
        patch.setattr(Index, "add", lambda *_, **__: None)
        fill(Cache(tmp_path), range(10, 20))
    connect = sqlite3.connect

    def read_only(path: Path | str, **settings: Any) -> sqlite3.Connection:
        is_file = isinstance(path, Path)
        return connect(f"file:{path}?mode=ro" if is_file else path, uri=is_file, **settings)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    monkeypatch.setattr(os, "access", lambda *_: False)
    cache = Cache(tmp_path)
    assert all(known(cache, range(20)))
    assert numbers_in(pickle.loads(pickle.dumps(cache))) == numbers_in(cache) == list(range(20))
    assert pickle.loads(pickle.dumps(cache)).has("latents", make_key(15))


def test_an_index_that_is_damaged_is_named_with_the_way_out(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    cache.index.close()
    (tmp_path / "index.sqlite").write_bytes(b"no database " * 999)
    with pytest.raises(StorageError, match=rf"^cache.path: {tmp_path}/index.sqlite cannot be used.*is made again"):
        known(cache, [1])


def test_an_index_that_another_run_holds_for_too_long_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetrainers.data.cache.index.BUSY_SECONDS", 0.1)
    cache = Cache(tmp_path)
    fill(cache, range(10))
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="another run has held it for too long"):
            fill(Cache(tmp_path), range(10, 20))
    assert numbers_in(Cache(tmp_path)) == list(range(20))


def test_a_pack_that_somebody_removed_holds_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    fill(cache, range(10, 20))
    packs_in(cache)[0].unlink()
    assert sum(known(cache, range(20))) == 10
    assert len(numbers_in(cache)) == 10
    gone = next(number for number in range(20) if not cache.has("latents", make_key(number)))
    with pytest.raises(MissingItemError, match="gone or damaged"):
        cache.read("latents", make_key(gone))


def test_a_pack_that_another_run_writes_meanwhile_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    asked = cache.index.packs

    def asked_late() -> dict[str, tuple[int, int]]:
        fill(Cache(tmp_path), range(10, 20))
        return asked()

    monkeypatch.setattr(cache.index, "packs", asked_late)
    cache.refresh()
    assert all(cache.has("latents", make_key(number)) for number in range(20))


# -- damage -----------------------------------------------------------------------------------------------------------


def flip(file: Path, place: int) -> None:
    contents = bytearray(file.read_bytes())
    contents[place] ^= 1
    file.write_bytes(contents)


def test_a_flipped_byte_is_found_and_only_its_item_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    (place,) = cache.index.places([("latents", bytes.fromhex(make_key(3)))]).values()
    flip(cache.packs / place.pack, place.start + place.length - 5)
    assert [entry.key for entry in damaged(cache)] == [make_key(3)]
    assert main(["cache", "verify", str(tmp_path)]) == USER_ERROR
    said = capsys.readouterr().out
    assert said == f"removed {make_key(3)} of {cache.packs / place.pack}: damaged\n9 items are whole, 1 were damaged\n"
    assert numbers_in(cache) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert main(["cache", "verify", str(tmp_path)]) == DONE


def test_a_pack_that_is_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    (pack,) = packs_in(cache)
    (place,) = cache.index.places([("latents", bytes.fromhex(make_key(5)))]).values()
    os.truncate(pack, place.start + 50)
    with pytest.raises(MissingItemError, match=f"item {make_key(5)}"):
        cache.read("latents", make_key(5))
    for number in range(10):
        cache.remove_damaged("latents", make_key(number))
    assert numbers_in(cache) == list(range(5))
    assert known(cache, range(10)) == [True] * 5 + [False] * 5


def test_a_damaged_directory_is_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    (pack,) = packs_in(cache)
    flip(pack, -60)
    assert main(["cache", "verify", str(tmp_path)]) == USER_ERROR
    assert f"rewrote {pack}: " in capsys.readouterr().out
    (tmp_path / "index.sqlite").unlink()
    assert numbers_in(Cache(tmp_path)) == list(range(10))


# -- eviction ---------------------------------------------------------------------------------------------------------


def age(cache: Cache) -> None:
    """Let all packs have been used long ago, the later the longer ago their last item was written."""
    for number, file in enumerate(packs_in(cache)):
        os.utime(file, (1e9 + number, 1e9 + number))


def bytes_of(cache: Cache) -> int:
    return sum(one.bytes for one in stored_files(cache))


def test_whole_packs_go_before_any_is_written_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(30))
    age(cache)
    needed = [int(cache.read("latents", e.key)[1]["number"]) for e in cache.entries() if e.pack == packs_in(cache)[0].name]
    left = evict(cache, bytes_of(cache) - 100, keep={make_key(needed[0])})
    assert left.removed.items == 10
    assert left.over == 0
    assert needed[0] in numbers_in(cache)
    assert len(numbers_in(cache)) == 20


def test_a_pack_of_which_little_is_kept_gives_its_room_back(tmp_path: Path) -> None:
    """The limit counts what files take on the disk, not what is used of them."""
    cache = Cache(tmp_path)
    fill(cache, range(30))
    age(cache)
    limit = bytes_of(cache) // 5
    assert evict(cache, limit, keep={make_key(number) for number in (3, 14, 25)}).over == 0
    assert bytes_of(cache) <= limit
    assert sum(file.stat().st_size for file in packs_in(cache)) == bytes_of(cache)
    assert numbers_in(cache) == [3, 14, 25]
    assert all(file.stat().st_mtime < 2e9 - 1e8 and file.stat().st_mtime < time.time() - 1e6 for file in packs_in(cache))


@pytest.mark.parametrize("way", ["evict", "remove"])
def test_an_item_of_two_packs_stays_when_one_of_them_goes(tmp_path: Path, way: str) -> None:
    """Two runs have encoded it at once."""
    cache = Cache(tmp_path)
    fill(cache, range(10))
    (first,) = packs_in(cache)
    fill(Cache(tmp_path), range(5, 15))
    if way == "evict":
        os.utime(first, (1e9, 1e9))
        assert evict(cache, bytes_of(cache) - 100).removed.items == 10
        assert not first.exists()
        assert all(cache.has("latents", make_key(number)) for number in range(5, 15))
        assert numbers_in(cache) == list(range(5, 15))
    else:
        cache.remove(*(entry for entry in cache.entries() if entry.key == make_key(7)))
        assert numbers_in(cache) == list(range(15))


def test_what_a_living_run_needs_of_a_pack_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(30))
    age(cache)
    with closing(Lease(tmp_path)) as lease:
        lease.renew()
        assert known(Cache(tmp_path), [7]) == [True]
        left = evict(cache, 0, since=oldest_lease(tmp_path))
        assert left.held.items == 10
        assert left.over == bytes_of(cache) > 0
        assert 7 in numbers_in(cache)
    evict(cache, 0, since=oldest_lease(tmp_path))
    assert numbers_in(cache) == []
    assert list(cache.packs.iterdir()) == []


@pytest.mark.parametrize("place", ["before the index", "after the index"])
def test_one_that_is_killed_while_it_makes_room_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cache = Cache(tmp_path)
    fill(cache, range(10))
    add = type(cache.index).add

    def killed(self: object, *packs: object, **options: object) -> None:
        if place == "after the index":
            add(self, *packs, **options)  # type: ignore[arg-type]
        die()

    def evicting() -> None:
        monkeypatch.setattr(type(cache.index), "add", killed)
        evict(Cache(tmp_path), 1000, keep={make_key(2)})

    assert in_child(evicting) == -signal.SIGKILL
    assert known(Cache(tmp_path), [2]) == [True]
    assert 2 in numbers_in(cache)
    assert evict(cache, 1000, keep={make_key(2)}).over == 0
    assert numbers_in(cache) == [2]


def test_a_reader_finds_what_moves_while_it_reads(tmp_path: Path) -> None:
    cache, reader = Cache(tmp_path), Cache(tmp_path)
    fill(cache, range(10))
    places = reader._places([("latents", make_key(4))])
    cache.rewrite(packs_in(cache)[0].name, lambda key: key == bytes.fromhex(make_key(4)))
    tensors, _ = from_bytes(reader._read(("latents", make_key(4)), places["latents", make_key(4)], Parts()))
    assert torch.equal(tensors["x"], torch.full((SIZE,), 4.0))


# -- files of their own -----------------------------------------------------------------------------------------------


@contextmanager
def of_today(root: Path, count: int) -> Iterator[Cache]:
    """A cache as older versions wrote it."""
    cache = Cache(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "NUM_ALONE", count)
        fill(cache, range(count))
    for number in range(count):
        os.utime(cache.file("latents", make_key(number)), (1e9 + number, 1e9 + number))
    yield cache


def test_items_with_a_file_each_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with of_today(tmp_path, 25) as cache:
        assert numbers_in(cache) == list(range(25))
        before = {entry.key: cache.file(entry.kind, entry.key).read_bytes() for entry in cache.entries()}
        flip(cache.file("latents", make_key(9)), -5)
    assert main(["cache", "convert", str(tmp_path)]) == USER_ERROR
    said = capsys.readouterr().out
    assert "put 24 items, 0.000 GB, into packs" in said
    assert f"left {cache.file('latents', make_key(9))}: damaged" in said
    assert len(list(tmp_path.glob("latents/??/*.safetensors"))) == 1
    for key, place in cache.index.places([("latents", bytes.fromhex(key)) for key in before]).items():
        contents = (cache.packs / place.pack).read_bytes()[place.start : place.start + place.length]
        assert contents == before[key[1].hex()]
    assert main(["cache", "verify", str(tmp_path)]) == USER_ERROR
    assert main(["cache", "convert", str(tmp_path)]) == DONE
    assert numbers_in(cache) == [number for number in range(25) if number != 9]
    oldest = min(stored_files(cache), key=lambda one: one.used)
    evict(cache, bytes_of(cache) - 1)
    assert not oldest.file.exists()
    assert min(numbers_in(cache)) >= 10  # what was used together is together: the oldest went


@pytest.mark.parametrize("place", ["rename", "add", "unlink"])
def test_a_conversion_that_is_killed_loses_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with of_today(tmp_path, 25) as cache:
        target, name = {"rename": (Path, "replace"), "add": (type(cache.index), "add"), "unlink": (Path, "unlink")}[place]
        calls, call = [], getattr(target, name)

        def killed(*rest: object, **options: object) -> object:
            calls.append(1)
            if len(calls) == 2:
                die()
            return call(*rest, **options)

        def convert_killed() -> None:
            monkeypatch.setattr(target, name, killed)
            convert(Cache(tmp_path))

        assert in_child(convert_killed) == -signal.SIGKILL
        assert all(known(Cache(tmp_path), range(25)))
        assert set(numbers_in(cache)) == set(range(25))
        convert(cache)
        assert numbers_in(cache) == list(range(25))
        assert not list(tmp_path.rglob("*.safetensors"))

"""Leases: what living runs need stays in the cache; what dead ones needed does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from finetrainers.data.cache import upkeep
from finetrainers.data.cache.leases import Lease, oldest_lease
from finetrainers.data.cache.store import Cache
from finetrainers.data.cache.upkeep import evict

HOLDER = """
import sys, time
from pathlib import Path
from finetrainers.data.cache.store import Cache
from finetrainers.data.cache.leases import Lease
lease = Lease(Path(sys.argv[1]))
lease.renew()
for item in sys.argv[2:]:
    assert Cache(Path(sys.argv[1])).has(*item.split("/"))
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def living_run(cache: Path, *needed: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that needs items, each named kind/key."""
    command = [sys.executable, "-c", HOLDER, str(cache), *needed]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Four items that were used long ago."""
    cache = Cache(tmp_path)
    for key in ("k1", "k2", "k3", "k4"):
        cache.write("text", key, {"x": torch.zeros(100)}, {})
        os.utime(cache.file("text", key), (time.time() - 1000,) * 2)
    return cache


def keys(cache: Cache) -> list[str]:
    return sorted(entry.key for entry in cache.entries())


def test_what_a_living_run_needs_stays_until_it_ends(cache: Cache) -> None:
    lease = Lease(cache.root)
    lease.renew()
    cache.has("text", "k2")
    with closing(Lease(cache.root)) as own:
        own.renew()
        cache.has("text", "k3")
        left = evict(cache, 0, since=oldest_lease(cache.root, besides=own))
        assert keys(cache) == ["k2", "k3"]  # k3 was marked after the other's lease began: it may need it as well
        assert left.held.items == 2
        assert left.over == sum(entry.bytes for entry in cache.entries())
        lease.close()
        assert oldest_lease(cache.root, besides=own) is None
        assert not evict(cache, 0, since=oldest_lease(cache.root, besides=own)).over
    assert keys(cache) == []


def test_a_new_window_lets_go_of_the_last_one(cache: Cache) -> None:
    with closing(Lease(cache.root)) as lease:
        lease.renew()
        cache.has("text", "k1")
        assert keep_after_eviction(cache) == ["k1"]
        time.sleep(0.05)  # longer than a tick of the file system's clock
        lease.renew()
        cache.write("text", "k5", {"x": torch.zeros(100)}, {})
        assert keep_after_eviction(cache) == ["k5"]


def keep_after_eviction(cache: Cache) -> list[str]:
    """What another run leaves that wants all the room."""
    evict(cache, 0, since=oldest_lease(cache.root))
    return keys(cache)


def test_a_killed_run_needs_nothing(cache: Cache) -> None:
    """kill -9 gives no time to tidy up: the system lets go of the lock, and the next run removes the file."""
    with living_run(cache.root, "text/k4") as process:
        assert keep_after_eviction(cache) == ["k4"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list((cache.root / "leases").glob("*"))
        assert keep_after_eviction(cache) == []
    assert not list((cache.root / "leases").glob("*"))


def test_a_process_that_is_forked_from_a_run_does_not_hold_its_lease(cache: Cache) -> None:
    """Loader workers outlive a killed run by seconds."""
    lease = Lease(cache.root)
    lease.renew()
    file = lease.file
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"forked")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 1)
        assert lease._lock is not None
        lease._lock.close()  # as kill -9 does
        assert oldest_lease(cache.root) is None
        assert file is not None
        assert not file.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_cache_that_may_only_be_read_has_no_lease(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("no folder can be made here")
    with closing(Lease(tmp_path)) as lease:
        lease.renew()
        lease.renew()
        assert lease.file is None
    assert oldest_lease(tmp_path) is None


def test_an_item_that_is_used_while_room_is_made_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at all items and the removal of one, a run that has just begun may find that it needs it."""
    stored = list(upkeep.stored_files(cache))
    monkeypatch.setattr(upkeep, "stored_files", lambda _: iter(stored))
    cache.has("text", "k1")
    assert evict(cache, 0).removed.items == 3
    assert keys(cache) == ["k1"]

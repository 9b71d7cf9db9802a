"""What lies beside a cache's items, remote copies and snapshots: shown, verified and pruned, never taken from a run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import write_pictures

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import build_catalog
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.snapshot import Snapshots, _read
from finetrainers.data.media import remote_disk
from finetrainers.data.media.remote_disk import Disk

DAY = 24 * 3600
HOLD = remote_disk._hold


@contextmanager
def living_process(root: Path, key: str) -> Iterator[None]:
    """What uses a copy and has mapped all snapshots: locks are of open files, whoever has opened them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_disk, "_locks", locks := dict[Path, int]())
        HOLD(root / "remote")
        Disk(root / "remote", 10**9).open(key, lambda file: file.write_bytes(b"new") and None).close()
        mapped = [_read(file) for file in (root / "snapshots").glob("*.arrow")]
        try:
            yield
        finally:
            mapped.clear()
            for lock in locks.values():
                os.close(lock)


def put(root: Path, key: str, *, days: float) -> Path:
    """A copy of 1000 bytes, last used so many days ago, that an earlier process has fetched."""
    before = set((root / "remote").rglob("?" * 40))
    Disk(root / "remote", 10**9).open(key, lambda file: file.write_bytes(b"x" * 1000) and None).close()
    (file,) = set((root / "remote").rglob("?" * 40)) - before
    os.utime(file, (time.time() - days * DAY,) * 2)
    return file


def start(root: Path, data: Path) -> Path:
    """Let a start keep a snapshot of pictures."""
    memo, before = Memo(root / "memo.sqlite"), set((root / "snapshots").glob("*"))
    try:
        build_catalog(
            [DataConfig(path=str(data), buckets=[[1, 64, 64]])],
            memo,
            workers=1,
            progress=lambda done, total: None,
            snapshots=Snapshots(root, pytest.fail),
        )
    finally:
        memo.close()
    return next(iter(set((root / "snapshots").glob("*")) - before), Path())


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    return main(["cache", *map(str, arguments)]), capsys.readouterr().out


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose copies this process does not hold."""
    monkeypatch.setattr(remote_disk, "_hold", lambda folder: None)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_the_least_recently_used_copies_go_but_none_that_a_living_process_uses(root: Path, capsys) -> None:
    old, used, late = (put(root, key, days=days) for key, days in (("a", 9), ("b", 8), ("c", 2)))
    begun, now = old.with_name(f".{old.name}.1.tmp"), old.with_name(f".{old.name}.2.tmp")
    for file in (begun, now):
        file.write_bytes(b"half")
    os.utime(begun, (1e9, 1e9))
    said = run(capsys, "show", root)[1]
    assert "copies of remote files: 3, 0.000 GB, used 2.0 to 9.0 days ago\n  1 unfinished" in said
    with living_process(root, "b"):
        assert "days ago; living runs use them" in run(capsys, "show", root)[1]
        status, said = run(capsys, "prune", root, "--remote-gb", "0.000002")
        assert (status, old.exists(), used.exists(), late.exists()) == (DONE, False, True, True)
        assert "removed 1 copies of remote files" in said
        run(capsys, "prune", root, "--remote-gb", "0")
        assert (used.exists(), late.exists()) == (True, False)
    assert (begun.exists(), now.exists()) == (False, True)  # the new one may be written now
    assert "removed 1 copies" in run(capsys, "prune", root, "--remote-gb", "0")[1]
    assert not used.exists()


def test_snapshots_go_that_no_start_uses_but_none_that_is_mapped(root: Path, tmp_path: Path, capsys) -> None:
    first, other = write_pictures(tmp_path / "first", 1), write_pictures(tmp_path / "other", 1)
    kept, gone = start(root, first), start(root, other)
    for file in (kept, gone):
        os.utime(file, (1e9, 1e9))
    start(root, first)
    other.rename(tmp_path / "moved")
    said = run(capsys, "show", root)[1]
    assert said.count("which is not there any more") == 1
    assert f"  {gone}: 1 items of {other}, which is not there any more\n" in said
    with living_process(root, "a"):
        said = run(capsys, "prune", root, "--snapshot-days", "30")[1]
        assert "removed 0 snapshots" in said
        assert "kept 1 snapshots" in said
    assert "removed 1 snapshots" in run(capsys, "prune", root, "--snapshot-days", "30")[1]
    assert (kept.exists(), gone.exists()) == (True, False)


def test_a_damaged_snapshot_is_named_and_verify_removes_it(root: Path, tmp_path: Path, capsys) -> None:
    file = start(root, write_pictures(tmp_path / "data", 1))
    assert run(capsys, "verify", root)[0] == DONE
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    assert f"{file}: damaged" in run(capsys, "show", root)[1]
    status, said = run(capsys, "verify", root)
    assert (status, file.exists()) == (USER_ERROR, False)
    assert f"removed {file}: damaged" in said

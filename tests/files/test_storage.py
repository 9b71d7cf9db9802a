"""What the operating system refuses: one message with the path and the way out, in every command and from Python."""

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from runs import Tree, config_of, events_of, flux_tree, merged, write_pictures

from finetrainers import DataError, FinetrainersError, StorageError, encode, sample_run, train
from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, INTERNAL_ERROR, USER_ERROR
from finetrainers.data.cache.store import Cache
from finetrainers.data.catalog.memo import Fact, Memo
from finetrainers.events import WarningEvent
from finetrainers.files.storage import storage_errors
from finetrainers.files.whole import whole_directory, write_whole
from finetrainers.training.track.sinks import EventLog

needs_permissions = pytest.mark.skipif(
    os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere, and cannot give up that right alone"
)
DAC_RIGHTS = 1 << 1 | 1 << 2
"""The rights of root to write and to read where permissions say no; of linux/capability.h, as is VERSION_3."""
VERSION_3 = 0x20080522
OLDER_JOB = "--model_name ltx_video --pretrained_model_name_or_path owner/model --training_type lora --output_dir out"


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run of two pictures whose items are in the cache."""
    root = tmp_path_factory.mktemp("storage")
    tree = flux_tree(tiny_flux, write_pictures(root / "data", 2), root, train={"steps": 2})
    encode(config_of(tree))
    return tree


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """A limit on the size of files stands in for the end of the disk: the same error comes out of the same write."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")  # as a write raises it: without the name of the file


# -- the translation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/run/x"),
            "output_dir: /a/run/x: Permission denied; change its",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/run"), "output_dir: /a/run: Not a directory; something"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/run/cache/x"), "cache.path: /a/run/cache/x: No space left"),
        (OSError(errno.EROFS, "Read-only file system", b"/b/\xff"), "/b/\udcff: Read-only file system; change its"),
        (OSError(errno.EIO, "Input/output error", "/b/c"), "/b/c: Input/output error; see to it"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file or the output cannot be read or written: No space"),
        (OSError("the Hub has no such file"), "the Hub has no such file"),
    ],
    ids=str,
)
def test_the_key_the_path_and_the_way_out_are_named(error: OSError, said: str) -> None:
    places = {"output_dir": Path("/a/run"), "cache.path": Path("/a/run/cache")}
    with pytest.raises(StorageError) as caught, storage_errors(places):
        raise error
    assert str(caught.value).startswith(said)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [BrokenPipeError(), RuntimeError("a defect"), KeyError("x")], ids=repr)
def test_what_is_no_refusal_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors():
        raise error
    assert caught.value is error


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", [train, encode])
@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"output_dir": "{file}"}, "output_dir"),
        ({"output_dir": "{file}/run"}, "output_dir"),
        ({"cache": {"path": "{file}"}}, "cache.path"),
        ({"cache": {"path": "{file}/cache"}}, "cache.path"),
    ],
    ids=str,
)
def test_a_file_in_the_way_is_named_with_its_key(
    do: Callable[[Any], object], sections: Tree, key: str, tree: Tree, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("the user's")
    given = merged(tree, {"output_dir": str(tmp_path / "run"), **sections})
    for section, name in ((given, "output_dir"), (given["cache"], "path")):
        section[name] = section[name].format(file=file)
    with pytest.raises(StorageError, match=f"^{key}: {file}.*something of that name is in the way"):
        do(config_of(given))
    assert file.read_text() == "the user's"


@pytest.mark.parametrize(
    "words",
    [
        ["models", "tiny", "flux", "{file}"],
        ["models", "tiny", "flux", "{file}/flux"],
        ["quickstart", "--output", "{file}"],
        ["quickstart", "--output", "{file}/q"],
        ["sample", "{run}", "--prompt", "x", "--base", "--output", "{file}"],
    ],
    ids=" ".join,
)
def test_every_command_names_a_file_in_the_way(
    words: list[str], tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("the user's")
    assert main([word.format(file=file, run=tree["output_dir"]) for word in words]) == USER_ERROR
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("finetrainers: ")
    assert str(file) in said
    assert file.read_text() == "the user's"


def give_up_root() -> None:
    """Let permissions hold for this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, rights = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable
    assert libc.capget(header, rights) == 0
    rights[0] &= ~DAC_RIGHTS
    rights[1] &= ~DAC_RIGHTS
    assert libc.capset(header, rights) == 0


def commands_without_root(*commands: Sequence[str] | tuple[Path, Path]) -> list[int]:
    """In a process of its own: run the program for each list of words, and copy what a pair of folders says."""
    if os.geteuid() == 0:
        give_up_root()
    statuses = []
    for words in commands:
        if isinstance(words[0], Path):
            shutil.copytree(*words, dirs_exist_ok=True)
        else:
            statuses.append(main(words))
    return statuses


def run_without_root(*commands: Sequence[str] | tuple[Path, Path], folder: Path) -> tuple[list[int], list[str]]:
    """Statuses of the commands, and all lines that they say."""
    (ended,) = ranks.start(commands_without_root, 1, *commands, folder=folder).wait()
    assert ended.status == 0, ended.said
    assert "Traceback" not in ended.said
    return ended.result, ended.said.splitlines()


@needs_permissions
@pytest.mark.slow
def test_a_folder_that_may_not_be_written_is_named(tree: Tree, tmp_path: Path) -> None:
    import yaml

    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(merged(tree, {"output_dir": str(tmp_path / "run")})))
    shut = shutil.copytree(tree["data"][0]["path"], tmp_path / "shut")
    shut.chmod(0o000)
    keys = ("output_dir", "cache.path")
    older = {"datasets": [{"data_root": "data", "video_resolution_buckets": [[9, 64, 64]]}]}
    (tmp_path / "older.json").write_text(json.dumps(older))
    file, job = str(tmp_path / "c.yaml"), f"python train.py {OLDER_JOB} --dataset_config {tmp_path}/older.json"
    commands = [("encode", file, f"{key}={closed}/new") for key in keys]
    commands += [("migrate", job, "--output", f"{closed}/new.yaml"), ("encode", file, f"data.0.path={shut}")]
    early = [("init", f"{closed}/new.yaml"), ("plan", file, "--json", f"{closed}/new.json")]
    early += [("data", "inspect", file, "--output", f"{closed}/new.html")]
    statuses, said = run_without_root(*commands, *early, folder=tmp_path / "ranks")
    shut.chmod(0o755)
    messages = [line.removeprefix("finetrainers: ") for line in said if line.startswith("finetrainers: ")]
    assert statuses == [USER_ERROR] * len(messages)
    way_out = "change its permissions, or name another place"
    refused = f"Permission denied in the folder {closed}; {way_out}"
    assert messages[:3] == [*(f"{key}: {closed}/new: {refused}" for key in keys), f"{closed}/new.yaml: {refused}"]
    assert f"in the folder {shut}; {way_out}" in messages[3]
    places = ("init", "--json", "--output")  # before anything is asked, counted or decoded
    assert messages[4:] == [f"{place}: {closed}: may not be written into; {way_out}" for place in places]


# -- a cache that is read only ----------------------------------------------------------------------------------------


@needs_permissions
@pytest.mark.slow
def test_a_cache_of_others_is_read_and_named_when_it_lacks_something(tree: Tree, tmp_path: Path) -> None:
    import yaml

    data, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(tree["data"][0]["path"], data)
    given = merged(tree, {"output_dir": str(tmp_path / "run"), "cache": {"path": str(cache)}})
    given["data"][0]["path"] = str(data)
    encode(config_of(given))
    for folder in (cache, *cache.rglob("*")):
        folder.chmod(folder.stat().st_mode & ~0o222)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    others = write_pictures(tmp_path / "others", 3, seed=1)
    command = ("encode", str(tmp_path / "c.yaml"))
    statuses, said = run_without_root(command, (others, data), command, folder=tmp_path / "ranks")
    assert statuses == [DONE, USER_ERROR]
    assert f"cache.path: {cache}/memo.sqlite cannot be used" in said[-1]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_items_of_a_cache_that_may_not_be_marked_are_there(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    cache = Cache(tmp_path)
    cache.write("text", "abcd", {"x": torch.zeros(3)}, {})
    monkeypatch.setattr(os, "utime", refuse)
    assert cache.has("text", "abcd")


def test_a_memo_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "memo.sqlite").write_text("the user's, and long enough to be looked at as a database " * 20)
    with pytest.raises(StorageError, match=f"^cache.path: {tmp_path}/memo.sqlite cannot be used: file is not a database"):
        Memo(tmp_path / "memo.sqlite")


def fill(directory: Path) -> None:
    with whole_directory(directory) as temporary:
        (temporary / "00.png").write_bytes(b"x" * 5000)


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_in_the_events(tmp_path: Path) -> None:
    log = EventLog(Path("/dev/full"))
    with pytest.raises(StorageError, match=r"^/dev/full cannot be written: No space left on device; make room"):
        log.write(WarningEvent(message="x"))
    log.close()  # nothing waits that would fail once more


def test_a_full_disk_in_the_events_ends_the_run_with_one_message(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(file: Path) -> EventLog:
        log = EventLog(file)
        log._out.close()
        log._out = open("/dev/full", "ab", buffering=0)  # noqa: PTH123, SIM115 - the log closes it
        return log

    monkeypatch.setattr("finetrainers.training.track.track.EventLog", fill)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/run/events.jsonl cannot be written: No space"):
        train(config_of(merged(tree, {"output_dir": str(tmp_path / "run")})))


def test_a_full_disk_in_the_memo(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo.sqlite")
    found = [(f"/{n}" * 50, f"{n} {n}", Fact(bytes(16))) for n in range(1000)]
    with largest_file(20_000), pytest.raises(StorageError, match=f"^cache.path: {tmp_path}/memo.sqlite cannot be used"):
        memo.put(found)
    memo.put(found[:2])
    assert memo.get(*found[0][:2]) == found[0][2]


def test_a_full_disk_in_the_cache(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(DataError, match=rf"^cache.path: {tmp_path}/text.*File too large; make room"):
        Cache(tmp_path).write("text", "abcd", {"x": torch.zeros(1000)}, {})
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("write", [lambda file: write_whole(file, "x" * 5000), fill], ids=["file", "folder"])
def test_a_full_disk_is_told_with_the_name_of_what_was_written(write: Callable[[Path], None], tmp_path: Path) -> None:
    said = rf"^output_dir: {tmp_path}/x.*: File too large"
    with largest_file(1000), pytest.raises(StorageError, match=said), storage_errors({"output_dir": tmp_path}):
        write(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["config.yaml", "report.json"])
def test_a_full_disk_at_either_end_of_a_run(what: str, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the events can still be written, they have the message."""
    sync, names = os.fsync, os.readlink

    def fsync(descriptor: int) -> None:
        if what in names(f"/proc/self/fd/{descriptor}"):
            full()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=rf"^output_dir: {tmp_path}/run/{what}: No space left on device; make room"):
        train(config_of(merged(tree, {"output_dir": str(tmp_path / "run")})))
    if what == "report.json":
        last = events_of(tmp_path / "run")[-1]
        assert (last["event"], last["kind"]) == ("error", "StorageError")
        assert last["message"].startswith("output_dir: ")


def test_a_full_disk_while_drawing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetrainers.sampling.sample.tempfile.TemporaryDirectory", full)
    with pytest.raises(FinetrainersError, match="No space left on device"):
        sample_run(Path(tree["output_dir"]), [{"prompt": "x", "num_inference_steps": 1}], use_base=True, device="cpu")


# -- the output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("schema > /dev/full", USER_ERROR, "No space left on device; make room"),
        ("schema >&- ", DONE, ""),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(command: str, status: int, said: str) -> None:
    line = f"{sys.executable} -m finetrainers {command}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert said in done.stderr


def test_a_reader_that_is_gone_is_no_traceback() -> None:
    """As in `finetrainers schema | head -c 1`, where what is written first may still find room in the pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "finetrainers", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (INTERNAL_ERROR, "")

"""Files and folders that are whole or not there at all, whatever stops the writer."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from finetrainers.files.whole import MANIFEST, damage, sort_metadata, sort_metadata_of, whole_directory, write_whole


def fill(directory: Path, text: str) -> None:
    """Three files, one of them in a folder and one empty."""
    (directory / "inner").mkdir()
    (directory / "a.txt").write_text(text)
    (directory / "inner" / "b.bin").write_bytes(text.encode() * 1000)
    (directory / "empty").touch()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fill_and_fail(directory: Path, error: BaseException) -> None:
    with whole_directory(directory) as temporary:
        fill(temporary, "new")
        raise error


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A whole directory with the text "old", in a folder of its own."""
    with whole_directory(tmp_path / "root" / "thing") as temporary:
        fill(temporary, "old")
    return tmp_path / "root" / "thing"


def test_what_is_written_is_whole(directory: Path) -> None:
    assert damage(directory) is None
    assert (directory / "inner" / "b.bin").read_bytes() == b"old" * 1000
    assert sorted(json.loads((directory / MANIFEST).read_text())["files"]) == ["a.txt", "empty", "inner/b.bin"]
    assert names_in(directory.parent) == ["thing"]


def test_nothing_is_under_the_name_before_the_body_has_ended(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "thing") as temporary:
        fill(temporary, "new")
        assert not (tmp_path / "thing").exists()
    assert damage(tmp_path / "thing") is None


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Also those of libraries that write what their owner alone may read."""
    before = os.umask(umask)
    try:
        with whole_directory(tmp_path / "d") as temporary:
            (temporary / "part").mkdir()
            for file in (temporary / "a.safetensors", temporary / "part" / "b.safetensors"):
                save_file({"x": torch.zeros(1)}, file)
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "d").rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
def test_a_body_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fill_and_fail(tmp_path / "thing", error)
    assert names_in(tmp_path) == []


def test_a_body_that_fails_leaves_what_was_there(directory: Path) -> None:
    with pytest.raises(RuntimeError):
        fill_and_fail(directory, RuntimeError())
    assert damage(directory) is None
    assert (directory / "a.txt").read_text() == "old"
    assert names_in(directory.parent) == ["thing"]


def test_a_directory_is_replaced_as_a_whole(directory: Path) -> None:
    with whole_directory(directory) as temporary:
        (temporary / "c.txt").write_text("new")
    assert damage(directory) is None
    assert names_in(directory) == ["c.txt", MANIFEST]
    assert names_in(directory.parent) == ["thing"]


def test_what_is_there_comes_back_if_the_new_one_cannot_take_its_place(directory: Path, monkeypatch) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), whole_directory(directory) as temporary:
        fill(temporary, "new")
    assert (directory / "a.txt").read_text() == "old"
    assert names_in(directory.parent) == ["thing"]


def test_leftovers_of_a_killed_writer_are_not_mixed_in(directory: Path) -> None:
    for suffix in ("tmp", "old"):
        shutil.copytree(directory, directory.with_name(f".thing.{suffix}"))
    with whole_directory(directory) as temporary:
        assert names_in(temporary) == []
        fill(temporary, "new")
    assert (directory / "a.txt").read_text() == "new"
    assert names_in(directory.parent) == ["thing"]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda d: os.truncate(d / "inner" / "b.bin", 2999), "inner/b.bin has 2999 bytes, not 3000"),
    "grown": (lambda d: (d / "empty").write_text("x"), "empty has 1 bytes, not 0"),
    "changed": (lambda d: (d / "a.txt").write_text("odd"), "a.txt has other contents"),
    "missing": (lambda d: (d / "empty").unlink(), "empty is missing"),
    "a folder in place of a file": (lambda d: ((d / "empty").unlink(), (d / "empty").mkdir()), "empty is missing"),
    "no manifest": (lambda d: (d / MANIFEST).unlink(), "it has no manifest.json"),
    "no directory": (shutil.rmtree, "it has no manifest.json"),
    "manifest cut off": (lambda d: os.truncate(d / MANIFEST, 50), "its manifest.json is damaged"),
    "manifest empty": (lambda d: os.truncate(d / MANIFEST, 0), "its manifest.json is damaged"),
    "manifest of another kind": (lambda d: (d / MANIFEST).write_text('{"files": []}'), "its manifest.json is damaged"),
    "manifest a list": (lambda d: (d / MANIFEST).write_text("[]"), "its manifest.json is damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(directory: Path, name: str) -> None:
    do, said = DAMAGES[name]
    do(directory)
    assert damage(directory) == said


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_any_one_bit_that_differs_is_damage(directory: Path, choice: st.DataObject) -> None:
    """Also in the manifest, where it may spoil a name, a number, a hash or the JSON; never an error of ours."""
    files = [f for f in sorted(directory.rglob("*")) if f.is_file() and f.stat().st_size]
    file = choice.draw(st.sampled_from(files))
    before = file.read_bytes()
    text = before.decode()
    start = text.index('"files"') if file.name == MANIFEST else 0  # the version before it is not read
    bit = choice.draw(st.integers(8 * start, 8 * len(before) - 1))
    contents = bytearray(before)
    contents[bit // 8] ^= 1 << bit % 8
    file.write_bytes(contents)
    try:
        is_same = file.name == MANIFEST and is_same_json(contents, before)
        assert (damage(directory) is None) == is_same
    finally:
        file.write_bytes(before)


def is_same_json(one: bytes | bytearray, other: bytes) -> bool:
    """Whether both hold the same value: a space that becomes a newline changes nothing."""
    try:
        return json.loads(one.decode())["files"] == json.loads(other)["files"]
    except (ValueError, KeyError):
        return False


@pytest.mark.parametrize("text", ["", "new", "ä\n\u2028" * 5000], ids=["empty", "short", "long"])
def test_write_whole_replaces_a_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")
    write_whole(file, text)
    assert file.read_bytes() == text.encode()
    assert names_in(tmp_path) == ["a.json"]


# A writer that is killed at each of its operations in turn: audit hooks see every open, mkdir, rename and remove.
KILLED = """
    import json, os, shutil, signal, sys
    from pathlib import Path
    from finetrainers.files.whole import MANIFEST, damage, whole_directory, write_whole

    root = Path(sys.argv[1])
    thing = root / "thing"

    def write_directory(text):
        with whole_directory(thing) as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text(text)

    def write_file(text):
        write_whole(thing, text)

    def state():
        names = sorted(os.listdir(root))
        if not thing.exists():
            aside = root / ".thing.old"
            return "aside" if damage(aside) is None and (aside / "a").read_text() == "old" else "lost"
        if thing.is_file():
            return thing.read_text()
        return damage(thing) or "".join(sorted({(thing / name).read_text() for name in ("a", "b")}))

    def killed_at(write, operation):
        child = os.fork()
        if not child:
            seen = 0
            def hook(event, arguments):
                nonlocal seen
                if event in ("open", "shutil.rmtree") or event.startswith("os."):
                    if seen == operation:
                        os.kill(os.getpid(), signal.SIGKILL)
                    seen += 1
            sys.addaudithook(hook)
            write("new")
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

    for write in (write_directory, write_file):
        for before in ("old", None):
            states, operation, was_killed = [], 0, True
            while was_killed:
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                if before:
                    write(before)
                was_killed = killed_at(write, operation)
                states.append(state())
                write("again")
                states[-1] += "/" + state() + "/" + ",".join(sorted(os.listdir(root)))
                operation += 1
            print(json.dumps([write.__name__, before, states]))
"""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], list[list[str]]]:
    """What was there after each kill, after the next write, and which names it left."""
    root = tmp_path_factory.mktemp("killed") / "root"
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(root)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {(name, before is not None): [entry.split("/") for entry in entries] for name, before, entries in rows}


@pytest.mark.parametrize("kind", ["write_directory", "write_file"])
def test_kill_at_any_operation_leaves_the_old_or_the_new(states, kind: str) -> None:
    found = [after for after, _, _ in states[kind, True]]
    assert len(found) > (10 if kind == "write_directory" else 2)
    assert found == sorted(found, key=["old", "aside", "new"].index)  # never a mix, and never back to the old
    assert found[0] == "old"
    assert found[-1] == "new"
    assert found.count("aside") <= 1  # between two renames the old one is whole under the name .thing.old


@pytest.mark.parametrize("kind", ["write_directory", "write_file"])
def test_kill_at_any_operation_leaves_nothing_or_the_new(states, kind: str) -> None:
    found = [after for after, _, _ in states[kind, False]]
    assert found == sorted(found, key=["lost", "new"].index)
    assert (found[0], found[-1]) == ("lost", "new")


def test_the_next_writer_is_not_disturbed_by_a_killed_one(states) -> None:
    assert {(again, names) for runs in states.values() for _, again, names in runs} == {("again", "thing")}


def test_sorted_metadata_leave_the_tensors_where_they_are(tmp_path: Path) -> None:
    """Whatever the names and texts: equal contents give equal bytes, of the same length, that read back the same."""
    tensors = {f"layer.{n}.ä\u2028": torch.full((3, n), n, dtype=torch.bfloat16) for n in range(1, 5)}
    metadata = {f"{n}\t\x1f\x7f": 'a "b" \\ / ü \U0001f600\n' for n in range(20)}
    written = [save(tensors, dict(items)) for items in (metadata.items(), list(metadata.items())[::-1])]
    first, second = map(sort_metadata, written)
    assert first == second == sort_metadata(first)
    assert len(first) == len(written[0])
    for number, data in enumerate((*written, save(tensors))):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(data)
        sort_metadata_of(file)
        assert file.read_bytes() == (first if number < 2 else data)
    with safe_open(tmp_path / "0.safetensors", framework="pt") as found:
        assert found.metadata() == metadata
        assert set(found.keys()) == tensors.keys()
        assert all(torch.equal(found.get_tensor(name), tensor) for name, tensor in tensors.items())

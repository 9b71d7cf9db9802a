"""Files that are whole or not there at all, whatever kills the process."""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

BLOCK_BYTES = 1 << 20
DIGEST_BYTES = 16
SAMPLES, SAMPLE_BYTES = 256, 4096
MANIFEST = "manifest.json"
Facts = dict[str, dict[str, object]]
"""Size and hash of files, by their names in a directory."""
HEADER_START = 8
"""Bytes of a safetensors file before its header: they hold its length."""


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory; rename it to ``directory`` once all in it is on the disk.

    A manifest with the size and hash of each file is written last. An existing directory is replaced: it is moved aside
    whole, and removed once the new one is in its place. If the body fails, nothing is left behind.
    """
    temporary = begin_directory(directory)
    try:
        yield temporary
        finish_directory(directory, file_facts(temporary))
    except BaseException as error:
        name_path(error, directory)
        drop_directory(directory)
        raise


def begin_directory(directory: Path) -> Path:
    """Make the temporary directory of one that is to be whole, and empty."""
    temporary, _ = _beside(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def file_facts(temporary: Path, files: Iterable[Path] | None = None) -> Facts:
    """Flush files of a temporary directory to the disk, by default all of them, and say what a manifest says of them."""
    found = sorted(temporary.rglob("*")) if files is None else files
    return {str(file.relative_to(temporary)): _facts(file) for file in found if file.is_file()}


def finish_directory(directory: Path, facts: Facts) -> None:
    """Write the manifest of a temporary directory whose files are on the disk, and let it take its place."""
    temporary, aside = _beside(directory)
    write_whole(temporary / MANIFEST, json.dumps({"version": 1, "files": facts}, indent=1))
    share_mode(temporary, of=temporary / MANIFEST)
    for folder in {temporary, *(f for f in temporary.rglob("*") if f.is_dir())}:
        _sync(folder)
    if directory.exists():
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
    temporary.rename(directory)
    _sync(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def drop_directory(directory: Path) -> None:
    """Remove the temporary directory of one that cannot be whole; what was there before is there again."""
    temporary, aside = _beside(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    if aside.exists() and not directory.exists():
        aside.rename(directory)


def _beside(directory: Path) -> tuple[Path, Path]:
    """Where a directory is made, and where the one before it goes meanwhile."""
    temporary, aside = (directory.with_name(f".{directory.name}.{suffix}") for suffix in ("tmp", "old"))
    return temporary, aside


def sweep(root: Path) -> None:
    """Remove what a killed process left of directories of steps; one that was about to be replaced has its name again."""
    for folder in root.glob(".step-*.old"):
        place = root / folder.name.removeprefix(".").removesuffix(".old")
        if place.exists():
            shutil.rmtree(folder)
        else:
            folder.rename(place)
    for folder in root.glob(".step-*.tmp"):
        shutil.rmtree(folder)


def share_mode(directory: Path, *, of: Path) -> None:
    """Give all files the mode of one that has the umask's: those of safetensors can be read by their owner alone."""
    mode = of.stat().st_mode
    for file in directory.rglob("*"):
        if file.is_file() and file.stat().st_mode != mode:
            file.chmod(stat.S_IMODE(mode))


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; flush it to the disk, and rename it to ``file``, once the body has written it.

    If that fails, the file is as it was, and nothing is left behind.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(file)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
            error.filename = None  # nobody asked for a file of that name
        name_path(error, file)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(file: Path, text: str) -> None:
    """Write a text file such that it has the old contents or the new ones, never a part."""
    with whole_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # for names of files that are no text


def name_path(error: BaseException, path: Path) -> None:
    """Say in an error of the operating system what was written, if it names no file: that of a full disk does not."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def is_closed(error: OSError) -> bool:
    """Whether the operating system refuses because a place may be read only."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def listed(directory: Path) -> list[str] | None:
    """Names of the files that a directory's manifest vouches for; None if it has none that can be read."""
    try:
        return list(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def damage(directory: Path) -> str | None:
    """Say what differs from the directory's manifest; None if nothing does."""
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        wanted = [(name, facts["bytes"], facts["blake2b"]) for name, facts in files.items()]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        return f"its {MANIFEST} is damaged"
    for name, num_bytes, digest in wanted:
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != num_bytes:
            return f"{name} has {file.stat().st_size} bytes, not {num_bytes}"
        if hash_file(file).hex() != digest:
            return f"{name} has other contents"
    return None


def _facts(file: Path) -> dict[str, object]:
    _sync(file)
    return {"bytes": file.stat().st_size, "blake2b": hash_file(file).hex()}


def sample_file(file: Path) -> bytes:
    """Hash the size and parts of a file, spread evenly over it: enough to tell weights from others, in no time."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with file.open("rb") as data:
        size = data.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for number in range(SAMPLES):
            data.seek(number * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
    return digest.digest()


def hash_file(path: str | os.PathLike[str]) -> bytes:
    """Hash a file's bytes, DIGEST_BYTES long, in constant memory."""
    with open(path, "rb") as file:  # noqa: PTH123 - a string path costs less, and there may be millions
        return hash_stream(file)


def hash_stream(file: BinaryIO) -> bytes:
    """Hash what is left of an open file, DIGEST_BYTES long, in constant memory."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.digest()


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sort_metadata(data: bytes) -> bytes:
    """Put the metadata of a safetensors file's bytes in the order of their names: safetensors writes them in any."""
    end = HEADER_START + int.from_bytes(data[:HEADER_START], "little")
    return data[:HEADER_START] + _sorted_header(data[HEADER_START:end]) + data[end:]


def sort_metadata_of(path: Path) -> None:
    """As ``sort_metadata``, for a file of any size, in its place."""
    with path.open("r+b") as file:
        header = file.read(int.from_bytes(file.read(HEADER_START), "little"))
        file.seek(HEADER_START)
        file.write(_sorted_header(header))


def _sorted_header(header: bytes) -> bytes:
    tree = json.loads(header)
    tree["__metadata__"] = dict(sorted(tree.get("__metadata__", {}).items()))
    if not tree["__metadata__"]:
        return header
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode().ljust(len(header))
    assert len(text) == len(header), "the header has another form than the compact one of safetensors"
    return text


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Write plain values as JSON, which has no NaN and no infinity: they become strings."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become strings."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case os.PathLike():
            return str(value)
        case _:
            return value

"""Packs: many items in one file, which is written once, whole, and never changed.

A pack is items one after the other, each the bytes of a safetensors file and some zeros, and then a directory: where each
of them is. So it can be read without the index, which is made again from the directories if it is lost.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetrainers.errors import DataError

Kind = Literal["latents", "text"]
KINDS: tuple[Kind, ...] = ("latents", "text")
FOLDER = "packs"
SUFFIX = ".pack"
KEY_BYTES = 20
RECORD = np.dtype([("key", "u1", (KEY_BYTES,)), ("start", "<u8"), ("length", "<u8")])
"""One item in a directory: its key, and where its bytes are."""
MAGIC = b"finetrainers-pack-1\n"
DIGEST_BYTES = 16
ALIGNMENT = 64
"""Items begin at multiples of so many bytes, a line of a processor's cache, which copies quicker; older packs have 1."""
TRAILER_BYTES = 8 + DIGEST_BYTES + len(MAGIC)
"""At the end of a pack: how many items it has, the hash of its directory, and what it is."""
Directory = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Pack:
    """What a pack holds."""

    name: str
    directory: Directory
    """RECORD of each item."""

    @property
    def kind(self) -> Kind:
        """What its items are."""
        return kind_of(self.name)


def kind_of(name: str) -> Kind:
    """Read off a pack's name what its items are."""
    return next(kind for kind in KINDS if name.startswith(f"{kind}-"))


def is_pack(name: str) -> bool:
    """Whether a file in the folder of packs is one, and is finished."""
    return name.endswith(SUFFIX) and any(name.startswith(f"{kind}-") for kind in KINDS)


def write_pack(root: Path, kind: Kind, items: Sequence[tuple[bytes, bytes]], *, used: float | None = None) -> Pack:
    """Write items, keys [KEY_BYTES] and contents, as a pack that is whole or not there at all.

    Args:
        root: Folder of the cache.
        kind: What the items are.
        items: At least one.
        used: When they were last used, in seconds since the epoch; now by default.

    Raises:
        DataError: If it cannot be written; then nothing is left.
    """
    name = f"{kind}-{secrets.token_hex(8)}{SUFFIX}"  # no number of a process: two containers may have the same
    directory, start, parts = np.zeros(len(items), RECORD), 0, list[bytes]()
    for row, (key, data) in zip(directory, items, strict=True):
        row["key"], row["start"], row["length"] = np.frombuffer(key, np.uint8), start, len(data)
        parts += [data, bytes(-len(data) % ALIGNMENT)]
        start += len(data) + len(parts[-1])
    table = directory.tobytes()
    tail = table + len(items).to_bytes(8, "little") + _digest(table) + MAGIC
    write_file(root / FOLDER / name, [*parts, tail], used=used)
    return Pack(name, directory)


def write_file(file: Path, parts: Sequence[bytes], *, used: float | None = None) -> None:
    """Write a file of the cache that is whole or not there at all.

    Raises:
        DataError: If it cannot be written; then nothing is left.
    """
    # Not the process's number: runs in two containers may have the same.
    temporary = file.with_name(f".{file.stem}.{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            out.writelines(parts)
            out.flush()
            os.fsync(out.fileno())
        if used is not None:
            os.utime(temporary, (used, used))
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"cache.path: {file} cannot be written: {error.strerror}; make room or fix it, or name another cache.path"
        ) from error


def read_pack(root: Path, name: str) -> Pack | None:
    """Read a pack's directory; None if it is damaged or gone."""
    try:
        with (root / FOLDER / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TRAILER_BYTES))
            tail = file.read()
            start = size - TRAILER_BYTES - int.from_bytes(tail[:8], "little") * RECORD.itemsize
            if not tail.endswith(MAGIC) or start < 0:
                return None
            file.seek(start)
            table = file.read(size - TRAILER_BYTES - start)
    except FileNotFoundError:
        return None
    if _digest(table) != tail[8 : 8 + DIGEST_BYTES]:
        return None
    return Pack(name, np.frombuffer(table, RECORD))


def keys_of(hexadecimal: Sequence[str]) -> NDArray[np.uint8]:
    """Turn the names of items into bytes [n, KEY_BYTES]."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, KEY_BYTES)


def prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """First eight bytes of keys [n, KEY_BYTES] as numbers [n], ordered as the keys are."""
    first: NDArray[Any] = np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0]
    return first.astype(np.uint64)


def _digest(table: bytes) -> bytes:
    return hashlib.blake2b(table, digest_size=DIGEST_BYTES).digest()

"""Encoded items on disk: one file each, named by a hash of all that went into it, written atomically."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from finetrainers.data.cache.claims import FILE as CLAIMS
from finetrainers.data.cache.leases import FOLDER as LEASES
from finetrainers.data.media.remote_disk import FOLDER as REMOTE
from finetrainers.errors import DataError, MissingItemError
from finetrainers.files.whole import is_closed, sort_metadata

LAYOUT_VERSION = 1
"""Part of every key: raised when the contents of the files change their meaning."""

LEFTOVER_SECONDS = 3600.0
"""Age from which a temporary file is one that a killed run has left: no write takes so long."""

GB = 10**9
IMAGE = "image."
"""Prefix, in an item of latents, of the tensors that a task takes from the frames that are given."""
Kind = Literal["latents", "text"]
KINDS: tuple[Kind, ...] = ("latents", "text")
MEMO_FILE = "memo.sqlite"
CONTENTS = (*KINDS, LEASES, CLAIMS, MEMO_FILE, f"{MEMO_FILE}-journal", REMOTE)
"""All that lies in a cache's folder beside its tag."""


def make_key(*parts: object) -> str:
    """Hash plain values into a file name."""
    text = json.dumps([LAYOUT_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache."""

    kind: Kind
    key: str
    bytes: int
    used: float
    """Seconds since the epoch; set when a run finds that it needs the item."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """What came of making room."""

    removed: list[Entry]
    held: list[Entry]
    """Items that living runs need, besides one's own."""
    over: int
    """Bytes that are still too many."""


class Cache:
    """A folder of encoded items; any number of runs may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, kind: Kind, key: str) -> Path:
        """Where an item is, if it is there."""
        return self.root / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an item is there; marks it as used now, for eviction."""
        try:
            os.utime(self.file(kind, key))
        except FileNotFoundError:
            return False
        except OSError as error:
            if not is_closed(error):  # a cache that others own may be read, but not marked
                raise
        return True

    def write(self, kind: Kind, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        """Write an item that is whole or not there at all; return its size in bytes."""
        contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = sort_metadata(save(contents, {**metadata, "digest": _digest(contents)}))  # equal items, equal bytes
        file = self.file(kind, key)
        # Not the process's number: runs in two containers may have the same.
        temporary = file.with_name(f".{key}.{secrets.token_hex(8)}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise DataError(
                f"cache.path: {file} cannot be written: {error.strerror}; make room or mend it, or name another cache.path"
            ) from error
        return len(data)

    def read(self, kind: Kind, key: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Read an item's tensors and its metadata.

        Raises:
            MissingItemError: If it is gone or damaged.
        """
        file = self.file(kind, key)
        try:
            with safe_open(file, framework="pt") as item:
                return {name: item.get_tensor(name) for name in item.keys()}, item.metadata()  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise MissingItemError(
                f"cache.path: {file} is gone or damaged ({error}); another run may have removed it to keep its own "
                "cache.max_gb. `finetrainers cache verify` removes what is damaged; then start this run again"
            ) from error

    def remove_damaged(self, kind: Kind, key: str) -> None:
        """Delete an item if it cannot be read because of its contents, so that it is made again."""
        try:
            self.read(kind, key)
        except MissingItemError as error:
            if isinstance(error.__cause__, SafetensorError):
                self.file(kind, key).unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        """All items."""
        for kind in KINDS:
            for folder in sorted((self.root / kind).glob("??")):
                for file in sorted(folder.glob("*.safetensors")):
                    try:
                        stat = file.stat()
                    except FileNotFoundError:  # another run evicted it meanwhile
                        continue
                    yield Entry(kind, file.stem, stat.st_size, stat.st_mtime)

    def evict(self, max_bytes: int, *, keep: Collection[str] = (), since: float | None = None) -> Eviction:
        """Remove the least recently used items until at most ``max_bytes`` are left.

        Keys in ``keep`` stay, and what was used at or after ``since``: living runs need it. What killed runs have left goes.
        """
        self.remove_leftovers()
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        surplus, removed = sum(entry.bytes for entry in entries) - max_bytes, []
        held = [entry for entry in entries if since is not None and entry.used >= since and entry.key not in keep]
        kept = {*keep, *(entry.key for entry in held)}
        for entry in entries:
            if surplus <= 0:
                break
            if entry.key not in kept and not self._is_used_since(entry):
                self.remove(entry)
                removed.append(entry)
                surplus -= entry.bytes
        return Eviction(removed, held, max(0, surplus))

    def _is_used_since(self, entry: Entry) -> bool:
        """Whether a run has found that it needs an item after it was listed."""
        try:
            return self.file(entry.kind, entry.key).stat().st_mtime != entry.used
        except FileNotFoundError:  # another run removed it meanwhile
            return False

    def remove(self, entry: Entry) -> None:
        """Delete an item; one that another run has deleted is fine."""
        self.file(entry.kind, entry.key).unlink(missing_ok=True)

    def remove_leftovers(self) -> int:
        """Delete the temporary files that killed runs have left; return how many."""
        count, before = 0, time.time() - LEFTOVER_SECONDS
        patterns = (*(f"{kind}/??/.*.tmp" for kind in KINDS), f"{LEASES}/.*.tmp")
        for file in (file for pattern in patterns for file in self.root.glob(pattern)):
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
                    count += 1
            except FileNotFoundError:  # another run did the same
                continue
        return count

    def damaged(self) -> Iterator[Entry]:
        """Items whose contents are not what was written."""
        for entry in self.entries():
            try:
                tensors, metadata = self.read(entry.kind, entry.key)
            except DataError:
                yield entry
                continue
            if metadata.get("digest") != _digest(tensors):
                yield entry


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

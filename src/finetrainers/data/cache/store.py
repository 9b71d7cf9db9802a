"""Encoded items on disk: named by a hash of all that went into them, in files of their own or many in a pack."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetrainers.data.cache.claims import FILE as CLAIMS, Claims
from finetrainers.data.cache.index import FILE as INDEX, Index, Place
from finetrainers.data.cache.item import DamagedError, Item, from_bytes, to_bytes
from finetrainers.data.cache.leases import FOLDER as LEASES
from finetrainers.data.cache.packs import (
    FOLDER as PACKS,
    KINDS as KINDS,
    Kind as Kind,
    is_pack,
    keys_of,
    prefixes,
    read_pack,
    write_file,
)
from finetrainers.data.cache.reading import Bytes, Parts
from finetrainers.data.cache.rewrite import LOCK, rewrite, upkeep
from finetrainers.data.cache.writing import Batches, item_file
from finetrainers.data.media.remote_disk import FOLDER as REMOTE, LOCK as REMOTE_LOCK
from finetrainers.errors import MissingItemError, StorageError
from finetrainers.files.whole import is_closed

LAYOUT_VERSION = 1
"""Part of every key: raised when the contents of the items change their meaning."""

GB = 10**9
IMAGE = "image."
"""Prefix, in an item of latents, of the tensors that a task takes from the frames that are given."""
MEMO_FILE = "memo.sqlite"
DATABASES = (INDEX, MEMO_FILE)
SNAPSHOTS = "snapshots"
CONTENTS = (
    *KINDS,
    PACKS,
    LEASES,
    CLAIMS,
    LOCK,
    SNAPSHOTS,
    REMOTE,
    REMOTE_LOCK,
    *DATABASES,
    *(f"{name}-journal" for name in DATABASES),
)
"""All that lies in a cache's folder beside its tag."""
LOOKS = 2000
"""Items that are each looked for in a file of its own; for more, all such files are listed."""
OWN_FILE = re.compile(r"([0-9a-f]{40})\.safetensors")


def make_key(*parts: object) -> str:
    """Hash plain values into a name."""
    text = json.dumps([LAYOUT_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of the cache."""

    kind: Kind
    key: str
    bytes: int
    used: float
    """Seconds since the epoch; set when a run finds that it needs the item, or another of its pack."""
    pack: str | None = None
    """Name of the pack that it is in; None if it has a file of its own."""


class Cache:
    """A folder of encoded items; any number of runs may share it."""

    is_own = False
    """Whether other processes have items of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = Index(root)
        self.packs = root / PACKS
        self._batches: Batches | None = None

    def claims(self) -> Claims:
        """Return the claims of this process, by which all that share the folder divide the work."""
        return Claims(self.root)

    def file(self, kind: Kind, key: str) -> Path:
        """Where an item is, if it is there and has a file of its own."""
        return item_file(self.root, kind, key)

    def path_of(self, entry: Entry) -> Path:
        """The file that an item is in."""
        return self.file(entry.kind, entry.key) if entry.pack is None else self.packs / entry.pack

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an item is there; marks it as used now, for eviction."""
        if mark(self.file(kind, key)):
            return True
        place = self._places([(kind, key)]).get((kind, key))
        return place is not None and mark(self.packs / place.pack)

    def known(self, kind: Kind, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Say which items [n] are there by keys [n, KEY_BYTES]; marks them as used now, a pack once for all of its items."""
        are_there = np.zeros(len(keys), bool)
        if self.packs.is_dir():
            self.refresh()
            numbers = self.index.find(kind, keys)
            names = {number: name for name, (number, _) in self.index.packs().items()}
            wanted = np.unique(numbers[numbers >= 0]).tolist()
            are_there = np.isin(numbers, [n for n in wanted if n in names and mark(self.packs / names[n])])
        rest = np.flatnonzero(~are_there)
        if len(rest) > LOOKS:
            rest = rest[np.isin(prefixes(keys[rest]), prefixes(self._own_files(kind)))]
        are_there[rest] = [mark(self.file(kind, keys[place].tobytes().hex())) for place in rest]
        return are_there

    def sizes(self, items: Sequence[tuple[Kind, str]]) -> list[int | None]:
        """Bytes of items; None for those that are not there."""
        places, sizes = self._places(items), list[int | None]()
        for item in items:
            try:
                sizes.append(places[item].length if item in places else self.file(*item).stat().st_size)
            except FileNotFoundError:
                sizes.append(None)
        return sizes

    @contextmanager
    def in_batches(self) -> Iterator[Batches]:
        """Let ``write`` write many items together; what it has taken is on the disk at the end, also after an error."""
        self._batches = batches = Batches(self.root, self.index)
        try:
            yield batches
        finally:
            self._batches = None
            batches.flush()

    def write(self, kind: Kind, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        """Write an item that is whole or not there at all; return its size in bytes.

        Raises:
            DataError: If it cannot be written.
        """
        data = to_bytes(tensors, metadata)
        if self._batches is None:
            write_file(self.file(kind, key), [data])
        else:
            self._batches.add(kind, key, data)
        return len(data)

    def read(self, kind: Kind, key: str) -> Item:
        """Read an item's tensors and its metadata.

        Raises:
            MissingItemError: If it is gone or damaged.
        """
        return self.read_all([(kind, key)])[0]

    def read_all(self, items: Sequence[tuple[Kind, str]]) -> list[Item]:
        """As ``read``, of several items; the index is asked once."""
        places, read = self._places(items), dict[tuple[Kind, str], Bytes]()
        in_packs = sorted(places, key=lambda item: (places[item].pack, places[item].start))
        with Parts() as parts:
            for item in (*in_packs, *(item for item in items if item not in places)):
                read[item] = self._read(item, places.get(item), parts)
        return [self._parse(item, places.get(item), read[item]) for item in items]  # after all reads: half of the time

    def _read(self, item: tuple[Kind, str], place: Place | None, parts: Parts) -> Bytes:
        try:
            try:
                return self._bytes(item, place, parts)
            except FileNotFoundError:  # it may have got another place meanwhile
                return self._bytes(item, self._places([item]).get(item), parts)
        except (OSError, DamagedError) as error:
            raise self._missing(item, place, error) from error

    def _parse(self, item: tuple[Kind, str], place: Place | None, data: Bytes) -> Item:
        try:
            return from_bytes(data)
        except DamagedError as error:
            raise self._missing(item, place, error) from error

    def _missing(self, item: tuple[Kind, str], place: Place | None, error: Exception) -> MissingItemError:
        where = self.file(*item) if place is None else f"{self.packs / place.pack} (item {item[1]})"
        return MissingItemError(
            f"cache.path: {where} is gone or damaged ({error}); another run may have removed it to keep its own "
            "cache.max_gb. `finetrainers cache verify` removes what is damaged; then start this run again"
        )

    def _bytes(self, item: tuple[Kind, str], place: Place | None, parts: Parts) -> Bytes:
        if place is None:
            return parts.read(str(self.file(*item)))
        data = parts.read(f"{self.packs}/{place.pack}", place.start, place.length)
        if len(data) < place.length:
            raise DamagedError(f"only {len(data)} of its {place.length} bytes are there")
        return data

    def remove_damaged(self, kind: Kind, key: str) -> None:
        """Delete an item if it cannot be read because of its contents, so that it is made again."""
        try:
            self.read(kind, key)
        except MissingItemError as error:
            if isinstance(error.__cause__, DamagedError):
                place = self._places([(kind, key)]).get((kind, key))
                self.remove(Entry(kind, key, 0, 0.0, None if place is None else place.pack))

    def remove(self, *entries: Entry) -> None:
        """Delete items; those that another run has deleted are fine."""
        gone: dict[str, set[bytes]] = {}
        for entry in entries:
            if entry.pack is None:
                self.file(entry.kind, entry.key).unlink(missing_ok=True)
            else:
                gone.setdefault(entry.pack, set()).add(bytes.fromhex(entry.key))
        if gone:
            with upkeep(self.root):
                for name, keys in gone.items():
                    self.rewrite(name, _not_in(keys))
                self.index.restore()

    def rewrite(self, name: str, keeps: Callable[[bytes], bool]) -> int:
        """Take items out of a pack; return the bytes that this frees. One that another run has removed is fine."""
        try:
            return rewrite(self.root, self.index, name, keeps)
        except FileNotFoundError:
            return 0

    def refresh(self) -> None:
        """Let the index have the packs that are there, no more and no fewer: runs that are killed leave it behind."""
        known = set(self.index.packs())  # before the folder is read: others write a pack first, and enter it then
        names = {file.name for file in os.scandir(self.packs) if is_pack(file.name)}
        new = [pack for name in sorted(names - known) if (pack := read_pack(self.root, name)) is not None]
        gone = sorted(name for name in known - names if not (self.packs / name).exists())
        if new or gone:
            try:
                self.index.add(*new, instead_of=gone)
            except StorageError:
                if os.access(self.root, os.W_OK):  # else it is others' to do
                    raise
                self.index.move_to_memory()

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
            if self.packs.is_dir():
                yield from self._packed(kind)

    def _packed(self, kind: Kind) -> Iterator[Entry]:
        self.refresh()
        used = {file.name: file.stat().st_mtime for file in self.packs.glob(f"{kind}-*")}
        for key, pack, length in self.index.entries(kind):
            if pack in used:
                yield Entry(kind, key.hex(), length, used[pack], pack)

    def _own_files(self, kind: Kind) -> NDArray[np.uint8]:
        """Keys [n, KEY_BYTES] of the items that have a file of their own."""
        folders = [file.path for file in os.scandir(self.root / kind)] if (self.root / kind).is_dir() else []
        names = (file.name for folder in folders for file in os.scandir(folder))
        return keys_of([match[1] for match in map(OWN_FILE.fullmatch, names) if match is not None])

    def _places(self, items: Sequence[tuple[Kind, str]]) -> dict[tuple[Kind, str], Place]:
        """Where in packs items are, those that are in one."""
        if not self.packs.is_dir():
            return {}
        found = self.index.places([(kind, bytes.fromhex(key)) for kind, key in items])
        return {(kind, key.hex()): place for (kind, key), place in found.items()}


def _not_in(keys: set[bytes]) -> Callable[[bytes], bool]:
    return lambda key: key not in keys


def mark(file: Path) -> bool:
    """Mark a file as used now; False if there is none."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    except OSError as error:
        if not is_closed(error):  # a cache that others own may be read, but not marked
            raise
    return True

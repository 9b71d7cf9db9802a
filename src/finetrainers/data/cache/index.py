"""The index of the packs: in which of them an item is, and where; a small database beside them.

It says nothing that the packs do not say: one that is lost is made again from their directories. Any number of processes may
use it at once, over a network file system as well: it has a rollback journal, which needs no shared memory.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.cache.packs import FOLDER, KEY_BYTES, KINDS, Kind, Pack, is_pack, kind_of, prefixes, read_pack
from finetrainers.data.catalog.memo import BUSY_SECONDS, WAYS_OUT
from finetrainers.errors import StorageError

T = TypeVar("T")

FILE = "index.sqlite"
AT_ONCE = 500
"""Keys of one query: SQLite takes no more than 999 values in its older versions."""
ROWS_AT_ONCE = 50_000
"""Rows that are looked through in one go: bounds the memory."""
SCAN_SHARE = 16
"""The whole index is looked through where at least one of so many of its items is asked for."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS packs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, items INTEGER)",
    "CREATE TABLE IF NOT EXISTS items (kind INTEGER, key BLOB, pack INTEGER, start INTEGER, length INTEGER, "
    "PRIMARY KEY (kind, key)) WITHOUT ROWID",
)


AGAIN = "remove it: it is made again from the packs"
OWN_WAYS_OUT = {**WAYS_OUT, sqlite3.SQLITE_CORRUPT: AGAIN, sqlite3.SQLITE_NOTADB: AGAIN}

CLOSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""What SQLite says of a place that may be read only."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item is."""

    pack: str
    start: int
    length: int
    """Bytes."""


class Index:
    """The index of one cache; the database is opened when it is needed, in each process anew."""

    def __init__(self, root: Path, *, in_memory: bool = False) -> None:
        self._path, self._in_memory = root / FILE, in_memory
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._inherited: list[sqlite3.Connection] = []
        """Of the process that this one was forked from: not to be used here, nor closed."""

    def __reduce__(self) -> tuple[Callable[..., "Index"], tuple[Path]]:
        return partial(Index, in_memory=self._in_memory), (self._path.parent,)

    def move_to_memory(self) -> None:
        """Use from now on an index of the packs that are there: the one on the disk lacks some, and is others' to write."""
        self.close()
        self._in_memory = True

    def packs(self) -> dict[str, tuple[int, int]]:
        """Number of each pack, and how many items it was made of, by its name."""
        with self._errors(), self._connection() as database:
            return {name: (number, items) for name, number, items in database.execute("SELECT name, id, items FROM packs")}

    def contents(self, name: str) -> list[tuple[bytes, int, int]]:
        """Key, start and length of the items of a pack whose directory is damaged; all items are looked through."""
        with self._errors(), self._connection() as database:
            select = "SELECT key, start, length FROM items WHERE pack = (SELECT id FROM packs WHERE name = ?) ORDER BY start"
            return database.execute(select, (name,)).fetchall()

    def add(self, *packs: Pack, instead_of: Sequence[str] = ()) -> None:
        """Enter packs, and leave out those that they take the place of, in one transaction; what is known already stays."""
        with self._errors(), self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            for name in instead_of:
                self._drop(database, name)
            for pack in packs:
                _enter(database, pack)

    def restore(self) -> None:
        """Enter again what packs hold of items that were read from other packs, which are gone."""
        counts = "SELECT pack, COUNT(*) AS entered FROM items GROUP BY pack"
        select = f"SELECT name FROM packs LEFT JOIN ({counts}) ON pack = id WHERE COALESCE(entered, 0) < items ORDER BY id"
        with self._errors(), self._connection() as database:
            names = [name for (name,) in database.execute(select)]
        packs = [pack for name in names if (pack := read_pack(self._path.parent, name)) is not None]
        if packs:
            self.add(*packs)

    def entries(self, kind: Kind) -> Iterator[tuple[bytes, str, int]]:
        """Key, pack and length of all items of a kind, by their keys, a part of them at a time."""
        last = b""
        select = (
            "SELECT key, name, length FROM items JOIN packs ON pack = id WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
        )
        while True:
            with self._errors(), self._connection() as database:
                rows = database.execute(select, (KINDS.index(kind), last, ROWS_AT_ONCE)).fetchall()
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def places(self, items: Sequence[tuple[Kind, bytes]]) -> dict[tuple[Kind, bytes], Place]:
        """Where items are, those that are there."""
        found: dict[tuple[Kind, bytes], Place] = {}
        for kind in KINDS:
            keys = [key for own, key in items if own == kind]
            for key, *place in self._rows("key, name, start, length", kind, keys):
                found[kind, key] = Place(*place)
        return found

    def find(self, kind: Kind, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Numbers of the packs [n] that have items, by their keys [n, KEY_BYTES]; -1 where there is none."""
        if not len(keys):
            return np.zeros(0, np.int64)
        order = np.argsort(prefixes(keys), kind="stable")
        ordered, packs = keys[order], np.full(len(keys), -1, np.int64)
        wanted = prefixes(ordered)
        for own, numbers in self._chunks(kind, ordered):
            first = np.searchsorted(wanted, prefixes(own), "left")
            last = np.searchsorted(wanted, prefixes(own), "right")
            rows = np.repeat(np.arange(len(own)), last - first)  # a key may be asked for several times
            begins = np.cumsum(last - first) - (last - first)
            asked = np.repeat(first, last - first) + np.arange(len(rows)) - begins[rows]
            same = (ordered[asked] == own[rows]).all(1)
            packs[asked[same]] = numbers[rows[same]]
        found = np.empty_like(packs)
        found[order] = packs
        return found

    def _chunks(self, kind: Kind, ordered: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Yield keys and packs of the items that are asked for, perhaps among others, each part in the order of the keys."""
        with self._errors(), self._connection() as database:
            (num_items,) = database.execute("SELECT COALESCE(SUM(items), 0) FROM packs").fetchone()
        if len(ordered) * SCAN_SHARE < num_items:
            keys = [key.tobytes() for key in ordered]
            for part in parts(keys, ROWS_AT_ONCE):
                yield _columns(sorted(self._rows("key, pack", kind, part)))
            return
        last = b""
        select = "SELECT key, pack FROM items WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
        while True:  # no reader keeps the lock for long: writers wait for it
            with self._errors(), self._connection() as database:
                rows = database.execute(select, (KINDS.index(kind), last, ROWS_AT_ONCE)).fetchall()
            if not rows:
                return
            yield _columns(rows)
            last = rows[-1][0]

    def _rows(self, columns: str, kind: Kind, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        for part in parts(keys, AT_ONCE):
            asked = ", ".join("?" * len(part))
            select = f"SELECT {columns} FROM items JOIN packs ON pack = id WHERE kind = ? AND key IN ({asked})"
            with self._errors(), self._connection() as database:
                rows = database.execute(select, (KINDS.index(kind), *part)).fetchall()
            yield from rows

    def _drop(self, database: sqlite3.Connection, name: str) -> None:
        """Leave out a pack and its items: by the keys that it names, since to look for them would take long."""
        row = database.execute("SELECT id FROM packs WHERE name = ?", (name,)).fetchone()
        if row is None:
            return
        pack = read_pack(self._path.parent, name)
        if pack is None:
            database.execute("DELETE FROM items WHERE pack = ?", row)
        else:
            keys = [(KINDS.index(kind_of(name)), key.tobytes(), *row) for key in pack.directory["key"]]
            database.executemany("DELETE FROM items WHERE kind = ? AND key = ? AND pack = ?", keys)
        database.execute("DELETE FROM packs WHERE id = ?", row)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database in this process, and commit what is done, or nothing of it."""
        if self._opened is not None and self._opened[0] != os.getpid():
            self._inherited.append(self._opened[1])
            self._opened = None
        if self._opened is None:
            self._opened = os.getpid(), self._open()
        database = self._opened[1]
        try:
            yield database
        except BaseException:
            if database.in_transaction:
                database.rollback()
            raise
        if database.in_transaction:
            database.commit()

    def _open(self) -> sqlite3.Connection:
        """Open the database, or one in memory where there is none yet and none may be made."""
        try:
            if not self._in_memory:
                return _connect(self._path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in CLOSED or os.access(self._path.parent, os.W_OK):
                raise
        database, folder = _connect(":memory:"), self._path.parent / FOLDER
        names = sorted(file.name for file in os.scandir(folder) if is_pack(file.name)) if folder.is_dir() else []
        database.execute("BEGIN")
        for pack in (read_pack(self._path.parent, name) for name in names):
            if pack is not None:
                _enter(database, pack)
        database.commit()
        return database

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            way_out = OWN_WAYS_OUT.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "fix it, or name another cache.path")
            raise StorageError(f"cache.path: {self._path} cannot be used: {error}; {way_out}") from error

    def close(self) -> None:
        """Let go of the database; it is opened again when it is needed."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None


def _connect(path: Path | str) -> sqlite3.Connection:
    """Open a database that has the tables."""
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if not database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            for table in TABLES:
                database.execute(table)
    except BaseException:
        database.close()
        raise
    return database


def _enter(database: sqlite3.Connection, pack: Pack) -> None:
    """Enter a pack and its items, but for those that another has."""
    database.execute("INSERT OR IGNORE INTO packs (name, items) VALUES (?, ?)", (pack.name, len(pack.directory)))
    (number,) = database.execute("SELECT id FROM packs WHERE name = ?", (pack.name,)).fetchone()
    kind, table = KINDS.index(pack.kind), pack.directory
    keys = (key.tobytes() for key in table["key"])
    rows = zip(keys, table["start"].tolist(), table["length"].tolist(), strict=True)
    database.executemany(
        "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?)",
        [(kind, key, number, start, length) for key, start, length in sorted(rows)],
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Turn rows of a key and a pack into arrays [n, KEY_BYTES] and [n]."""
    keys = np.frombuffer(b"".join(row[0] for row in rows), np.uint8).reshape(-1, KEY_BYTES)
    return keys, np.array([row[1] for row in rows], np.int64)


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of a size; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))

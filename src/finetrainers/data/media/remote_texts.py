"""Small remote texts, such as captions: many are fetched at once, and kept until they change."""

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from finetrainers.data.media.remote import CONNECTIONS, copies_folder, read
from finetrainers.data.media.remote_facts import recall
from finetrainers.files.storage import storage_errors

FILE = "texts.sqlite"
"""In the folder of the copies."""
BUSY_SECONDS = 60.0
Text = bytes | OSError


def read_texts(refs: Sequence[str]) -> list[Text]:
    """Read texts that a listing has told of, or say of each why it cannot be read.

    Raises:
        StorageError: If the server does not answer.
    """
    folder = copies_folder()
    if folder is None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(_read, refs))
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / FILE, timeout=BUSY_SECONDS)) as kept:
            return _read_through(kept, refs)


def _read_through(kept: sqlite3.Connection, refs: Sequence[str]) -> list[Text]:
    with kept:
        kept.execute("CREATE TABLE IF NOT EXISTS texts (ref TEXT PRIMARY KEY, stamp TEXT, text BLOB)")
    facts = [recall(ref) for ref in refs]
    stamps = ["" if own is None else own.stamp for own in facts]
    select = "SELECT text FROM texts WHERE ref = ? AND stamp = ?"
    rows = [kept.execute(select, pair).fetchone() for pair in zip(refs, stamps, strict=True)]
    missing = [index for index, row in enumerate(rows) if row is None]
    texts: list[Text] = [b"" if row is None else row[0] for row in rows]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for index, text in zip(missing, pool.map(_read, [refs[index] for index in missing]), strict=True):
            texts[index] = text
    new = [(refs[index], stamps[index], texts[index]) for index in missing if isinstance(texts[index], bytes)]
    with kept:
        kept.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", [row for row in new if row[1]])
    return texts


def _read(ref: str) -> Text:
    facts = recall(ref)
    try:
        return read(ref, size=-1 if facts is None else facts.size)
    except OSError as error:
        return error

"""Snapshots: the list of a data set's items and what each file was found to be, kept beside the cache as Arrow data.

A start whose data set is as it was reads neither lists nor captions nor the memo. A file holds several Arrow streams, which
are mapped into memory, and the hash of them at its end.
"""

import fcntl
import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config import DataConfig
from finetrainers.config.user_code import is_place
from finetrainers.data.cache.store import SNAPSHOTS, mark
from finetrainers.data.catalog.marks import Marks
from finetrainers.data.catalog.probe import FACTS, Facts, Look, LookAt
from finetrainers.data.media.remote import is_remote
from finetrainers.data.sources.items import Listing, Problem
from finetrainers.data.sources.place import place_of
from finetrainers.data.streams import Stream
from finetrainers.files.whole import DIGEST_BYTES, hash_file, is_closed

COLUMNS = ("table", "problems")
"""Parts of a listing that are columns; the others are plain values."""
PROBLEM = ("path", "reason")
VERSION = 2
"""Raised when the same files are listed or described otherwise than before."""
IRRELEVANT = frozenset(
    {
        *("buckets", "max_upscale", "videos_as_images", "resize", "horizontal_flip", "views", "repeats", "on_error"),
        *("fps", "stride", "frame_sampling"),
        *("caption_prefix", "remove_common_llm_caption_prefixes", "caption_dropout"),
    }
)
"""Keys of a data set on which neither its items nor its files depend."""
CONTAINER = r"(?s)^(?:(?P<plain>/.*)/[^/]*|[a-z0-9+.]+:(?P<container>/.*)/[^/]*#[0-9]+:[0-9]+/.*)$"
"""References to files of this machine, and to parts of such, with the folder that these lie in."""


@dataclass(slots=True)
class Snapshot:
    """What is known of one data set, from an earlier start or from this one."""

    listing: Listing
    facts: list[Facts] = field(default_factory=list)
    """Of all files that were looked at together, in the order in which they were."""
    mark: str | None = None
    """Hash of the folders as they were before they were listed; None where it cannot be told whether they are unchanged."""
    folders: Sequence[str] = ()
    """Of all files, sorted: kept, since to find them among millions of files takes longer than to look at them."""
    is_recalled: bool = False

    def look(self, prober: Look) -> Look:
        """Look at files, or recall what an earlier start has found; bad files are tried again."""
        return Look(self._recall(prober) if self.is_recalled else self._record(prober), prober.skip)

    def _record(self, prober: Look) -> LookAt:
        def look(files: pa.Array) -> tuple[Facts, list[Problem]]:
            facts, problems = prober(files)
            self.facts.append(facts.copy())  # items may yet turn out bad for what lies beside them
            return facts, problems

        return look

    def _recall(self, prober: Look) -> LookAt:
        known = iter(self.facts)

        def look(files: pa.Array) -> tuple[Facts, list[Problem]]:
            facts = next(known).copy()
            bad = np.flatnonzero(~facts["is_good"])
            prober.skip(len(files) - len(bad))
            facts[bad], problems = prober(files.take(pa.array(bad)))
            return facts, problems

        return look


@dataclass(frozen=True, slots=True)
class What:
    """What a snapshot is of."""

    items: int
    folders: tuple[str, ...]
    """Where its first and its last medium lie."""

    @property
    def is_gone(self) -> bool:
        """Whether neither is there any more."""
        return bool(self.folders) and not any(map(os.path.exists, self.folders))


def what_is_kept(file: Path) -> What | None:
    """Read what a snapshot is of; None if it is damaged."""
    try:
        media = _read(file).listing.table["media"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    ends = [media[row].as_py() for row in {0, len(media) - 1}] if len(media) else []
    found = (re.match(CONTAINER, ref) for ref in ends)
    return What(len(media), tuple(sorted({match["plain"] or match["container"] for match in found if match})))


class Snapshots:
    """All that are kept beside one cache."""

    def __init__(self, cache: Path | None, warn: Callable[[str], None]) -> None:
        """Take the cache's folder; None to keep nothing."""
        self._folder, self._warn = None if cache is None else cache / SNAPSHOTS, warn

    def find(self, config: DataConfig, streams: Sequence[Stream], list_now: Callable[[], Listing]) -> Snapshot:
        """Recall a data set that is as it was, or list it now."""
        is_own = is_place(config.layout)  # whose code may look anywhere
        if self._folder is None or is_own or any(map(is_remote, (config.path, *config.named_folders))):
            return Snapshot(list_now())
        if config.recheck == "never":
            known = self._read(self._folder, config, streams)
            return known if known is not None else Snapshot(list_now(), mark="")
        marks = _begin_marks(config)
        known = self._read(self._folder, config, streams)
        if known is not None:
            marks.add_folders(known.folders)
            if marks.hexdigest() == known.mark:
                return known
        marks = _begin_marks(config)
        listing = list_now()
        folders = _folders_of(listing)
        if folders is not None:
            marks.add_folders(folders)
        return Snapshot(listing, mark=None if folders is None else marks.hexdigest(), folders=folders or ())

    def keep(self, config: DataConfig, streams: Sequence[Stream], snapshot: Snapshot) -> None:
        """Write what this start has found out; a cache that may not be written keeps nothing."""
        if self._folder is None or snapshot.is_recalled or snapshot.mark is None or snapshot.listing.problems:
            return  # what an item lacks may come to a place that nothing is watched at
        file = self._folder / self._name(config, streams)
        temporary = file.with_name(f".{file.stem}.{secrets.token_hex(8)}.tmp")  # runs in two containers may have one number
        try:
            self._folder.mkdir(exist_ok=True)
            _write(temporary, snapshot)
            temporary.replace(file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not is_closed(error):
                self._warn(
                    f"cache.path: {file} cannot be written ({error.strerror}): the next start will list {config.path} again"
                )

    def _read(self, folder: Path, config: DataConfig, streams: Sequence[Stream]) -> Snapshot | None:
        """Read what is kept of a data set; nothing where that is damaged, or of another version, or where items were bad."""
        try:
            known = _read(folder / self._name(config, streams))
            mark(folder / self._name(config, streams))
            is_whole = bool(config.caption_prefix) or not _lacks_captions(known.listing)
            return known if is_whole and not known.listing.problems else None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    def _name(self, config: DataConfig, streams: Sequence[Stream]) -> str:
        settings = config.model_dump(mode="json", exclude=set(IRRELEVANT))
        place = str(place_of(config.path))
        parts = [VERSION, place, FACTS.descr, settings, [(own.name, own.is_many, own.has_own_size) for own in streams]]
        key = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=DIGEST_BYTES).hexdigest()
        return f"{key}.arrow"


def _lacks_captions(listing: Listing) -> bool:
    """Whether some items are kept without a caption, as with ``caption_prefix`` they may be."""
    captions = listing.table["captions"].combine_chunks()
    return bool(pc.any(pc.equal(pc.list_flatten(captions), "")).as_py())


def _begin_marks(config: DataConfig) -> Marks:
    """Look at the places that a data set is listed from."""
    marks, place = Marks("folders" if config.recheck == "folders" else "files"), place_of(config.path)
    if place.is_file or place.chosen:
        for file in [place.folder / name for name in place.chosen] or [place.path]:
            marks.add_file(file)
    else:
        marks.add_tree(place.path)
    for folder in config.named_folders:
        marks.add_tree(Path(folder).expanduser().absolute())
    return marks


def _folders_of(listing: Listing) -> list[str] | None:
    """Folders of all files; None if some are not of this machine."""
    folders: set[str | None] = set()
    for name in listing.table.column_names:
        if name == "captions":
            continue
        files = listing.table[name].combine_chunks()
        if pa.types.is_large_list(files.type):
            files = pc.list_flatten(files)
        parts = pc.extract_regex(files, CONTAINER)
        found = (pc.struct_field(parts, name) for name in ("plain", "container"))
        folders |= set(pc.unique(pc.binary_join_element_wise(*found, pa.scalar("", files.type))).to_pylist())
    return None if None in folders else sorted(folder for folder in folders if folder is not None)


def _write(file: Path, snapshot: Snapshot) -> None:
    """Write one stream after the other, and the hash of all."""
    listing = snapshot.listing
    values = {own.name: getattr(listing, own.name) for own in fields(Listing) if own.name not in COLUMNS}
    about = {"mark": snapshot.mark, "folders": snapshot.folders, "parts": len(snapshot.facts), "listing": values}
    problems = pa.table(
        {name: pa.array([getattr(p, name) for p in listing.problems], pa.large_string()) for name in PROBLEM}
    )
    items = listing.table.combine_chunks().replace_schema_metadata({"snapshot": json.dumps(about)})
    facts = [pa.table({"facts": _as_column(own)}) for own in snapshot.facts]
    with pa.OSFile(str(file), "wb") as sink:
        for table in (items, problems, *facts):
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
    digest = hash_file(file)
    with file.open("ab") as out:
        out.write(digest)
        out.flush()
        os.fsync(out.fileno())


def _read(file: Path) -> Snapshot:
    with file.open("rb") as data:
        with suppress(OSError):  # where there are no locks, one that goes stays readable nevertheless
            fcntl.flock(data, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as long as it is mapped: nobody prunes it
        mapped = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ)
    content = memoryview(mapped)[:-DIGEST_BYTES]
    if hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest() != mapped[-DIGEST_BYTES:]:
        raise ValueError(f"{file} is damaged")
    source = pa.BufferReader(pa.py_buffer(content))
    items, problems = (_next_table(source) for _ in range(2))
    about = json.loads(items.schema.metadata[b"snapshot"])
    facts = [_next_table(source)["facts"].combine_chunks() for _ in range(about["parts"])]
    columns = items.replace_schema_metadata(None), tuple(Problem(**row) for row in problems.to_pylist())
    listing = Listing(**dict(zip(COLUMNS, columns, strict=True)), **about["listing"])
    return Snapshot(listing, [_as_facts(own) for own in facts], about["mark"], about["folders"], is_recalled=True)


def _next_table(source: pa.BufferReader) -> pa.Table:
    with pa.ipc.open_stream(source) as stream:
        return stream.read_all()


def _as_column(facts: Facts) -> pa.Array:
    values = pa.py_buffer(np.ascontiguousarray(facts))
    return pa.Array.from_buffers(pa.binary(FACTS.itemsize), len(facts), [None, values])


def _as_facts(column: pa.Array) -> Facts:
    start = column.offset * FACTS.itemsize
    values = memoryview(column.buffers()[1])[start : start + len(column) * FACTS.itemsize] if len(column) else b""
    return np.frombuffer(values, FACTS)

"""The items of one WebDataset shard: members of one name before the first dot are one sample. No media is opened.

``a/7.jpg``, ``a/7.txt`` and ``a/7.mask.png`` are the sample ``a/7``: its media, its caption and its ``mask``. Only headers
and captions are read, in one pass; pickles are never read, and links never followed.
"""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from finetrainers.data.media.archives import member_ref
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.contents import what_it_is
from finetrainers.data.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.layout import Wanted
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.metadata import MEDIA_COLUMNS, STREAM_COLUMNS
from finetrainers.data.sources.tar_texts import CAPTION_MEMBERS, captions_of
from finetrainers.errors import DataError

MEDIA_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
TEXT_SUFFIXES = frozenset(f".{name}" for name in (*CAPTION_MEMBERS, "json"))
UNSAFE = (".pkl", ".pickle", ".pyd", ".pth", ".pt", ".joblib", ".dill")
"""Suffixes of what can hold pickles, which run code when they are read."""
MAX_TEXT_BYTES = 1 << 20
"""Longest member that is read as text."""
BLOCK = 512


@dataclass(slots=True)
class _Sample:
    media: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Names and references by what stands between the first and the last dot: empty, or the name of a stream."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """By suffix without the dot."""


@dataclass(slots=True)
class _Shard:
    """What was found in a shard so far."""

    ref: str
    wanted: Wanted
    samples: dict[str, _Sample] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def list_shard(ref: str, wanted: Wanted) -> Listing:
    """List the samples of one shard by its reference. That it has none is no error, and a damaged end is a problem.

    Raises:
        DataError: If it cannot be read as a tar archive, or if which captions to take is unclear.
    """
    shard = _Shard(ref, wanted)
    try:
        with blob_of(ref).open() as file:
            for member in _members(file, shard):
                _sort_in(member, file, shard)
    except tarfile.ReadError as error:
        kind = " (it is compressed: members of that cannot be read one by one)" if ref.endswith(("gz", "tgz", "zst")) else ""
        what = what_it_is(blob_of(ref)) or f": {error}"
        raise DataError(f"{ref}: cannot be read as a tar archive{kind}{what}") from error
    except OSError as error:
        raise DataError(f"{ref}: {why_unreadable(error)}") from error
    return _listing(shard)


def _members(file: BinaryIO, shard: _Shard) -> Iterator[tarfile.TarInfo]:
    """Yield the members in order, without keeping them; what does not end as a tar archive ends is a problem."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        size = file.seek(0, io.SEEK_END)
        try:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps all of them, which may be millions
                if member.size < 0 or member.offset_data + member.size > size:  # a negative one is read again and again
                    raise tarfile.ReadError("unexpected end of data")
                yield member
        except tarfile.ReadError as error:
            shard.problems.append(
                Problem(shard.ref, f"truncated or damaged at byte {archive.offset} ({error}); copy it again")
            )
            return
        end = archive.offset
    file.seek(end)
    rest = file.read(64 * BLOCK)
    if len(rest) < BLOCK:
        shard.problems.append(Problem(shard.ref, f"truncated at byte {end}: it has no end mark; copy or write it again"))
    elif rest.strip(b"\0"):
        reason = f"something that is no member begins at byte {end}: it is damaged, or archives were put one after the other"
        shard.problems.append(Problem(shard.ref, f"{reason}; write it again"))


def _sort_in(member: tarfile.TarInfo, file: BinaryIO, shard: _Shard) -> None:
    """Put a member to its sample, or count it among what is passed over, or name it as a problem."""
    folder, _, name = member.name.rpartition("/")  # not as a path: there may be millions
    suffix = _suffix(name)
    if member.isdir():
        return
    if member.name.startswith("/") or ".." in (name, *folder.split("/")):
        shard.problems.append(Problem(f"{shard.ref}: {member.name}", "its name leads out of the archive; it is not read"))
    elif not member.isreg() or member.issparse():
        kind = f"a link to {member.linkname}" if member.islnk() or member.issym() else "no plain file"
        if suffix in MEDIA_SUFFIXES:
            shard.problems.append(Problem(f"{shard.ref}: {member.name}", f"is {kind}; store the file itself"))
        else:
            shard.passed_over["links and devices"] += 1
    elif name.startswith("."):
        shard.passed_over["hidden files"] += 1
    elif suffix in UNSAFE:
        shard.passed_over[f"{suffix} (never read)"] += 1
    elif suffix in MEDIA_SUFFIXES or suffix in TEXT_SUFFIXES:
        _add(member, file, shard)
    else:
        shard.passed_over[suffix or "without suffix"] += 1


def _suffix(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f".{last.lower()}" if stem else ""


def _add(member: tarfile.TarInfo, file: BinaryIO, shard: _Shard) -> None:
    folder, slash, name = member.name.removeprefix("./").rpartition("/")
    stem, _, rest = name.partition(".")
    sample = shard.samples.setdefault(folder + slash + stem, _Sample())
    ref = member_ref(shard.ref, member.offset_data, member.size, member.name)
    if _suffix(name) in MEDIA_SUFFIXES:
        sample.media.setdefault(rest.rpartition(".")[0].lower(), []).append((name, ref))
    elif member.size > MAX_TEXT_BYTES:
        shard.problems.append(Problem(ref, f"has {member.size} bytes, more than a caption has; it is not read"))
    elif rest.lower() in sample.texts:
        shard.problems.append(Problem(ref, "comes a second time in its archive; the first counts"))
    else:
        file.seek(member.offset_data)
        sample.texts[rest.lower()] = file.read(member.size)


def _listing(shard: _Shard) -> Listing:
    """Make items of the samples."""
    wanted = shard.wanted
    columns: dict[str, list[object]] = {name: [] for name in ("media", "captions", *wanted.columns)}
    for key, sample in shard.samples.items():
        if not sample.media:
            if set(sample.texts) & set(CAPTION_MEMBERS):
                shard.problems.append(Problem(f"{shard.ref}: {key}", "has a caption, but no media"))
            else:
                shard.passed_over[".json without media"] += 1
            continue
        row = _row(key, sample, shard)
        if row is not None:
            for name, cell in row.items():
                columns[name].append(cell)
    texts, lists = pa.large_string(), pa.large_list(pa.large_string())
    kinds = {name: lists if name == "captions" or name in wanted.many else texts for name in columns}
    table = pa.table({name: pa.array(cells, kinds[name]) for name, cells in columns.items()})
    listing = finish(table, shard.problems, unlisted=0, prefix=wanted.config.caption_prefix)
    return Listing(listing.table, listing.problems, 0, passed_over=dict(shard.passed_over))


def _row(key: str, sample: _Sample, shard: _Shard) -> dict[str, object] | None:
    """Return the cells of one item; None, and a problem, if it is none."""
    parts = dict(sample.media)
    row: dict[str, object] = {}
    where = f"{shard.ref}: {key}"
    for name in shard.wanted.columns:
        found = _stream_parts(name, parts, shard.wanted)
        files = [ref for part in found for _, ref in sorted(parts.pop(part))]
        if not files or (len(files) > 1 and name not in shard.wanted.many):
            has = f"has {len(files)} members" if files else "has no member"
            shard.problems.append(Problem(where, f"{has} {PurePosixPath(key).name}.{name}.SUFFIX, its {name}"))
            return None
        row[name] = files if name in shard.wanted.many else files[0]
    media = _media_parts(parts, shard.wanted)
    files = [ref for part in media for _, ref in parts.pop(part)]
    if len(files) != 1:
        names = ", ".join(file for part in media for file, _ in sample.media[part]) or "none of its own"
        shard.problems.append(Problem(where, f"has {len(files)} media, {names}; name one in data.media_column"))
        return None
    for part, others in parts.items():
        shard.passed_over[f"media named {part or 'without a part of their own'}, of no stream that is needed"] += len(others)
    try:
        captions, unused = captions_of(sample.texts, shard.wanted.config, where)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or no text
        shard.problems.append(Problem(where, f"its caption cannot be read: {error}"))
        return None
    shard.passed_over.update(unused)
    return {**row, "media": files[0], "captions": captions}


def _stream_parts(stream: str, parts: dict[str, list[tuple[str, str]]], wanted: Wanted) -> list[str]:
    """Find the parts of names that stand for a stream; of several, ``reference.1`` and ``reference.2``, in their order."""
    column = wanted.config.column_of(stream)
    for name in (column.lower(),) if column is not None else STREAM_COLUMNS.get(stream, (stream,)):
        if name in parts:
            return [name]
        numbered = {int(match[1]): part for part in parts if (match := re.fullmatch(rf"{re.escape(name)}[._]?(\d+)", part))}
        if numbered and stream in wanted.many:
            return [numbered[number] for number in sorted(numbered)]
    return []


def _media_parts(parts: dict[str, list[tuple[str, str]]], wanted: Wanted) -> list[str]:
    """Find the parts of names that stand for the media itself."""
    named = wanted.config.media_column
    if named is not None:
        return [part for part in parts if part == named.lower()]
    return [""] if "" in parts else [part for part in parts if part in MEDIA_COLUMNS]

"""The items of a data set as their layouts give them, and those that are left out.

Shape letters: N items.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.sources.beside import Paired
from finetrainers.data.sources.metadata import group


@dataclass(frozen=True, slots=True)
class Problem:
    """A sample that cannot be used."""

    path: str
    """The media file, or the line of a list that should name one."""
    reason: str
    """Why, without the path."""

    def __post_init__(self) -> None:
        for name in ("path", "reason"):  # names of files may be no text, and nothing could be written of them
            text = getattr(self, name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, name, text)


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The items of one data set."""

    table: pa.Table
    """[N] sorted by path: media (large_string, absolute), captions (large_list of large_string, at least one each) and the
    files of further streams by name, as media; of those that may have several, lists of them, as captions."""
    problems: tuple[Problem, ...]
    """Items that are left out of the table."""
    unlisted: int
    """Media beside listed ones that a list or metadata file does not name."""
    layout: str = ""
    """Name of the layout that was found."""
    why: str = ""
    """By what it was found; a layout's own part of it says which part of what was found is used."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What is not part of any item, by what it is, and how much of it there is, such as {".cls": 12}."""
    notes: tuple[str, ...] = ()
    """What was found and is not used, for warnings."""


def pair(listing: Listing, name: str, paired: Paired) -> Listing:
    """Give the items [N] their files of a stream, and leave out those without one."""
    files, reasons = paired
    media = listing.table["media"]
    problems = [*listing.problems, *(Problem(media[row].as_py(), reason) for row, reason in reasons.items())]
    others = [column for column in listing.table.column_names if column != name]
    table = listing.table.select(others).append_column(name, files).filter(pc.is_valid(files))
    return replace(listing, table=table.combine_chunks(), problems=by_path(problems))


def join(listings: Iterable[Listing]) -> Listing:
    """Join the listings of the pieces of one data set, of which there is at least one."""
    pieces = list(listings)
    passed_over: Counter[str] = Counter()
    for piece in pieces:
        passed_over.update(piece.passed_over)
    table = pa.concat_tables([piece.table for piece in pieces])
    return Listing(
        table.take(pc.sort_indices(table["media"])).combine_chunks(),
        by_path(problem for piece in pieces for problem in piece.problems),
        sum(piece.unlisted for piece in pieces),
        passed_over=dict(passed_over),
        notes=tuple(dict.fromkeys(note for piece in pieces for note in piece.notes)),
    )


WITHOUT_CAPTION = ("the caption is empty", "the caption is missing", "no caption file")
"""Beginnings of what is said of an item without a caption."""


VISIBLE = r"[^\s\p{Z}\p{Cf}]"
"""A character that can be seen: not a space, and not a mark such as that of the byte order."""
NO_CAPTIONS = {
    r"^version https://git-lfs": "the pointer to a file that git-lfs has not fetched; fetch it with git lfs pull",
    r"(?i)^(<!doctype html|<html)": "a web page; write the text alone",
    r"^\{\\rtf": "rich text; save it as plain text",
    r"\x00": "no text: it has characters of value 0, as UTF-16 without a byte order mark; save it as UTF-8",
}
"""What texts are, by a regular expression, that no caption is."""


def why_no_caption(text: str) -> str:
    """Say what a text is that is no caption, and what to do; nothing of one that may be."""
    return _refused(pa.array([text], pa.large_string())).get(0, "")


def _refused(texts: pa.Array) -> dict[int, str]:
    """Say by number which of the texts [N] are no captions, and what they are instead."""
    found: dict[int, str] = {}
    for pattern, what in NO_CAPTIONS.items():
        is_such = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
        found |= dict.fromkeys(pc.indices_nonzero(is_such).to_pylist(), what)
    return found


def by_path(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sort problems by the media that they are of."""
    return tuple(sorted(problems, key=lambda problem: problem.path))


def finish(table: pa.Table, problems: list[Problem], unlisted: int, *, prefix: str = "") -> Listing:
    """Trim captions, part items without one from the others, and sort; with a prefix, such an item has an empty one."""
    media, captions = table["media"], table["captions"].combine_chunks()
    rows = pc.list_parent_indices(captions)
    texts = pc.utf8_trim_whitespace(pc.list_flatten(captions))
    refused = _refused(texts)
    wrong = {rows[number].as_py(): f"the caption is {what}" for number, what in sorted(refused.items(), reverse=True)}
    is_text = pc.fill_null(pc.match_substring_regex(texts, VISIBLE), False)
    kept = group(rows.filter(is_text).to_numpy(), texts.filter(is_text), len(media))
    if prefix:
        kept = _with_empty(kept)
    is_right = np.ones(len(media), np.bool_)
    is_right[list(wrong)] = False
    problems = problems + [Problem(media[row].as_py(), reason) for row, reason in wrong.items()]
    has_caption = pc.or_(pc.greater(pc.list_value_length(kept), 0), pa.array(~is_right))
    bare = np.flatnonzero(~has_caption.to_numpy(zero_copy_only=False))
    was_given = np.isin(bare, rows.filter(pc.is_valid(texts)).to_numpy())
    reasons = [f"the caption is {'empty' if given else 'missing'}" for given in was_given.tolist()]
    problems = problems + [Problem(media[row].as_py(), reason) for row, reason in zip(bare.tolist(), reasons, strict=True)]
    table = table.set_column(table.column_names.index("captions"), "captions", kept).filter(
        pc.and_(has_caption, pa.array(is_right))
    )
    return Listing(table.take(pc.sort_indices(table["media"])).combine_chunks(), by_path(problems), unlisted)


def _with_empty(captions: pa.Array) -> pa.Array:
    """Give each row [N] without a caption an empty one."""
    bare = pc.indices_nonzero(pc.equal(pc.list_value_length(captions), 0)).to_numpy().astype(np.int64)
    rows = np.concatenate([pc.list_parent_indices(captions).to_numpy(), bare])
    empty = pa.array(np.full(len(bare), ""), pa.large_string())
    return group(rows, pa.concat_arrays([pc.list_flatten(captions), empty]), len(captions))

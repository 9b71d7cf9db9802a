"""Files that a list or a metadata file names: paths relative to its folder, which have to be there.

Shape letters: N items.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.blob import local_path, ref_of
from finetrainers.data.media.files import is_media
from finetrainers.data.media.remote import SCHEMES
from finetrainers.data.sources.beside import Paired, about_file
from finetrainers.data.sources.folders import how_to_convert, media_beside, suffixes
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.metadata import group
from finetrainers.data.sources.remote_files import check_remote
from finetrainers.data.sources.spelling import Spelling
from finetrainers.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """A file that names files."""

    parent: str
    """Reference of its folder, which relative names are relative to."""
    name: str

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"


REMOTE = rf"^({'|'.join(SCHEMES)})://"
"""What references to other machines begin with."""


def flat(files: pa.Array) -> pa.Array:
    """All files of a column, whether its cells are paths or lists of them."""
    return pc.list_flatten(files) if pa.types.is_large_list(files.type) else files


def all_but(rows: Iterable[int], count: int) -> pa.Array:
    """Choose all rows [N] but those; N is ``count``."""
    chosen = np.ones(count, np.bool_)
    chosen[list(rows)] = False
    return pa.array(chosen)


def named_files(named: pa.ChunkedArray, source: Source | Path, stream: str) -> Paired:
    """Check the files [N] of a stream that a list names: absolute paths, null where there is none."""
    nowhere = f"{source.parent}/"  # an empty name, made absolute
    files = pc.fill_null(named, nowhere).combine_chunks()
    reasons = check_files(files, source)[1]
    for row, reason in reasons.items():
        path = files[row].as_py()
        unnamed = f"{source.name} names no {stream} for it"
        reasons[row] = unnamed if path == nowhere else about_file(stream, path, reason)
    return pc.if_else(all_but(reasons, len(files)), files, None), reasons


def named_lists(named: pa.ChunkedArray, source: Source | Path, stream: str) -> Paired:
    """Check the lists [N] of files of a stream that a list names: each file has to be there, and at least one."""
    nowhere = f"{source.parent}/"
    lists = named.combine_chunks()
    files, rows = pc.fill_null(pc.list_flatten(lists), nowhere), pc.list_parent_indices(lists).to_numpy()
    wrong: dict[int, list[str]] = {}
    for index, reason in check_files(files, source)[1].items():
        path = files[index].as_py()
        unnamed = f"{source.name} names an empty path among its {stream}s"
        wrong.setdefault(int(rows[index]), []).append(unnamed if path == nowhere else about_file(stream, path, reason))
    reasons = {row: "; ".join(dict.fromkeys(own)) for row, own in wrong.items()}
    is_named = pc.not_equal(files, nowhere).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(np.bincount(rows[is_named], minlength=len(lists)) == 0).tolist():
        reasons[row] = f"{source.name} names no {stream} for it"
    return pc.if_else(all_but(reasons, len(lists)), lists, None), reasons


HINTED = 1000
"""Missing files that a similar name is looked for: all of millions may be missing."""
EMBEDDED = ("parquet:", "arrow:", "tar:")
"""What references begin with that no list has named: media in cells and archives."""


def check_files(files: pa.Array, source: Source | Path) -> tuple[pa.Array, dict[int, str]]:
    """List the media in the folders of the listed files [N], and say by row which of the files are none, and why."""
    is_far = pc.fill_null(pc.match_substring_regex(files, REMOTE), False)
    if pc.any(is_far).as_py():
        return _check_both(files, is_far, source)
    present = pa.array(media_beside(files, Path(source.parent)), pa.large_string())
    spelling, reasons = Spelling(), dict[int, str]()
    for row in np.flatnonzero(~pc.is_in(files, value_set=present).to_numpy(zero_copy_only=False)).tolist():
        name = files[row].as_py()
        if name.startswith(EMBEDDED):  # read from where it was found
            continue
        path = Path(local_path(name))
        if not os.path.isfile(path):  # noqa: PTH113 - says no to names that no file can have, too
            hint = _meant(str(path), spelling, source) if len(reasons) < HINTED else ""
            reasons[row] = f"is listed in {source.name}, but there is no such file{hint}"
        elif not is_media(path):
            reasons[row] = f"suffix {path.suffix!r} is none of {suffixes()}{how_to_convert(path.suffix)}"
    return present, reasons  # a file that is neither in both is hidden, or reached by a link


def _meant(path: str, spelling: Spelling, source: Source | Path) -> str:
    """Say which file of a similar name a missing one may be."""
    if close := spelling.other_case(path):
        return f"; did you mean {os.path.relpath(close, source.parent)!r} (other case)?"
    if close := spelling.elsewhere(path, str(source.parent)):
        return f"; did you mean {close!r}? Names are relative to the folder of {source.name}"
    return ""


def as_on_disk(files: pa.Array, found: list[str]) -> pa.Array:
    """Spell absolute paths [N], or lists of them, as the files are spelled: with other normalization, without backslashes.

    ``found`` is given those that were spelled otherwise.
    """
    if pa.types.is_large_list(files.type):
        return pa.LargeListArray.from_arrays(files.offsets, as_on_disk(files.values, found))
    is_odd = pc.fill_null(pc.or_(pc.match_substring(files, "\\"), pc.invert(pc.string_is_ascii(files))), False)
    rows, spelling, spelled = pc.indices_nonzero(is_odd).to_pylist(), Spelling(), []
    if not rows:
        return files
    for path in files.take(pa.array(rows)).to_pylist():
        there = None if os.path.isfile(path) else spelling.same_file(path)  # noqa: PTH113 - see above
        spelled.append(path if there is None else ref_of(there))
        if there is not None:
            found.append(path)
    return pc.replace_with_mask(files, is_odd, pa.array(spelled, files.type))


def _check_both(files: pa.Array, is_far: pa.Array, source: Source | Path) -> tuple[pa.Array, dict[int, str]]:
    """Check files [N] some or all of which are of other machines."""
    present, reasons = [], dict[int, str]()
    for kind, check in ((is_far, check_remote), (pc.invert(is_far), check_files)):
        rows = pc.indices_nonzero(kind).to_pylist()
        if rows:
            there, why = check(files.filter(kind), source)
            present.append(there)
            reasons |= {rows[row]: reason for row, reason in why.items()}
    return pa.concat_arrays(present), dict(sorted(reasons.items()))


def absolute(paths: pa.Array, folder: str | Path) -> pa.Array:
    """Join a folder and the paths [N], or lists of paths, relative to it; a list that is null becomes empty."""
    if pa.types.is_large_list(paths.type):
        return group(pc.list_parent_indices(paths).to_numpy(), absolute(pc.list_flatten(paths), folder), len(paths))
    cleaned = pc.replace_substring_regex(pc.utf8_trim_whitespace(paths), pattern=r"^(\./+)+", replacement="")
    joined = pc.binary_join_element_wise(
        pa.scalar(f"{folder}/", pa.large_string()), cleaned, pa.scalar("", pa.large_string())
    )
    is_absolute = pc.or_(pc.starts_with(cleaned, "/"), pc.match_substring_regex(cleaned, REMOTE))
    whole = pc.if_else(is_absolute, cleaned, joined)
    return pc.replace_substring_regex(whole, pattern="(^|[^:])//+", replacement=r"\1/")


def list_named(
    source: Source | Path, unit: str, items: pa.RecordBatch, odd: Mapping[int, str] | None = None, *, prefix: str = ""
) -> Listing:
    """Check the items that a file lists: paths relative to its folder, existing media, captions.

    ``odd`` says by row what is wrong with rows that cannot be read, and that are left out; with a ``prefix`` captions may be
    missing.
    """
    if len(items) == 0:
        raise DataError(f"{source}: lists no media")
    odd = {} if odd is None else odd
    is_named = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(items["media"]), ""), False)
    unnamed = np.flatnonzero(~is_named.to_numpy(zero_copy_only=False))
    wrong = {**dict.fromkeys(unnamed.tolist(), "names no media file"), **odd}
    problems = [Problem(f"{source}, {unit} {row + 1}", reason) for row, reason in sorted(wrong.items())]
    items = items.filter(all_but(wrong, len(items)))
    respelled: list[str] = []
    paths = {
        name: as_on_disk(absolute(items[name], source.parent), respelled)
        for name in items.schema.names
        if name != "captions"
    }
    present, reasons = check_files(paths["media"], source)
    problems += [Problem(paths["media"][row].as_py(), reason) for row, reason in reasons.items()]
    listed = pa.concat_arrays([flat(own) for own in paths.values()])
    unlisted = pc.sum(pc.invert(pc.is_in(present, value_set=listed))).as_py() or 0
    table = pa.table({**paths, "captions": items["captions"]})
    listing = finish(table.filter(all_but(reasons, len(table))), problems, unlisted, prefix=prefix)
    return replace(listing, notes=(_about_spelling(source, respelled),)) if respelled else listing


def _about_spelling(source: Source | Path, found: list[str]) -> str:
    kinds = {
        "with backslashes": [path for path in found if "\\" in path],
        "in another Unicode normalization": [path for path in found if "\\" not in path],
    }
    said = " and ".join(f"{len(own)} {how}, such as {own[0]}" for how, own in kinds.items() if own)
    return f"{source}: {len(found)} names are not spelled as their files, which were found nevertheless: {said}"

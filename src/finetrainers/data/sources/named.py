"""Files that a list or a metadata file names: paths relative to its folder, which have to be there.

Shape letters: N items.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.files import is_media
from finetrainers.data.media.remote import SCHEMES, is_remote
from finetrainers.data.sources.beside import Paired, about_file
from finetrainers.data.sources.folders import media_beside, suffixes
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.metadata import group
from finetrainers.data.sources.remote_files import check_remote
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


def check_files(files: pa.Array, source: Source | Path) -> tuple[pa.Array, dict[int, str]]:
    """List the media in the folders of the listed files [N], and say by row which of the files are none, and why."""
    is_far = pc.fill_null(pc.match_substring_regex(files, REMOTE), False)
    if pc.any(is_far).as_py() or is_remote(str(source.parent)):
        return _check_both(files, is_far, source)
    present = pa.array(media_beside(files, Path(source.parent)), pa.large_string())
    reasons = {}
    for row in np.flatnonzero(~pc.is_in(files, value_set=present).to_numpy(zero_copy_only=False)).tolist():
        path = Path(files[row].as_py())
        if not path.is_file():
            reasons[row] = f"is listed in {source.name}, but there is no such file"
        elif not is_media(path):
            reasons[row] = f"suffix {path.suffix!r} is none of {suffixes()}"
    return present, reasons  # a file that is neither in both is hidden, or reached by a link


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


def list_named(source: Source | Path, unit: str, items: pa.RecordBatch) -> Listing:
    """Check the items that a file lists: paths relative to its folder, existing media, captions."""
    if len(items) == 0:
        raise DataError(f"{source}: lists no media")
    is_named = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(items["media"]), ""), False)
    unnamed = np.flatnonzero(~is_named.to_numpy(zero_copy_only=False))
    problems = [Problem(f"{source}, {unit} {row + 1}", "names no media file") for row in unnamed.tolist()]
    items = items.filter(is_named)
    paths = {name: absolute(items[name], source.parent) for name in items.schema.names if name != "captions"}
    present, reasons = check_files(paths["media"], source)
    problems += [Problem(paths["media"][row].as_py(), reason) for row, reason in reasons.items()]
    listed = pa.concat_arrays([flat(own) for own in paths.values()])
    unlisted = pc.sum(pc.invert(pc.is_in(present, value_set=listed))).as_py() or 0
    table = pa.table({**paths, "captions": items["captions"]})
    return finish(table.filter(all_but(reasons, len(table))), problems, unlisted)

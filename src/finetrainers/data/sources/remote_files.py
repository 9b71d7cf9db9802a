"""Remote files that a list names: which of them are there. Shape letters: N files."""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.data.media.files import is_media
from finetrainers.data.media.remote import CONNECTIONS, WEB, RemoteFile, ask
from finetrainers.data.media.remote_facts import Facts, listed, remember
from finetrainers.data.media.remote_listing import join_folder, list_objects
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.folders import suffixes
from finetrainers.errors import StorageError

Rows = NDArray[np.int64]
FEW_FILES = 8
"""Up to so many files of one folder are asked for one by one; of more, the folder is listed."""
BLOCK_ROWS = 65536
MAX_COMPARED = 10_000
"""Names of a folder that are compared with one that is not there."""


def check_remote(files: pa.Array, source: object) -> tuple[pa.Array, dict[int, str]]:
    """List the media in the folders of the files [N], and say by row which of the files are none, and why.

    Args:
        files: References.
        source: What names them, with a name of its own.

    Raises:
        StorageError: If a folder cannot be listed now.
    """
    name = str(source).rpartition("/")[2]
    present, reasons = [], dict[int, str]()
    single, groups = _by_folder(files)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        checked = pool.map(lambda rows: _check_folder(files.take(pa.array(rows)), name), groups)
        for rows, (there, why) in zip(groups, checked, strict=True):
            present.append(there)
            reasons |= {int(rows[row]): reason for row, reason in why.items()}
        there, why = _check_each(files.take(pa.array(single)), name, str(source), pool)
    present.append(there)
    reasons |= {int(single[row]): reason for row, reason in why.items()}
    return pa.concat_arrays(present), reasons


def _by_folder(files: pa.Array) -> tuple[Rows, list[Rows]]:
    """Rows of files [N] that are asked for one by one, and those of each folder that is listed."""
    folders = pc.replace_substring_regex(files, pattern="/[^/]*$", replacement="").dictionary_encode()
    codes = folders.indices.to_numpy().astype(np.int64)
    counts = np.bincount(codes, minlength=len(folders.dictionary))
    is_web = pc.match_substring_regex(folders.dictionary, f"^({'|'.join(WEB)}):").to_numpy(zero_copy_only=False)
    is_listed = ~is_web & (counts > FEW_FILES)
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return np.flatnonzero(~is_listed[codes]), [rows for rows, wanted in zip(groups, is_listed, strict=True) if wanted]


def _check_folder(files: pa.Array, source: str) -> tuple[pa.Array, dict[int, str]]:
    """Check files [N] of one folder by listing it."""
    folder = files[0].as_py().rpartition("/")[0]
    try:
        found = list_objects(folder, deep=False)
    except OSError as error:
        return pa.array([], pa.large_string()), dict.fromkeys(range(len(files)), f"{folder} {why_unreadable(error)}")
    remember(f"{folder}/", found, source=source)
    names = pc.utf8_slice_codeunits(files, start=len(folder) + 1)
    missing = pc.indices_nonzero(pc.invert(pc.is_in(names, value_set=found.names))).to_pylist()
    known = found.names.slice(0, MAX_COMPARED).to_pylist()
    reasons = {
        row: f"is listed in {source}, but there is no such object{_near(names[row].as_py(), known)}" for row in missing
    }
    for row in set(np.flatnonzero(~_are_media(names)).tolist()) - reasons.keys():
        reasons[row] = _about_suffix(names[row].as_py())
    media = found.names.filter(pa.array(_are_media(found.names)))
    return join_folder(folder, media), reasons


def _check_each(
    files: pa.Array, source: str, whole_source: str, pool: ThreadPoolExecutor
) -> tuple[pa.Array, dict[int, str]]:
    """Check files [N] by asking for each, many at once."""
    there: list[tuple[str, Facts]] = []
    reasons: dict[int, str] = {}
    for start in range(0, len(files), BLOCK_ROWS):
        refs = files.slice(start, BLOCK_ROWS).to_pylist()
        for row, answer in enumerate(pool.map(_ask, refs), start):
            if isinstance(answer, Facts):
                there.append((refs[row - start], answer))
            else:
                reasons[row] = answer if answer else f"is listed in {source}, but there is no such object"
    found = listed(there)
    if len(found):  # columns of one file are checked one after the other, and none takes the place of another
        remember("", found, source=f"{whole_source} {files[0]}")
    return found.names, reasons


def _ask(ref: str) -> Facts | str:
    """Facts of a medium, or why it is none; an empty text if there is no such thing."""
    name = RemoteFile(ref).name
    if not is_media(Path(name)):
        return _about_suffix(name)
    try:
        return ask(ref)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return why_unreadable(error)
    except StorageError as error:  # of lists of addresses some servers are gone for good
        return str(error).removeprefix(f"{ref}: ").partition(";")[0]


def _are_media(names: pa.Array) -> NDArray[np.bool_]:
    return np.array([is_media(Path(name)) for name in names.to_pylist()], np.bool_)


def _about_suffix(name: str) -> str:
    return f"suffix {Path(name).suffix!r} is none of {suffixes()}"


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

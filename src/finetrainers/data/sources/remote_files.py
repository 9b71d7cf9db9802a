"""Remote files that a list names: which of them are there. Shape letters: N files."""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.files import is_media
from finetrainers.data.media.remote import CONNECTIONS, WEB, RemoteFile, ask
from finetrainers.data.media.remote_facts import Facts, listed, remember
from finetrainers.data.media.remote_listing import join_folder, list_objects
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.folders import suffixes
from finetrainers.errors import StorageError

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
    folders = pc.replace_substring_regex(files, pattern="/[^/]*$", replacement="")
    present, reasons, single = [], dict[int, str](), np.zeros(len(files), np.bool_)
    for counted in pc.value_counts(folders).to_pylist():
        folder = counted["values"]
        rows = pc.indices_nonzero(pc.equal(folders, folder))
        if folder.partition("://")[0] in WEB or counted["counts"] <= FEW_FILES:
            single[rows.to_numpy()] = True
            continue
        there, why = _check_folder(folder, files.take(rows), name)
        present.append(there)
        reasons |= {rows[row].as_py(): reason for row, reason in why.items()}
    asked = np.flatnonzero(single)
    there, why = _check_each(files.take(pa.array(asked)), name, str(source))
    present.append(there)
    reasons |= {int(asked[row]): reason for row, reason in why.items()}
    return pa.concat_arrays(present), reasons


def _check_folder(folder: str, files: pa.Array, source: str) -> tuple[pa.Array, dict[int, str]]:
    """Check files [N] of one folder by listing it."""
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


def _check_each(files: pa.Array, source: str, whole_source: str) -> tuple[pa.Array, dict[int, str]]:
    """Check files [N] by asking for each, many at once."""
    there: list[tuple[str, Facts]] = []
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for start in range(0, len(files), BLOCK_ROWS):
            refs = files.slice(start, BLOCK_ROWS).to_pylist()
            for row, answer in enumerate(pool.map(_ask, refs), start):
                if isinstance(answer, Facts):
                    there.append((refs[row - start], answer))
                else:
                    reasons[row] = answer if answer else f"is listed in {source}, but there is no such object"
    found = listed(there)
    remember("", found, source=whole_source)
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


def _are_media(names: pa.Array) -> np.ndarray:
    return np.array([is_media(Path(name)) for name in names.to_pylist()], np.bool_)


def _about_suffix(name: str) -> str:
    return f"suffix {Path(name).suffix!r} is none of {suffixes()}"


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

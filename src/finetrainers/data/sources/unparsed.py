"""Why a metadata file cannot be parsed, and what to do about it."""

import json
from collections.abc import Sequence
from pathlib import Path

from finetrainers.data.media.blob import LocalFile, ref_of
from finetrainers.data.media.contents import WAYS_OUT, content_of
from finetrainers.data.media.files import is_media
from finetrainers.data.sources.texts import why_no_text
from finetrainers.errors import DataError


def refuse_others(path: Path) -> None:
    """Refuse what is no table by its first bytes, such as the pointer to one.

    Raises:
        DataError: Saying what it is.
    """
    if content := content_of(LocalFile(ref_of(path))):
        raise DataError(f"{path}: is {content} by its first bytes; {WAYS_OUT.get(content, 'replace it')}")


def why_unparsed(path: Path, error: Exception) -> str:
    """Say what is wrong with a file that a parser refuses, and what to do."""
    if path.stat().st_size == 0:
        return "the file is empty (zero bytes)"
    if isinstance(error, UnicodeDecodeError):
        return f"it {why_no_text(error)}"
    if "invalid UTF8" in str(error):
        with path.open("rb") as file:
            line = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 1)
        return f"line {line} is not UTF-8 text; save it as such"
    if isinstance(error, json.JSONDecodeError):
        return f"{error}; one object a line is .jsonl, one list of objects is .json"
    if path.suffix.lower() == ".csv":
        return f"{error}; captions that contain commas must stand in double quotes"
    return str(error)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def about_header(names: Sequence[str]) -> str:
    """Say what to do where the first row of a table has no names of columns; nothing where it may have."""
    if not any(is_media(Path(name.strip())) for name in names):
        return ""
    return "; its first row names a medium: put one above it that names the columns, such as file_name,caption"

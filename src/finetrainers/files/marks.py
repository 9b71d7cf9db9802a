"""Marks of the folders that runs and caches are, so that no folder of a user's is taken for one, nor one for data."""

import json
from collections.abc import Collection
from pathlib import Path

from finetrainers.files.whole import is_closed, write_whole

RUN_MARK = ".finetrainers"
"""File in a run directory that says that a run made it."""
RUN_VERSION = 1
SAVE_FILE = "save-now"
"""File in the run directory that asks for a checkpoint after the step; it goes when that is written."""
SYSTEM_FOLDERS = frozenset(
    ("lost+found", "@eaDir", "#recycle", "#snapshot", "@Recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that systems and NAS keep beside files of users: thumbnails, what was thrown away, second halves of files."""
CACHE_TAG = "CACHEDIR.TAG"
"""File in a folder that can be made again from other files (https://bford.info/cachedir): backups leave it out too."""
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
TAG_TEXT = f"{CACHE_SIGNATURE.decode()}\n# Encoded items of finetrainers; what it is: https://bford.info/cachedir/\n"


def mark_run(directory: Path) -> None:
    """Say in a folder that it is a run's."""
    if not is_run(directory):
        write_whole(directory / RUN_MARK, json.dumps({"version": RUN_VERSION}) + "\n")


def is_run(directory: Path) -> bool:
    """Whether a folder is a run's."""
    try:
        return "version" in json.loads((directory / RUN_MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False


def tag_cache(directory: Path, contents: Collection[str]) -> None:
    """Make a cache's folder, and say what it is; not in one that holds more than a cache's ``contents``."""
    directory.mkdir(parents=True, exist_ok=True)
    names = {file.name for file in directory.iterdir()}
    if CACHE_TAG in names or not names <= set(contents):
        return
    try:
        with (directory / CACHE_TAG).open("x", encoding="utf-8") as file:
            file.write(TAG_TEXT)
    except FileExistsError:  # another run has just done the same
        return
    except OSError as error:
        if not is_closed(error):  # a cache that others own may be read
            raise


def is_cache(directory: Path) -> bool:
    """Whether a folder holds only what can be made again."""
    try:
        with (directory / CACHE_TAG).open("rb") as file:
            return file.read(len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def is_hidden_folder(name: str) -> bool:
    """Whether a folder of this name is hidden, or a system's: what lies in it is no data."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def is_no_data(directory: Path, files: Collection[str]) -> bool:
    """Whether a folder with these files is a run's or a cache: what lies in it is no data, unless it is named."""
    return (RUN_MARK in files and is_run(directory)) or (CACHE_TAG in files and is_cache(directory))

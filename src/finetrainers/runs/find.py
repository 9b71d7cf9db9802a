"""The runs below a folder."""

import os
from pathlib import Path

from finetrainers.files.marks import RUN_MARK
from finetrainers.runs.folder import CONFIG_FILE, EVENTS_FILE, RunFolder

DEPTH = 4
"""Folders deep that runs are looked for."""
MAX_FOLDERS = 20_000
"""That are looked into: a home folder with all that is in it is not a folder of runs."""


def find_runs(folder: Path | str, *, depth: int = DEPTH) -> list[RunFolder]:
    """Find the runs in a folder, which may be one itself, by name; links are not followed, nor is a run looked into."""
    root = Path(folder).expanduser().resolve()
    found: list[RunFolder] = []
    waiting, looked = [(root, 0)], 0
    while waiting and looked < MAX_FOLDERS:
        place, level = waiting.pop()
        looked += 1
        names, folders = _look(place)
        if RUN_MARK in names or {CONFIG_FILE, EVENTS_FILE} <= names:
            found += [] if CONFIG_FILE not in names else [RunFolder(place)]
        elif level < depth:
            waiting += [(place / name, level + 1) for name in folders]
    return sorted(found, key=lambda run: run.path)


def _look(place: Path) -> tuple[set[str], list[str]]:
    """Names of the files, and of the folders that may hold runs."""
    try:
        with os.scandir(place) as entries:
            found = list(entries)
    except OSError:
        return set(), []
    files = {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
    folders = [e.name for e in found if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    return files, folders

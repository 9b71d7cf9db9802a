"""Names that a human takes for those of files: with backslashes, in another Unicode normalization, in other case.

The first two mean the same file and are found; other case may mean another one, and is told.
"""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from finetrainers.data.media.files import is_media

KNOWN_FOLDERS = 4096
"""Folders whose names are remembered while a list is checked."""


class Spelling:
    """Finds files by names that are spelled otherwise; remembers what lies in each folder."""

    def __init__(self) -> None:
        self._names = lru_cache(KNOWN_FOLDERS)(_names)

    def same_file(self, path: str) -> str | None:
        """Path on disk that an absolute path means, which is not there itself; None if there is none, or no single one."""
        if "\0" in path:
            return None
        return self._follow(path.replace("\\", "/"), _normalized)

    def other_case(self, path: str) -> str | None:
        """Path on disk that differs in case, and in what ``same_file`` forgives."""
        if "\0" in path:
            return None
        return self._follow(path.replace("\\", "/"), lambda name: _normalized(name).casefold())

    def elsewhere(self, path: str, folder: str) -> str | None:
        """Name in a folder that a path may have meant which is of another folder, machine or system, or has no suffix."""
        parts = [part for part in path.replace("\\", "/").split("/") if part]
        tails = ["/".join(parts[start:]) for start in range(1, len(parts))]
        found = next((tail for tail in tails if os.path.isfile(f"{folder}/{tail}")), None)  # noqa: PTH113 - may be millions
        if found is not None or not parts:
            return found
        alike = [name for name in self._names(os.path.dirname(path) or folder) if os.path.splitext(name)[0] == parts[-1]]  # noqa: PTH120, PTH122
        media = [name for name in alike if is_media(Path(name))]
        return os.path.relpath(f"{os.path.dirname(path)}/{media[0]}", folder) if len(media) == 1 else None  # noqa: PTH120

    def _follow(self, path: str, same: Callable[[str], str]) -> str | None:
        """Go down the path, at each name that is not there by the only one that is the same."""
        here = "/"
        for name in filter(None, path.split("/")):
            there = os.path.join(here, name)  # noqa: PTH118 - "." and ".." have to stay
            if not os.path.lexists(there):
                alike = [other for other in self._names(here) if same(other) == same(name)]
                if len(alike) != 1:
                    return None
                there = os.path.join(here, alike[0])  # noqa: PTH118
            here = there
        return here if os.path.isfile(here) else None  # noqa: PTH113 - says no to names that no file can have


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []

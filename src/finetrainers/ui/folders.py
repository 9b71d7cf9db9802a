"""The folders that the interface may see, and nothing beside them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetrainers.files.marks import is_run

STATE = ".finetrainers-ui"
"""Folder beside the runs that holds the queue."""
MAX_DEPTH = 3
"""How deep below a folder runs are looked for."""
MAX_RUNS = 10_000


class OutsideError(Exception):
    """A path leads out of the folders that may be seen."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where runs are, and what else a configuration may name; all resolved."""

    runs: tuple[Path, ...]
    """Folders of runs; new ones are made in the first."""
    data: tuple[Path, ...] = ()
    """Folders of data and models, which may only be read."""

    @property
    def state(self) -> Path:
        """Where the queue is kept."""
        return self.runs[0] / STATE

    def names(self) -> list[str]:
        """Names of all runs, as ``run`` takes them."""
        found: list[str] = []
        for index, root in enumerate(self.runs):
            for directory in _runs_below(root, MAX_DEPTH):
                found.append(f"{index}/{directory.relative_to(root)}")
                if len(found) == MAX_RUNS:
                    return found
        return found

    def run(self, name: str) -> Path:
        """Find the directory of a run by its name: the number of the folder, and the path in it.

        Raises:
            OutsideError: If it is not in that folder.
            FileNotFoundError: If there is none.
        """
        number, _, path = name.partition("/")
        if not number.isdecimal() or int(number) >= len(self.runs) or not path:
            raise FileNotFoundError(name)
        directory = inside(self.runs[int(number)], path)
        if not looks_like_run(directory):
            raise FileNotFoundError(name)
        return directory

    def name(self, directory: Path) -> str | None:
        """Name a run's directory as ``run`` takes it; None if it is in none of the folders."""
        for index, root in enumerate(self.runs):
            if directory.is_relative_to(root):
                return f"{index}/{directory.relative_to(root)}"
        return None

    def may_read(self, path: Path) -> bool:
        """Whether a path, once links are followed, is in one of the folders."""
        full = path.expanduser().resolve()
        return any(full.is_relative_to(root) for root in (*self.runs, *self.data))


def inside(root: Path, path: str) -> Path:
    """Resolve a path below a resolved folder.

    Raises:
        OutsideError: If it leads out of it, by its parts or by a link.
    """
    parts = path.split("/")
    if "\0" in path or path.startswith("/") or ".." in parts or any(part.startswith(".") and part != "." for part in parts):
        raise OutsideError(path)
    full = (root / path).resolve()
    if not full.is_relative_to(root):
        raise OutsideError(path)
    return full


def looks_like_run(directory: Path) -> bool:
    """Whether a run made a folder."""
    return is_run(directory) or ((directory / "events.jsonl").is_file() and (directory / "config.yaml").is_file())


def _runs_below(root: Path, depth: int) -> Iterator[Path]:
    if looks_like_run(root):
        yield root
        return
    if depth == 0:
        return
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:  # a folder that others own, or that is gone by now
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _runs_below(Path(entry.path), depth - 1)

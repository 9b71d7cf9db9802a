"""The folders that the interface may see, and nothing beside them."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from finetrainers.errors import DataError
from finetrainers.runs.find import find_runs
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.inside import inside

STATE = ".finetrainers-ui"
"""Folder beside the runs that holds the queue."""
MAX_OPEN = 16
"""Runs whose curves are held in memory."""


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

    def all_runs(self) -> dict[str, RunFolder]:
        """All runs by their names, as ``run`` takes them."""
        return {self.name(run.path) or "": run for root in self.runs for run in find_runs(root)}

    def run(self, name: str) -> RunFolder:
        """Find a run by its name: the number of the folder, and the path in it.

        Raises:
            DataError: If there is none, or if the name leads out of the folder.
        """
        number, _, path = name.partition("/")
        if not number.isdecimal() or int(number) >= len(self.runs) or not path:
            raise DataError(f"run: there is no {name!r}; see the list of runs")
        return RunFolder(visible(self.runs[int(number)], path))

    def name(self, directory: Path) -> str | None:
        """Name a run's directory as ``run`` takes it; None if it is in none of the folders."""
        for index, root in enumerate(self.runs):
            if directory.is_relative_to(root):
                return f"{index}/{directory.relative_to(root)}"
        return None

    def may_read(self, path: Path) -> bool:
        """Whether a path, once links are followed, is in one of the folders."""
        try:
            full = path.expanduser().resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, or ~name of nobody here
            return False
        return any(full.is_relative_to(root) for root in (*self.runs, *self.data))


def visible(root: Path, path: str) -> Path:
    """Find what a browser names below a resolved folder; what is hidden is not for browsers.

    Raises:
        DataError: If the path leads out of the folder, or to something hidden.
    """
    if any(part.startswith(".") and part != "." for part in path.split("/")):
        raise DataError(f"{path!r} is not for browsers; name a file of the run")
    return inside(root, path)


@dataclass(slots=True)
class OpenRuns:
    """Runs that are looked at, each read on from where it was read to; for several threads."""

    folders: Folders
    _open: "OrderedDict[Path, tuple[RunFolder, Lock]]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def updated(self, name: str) -> Iterator[RunFolder]:
        """Hold a run, with all that its events say by now.

        Raises:
            DataError: If there is no such run.
        """
        run = self.folders.run(name)
        with self._lock:
            run, lock = self._open.setdefault(run.path, (run, Lock()))
            self._open.move_to_end(run.path)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        with lock:
            run.update()
            yield run

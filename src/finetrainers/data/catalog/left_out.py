"""What turned out bad only when it was decoded or encoded: views of samples, and the run's journal of them.

Such a view does not change the order. At each position that would show it another sample of the bucket stands in, so that
all other positions keep theirs, whenever it is found.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.order.order import Indices
from finetrainers.errors import DataError
from finetrainers.files.whole import to_json, write_whole

JOURNAL = "left_out.json"
"""File in the run directory. A run that goes on leaves out the same again; without the file it tries everything again."""
JOURNAL_VERSION = 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One item of latents that could not be made."""

    key: str
    """Name that it would have in the cache: of these bytes, this view, this role and this encoder."""
    digest: str
    """Hash of the file's bytes, in hexadecimal digits."""
    path: str
    """The file, of media, or what follows them."""
    reason: str
    since: int
    """Optimizer step from which on it is left out; what a run has trained on before stays as it was."""


@dataclass(frozen=True, slots=True, eq=False)
class BadViews:
    """Views of samples that are replaced, each from an optimizer step on."""

    num_views: int = 1
    """Views of each sample, at most."""
    codes: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    """[N] sample * num_views + view, ascending, each once."""
    since: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    """[N] optimizer step from which on each is bad."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int, int]], num_views: int) -> "BadViews":
        """Collect (sample, view, since); of a view with several reasons, the earliest counts."""
        since: dict[int, int] = {}
        for sample, view, step in pairs:
            code = sample * num_views + view
            since[code] = min(step, since.get(code, step))
        codes = sorted(since)
        return cls(num_views, np.array(codes, np.int64), np.array([since[code] for code in codes], np.int64))

    @property
    def num_samples(self) -> int:
        """How many samples have a bad view."""
        return len(np.unique(self.codes // self.num_views))

    def rows(self, samples: Indices, views: NDArray[np.int32], steps: Indices) -> Indices:
        """Find the rows of samples [n] whose views [n] are bad at these steps [n]."""
        if not len(self.codes):
            return np.empty(0, np.int64)
        codes = samples * self.num_views + views
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.flatnonzero((self.codes[places] == codes) & (steps >= self.since[places]))


def read_journal(file: Path) -> tuple[LeftOut, ...]:
    """Recall what an earlier start of the run left out; nothing if there is no such file.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        journal = json.loads(file.read_text(encoding="utf-8"))
        return tuple(LeftOut(**item) for item in journal["left_out"])
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read ({type(error).__name__}: {error}); it names the media that the run leaves out. "
            "Restore it, or delete it to have all of them tried again"
        ) from error


def write_journal(file: Path, left_out: Sequence[LeftOut]) -> None:
    """Write all that the run leaves out.

    Raises:
        DataError: If the file cannot be written.
    """
    items = [asdict(item) for item in left_out]
    try:
        write_whole(file, to_json({"version": JOURNAL_VERSION, "left_out": items}, indent=1))
    except OSError as error:
        raise DataError(f"output_dir: {file} cannot be written: {error.strerror}") from error

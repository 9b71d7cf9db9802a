"""A look at each file that the memo does not know: its hash, its size and its length."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.data.catalog.memo import Fact, Memo
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.files import probe, why_unreadable
from finetrainers.data.media.remote_ahead import FetchAhead
from finetrainers.data.sources.items import Problem
from finetrainers.errors import DataError
from finetrainers.files.whole import DIGEST_BYTES, hash_stream

MEMO_BLOCK = 1024
"""Items that are looked at between two writes to the memo."""

FACTS = np.dtype(
    [
        ("digest", np.uint8, DIGEST_BYTES),
        ("num_frames", np.int64),
        ("height", np.int32),
        ("width", np.int32),
        ("fps", np.float64),
        ("seconds", np.float64),
        ("is_good", np.bool_),
    ]
)
Facts = NDArray[np.void]
"""One row an item, of type FACTS."""

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""


LookAt = Callable[["pa.ChunkedArray | pa.Array"], "tuple[Facts, list[Problem]]"]
"""Tells what files are, as ``probe_all`` does."""


@dataclass(frozen=True, slots=True)
class Look:
    """Looks at files, or recalls what is known of them."""

    at: LookAt
    skip: Callable[[int], None]
    """Counts files that need no look."""

    def __call__(self, files: pa.ChunkedArray | pa.Array) -> tuple[Facts, list[Problem]]:
        """Tell what files are, as ``probe_all`` does."""
        return self.at(files)

    def each(self, files: pa.ChunkedArray | pa.Array) -> tuple[Facts, dict[str, str]]:
        """Look once at files that may be there several times; return what each is, and why, by path, some cannot be used."""
        distinct = pc.unique(files)
        facts, problems = self.at(distinct)
        rows = pc.index_in(files, value_set=distinct).to_numpy()
        return facts[rows], {problem.path: problem.reason for problem in problems}


def make_look(memo: Memo, *, workers: int, progress: Progress, total: int) -> Look:
    """Make what looks at the files of all data sets, and tells how many of them are done."""
    done = 0

    def skip(count: int) -> None:
        nonlocal done
        done += count
        if count:
            progress(done, total)

    def look_at(files: pa.ChunkedArray | pa.Array) -> tuple[Facts, list[Problem]]:
        nonlocal done
        start, done = done, done + len(files)
        return probe_all(files, memo, workers, lambda count: progress(start + count, total))

    return Look(look_at, skip)


def probe_all(
    media: pa.ChunkedArray | pa.Array, memo: Memo, workers: int, report: Callable[[int], None]
) -> tuple[Facts, list[Problem]]:
    """What each file is; ``is_good`` is False where it cannot be used, and a problem says why."""
    facts = np.zeros(len(media), FACTS)
    problems = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(media), MEMO_BLOCK):
            paths = media.slice(start, MEMO_BLOCK).to_pylist()
            stamps = [_stamp_of(path) for path in paths]
            known = memo.recall(list(zip(paths, stamps, strict=True)))
            unknown = [i for i, fact in enumerate(known) if fact is None]
            probed = dict(zip(unknown, _probe_files([paths[i] for i in unknown], pool), strict=True))
            found_now = [(paths[i], stamps[i], fact) for i, fact in probed.items()]
            memo.put([(p, stamp, f) for p, stamp, f in found_now if isinstance(f, Fact) and stamp is not None])
            for i, fact in enumerate(known):
                found = probed[i] if fact is None else fact
                if isinstance(found, Fact):
                    facts[start + i] = (np.frombuffer(found.digest, np.uint8), *astuple(found)[1:], True)
                else:
                    problems.append(Problem(paths[i], found))
            report(start + len(paths))
    return facts, problems


def _stamp_of(path: str) -> str | None:
    try:
        return blob_of(path).stamp()
    except OSError:  # such as a link to nowhere: probing it will say why
        return None


def _probe_files(paths: Sequence[str], pool: ThreadPoolExecutor) -> list[Fact | str]:
    with FetchAhead(paths) as ahead:

        def probe_one(path: str) -> Fact | str:
            try:
                return _probe_file(path)
            finally:
                ahead.was_read(path)

        return list(pool.map(probe_one, paths))


def _probe_file(path: str) -> Fact | str:
    try:
        blob = blob_of(path)
        with blob.open() as file:
            digest = hash_stream(file)
        return Fact(digest, *astuple(probe(blob)))
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return why_unreadable(error)

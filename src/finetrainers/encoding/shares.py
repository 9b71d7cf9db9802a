"""Which of the missing items this process encodes, while others of the run, and other runs, encode theirs."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.cache.claims import Claims
from finetrainers.data.cache.memory import AnyCache, Unbuffered
from finetrainers.data.cache.packs import KEY_BYTES, prefixes
from finetrainers.data.cache.store import Kind
from finetrainers.data.cache.writing import Batches
from finetrainers.data.order.jobs import Failure, LatentsJob, TextJob
from finetrainers.data.order.lazy import Joined, Lazy
from finetrainers.distributed.board import Place

Job = TypeVar("Job", LatentsJob, TextJob)

SECONDS_BETWEEN_LOOKS = 0.2
"""At what other processes have begun, where nothing else is left."""
SECONDS_BETWEEN_REPORTS = 1.0


@dataclass(slots=True)
class Found:
    """What was found while items were encoded."""

    failures: list[Failure] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    """Captions that are longer than what is seen of them."""
    black: list[tuple[str, str]] = field(default_factory=list)
    """Names of streams, and paths, of items that show nothing."""

    @classmethod
    def joined(cls, parts: Sequence["Found"]) -> "Found":
        """Put together what several processes have found."""
        together = cls()
        for part in parts:
            together.failures += part.failures
            together.cut += part.cut
            together.black += part.black
        return together

    def distinct(self) -> "Found":
        """Leave out what was found more than once."""
        return Found(list(dict.fromkeys(self.failures)), list(dict.fromkeys(self.cut)), list(dict.fromkeys(self.black)))


class Progress:
    """Counts items that are done, and tells of the sum over all processes: once a second, and once of all of them.

    After each batch of items it calls ``interrupt``, which may raise.
    """

    def __init__(
        self,
        tell: Callable[[int, int], None],
        total: int,
        place: Place,
        stage: str,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._tell, self._total, self._place, self._stage = tell, total, place, stage
        self._interrupt = interrupt
        self._time = -SECONDS_BETWEEN_REPORTS
        self._has_told_all = False

    def add(self, count: int) -> None:
        """Count some more."""
        self._place.look()
        done = min(self._total, self._place.add(self._stage, count))
        if done == self._total:
            self.end()
        elif time.monotonic() - self._time >= SECONDS_BETWEEN_REPORTS:
            self._time = time.monotonic()
            self._tell(done, self._total)
        self._interrupt()

    def end(self) -> None:
        """Tell of all, unless it is told already: another process may have made the last one."""
        if not self._has_told_all:
            self._has_told_all = True
            self._tell(self._total, self._total)


class Share(Generic[Job]):
    """Takes items that are still missing and that nobody else has, until none is left.

    The dearest come first; of a list that all processes have alike, each begins with other items, and goes on with those
    that the others have not come to. An item that another process has is looked at again when nothing else is left: it is
    there then, or free, since its process has died. Its own items it keeps for itself until they are on the disk.
    """

    def __init__(
        self,
        kind: Kind,
        jobs: Lazy[Job],
        *,
        cache: AnyCache,
        batches: Batches | Unbuffered,
        claims: Claims,
        place: Place,
        progress: Progress,
    ) -> None:
        self._kind = kind
        self._jobs: Lazy[Job] = jobs
        self._cache, self._batches, self._claims, self._place, self._progress = cache, batches, claims, place, progress
        self._busy: list[Job] = []
        self._written: list[str] = []
        """Keys of items that may not be on the disk yet."""

    @property
    def is_one_of_many(self) -> bool:
        """Whether several processes of this run fill the cache."""
        return self._place.size > 1

    def rounds(self) -> Iterator[Sequence[Job]]:
        """Yield what there is to go through; of each batch of it, ``take`` says what is to be encoded."""
        rank, size = self._place.rank, self._place.size
        if not self.is_one_of_many:
            yield self._jobs
        else:
            jobs = largest_first(self._jobs)
            yield jobs[rank::size]
            yield Joined(*(jobs[(rank + further) % size :: size] for further in range(1, size)))
        self._flush()
        while left := self._busy:
            self._busy = []
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self._progress.add(0)
            yield left
            self._flush()
        self._progress.end()

    def take(self, batch: Sequence[Job]) -> list[Job]:
        """Claim what of a batch is missing; what others have is for a later round."""
        taken = []
        for job in batch:
            if self._is_settled(job):
                self._count_found()
            elif not self._claims.take(job.key):
                self._busy.append(job)
            elif self._is_settled(job):  # since it was looked at
                self._claims.release(job.key)
                self._count_found()
            else:
                taken.append(job)
        return taken

    def done(self, jobs: Sequence[Job], failed: Collection[str] = ()) -> None:
        """Count what is written or, by these keys, cannot be made, and let others see it."""
        for job in jobs:
            if job.key in failed:
                self._place.note(_failure(job))
        self._written += [job.key for job in jobs]
        if not self._batches.waiting:
            self._release()
        self._progress.add(len(jobs))

    def _flush(self) -> None:
        """Have on the disk what others may wait for."""
        self._batches.flush()
        self._release()

    def _release(self) -> None:
        for key in self._written:
            self._claims.release(key)
        self._written = []

    def _is_settled(self, job: Job) -> bool:
        """Whether an item is there, or a process of this run has found that it cannot be made."""
        return self._cache.has(self._kind, job.key) or self._place.is_noted(_failure(job))

    def _count_found(self) -> None:
        """Count what another run has made; what processes of this run make, they count themselves."""
        if not self.is_one_of_many:
            self._progress.add(1)


def missing(cache: AnyCache, kind: Kind, jobs: Sequence[Job]) -> Lazy[Job]:
    """Jobs whose items the cache lacks, each key once, in the order of first use."""
    return chosen(jobs, missing_places(cache, kind, jobs))


def chosen(jobs: Sequence[Job], places: NDArray[np.int64]) -> Lazy[Job]:
    """Jobs at some places."""
    return Lazy(lambda index: jobs[int(places[index])], len(places))


def missing_places(cache: AnyCache, kind: Kind, jobs: Sequence[Job]) -> NDArray[np.int64]:
    """As ``missing``, by their places in the list."""
    keys = bytearray()
    for job in jobs:
        keys += bytes.fromhex(job.key)
    every = np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)
    _, first = np.unique(prefixes(every), return_index=True)
    return np.sort(first[~cache.known(kind, every[first])])


def largest_first(jobs: Lazy[Job]) -> Lazy[Job]:
    """Order items by what they cost: pixels and frames; captions cost about the same."""
    costs = np.fromiter((_cost(job) for job in jobs), np.int64, len(jobs))
    order = np.argsort(-costs, kind="stable")
    return Lazy(lambda index: jobs[int(order[index])], len(jobs))


def _failure(job: LatentsJob | TextJob) -> str:
    """Name, among the processes, of what cannot be made."""
    return f"no {type(job).__name__} {job.key}"


def _cost(job: LatentsJob | TextJob) -> int:
    return 1 if isinstance(job, TextJob) else job.view.num_frames * job.view.height * job.view.width

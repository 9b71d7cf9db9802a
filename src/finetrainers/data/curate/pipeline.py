"""Many threads, one order: what is done with each medium, and the outcomes in the order of the input."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.registry import Mark, OrderedStep, Step
from finetrainers.data.curate.steps import Stage
from finetrainers.errors import DataError

T = TypeVar("T")
Result = TypeVar("Result")
AHEAD = 2
"""Media, for each thread, that a stage has under way."""
Counts = dict[int, list[int]]
"""Pieces that came to a step and that went on from it, by its place in the configuration."""


@dataclass
class Batch:
    """One medium on its way."""

    index: int
    origin: str
    pieces: list[Piece] = field(default_factory=list)
    dropped: list[tuple[int, Dropped]] = field(default_factory=list)
    """With the place of the step."""
    counts: Counts = field(default_factory=dict)
    marks: list[tuple[int, Mark]] = field(default_factory=list)
    """What ordered steps remember of it, with their places."""
    failure: str | None = None
    """Why the medium could not be read at all."""

    def count(self, place: int, came: int, went: int) -> None:
        """Count what came to a step and what went on."""
        before = self.counts.setdefault(place, [0, 0])
        before[0] += came
        before[1] += went


def run_stages(batches: Iterator[Batch], stages: Sequence[Stage], pool: ThreadPoolExecutor, workers: int) -> Iterator[Batch]:
    """Let batches pass all stages; they come out in the order in which they went in."""
    for stage in stages:
        batches = _in_order(batches, stage.ordered) if stage.ordered else _in_parallel(batches, stage, pool, workers)
    return batches


def _in_order(batches: Iterator[Batch], placed: tuple[int, OrderedStep]) -> Iterator[Batch]:
    place, step = placed
    for batch in batches:
        pieces, batch.pieces = batch.pieces, []
        for piece in pieces:
            outcome, mark = step.see(piece)
            if isinstance(outcome, Dropped):
                batch.dropped.append((place, outcome))
            else:
                batch.pieces.append(outcome)
            if mark is not None:
                batch.marks.append((place, mark))
        is_counted = place in batch.counts  # by what the step has done before in parallel
        batch.count(place, 0 if is_counted else len(pieces), len(batch.pieces) - (len(pieces) if is_counted else 0))
        yield batch


def _in_parallel(batches: Iterator[Batch], stage: Stage, pool: ThreadPoolExecutor, workers: int) -> Iterator[Batch]:
    def begin(batch: Batch) -> tuple[Batch, list[Future[list[tuple[int, Outcome, Counts]]]]]:
        return batch, [pool.submit(_pass, piece, stage.steps) for piece in batch.pieces]

    for batch, futures in ahead(map(begin, batches), AHEAD * workers):
        batch.pieces = []
        for future in futures:
            for place, outcome, counts in future.result():
                for step, (came, went) in counts.items():
                    batch.count(step, came, went)
                if isinstance(outcome, Dropped):
                    batch.dropped.append((place, outcome))
                else:
                    batch.pieces.append(outcome)
        yield batch


def _pass(piece: Piece, steps: Sequence[tuple[int, Step]]) -> list[tuple[int, Outcome, Counts]]:
    """Do steps with a piece: what comes of it, with the place of the step that dropped it; the counts are with the first."""
    counts: Counts = {}
    outcomes: list[tuple[int, Outcome]] = [(-1, piece)]
    for place, step in steps:
        after: list[tuple[int, Outcome]] = []
        for was, outcome in outcomes:
            if isinstance(outcome, Dropped):
                after.append((was, outcome))
                continue
            made = _do(step, outcome)
            after += [(place, one) for one in made]
            count = counts.setdefault(place, [0, 0])
            count[0] += 1
            count[1] += sum(isinstance(one, Piece) for one in made)
        outcomes = after
    return [(place, outcome, {} if number else counts) for number, (place, outcome) in enumerate(outcomes)]


def _do(step: Step, piece: Piece) -> Sequence[Outcome]:
    try:
        return step(piece)
    except DataError as error:
        return [Dropped(piece, str(error))]


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Take up to ``count`` items before the first of them is wanted, so that what they have begun goes on meanwhile."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def ordered_map(do: Callable[[T], Result], items: Iterable[T], pool: ThreadPoolExecutor, workers: int) -> Iterator[Result]:
    """Do something with each item, in many threads; the results come in the order of the items."""
    for future in ahead((pool.submit(do, item) for item in items), AHEAD * workers):
        yield future.result()

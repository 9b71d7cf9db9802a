"""The chapters of a run whose data sets are read shard by shard, and the run's journal of where each begins.

The journal has a file for each chapter: its first optimizer step, its shards, and what the chapter before has left over.
With it a run that goes on opens the chapter that it was in, and nothing before. Without it the chapters are found again from
the first on.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.left_out import BadViews
from finetrainers.data.media.blob import SCHEME_END, blob_of
from finetrainers.data.order.chapter import Begin, Chapter, Known, Rest, Source
from finetrainers.data.order.chapters import Book
from finetrainers.data.order.choices import Choices
from finetrainers.data.order.mixture import Mixture, mixture_in, shown_in
from finetrainers.data.sources.items import Problem
from finetrainers.distributed.world import World, alone
from finetrainers.errors import DataError
from finetrainers.files.whole import to_json, write_whole

FOLDER = "chapters"
"""In the run directory."""
VERSION = 3
WITHOUT_COUNTS = 2
"""Version of the journal that counted no samples: chapters are found again from the first on."""
DIGITS = 6
Move = tuple[str | None, str | None]
"""References of the folder of a data set: before, and now; none of one whose items are known."""
Cell = str | list[str]
"""Of a row of a listing."""


class Chapters:
    """Opens the chapter that a step is in; steps are asked for in ascending order.

    Of several processes the first finds it, and the others, which ask for the same steps, open the one that it has found.
    """

    def __init__(self, book: Book, output_dir: Path, *, writes: bool, world: World | None = None) -> None:
        """Take whether this process writes the journal, of several the first; and all processes of the run."""
        self._book, self._folder, self._writes = book, output_dir / FOLDER, writes
        self._world = alone() if world is None else world
        self._current: Chapter | None = None
        self._sets = [_known_as(source, book) for source in book.sources]
        self._roots = [None if isinstance(source, Known) else source.root for source in book.sources]
        self.problems: tuple[Problem, ...] = book.problems
        """Bad samples of all chapters so far."""

    def at(self, step: int, choices: Callable[[Catalog], Choices] | None = None) -> Chapter:
        """Open the chapter of an optimizer step; ``choices`` says what those before it have shown where samples were bad.

        Raises:
            DataError: If no shard has anything to train on; naming all bad samples that are not to be skipped; if the
                journal cannot be read or written; or if this process finds other samples than the first one.
        """
        begin, digest = self._world.first(lambda: _settled(self._find(step, choices)))
        if self._current is None or self._current.begin.number != begin.number:  # never in the first process
            self._current = self._book.open(begin)
            self._check_same(self._current, begin, digest)
        return self._current

    def _find(self, step: int, choices: Callable[[Catalog], Choices] | None) -> Chapter:
        if self._current is None:
            self._current = self._open(self._recalled(step))
        while self._current.order.stop <= step:
            before = self._current
            all_good = Choices(before.catalog, self._book.seed, BadViews())
            shown = shown_in(before, all_good if choices is None else choices(before.catalog), before.order.stop)
            self._current = self._open(replace(before.end, shown=shown))
        return self._current

    def _check_same(self, own: Chapter, begin: Begin, digest: bytes) -> None:
        """Refuse to train on other samples than the first process does.

        Raises:
            DataError: Naming the first shard that only this process cannot read, if there is one.
        """
        if _settled(own)[1] == digest:
            return
        known = {ref for skipped in begin.skipped for ref in skipped}
        bad = next((f"; here {bad.path}: {bad.reason}" for bad in own.problems if bad.path not in known), "")
        raise DataError(
            f"data: the process {self._world.name} finds other samples than the first one in the shards of the steps from "
            f"{begin.step} on{bad}. See that all processes read the same files, and start the same command again"
        )

    def mixture(self, choices: Choices, stop: int) -> list[Mixture]:
        """Count what all steps before one of the chapter that is open show of each data set."""
        assert self._current is not None, "no chapter is open yet"
        return mixture_in(self._current, choices, self._book, stop)

    def _open(self, begin: Begin) -> Chapter:
        chapter = self._book.open(begin)
        self.problems = tuple(dict.fromkeys([*self.problems, *chapter.problems]))
        if self._writes:
            self._note(chapter)
        return chapter

    def _note(self, chapter: Chapter) -> None:
        """Write where a chapter begins; what is there of later ones is of a run that went another way."""
        begin = chapter.begin
        tree = {
            "version": VERSION,
            "number": begin.number,
            "sets": self._sets,
            "step": begin.step,
            "taken": begin.taken,
            "seen": begin.seen,
            "in_pass": begin.in_pass,
            "shown": begin.shown,
            "roots": self._roots,
            "shards": self._numbers(begin.shards or ()),
            "skipped": self._skipped_numbers(begin),
            "rests": [_rest_to_tree(rest) for rest in begin.rests],
            "problems": [asdict(problem) for problem in chapter.problems],
        }
        file = self._folder / f"{begin.number:0{DIGITS}d}.json"
        try:
            self._folder.mkdir(exist_ok=True)
            for other in self._files():
                if int(other.stem) > begin.number:
                    other.unlink()
            write_whole(file, to_json(tree, indent=1))
        except OSError as error:
            raise DataError(f"output_dir: {file} cannot be written: {error.strerror}") from error

    def _recalled(self, step: int) -> Begin:
        """Find in the journal where the chapter of a step begins; the beginning of the first one if it is not there.

        Raises:
            DataError: If the journal cannot be read, or counts samples and shards of data sets that are others now.
        """
        begin = self._book.first()
        if step == 0:  # nothing was trained on: it may be mended data that the run begins anew with
            return begin
        problems: list[Problem] = []
        for number, file in enumerate(self._files()):
            tree = _read(file)
            if tree["number"] != number or tree["step"] > step or len(tree["taken"]) != len(begin.taken):
                break
            self._check_sets(tree["sets"])
            if tree["version"] == WITHOUT_COUNTS:
                break
            moves = list(zip(tree["roots"], self._roots, strict=True))
            problems += [Problem(_moved(own["path"], moves), own["reason"]) for own in tree["problems"]]
            begin = Begin(
                number,
                tree["step"],
                tuple(tree["taken"]),
                tuple(tree["seen"]),
                tuple(tree["in_pass"]),
                tuple((images, videos) for images, videos in tree["shown"]),
                tuple(_rest_from_tree(rest, move) for rest, move in zip(tree["rests"], moves, strict=True)),
                self._named(tree["shards"]),
                self._named_skipped(tree["skipped"]),
            )
        self.problems = tuple(dict.fromkeys([*self._book.problems, *problems]))
        return begin

    def _numbers(self, shards: Sequence[Sequence[str]]) -> list[list[int]]:
        """By data set: numbers of shards, which they have wherever they are."""
        places = [{ref: n for n, ref in enumerate(_refs(source))} for source in self._book.sources]
        return [[own[ref] for ref in refs] for own, refs in zip(places, shards, strict=True)]

    def _named(self, numbers: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
        """By data set: shards by their numbers."""
        return tuple(tuple(_refs(source)[n] for n in own) for source, own in zip(self._book.sources, numbers, strict=True))

    def _skipped_numbers(self, begin: Begin) -> list[list[tuple[int, str]]]:
        """By data set: numbers of the shards of a chapter that could not be read, and why."""
        numbers = self._numbers([list(own) for own in begin.skipped])
        return [list(zip(own, reasons.values(), strict=True)) for own, reasons in zip(numbers, begin.skipped, strict=True)]

    def _named_skipped(self, skipped: Sequence[Sequence[tuple[int, str]]]) -> tuple[dict[str, str], ...]:
        """By data set: why shards could not be read, by their references."""
        return tuple(
            {_refs(source)[n]: reason for n, reason in own} for source, own in zip(self._book.sources, skipped, strict=True)
        )

    def _check_sets(self, before: Sequence[str]) -> None:
        """Refuse to count on in a data set that is not the one whose samples or shards were counted."""
        for number, (source, old, new) in enumerate(zip(self._book.sources, before, self._sets, strict=True)):
            if old != new:
                config = source.config
                what = "samples" if isinstance(source, Known) else "shards"
                raise DataError(
                    f"data.{number}.path: {config.path!r} has other {what} than when the run was last started, and "
                    f"{self._folder} counts those: bring them back to continue the run as it was, or delete "
                    f"{self._folder} to have its chapters found again in what is there now"
                )

    def _files(self) -> Sequence[Path]:
        return sorted(file for file in self._folder.glob("*.json") if file.stem.isdigit())


def _settled(chapter: Chapter) -> tuple[Begin, bytes]:
    """Return what a chapter is made of, and a hash of the samples that come in it, by which processes compare theirs."""
    order, digest = chapter.order, hashlib.blake2b(digest_size=8)
    digest.update(repr((chapter.end.taken, chapter.end.seen, order.stop)).encode())
    for part in order.steps(order.start, order.stop):
        digest.update(part.tobytes())
    return chapter.begin, digest.digest()


def _known_as(source: Source, book: Book) -> str:
    """Hash what numbers in the journal count: samples of a known set, or shards, one of which may be mended meanwhile."""
    if isinstance(source, Known):
        return Catalog((source.data,), book.buckets).fingerprint()
    names = repr([blob_of(ref).name for ref in source.refs])
    return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()


def _read(file: Path) -> Any:  # plain values of JSON
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["version"] not in (WITHOUT_COUNTS, VERSION):
            raise ValueError(f"version {tree['version']}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read ({type(error).__name__}: {error}); it says where a chapter of the run begins. Restore "
            f"it, or delete the folder {file.parent} to have all chapters found again"
        ) from error
    return tree


def _rest_to_tree(rest: Rest) -> dict[str, object]:
    return {"samples": rest.samples, "items": None if rest.items is None else rest.items.to_pylist()}


def _cell_moved(cell: Cell, move: Move) -> Cell:
    return [_moved(ref, [move]) for ref in cell] if isinstance(cell, list) else _moved(cell, [move])


def _refs(source: Source) -> tuple[str, ...]:
    return () if isinstance(source, Known) else source.refs


def _moved(ref: str, moves: Sequence[Move]) -> str:
    """Return a reference, or one of something in a file, as it is where the first of these folders that has it is now."""
    for before, now in moves:
        scheme, root, name = ref.partition(f"{before}/")
        if before is not None and root and (not scheme or scheme.endswith(SCHEME_END)):
            return f"{scheme}{now}/{name}"
    return ref


def _rest_from_tree(tree: dict[str, Any], move: Move) -> Rest:
    """Make what was left over of its JSON: captions stay, and all else are references."""
    if tree["items"] is None:
        return Rest(tuple(tree["samples"]))
    rows = [
        {name: cell if name == "captions" else _cell_moved(cell, move) for name, cell in row.items()}
        for row in tree["items"]
    ]
    text = pa.large_string()
    kinds = {name: pa.large_list(text) if isinstance(cell, list) else text for name, cell in rows[0].items()}
    return Rest(tuple(tree["samples"]), pa.Table.from_pylist(rows, pa.schema(kinds)))

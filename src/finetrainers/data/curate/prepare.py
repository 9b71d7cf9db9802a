"""``finetrainers data prepare``: from raw media to a set that can be trained on, one medium after the other."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetrainers.config.curate import PrepareConfig
from finetrainers.data.catalog.found import most_passed_over
from finetrainers.data.curate.inputs import Inputs, list_inputs
from finetrainers.data.curate.journal import Journal, Record
from finetrainers.data.curate.piece import Box, Dropped, Piece, whole
from finetrainers.data.curate.pipeline import Batch, ahead, ordered_map, run_stages
from finetrainers.data.curate.reading import open_medium
from finetrainers.data.curate.report import Totals, report_lines
from finetrainers.data.curate.rows import json_lines, row_of, rows_of
from finetrainers.data.curate.shards import MB, Shards
from finetrainers.data.curate.steps import Stage, build_stages
from finetrainers.data.curate.writing import even_size, name_of, write_lines, write_piece
from finetrainers.errors import DataError

Say = Callable[[str], None]
SAY_SECONDS = 10.0
"""Between two lines about how far it is."""


def prepare(config: PrepareConfig, say: Say = lambda _: None) -> Totals:
    """Prepare a set, or go on with one; the finished one is the same whatever has stopped it in between.

    Raises:
        ConfigError: Before anything is written: if the input or a step cannot be used, or the output is another's.
        DataError: If a medium has changed since it was prepared; those that are bad are left out and named in report.json.
    """
    output = config.output.path.expanduser().absolute()
    inputs = list_inputs(config.inputs, output)
    if over := most_passed_over({kind: count for kind, count in inputs.others.items() if kind != ".txt"}):
        say(f"not read: {over}")
    stages = build_stages(config, inputs.origin)
    with Journal(config, inputs) as journal, ThreadPoolExecutor(config.workers) as pool:
        preparation = _Preparation(config, output, inputs, stages, journal)
        if journal.num_done:
            say(f"going on after {journal.num_done} of {len(inputs)} media")
        try:
            return preparation.run(pool, say)
        except BaseException:
            preparation.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Preparation:
    """What one preparation needs at hand."""

    def __init__(self, config: PrepareConfig, output: Path, inputs: Inputs, stages: list[Stage], journal: Journal) -> None:
        self._config = config
        self._output = output
        self._inputs = inputs
        self._stages = stages
        self._journal = journal
        self._totals = Totals()
        self._stop = threading.Event()
        is_folder = config.output.format == "folder"
        self._files = output if is_folder else journal.folder / "staged"
        self._shards = (
            None
            if is_folder
            else Shards(output, self._files, kind=config.output.format, max_bytes=config.output.shard_mb * MB)
        )
        self._scores = list(dict.fromkeys(name for stage in stages for _, step in stage.steps for name in step.scores))

    def run(self, pool: ThreadPoolExecutor, say: Say) -> Totals:
        for record in self._journal.records():
            self._remember(record)
            self._mend(record)
            self._take(record)
        rest = iter(range(self._journal.num_done, len(self._inputs)))
        opened = ordered_map(self._open, rest, pool, self._config.workers)
        passed = run_stages(opened, self._stages, pool, self._config.workers)
        told = time.monotonic()
        for record in self._written(passed, pool):
            self._journal.append(record)
            self._take(record)
            if time.monotonic() - told > SAY_SECONDS:
                told = time.monotonic()
                say(f"{self._totals.media} of {len(self._inputs)} media, {self._totals.kept} items")
        self._finish()
        return self._totals

    def stop(self) -> None:
        """Let threads end what they are doing."""
        self._stop.set()

    def _open(self, index: int) -> Batch:
        batch = Batch(index, self._inputs.origin(index))
        try:
            batch.pieces = [whole(open_medium(index, self._inputs.path(index), batch.origin, self._stop))]
        except DataError as error:
            batch.failure = str(error)
        return batch

    def _written(self, batches: Iterator[Batch], pool: ThreadPoolExecutor) -> Iterator[Record]:
        """Write the pieces of each medium, and make its record."""
        started = (
            (batch, [pool.submit(self._write, piece, number) for number, piece in enumerate(batch.pieces)])
            for batch in batches
        )
        for batch, futures in ahead(started, 2 * self._config.workers):
            kept: list[Record] = []
            for piece, future in zip(batch.pieces, futures, strict=True):
                try:
                    kept.append(future.result())
                except DataError as error:
                    batch.dropped.append((len(self._config.steps), Dropped(piece, str(error))))
            yield self._record(batch, kept)

    def _write(self, piece: Piece, number: int) -> Record:
        file = name_of(piece, number)
        height, width = even_size(piece)
        return {
            "file": file,
            "bytes": write_piece(piece, self._files / file, self._config.output),
            "caption": piece.caption,
            "seconds": round(piece.seconds, 4),
            "frames": piece.num_frames,
            "fps": round(piece.medium.info.fps, 4),
            "height": height,
            "width": width,
            "scores": dict(piece.scores),
            "start": piece.start,
            "stop": piece.stop,
            "box": [piece.box.top, piece.box.left, piece.box.height, piece.box.width],
        }

    def _record(self, batch: Batch, kept: list[Record]) -> Record:
        medium = next((p.medium for p in [*batch.pieces, *(dropped.piece for _, dropped in batch.dropped)]), None)
        return {
            "origin": batch.origin,
            "digest": None if medium is None else medium.digest,
            "bytes": 0 if medium is None else medium.num_bytes,
            "seconds": 0.0 if medium is None else round(medium.info.seconds, 4),
            "failure": batch.failure,
            "counts": batch.counts,
            "marks": batch.marks,
            "kept": kept,
            "dropped": [
                {
                    "step": place,
                    "reason": one.reason,
                    "start": one.piece.start,
                    "stop": one.piece.stop,
                    "scores": dict(one.piece.scores),
                }
                for place, one in batch.dropped
            ],
        }

    def _remember(self, record: Record) -> None:
        """Let the ordered steps know what an earlier process has seen."""
        ordered = {stage.ordered[0]: stage.ordered[1] for stage in self._stages if stage.ordered}
        for place, mark in record["marks"]:
            ordered[place].remember(mark)

    def _mend(self, record: Record) -> None:
        """Write a file once more that is no longer there as it was, unless it is in a shard."""
        index = self._totals.media
        for kept in record["kept"]:
            file = self._files / kept["file"]
            if self._shards is not None and self._shards.is_written():
                continue
            if file.is_file() and file.stat().st_size == kept["bytes"]:
                continue
            medium = open_medium(index, self._inputs.path(index), record["origin"], self._stop)
            if medium.digest != record["digest"]:
                raise DataError(f"{medium.path} has changed since it was prepared; name a new output.path")
            write_piece(
                Piece(medium, kept["start"], kept["stop"], Box(*kept["box"]), kept["caption"]), file, self._config.output
            )

    def _take(self, record: Record) -> None:
        """Count a medium, and put its items into shards."""
        self._totals.add(record)
        if self._shards is not None:
            for kept in record["kept"]:
                self._shards.add(row_of(record, kept, self._scores), kept["bytes"])

    def _finish(self) -> None:
        if self._shards is None:
            write_lines(self._output / "metadata.jsonl", json_lines(rows_of(self._journal.records(), self._scores)))
        else:
            self._shards.close()
        records = self._journal.records()
        write_lines(self._output / "report.json", report_lines(self._config, records, self._totals, self._inputs.others))

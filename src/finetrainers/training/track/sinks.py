"""Where events go: events.jsonl and trackers."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from finetrainers.config import Config
from finetrainers.errors import StorageError
from finetrainers.events import Event, StepEvent, ValidationEvent
from finetrainers.files.whole import to_json
from finetrainers.runs.outputs import Sample
from finetrainers.training.track.samples import drawn, media_of, write_summary


class Sink(Protocol):
    """Something that takes events."""

    def write(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Write what is left."""


class EventLog:
    """events.jsonl, the machine interface of a run: appended to, one JSON object a line, flushed at once."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_torn = file.exists() and file.stat().st_size > 0 and _last_byte(file) != b"\n"
        self._file = file
        self._out = file.open("ab", buffering=0)  # nothing waits, which a full disk would refuse once more at the end
        if is_torn:  # a kill in the middle of a line: end it, so that only this line is lost
            self._write(b"\n")

    def write(self, event: Event) -> None:
        # Names of files need not be text: a byte that is none becomes an escape, as JSON has it too.
        self._write(f"{to_json(event.tree())}\n".encode(errors="backslashreplace"))

    def _write(self, line: bytes) -> None:
        try:
            while line:  # a disk that is nearly full takes a part
                line = line[self._out.write(line) :]
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be written: {error.strerror}; make room or fix it, and start the run again"
            ) from error

    def close(self) -> None:
        self._out.close()


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read()


class _Pictured:
    """A tracker that shows samples too: what is wrong with one of them ends no run, and is told once."""

    warn: Callable[[str], None] = staticmethod(lambda _: None)
    """Says it."""
    _name = "TensorBoard"
    _is_told = False

    def _samples(self, event: ValidationEvent) -> list[Sample]:
        found: list[Sample] = []
        with self._harmless():
            found += drawn(event.directory)
        return found

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, training does not need it
            if not self._is_told:
                self._is_told = True
                self.warn(f"{self._name} did not receive all samples ({type(error).__name__}: {error}); the run continues")


class TensorBoard(_Pictured):
    """TensorBoard files; each number of an event is a curve, and each sample a picture with its prompt."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory))

    def write(self, event: Event) -> None:
        if isinstance(event, StepEvent | ValidationEvent):
            for name, value in curves(event).items():
                self._writer.add_scalar(name, value, event.step)
        if isinstance(event, ValidationEvent):
            for sample in self._samples(event):
                with self._harmless():
                    write_summary(self._writer, sample, event.step)

    def close(self) -> None:
        self._writer.close()


class RunTracker(_Pictured):
    """Weights & Biases, or trackio, which has the same interface."""

    def __init__(self, module: str, project: str, config: Config) -> None:
        import importlib

        self._name = module
        tree = config.model_dump(mode="json", by_alias=True)
        place = {"dir": str(config.output_dir)} if module == "wandb" else {}  # trackio has one folder for all runs
        with redirect_stdout(sys.stderr):  # trackio prints, but standard output is for what a command answers
            self._library: Any = importlib.import_module(module)
            self._run: Any = self._library.init(project=project, name=config.output_dir.name, config=tree, **place)

    def write(self, event: Event) -> None:
        if not isinstance(event, StepEvent | ValidationEvent):
            return
        numbers, samples = curves(event), self._samples(event) if isinstance(event, ValidationEvent) else []
        if samples:
            with self._harmless():
                self._run.log({**numbers, **media_of(self._library, samples)}, step=event.step)
                numbers = {}
        if numbers:
            self._run.log(numbers, step=event.step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._library.finish()  # not the run's own, after which trackio would finish it again at exit


def curves(event: Event) -> dict[str, float]:
    """Numbers of a step or a validation, as "train/loss" and so on; empty for other events."""
    if not isinstance(event, StepEvent | ValidationEvent):
        return {}
    prefix = "train" if isinstance(event, StepEvent) else "validation"
    own = {k: v for k, v in event.tree().items() if k not in ("v", "step", "time")}
    numbers = {f"{prefix}/{k}": float(v) for k, v in own.items() if isinstance(v, int | float)}
    bins = (event.held_out_bins or {}) if isinstance(event, ValidationEvent) else {}
    return numbers | {f"{prefix}/held_out_loss/{k}": v for k, v in bins.items()}

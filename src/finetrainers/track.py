"""Where a run's numbers go: events.jsonl always, a progress bar, and trackers on request; all read the same events."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from finetrainers.config import Config
from finetrainers.config.run import TrackConfig
from finetrainers.data.occupancy import bucket_lines
from finetrainers.errors import ConfigError, NonFiniteError, StorageError
from finetrainers.files import to_json
from finetrainers.loop import Metrics, Trainer

EVENTS_VERSION = 1
"""Raised when a field changes its meaning; new fields and new events do not raise it."""

Event = Mapping[str, Any]  # one JSON object, as docs/events.md and its schema describe it


Describe = Callable[[int], str]
"""Says which file a sample position shows."""


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
        self._write(f"{to_json(event)}\n".encode(errors="backslashreplace"))

    def _write(self, line: bytes) -> None:
        try:
            while line:  # a disk that is nearly full takes a part
                line = line[self._out.write(line) :]
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be written: {error.strerror}; make room or mend it, and start the run again"
            ) from error

    def close(self) -> None:
        self._out.close()


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read()


class Console:
    """A progress bar of the steps, one for each stage, and lines for all else; silent once nobody is there to read them."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bar: Any = None
        self._stage = ""
        self._is_gone = False

    def write(self, event: Event) -> None:
        if not self._is_gone:
            with self._until_gone():
                self._tell(event)

    def close(self) -> None:
        with self._until_gone():
            self._close_bar()

    @contextmanager
    def _until_gone(self) -> Iterator[None]:
        """Fall silent if the terminal was closed, or the reader of a pipe ended: what is left to do is to save."""
        try:
            yield
        except OSError:
            self._is_gone = True
            if self._bar is not None:
                self._bar.disable = True  # else it would write once more when it is collected
                self._bar = None

    def _tell(self, event: Event) -> None:
        match event["event"]:
            case "progress":
                self._show(event["stage"], event["done"], event["total"])
            case "step":
                numbers = (
                    f"loss {event['loss']:.4f} lr {event['lr']:.2e} norm {event['grad_norm']:.3g} "
                    f"step {event['step_seconds']:.2f}s wait {event['data_seconds']:.2f}s "
                    f"{event['tokens_per_second']:.0f} tok/s {event['peak_memory_gb']:.1f} GB"
                )
                self._show("train", event["step"], self._steps, numbers)
            case "validation":
                loss = event.get("held_out_loss")
                shown = "" if loss is None else f" held-out loss {loss:.5f}"
                self._print(f"validation at step {event['step']}:{shown} {event['directory']}")
            case "run":
                for line in bucket_lines(event["buckets"]):
                    self._print(line)
            case "stage":
                self._print(f"{event['stage']}: {event['seconds']:.1f} s")
            case "warning":  # an error is raised, and told by whoever catches it
                self._print(f"warning: {event['message']}")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, stage: str, done: int, total: int, numbers: str = "") -> None:
        if stage != self._stage or self._bar is None:
            self._close_bar()
            unit, first = ("step", done - 1) if stage == "train" else ("item", 0)
            self._bar = tqdm(total=total, desc=stage, unit=unit, initial=first, mininterval=0.5)
            self._stage = stage
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._close_bar()

    def _print(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


class TensorBoard:
    """TensorBoard files; each number of an event is a curve."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory))

    def write(self, event: Event) -> None:
        for name, value in curves(event).items():
            self._writer.add_scalar(name, value, event["step"])

    def close(self) -> None:
        self._writer.close()


class RunTracker:
    """Weights & Biases, or trackio, which has the same interface."""

    def __init__(self, module: str, project: str, config: Config) -> None:
        import importlib

        tree = config.model_dump(mode="json", by_alias=True)
        place = {"dir": str(config.output_dir)} if module == "wandb" else {}  # trackio has one folder for all runs
        with redirect_stdout(sys.stderr):  # trackio prints, but standard output is for what a command answers
            self._library: Any = importlib.import_module(module)
            self._run: Any = self._library.init(project=project, name=config.output_dir.name, config=tree, **place)

    def write(self, event: Event) -> None:
        numbers = curves(event)
        if numbers:
            self._run.log(numbers, step=event["step"])

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._library.finish()  # not the run's own, after which trackio would finish it again at exit


def curves(event: Event) -> dict[str, float]:
    """Numbers of a step or a validation, as "train/loss" and so on; empty for other events."""
    prefix = {"step": "train", "validation": "validation"}.get(event["event"])
    if prefix is None:
        return {}
    numbers = {
        f"{prefix}/{k}": float(v) for k, v in event.items() if isinstance(v, int | float) and k not in {"v", "step", "time"}
    }
    bins = event.get("held_out_bins", {})
    return numbers | {f"{prefix}/held_out_loss/{k}": v for k, v in bins.items()}


class Tracker:
    """Stamps events and hands them to all sinks."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event; ``fields`` are plain values."""
        stamped = {"v": EVENTS_VERSION, "time": time.time(), "event": event, **fields}
        for sink in self._sinks:
            sink.write(stamped)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self._sinks:
            sink.close()


def build_tracker(config: Config) -> Tracker:
    """Make the sinks that a configuration asks for.

    Raises:
        ConfigError: If a tracker's package is not installed.
    """
    directory, track = config.output_dir, config.track
    sinks: list[Sink] = [EventLog(directory / "events.jsonl"), Console(config.train.steps)]
    if track.tensorboard:
        sinks.append(TensorBoard(directory / "tensorboard"))
    for module, project in (("wandb", track.wandb), ("trackio", track.trackio)):
        if project is not None:
            sinks.append(RunTracker(module, project, config))
    return Tracker(*sinks)


def check_trackers(track: TrackConfig) -> None:
    """Fail early if the package of a tracker that is asked for is missing.

    Raises:
        ConfigError: With the command that installs it.
    """
    from importlib.util import find_spec

    for name, wanted in (("tensorboard", track.tensorboard), ("wandb", track.wandb), ("trackio", track.trackio)):
        if wanted and find_spec(name) is None:
            raise ConfigError(f"track.{name}: the package is missing: pip install 'finetrainers[{name}]'")


class StepLog:
    """Writes step events where they are due; stops the run when a loss or a gradient is not finite."""

    def __init__(self, tracker: Tracker, *, every: int, stops: bool, describe: Describe = str) -> None:
        self._tracker = tracker
        self._describe = describe
        self._every = every
        self._stops = stops

    def __call__(self, trainer: Trainer, metrics: Metrics) -> None:
        if metrics.step % self._every == 0 or not metrics.is_finite:
            self._tracker.emit("step", **step_fields(trainer, metrics, seconds=time.perf_counter() - metrics.began))
        if not metrics.is_finite:
            message = non_finite_message(metrics, self._describe)
            if self._stops:
                raise NonFiniteError(message)
            self._tracker.emit("warning", message=f"{message} The update was skipped.", step=metrics.step)


def step_fields(trainer: Trainer, metrics: Metrics, *, seconds: float) -> dict[str, Any]:
    """Fields of a step event, which took so many seconds with its data."""
    return {
        "step": metrics.step,
        "loss": metrics.loss,
        "grad_norm": metrics.grad_norm,
        "lr": metrics.lr,
        "step_seconds": seconds - metrics.data_seconds,
        "data_seconds": metrics.data_seconds,
        "tokens_per_second": metrics.num_tokens / seconds,
        "peak_memory_gb": peak_memory_gb(trainer.device),
        "skipped": trainer.num_skipped,
    }


def non_finite_message(metrics: Metrics, describe: Describe = str) -> str:
    """Name the samples whose loss is not finite; all of the step's, if only the gradient is not."""
    bad = ~torch.isfinite(metrics.sample_losses.cpu())
    positions = (metrics.positions[bad] if bad.any() else metrics.positions).tolist()
    what = "loss" if bad.any() else "gradient"
    media = ", ".join(dict.fromkeys(describe(position) for position in positions))
    return (
        f"step {metrics.step}: the {what} is not finite, at the sample positions {positions} ({media}). "
        "Lower optimizer.lr, look at these samples, or set train.non_finite: skip to leave such steps out."
    )


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory so far in GB (10^9 bytes): the device's allocator's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9

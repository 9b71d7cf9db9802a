"""Where a run's numbers go: events.jsonl always, a progress bar, and trackers on request; all read the same events."""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from finetrainers.config import Config
from finetrainers.config.run import TrackConfig
from finetrainers.data.occupancy import bucket_lines
from finetrainers.errors import ConfigError, NonFiniteError
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
        # Names of files need not be text: a byte that is none becomes an escape, as JSON has it too.
        self._out = file.open("a", encoding="utf-8", errors="backslashreplace")
        if is_torn:  # a kill in the middle of a line: end it, so that only this line is lost
            self._out.write("\n")

    def write(self, event: Event) -> None:
        self._out.write(to_json(event) + "\n")
        self._out.flush()

    def close(self) -> None:
        self._out.close()


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read()


class Console:
    """A progress bar of the steps, one for each stage, and lines for all else."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bar: Any = None
        self._stage = ""

    def write(self, event: Event) -> None:
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
            case "warning" | "error":
                self._print(f"{event['event']}: {event['message']}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, stage: str, done: int, total: int, numbers: str = "") -> None:
        if stage != self._stage or self._bar is None:
            self.close()
            unit, first = ("step", done - 1) if stage == "train" else ("item", 0)
            self._bar = tqdm(total=total, desc=stage, unit=unit, initial=first, mininterval=0.5)
            self._stage = stage
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

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
        is_finite = math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)  # waits for the device
        if trainer.step % self._every == 0 or not is_finite:
            self._tracker.emit("step", **step_fields(trainer, metrics, seconds=time.perf_counter() - metrics.began))
        if not is_finite:
            message = non_finite_message(trainer, metrics, self._describe)
            if self._stops:
                raise NonFiniteError(message)
            self._tracker.emit("warning", message=f"{message} The update was skipped.", step=trainer.step)


def step_fields(trainer: Trainer, metrics: Metrics, *, seconds: float) -> dict[str, Any]:
    """Fields of a step event, which took so many seconds with its data; copies the tensors from the device."""
    return {
        "step": trainer.step,
        "loss": float(metrics.loss),
        "grad_norm": float(metrics.grad_norm),
        "lr": metrics.lr,
        "step_seconds": seconds - metrics.data_seconds,
        "data_seconds": metrics.data_seconds,
        "tokens_per_second": metrics.num_tokens / seconds,
        "peak_memory_gb": peak_memory_gb(trainer.device),
        "skipped": trainer.num_skipped,
    }


def non_finite_message(trainer: Trainer, metrics: Metrics, describe: Describe = str) -> str:
    """Name the samples whose loss is not finite; all of the step's, if only the gradient is not."""
    bad = ~torch.isfinite(metrics.sample_losses.cpu())
    positions = (metrics.positions[bad] if bad.any() else metrics.positions).tolist()
    what = "loss" if bad.any() else "gradient"
    media = ", ".join(dict.fromkeys(describe(position) for position in positions))
    return (
        f"step {trainer.step}: the {what} is not finite, at the sample positions {positions} ({media}). "
        "Lower optimizer.lr, look at these samples, or set train.non_finite: skip to leave such steps out."
    )


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory so far in GB (10^9 bytes): the device's allocator's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9

"""Where a run's numbers go: events.jsonl always, a progress bar, and trackers on request; all read the same events."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from finetrainers.compat.packages import install_extra
from finetrainers.config import Config, TrackConfig
from finetrainers.config.user_code import about_user_code
from finetrainers.errors import ConfigError, NonFiniteError
from finetrainers.events import Event, LoadedEvent, StepEvent, WarningEvent
from finetrainers.memory.peak import peak_memory_gb
from finetrainers.training.console.console import Console
from finetrainers.training.track.sinks import EventLog, RunTracker, Sink, TensorBoard
from finetrainers.training.track.trackers import OwnTracker, load_trackers
from finetrainers.training.trainer import Metrics, Trainer

Describe = Callable[[int], str]
"""Says which file a sample position shows."""


class Sinks:
    """Hands events to all sinks."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)

    def add(self, sink: Sink) -> None:
        """Hand events to one more from now on."""
        self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Write one event."""
        for sink in self._sinks:
            sink.write(event)

    def close(self, ended_by: BaseException | None = None) -> None:
        """Close all sinks, the last first, whatever fails in one of them.

        Args:
            ended_by: What is on its way already: it is not hidden by what fails here, of which others are told then.
        """
        while self._sinks:
            try:
                self._sinks.pop().close()
            except Exception as error:
                if ended_by is None:
                    self.close(error)
                    raise
                with suppress(Exception):
                    self.emit(WarningEvent(message=f"not all that is told of the run could be closed: {_said(error)}"))


def _said(error: Exception) -> str:
    return about_user_code(error) or f"{type(error).__name__}: {error}"


def build_tracker(config: Config) -> Sinks:
    """Open the sinks that each run has: events.jsonl and the terminal."""
    return Sinks(EventLog(config.output_dir / "events.jsonl"), Console(config.train.steps))


def begin_trackers(tracker: Sinks, config: Config) -> None:
    """Begin what a configuration asks for besides; what has begun is among the sinks, whatever fails in the next.

    Raises:
        ConfigError: If one of the user's own cannot be loaded.
    """
    directory, track = config.output_dir, config.track

    def show(sink: TensorBoard | RunTracker) -> None:
        sink.warn = lambda message: tracker.emit(WarningEvent(message=message))
        tracker.add(sink)

    if track.tensorboard:
        show(TensorBoard(directory / "tensorboard"))
    for module, project in (("wandb", track.wandb), ("trackio", track.trackio)):
        if project is not None:
            show(RunTracker(module, project, config))
    for own in load_trackers(config):
        tracker.add(OwnTracker(own(), config))


def log_tracker(file: Path) -> Sinks:
    """Make the tracker of a process that is not the first: what it has to say is in a file of its own."""
    return Sinks(EventLog(file))


def check_trackers(track: TrackConfig) -> None:
    """Fail early if the package of a tracker that is asked for is missing.

    Raises:
        ConfigError: With the command that installs it.
    """
    from importlib.util import find_spec

    for name, wanted in (("tensorboard", track.tensorboard), ("wandb", track.wandb), ("trackio", track.trackio)):
        if wanted and find_spec(name) is None:
            raise ConfigError(f"track.{name}: the package is missing: {install_extra(name)}")


class StepLog:
    """Writes step events where they are due; stops the run when a loss or a gradient is not finite."""

    def __init__(self, tracker: Sinks, *, every: int, stops: bool, describe: Describe = str) -> None:
        self._tracker = tracker
        self._describe = describe
        self._every = every
        self._stops = stops

    def __call__(self, trainer: Trainer, metrics: Metrics) -> None:
        if metrics.step % self._every == 0 or not metrics.is_finite:
            self._tracker.emit(step_event(trainer, metrics, seconds=time.perf_counter() - metrics.began))
        if not metrics.is_finite:
            message = non_finite_message(metrics, self._describe)
            if self._stops:
                raise NonFiniteError(message)
            self._tracker.emit(WarningEvent(message=f"{message} The update was skipped.", step=metrics.step))


def loaded_event(trainer: Trainer) -> LoadedEvent:
    """Tell of what is loaded."""
    trained = sum(parameter.numel() for parameter in trainer.denoiser.parameters() if parameter.requires_grad)
    return LoadedEvent(trained_parameters=trained, peak_memory_gb=peak_memory_gb(trainer.device))


def step_event(trainer: Trainer, metrics: Metrics, *, seconds: float) -> StepEvent:
    """Tell of a step, which took so many seconds with its data."""
    return StepEvent(
        step=metrics.step,
        loss=metrics.loss,
        grad_norm=metrics.grad_norm,
        lr=metrics.lr,
        step_seconds=seconds - metrics.data_seconds,
        data_seconds=metrics.data_seconds,
        tokens_per_second=metrics.num_tokens / seconds,
        peak_memory_gb=peak_memory_gb(trainer.device),
        skipped=trainer.update.num_skipped,
    )


def non_finite_message(metrics: Metrics, describe: Describe = str) -> str:
    """Name the samples whose loss is not finite; all of the step's, if only the gradient is not."""
    bad = ~torch.isfinite(metrics.sample_losses.cpu())
    positions = (metrics.positions[bad] if bad.any() else metrics.positions).tolist()
    what = "loss" if bad.any() else "gradient"
    media = ", ".join(dict.fromkeys(describe(position) for position in positions))
    return (
        f"step {metrics.step}: the {what} is not finite, at the sample positions {positions} ({media}). "
        "Lower optimizer.lr, check these samples, or set train.non_finite: skip to leave such steps out."
    )

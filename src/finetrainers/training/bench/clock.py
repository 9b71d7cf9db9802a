"""Times of a device's work: between moments that nobody waits for, and of phases, each of which is waited for."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch
from finetrainers.training.trainer import Metrics, Trainer


class Moments:
    """Moments in the work of a device; to note one costs nothing, and the device is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._noted: list[Any] = []  # events of CUDA, or seconds

    def note(self) -> None:
        """Note this moment: on a GPU, that at which the device has done all that it was told so far."""
        if self._device.type != "cuda":
            self._noted.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._noted.append(event)

    def seconds(self) -> list[float]:
        """Seconds between each two; here the device is waited for."""
        pairs = list(zip(self._noted, self._noted[1:], strict=False))
        if self._device.type != "cuda":
            return [after - before for before, after in pairs]
        torch.cuda.synchronize(self._device)
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


class Stopwatch:
    """Seconds of the phases of one step after the other; the device is waited for where one ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps: list[dict[str, float]] = []
        """Seconds of each phase, of each whole step."""
        self._phases: dict[str, float] = defaultdict(float)
        self._last = self._now()

    def end(self, phase: str) -> None:
        """Count the time since the phase before as one of this; those of one name add up."""
        now = self._now()
        self._phases[phase] += now - self._last
        self._last = now

    def end_step(self) -> None:
        """Begin with the next step."""
        self.steps.append(dict(self._phases))
        self._phases.clear()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def phases_timed(trainer: Trainer) -> Iterator[Stopwatch]:
    """Time what a trainer does in its steps by data, forward, backward and update, while the body runs."""
    ask: Callable[[Batch], Tensor] = trainer.micro_losses
    pull: Callable[..., None] = trainer.update.backward
    before = trainer.after_step
    stopwatch = Stopwatch(trainer.device)

    def losses(batch: Batch) -> Tensor:
        stopwatch.end("data")
        answer = ask(batch)
        stopwatch.end("forward")
        return answer

    def backward(*arguments: Any, **options: Any) -> None:  # as Update has it
        pull(*arguments, **options)
        stopwatch.end("backward")

    def whole(_trainer: Trainer, _metrics: Metrics) -> None:
        stopwatch.end("update")
        stopwatch.end_step()

    trainer.micro_losses, trainer.update.backward = losses, backward  # type: ignore[method-assign]
    trainer.after_step = (whole,)
    try:
        yield stopwatch
    finally:
        del trainer.micro_losses, trainer.update.backward  # back to those of their classes
        trainer.after_step = before

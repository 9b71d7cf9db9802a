"""What a run shows in a terminal."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetrainers.events import (
    AttentionEvent,
    EndEvent,
    Event,
    LoadedEvent,
    ProgressEvent,
    RunEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
)
from finetrainers.runs.pace import RECENT_STEPS, middle
from finetrainers.training.console.bar import Bars, Part, Stages, State, as_time, columns, is_terminal
from finetrainers.training.console.lines import Row, as_line, attention_lines, end_lines, fold, run_lines, validation_line

BESIDE_TRAINING = ("held-out loss", "item losses", "generate samples")
"""Stages of a validation: their bars go when they are done, and the line of the validation says what came of them."""
SMOOTHED_STEPS = 20
"""Logged steps that the loss is smoothed over, about, as in report.html."""


class Console:
    """A bar of the steps, one for each stage, and lines for all else; silent once nobody is there to read them."""

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars = Bars(clock)
        self._stages, self._training = Stages(self._bars, clock), Training(self._bars, steps)
        self._is_gone = False

    def write(self, event: Event) -> None:
        if not self._is_gone:
            with self._until_gone():
                self._tell(event)

    def close(self) -> None:
        if not self._is_gone:
            with self._until_gone():
                self._bars.close()

    @contextmanager
    def _until_gone(self) -> Iterator[None]:
        """Fall silent if the terminal was closed, or the reader of a pipe ended: what is left to do is to save."""
        try:
            yield
        except OSError:
            self._is_gone = True

    def _tell(self, event: Event) -> None:
        match event:
            case ProgressEvent():
                self._stages.show(event.stage, event.done, event.total, is_kept=event.stage not in BESIDE_TRAINING)
            case StepEvent():
                self._training.show(event)
            case LoadedEvent():
                self._training.begin()
            case RunEvent():
                self._training.step = event.resumed_from or 0
                self._print(run_lines(event))
            case AttentionEvent():
                self._print(attention_lines(event))
            case ValidationEvent():
                self._print_line(validation_line(event))
            case EndEvent():
                self._bars.close()
                self._print(end_lines(event))
            case WarningEvent():  # an error is raised, and told by whoever catches it
                for line in f"warning: {event.message}".splitlines():
                    self._print_line(line)

    def _print(self, rows: list[Row]) -> None:
        for row in rows:
            self._print_line(as_line(row))

    def _print_line(self, text: str) -> None:
        for line in fold(text, columns() - 1 if is_terminal() else None):
            self._bars.print(line)


class Training:
    """The bar of the steps: those that are done, the time that is left, the smoothed loss, and the largest memory."""

    def __init__(self, bars: Bars, steps: int) -> None:
        self.step = 0
        """Steps that are taken."""
        self._bars, self._steps = bars, steps
        self._mean, self._weight = 0.0, 0.0
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS + 1)
        """Of the last steps of this start."""

    def begin(self) -> None:
        """Show the bar before the first step, which can take long."""
        if self.step < self._steps:
            self._bars.show(self._state([]))

    def show(self, event: StepEvent) -> None:
        """Show how far training is, by the time of steps alone: validations, saving and loading are not in it."""
        self.step = event.step
        self._seconds.append(event.step_seconds + event.data_seconds)
        seconds = middle(self._seconds) or 0.0
        parts = [
            Part(f"{as_time(seconds * (self._steps - self.step))} left", 1),
            Part(f"loss {self._smoothed(event.loss):#.4g}", 2),
            Part(as_pace(seconds), 5),
            Part(f"{event.peak_memory_gb:.1f} GB", 4),
        ]
        self._bars.show(self._state(parts[self.step == self._steps :]))

    def _state(self, parts: list[Part]) -> State:
        share = self.step / self._steps if self._steps else 1.0
        return State("train", f"step {self.step}/{self._steps}", share, parts, self.step == self._steps)

    def _smoothed(self, loss: float) -> float:
        """Mean that forgets, as ``runs.curves.smooth``; a loss that is not finite changes nothing."""
        if math.isfinite(loss):
            weight = 1 - 1 / SMOOTHED_STEPS
            self._mean, self._weight = weight * self._mean + (1 - weight) * loss, weight * self._weight + 1 - weight
        return self._mean / self._weight if self._weight else math.nan


def as_pace(seconds: float) -> str:
    """Write the time of a step with two digits that count."""
    return f"{seconds:.0f} s/step" if seconds >= 10 else f"{seconds:#.2g} s/step"

"""What a run shows in a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from finetrainers.data.catalog.found import set_lines
from finetrainers.data.catalog.occupancy import bucket_lines
from finetrainers.data.order.mixture import mixture_lines
from finetrainers.events import (
    AttentionEvent,
    EndEvent,
    Event,
    ProgressEvent,
    RunEvent,
    StageEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
)


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
        match event:
            case ProgressEvent():
                self._show(event.stage, event.done, event.total)
            case StepEvent():
                numbers = (
                    f"loss {event.loss:.4f} lr {event.lr:.2e} norm {event.grad_norm:.3g} "
                    f"step {event.step_seconds:.2f}s wait {event.data_seconds:.2f}s "
                    f"{event.tokens_per_second:.0f} tok/s {event.peak_memory_gb:.1f} GB"
                )
                self._show("train", event.step, self._steps, numbers)
            case ValidationEvent():
                loss = event.held_out_loss
                shown = "" if loss is None else f" held-out loss {loss:.5f}"
                self._print(f"validation at step {event.step}:{shown} {event.directory}")
            case RunEvent() | AttentionEvent():
                for line in _run_lines(event) if isinstance(event, RunEvent) else _attention_lines(event):
                    self._print(line)
            case StageEvent():
                self._print(f"{event.stage}: {event.seconds:.1f} s")
            case EndEvent() if event.best_step is not None:
                kept = "" if event.best_weights is None else f" {event.best_weights}"
                self._print(f"lowest held-out loss: {event.best_held_out_loss:.5f} at step {event.best_step}{kept}")
            case WarningEvent():  # an error is raised, and told by whoever catches it
                self._print(f"warning: {event.message}")

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


def _run_lines(event: RunEvent) -> list[str]:
    """What is trained on."""
    sets, mix, buckets = ([own.tree() for own in found] for found in (event.sets, event.mix, event.buckets))
    return [*(event.auto or ()), *(event.memory or ()), *set_lines(sets), *mixture_lines(mix), *bucket_lines(buckets)]


def _attention_lines(event: AttentionEvent) -> list[str]:
    """How each backend did, and which is taken."""
    results = [trial.reason if trial.milliseconds is None else f"{trial.milliseconds:.2f} ms" for trial in event.trials]
    lines = [f"{trial.backend}: {told}" for trial, told in zip(event.trials, results, strict=True)]
    return [f"attention.{event.key}: {line}" for line in [*lines, f"{event.backend} is taken"]]

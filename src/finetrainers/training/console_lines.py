"""The lines of a run in a terminal: what it trains on, what a validation found, and what it has made."""

import os
from pathlib import Path

from finetrainers.data.catalog.found import set_lines
from finetrainers.data.catalog.occupancy import bucket_lines
from finetrainers.data.order.mixture import mixture_lines
from finetrainers.events import AttentionEvent, EndEvent, RunEvent, ValidationEvent
from finetrainers.training.console_bar import as_time


def run_lines(event: RunEvent) -> list[str]:
    """What is trained on."""
    sets, mix, buckets = ([own.tree() for own in found] for found in (event.sets, event.mix, event.buckets))
    return [*(event.memory or ()), *set_lines(sets), *mixture_lines(mix), *bucket_lines(buckets)]


def attention_lines(event: AttentionEvent) -> list[str]:
    """How each backend did, and which is taken."""
    results = [trial.reason if trial.milliseconds is None else f"{trial.milliseconds:.2f} ms" for trial in event.trials]
    lines = [f"{trial.backend}: {told}" for trial, told in zip(event.trials, results, strict=True)]
    return [f"attention.{event.key}: {line}" for line in [*lines, f"{event.backend} is taken"]]


def validation_line(event: ValidationEvent) -> str:
    """What a validation found, and how long it took."""
    found = []
    if event.held_out_loss is not None:
        found.append(f"held-out loss {event.held_out_loss:.5f}")
    if event.samples is not None:
        found.append(f"{len(event.samples)} samples in {near(event.directory)}")
    if event.items is not None:
        found.append(f"{event.items.items} items measured")
    took = "" if event.seconds is None else f" ({as_time(event.seconds)})"
    return f"validation at step {event.step}: {', '.join(found)}{took}"


def end_lines(event: EndEvent) -> list[str]:
    """Which validation was the best, where there was one."""
    if event.best_step is None:
        return []
    kept = "" if event.best_weights is None else f", kept in {near(event.best_weights)}"
    return [f"lowest held-out loss: {event.best_held_out_loss:.5f} at step {event.best_step}{kept}"]


def near(path: str | Path) -> str:
    """Write a path below the present folder as relative to it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the folder is gone
        return os.fspath(path)

"""The lines of a run in a terminal: what it trains on, what a validation found, and what it has made."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from finetrainers.data.catalog.found import set_lines
from finetrainers.data.order.mixture import mixture_lines
from finetrainers.events import AttentionEvent, EndEvent, FilledBucket, RunOutline, ValidationEvent
from finetrainers.events.words import as_share, as_size, as_steps, as_trained, plural
from finetrainers.files.steps import step_directory
from finetrainers.training.console.bar import as_time

Row = tuple[str, str]
"""A label, and what it is of."""
LABEL = 9
"""Columns of the labels."""
LEAST_FOLDED = 30
"""Columns below which lines are left to the terminal."""
MAX_BUCKETS = 8
"""Buckets that are written one by one."""
MENTIONED_CROP = 0.01
"""Part of a bucket's pictures that is cropped, from which on it is written."""


def run_lines(outline: RunOutline) -> list[Row]:
    """What a run will be: the model, the data, what trains, how long, and where it goes; nothing of a finished one."""
    if outline.resumed_from == outline.steps:
        return []
    sets, mix = ([own.tree() for own in found] for found in (outline.sets, outline.mix))
    rows = [
        *(("memory", line) for line in outline.memory or ()),
        *(("auto", line) for line in outline.auto or ()),
        ("model", _model(outline)),
        *(("yours", line) for line in outline.yours or ()),
        *(
            ("data", line)
            for line in (*set_lines([{**own, "path": near(own["path"])} for own in sets]), *mixture_lines(mix))
        ),
        ("samples", _samples(outline)),
        ("buckets", "; ".join(_buckets(outline.buckets))),
        ("trains", "" if outline.trained is None else as_trained(outline.trained)),
        ("steps", _steps(outline)),
        ("each", _at_times(outline)),
        ("output", _output(outline)),
    ]
    return [(label, text) for label, text in rows if text]


def _model(outline: RunOutline) -> str:
    device = outline.device if outline.device_name is None else outline.device_name
    memory = "" if outline.device_memory_gb is None else f" ({outline.device_memory_gb:.0f} GB)"
    processes = outline.processes or 1
    many = f"{processes} processes, each on " if processes > 1 else "on "
    path = "" if outline.model_path is None else f", {near(outline.model_path)}"
    revision = "" if outline.model_revision is None else f" at {outline.model_revision}"
    return f"{outline.family}, {outline.task}{path}{revision}, {many}{device}{memory}"


def _samples(outline: RunOutline) -> str:
    parts = [f"{outline.num_samples} to train on"]
    apart = outline.num_apart or 0
    if apart:
        share = apart / (apart + outline.num_samples)
        asked = "" if outline.held_out_asked is None else f" ({share:.0%}, asked for {outline.held_out_asked:.0%})"
        measured = "" if outline.num_held_out == apart else f", {outline.num_held_out} of them measured"
        parts.append(f"{apart} held out{asked}{measured}")
    if outline.num_bad:
        parts.append(f"{plural(outline.num_bad, 'bad item')} left out")
    if outline.num_cropped:
        parts.append(
            f"{outline.num_cropped} {'lose' if outline.num_cropped > 1 else 'loses'} more than a quarter to the crop"
        )
    return ", ".join(parts)


def _buckets(buckets: Sequence[FilledBucket]) -> list[str]:
    """Write the fullest buckets, and how many others there are."""
    fullest = sorted(buckets, key=lambda own: -(own.samples + own.held_out))
    shown = fullest if len(fullest) <= MAX_BUCKETS else fullest[: MAX_BUCKETS - 1]
    texts = []
    for own in shown:
        held_out = f" + {own.held_out} held out" if own.held_out else ""
        cropped = f", {as_share(own.cropped)} cut off" if own.cropped is not None and own.cropped >= MENTIONED_CROP else ""
        texts.append(f"{list(own.size)} {own.samples}{held_out}{cropped}")
    others = fullest[len(shown) :]
    if others:
        texts.append(f"{len(others)} others with {sum(own.samples + own.held_out for own in others)}")
    return texts


def _steps(outline: RunOutline) -> str:
    samples, start = outline.samples_of_pass or outline.num_samples, outline.resumed_from
    times = as_steps(outline.steps, outline.batch_size, samples)
    if start is None:
        return times
    return f"{times}; continues from checkpoints/{step_directory(Path(), start).name}"


def _at_times(outline: RunOutline) -> str:
    """What happens every so many steps."""
    parts = [] if outline.save_every is None else [f"checkpoint and weights every {plural(outline.save_every, 'step')}"]
    found = [plural(outline.num_held_out, "held-out sample")] if outline.num_held_out else []
    found += [plural(outline.num_prompts, "prompt")] if outline.num_prompts else []
    if found:
        when = "at the end" if outline.validate_every is None else f"every {plural(outline.validate_every, 'step')}"
        parts.append(f"validation {when}: {', '.join(found)}")
    return "; ".join(parts)


def _output(outline: RunOutline) -> str:
    sizes: dict[str, float] = {}
    for own in outline.disk or ():
        sizes[own.path] = sizes.get(own.path, 0.0) + own.gb
    written = ", ".join(f"{as_size(gb)} in {near(path)}" for path, gb in sizes.items() if gb)
    return near(outline.output_dir) + (f"; at most {written}" if written else "")


def attention_lines(event: AttentionEvent) -> list[Row]:
    """How each backend did, and which is taken."""
    results = [trial.reason if trial.milliseconds is None else f"{trial.milliseconds:.2f} ms" for trial in event.trials]
    lines = [f"{trial.backend}: {told}" for trial, told in zip(event.trials, results, strict=True)]
    return [(f"attention.{event.key}", line) for line in [*lines, f"{event.backend} is taken"]]


def validation_line(event: ValidationEvent) -> str:
    """What a validation found, and how long it took."""
    found = []
    if event.held_out_loss is not None:
        found.append(f"held-out loss {event.held_out_loss:.5f}")
    if event.samples is not None:
        found.append(f"{plural(len(event.samples), 'sample')} in {near(event.directory)}")
    if event.items is not None:
        found.append(f"{event.items.items} items measured")
    took = "" if event.seconds is None else f" ({as_time(event.seconds)})"
    return f"validation at step {event.step}: {', '.join(found)}{took}"


def end_lines(event: EndEvent) -> list[Row]:
    """What a run that is done has made; nothing of one that is not, or of ``encode``."""
    if event.weights is None or event.step is None:
        return []
    how = {"early_stop": " by validation.patience", "callback": " by a callback"}.get(event.reason or "steps", "")
    rows = [("done", f"{plural(event.step, 'step')}{how}"), ("weights", near(event.weights))]
    if event.best_step is not None:
        first = "" if event.first_held_out_loss is None else f"{event.first_held_out_loss:.5f} -> "
        rows.append(("loss", f"held-out {first}{event.best_held_out_loss:.5f}, lowest at step {event.best_step}"))
    if event.best_weights is not None and event.best_weights != event.weights:
        rows.append(("best", near(event.best_weights)))
    if event.samples is not None:
        rows.append(("samples", near(event.samples)))
    return rows


def as_line(row: Row) -> str:
    """Write a label and its text."""
    label, text = row
    return f"{label}: {text}" if len(label) >= LABEL else f"{label:{LABEL}}{text}"


def fold(line: str, width: int | None) -> list[str]:
    """Let a line go on in lines that are indented, each of at most ``width`` characters as far as words allow it."""
    if width is None or width < LEAST_FOLDED or len(line) <= width:
        return [line]
    indent = " " * LABEL
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def near(path: str | Path) -> str:
    """Write a path below the present folder as relative to it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the folder is gone
        return os.fspath(path)

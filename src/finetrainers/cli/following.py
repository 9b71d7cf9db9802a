"""What can be done after a command: where a run's report is, and the commands to draw with it and to go on."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetrainers.config import Config
    from finetrainers.training.finish import Result

LENGTH = "train.steps", "train.epochs"
"""Keys that say how long a run is."""
RESUME = "checkpoint.resume"
"""Key of the step that a run goes back to: twice is once too often."""
PICTURES = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last-image")}
"""What a prompt needs in a task."""


def tell_after_training(config: "Config", words: Sequence[str] | None, result: "Result") -> None:
    """Say where the report of a run is, if it has one, and what to do next; its weights, where a program reads them.

    ``words`` are those of the command; None if there was another, which started several processes.
    """
    from finetrainers.runs.report.write import PAGE_FILE
    from finetrainers.training.console.lines import near

    if not _is_terminal(sys.stdout):  # where Console has told it
        print(result.weights)
    page = result.output_dir / PAGE_FILE
    rows = [("report", near(page.absolute()))] if page.is_file() else []
    run = near(result.output_dir.absolute())
    rows.append(("sample", shlex.join(["finetrainers", "sample", run, *_request(config, result)])))
    if result.report["stopped_by"] == "steps" and words is not None:
        rows.append(("continue", _longer(config, words)))
    _tell(rows)


def tell_after_encoding(words: Sequence[str]) -> None:
    """Say what reads what is encoded."""
    _tell([("next", shlex.join(["finetrainers", "train", *words]))])


def _longer(config: "Config", words: Sequence[str]) -> str:
    """Write the command that trains twice as long."""
    kept, is_value = [], False
    for word in words:
        key, has_value, _ = word.removeprefix("--").partition("=")
        if not is_value and key not in (*LENGTH, RESUME):
            kept.append(word)
        is_value = word.startswith("--") and not has_value and key in (*LENGTH, RESUME)
    epochs, steps = config.train.epochs, config.train.steps
    length = f"train.steps={2 * steps}" if epochs is None else f"train.epochs={2 * epochs}"
    again = [] if config.checkpoint.resume == "latest" else [f"{RESUME}=latest"]
    return shlex.join(["finetrainers", "train", *kept, length, *again])


def _request(config: "Config", result: "Result") -> list[str]:
    """Take a prompt that the last validation has drawn, with its pictures; where it has drawn none, FILE stands for them."""
    from finetrainers.files.steps import step_directory
    from finetrainers.training.validation.item_losses import read_facts

    prompts = read_facts(step_directory(config.output_dir / "validation", result.steps)).get("prompts") or []
    if not prompts:
        return ["--prompt", "...", *(word for name in _needed(config, result) for word in (f"--{name}", "FILE"))]
    first = prompts[0]
    files = [(name, first[name]) for name in ("image", "last_image", "control") if first.get(name)]
    files += [("reference", file) for file in first.get("references") or ()]
    return ["--prompt", first["prompt"], *(word for name, file in files for word in (f"--{name.replace('_', '-')}", file))]


def _needed(config: "Config", result: "Result") -> list[str]:
    """Name the pictures that a prompt of the run needs."""
    from finetrainers.training.report import read_events

    has_events = (result.output_dir / "events.jsonl").is_file()
    runs = read_events(result.output_dir, {"run"}) if has_events else []  # the task may be left to the model
    task = runs[-1].get("task") if runs else config.model.task
    control = ["control"] if config.control is not None else []
    references = ["reference"] if config.references is not None else []
    return [*PICTURES.get(task or "", ()), *control, *references]


def _tell(rows: Sequence[tuple[str, str]]) -> None:
    from finetrainers.training.console.lines import LABEL

    for label, text in rows:  # never folded: commands are copied
        print(f"{label:{LABEL}}{text}", file=sys.stderr, flush=True)


def _is_terminal(stream: object) -> bool:
    return stream is not None and bool(getattr(stream, "isatty", bool)())

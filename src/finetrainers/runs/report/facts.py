"""What a report says of a run, as plain words: the same for the page, for Markdown and for a terminal."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetrainers.config import Config, LoraConfig
from finetrainers.config.base import Section
from finetrainers.errors import DataError
from finetrainers.events import Tuned
from finetrainers.events.record import made
from finetrainers.events.words import as_count, as_size, as_trained
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.inside import inside
from finetrainers.runs.outputs import Saved
from finetrainers.runs.pace import seconds_left, seconds_of_step, total_seconds
from finetrainers.runs.state import Standing
from finetrainers.runs.summary import last_start
from finetrainers.runs.validations import best

MAX_HEADER_BYTES = 1 << 26
"""Of a safetensors file that is believed."""
IN_COMFYUI = {
    **dict.fromkeys(("cogvideox", "flux", "ltx_video", "wan"), ("lora", "dora", "lokr")),
    "cogview4": ("lora", "lokr"),
    "hunyuan_video": ("lora", "dora"),
}
"""Adapters that ``finetrainers export --to comfyui`` writes, by family."""
Rows = list[tuple[str, str]]


def head(run: RunFolder, standing: Standing) -> Rows:
    """What the run is and how it stands."""
    begun, tree = run.begun or {}, run.tree
    rows: Rows = [("State", state_sentence(run, standing))]
    rows.append(("Model", model_name(tree)))
    rows.append(("Task", task_of(begun)))
    rows.append(("Tuning", tuning_sentence(run)))
    words = [str(data["caption_prefix"]) for data in tree.get("data", ()) if data.get("caption_prefix")]
    rows.append(("Trigger words", ", ".join(dict.fromkeys(words))))
    rows.append(("Device", device_sentence(run)))
    rows.append(("Time", time_sentence(run, standing)))
    lowest = best(run.validations())
    if lowest is not None:
        rows.append(("Best", f"held-out loss {lowest.held_out_loss:.5f} at step {lowest.step}"))
    return [(label, value) for label, value in rows if value]


def task_of(begun: Mapping[str, Any]) -> str:
    """Say the task and the family of a run by its event run, of which older ones have one or none."""
    task, family = begun.get("task") or "", begun.get("family") or ""
    return f"{task} ({family})" if task and family else task or family


def state_sentence(run: RunFolder, standing: Standing) -> str:
    """Say how the run stands."""
    of = f"step {standing.step} of {run.steps}"
    match standing.state:
        case "new":
            return "nothing is trained yet"
        case "running" | "done":
            sentence = f"{standing.state}, {of}"
        case _:
            sentence = f"{standing.state} after {of}"
    return sentence + (f": {standing.message}" if standing.message else "")


def model_name(tree: dict[str, Any]) -> str:
    """Name the model that training began from, without its place on this disk."""
    model = tree.get("model", {})
    path, revision = str(model.get("path", "")), model.get("revision")
    is_place = path.startswith(("/", ".", "~"))
    return (Path(path).name if is_place else path) + (f" at {revision}" if revision else "")


def tuning_sentence(run: RunFolder) -> str:
    """Say what trains, and how large the weights are: as the run said when it began; of an older one, as they lie there."""
    trained = (run.begun or {}).get("trained")
    if isinstance(trained, dict):
        with suppress(TypeError, ValueError):  # of a later version, which has other fields
            return as_trained(made(Tuned, trained))
    tuning = run.tree.get("tuning", {})
    told = [str(tuning.get("kind", ""))]
    told += [f"{key} {tuning[key]:g}" for key in ("rank", "alpha", "factor") if isinstance(tuning.get(key), int | float)]
    weights = [saved for saved in run.weights() if saved.is_valid]
    count = num_parameters(run.path, weights[-1]) if weights else None
    if weights:
        told.append(f"{as_count(count)} parameters" if count is not None else "")
        told.append(f"{as_size(weights[-1].bytes / 1e9)} of weights")
    return ", ".join(filter(None, told))


def fits_comfyui(config: Config, family: str) -> bool:
    """Whether what a run trains can be exported for ComfyUI: no layers that a control trains in full, to begin with."""
    is_dora = isinstance(config.tuning, LoraConfig) and config.tuning.dora
    has_control = any(condition.kind == "channel_concat" for condition in config.conditions.values())
    return ("dora" if is_dora else config.tuning.kind) in IN_COMFYUI.get(family, ()) and not has_control


def num_parameters(root: Path, weights: Saved) -> int | None:
    """Count the numbers in the safetensors files of a folder by their headers; None where there are none."""
    total = 0
    for file in sorted(weights.path.rglob("*.safetensors")):
        try:
            with inside(root, file).open("rb") as data:
                size = int.from_bytes(data.read(8), "little")
                header = json.loads(data.read(size)) if size <= MAX_HEADER_BYTES else {}
            total += sum(math.prod(own["shape"]) for name, own in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
            return None
    return total or None


def device_sentence(run: RunFolder) -> str:
    """Say what it runs on, and the memory that it took."""
    names = Counter(map(str, last_start(run).get("devices", ())))
    told = [f"{count} x {name}" if count > 1 else name for name, count in names.items()]
    told = told or [str((run.begun or {}).get("device", ""))]
    peak = run.peak_memory_gb
    told += [] if peak is None else [f"peak {peak:.1f} GB"]
    return ", ".join(filter(None, told))


def time_sentence(run: RunFolder, standing: Standing) -> str:
    """Say how long it took, how long a step takes, and when it will be done."""
    total, pace, left = total_seconds(run), seconds_of_step(run), seconds_left(run, standing.step)
    told = [duration(total)] if total else []
    told += [] if pace is None else [f"{pace:.3g} s a step"]
    if standing.state == "running" and left is not None:
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime((standing.time or time.time()) + left))
        told.append(f"about {duration(left)} left, until {end}")
    return ", ".join(told)


def duration(seconds: float) -> str:
    """Write a time as one says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


def settings(config: Config) -> list[tuple[str, str, str]]:
    """Keys whose values are not the defaults: key, value, default; the default is empty where there is none."""
    return _differing(config, "")


def _differing(section: Section, prefix: str) -> list[tuple[str, str, str]]:
    found = []
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{field.alias or name}", getattr(section, name)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if name in section.idle() or (value == default and not field.is_required()):
            continue
        if isinstance(value, Section):
            found += _differing(value, f"{key}.")
        elif isinstance(value, tuple) and value and all(isinstance(own, Section) for own in value):
            found += [row for index, own in enumerate(value) for row in _differing(own, f"{key}.{index}.")]
        else:
            found.append((key, shown(value), "" if field.is_required() else shown(default)))
    return found


def shown(value: object) -> str:
    """Write a value of a configuration as one reads it."""
    match value:
        case None | bool():
            return json.dumps(value)
        case tuple() | list():
            return f"[{', '.join(map(shown, value))}]"
        case Section():
            return ", ".join(f"{key}: {shown(own)}" for key, own, _ in _differing(value, "")) or "defaults"
        case dict():
            return ", ".join(f"{key}: {shown(own)}" for key, own in value.items())
        case _:
            return str(value)


def warnings(run: RunFolder) -> list[tuple[str, int]]:
    """Messages of warnings and errors, each once, with how often it came; numbers aside, they are one."""
    found: dict[str, list[str]] = {}
    for event in run.of_kind("warning", "error"):
        message = str(event.get("message", ""))
        text = f"error: {message}" if event["event"] == "error" else message
        found.setdefault(re.sub(r"[0-9.]+", "#", text), []).append(text)
    skipped = run.columns.column("skipped")
    if len(skipped) and skipped[-1] > 0:
        found["skipped"] = [f"{int(skipped[-1])} steps were skipped, whose loss or gradient was not finite"]
    return [(messages[0], len(messages)) for messages in found.values()]


def snippet(run: RunFolder) -> str:
    """What to type to generate with the last weights: of the card that lies beside them, where there is one."""
    for saved in reversed(run.weights()):
        try:
            text = inside(run.path, saved.path / "README.md").read_text(encoding="utf-8")
        except (OSError, DataError, UnicodeDecodeError):
            continue
        found = re.search(r"## Use\n+```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if found:
            return found[1].strip()
    return ""

"""What pages show of a run, put together from its files."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from finetrainers.errors import DataError
from finetrainers.runs.curves import numbers
from finetrainers.runs.folder import CONFIG_FILE, RunFolder
from finetrainers.runs.outputs import read_json, step_folders_inside
from finetrainers.ui.job import Job

UNREADABLE = "unreadable"
CURVES = ("loss", "grad_norm", "lr", "tokens_per_second", "peak_memory_gb", "step_seconds")


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the list."""

    name: str
    title: str
    state: str
    step: int
    steps: int
    model: str
    tuning: str
    loss: float | None
    held_out: float | None
    time: float | None
    """Of the last event, seconds since 1970 UTC."""
    message: str


def row_of(name: str, run: RunFolder, *, title: str) -> Row:
    """Look at a run without reading its curves: quick, whatever its length; of one that cannot be read, say why."""
    try:
        return _row_of(name, run, title)
    except (DataError, OSError, ValueError, TypeError) as error:  # one odd run does not hide the others
        return Row(name, title, UNREADABLE, 0, 0, "", "", None, None, None, str(error))


def _row_of(name: str, run: RunFolder, title: str) -> Row:
    standing, facts = run.standing(), _config_facts(run)
    last = numbers({"loss": (standing.last or {}).get("loss")})
    return Row(
        name=name,
        title=title,
        state=standing.state,
        step=standing.step,
        steps=facts["steps"],
        model=facts["model"],
        tuning=facts["tuning"],
        loss=last.get("loss"),
        held_out=_held_out(run),
        time=standing.time,
        message=standing.message,
    )


def _config_facts(run: RunFolder) -> dict[str, Any]:
    file = run.path / CONFIG_FILE
    try:
        found = file.stat()
    except OSError:
        return {"steps": 0, "model": "", "tuning": ""}
    return _facts_of(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=10_000)
def _facts_of(file: Path, _time: int, _size: int) -> dict[str, Any]:
    """Read three keys of a saved configuration; the whole of a hundred of them would take seconds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), loader)
    except (OSError, ValueError, yaml.YAMLError):
        tree = None
    tree = tree if isinstance(tree, dict) else {}
    train, model, tuning = (tree[key] if isinstance(tree.get(key), dict) else {} for key in ("train", "model", "tuning"))
    steps = train.get("steps")
    return {
        "steps": steps if isinstance(steps, int) else 0,
        "model": str(model.get("path", "")).rstrip("/").rpartition("/")[2],
        "tuning": " ".join(str(tuning[key]) for key in ("kind", "rank") if key in tuning),
    }


def _held_out(run: RunFolder) -> float | None:
    folders = step_folders_inside(run.path, "validation")
    if not folders:
        return None
    told = read_json(run.path, folders[max(folders)] / "validation.json")
    return numbers({"loss": told.get("held_out_loss")}).get("loss")


def curves_of(run: RunFolder, points: int, *, after: int = -1) -> dict[str, Any]:
    """All curves, of at most so many points, as the pages' script takes them."""
    names = [name for name in CURVES if name in run.columns.names]
    held_out = [one for one in run.validations() if one.held_out_loss is not None or one.bins]
    bins = list(dict.fromkeys(name for one in held_out for name in one.bins))
    return {
        "rewinds": run.rewinds,
        "count": len(run.columns),
        **run.curves(points, names=names, after=after).plain(),
        "held_out": {
            "steps": [one.step for one in held_out],
            "loss": [_finite(one.held_out_loss) for one in held_out],
            "bins": {name: [_finite(one.bins.get(name)) for one in held_out] for name in bins},
        },
    }


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None


def differences(runs: Mapping[str, RunFolder]) -> list[tuple[str, list[str]]]:
    """Keys whose values differ between configurations, with the values; what names the run itself is left out."""
    flat = [dict(_leaves(run.tree, "")) for run in runs.values()]
    names = dict.fromkeys(name for leaves in flat for name in leaves)
    rows = [(name, [leaves.get(name, "not given") for leaves in flat]) for name in names if name != "output_dir"]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        for name, inner in node.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list) and node and isinstance(node[0], Mapping):
        for index, inner in enumerate(node):
            yield from _leaves(inner, f"{prefix}.{index}")
    else:
        yield prefix, str(node)


def state_of(run: RunFolder | None, job: Job | None) -> tuple[str, str]:
    """State to show, and why: what waits or has just been started has no events of its own yet."""
    state = "" if job is None else job.state
    if job is not None and state in ("queued", "running"):
        if state == "queued":
            return "queued", f"number {job.number} in the queue"
        return ("stopping", "it saves, and stops as soon as the step is done") if job.is_stopping else ("running", "")
    if run is None:
        return state or "new", ""
    standing = run.standing()
    if standing.state == "stopped" and state in ("failed", "killed"):
        return state, standing.message
    return standing.state, standing.message

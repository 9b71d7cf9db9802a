"""What a run was, from its directory alone: of the part of report.json that needs no running process."""

from collections.abc import Mapping
from typing import Any

from finetrainers.events.report import RunSummary
from finetrainers.events.words import epochs_of
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.outputs import read_json
from finetrainers.runs.pace import seconds_of_step, total_seconds

LOCK_FILE = "lock.json"
Tree = Mapping[str, Any]


def last_start(run: RunFolder) -> dict[str, Any]:
    """What lock.json says of the run's last start; empty if it is of a version that wrote none."""
    starts = read_json(run.path, run.path / LOCK_FILE).get("starts")
    return starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else {}


def summary_of(run: RunFolder) -> RunSummary:
    """Tell what a run was, as of its last update; None is what its files do not tell, whatever version wrote them."""
    begun, start = run.begun or {}, last_start(run)
    model, tuning, optimizer = (_section(run.tree, name) for name in ("model", "tuning", "optimizer"))
    trained, versions = _section(begun, "trained"), _section(begun, "versions")
    steps, batch = (_count(begun.get(key)) for key in ("steps", "batch_size"))
    samples = _first(_count, begun.get("samples_of_pass"), begun.get("num_samples"))
    devices = start.get("devices") or [None]
    return RunSummary(
        model=_word(begun.get("model_path")) or _word(model.get("path")),
        model_revision=_word(model.get("revision")),
        family=_word(begun.get("family")),
        task=_word(begun.get("task")),
        tuning=_word(tuning.get("kind")) or _word(trained.get("kind")),
        rank=_first(_count, trained.get("rank"), tuning.get("rank")),
        alpha=_first(_number, trained.get("alpha"), tuning.get("alpha")),
        trained_parameters=_first(_count, *(event.get("trained_parameters") for event in run.of_kind("loaded")[-1:])),
        optimizer=_word(optimizer.get("name")),
        lr=_number(optimizer.get("lr")),
        batch_size=batch,
        epochs=None if steps is None or batch is None else epochs_of(steps, batch, samples or 0),
        device=_word(begun.get("device_name")) or _word(devices[0]) or _word(begun.get("device")),
        processes=_first(_count, begun.get("processes"), start.get("processes")),
        peak_memory_gb=run.peak_memory_gb,
        step_seconds=seconds_of_step(run),
        total_seconds=total_seconds(run),
        stage_seconds=run.seconds,
        finetrainers=_word(start.get("version")) or _word(versions.get("finetrainers")),
        commit=_word(start.get("commit")),
        versions={str(name): str(value) for name, value in versions.items()} or None,
    )


def _section(tree: Tree, name: str) -> Tree:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _first(read: Any, *values: object) -> Any:  # Any: whatever ``read`` makes of a value
    return next((found for value in values if (found := read(value)) is not None), None)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

"""Run directories as a run leaves them, without one: what tests of the web interface look at."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image


def write_run(directory: Path, *, steps: int = 100, total: int | None = None, rank: int = 4, samples: int = 0) -> Path:
    """A run of a Flux that was killed after so many steps, with a held-out loss and samples at every tenth of them."""
    directory.mkdir(parents=True)
    (directory / ".finetrainers").write_text('{"version": 1}')
    tree = {
        "output_dir": str(directory),
        "model": {"path": "black-forest-labs/FLUX.1-dev"},
        "data": [{"path": "data", "buckets": [[1, 512, 512]]}],
        "tuning": {"kind": "lora", "rank": rank, "alpha": rank},
        "train": {"steps": total or steps},
    }
    (directory / "config.yaml").write_text(json.dumps(tree))
    with (directory / "events.jsonl").open("w") as log:
        for event in _events(directory, steps, total or steps, samples):
            log.write(event if isinstance(event, str) else json.dumps({"v": 1, **event}) + "\n")
    return directory


def append_event(directory: Path, event: str, **fields: Any) -> None:
    """One more event of such a run, of no fields but these."""
    with (directory / "events.jsonl").open("a") as log:
        log.write(json.dumps({"v": 1, "event": event, **fields}) + "\n")


def append_step(directory: Path, step: int, loss: float) -> None:
    """One more step of such a run."""
    with (directory / "events.jsonl").open("a") as log:
        log.write(json.dumps({"v": 1, "time": 1e9 + step, **_step(step), "loss": loss}) + "\n")


def _events(directory: Path, steps: int, total: int, samples: int) -> "Iterator[dict[str, Any] | str]":
    run = {"event": "run", "resumed_from": None, "steps": total, "family": "flux", "output_dir": str(directory)}
    yield {"time": 1e9, **run}
    line = json.dumps({"v": 1, "time": "TIME", **_step(0), "step": "STEP", "loss": "LOSS"}) + "\n"
    for step in range(1, steps + 1):
        yield line.replace('"TIME"', str(1e9 + step)).replace('"STEP"', str(step)).replace('"LOSS"', str(_loss(step)))
        if step % max(1, steps // 10) == 0:
            yield {"time": 1e9 + step, **_validation(directory, step, samples)}
    yield {"time": 1e9 + steps, "event": "warning", "message": "a <b>bold</b> warning", "step": steps}


def _loss(step: int) -> float:
    return 0.3 + 0.5 * math.exp(-step / 300) + 0.05 * math.sin(step * 12.9898)


def _step(step: int) -> dict[str, Any]:
    numbers = {"loss": _loss(step), "grad_norm": 0.5 + 0.1 * math.sin(step), "lr": 1e-4, "tokens_per_second": 3000.0}
    times = {"step_seconds": 0.45, "data_seconds": 0.05, "peak_memory_gb": 21.3, "skipped": 0}
    return {"event": "step", "step": step, **numbers, **times}


def _validation(directory: Path, step: int, samples: int) -> dict[str, Any]:
    folder = directory / "validation" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    names = [f"{number:02d}.png" for number in range(samples)]
    for number, name in enumerate(names):
        Image.new("RGB", (64, 64), (step % 256, 60 * number % 256, 120)).save(folder / name)
    loss = 0.3 + 0.4 * math.exp(-step / 300)
    fields = {"step": step, "held_out_loss": loss, "held_out_bins": {"0.00-0.50": loss / 2, "0.50-1.00": loss * 1.5}}
    prompts = [{"prompt": f"a fox number {number}"} for number in range(samples)]
    (folder / "validation.json").write_text(json.dumps({**fields, "samples": names, "prompts": prompts}))
    return {"event": "validation", **fields, "samples": names, "directory": str(folder)}

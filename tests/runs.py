"""Small runs in this process: what several tests need of a configuration, a data set and the events of a run."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetrainers.config import Config, parse_config
from finetrainers.testing.device import device_of_runs

Tree = dict[str, Any]


def write_pictures(directory: Path, count: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """Coloured noise in blocks, with captions: pictures that differ, compress and train."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        blocks = random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(directory / f"{number:02d}.png")
        (directory / f"{number:02d}.txt").write_text(f"picture number {number}")
    return directory


def flux_tree(model: Path, data: Path, root: Path, **sections: Any) -> Tree:
    """A LoRA run of a tiny Flux, small in everything; ``sections`` are merged into it."""
    tree: Tree = {
        "output_dir": str(root / "run"),
        "model": {"path": str(model), "dtype": "float32", "max_sequence_length": 16},
        "data": [{"path": str(data), "buckets": [[1, 64, 64]]}],
        "tuning": {"kind": "lora", "rank": 4, "alpha": 8},
        "optimizer": {"lr": 1e-3},
        "train": {"steps": 4, "batch_size": 4, "micro_batch_size": 4, "device": device_of_runs()},
        "loader": {"workers": 0},
        "cache": {"path": str(root / "cache"), "workers": 1},
        "track": {"report": False},  # which tests/report look at
    }
    return merged(tree, sections)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A copy of the tree with the changes put into its sections; a change of the kind of a section replaces it."""
    result = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        is_section = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        if is_section and value.get("kind", result[key].get("kind")) == result[key].get("kind"):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def adapter_file(weights: Path, component: str = "transformer") -> Path:
    """The file of an adapter in a folder of weights."""
    from finetrainers.tuning.exported import adapter_files

    return adapter_files(weights)[component]


def card_lines(weights: Path) -> str:
    """Lines of Python on the card of weights that load them, without those that draw, which are for a GPU."""
    lines = (weights / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    return lines.partition('pipeline.to("cuda")')[0]


def config_of(tree: Mapping[str, Any]) -> Config:
    return parse_config(tree)


def events_of(output_dir: str | Path) -> list[Tree]:
    lines = (Path(output_dir) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def curve(output_dir: str | Path, *fields: str) -> list[tuple[Any, ...]]:
    """The fields of each step, in order; of a step that was taken twice, the later."""
    steps = {event["step"]: event for event in events_of(output_dir) if event["event"] == "step"}
    return [tuple(steps[step][field] for field in fields) for step in sorted(steps)]

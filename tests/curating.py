"""Preparations of raw media in tests: their configurations, and what came of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetrainers.config.curate import PrepareConfig
from finetrainers.data.curate.prepare import prepare


def config_of(raw: Path, out: Path, *steps: dict, workers: int = 2, **output: Any) -> PrepareConfig:
    tree = {
        "input": str(raw),
        "output": {"path": str(out), "preset": "ultrafast", **output},
        "steps": steps,
        "workers": workers,
    }
    return PrepareConfig.model_validate_json(json.dumps(tree))


def run(raw: Path, out: Path, *steps: dict, **options: Any) -> list[dict]:
    """Prepare a folder; the rows of the finished set."""
    prepare(config_of(raw, out, *steps, **options))
    return rows_of(out)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def report_of(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def noise(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """[height, width, 3] picture of soft blobs that is unlike that of any other seed."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))

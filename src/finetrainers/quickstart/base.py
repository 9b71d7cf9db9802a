"""A base of the quick starts as it ships: in float16, and with no word of the folders that it was made in."""

import json
from pathlib import Path
from typing import Any

import torch

from finetrainers.files.whole import MANIFEST, whole_directory, write_whole

ORIGIN = "_name_or_path"
"""Key under which diffusers writes where a model was loaded from."""


def write_base(pipeline: Any, directory: Path) -> None:
    """Write a pipeline of diffusers, which is in float16 from then on."""
    with whole_directory(directory) as temporary:
        pipeline.to(torch.float16).save_pretrained(temporary)
        for file in temporary.rglob("*.json"):
            tree = json.loads(file.read_text(encoding="utf-8"))
            if tree.pop(ORIGIN, None) is not None:
                write_whole(file, json.dumps(tree, indent=2, sort_keys=True) + "\n")
    (directory / MANIFEST).unlink()  # git and pip keep their own

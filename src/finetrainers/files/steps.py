"""Folders of steps: step-000500 and so on, below the checkpoints, the weights or the validations of a run."""

import re
from pathlib import Path

STEP_NAME = re.compile(r"step-([0-9]{6}|[1-9][0-9]{6,})")
"""Names of the folders of steps; what else lies beside them is the user's."""


def step_directory(root: Path, step: int) -> Path:
    """Folder of a step below the checkpoints, the weights or the validations of a run."""
    return root / f"step-{step:06d}"


def name_of_step(name: str, step: int) -> str:
    """Name what is made of a step of a run so that those of several runs can lie in one folder."""
    return f"{name}-step{step:06d}"


def step_folders(root: Path) -> dict[int, Path]:
    """Folders of steps by step, in order. Whatever else lies beside them does not count."""
    matches = ((STEP_NAME.fullmatch(folder.name), folder) for folder in root.glob("step-*"))
    found = {int(match[1]): folder for match, folder in matches if match is not None and folder.is_dir()}
    return {step: found[step] for step in sorted(found)}

"""What a run directory holds besides its events: samples, checkpoints, weights and logs."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetrainers.errors import DataError
from finetrainers.files.steps import STEP_NAME
from finetrainers.files.whole import MANIFEST
from finetrainers.runs.inside import files_below, inside, is_inside

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
VIDEOS = frozenset({".mp4", ".webm"})
TITLE_LENGTH = 48
"""Letters of a prompt in the name of a sample: names of files are short."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image or video that a validation generated."""

    step: int
    number: int
    """Of the prompt."""
    prompt: str
    file: Path
    """Absolute; it is there, and in the run directory."""
    settings: dict[str, Any]
    """What else the prompt says: seed, steps, guidance, size and so on; None is left out."""

    @property
    def title(self) -> str:
        """A name for its file elsewhere: step, number and the beginning of the prompt."""
        words = re.sub(r"\W+", "-", self.prompt).strip("-_").lower()[:TITLE_LENGTH].rstrip("-")
        return "-".join(filter(None, (f"step{self.step:06d}", f"{self.number:02d}", words))) + self.file.suffix

    @property
    def is_video(self) -> bool:
        """Whether it moves."""
        return self.file.suffix.lower() in VIDEOS


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder of a checkpoint, or of exported weights."""

    step: int
    path: Path
    bytes: int
    """Of all its files."""
    fault: str | None
    """What its manifest says that is not so, by names and sizes (``files.whole.damage`` reads the contents too)."""

    @property
    def is_valid(self) -> bool:
        """Whether it is whole, by names and sizes."""
        return self.fault is None


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that a process of the run wrote besides events.jsonl."""

    name: str
    """Relative to the run directory."""
    path: Path
    bytes: int


def step_folders_inside(root: Path, kind: str) -> dict[int, Path]:
    """Folders of steps below ``kind`` by step, in order; links are none."""
    try:
        with os.scandir(inside(root, kind)) as entries:
            found = [
                (int(match[1]), Path(entry.path))
                for entry in entries
                if (match := STEP_NAME.fullmatch(entry.name)) is not None and entry.is_dir(follow_symlinks=False)
            ]
    except (OSError, DataError):
        return {}
    return dict(sorted(found))


def saved(root: Path, kind: str) -> list[Saved]:
    """Checkpoints or weights of a run, in the order of their steps."""
    return [_saved(step, folder) for step, folder in step_folders_inside(root, kind).items()]


def _saved(step: int, folder: Path) -> Saved:
    sizes = {str(file.relative_to(folder)): num_bytes for file, num_bytes in files_below(folder)}
    return Saved(step, folder, sum(sizes.values()), _fault(folder, sizes))


def _fault(folder: Path, sizes: Mapping[str, int]) -> str | None:
    if MANIFEST not in sizes:
        return f"it has no {MANIFEST}"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        wanted = {str(name): int(facts["bytes"]) for name, facts in files.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return f"its {MANIFEST} is damaged"
    for name, num_bytes in wanted.items():
        if sizes.get(name) != num_bytes:
            return f"{name} is missing" if name not in sizes else f"{name} has {sizes[name]} bytes, not {num_bytes}"
    return None


def samples_of(root: Path, step: int, folder: Path) -> list[Sample]:
    """What a validation generated, in the order of its prompts; what is not there, or is elsewhere, is left out."""
    told = read_json(root, folder / "validation.json")
    prompts = told.get("prompts")
    names = told.get("samples")
    if not isinstance(prompts, list) or not isinstance(names, list):
        return []
    found = []
    for number, (request, name) in enumerate(zip(prompts, names, strict=False)):
        is_there = isinstance(name, str) and Path(name).name == name and is_inside(root, folder / name)
        if is_there and isinstance(request, dict):
            settings = {key: value for key, value in request.items() if key != "prompt" and value not in (None, [])}
            found.append(Sample(step, number, str(request.get("prompt", "")), folder / name, settings))
    return found


def read_json(root: Path, file: Path) -> dict[str, Any]:
    """Read an object from a file of the run; empty if it is not there, damaged, or elsewhere."""
    try:
        told = json.loads(inside(root, file).read_text(encoding="utf-8"))
    except (OSError, ValueError, DataError):
        return {}
    return told if isinstance(told, dict) else {}


def logs(root: Path) -> list[LogFile]:
    """Files in logs/, by name."""
    try:
        folder = inside(root, "logs")
    except DataError:
        return []
    return [LogFile(str(file.relative_to(root)), file, num_bytes) for file, num_bytes in sorted(files_below(folder))]

"""Prompts to draw, from a file."""

import csv
import io
import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetrainers.config import MAX_SEED
from finetrainers.data.media.files import probe
from finetrainers.errors import ConfigError, DataError
from finetrainers.models import Model, Request
from finetrainers.models.base import image_is_optional

KEYS = (
    "prompt",
    "image",
    "last_image",
    "control",
    "height",
    "width",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "fps",
    "seed",
)
SYNONYMS = {
    "caption": "prompt",
    "image_path": "image",
    "last_image_path": "last_image",
    "control_image": "control",
    "control_video": "control",
    "control_path": "control",
    "steps": "num_inference_steps",
    "frames": "num_frames",
    "guidance": "guidance_scale",
}
FILES = ("image", "image_path", "last_image", "last_image_path", "control", "control_image", "control_video", "control_path")
DEFAULT_STEPS = 30
"""Denoising steps, where a prompt names none."""


def read_prompts(path: Path, model: Model, *, size: tuple[int, int, int], takes_control: bool = False) -> list[Request]:
    """Read a csv, json or jsonl file of prompts.

    Args:
        path: The file; keys are KEYS, of which only ``prompt`` is needed, or one of the common SYNONYMS.
        model: Whose family and sizes the prompts have to fit.
        size: (frames, height, width) where a prompt names none.
        takes_control: Whether a prompt may name a control.

    Raises:
        ConfigError: If the file cannot be read, or naming the prompt and the key that are wrong.
    """
    rows = _rows(path)
    if not rows:
        raise ConfigError(f"validation.prompts: {path} has no prompts")
    return [
        make_request(_beside(row, path.parent), f"{path}, prompt {number}", model, size, takes_control=takes_control)
        for number, row in enumerate(rows, 1)
    ]


def _beside(row: Any, folder: Path) -> Any:  # whatever a JSON file holds: make_request refuses what is no object
    """Find images beside the prompts file, where they are not found from the current folder."""
    if not isinstance(row, Mapping):
        return row
    found = {key: str(folder / str(row[key])) for key in FILES if row.get(key) and not Path(row[key]).is_file()}
    return {**row, **found}


def make_request(
    row: Mapping[str, Any], where: str, model: Model, size: tuple[int, int, int], *, takes_control: bool = False
) -> Request:
    """Check one prompt, given as KEYS with values.

    Raises:
        ConfigError: Beginning with ``where``.
    """
    given = _given(row, where)
    frames, height, width = size
    wanted = (
        _int(given, "num_frames", frames, where),
        _int(given, "height", height, where),
        _int(given, "width", width, where),
    )
    possible = model.adapter.grid.nearest(wanted)
    if wanted != possible:
        raise ConfigError(
            f"{where}: {wanted} (frames, height, width) is impossible for this model; the nearest is {possible}"
        )
    _check_family(given, where, model)
    _check_control(given, where, takes_control=takes_control)
    request = Request(
        prompt=given["prompt"],
        size=wanted,
        steps=_int(given, "num_inference_steps", DEFAULT_STEPS, where),
        seed=_int(given, "seed", 0, where),
        guidance=_float(given, "guidance_scale", where),
        negative_prompt=given.get("negative_prompt"),
        fps=_float(given, "fps", where),
        image=None if "image" not in given else str(given["image"]),
        last_image=None if "last_image" not in given else str(given["last_image"]),
        control=None if "control" not in given else str(given["control"]),
    )
    _check_ranges(request, where)
    return request


def _given(row: Any, where: str) -> dict[str, Any]:  # whatever a JSON file holds
    """What a prompt names, under the names of KEYS; a key with nothing in it is not given, unless it is the prompt."""
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: {row!r} is no object with the key 'prompt'")
    named = {key: value for key, value in row.items() if value not in (None, "")}
    given = {SYNONYMS.get(key, key): value for key, value in named.items()}
    if len(given) < len(named):
        twice = next(key for key in named if key in SYNONYMS and sum(SYNONYMS.get(k, k) == SYNONYMS[key] for k in named) > 1)
        raise ConfigError(f"{where}: {twice!r} and another key both give {SYNONYMS[twice]!r}; remove one of them")
    if any(value == "" for key, value in row.items() if SYNONYMS.get(key, key) == "prompt"):
        given.setdefault("prompt", "")  # draws what the model makes without a caption
    for key in given:
        if key not in KEYS:
            close = get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KEYS)}"
            raise ConfigError(f"{where}: there is no key {key!r}; {hint}")
    if not isinstance(given.get("prompt"), str):
        found = f" that is text, but {given['prompt']!r}" if "prompt" in given else ""
        raise ConfigError(f"{where}: has no prompt{found}; give one, or an empty one to draw without a caption")
    return given


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        match path.suffix.lower():
            case ".csv":
                return list(csv.DictReader(io.StringIO(text, newline=""), restkey="beyond the last column"))
            case ".jsonl":
                return [json.loads(line) for line in text.split("\n") if line.strip()]
            case ".json":
                tree = json.loads(text)
                rows = tree["data"] if isinstance(tree, dict) and "data" in tree else tree
                if isinstance(rows, list):
                    return rows
                raise ConfigError(f"validation.prompts: {path} holds no list of prompts, alone or under the key 'data'")
            case suffix:
                raise ConfigError(
                    f"validation.prompts: {path} is {suffix or 'without suffix'}; it has to be csv, json or jsonl"
                )
    except OSError as error:
        raise ConfigError(f"validation.prompts: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"validation.prompts: {path} is not a text file in UTF-8: {error.reason}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"validation.prompts: {path} is not valid JSON: {error}") from None


def _check_family(given: Mapping[str, Any], where: str, model: Model) -> None:
    adapter = model.adapter
    if "negative_prompt" in given and not adapter.has_negative_prompt:
        raise ConfigError(f"{where}: {adapter.name} takes no negative_prompt; remove it")
    is_optional = image_is_optional(adapter)
    needed = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last_image")}.get(model.task, ())
    for key in ("image", "last_image"):
        if key in given and key not in needed and not (key == "image" and is_optional):
            raise ConfigError(f"{where}: {key}: {adapter.name} takes none in the task {model.task}; remove it")
        if key not in given and key in needed and not is_optional:
            raise ConfigError(f"{where}: has no {key}, from which {model.task} starts; name a picture")
        if key in given and not Path(given[key]).is_file():
            raise ConfigError(f"{where}: {key}: there is no file {given[key]}")
    if "fps" in given and not adapter.grid.has_video:
        raise ConfigError(f"{where}: {adapter.name} draws images, which have no fps; remove it")


def _check_control(given: Mapping[str, Any], where: str, *, takes_control: bool) -> None:
    if "control" not in given:
        return
    if not takes_control:
        raise ConfigError(f"{where}: control: the run has conditioning.kind: none, and would not look at it; remove it")
    if not Path(given["control"]).is_file():
        raise ConfigError(f"{where}: control: there is no file {given['control']}")
    try:
        probe(Path(given["control"]))
    except DataError as error:
        raise ConfigError(f"{where}: control: {error}") from None


def _check_ranges(request: Request, where: str) -> None:
    for key, value in (("num_inference_steps", request.steps), ("fps", request.fps)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{where}: {key} is {value}; it has to be above 0")
    if not 0 <= request.seed <= MAX_SEED:
        raise ConfigError(f"{where}: seed is {request.seed}; it has to be from 0 to {MAX_SEED}")


def _int(given: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = given.get(key, default)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise ConfigError(f"{where}: {key} is {value!r}, not a whole number")
    return number


def _float(given: Mapping[str, Any], key: str, where: str) -> float | None:
    try:
        return None if key not in given else float(given[key])
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {key} is {given[key]!r}, not a number") from None

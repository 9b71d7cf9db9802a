"""Data sets and prompts of musubi-tuner: TOML, and lines of text with options."""

import re
import tomllib
from pathlib import Path
from typing import Any

from finetrainers.config.dataset_toml import read_sets, translate_set
from finetrainers.config.migrate.draft import Draft, Note
from finetrainers.config.migrate.shared import Epochs, add_data
from finetrainers.config.migrate.values import count, find_beside, integer, text
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

RESOLUTION = [960, 544]
"""Where a data set gives none."""
CONTROL_SIZES = ("no_resize_control", "control_resolution", "flux_kontext_no_resize_control")
OPTIONS = {
    "w": "width", "h": "height", "f": "num_frames", "d": "seed", "s": "num_inference_steps", "g": "guidance_scale",
    "l": "guidance_scale", "n": "negative_prompt", "i": "image", "ei": "last_image", "ci": "reference",
}  # fmt: skip
"""Options of a line of prompts, and our keys."""
TOML_KEYS = {"sample_steps": "num_inference_steps", "frame_count": "num_frames"}
"""Keys of prompts in TOML that are not ours."""


def put_data(draft: Draft, folder: Path, *, references: bool) -> int:
    """Write the data sets of ``--dataset_config``; return the batch of one device."""
    name = draft.take("dataset_config", None, text)
    if name is None:
        raise ConfigError("dataset_config is not given; the command has to name it, since data are part of a configuration")
    path = find_beside(name, folder)
    if path is None:
        raise ConfigError(f"dataset_config: {name} is not found; give the command from the folder in which it is started")
    batches: list[int] = []
    for number, settings in enumerate(read_sets(path)):
        where = f"datasets.{number}"
        batches.append(count(f"{where}.batch_size", settings.get("batch_size", 1)))
        found = translate_set(_settled(draft, dict(settings), where), where)
        count(f"{where}.num_repeats", found.keys.get("repeats", 1))
        data = dict(found.keys)
        if references and "control_path" in data:
            data["folders"] = {"reference": data.pop("control_path")}
        add_data(draft, data)
        for key, (value, reason) in (found.refused | found.others).items():
            kind: Any = "lost" if key in found.refused else "idle"
            if key != "batch_size":
                draft.notes.append(Note(kind, f"{where}.{key}", value, reason))
    if len(set(batches)) > 1:
        draft.lost("datasets.batch_size", batches, "all data sets have one batch size here; the smallest is taken")
    return min(batches)


def _settled(draft: Draft, settings: Tree, where: str) -> Tree:
    """Give a data set what it has by default, and take out what is read otherwise here."""
    if "resolution" not in settings:
        draft.differs(f"{where}.resolution", None, f"is not given; its default is {RESOLUTION}")
        settings["resolution"] = RESOLUTION
    extraction = settings.get("frame_extraction", "head")
    if extraction not in ("head", "chunk"):
        settings.pop("frame_extraction")
        draft.lost(
            f"{where}.frame_extraction", extraction, "the start of each clip is taken; see data.N.frame_sampling for others"
        )
    if extraction == "full":
        frames = settings.pop("max_frames", 129)
        settings.setdefault("target_frames", [frames])
        draft.differs(f"{where}.max_frames", frames, "clips are cut to this many frames; add shorter ones to data.N.buckets")
    for key in CONTROL_SIZES:
        if key in settings:
            draft.lost(f"{where}.{key}", settings.pop(key), "conditioning.pixels says how large references are")
    if any(key.startswith("video") for key in settings):
        frames = settings.setdefault("target_frames", [1])
        if isinstance(frames, list) and len(frames) > 1:
            draft.differs(
                f"{where}.target_frames", frames, "a clip has one bucket here, the longest that it fills; there it has all"
            )
    return settings


def put_prompts(draft: Draft, folder: Path, epochs: Epochs) -> None:
    """Write what validation generates, and how often."""
    every = draft.take("sample_every_n_steps", None, integer)
    every_epochs = draft.take("sample_every_n_epochs", None, integer)
    name = draft.take("sample_prompts", None, text)
    if name is None:
        for key, value in (("sample_every_n_steps", every), ("sample_every_n_epochs", every_epochs)):
            if value is not None:
                draft.idle(key, value, "without sample_prompts nothing is generated")
        return
    path = find_beside(name, folder)
    if path is None:
        draft.lost("sample_prompts", name, "is not found; write a prompts file, and give it as validation.prompts")
        return
    if every is None and every_epochs is not None:
        every = epochs.steps("sample_every_n_epochs", every_epochs, "validation.every")
    if every is not None:
        draft.put("validation.every", every)
    draft.prompts += _rows(draft, name, path)


def _rows(draft: Draft, name: str, path: Path) -> list[Tree]:
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".toml":
        tree = tomllib.loads(content).get("prompt", {})
        rows = [{key: value for key, value in tree.items() if key != "subset"} | row for row in tree.get("subset", [{}])]
        return [{TOML_KEYS.get(key, key): value for key, value in row.items()} for row in rows]
    lines = [line.strip() for line in content.splitlines()]
    return [_prompt(draft, name, line) for line in lines if line and not line.startswith("#")]


def _prompt(draft: Draft, name: str, line: str) -> Tree:
    """Read one line: the prompt, then options as ``--w 832``."""
    prompt, *options = re.split(r"\s--(?=[A-Za-z]+\s)", line)
    found: Tree = {"prompt": prompt.strip()}
    for option in options:
        key, _, value = option.partition(" ")
        if key in OPTIONS:
            value = value.strip()
            found[OPTIONS[key]] = _number(value)
        else:
            draft.lost(
                f"{name} --{key}", value.strip(), "prompts have no such key; see docs/configuration.md#a-prompts-file"
            )
    return found


def _number(value: str) -> Any:
    try:
        return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    except ValueError:
        return value

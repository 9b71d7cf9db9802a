"""Data sets and validation files of finetrainers before version 1."""

import csv
import math
import re
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.shared import add_data
from finetrainers.config.migrate.values import find_beside, integer, lists, one_of, parse, read_beside, table, tables, text
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

RESIZES = {"bicubic": "stretch", "center_crop": "center_crop", "random_crop": "random_crop"}
LISTS = (".csv", ".json", ".jsonl", ".parquet", ".arrow")
"""Files that list media: no repositories."""
PROMPT_KEYS = {
    "caption": "prompt", "prompt": "prompt", "image_path": "image", "last_image_path": "last_image",
    "control_image_path": "control", "control_video_path": "control", "frame_rate": "fps",
    **{key: key for key in ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "negative_prompt")},
}  # fmt: skip
"""Keys of a validation file, and those of our prompts."""


def put_data(draft: Draft, folder: Path) -> None:
    """Write the data sets of ``--dataset_config``."""
    name = draft.take("dataset_config", None, text)
    if name is None:
        raise ConfigError("dataset_config is not given; the command has to name it, since data are part of a configuration")
    tree = table("dataset_config", read_beside("dataset_config", name, folder))
    for number, dataset in enumerate(tables("datasets", tree.get("datasets", []))):
        inner = Draft(dataset)
        _put_set(draft, inner, number)
        inner.finish("data sets have no such key; see docs/configuration.md#datan")
        for note in inner.notes:
            draft.notes.append(type(note)(note.kind, f"datasets.{number}.{note.key}", note.value, note.text))


def _put_set(draft: Draft, inner: Draft, number: int) -> None:
    root, file = inner.take("data_root", None, text), inner.take("dataset_file", None, text)
    place = root or file
    if place is None:
        raise ConfigError(f"datasets.{number}: has neither data_root nor dataset_file; give one of them")
    kind = inner.take("dataset_type", "video", one_of("image", "video"))
    buckets = inner.take(f"{kind}_resolution_buckets")
    if not buckets:
        raise ConfigError(f"datasets.{number}: has no {kind}_resolution_buckets, which its dataset_type {kind!r} needs")
    buckets = lists(f"datasets.{number}.{kind}_resolution_buckets", buckets, lengths=(2,) if kind == "image" else (3,))
    is_listed = Path(place).suffix.lower() in LISTS
    is_remote = not is_listed and not Path(place).expanduser().exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", place)
    data: Tree = {"path": f"hf://datasets/{place}" if is_remote else place}
    if is_remote:
        inner.differs(
            "data_root" if root else "dataset_file",
            place,
            "is not a folder here, so it is taken for a repository on the Hub",
        )
    data["buckets"] = [[1, *bucket] if kind == "image" else list(bucket) for bucket in buckets]
    mode = inner.take("reshape_mode", "bicubic", text)
    data["resize"] = RESIZES.get(mode, "stretch")
    if mode not in RESIZES:
        inner.lost("reshape_mode", mode, "there is no such way to resize here; choose one of data.N.resize")
    token = inner.take("id_token", None, text)
    if token:
        data["caption_prefix"] = token
    if inner.take("remove_common_llm_caption_prefixes"):
        data["remove_common_llm_caption_prefixes"] = True
    options = inner.take_table("caption_options")
    if options.get("column_names"):
        data["caption_column"] = options.pop("column_names")
    for key, value in options.items():
        inner.lost(f"caption_options.{key}", value, "one caption of an item is chosen for each sample")
    others = {"image": "video", "video": "image"}.get(kind, "")
    inner.settle({f"{others}_resolution_buckets": f"dataset_type {kind} does not read it"}, {})
    add_data(draft, data)


def put_prompts(draft: Draft, folder: Path, accumulation: int) -> None:
    """Write what validation generates; steps counted micro-batches."""
    name, steps = draft.take("validation_dataset_file", None, text), draft.take("validation_steps", 500, integer)
    if name is None:
        return
    path = find_beside(name, folder)
    if path is None or path.suffix.lower() not in (".json", ".jsonl", ".csv"):
        draft.lost(
            "validation_dataset_file", name, "cannot be read here; write a prompts file, and give it as validation.prompts"
        )
        return
    draft.put("validation.every", math.ceil(steps / accumulation))
    if accumulation > 1:
        draft.differs("validation_steps", steps, "counted micro-batches", "validation.every")
    is_controlled = draft.tree.get("conditioning", {}).get("kind") == "channel_concat"
    keys = PROMPT_KEYS | (dict.fromkeys(("image_path", "video_path"), "control") if is_controlled else {})
    others: dict[str, Any] = {}
    for row in _rows(path):
        given = {key: value for key, value in row.items() if value not in (None, "")}
        draft.prompts.append({keys[key]: value for key, value in given.items() if key in keys})
        others |= {key: value for key, value in given.items() if key not in keys}
    for key, value in others.items():
        if is_controlled and key.startswith("frame_conditioning_"):
            draft.idle(f"{name}: {key}", value, "is that of training, here")
        else:
            draft.lost(f"{name}: {key}", value, "prompts have no such key; see docs/configuration.md#a-prompts-file")


def _rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        return list(csv.DictReader(content.splitlines()))
    if path.suffix.lower() == ".jsonl":
        return tables(str(path), [parse(line, ".json", str(path)) for line in content.splitlines() if line.strip()])
    tree = parse(content, ".json", str(path))
    return tables(str(path), tree.get("data") if isinstance(tree, dict) else tree)

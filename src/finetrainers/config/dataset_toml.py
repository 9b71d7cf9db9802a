"""Data sets as the TOML files of kohya's and musubi's tools describe them, in our keys.

Each setting becomes one of our keys, or is refused with what to write instead; what only concerns the other tool is
warned of.
"""

import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetrainers.config.of_set import about_set, set_keys
from finetrainers.errors import ConfigError

PLACES = ("image_dir", "image_directory", "video_directory", "image_jsonl_file", "video_jsonl_file")
CAPTION_EXTENSIONS = (".txt", ".caption", ".cap")
PLAIN = {
    "num_repeats": "repeats",
    "flip_aug": "horizontal_flip",
    "caption_prefix": "caption_prefix",
    "caption_dropout_rate": "caption_dropout",
    "control_directory": "control_path",
}
"""Settings that are the same by another name."""
SAMPLINGS = {"head": "start", "chunk": "chunks"}
"""Values of ``frame_extraction`` and those of our ``frame_sampling``."""
OTHERS = {
    "batch_size": "train.micro_batch_size is used instead",
    "cache_directory": "cache.path is used instead",
    "cache_info": "nothing here needs it",
    "source_fps": "the rate of each clip is read from its file",
    "min_bucket_reso": "data.N.buckets.max_aspect limits the sizes",
    "max_bucket_reso": "data.N.buckets.max_aspect limits the sizes",
}
"""Settings that are left where they are, each with what counts instead: a warning."""
REFUSED = {
    "is_reg": "write the data set into the configuration, and set its loss_weight",
    "class_tokens": "write captions, or name the folder N_CLASS and give it as path with layout: kohya",
    "metadata_file": "write its captions into a metadata.jsonl, and give that as path",
    "caption_suffix": "write it into the captions",
    "shuffle_caption": "captions stay as they are; remove it",
    "keep_tokens": "captions are not shuffled; remove it",
    "color_aug": "colors stay as they are; remove it",
    "face_crop_aug_range": "use random_crop",
    "frame_stride": "use frame_extraction = 'chunk', or stride in the configuration",
    "frame_sample": "use frame_extraction = 'chunk', or several target_frames",
    "max_frames": "use target_frames",
}
"""Settings that would change what is trained on, and have nothing here that does the same."""
SIZES = ("resolution", "enable_bucket", "bucket_reso_steps", "bucket_no_upscale", "target_frames")


@dataclass(frozen=True, slots=True)
class TomlSet:
    """One data set of a TOML file."""

    keys: dict[str, Any]
    """Ours."""
    refused: dict[str, tuple[Any, str]]
    """Settings that change what is trained on and have nothing here that does the same: value, and what to write instead."""
    others: dict[str, tuple[Any, str]]
    """Settings that only concern the other tool: value, and what counts instead."""


def expand_sets(sets: Sequence[Any], name: str = "data") -> list[Any]:
    """Put in the place of each data set whose path is a TOML file those that it describes; keys beside path count for all.

    Raises:
        ConfigError: If a file cannot be read, or holds a setting that nothing here does.
    """
    expanded: list[Any] = []
    for data, key in zip(sets, set_keys(sets, name), strict=True):
        path = data.get("path") if isinstance(data, dict) else None
        if not isinstance(path, str) or not path.lower().endswith(".toml"):
            expanded.append(data)
            continue
        with about_set(key):
            described = read_sets(Path(path).expanduser())
        for number, settings in enumerate(described, 1):
            keys = {key: value for key, value in data.items() if key != "path"}
            where = f"{path}, data set {number}"
            found = translate_set(settings, where, has_buckets="buckets" in data)
            _refuse(found, where)
            expanded.append({**found.keys, **keys})
    return expanded


def read_sets(path: Path) -> list[dict[str, Any]]:
    """Read the settings of each data set: its own over those of what it stands in."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"data.path: {path} cannot be read as TOML: {error}") from error
    general, datasets = tree.pop("general", {}), tree.pop("datasets", [])
    if tree:
        raise ConfigError(f"data.path: {path} holds {', '.join(tree)}; expected [general] and [[datasets]] of data sets")
    found = []
    for dataset in _tables(datasets, path):
        subsets = _tables(dataset.pop("subsets", [{}]), path)
        found += [{**_tables([general], path)[0], **dataset, **subset} for subset in subsets]
    if not found:
        raise ConfigError(f"data.path: {path} describes no data set; expected [[datasets]]")
    return found


def _tables(value: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(
            f"data.path: {path}: {value!r} is not a list of tables; write [general], [[datasets]], [[datasets.subsets]]"
        )
    return value


def translate_set(settings: Mapping[str, Any], where: str, *, has_buckets: bool = False) -> TomlSet:
    """Write the settings of one data set as ours.

    Raises:
        ConfigError: If what has to be there is missing, or has a value that nothing here does.
    """
    keys: dict[str, Any] = {}
    left = dict(settings)
    places = [name for name in PLACES if name in left]
    if len(places) != 1 or not isinstance(left[places[0]], str):
        raise ConfigError(f"{where}: names {', '.join(places) or 'no folder'}; expected one of {', '.join(PLACES)}")
    keys["path"] = left.pop(places[0])
    if not places[0].endswith("jsonl_file"):
        keys["layout"] = "kohya"
    keys |= {ours: left.pop(theirs) for theirs, ours in PLAIN.items() if theirs in left}
    if left.pop("random_crop", False):
        keys["resize"] = "random_crop"
    extension = left.pop("caption_extension", CAPTION_EXTENSIONS[0])
    if extension not in CAPTION_EXTENSIONS:
        raise ConfigError(
            f"{where}: caption_extension: {extension!r} is none of {', '.join(CAPTION_EXTENSIONS)}; rename the captions"
        )
    extraction = left.pop("frame_extraction", "head")
    if extraction not in SAMPLINGS:
        raise ConfigError(f"{where}: frame_extraction: {extraction!r}: only {' and '.join(SAMPLINGS)} are supported")
    if extraction != "head":
        keys["frame_sampling"] = SAMPLINGS[extraction]
    sizes = {name: left.pop(name) for name in SIZES if name in left}
    if not has_buckets:
        keys |= _buckets(sizes, where, is_video=places[0].startswith("video"))
    refused = {
        name: (value, REFUSED.get(name, "nothing here does that; remove it"))
        for name, value in left.items()
        if name not in OTHERS and value not in (False, 0, "", [])
    }
    off = {name: (value, "is off") for name, value in left.items() if name not in OTHERS and name not in refused}
    return TomlSet(keys, refused, off | {name: (value, OTHERS[name]) for name, value in left.items() if name in OTHERS})


def _buckets(sizes: Mapping[str, Any], where: str, *, is_video: bool) -> dict[str, Any]:
    """Write sizes, which are [width, height] or one number, as buckets."""
    resolution = sizes.get("resolution")
    if isinstance(resolution, int):
        resolution = [resolution, resolution]
    if not (isinstance(resolution, list) and len(resolution) == 2 and all(isinstance(n, int) for n in resolution)):
        raise ConfigError(f"{where}: resolution: {resolution!r}; expected [width, height], or buckets in the configuration")
    width, height = resolution
    frames = sizes.get("target_frames", [1])
    frames = [frames] if isinstance(frames, int) else frames
    if is_video and "target_frames" not in sizes:
        raise ConfigError(f"{where}: target_frames is missing; write it, or buckets in the configuration")
    keys: dict[str, Any] = {"max_upscale": 1.0} if sizes.get("bucket_no_upscale", False) else {}
    if sizes.get("enable_bucket", False):
        step = {"step": sizes["bucket_reso_steps"]} if "bucket_reso_steps" in sizes else {}
        return {**keys, "buckets": {"pixels": width * height, "frames": frames, **step}}
    return {**keys, "buckets": [[count, height, width] for count in frames]}


def _refuse(found: TomlSet, where: str) -> None:
    """Refuse settings that change what is trained on, unless they are off; warn of those that count elsewhere."""
    if found.refused:
        wrong = [f"{name}: {value!r}: {way_out}" for name, (value, way_out) in found.refused.items()]
        raise ConfigError(f"{where} has settings that are not supported:\n  " + "\n  ".join(wrong))
    for name, (value, reason) in found.others.items():
        if name in OTHERS:
            warnings.warn(f"{where}: {name}: {value!r} is ignored: {reason}", stacklevel=2)

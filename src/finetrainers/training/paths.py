"""The paths of a configuration."""

from pathlib import Path
from typing import Any

from finetrainers.config import Config, is_folder
from finetrainers.config.of_set import about_set, set_keys
from finetrainers.config.user_code import is_place
from finetrainers.data.media.remote import is_remote
from finetrainers.data.sources.kohya import class_sets
from finetrainers.errors import ConfigError


def absolute(config: Config) -> Config:
    """Make all local paths absolute and write out what follows from other keys: the saved configuration gives the run."""
    config = with_all_sets(config)
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    tree["output_dir"] = _full(config.output_dir)
    tree["cache"] = {**tree.get("cache", {}), "path": _full(config.cache.path)}
    tree["model"]["path"] = _folder(config.model.path)
    for component in tree["model"].get("components", {}).values():
        if component.get("path") is not None:
            component["path"] = _folder(component["path"])
    for data in (*tree["data"], *tree.get("validation", {}).get("data", ())):
        data.update({key: _place(data[key]) for key in ("path", "control_path") if data.get(key) is not None})
        if "folders" in data:
            data["folders"] = {stream: _place(folder) for stream, folder in data["folders"].items()}
    for data, section in zip(tree["data"], config.data, strict=True):
        if section.has_random_views:  # how many is a default that could change while the run goes on
            data["views"] = section.num_views
    if config.validation.prompts_file is not None:
        tree["validation"]["prompts"] = _full(config.validation.prompts_file)
    if config.tuning.start_from is not None:
        tree["tuning"]["start_from"] = _full(config.tuning.start_from)
    _make_code_absolute(tree)
    return Config.model_validate(tree)


def with_all_sets(config: Config) -> Config:
    """Write out each data set that stands for several: a folder of folders that name their repeats."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    sections = {"data": tree, **({"validation.data": tree["validation"]} if "data" in tree.get("validation", {}) else {})}
    given = [section["data"] for section in sections.values()]
    for name, section in sections.items():
        section["data"] = [
            own
            for data, key in zip(section["data"], set_keys(section["data"], name), strict=True)
            for own in _sets(data, key)
        ]
    return config if [section["data"] for section in sections.values()] == given else Config.model_validate(tree)


def _sets(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    with about_set(key):
        return class_sets(data)


def _make_code_absolute(tree: dict[str, Any]) -> None:
    """Make the path in each file.py:name absolute."""
    conditions = tree.get("conditioning", [])
    sections = [(tree["model"], "adapter"), (tree.get("objective", {}), "kind"), (tree.get("optimizer", {}), "name")]
    sections += [(own, "signal") for own in (conditions if isinstance(conditions, list) else [conditions])]
    sections += [(data, "layout") for data in (*tree["data"], *tree.get("validation", {}).get("data", ()))]
    for section, key in sections:
        section.update({key: _code(section[key])} if section.get(key) is not None else {})
    for section, key in ((tree, "callbacks"), (tree.get("track", {}), "trackers")):
        section.update({key: [_code(place) for place in section[key]]} if key in section else {})


def _code(value: str) -> str:
    """Make the path in file.py:name absolute, if that is what a value is."""
    file, _, name = value.rpartition(":")
    return f"{_full(file)}:{name}" if is_place(value) else value


def _full(path: Path | str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the path out") from None


def _place(path: str) -> str:
    return path if _has_address(path) else _full(path)


def _has_address(path: str) -> bool:
    """Whether a place of data is given by its address, not by a path."""
    return is_remote(path) or path.startswith("file://")


def _folder(path: str) -> str:
    return _full(path) if is_folder(path) else path  # else an id on the Hub


def places(config: Config) -> dict[str, Path]:
    """Folders and files of the user's by key, for messages."""
    found: dict[str, Path | str | None] = {"output_dir": config.output_dir, "cache.path": config.cache.path}
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            found |= {f"{name}.{index}.path": data.path, f"{name}.{index}.control_path": data.control_path}
            found |= {f"{name}.{index}.folders.{stream}": folder for stream, folder in data.folders.items()}
    found |= {"validation.prompts": config.validation.prompts_file, "tuning.start_from": config.tuning.start_from}
    if is_folder(config.model.path):
        found["model.path"] = config.model.path
    return {key: Path(place) for key, place in found.items() if place is not None and not _has_address(str(place))}

"""From what a browser sends to a checked configuration, each error beside its field; and from a configuration to fields."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from finetrainers.config import parse_config
from finetrainers.config.overrides import read_overrides
from finetrainers.config.syntax import Tree, dump_yaml, parse_yaml, to_plain
from finetrainers.errors import ConfigError
from finetrainers.ui.fields import REPEATED, Field, form_fields, to_text
from finetrainers.ui.folders import Folders
from finetrainers.ui.job import FOLDER
from finetrainers.ui.places import PROMPTS_FILE, refused_places

MAX_SECTIONS = 50
"""Of one kind in a form; more are written as a file."""
PROMPTS = "prompts"
"""Field for prompts, one a line, which become a file."""


@dataclass(slots=True)
class Checked:
    """What a form holds."""

    tree: Tree
    """Keys that are given."""
    errors: dict[str, list[str]] = field(default_factory=dict)
    """Messages by the name of the field; those of no field under an empty name."""
    files: dict[str, str] = field(default_factory=dict)
    """Further files of the run, by name."""

    @property
    def yaml(self) -> str:
        """The configuration as a file; {job} in it stands for the folder that it will be in."""
        return dump_yaml(self.tree)

    @property
    def shown(self) -> str:
        """The configuration as people read it."""
        return self.yaml.replace(f"{FOLDER}/", "")


def counts_of(values: Mapping[str, str]) -> dict[str, int]:
    """How many of each repeated section a form holds; of data at least one."""
    found = {name: 0 for name in REPEATED} | {"data": 1, "conditioning": 1}
    for name in values:
        for section in REPEATED:
            match = re.match(rf"{re.escape(section)}\.(\d+)\.", name)
            if match:
                found[section] = min(max(found[section], int(match[1]) + 1), MAX_SECTIONS)
    return found


def check_form(values: Mapping[str, str], folders: Folders) -> Checked:
    """Read the fields of a form and check all of them."""
    checked = Checked({})
    fields = form_fields(counts_of(values))
    shown = {own.name: own for section in fields.values() for own in section}
    given, moved = _given(values, shown)
    for own, key, text in given:
        _put(checked, own, key, text)
    _take_prompts(checked, values.get(PROMPTS, ""))
    names = {key: own.name for own, key, _ in given}
    _check(checked, folders, lambda key: _field_of(key, names, shown, moved))
    return checked


def read_yaml(text: str) -> Tree:
    """Read a configuration that was pasted.

    Raises:
        ConfigError: If it is none.
    """
    try:
        tree = parse_yaml(text)
        if not isinstance(tree, dict):
            raise ConfigError("the text holds no sections with keys; paste a whole configuration")
        if isinstance(tree.get("data"), dict):
            tree["data"] = [tree["data"]]
        return dict(to_plain(tree))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the text is no YAML: {error}") from None


def to_values(tree: Tree) -> dict[str, str]:
    """Fill a form with a configuration; ``unknown_keys`` names what it has no fields for."""
    conditions = tree.get("conditioning")
    if isinstance(conditions, dict):
        tree = {**tree, "conditioning": [conditions]}
    counts = {name: len(_at(tree, name) or []) for name in REPEATED}
    fields = form_fields({**counts, "data": max(1, counts["data"]), "conditioning": max(1, counts["conditioning"])})
    values = {}
    for own in (own for section in fields.values() for own in section):
        value = _at(tree, own.key)
        if value is not None and not (own.kind and own.kind != _kind_of(tree, own.key)) and not _is_of_others(own, value):
            values[own.name] = to_text(own.key, value)
    return values


def _is_of_others(own: Field, value: Any) -> bool:
    return own.key.endswith(".buckets") and isinstance(value, dict)  # whose keys have fields of their own


def _given(values: Mapping[str, str], shown: Mapping[str, Field]) -> tuple[list[tuple[Field, str, str]], dict[str, str]]:
    """Fields that hold something, with the key that each sets; and the sections that a condition of kind none moves."""
    moved, number = {}, 0
    for index in range(counts_of(values)["conditioning"]):
        if values.get(f"conditioning.{index}.kind", "").strip() not in ("", "none"):
            moved[f"conditioning.{index}"] = f"conditioning.{number}"
            number += 1
    found = []
    for name, own in shown.items():
        text = values.get(name, "").strip("\r\n")
        if not text.strip():
            continue
        section = ".".join(own.key.split(".")[: 2 if own.key.startswith("conditioning.") else 1])
        if own.key.startswith("conditioning."):
            if section not in moved:
                continue
            key = moved[section] + own.key[len(section) :]
        else:
            key = own.key
        if own.kind and values.get(f"{section}.kind", "").strip() not in (own.kind, *([""] if own.kind == "lora" else [])):
            continue
        found.append((own, key, text))
    return found, {new: old for old, new in moved.items()}


def _put(checked: Checked, own: Field, key: str, text: str) -> None:
    try:
        ((_, value),) = read_overrides([f"{key}={text.replace(chr(13), '')}"])
        _set(checked.tree, key.split("."), value)
    except ConfigError as error:
        checked.errors.setdefault(own.name, []).append(str(error).removeprefix(f"{key}: "))


def _set(tree: Tree, parts: list[str], value: Any) -> None:
    node: Any = tree
    for part, following in pairwise(parts):
        empty: Any = [] if following.isdecimal() else {}
        if isinstance(node, list):
            node.extend({} for _ in range(int(part) + 1 - len(node)))
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, empty)
    if not isinstance(node, dict):
        raise ConfigError(f"{'.'.join(parts[:-1])} is given as a whole already; give that, or its keys")
    node[parts[-1]] = value


def _take_prompts(checked: Checked, text: str) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return
    validation = checked.tree.setdefault("validation", {})
    if "prompts" in validation:
        checked.errors.setdefault(PROMPTS, []).append(
            "validation.prompts names a file of prompts; give that, or these lines"
        )
        return
    validation["prompts"] = f"{FOLDER}/{PROMPTS_FILE}"
    quoted = ['"' + line.replace('"', '""') + '"' for line in lines]
    checked.files[PROMPTS_FILE] = "\n".join(["prompt", *quoted]) + "\n"


def _check(checked: Checked, folders: Folders, field_of: Callable[[str], str | None]) -> None:
    if isinstance(checked.tree.get("output_dir"), str):
        checked.tree["output_dir"] = str(folders.runs[0] / checked.tree["output_dir"])
    lines = list(refused_places(checked.tree, folders))
    if not lines:  # files that a configuration names are read only once they may be
        try:
            parse_config(checked.tree)
        except ConfigError as error:
            lines = str(error).split("\n  ")[1:] or [str(error)]
    for line in lines:
        key, _, message = line.partition(": ")
        name = field_of(key) if re.fullmatch(r"[\w.]+", key) else None
        checked.errors.setdefault(name or "", []).append(line if name is None else message)


def _field_of(key: str, names: Mapping[str, str], shown: Mapping[str, Field], moved: Mapping[str, str]) -> str | None:
    """Find the field that a message about a key is shown beside: its own, or the nearest above that there is."""
    parts = key.split(".")
    while parts:
        name = ".".join(parts)
        section = ".".join(parts[:2])
        old = moved.get(section, section) + name[len(section) :]
        for candidate in (names.get(name), old, f"{old}.kind", f"{old}.path"):
            if candidate in shown:
                return candidate
        parts = parts[:-1]
    return None


def _at(tree: Any, key: str) -> Any:
    """Find the value of a key; None if it is not given."""
    for part in key.split("."):
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree


def _kind_of(tree: Tree, key: str) -> str:
    section = key.rpartition(".")[0]
    return str(_at(tree, f"{section}.kind") or "lora")


def unknown_keys(tree: Tree) -> Iterator[str]:
    """Name the keys of a configuration that the form has no field for."""
    values = to_values(tree)
    known = {name.partition(":")[0] for name in values}
    for key in _leaves(tree, ""):
        if not any(key == own or key.startswith(f"{own}.") for own in known):
            yield key


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict) and node:
        for name, inner in node.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, inner in enumerate(node):
            yield from _leaves(inner, f"{prefix}.{index}")
    elif node is not None:
        yield prefix

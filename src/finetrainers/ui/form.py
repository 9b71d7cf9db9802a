"""From what a browser sends to a checked configuration, each error beside its field; and from a configuration to fields."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from finetrainers.config import parse_config
from finetrainers.config.overrides import read_overrides
from finetrainers.config.syntax import Tree, dump_yaml, parse_yaml, to_plain
from finetrainers.config.tuning import LoraConfig
from finetrainers.errors import ConfigError
from finetrainers.ui.fields import REPEATED, Field, form_fields, to_text
from finetrainers.ui.folders import Folders
from finetrainers.ui.job import FOLDER
from finetrainers.ui.places import PROMPTS_FILE, refused_places

MAX_SECTIONS = 50
"""Of one kind in a form; more are written as a file."""
DEFAULT_TUNING = LoraConfig().kind
MISSING, REFUSED = object(), "refused"
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
    effective = _effective(values)
    for key, own in effective.items():
        text = values.get(own.name, "").replace("\r", "").strip("\n")
        if text.strip():
            _put(checked, own, key, text)
    _take_prompts(checked, values.get(PROMPTS, ""))
    _check(checked, folders, lambda key: _field_of(key, effective))
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
    tree = _with_list_of_conditions(tree)
    sections = {name: _at(tree, name) for name in REPEATED}
    counts = {name: len(found) if isinstance(found, list) else 0 for name, found in sections.items()}
    fields = form_fields({**counts, "data": max(1, counts["data"]), "conditioning": max(1, counts["conditioning"])})
    values = {}
    for own in (own for section in fields.values() for own in section):
        value = _at(tree, own.key)
        is_of_others = own.key.endswith(".buckets") and isinstance(value, dict)  # its keys have fields of their own
        if value is not MISSING and not is_of_others and own.kind in (None, _kind_of(tree, own.key)):
            values[own.name] = to_text(own.key, value)
    return values


def _with_list_of_conditions(tree: Tree) -> Tree:
    conditions = tree.get("conditioning")
    return {**tree, "conditioning": [conditions]} if isinstance(conditions, dict) else tree


def _effective(values: Mapping[str, str]) -> dict[str, Field]:
    """Fields that count, by the keys that they set: those of the kinds that are chosen; a condition of kind none is none."""
    found, number = {}, 0
    fields = form_fields(counts_of(values))
    for index in range(counts_of(values)["conditioning"]):
        kind = values.get(f"conditioning.{index}.kind", "").strip()
        place = f"conditioning.{index}."
        if kind in ("", "none"):
            continue
        for own in fields["conditioning"]:
            if own.key.startswith(place) and own.kind in (None, kind):
                found[f"conditioning.{number}.{own.key.removeprefix(place)}"] = own
        number += 1
    tuning = values.get("tuning.kind", "").strip() or DEFAULT_TUNING
    for own in (own for section, many in fields.items() if section != "conditioning" for own in many):
        if own.kind in (None, tuning):
            found[own.key] = own
    return found


def _put(checked: Checked, own: Field, key: str, text: str) -> None:
    try:
        ((_, value),) = read_overrides([f"{key}={text}"])
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
    if isinstance(node, list) and parts[-1].isdecimal() and int(parts[-1]) < len(node):  # of a list of texts
        node[int(parts[-1])] = value
        return
    if not isinstance(node, dict):
        raise ConfigError(f"{'.'.join(parts[:-1])} is given as a whole already; give that, or its keys")
    node[parts[-1]] = value


def _take_prompts(checked: Checked, text: str) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return
    validation = checked.tree.setdefault("validation", {})
    if "prompts" in validation:
        checked.errors.setdefault(PROMPTS, []).append("validation.prompts gives prompts already; give that, or these lines")
        return
    validation["prompts"] = f"{FOLDER}/{PROMPTS_FILE}"
    quoted = ['"' + line.replace('"', '""') + '"' for line in lines]
    checked.files[PROMPTS_FILE] = "\n".join(["prompt", *quoted]) + "\n"


def _check(checked: Checked, folders: Folders, field_of: Callable[[str], str | None]) -> None:
    if isinstance(checked.tree.get("output_dir"), str):
        checked.tree["output_dir"] = str(folders.runs[0] / checked.tree["output_dir"])
    lines = list(refused_places(checked.tree, folders))
    harmless = copy.deepcopy(checked.tree)  # what may not be read is not read for the sake of other messages
    for refused in (line.partition(": ")[0] for line in lines):
        if _at(harmless, refused) is not MISSING:
            _set(harmless, refused.split("."), REFUSED)
    try:
        parse_config(harmless)
    except ConfigError as error:
        lines += str(error).split("\n  ")[1:] or [str(error)]
    for line in lines:
        key, _, message = line.partition(": ")
        name = field_of(key) if re.fullmatch(r"[\w.]+", key) else None
        checked.errors.setdefault(name or "", []).append(line if name is None else message)


def _field_of(key: str, effective: Mapping[str, Field]) -> str | None:
    """Find the field that a message about a key is shown beside: its own, or the nearest above that there is."""
    parts = key.split(".")
    while parts:
        name = ".".join(parts)
        for candidate in (name, f"{name}.kind", f"{name}.name", f"{name}.path"):
            if candidate in effective:
                return effective[candidate].name
        parts = parts[:-1]
    return None


def _at(tree: Any, key: str) -> Any:
    """Find the value of a key; MISSING if it is not given."""
    for part in key.split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return MISSING
    return tree


def _kind_of(tree: Tree, key: str) -> str:
    kind = _at(tree, f"{key.rpartition('.')[0]}.kind")
    return str(DEFAULT_TUNING if kind is MISSING else kind)


def unknown_keys(tree: Tree) -> Iterator[str]:
    """Name the keys of a configuration that the form has no field for."""
    values, tree = to_values(tree), _with_list_of_conditions(tree)
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

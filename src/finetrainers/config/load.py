"""From a file and overrides to a checked configuration, and back."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from finetrainers.config.base import Section
from finetrainers.config.dataset_toml import expand_sets
from finetrainers.config.messages import describe
from finetrainers.config.moved import is_saved, translate
from finetrainers.config.overrides import read_overrides
from finetrainers.config.run import Config
from finetrainers.config.syntax import Tree, dump_yaml, read_tree
from finetrainers.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML, TOML or JSON file, apply ``section.key=value`` overrides and check everything.

    What a run of an earlier version has saved is read as that version did.

    Args:
        path: The file.
        overrides: Each ``section.key=value``, ``--section.key=value`` or, as two items, ``--section.key value``.
            ``data.0.path=...`` addresses an item of a list. Values are text for keys that take text,
            but for null, else YAML.

    Raises:
        ConfigError: With one line per wrong key.
    """
    path = Path(path)
    tree = translate(read_tree(path)) if is_saved(path) else read_tree(path)
    given = list(read_overrides(overrides))
    for key, value in given:
        _set(tree, key, value)
    return _parse(_with_all_sets(tree), str(path), Config, given=[key for key, _ in given])


def config_of_tree(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Check a tree of plain values after applying overrides, as ``load_config`` does with a file; the tree stays as it is.

    Raises:
        ConfigError: With one line per wrong key.
    """
    own = copy.deepcopy(dict(tree))
    for key, value in read_overrides(overrides):
        _set(own, key, value)
    return parse_config(own)


def load_section(path: str | Path, overrides: Sequence[str], root: type[AnySection]) -> AnySection:
    """Read a file whose keys are those of another section than Config, as ``load_config`` does.

    Raises:
        ConfigError: With one line per wrong key.
    """
    tree = read_tree(Path(path), root)
    given = list(read_overrides(overrides, root))
    for key, value in given:
        _set(tree, key, value)
    return _parse(tree, str(path), root, given=[key for key, _ in given])


def parse_config(tree: Mapping[str, Any], *, origin: str = "the configuration") -> Config:
    """Check a tree of plain values.

    Raises:
        ConfigError: With one line per wrong key.
    """
    return _parse(_with_all_sets(tree), origin, Config)


def _parse(tree: Mapping[str, Any], origin: str, root: type[AnySection], *, given: Sequence[str] = ()) -> AnySection:
    try:
        return root.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        lines = describe(cast("list[Mapping[str, Any]]", error.errors()), tree, root)
        raise ConfigError(_blamed(lines, origin, given)) from None


def _blamed(lines: Sequence[str], origin: str, given: Sequence[str]) -> str:
    """Say where wrong keys stand: in the file, or among those that were given beside it."""
    own = [line for line in lines if any(re.match(rf"{re.escape(key)}[:.]", line) for key in given)]
    parts = {origin: [line for line in lines if line not in own], "the command line": own}
    return "\n".join("\n  ".join([f"{where} is not valid:", *wrong]) for where, wrong in parts.items() if wrong)


def _with_all_sets(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Put the data sets that TOML files of other tools describe in the place of these files."""
    found = dict(tree)
    validation = found.get("validation")
    if isinstance(found.get("data"), list):
        found["data"] = expand_sets(found["data"])
    if isinstance(validation, Mapping) and isinstance(validation.get("data"), list):
        found["validation"] = {**validation, "data": expand_sets(validation["data"], "validation.data")}
    return found


def dump_config(config: Section) -> str:
    """Write a configuration as YAML that ``load_config`` or ``load_section`` reads back to an equal one."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=False)
    return dump_yaml(_drop_idle(tree, config))


def _drop_idle(tree: Tree, section: Section) -> Tree:
    """Leave out what nothing reads and would be refused if it were given, such as logit_std with uniform noise levels."""
    kept: Tree = {}
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if isinstance(value, Section):
            kept[key] = _drop_idle(tree[key], value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            kept[key] = [_drop_idle(t, v) for t, v in zip(tree[key], value, strict=True)]
        elif isinstance(value, dict) and value and all(isinstance(inner, Section) for inner in value.values()):
            kept[key] = {k: _drop_idle(tree[key][k], v) for k, v in value.items()}
        elif name not in section.idle():
            kept[key] = tree[key]
    return kept


def _set(tree: Tree, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        if isinstance(node, dict) and (parent not in node or node[parent] is None):
            node[parent] = [] if [*parents, leaf][depth + 1].isdigit() else {}
        node = _child(node, parent, ".".join(parents[: depth + 1]))
    if isinstance(node, list):
        index = _index(node, leaf, key)
        node[index : index + 1] = [value]
    elif isinstance(node, dict):
        node[leaf] = value
    else:
        raise ConfigError(f"{key}: {'.'.join(parents)} is {node!r}, which has no keys")


def _child(node: Any, key: str, where: str) -> Any:
    if isinstance(node, list):
        index = _index(node, key, where)
        if index == len(node):
            node.append({})
        return node[index]
    if isinstance(node, dict):
        return node[key]
    raise ConfigError(f"{where}: {node!r} has no keys")


def _index(items: list[Any], key: str, where: str) -> int:
    if not key.isdigit() or int(key) > len(items):
        raise ConfigError(f"{where}: {key!r} is not an index of a list of {len(items)}; use 0 to {len(items)}")
    return int(key)

"""From a file and overrides to a checked configuration, and back."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from finetrainers.config.base import Section
from finetrainers.config.messages import describe
from finetrainers.config.overrides import read_overrides
from finetrainers.config.run import Config
from finetrainers.errors import ConfigError

Tree = dict[str, Any]  # what YAML, TOML and JSON hold: checked by pydantic, not by mypy


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2 (PyYAML reads 1e-4 as a string), in which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in names[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``_Loader`` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
        list("-+0123456789."),
    )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML, TOML or JSON file, apply ``section.key=value`` overrides and check everything.

    Args:
        path: The file.
        overrides: Each ``section.key=value``, ``--section.key=value`` or, as two items, ``--section.key value``.
            ``data.0.path=...`` addresses an item of a list; values are parsed as YAML.

    Raises:
        ConfigError: With one line per wrong key.
    """
    path = Path(path)
    tree = _read(path)
    for key, text in read_overrides(overrides):
        try:
            _set(tree, key, yaml.load(text, _Loader))
        except yaml.YAMLError:
            raise ConfigError(f"{key}: {text!r} is not valid YAML; quote it") from None
    return parse_config(tree, origin=str(path))


def parse_config(tree: Mapping[str, Any], *, origin: str = "the configuration") -> Config:
    """Check a tree of plain values.

    Raises:
        ConfigError: With one line per wrong key.
    """
    try:
        return Config.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        lines = describe(cast("list[Mapping[str, Any]]", error.errors()), tree)
        raise ConfigError(f"{origin} is not valid:\n  " + "\n  ".join(lines)) from None


def dump_config(config: Config) -> str:
    """Write a configuration as YAML that ``load_config`` reads back to an equal one."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=False)
    return yaml.dump(_drop_idle(tree, config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _drop_idle(tree: Tree, section: Section) -> Tree:
    """Leave out what nothing reads and would be refused if it were given, such as logit_std with uniform noise levels."""
    kept: Tree = {}
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if isinstance(value, Section):
            kept[key] = _drop_idle(tree[key], value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            kept[key] = [_drop_idle(t, v) for t, v in zip(tree[key], value, strict=True)]
        elif isinstance(value, dict):
            kept[key] = {k: _drop_idle(tree[key][k], v) for k, v in value.items()}
        elif name not in section.idle():
            kept[key] = tree[key]
    return kept


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    try:
        match path.suffix.lower():
            case ".toml":
                tree = tomllib.loads(text)
            case ".json":
                tree = json.loads(text, object_pairs_hook=_unique)
            case ".yaml" | ".yml":
                tree = yaml.load(text, _Loader)
            case suffix:
                raise ConfigError(f"{path}: {suffix or 'no'} suffix; a configuration is .yaml, .toml or .json")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be parsed: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, not sections with keys")
    if isinstance(tree.get("data"), dict):
        tree["data"] = [tree["data"]]  # one data set needs no list
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> Tree:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        twice = next(name for name in tree if [key for key, _ in pairs].count(name) > 1)
        raise json.JSONDecodeError(f"{twice!r} is given twice", "", 0)
    return tree


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
        raise ConfigError(f"{key}: {'.'.join(parents)} is {node!r}, which holds no keys")


def _child(node: Any, key: str, where: str) -> Any:
    if isinstance(node, list):
        index = _index(node, key, where)
        if index == len(node):
            node.append({})
        return node[index]
    if isinstance(node, dict):
        return node[key]
    raise ConfigError(f"{where}: {node!r} holds no keys")


def _index(items: list[Any], key: str, where: str) -> int:
    if not key.isdigit() or int(key) > len(items):
        raise ConfigError(f"{where}: {key!r} is no index of a list of {len(items)}; use 0 to {len(items)}")
    return int(key)

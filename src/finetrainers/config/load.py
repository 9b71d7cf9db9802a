"""From a file and overrides to a checked configuration, and back."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from finetrainers.config.reference import sections_at
from finetrainers.config.run import Config
from finetrainers.errors import ConfigError

Tree = dict[str, Any]  # what YAML, TOML and JSON hold: checked by pydantic, not by mypy


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2: PyYAML reads 1e-4 as a string."""


_Loader.add_implicit_resolver(
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
    for key, value in _pairs(overrides):
        _set(tree, key, value)
    return parse_config(tree, origin=str(path))


def parse_config(tree: Mapping[str, Any], *, origin: str = "the configuration") -> Config:
    """Check a tree of plain values.

    Raises:
        ConfigError: With one line per wrong key.
    """
    try:
        return Config.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        lines = _lines(cast("list[Mapping[str, Any]]", error.errors()), tree)
        raise ConfigError(f"{origin} is not valid:\n  " + "\n  ".join(lines)) from None


def dump_config(config: Config) -> str:
    """Write a configuration as YAML that ``load_config`` reads back to an equal one."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=False)
    return yaml.safe_dump(_drop_unset(tree, config), sort_keys=False, allow_unicode=True)


def _drop_unset(tree: Tree, section: BaseModel) -> Tree:
    """Leave out what was not given and would be refused if it were, such as logit_std with uniform noise levels."""
    kept: Tree = {}
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if isinstance(value, BaseModel):
            kept[key] = _drop_unset(tree[key], value)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            kept[key] = [_drop_unset(t, v) for t, v in zip(tree[key], value, strict=True)]
        elif isinstance(value, dict):
            kept[key] = {k: _drop_unset(tree[key][k], v) for k, v in value.items()}
        elif name in section.model_fields_set or not _refused_alone(name):
            kept[key] = tree[key]
    return kept


def _refused_alone(name: str) -> bool:
    return name in {"logit_mean", "logit_std", "mode_scale", "cycles", "power", "beta1", "beta2", "eps", "views"}


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        match path.suffix.lower():
            case ".toml":
                tree = tomllib.loads(text)
            case ".json":
                tree = json.loads(text)
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


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    words = list(overrides)
    while words:
        word = words.pop(0)
        key, separator, value = word.removeprefix("--").partition("=")
        if not separator and word.startswith("--"):
            takes_next = bool(words) and not words[0].startswith("--") and not _is_pair(words[0])
            value = words.pop(0) if takes_next else "true"  # a flag, such as --push_to_hub
        elif not separator:
            raise ConfigError(f"{word!r} is not of the form section.key=value or --section.key value")
        try:
            pairs.append((key, yaml.load(value, _Loader)))
        except yaml.YAMLError:
            raise ConfigError(f"{key}: {value!r} is not valid YAML; quote it") from None
    return pairs


def _is_pair(word: str) -> bool:
    return re.match(r"^[A-Za-z_][\w.]*=", word) is not None


def _set(tree: Tree, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        if isinstance(node, dict) and (parent not in node or node[parent] is None):
            node[parent] = {}
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


def _lines(errors: list[Mapping[str, Any]], tree: Mapping[str, Any]) -> list[str]:
    """One line for each wrong key; what is only wrong because something inside it is, is left out."""
    located = [(_real_location(error["loc"], tree), error) for error in errors]
    places = {place for place, _ in located}
    return sorted(
        {
            _line(place, error)
            for place, error in located
            if not any(len(other) > len(place) and other[: len(place)] == place for other in places)
        }
    )


def _line(location: Sequence[str | int], error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, location)) or "the file"
    if error["type"] == "extra_forbidden":
        *parents, leaf = location
        known = sections_at(parents)
        if leaf in known:
            return f"{where}: does not exist with this kind of {'.'.join(map(str, parents))}; remove it or change the kind"
        close = get_close_matches(str(leaf), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{where}: there is no such key; {hint}"
    if error["type"] == "missing":
        return f"{where}: is required and not given"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if error["type"] == "value_error" or isinstance(error["input"], dict) else f", not {error['input']!r}"
    return f"{where}: {message}{shown}"


def _real_location(location: Sequence[str | int], tree: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Drop what pydantic puts into a location that no user wrote: names of union members."""
    real: list[str | int] = []
    node: Any = tree
    for i, part in enumerate(location):
        is_mapping, is_list = isinstance(node, dict), isinstance(node, list)
        if (is_mapping and part in node) or (is_list and isinstance(part, int) and part < len(node)):
            node = node[part]
        elif i < len(location) - 1 or not (is_mapping or is_list) or _is_union_member(part):
            continue
        real.append(part)
    return tuple(real)


def _is_union_member(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"PixelBudget", "str", "float"})

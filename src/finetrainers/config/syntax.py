"""From the text of a YAML, TOML or JSON file to a tree of plain values."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from finetrainers.config.base import Section
from finetrainers.config.reference import general_name, kinds_of
from finetrainers.config.run import Config
from finetrainers.errors import ConfigError

Tree = dict[str, Any]  # what YAML, TOML and JSON hold: checked by pydantic, not by mypy

SWITCHES = ("true", "false", "yes", "no", "on", "off")
"""Words that a key of type bool takes, in YAML and on the command line."""


class Switch(str):
    """A plain yes, no, on or off of YAML: a boolean where the key takes one, and text everywhere else."""

    __slots__ = ()


_TAG = "tag:yaml.org,2002:"
_SWITCH_TAG = "!switch"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_RESOLVERS: tuple[tuple[str, str, list[str]], ...] = (  # tag, pattern, first letters; the first that matches
    (f"{_TAG}null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    (f"{_TAG}bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_SWITCH_TAG, "yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", list("yYnNoO")),
    (f"{_TAG}int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (f"{_TAG}float", _FLOAT, list("-+0123456789.")),
)


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2: 1e-4 is one, 010 is 10, and 1:30, 1_000 and dates are text.

    A key that is given twice is an error.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # as PyYAML has it, whatever its stubs say
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(f"{_TAG}{name}" for name in ("null", "float", "str", "seq", "map")))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value]  # as they stand here: later, merge keys (<<) have put others among them
        for index, (key, _) in enumerate(node.value):
            if key.value in names[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``_Loader``, or a reader of YAML 1.1, would take for something else."""


for _side in (_Loader, _Dumper):
    for _tag, _pattern, _letters in _RESOLVERS:
        _side.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _letters)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile("^<<$"), ["<"])


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return str(loader.construct_scalar(node)).lower() == "true"


def _switch(loader: _Loader, node: yaml.ScalarNode) -> Switch:
    return Switch(loader.construct_scalar(node))


_Loader.add_constructor(f"{_TAG}int", _integer)
_Loader.add_constructor(f"{_TAG}bool", _boolean)
_Loader.add_constructor(_SWITCH_TAG, _switch)


def parse_yaml(text: str) -> Any:  # whatever the text says
    """Read YAML; plain yes, no, on and off are a ``Switch``.

    Raises:
        ValueError: If it is none.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def unquote(text: str) -> str | None:
    """Return what stands in quotes, if the whole text is one quoted scalar of YAML; else None."""
    if text[:1] not in ("'", '"'):
        return None
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError:
        return None
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text) else None


def dump_yaml(tree: Tree) -> str:
    """Write a tree as YAML that ``parse_yaml`` reads back to an equal one."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_tree(path: Path, root: type[Section] = Config) -> Tree:
    """Read a configuration file; a byte order mark, as some editors put at its start, does not matter.

    Raises:
        ConfigError: If it cannot be read, or holds no keys.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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
                tree = parse_yaml(text)
            case suffix:
                raise ConfigError(f"{path}: {suffix or 'no'} suffix; a configuration is .yaml, .toml or .json")
        if tree is None:
            raise ConfigError(f"{path} is empty; a configuration has at least output_dir, model and data")
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} holds {type(tree).__name__}, not sections with keys")
        if isinstance(tree.get("data"), dict):
            tree["data"] = [tree["data"]]  # one data set needs no list
        return dict(to_plain(tree, root=root))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be parsed: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> Tree:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        twice = next(name for name in tree if [key for key, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return tree


def to_plain(value: Any, place: Sequence[str | int] = (), above: Sequence[Any] = (), *, root: type[Section] = Config) -> Any:
    """Make of a tree what JSON can say: a ``Switch`` is a boolean where the key takes one, and else its text.

    Raises:
        ValueError: Naming the key of what is neither text, a number, a list nor a section, such as a date in TOML.
    """
    if isinstance(value, dict | list):
        if any(value is outer for outer in above):
            raise ValueError(f"{'.'.join(map(str, place))} holds itself, by an alias")
        if isinstance(value, dict):
            inside = (*above, value)
            return {str(name): to_plain(inner, (*place, str(name)), inside, root=root) for name, inner in value.items()}
        return [to_plain(inner, (*place, index), (*above, value), root=root) for index, inner in enumerate(value)]
    if isinstance(value, Switch):
        is_on = value.lower() in ("yes", "on")
        return is_on if "bool" in kinds_of(general_name(place), root) else str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{'.'.join(map(str, place))}: {value} is a {type(value).__name__}, which no key accepts; quote it")

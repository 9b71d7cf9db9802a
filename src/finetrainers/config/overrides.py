"""Words of a command line: which is the configuration file, and which keys the others set."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetrainers.config.base import Section
from finetrainers.config.reference import general_name, keys, kinds_of, sections_at
from finetrainers.config.run import Config
from finetrainers.config.syntax import SWITCHES, parse_yaml, to_plain, unquote
from finetrainers.errors import ConfigError

TEXT = {"str", "Path"}
"""Types of keys whose values are taken as they are given."""
FILE_ENDINGS = (".yaml", ".yml", ".toml", ".json")
"""Of configurations."""


def find_file(words: Sequence[str], root: type[Section] = Config) -> tuple[str | None, list[str]]:
    """Find the first word that is neither an override nor the value of one; return it, if there is one, and all others.

    Raises:
        ConfigError: If it is only the beginning of a file's name, which the shell has split at its spaces.
    """
    for index, key, _ in _walk(words, root):
        if key is None:
            _refuse_split_name(words[index:])
            return words[index], [*words[:index], *words[index + 1 :]]
    return None, list(words)


def _refuse_split_name(words: Sequence[str]) -> None:
    """Refuse a file that is there only with the words that follow it."""
    names = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
    with suppress(OSError):  # a name that is longer than a file system takes
        if not Path(names[0]).exists() and (whole := next((name for name in names if Path(name).is_file()), None)):
            raise ConfigError(f"there is no {names[0]}, but there is {whole!r}: put a name with spaces in quotes")


def read_overrides(words: Sequence[str], root: type[Section] = Config) -> Iterator[tuple[str, Any]]:
    """Keys of a configuration (``root``) with their values.

    Raises:
        ConfigError: If a word is not an override, or has no value.
    """
    for index, key, text in _walk(words, root):
        if key is None:
            raise ConfigError(f"{words[index]!r} is not of the form section.key=value or --section.key value")
        yield key, _value(key, text, root)


def _value(key: str, text: str, root: type[Section]) -> Any:
    """Read a value: as it stands, unless it is quoted, where the key takes text; as YAML everywhere else."""
    name = general_name(key.split("."))
    types = kinds_of(name, root)
    if types & TEXT:
        quoted = unquote(text)
        return _text(name, types, text, root) if quoted is None else quoted
    try:
        return to_plain(parse_yaml(text), key.split("."), root=root)
    except ValueError:
        if not types and not sections_at(key.split("."), root):
            return text  # there is no such key: the message says so
        raise ConfigError(f"{key}: {text!r} is not valid YAML; quote it") from None


def _text(name: str, types: set[str], text: str, root: type[Section]) -> Any:
    """Take text as it stands, but for null; nothing and a list in brackets are so only where the key may be that."""
    if text.startswith("[") and any(kind.startswith("list of") for kind in types):
        with suppress(ValueError):  # such as a regular expression that begins with a class of letters
            return list(to_plain(parse_yaml(text)))
    if text == "null" or (text == "" and "null" in types):
        return None
    may_be_empty = any(known.name == name and known.default == "" for known in keys(root))
    return text if text or may_be_empty else None


def _walk(words: Sequence[str], root: type[Section]) -> Iterator[tuple[int, str | None, str]]:
    """Index of each override's first word, its key and its value; the key is None where a word is not an override."""
    index = 0
    while index < len(words):
        first, word = index, words[index]
        key, separator, value = word.removeprefix("--").partition("=")
        index += 1
        if separator and "/" not in key:  # else the name of a file, such as runs/lr=1e-4/config.yaml
            yield first, key, value
        elif not word.startswith("--"):
            yield first, None, word
        elif _takes_next(key, words[index : index + 1], root):
            yield first, key, words[index]
            index += 1
        else:
            yield first, key, "true"


def _takes_next(key: str, following: Sequence[str], root: type[Section]) -> bool:
    """Whether the word after ``--key`` is its value; if not, it is a flag, such as --push_to_hub."""
    types = {known.type for known in keys(root) if known.name == general_name(key.split("."))}
    if "bool" in types:
        return bool(following) and following[0].lower() in SWITCHES
    if following and not following[0].startswith("--"):
        is_own = "=" in following[0] or following[0].endswith(FILE_ENDINGS)  # an override, or the file
        return not is_own or bool(kinds_of(general_name(key.split(".")), root) or sections_at(key.split("."), root))
    if types:
        raise ConfigError(f"{key}: --{key} has no value; give --{key} VALUE or {key}=VALUE")
    return False  # there is no such key: the message says so

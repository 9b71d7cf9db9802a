"""Words of a command line: which is the configuration file, and which keys the others set."""

from collections.abc import Iterator, Sequence

from finetrainers.config.reference import general_name, keys
from finetrainers.errors import ConfigError

SWITCHES = ("true", "false", "yes", "no", "on", "off")
"""What a key of type bool takes as the next word; anything else is not its value."""


def find_file(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Find the first word that is no override and no value of one; return it, if there is one, and all others."""
    for index, key, _ in _walk(words):
        if key is None:
            return words[index], [*words[:index], *words[index + 1 :]]
    return None, list(words)


def read_overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys with the text of their values.

    Raises:
        ConfigError: If a word is no override, or has no value.
    """
    for index, key, value in _walk(words):
        if key is None:
            raise ConfigError(f"{words[index]!r} is not of the form section.key=value or --section.key value")
        yield key, value


def _walk(words: Sequence[str]) -> Iterator[tuple[int, str | None, str]]:
    """Index of each override's first word, its key and its value; the key is None where a word is no override."""
    index = 0
    while index < len(words):
        first, word = index, words[index]
        key, separator, value = word.removeprefix("--").partition("=")
        index += 1
        if separator and "/" not in key:  # else the name of a file, such as runs/lr=1e-4/config.yaml
            yield first, key, value
        elif not word.startswith("--"):
            yield first, None, word
        elif _takes_next(key, words[index : index + 1]):
            yield first, key, words[index]
            index += 1
        else:
            yield first, key, "true"


def _takes_next(key: str, following: Sequence[str]) -> bool:
    """Whether the word after ``--key`` is its value; if not, it is a flag, such as --push_to_hub."""
    types = {known.type for known in keys() if known.name == general_name(key.split("."))}
    if "bool" in types:
        return bool(following) and following[0].lower() in SWITCHES
    if following and not following[0].startswith("--"):
        return True
    if types:
        raise ConfigError(f"{key}: --{key} has no value; give --{key} VALUE or {key}=VALUE")
    return False  # there is no such key: the message says so

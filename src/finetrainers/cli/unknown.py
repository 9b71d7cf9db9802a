"""A command that there is not: answered with the one that may be meant."""

import argparse
import difflib
from collections.abc import Collection, Sequence

from finetrainers.errors import ConfigError

ACTIONS = {"inspect": "data", "prepare": "data", "tiny": "models", "copy": "examples", "verify": "cache", "prune": "cache"}
"""The command of second words that a user may write alone."""
CONFIG_SUFFIXES = (".yaml", ".yml", ".json", ".toml")


class CommandParser(argparse.ArgumentParser):
    """Of the command line as a whole."""

    commands: Collection[str] = ()


def refuse_unknown(words: Sequence[str], commands: Collection[str]) -> None:
    """Refuse a first word that is no command.

    Raises:
        ConfigError: With the command that may be meant, and without the list of all.
    """
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise ConfigError(f"there is no command {words[0]!r}{_meant(words[0], commands)}; finetrainers --help lists all")


def _meant(word: str, commands: Collection[str]) -> str:
    close = difflib.get_close_matches(word, commands, n=1)
    if word in ACTIONS:
        meant = f"{ACTIONS[word]} {word}"
    elif word.endswith(CONFIG_SUFFIXES):
        meant = f"train {word}"
    elif close:
        meant = close[0]
    else:
        return ""
    return f"; did you mean `finetrainers {meant}`?"

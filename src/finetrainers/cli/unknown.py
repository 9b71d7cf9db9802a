"""A command or an option that there is not: answered with the one that may be meant."""

import argparse
import difflib
from collections.abc import Collection, Mapping, Sequence

from finetrainers.errors import ConfigError

ACTIONS = {"inspect": "data", "prepare": "data", "tiny": "models", "copy": "examples", "verify": "cache", "prune": "cache"}
"""The command of second words that a user may write alone."""
CONFIG_SUFFIXES = (".yaml", ".yml", ".json", ".toml")


class CommandParser(argparse.ArgumentParser):
    """Of the command line as a whole."""

    commands: Mapping[str, argparse.ArgumentParser] = {}

    def refuse_left(self, words: Sequence[str], left: Sequence[str]) -> None:
        """Refuse words that no option and no argument of the command takes.

        Raises:
            ConfigError: With the option that may be meant, or how a name with spaces is given.
        """
        if not left:
            return
        name, command = action_of(words[0], self.commands[words[0]], words[1:])
        if not left[0].startswith("-"):
            said = f"takes no further word {left[0]!r}; put a name with spaces in quotes"
        else:
            option = left[0].partition("=")[0]
            known = [own for action in command._actions for own in action.option_strings]
            said = f"there is no option {option}{_option_meant(option, known)}"
        raise ConfigError(f"{name}: {said}; finetrainers {name} --help lists all")


def action_of(name: str, command: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str, argparse.ArgumentParser]:
    """Find the action that words name, with its name, where a command has several; else the command."""
    actions = [group for group in command._actions if isinstance(group, argparse._SubParsersAction)]
    return next(
        ((f"{name} {word}", group.choices[word]) for group in actions for word in words if word in group.choices),
        (name, command),
    )


def _option_meant(option: str, known: Sequence[str]) -> str:
    word = option.strip("-")
    close = [own for own in known if word in own.split("-")] or difflib.get_close_matches(option, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if word and close else ""


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

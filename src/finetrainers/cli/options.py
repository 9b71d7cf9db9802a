"""Values of the commands' options, refused with the way out."""

from argparse import ArgumentParser, ArgumentTypeError, _SubParsersAction
from pathlib import Path

from finetrainers.errors import ConfigError
from finetrainers.files.storage import check_writable


def count(text: str) -> int:
    """Read how many there are: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a count; give 1 or more, or leave the option out")
    return int(text)


def count_or_none(text: str) -> int:
    """Read how many there are: 0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a count; give 0 or more, or leave the option out")
    return int(text)


def check_target(option: str, file: Path) -> None:
    """Refuse a place where no file can be written, before the work whose result goes there.

    Raises:
        ConfigError: If it is a folder, or in none that is there.
        StorageError: If its folder may not be written into.
    """
    if file.is_dir():
        raise ConfigError(f"{option}: {file} is a folder; name a file")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{option}: there is no folder {file.parent}; make it, or name another file")
    check_writable(option, file.absolute().parent)


def describe(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Let the help of each command begin with what the list of commands says of it, unless it says more itself."""
    for listed in commands._choices_actions:
        command = commands.choices[listed.dest]
        sentence = (listed.help or "").strip()
        command.description = command.description or f"{sentence[:1].upper()}{sentence[1:]}."
        for action in command._actions:
            if isinstance(action, _SubParsersAction):
                describe(action)

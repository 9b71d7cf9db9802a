"""Values of the commands' options, refused with the way out."""

from argparse import ArgumentParser, ArgumentTypeError, _SubParsersAction


def count(text: str) -> int:
    """Read how many there are: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no count; give 1 or more, or leave the option out")
    return int(text)


def count_or_none(text: str) -> int:
    """Read how many there are: 0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no count; give 0 or more, or leave the option out")
    return int(text)


def describe(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Let the help of each command begin with what the list of commands says of it, unless it says more itself."""
    for listed in commands._choices_actions:
        command = commands.choices[listed.dest]
        sentence = (listed.help or "").strip()
        command.description = command.description or f"{sentence[:1].upper()}{sentence[1:]}."
        for action in command._actions:
            if isinstance(action, _SubParsersAction):
                describe(action)

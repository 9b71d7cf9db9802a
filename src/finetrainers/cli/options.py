"""Values of the commands' options, refused with the way out."""

from argparse import ArgumentTypeError


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

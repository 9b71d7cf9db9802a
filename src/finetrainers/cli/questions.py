"""Questions on a terminal: each with what is suggested, asked again after a wrong answer."""

import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from finetrainers.errors import ConfigError

WIDTH = 78
NONE = "none"


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask."""

    option: str
    """That answers it on the command line."""
    text: str
    read: Callable[[str], str | None]
    """Makes a value of an answer; raises ConfigError with the way out."""
    suggested: str | None = None
    """Answer that is taken where none is given; None where one has to be."""

    def answer(self, given: str | None, *, is_asking: bool, takes_suggested: bool) -> str | None:
        """Take what an option gives, or ask.

        Raises:
            ConfigError: If it is wrong, or missing with nobody to ask.
        """
        if given is not None:
            return self.read(given)
        if is_asking:
            return self._ask()
        if takes_suggested and self.suggested is not None:
            return self.read(self.suggested)
        also = "" if self.suggested is None else f", or --yes to take {self.suggested!r}"
        why = "it has no default" if takes_suggested else "there is no terminal to ask on"
        raise ConfigError(f"init: {self.option} is not given, and {why}; give {self.option}{also}")

    def _ask(self) -> str | None:
        _say(textwrap.fill(self.text, WIDTH, break_on_hyphens=False))
        hint = "" if self.suggested is None else f" [{self.suggested}]"
        while True:
            said = self._read_line(f"{self.option.removeprefix('--')}{hint}: ") or self.suggested
            if said is None:
                _say("  an answer is needed; Ctrl-C ends without writing anything")
                continue
            try:
                return self.read(said)
            except ConfigError as error:
                _say(textwrap.fill(str(error), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))

    def _read_line(self, prompt: str) -> str:
        try:
            print(prompt, end="", file=sys.stderr, flush=True)  # what is printed is the names of files
            return input().strip()
        except EOFError:
            raise ConfigError(f"init: the input ended before {self.option} was answered; nothing is written") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

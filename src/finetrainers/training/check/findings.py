"""What a check or a rehearsal has found, and how a rehearsal tells it."""

import time
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from finetrainers.config.user_code import about_user_code
from finetrainers.errors import FinetrainersError, Interrupted

REPORT_VERSION = 1


@dataclass(slots=True)
class Part:
    """One part of a check or a rehearsal."""

    name: str
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    """What would end the run, each with the key to change."""
    notes: list[str] = field(default_factory=list)
    """What was measured."""


@dataclass(slots=True)
class Findings:
    """All that a check or a rehearsal has to say."""

    parts: list[Part] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""
    warnings: list[str] = field(default_factory=list)
    """What ends no run, and may not be meant."""

    @property
    def errors(self) -> list[str]:
        """All of them, in the order in which they were found."""
        return [error for part in self.parts for error in part.errors]

    def part(self, name: str) -> "Trying":
        """Begin a part: what its body raises for the user is an error of it, and the others are looked at."""
        self.parts.append(Part(name))
        return Trying(self, self.parts[-1])

    def leave_out(self, what: str) -> None:
        """Say once what is not looked at."""
        if what not in self.left_out:
            self.left_out.append(what)

    def warn(self, message: str) -> None:
        """Say once what may not be meant."""
        if message not in self.warnings:
            self.warnings.append(message)

    def report(self) -> dict[str, Any]:
        """As plain values, as ``--json`` prints them."""
        return {
            "version": REPORT_VERSION,
            "ok": not self.errors,
            "parts": [asdict(part) for part in self.parts],
            "not_rehearsed": self.left_out,
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """As a list to read."""
        found = [line for part in self.parts for line in _lines_of(part)]
        for title, sentences in (("not rehearsed", self.left_out), ("worth a look", self.warnings)):
            found += [f"{title}:", *(f"  - {_indented(sentence)}" for sentence in sentences)] if sentences else []
        count = len(self.errors)
        verdict = f"{count} error{'s' * (count > 1)}: fix {'them' if count > 1 else 'it'}, and rehearse again"
        return [*found, verdict if count else "OK: nothing that was rehearsed stands in the way of this run"]


@dataclass(slots=True)
class Trying:
    """Times a part, and takes its errors."""

    findings: Findings
    part: Part
    _start: float = 0.0

    def __enter__(self) -> Part:
        self._start = time.perf_counter()
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.part.seconds = time.perf_counter() - self._start
        if not isinstance(error, Exception) or isinstance(error, Interrupted):
            return False
        said = str(error) if isinstance(error, FinetrainersError) else about_user_code(error)
        if said is None:
            return False
        if said not in self.findings.errors:  # one that several checks come upon
            self.part.errors.append(said)
        return True


def _lines_of(part: Part) -> list[str]:
    state = "ERROR" if part.errors else "ok"
    lines = [f"{state:5} {part.seconds:6.1f} s  {part.name}"]
    lines += [f"    {note}" for note in part.notes]
    return lines + [f"    ERROR: {_indented(error)}" for error in part.errors]


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")

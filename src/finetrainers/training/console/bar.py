"""The last line of a terminal, which is written over while a stage goes on; without a terminal, a plain line at times."""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

REFRESH_SECONDS = 0.1
"""Between two states of a bar in a terminal."""
LOG_SECONDS = 30.0
"""Between two lines of a stage where there is no terminal, as in a file."""
MAX_CELLS = 24
MIN_CELLS = 4
"""Characters of a bar; where there is room for fewer, there is none."""
STEP_CELLS = 4
"""By which its length changes: figures beside it get longer and shorter all the time."""
USUAL_COLUMNS = 80
GAP = "  "
ECHO = "^C"
"""What a terminal adds to the line when Ctrl-C is pressed."""


@dataclass(frozen=True, slots=True)
class Part:
    """A figure beside a bar."""

    text: str
    rank: int
    """Of those that have no room, the highest is left out first."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a stage is."""

    stage: str
    head: str
    """What is always shown, such as "step 3/12"."""
    share: float
    """Of the stage that is done, in [0, 1]."""
    parts: Sequence[Part] = ()
    is_over: bool = False
    is_kept: bool = True
    """Whether the line stays once the stage is over."""


class Bars:
    """Shows one stage at a time, and lines above it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state: State | None = None
        self._length = 0
        """Characters that the last line has now."""
        self._shown = -math.inf
        """When the stage was last shown."""

    def show(self, state: State) -> None:
        """Show a stage, if it is time to: its beginning and its end always are."""
        now = self._clock()
        is_new = self._state is None or self._state.stage != state.stage
        self._state = state
        if is_new:  # in a file, of a stage beside the steps only what takes long
            self._shown = -math.inf if state.is_kept or is_terminal() else now
        if state.is_over or now - self._shown >= (REFRESH_SECONDS if is_terminal() else LOG_SECONDS):
            self._shown = now
            self._draw(state)
        if state.is_over:
            self._state = None

    def _draw(self, state: State) -> None:
        if is_terminal():
            self._over(lay_out(state, room(), blocks()))
            if state.is_over:
                self._leave() if state.is_kept else self._over("")
        elif state.is_kept or not state.is_over:
            _write(f"{lay_out(state, None, '')}\n")

    def print(self, line: str) -> None:
        """Write a line that stays, above the bar if there is one."""
        self._over("")
        _write(f"{line}\n")
        if self._state is not None and is_terminal():
            self._over(lay_out(self._state, room(), blocks()))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._state = None
        self._leave()

    def _over(self, text: str) -> None:
        """Write over the last line."""
        if text or self._length:
            wiped = min(self._length + len(ECHO), columns() - 1)
            _write(f"\r{text}{' ' * (wiped - len(text))}" + ("" if text else "\r"))
        self._length = len(text)

    def _leave(self) -> None:
        if self._length:
            _write("\n")
        self._length = 0


def lay_out(state: State, width: int | None, cells: str) -> str:
    """Put a state into one line of at most ``width`` characters, or, with None, all of it without a bar.

    Args:
        state: What to show.
        width: Characters that there are; below those of the head alone, it is cut.
        cells: Characters of an empty and of a full cell of the bar.
    """
    parts = [Part(f"{math.floor(100 * state.share)}%", 3), *state.parts]
    if width is None:
        return GAP.join([state.head, *(part.text for part in parts)])
    while parts and len(GAP.join([state.head, *(part.text for part in parts)])) > width:
        parts.remove(max(parts, key=lambda part: part.rank))
    words = [state.head, *(part.text for part in parts)]
    room = min(MAX_CELLS, width - len(GAP.join(words)) - len(GAP)) // STEP_CELLS * STEP_CELLS
    if room >= MIN_CELLS and len(parts) == 1 + len(state.parts):
        full = math.floor(room * state.share)
        words.insert(2, cells[1] * full + cells[0] * (room - full))
    return GAP.join(words)[:width]


def as_time(seconds: float) -> str:
    """Write a duration as 0:07, 12:30, 3:04:05 or 2d 3h."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def is_terminal() -> bool:
    """Whether what is told is shown to somebody as it is written."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def columns(unknown: int = USUAL_COLUMNS) -> int:
    """Columns of the terminal now, which may be resized; ``unknown`` where nobody has told."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or unknown
    except (OSError, ValueError, AttributeError):
        return unknown


def room() -> int:
    """Characters of a bar, behind which the echo of Ctrl-C has room."""
    return columns() - 1 - len(ECHO)


def blocks() -> str:
    """An empty and a full cell, in characters that the terminal's encoding has."""
    encoding: Any = getattr(sys.stderr, "encoding", None) or "ascii"
    try:
        "─━".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "-#"
    return "─━"


def _write(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Stages:
    """Bars of stages that have a number of items, with the time that is left."""

    def __init__(self, bars: Bars | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars, self._clock = Bars() if bars is None else bars, clock
        self._stage, self._began, self._first = "", 0.0, 0

    def show(self, stage: str, done: int, total: int, *, is_kept: bool = True) -> None:
        """Tell how far a stage is; with ``is_kept``, its line stays when it is over."""
        now = self._clock()
        if stage != self._stage or done < self._first:
            self._stage, self._began, self._first = stage, now, done
        seconds, count = now - self._began, done - self._first
        is_over = done >= total
        parts = []
        if is_over:
            parts = [Part(f"in {as_time(seconds)}", 1)]
        elif count:
            parts = [Part(f"{as_time(seconds / count * (total - done))} left", 1)]
        share = done / total if total else 1.0
        self._bars.show(State(stage, f"{stage} {done}/{total}", share, parts, is_over, is_kept))
        if is_over:
            self._stage = ""

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bars.close()

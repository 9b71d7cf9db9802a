"""How long a run takes: in all, for a step, and until it is done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from finetrainers.runs.folder import RunFolder

RECENT_STEPS = 50
"""Of which the time of a step is the middle."""


def middle(seconds: Sequence[float]) -> float | None:
    """Time of a step, by those of one start in their order: the median of the last 50; None where none is known.

    The first, which compiles and waits for the first batch, counts only as long as there is no other.
    """
    known = [own for own in seconds if math.isfinite(own)]
    return float(np.median(known[1:][-RECENT_STEPS:] or known)) if known else None


def seconds_of_step(run: RunFolder) -> float | None:
    """Seconds of a step and its wait for data, in the last start that took any; None where none is known."""
    steps = run.columns.steps()
    begins = [begin for begin in _resumed(run) if len(steps) and begin < steps[-1]]
    return middle(_seconds_after(run, begins[-1] if begins else 0))


def seconds_left(run: RunFolder, step: int) -> float | None:
    """Seconds of the steps after ``step``, by those of this start; None where there are none, or nothing is known."""
    left, pace = run.steps - step, middle(_seconds_after(run, [0, *_resumed(run)][-1]))
    return None if pace is None or left <= 0 else left * pace


def _resumed(run: RunFolder) -> list[int]:
    """Steps that the starts of a run began from."""
    return [int(event.get("resumed_from") or 0) for event in run.of_kind("run")]


def _seconds_after(run: RunFolder, step: int) -> list[float]:
    """Seconds of the steps after one, each with its wait for data."""
    columns = run.columns
    first = int(np.searchsorted(columns.steps(), step, side="right"))
    seconds: list[float] = (columns.column("step_seconds") + columns.column("data_seconds"))[first:].tolist()
    return seconds


def total_seconds(run: RunFolder) -> float | None:
    """Seconds of all starts of the run, each from the beginning of its planning; None where it has not begun."""
    starts, times = _starts(run), np.sort(np.array(run.times))
    if not starts:
        return None
    total = 0.0
    for start, after in pairwise([*starts, _Start(math.inf)]):
        first, stop = np.searchsorted(times, (start.begin, after.begin))
        last = start.over if start.over < math.inf else float(times[first:stop].max(initial=start.begin))
        total += max(0.0, last - start.begin)
    return total


@dataclass(slots=True)
class _Start:
    """When a start began, and when it said that it was over, in seconds since 1970 UTC."""

    begin: float
    over: float = math.inf
    has_run: bool = False


def _starts(run: RunFolder) -> list[_Start]:
    """Find the starts of a run: each plans, and then says ``run``; one that failed to plan is left out."""
    found: list[_Start] = []
    for event in run.kept:
        time, own = float(event["time"]), found[-1] if found else None
        is_over = own is not None and own.over < math.inf
        if event["event"] == "stage" and event["stage"] == "planning":
            begin = time - float(event["seconds"])
            found.append(_Start(max(begin, own.over) if own is not None and is_over else begin))
        elif event["event"] == "run" and (own is None or own.has_run or is_over):
            found.append(_Start(time, has_run=True))
        elif own is not None and not is_over:
            own.has_run = own.has_run or event["event"] == "run"
            own.over = time if event["event"] in {"end", "error"} else own.over
    return found

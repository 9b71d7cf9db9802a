"""How a run stands, from the lock of its directory and the end of its events."""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetrainers.runs.inside import inside
from finetrainers.runs.log import Event, read_back

State = Literal["new", "running", "stopped", "done", "failed"]
"""``new``: nothing was trained yet; ``stopped``: by a signal, or killed: the same command goes on."""
LOCK_FILE = ".lock"
SAYS_NOTHING = frozenset({"warning", "attention"})
"""Events that do not say how a run stands."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands."""

    state: State
    step: int
    """Optimizer steps taken, as far as events tell."""
    message: str
    """Why it is not running, if it failed, or stopped before its last step."""
    time: float | None
    """Of the last event, seconds since 1970 UTC."""
    last: Event | None
    """The last step event."""


def is_held(root: Path) -> bool:
    """Whether a process has the run directory."""
    return is_locked(inside(root, LOCK_FILE))


def is_locked(file: Path) -> bool:
    """Whether a process, of whatever host, holds a lock; where there are no locks nobody knows, and it is taken for free.

    A start that comes at the same moment waits longer than this looks.
    """
    try:
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of as the file closes
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def standing(root: Path, *, is_over: bool = False) -> Standing:
    """Read how a run stands, from the end of its events alone; its own process, which still has it, may say it is over."""
    last: Event | None = None
    step: Event | None = None
    time: float | None = None
    taken, has_begun = 0, False
    for event in read_back(inside(root, "events.jsonl")):
        time = event.get("time") if time is None else time
        last = event if last is None and event["event"] not in SAYS_NOTHING else last
        taken = max(taken, int(event.get("step") or event.get("resumed_from") or 0))
        step = event if event["event"] == "step" else None
        has_begun = event["event"] in {"step", "run"}
        if has_begun:
            break
    ended, message = _ended(last, has_begun=has_begun)
    state: State = "running" if not is_over and is_held(root) else ended
    message = "" if state == "running" else message
    return Standing(state, taken, message, time, step)


def _ended(last: Event | None, *, has_begun: bool) -> tuple[State, str]:
    """Say how a run stands that no process has."""
    told = {} if last is None else last
    match told:
        case {"event": "error"}:
            return "failed", str(told.get("message", ""))
        case {"event": "end", "status": "done", "weights": str()}:
            return "done", "early stop" if told.get("reason") == "early_stop" else ""
        case {"event": "end", "status": "done"}:  # of encode
            return ("stopped" if has_begun else "new"), ""
        case {"event": "end"}:
            return "stopped", str(told.get("message", ""))
        case {} if not told:
            return "new", ""
        case _:
            return "stopped", "it ended without a word: killed, or the machine went down"

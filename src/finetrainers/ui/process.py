"""Processes of other servers and of earlier ones: known by number and start time, since numbers are given again."""

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from finetrainers.distributed.started import start_time
from finetrainers.files.whole import write_whole


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a host."""

    pid: int
    started: str
    """When, as the system says it; tells it from another process that has the number later."""
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it is one of this host's."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it is one of this host's, and still runs."""
        return self.is_here and start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal if it still runs; return whether it was sent."""
        if not self.is_alive:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def save(self, file: Path) -> None:
        """Write it down, for servers that come later."""
        write_whole(file, json.dumps(asdict(self)) + "\n")


def this_process() -> Process:
    """Tell what the process that asks is."""
    return Process(os.getpid(), start_time(os.getpid()) or "", socket.gethostname())


def read_process(file: Path) -> Process | None:
    """Read what ``save`` wrote; None if there is nothing."""
    try:
        return Process(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def start_apart(command: Sequence[str], *, output: Path, errors: Path, environment: Mapping[str, str]) -> Process:
    """Start a process that outlives this one, in a session of its own: no terminal and no Ctrl-C of ours reaches it.

    What it prints is added to the files ``output`` and ``errors``.
    """
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), appending, 0o666),
        (os.POSIX_SPAWN_OPEN, 2, str(errors), appending, 0o666),
    ]
    pid = os.posix_spawn(command[0], list(command), environment, file_actions=actions, setsid=True)
    return Process(pid, start_time(pid) or "", socket.gethostname())


def has_ended(child: Process) -> bool:
    """Whether a child of this process has ended; takes note of it, so that the system can forget it."""
    try:
        return os.waitpid(child.pid, os.WNOHANG)[0] != 0
    except ChildProcessError:  # another thread has taken note
        return True

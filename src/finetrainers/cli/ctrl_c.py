"""Ctrl-C for the processes that ``launch`` has started: each is in a session of its own, where no terminal reaches it."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing import SignalException

from finetrainers.distributed.ending import processes

KILLED = "Ctrl-C for the third time: the processes are killed"


class CtrlC:
    """Handler of SIGINT: the first lets all save and stop, the second stops them at once, and the third kills them."""

    def __init__(self, folder: Path) -> None:
        """Take the folder where the processes leave their numbers."""
        self._folder, self._times = folder, 0

    @property
    def has_killed(self) -> bool:
        """Whether the processes were killed."""
        return self._times > 2

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Pass it on.

        Raises:
            SignalException: The first time, as torchrun's own handler does: it passes the signal on, and waits. Not if it
                waits for what another signal has stopped: it would ask once more by SIGTERM, whatever is raised.
        """
        self._times += 1
        if self._times == 1 and not isinstance(sys.exception(), SignalException):
            raise SignalException("Ctrl-C", sigval=signal.Signals(number))
        if self._times == 3:
            with suppress(OSError):
                os.write(2, f"\nfinetrainers: {KILLED}\n".encode())
        for process in processes(self._folder):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL if self._times > 2 else signal.SIGINT)

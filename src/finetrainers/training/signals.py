"""Signals that ask a run to stop, or to save."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from finetrainers.distributed.ending import is_first_to_say
from finetrainers.errors import Interrupted, StoppedAtOnceError

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""Signals that stop a run: of job managers, which send SIGUSR1 before the time is up, of a terminal that is closed, and of
Ctrl-C."""
SAVING = signal.SIGUSR2
"""Signal that lets a run save and go on."""


STOPPING_SOON = "saving and stopping; Ctrl-C again stops at once"


class StopSignals:
    """Turns signals and Ctrl-C into a request to save and stop, which the run looks at where it can."""

    def __init__(self, *, kept: str, at_once: str | None = None, tell: Callable[[str], None] = lambda _: None) -> None:
        """Say what stays if a second Ctrl-C stops at once, and, where nothing has to be finished or saved, what is done.

        ``tell`` tells the other processes of a run of a signal, and waits for nothing.
        """
        self.received: str | None = None
        self.is_asked_to_save = False
        """Whether SAVING has come; who saves sets it back."""
        self.kept = kept
        self._at_once = at_once
        self._num_interrupts = 0
        self._tell = tell
        self._is_put_off = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen while the body runs; only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Whoever ignores a signal, as nohup and shells in the background do, has a reason.
        numbers = [number for number in (*STOPPING, SAVING) if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_if_received(self, doing: str) -> None:
        """Stop here if a signal has come.

        Raises:
            Interrupted: Which becomes exit status 3.
        """
        if self.received is not None and not self._is_put_off:
            self.stop(doing)

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Stop later: other processes are in the middle of a step, after which all stop together."""
        self._is_put_off = True
        try:
            yield
        finally:
            self._is_put_off = False

    def stop(self, doing: str) -> NoReturn:
        """Stop here, since a signal has come to this process or to another one of the run.

        Raises:
            Interrupted: Which becomes exit status 3.
        """
        received = "a signal to another process" if self.received is None else self.received
        raise Interrupted(f"stopped by {received} while {doing}; start the same command again to continue")

    def receive_from_another(self, name: str) -> None:
        """Stop as if a signal had come here: another process of the run has received it."""
        if self.received is None:
            self.received = name

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == SAVING:
            self.is_asked_to_save = True
            return
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:
            raise StoppedAtOnceError(f"stopped; {self.kept}")
        self.received = signal.Signals(number).name + (" (Ctrl-C)" if number == signal.SIGINT else "")
        self._tell(self.received)
        if self._at_once is not None:
            self.raise_if_received(self._at_once)
        if number == signal.SIGINT and is_first_to_say(STOPPING_SOON):
            with suppress(OSError):  # not print: the signal may have come in the middle of one
                os.write(2, f"\nfinetrainers: {STOPPING_SOON}\n".encode())

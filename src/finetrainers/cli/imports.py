"""How a command imports what it needs: a start is made of little else."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from finetrainers.distributed.ending import Program, end_process
from finetrainers.errors import STOPPED_AT_ONCE

STARTING = "starting: loading torch and diffusers"
"""What a terminal shows for the seconds that this takes."""
ECHO = "^C"
"""What it adds when Ctrl-C is pressed."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no garbage be looked for in what the body imports: not meanwhile, nor later, nor when the process ends.

    Libraries make half a million objects that stay, and none that go: looking at them again and again is a third of the
    seconds that a start takes. In a process that is not ours alone nothing is changed.
    """
    if not Program.is_ours or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with _left_at_once(), _starting():
            yield
    finally:
        gc.freeze()
        gc.enable()


def quiet_libraries() -> None:
    """Keep log lines and progress bars of the libraries below from drowning our own; the environment can ask for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # which warns of each of six tries where the Hub cannot be reached
    from finetrainers.compat.packages import import_quietly

    import_quietly("diffusers.quantizers")  # the first of diffusers that imports torchao and bitsandbytes, if they are there
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()


@contextmanager
def _left_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process: in the middle of an import libraries make other errors of the exception, or drop it."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"\n")
    end_process(STOPPED_AT_ONCE, "stopped")


@contextmanager
def _starting() -> Iterator[None]:
    """Show in a terminal that the program is starting, until it has."""
    is_shown = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    if is_shown:
        _over(STARTING)
    try:
        yield
    finally:
        if is_shown:
            _over("")


def _over(text: str) -> None:
    with suppress(OSError):  # the terminal is closed: whoever writes next says so
        sys.stderr.write(f"\r{' ' * (len(STARTING) + len(ECHO))}\r{text}")
        sys.stderr.flush()

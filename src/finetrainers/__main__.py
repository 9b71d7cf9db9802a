"""The program: ``finetrainers``, and ``python -m finetrainers``, so that launchers can start it."""

import os
import signal
from types import FrameType
from typing import NoReturn

STOPPED_AT_ONCE = 130  # as in errors, which is not imported before Ctrl-C is heard


def start() -> NoReturn:
    """Run the command of this process, which Ctrl-C ends without a traceback from the first import on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from finetrainers.cli.entry import run_program

    run_program()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """End the process: nothing is begun yet, and an exception in an import becomes another one."""
    os.write(2, b"\nfinetrainers: stopped\n")
    os._exit(STOPPED_AT_ONCE)


if __name__ == "__main__":
    start()

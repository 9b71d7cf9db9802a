"""The command line: runs one command, and says how it ended."""

import argparse
import os
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from finetrainers.cli.commands import build_parser
from finetrainers.cli.status import DONE, INTERNAL_ERROR, INTERRUPTED, STOPPED_AT_ONCE
from finetrainers.cli.unknown import refuse_unknown
from finetrainers.distributed.ending import Program, is_first_to_say, record_process, record_status
from finetrainers.distributed.launch import is_one_of_several
from finetrainers.errors import FinetrainersError, Interrupted
from finetrainers.files.storage import storage_errors
from finetrainers.training.console.bar import columns, is_terminal

LEAST_COLUMNS = 40
"""Of a terminal whose lines are folded."""
PACKAGE = Path(__file__).parents[1]
TAKE_OVERRIDES = frozenset({"train", "encode", "bench", "plan", "check", "launch", "data", "rehearse"})
"""Commands whose words after the first are taken apart where they run, not by argparse."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    status = INTERNAL_ERROR
    try:
        status = _main(arguments)
        return status
    finally:
        record_status(status)
        _give_up_closed_stderr()


def run_program() -> NoReturn:
    """Run the command of this process, and end it.

    One of several processes that failed ends at once: libraries would wait for processes that are gone, and a launcher
    that sees one end kills the others before they have said why.
    """
    Program.is_ours = True
    record_process()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    warnings.formatwarning = format_warning
    try:
        status = main()
    except Exception:
        if not is_one_of_several(os.environ):
            raise
        traceback.print_exc()
        status = INTERNAL_ERROR
    if status and is_one_of_several(os.environ):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(status)
    raise SystemExit(status)


_format_of_python = warnings.formatwarning


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Say a warning of this package as runs do, without the place in its code; one of a library as Python does."""
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        return folded(f"warning: {message}") + "\n"
    return _format_of_python(message, category, filename, lineno, line)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop at Ctrl-C, and remember it: an exception in the middle of an import becomes another one."""
    Program.is_interrupted = True
    raise KeyboardInterrupt


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    num_own = 2 if words[:1] == ["data"] else 1  # the command, and the action of one that has several
    parser = build_parser()
    try:
        refuse_unknown(words, parser.commands)
        takes_overrides = words[:1] and words[0] in TAKE_OVERRIDES
        options, left = parser.parse_known_args(words[:num_own] if takes_overrides else words)
        parser.refuse_left(words, left)
        return _run(options, words[num_own:])
    except KeyboardInterrupt as stop:
        _tell(str(stop) or "stopped")
        return STOPPED_AT_ONCE
    except Interrupted as stop:
        _tell(str(stop))
        return INTERRUPTED
    except FinetrainersError as error:
        _tell(str(error))
        _drop_output_that_nobody_takes()
        return error.status
    except BrokenPipeError:  # whoever reads our output, such as `head`, has seen enough: no traceback
        _drop_output_that_nobody_takes()
        return INTERNAL_ERROR
    except Exception:
        if not Program.is_interrupted:
            raise
        _tell("stopped")
        return STOPPED_AT_ONCE


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from finetrainers.config.user_code import user_code_errors  # after help, which needs no configuration

    with storage_errors(), user_code_errors():
        status = int(options.run(options, overrides) or DONE)
        if sys.stdout is not None:  # as it is where it was closed before we began
            sys.stdout.flush()
        return status


def _drop_output_that_nobody_takes() -> None:
    """Keep Python from failing once more at its end, where it writes what is left for a full disk or a closed pipe."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(message: str) -> None:
    """Say how a command ended; nobody may be there to read it."""
    with suppress(OSError):
        if is_first_to_say(message):
            print(folded(f"finetrainers: {message}"), file=sys.stderr, flush=True)


def folded(message: str) -> str:
    """Break lines that a terminal has no room for between words, and indent what goes on; elsewhere they stay whole."""
    width = columns(unknown=0) - 1
    if not is_terminal() or width < LEAST_COLUMNS:
        return message
    return "\n".join(_fold(line, width) if len(line) > width else line for line in message.split("\n"))


def _fold(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _give_up_closed_stderr() -> None:
    """Drop what could not be written to a closed terminal: Python would try again at its exit, and change the status."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    run_program()

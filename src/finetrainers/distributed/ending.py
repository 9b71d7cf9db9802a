"""How a process of several ends: at once if it must, and with its status left for who started them all."""

import hashlib
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from finetrainers.distributed.launch import read_launch
from finetrainers.distributed.started import start_time
from finetrainers.errors import INTERRUPTED, STOPPED_AT_ONCE, USER_ERROR, ConfigError
from finetrainers.files.whole import write_whole

STATUS_FOLDER = "FINETRAINERS_STATUS_FOLDER"
"""Environment variable with the folder where processes leave their exit status: torchrun passes none on."""
PROCESS, SAID = "process.", "said."
"""Beginnings of the names of other files there: of processes that have begun, and of what one of them has said."""
SAID_BY_EACH = "FINETRAINERS_SAID_BY_EACH"
"""Environment variable, set where who reads one process may not read the others: each says all then."""
FOR_GOOD = (USER_ERROR, INTERRUPTED, STOPPED_AT_ONCE)
"""After which the same command, started once more, would only do the same, or not what was asked for."""


def record_status(status: int) -> None:
    """Leave the exit status of this process where it is asked for."""
    folder = os.environ.get(STATUS_FOLDER)
    with suppress(OSError, ConfigError):
        if folder:
            launch = read_launch(os.environ)
            (Path(folder) / f"{launch.attempt}-{launch.rank}").write_text(str(status))


def statuses(folder: Path, attempt: int) -> list[int]:
    """Exit status of each process of this host that could leave one when the run was started for this time."""
    return [int(file.read_text() or 1) for file in sorted(folder.glob(f"{attempt}-*"))]


def record_process() -> None:
    """Leave the number of this process where it is asked for, and when it began."""
    folder = os.environ.get(STATUS_FOLDER)
    with suppress(OSError):
        if folder:
            write_whole(Path(folder) / f"{PROCESS}{os.getpid()}", start_time(os.getpid()) or "")


def processes(folder: Path) -> list[int]:
    """Numbers of the processes of this host that have begun and are not over, though they may have left a status."""
    begun = {int(file.name.removeprefix(PROCESS)): file.read_text() for file in folder.glob(f"{PROCESS}*")}
    return [number for number, began in begun.items() if start_time(number) == began]


def is_first_to_say(message: str) -> bool:
    """Whether this process says it: what stops or fails all is said by the first of a launcher's, once each start."""
    folder = os.environ.get(STATUS_FOLDER)
    if not folder or os.environ.get(SAID_BY_EACH):
        return True
    said = hashlib.blake2b(message.encode(errors="replace"), digest_size=8).hexdigest()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        (Path(folder) / f"{SAID}{attempt}.{said}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass  # whoever looked is not there any more, or the disk is full
    return True


def ended_for_good(environ: Mapping[str, str]) -> int | None:
    """Exit status of a run that torchrun starts once more in vain; None if it may succeed this time, or is a first start."""
    folder, launch = environ.get(STATUS_FOLDER), read_launch(environ)
    if not folder or not launch.attempt:
        return None
    before = statuses(Path(folder), launch.attempt - 1)
    # One that was killed leaves none, and then the others leave an error of ours.
    return max(before) if before and all(status in FOR_GOOD for status in before) else None


class Program:
    """What this process is."""

    is_ours = False
    """Whether it runs a command of this package, and ends with it."""
    is_interrupted = False
    """Whether Ctrl-C was pressed where nothing else listens to it: libraries turn the exception into others of their own."""


def end_undisturbed() -> None:
    """Let a command that failed say why: its launcher asks it to end as soon as it sees that another process has."""
    if Program.is_ours:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_process(status: int, message: str) -> NoReturn:
    """Say why, and end this process whatever its threads are in."""
    record_status(status)
    with suppress(OSError):
        os.write(2, f"finetrainers: {message}\n".encode())
    os._exit(status)

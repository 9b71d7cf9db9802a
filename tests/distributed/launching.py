"""``finetrainers launch``, or torchrun itself, all of whose processes are forked from one that has imported everything.

It is torchrun's own agent that starts, watches, stops and restarts them; only their interpreters are not started anew, which
takes each of them seven seconds of a processor.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import ranks

NUMBERS = "FOLDER_OF_NUMBERS"
"""Environment variable with the folder where each process leaves its number in a file that is named as its rank."""
NAMESPACES = "NAMESPACES_OF"
"""Environment variable with the process whose network the launcher is to be in."""
TORCHRUN = "torchrun"
"""Word before those of torchrun itself; without it, they are those of ``finetrainers launch``."""
PROGRAM = ["-u", "-m", "finetrainers"]
ENDED_SECONDS = 900.0


class Forked:
    """What torchrun takes for a process that ``subprocess.Popen`` has started."""

    def __init__(self, args: tuple[str, ...], env: Mapping[str, str], **options: object) -> None:
        assert list(args[1:4]) == PROGRAM, args
        assert options == {"stdout": None, "stderr": None, "start_new_session": True}, options
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(list(args[4:]), env)

    def poll(self) -> int | None:
        """Exit status, minus the number of the signal that killed it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: As torchrun waits for.
        """
        until = time.monotonic() + timeout
        while (found := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(PROGRAM, timeout)
            time.sleep(0.02)
        return found


def _become(words: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Go on as a process that has just begun with these words."""
    status = 1
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if callable(signal.getsignal(number)):  # which a new program would not have
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environ)
        file = Path(environ[NUMBERS]) / environ["RANK"]
        file.with_suffix(".new").write_text(str(os.getpid()))
        file.with_suffix(".new").rename(file)
        sys.argv = ["finetrainers", *words]
        from finetrainers.cli.entry import run_program

        run_program()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - as Python itself does
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@contextmanager
def forked_workers(folder: Path) -> Iterator[None]:
    """Let torchrun fork its processes from this one while the body runs."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    folder.mkdir(exist_ok=True)
    os.environ[NUMBERS] = str(folder)
    true_popen: Any = subprocess_handler.Popen
    subprocess_handler.Popen = Forked  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        subprocess_handler.Popen = true_popen  # type: ignore[misc]


def launch(words: tuple[str, ...], folder: Path, change: Callable[[], None] | None = None) -> int:
    """The command itself, in a process that ``ranks`` has forked; what ``change`` changes holds for all its processes."""
    for name in [*os.environ]:
        if name.startswith("FINETRAINERS_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    if NAMESPACES in os.environ:
        enter_namespaces(int(os.environ[NAMESPACES]))
    if change is not None:
        change()
    with forked_workers(folder):
        if words[0] != TORCHRUN:
            return ranks.command("launch", *words)
        from torch.distributed.run import main

        main(list(words[1:]))
        return 0


def enter_namespaces(process: int) -> None:
    """Be the user, and in the network, of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name in ("user", "net"):
        file = Path(f"/proc/{process}/ns/{name}")
        if file.readlink() == Path(f"/proc/self/ns/{name}").readlink():
            continue
        with file.open() as namespace:
            if libc.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"namespace {name}")


class ForkedLaunch:
    """A launcher with its processes, and what they say."""

    begun: ClassVar[list["ForkedLaunch"]] = []
    """Which the test ends, however it does."""

    def __init__(self, *words: str, folder: Path, change: Callable[[], None] | None = None, **environ: str) -> None:
        folder.mkdir(exist_ok=True)
        self._numbers, self._said = folder / "numbers", folder / "launcher"
        self._ranks = ranks.start(
            launch, 1, words, self._numbers, change, folder=self._said, environ=environ, has_children=True
        )
        self.pid = self._ranks.processes[0].pid or 0
        self.begun.append(self)

    def wait(self) -> int:
        """Exit status of the command."""
        (ended,) = self._ranks.wait(ENDED_SECONDS)
        return int(ended.result if ended.status == 0 else ended.status)

    @property
    def said(self) -> str:
        """What all of them have written."""
        return (self._said / "0.txt").read_text(errors="replace")

    def worker(self, rank: int) -> int:
        """Number of the process of this rank that began last."""
        return int((self._numbers / str(rank)).read_text())

    def kill(self) -> None:
        """Let nothing of it be left."""
        launcher = self._ranks.processes[0]
        if launcher.is_alive():
            launcher.kill()
        for file in self._numbers.glob("[0-9]*"):
            with suppress(ProcessLookupError, ValueError):
                if _is_ours(int(file.read_text())):
                    os.kill(int(file.read_text()), signal.SIGKILL)
        launcher.join()


def _is_ours(process: int) -> bool:
    """Whether it is a fork of ours, and no later process of the same number."""
    with suppress(OSError):
        return b"forkserver" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False

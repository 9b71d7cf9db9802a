"""Ctrl-C in a terminal in which ``launch`` has started several processes."""

import os
import pty
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from launching import forked_workers
from runs import Tree, config_of, flux_tree, merged, write_pictures

from finetrainers import train
from finetrainers.cli.ctrl_c import KILLED
from finetrainers.cli.entry import main
from finetrainers.cli.launch import HEARD, _run
from finetrainers.cli.status import INTERNAL_ERROR, INTERRUPTED, STOPPED_AT_ONCE
from finetrainers.config import dump_config
from finetrainers.distributed.ending import SAID_BY_EACH, STATUS_FOLDER, is_first_to_say, processes, record_process
from finetrainers.distributed.started import start_time
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.signals import STOPPING_SOON

SECONDS = 300.0
"""In which what takes seconds has happened, also where others use the machine."""
STOPPED = "stopped by SIGINT (Ctrl-C) while training; start the same command again to continue"
WORKER = """
import atexit, os, signal, sys, time
from pathlib import Path
from finetrainers.cli import commands, entry
from finetrainers.training.signals import StopSignals

kind, place = sys.argv[-2:]

def work(*_):
    signals = StopSignals(kept="all is kept")
    with signals.installed():
        if kind == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if kind == "notes":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, noting(number, signal.getsignal(number)))
        if kind == "over":
            atexit.register(hang)
            return
        (Path(place) / f"worker-{os.getpid()}").touch()
        while True:
            time.sleep(0.02)
            if kind == "saves":
                signals.raise_if_received("training")

def noting(number, then):
    def note(*given):
        (Path(place) / f"{signal.Signals(number).name}-{os.getpid()}").touch()
        then(*given)
    return note

def hang():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (Path(place) / f"worker-{os.getpid()}").touch()
    while True:
        time.sleep(60)

commands.run_config_command = work
sys.argv[1:] = ["train"]
entry.run_program()
"""
"""A process that does nothing of a run but to listen: it ends once it is asked to, only when it has to, or not
at all; or it hangs at its end."""


class Terminal:
    """A child that is forked from here, where everything is imported, on a terminal of its own."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.pid, self._terminal = pty.fork()
        self.text = ""
        if self.pid == 0:
            status = INTERNAL_ERROR
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                status = work()
            finally:
                os._exit(status)
        os.set_blocking(self._terminal, False)

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < deadline, self.text
            self.read()
            time.sleep(0.02)

    def read(self) -> None:
        with suppress(OSError):  # nothing to read now, or it is over
            while part := os.read(self._terminal, 1 << 16):
                self.text += part.decode().replace("\r\n", "\n")

    def wait(self) -> int:
        ended: list[int] = []

        def is_over() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            ended.extend([status] if pid else [])
            return bool(ended)

        self.until(is_over)
        self.read()
        return os.waitstatus_to_exitcode(ended[0])


def is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """Numbers of the processes that have begun; those that a failed test leaves are killed."""

    def begun() -> list[int]:
        return [int(file.name.removeprefix("worker-")) for file in tmp_path.glob("worker-*")]

    yield begun
    for process in begun():
        if is_alive(process):
            os.kill(process, signal.SIGKILL)


def launched(kind: str, folder: Path, workers: Callable[[], list[int]]) -> Terminal:
    """A terminal in which two processes of a kind have begun."""
    (folder / "worker.py").write_text(WORKER)
    status = folder / "status"
    status.mkdir()

    def launch() -> int:
        os.environ[STATUS_FOLDER] = str(status)
        words = ("--standalone", "--shutdown-timeout", "300", "--signals-to-handle", HEARD, "--nproc-per-node", "2")
        return _run([*words, str(folder / "worker.py"), kind, str(folder)], status)

    terminal = Terminal(launch)
    terminal.until(lambda: len(workers()) == 2)
    return terminal


@pytest.mark.parametrize(
    "kind, said, status",
    [
        pytest.param("saves", [STOPPED], INTERRUPTED, marks=pytest.mark.distributed),
        pytest.param("goes on", [STOPPING_SOON, "stopped; all is kept"], STOPPED_AT_ONCE),
        pytest.param("deaf", [KILLED], STOPPED_AT_ONCE, marks=pytest.mark.distributed),
        pytest.param("over", [KILLED], STOPPED_AT_ONCE, marks=pytest.mark.distributed),
    ],
    ids=["once", "twice", "three times", "three times at the end"],
)
def test_each_ctrl_c_reaches_all_processes_and_is_answered_once(
    kind: str, said: list[str], status: int, tmp_path: Path, workers: Callable[[], list[int]]
) -> None:
    """Once saves, twice stops at once, and three times kills what does not listen; no process is left."""
    terminal = launched(kind, tmp_path, workers)
    for _ in range({"saves": 1, "goes on": 2}.get(kind, 3)):
        before = terminal.text.count("^C")
        terminal.press_ctrl_c()
        terminal.until(lambda before=before: terminal.text.count("^C") > before)
        if kind == "goes on":
            terminal.until(lambda: STOPPING_SOON in terminal.text)
        time.sleep(0.2 if kind in ("deaf", "over") else 0)  # signals that are not heard yet become one
    assert terminal.wait() == status, terminal.text
    assert not [process for process in workers() if is_alive(process)]
    lines = [line.strip("^C") for line in terminal.text.splitlines() if line.strip("^C")]
    assert [line.removeprefix("finetrainers: ") for line in lines if line.removeprefix("finetrainers: ") in said] == said
    assert set(lines) <= {f"finetrainers: {line}" for line in (*said, STOPPING_SOON)}, terminal.text
    assert len(lines) == len(set(lines)), terminal.text


@pytest.mark.distributed
def test_ctrl_c_after_another_signal_is_counted_as_by_one_process(tmp_path: Path, workers: Callable[[], list[int]]) -> None:
    """What a batch system has asked for goes on at the first, and ends at the second, of which no process is killed."""
    terminal = launched("notes", tmp_path, workers)
    os.kill(terminal.pid, signal.SIGUSR1)
    terminal.until(lambda: len(list(tmp_path.glob("SIGUSR1-*"))) == 2)
    terminal.press_ctrl_c()
    terminal.until(lambda: len(list(tmp_path.glob("SIGINT-*"))) == 2)
    assert not list(tmp_path.glob("SIGTERM-*"))
    terminal.press_ctrl_c()
    assert terminal.wait() == STOPPED_AT_ONCE, terminal.text
    assert KILLED not in terminal.text
    assert not [process for process in workers() if is_alive(process)]


def test_a_process_that_has_the_number_of_one_that_died_is_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATUS_FOLDER, str(tmp_path))
    record_process()
    assert processes(tmp_path) == [os.getpid()]
    (file,) = tmp_path.iterdir()
    file.write_text(start_time(1) or "")
    assert processes(tmp_path) == []


@pytest.mark.parametrize("more", [["--local-ranks-filter", "1"], ["--tee=0:3"], ["-r", "3", "--log-dir", "logs"], []])
def test_processes_whose_output_goes_to_several_places_say_all(
    more: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With torchrun's options for it, who reads one may not read the one that would have said it."""
    said: list[bool] = []

    def run(arguments: list[str], _: Path) -> int:
        assert set(more) <= set(arguments)
        said.extend(is_first_to_say("stopped") for _ in range(2))
        return 0

    monkeypatch.setattr("finetrainers.cli.launch._run", run)
    monkeypatch.setattr("finetrainers.cli.launch._check", lambda *_: None)
    for name in (STATUS_FOLDER, SAID_BY_EACH):
        monkeypatch.setenv(name, "")  # and as it is now at the end
    assert main(["launch", "--cpu", "2", "config.yaml", "--", *more]) == 0
    assert said == [True, bool(more)]


@pytest.mark.distributed
def test_ctrl_c_in_a_launched_run_saves_and_is_told_once(tiny_flux: Path, tmp_path: Path) -> None:
    sizes = {"batch_size": 4, "micro_batch_size": 2}
    tree: Tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path, train=sizes)
    tree = merged(tree, {"output_dir": str(tmp_path / "run")})
    train(config_of(merged(tree, {"train": {"steps": 1}})))
    file, events = tmp_path / "config.yaml", tmp_path / "run" / "events.jsonl"
    file.write_text(dump_config(config_of(merged(tree, {"train": {"steps": 5000}}))))

    def launch() -> int:
        with forked_workers(tmp_path / "numbers"):
            return main(["launch", "--cpu", "2", str(file)])

    terminal = Terminal(launch)
    terminal.until(lambda: events.read_text().count('"event": "step"') >= 4)
    terminal.press_ctrl_c()
    assert terminal.wait() == INTERRUPTED, terminal.text
    step = Checkpoints(tmp_path / "run" / "checkpoints", keep=1).find("latest")
    assert step is not None
    assert step >= 4
    told = [line for line in terminal.text.splitlines() if line.startswith("finetrainers: ")]
    stopped = f"stopped by SIGINT (Ctrl-C) while training, after step {step}; start the same command again to continue"
    assert told == [f"finetrainers: {STOPPING_SOON}", f"finetrainers: {stopped}"]
    assert not [word for word in ("Traceback", "death signal", "Sending process") if word in terminal.text]

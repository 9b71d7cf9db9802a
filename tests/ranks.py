"""Runs of several processes, forked from one that has imported everything: a process costs a tenth of a second."""

import io
import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

PRELOADED = ["imported_by_ranks"]
TIME_LIMIT = 180.0
"""Seconds after which processes are taken to wait for each other."""


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    status: int
    """Exit status; minus the number of the signal that killed it."""
    result: Any
    """What the function returned; None if it raised."""
    said: str
    """What it wrote to standard output and standard error, and its traceback."""


@dataclass(frozen=True)
class Ranks:
    """Processes that run."""

    processes: Sequence[BaseProcess]
    folder: Path

    def wait(self, limit: float = TIME_LIMIT) -> list[Ended]:
        """Wait for the end of all; those that are not done in time are killed, and an error tells of it."""
        until = time.monotonic() + limit
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in late:
            self.processes[rank].kill()
            self.processes[rank].join()
        ended = [self._ended(rank) for rank in range(len(self.processes))]
        assert not late, f"processes {late} did not end in {limit} s:\n" + "\n".join(each.said for each in ended)
        return ended

    def _ended(self, rank: int) -> Ended:
        result = self.folder / f"{rank}.pickle"
        said = self.folder / f"{rank}.txt"
        return Ended(
            status=self.processes[rank].exitcode or 0,
            result=pickle.loads(result.read_bytes()) if result.exists() else None,
            said=said.read_text(errors="replace") if said.exists() else "",
        )


def start(
    function: Callable[..., Any],
    count: int,
    *args: Any,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    has_children: bool = False,
) -> Ranks:
    """Let ``count`` processes call a function of a module, each with the variables that torchrun would set.

    With ``has_children`` they may start processes of their own, such as loader workers: a daemon may not.
    """
    folder.mkdir(parents=True)
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = []
    for rank in range(count):
        own = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank, **(environ or {})}.items()}
        process = context().Process(target=_run, args=(function, args, own, folder, rank), daemon=not has_children)
        process.start()
        processes.append(process)
    return Ranks(processes, folder)


def results(function: Callable[..., Any], count: int, *args: Any, folder: Path, has_children: bool = False) -> list[Any]:
    """Return what ``count`` processes return; an error of any of them is one of the test."""
    ended = start(function, count, *args, folder=folder, has_children=has_children).wait()
    failed = [f"process {rank} ended with {each.status}:\n{each.said}" for rank, each in enumerate(ended) if each.status]
    assert not failed, "\n".join(failed)
    return [each.result for each in ended]


def command(*words: str) -> int:
    """The program itself; its status is what it returns."""
    from finetrainers.cli.entry import main

    return main(words)


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


@cache
def context() -> Any:
    """Where processes are forked from: one process for all tests, for no other would be started beside it."""
    own = multiprocessing.get_context("forkserver")
    own.set_forkserver_preload(PRELOADED)
    # It finds modules by the environment alone, and says nothing of those that it does not find.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        forkserver.ensure_running()
    return own


def _run(function: Callable[..., Any], args: Sequence[Any], environ: Mapping[str, str], folder: Path, rank: int) -> None:
    """In the child: what is written goes to a file, what is returned to another."""
    os.environ.update(environ)
    import torch

    torch.set_num_threads(1)
    out = (folder / f"{rank}.txt").open("w", buffering=1)
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    text: io.TextIOBase = out
    with redirect_stdout(text), redirect_stderr(text):  # type: ignore[type-var]
        try:
            result = function(*args)
        except BaseException:  # noqa: BLE001 - told, and the status says it
            traceback.print_exc()
            out.flush()
            os._exit(1)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    out.flush()
    os._exit(0)  # nothing that forked processes inherit is torn down twice

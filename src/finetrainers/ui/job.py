"""One start of a run, or of a command about one, as a folder of files: what is done, by which process, and how it ended."""

import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetrainers.errors import DONE, INTERRUPTED, STOPPED_AT_ONCE
from finetrainers.files.marks import SAVE_FILE as SAVE_FILE
from finetrainers.files.whole import write_whole
from finetrainers.runs.state import is_locked
from finetrainers.ui.process import Process, read_process, start_apart

State = Literal["queued", "cancelled", "running", "done", "stopped", "failed", "killed"]
ENDED: tuple[State, ...] = ("cancelled", "done", "stopped", "failed", "killed")
STATES: dict[int, State] = {DONE: "done", INTERRUPTED: "stopped", STOPPED_AT_ONCE: "stopped"}
"""State by exit status; any other has failed."""
JOB, PROCESS, EXIT, CONFIG = "job.json", "process.json", "exit.json", "config.yaml"
CANCELLED, STOPPING, HELD, DEVICE = "cancelled", "stopping", "held", "device"
FOLDER = "{job}"
"""Stands for the job's folder in its words and in its files."""
ALL_DEVICES, CPU = "all", "cpu"


@dataclass(frozen=True, slots=True)
class Job:
    """A command that was asked for."""

    folder: Path
    run: Path
    """output_dir of the run."""
    words: tuple[str, ...]
    """Command and arguments."""
    device: str | None
    """Device that was asked for, such as cuda:1, cpu or all; None for the first that is free."""
    cwd: Path
    """Folder that relative paths of the configuration begin at."""
    created: float

    @property
    def number(self) -> int:
        """Place in the queue; also the name of the folder."""
        return int(self.folder.name)

    @property
    def config(self) -> Path:
        """Configuration of the run."""
        return self.folder / CONFIG

    @property
    def output(self) -> Path:
        """What the process says while it works."""
        return self.folder / "output.log"

    @property
    def answer(self) -> Path:
        """What the process prints as its result."""
        return self.folder / "answer.txt"

    @property
    def process(self) -> Process | None:
        """The process that does it, once it is started."""
        return read_process(self.folder / PROCESS)

    @property
    def is_here(self) -> bool:
        """Whether a process of this host does it, or did."""
        process = self.process
        return process is not None and process.is_here

    @property
    def status(self) -> int | None:
        """Exit status, once it has ended; None if it was killed, too."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            return int(json.loads((self.folder / EXIT).read_text(encoding="utf-8"))["status"])
        return None

    @property
    def state(self) -> State:
        """What became of it, from its files alone."""
        process = self.process
        if process is None:
            return "cancelled" if (self.folder / CANCELLED).exists() else "queued"
        # of another host, which a container's new name is too, its lock tells
        is_alive = (
            process.is_alive if process.is_here else is_locked(self.folder / HELD)
        )  # first: what ends between two looks has left its status by the second
        status = self.status
        if status is not None:
            return STATES.get(status, "failed")
        if is_alive:
            return "running"
        return "stopped" if self.is_stopping else "killed"

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to save and stop."""
        return (self.folder / STOPPING).exists()

    @property
    def used_device(self) -> str | None:
        """Device that it was started on."""
        with suppress(FileNotFoundError):
            return (self.folder / DEVICE).read_text(encoding="utf-8").strip()
        return None

    def cancel(self) -> None:
        """Take it out of the queue; for the queue, which sees to it that nobody starts it meanwhile."""
        (self.folder / CANCELLED).touch()

    def stop(self) -> bool:
        """Ask its process to save and stop."""
        process = self.process
        if process is None or not process.is_here or self.state != "running":
            return False
        (self.folder / STOPPING).touch()
        return process.signal(signal.SIGTERM)

    def save_now(self) -> bool:
        """Ask the run to save and go on, by the file that it looks for after each step, on one device and on several."""
        if self.state != "running" or not self.run.is_dir():
            return False
        (self.run / SAVE_FILE).touch()
        return True

    def end(self, status: int) -> None:
        """Write down how it ended."""
        write_whole(self.folder / EXIT, json.dumps({"status": status, "time": time.time()}) + "\n")

    def write(self) -> None:
        """Write down what is to be done."""
        tree = {"version": 1, "created": self.created, "run": str(self.run), "cwd": str(self.cwd), "device": self.device}
        write_whole(self.folder / JOB, json.dumps({**tree, "words": self.words}) + "\n")


def read_job(folder: Path) -> Job:
    """Read what ``Job.write`` wrote."""
    tree: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    words = tuple(word.replace(FOLDER, str(folder)) for word in tree["words"])
    return Job(folder, Path(tree["run"]), words, tree["device"], Path(tree["cwd"]), tree["created"])


def make_job(place: Path, job: Job, files: Mapping[str, str]) -> Job:
    """Make the folder of a job, whole or not at all; its own ``folder`` is not looked at, and does not count.

    Raises:
        FileExistsError: If the folder is there.
    """
    temporary = place.with_name(f".{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        for name, text in files.items():
            (temporary / name).write_text(text.replace(FOLDER, str(place).replace("'", "''")), encoding="utf-8")
        replace(job, folder=temporary).write()
        if place.exists():
            raise FileExistsError(place)
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return read_job(place)


def start_job(job: Job, device: str, devices: Sequence[str] = ()) -> Process:
    """Start the process of a job on a device, or on all of several."""
    (job.folder / DEVICE).write_text(device, encoding="utf-8")
    command = [sys.executable, "-m", "finetrainers.cli.job", str(job.folder)]
    environment = environment_of(devices if device == ALL_DEVICES else [device])
    child = start_apart(command, output=job.answer, errors=job.output, environment=environment)
    child.save(job.folder / PROCESS)
    return child


def environment_of(devices: Sequence[str]) -> dict[str, str]:
    """Environment of a process that shall see these devices and no others."""
    gpus = ",".join(device.removeprefix("cuda:") for device in devices if device != CPU)
    return {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": gpus}

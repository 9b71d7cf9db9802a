"""One start of a run, as a folder of files: what is to be done, which process does it, and how it ended."""

import json
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetrainers.errors import DONE, INTERRUPTED, STOPPED_AT_ONCE
from finetrainers.files.whole import write_whole
from finetrainers.ui.process import Process, read_process

State = Literal["queued", "cancelled", "running", "done", "stopped", "failed", "killed"]
ENDED: tuple[State, ...] = ("cancelled", "done", "stopped", "failed", "killed")
STATES: dict[int, State] = {DONE: "done", INTERRUPTED: "stopped", STOPPED_AT_ONCE: "stopped"}
"""State by exit status; any other has failed."""
JOB, PROCESS, EXIT, CONFIG, OUTPUT = "job.json", "process.json", "exit.json", "config.yaml", "output.log"
CANCELLED, STOPPING, HELD = "cancelled", "stopping", "held"
ALL_DEVICES, CPU = "all", "cpu"


@dataclass(frozen=True, slots=True)
class Job:
    """A start of a run that was asked for."""

    folder: Path
    run: Path
    """output_dir of the run."""
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
        """What the process has written to its terminal."""
        return self.folder / OUTPUT

    @property
    def process(self) -> Process | None:
        """The process that does it, once it is started."""
        return read_process(self.folder / PROCESS)

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
        is_alive = process.is_alive  # first: what ends between two looks has left its status by the second
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
            return (self.folder / "device").read_text(encoding="utf-8").strip()
        return None

    def cancel(self) -> None:
        """Take it out of the queue; for the queue, which sees to it that nobody starts it meanwhile."""
        (self.folder / CANCELLED).touch()

    def stop(self) -> bool:
        """Ask its process to save and stop."""
        process = self.process
        if process is None or self.state != "running":
            return False
        (self.folder / STOPPING).touch()
        return process.signal(signal.SIGTERM)

    def save_now(self) -> bool:
        """Ask its process to save and go on; several processes have to be asked by themselves."""
        process = self.process
        if process is None or self.used_device == ALL_DEVICES or self.state != "running":
            return False
        return process.signal(signal.SIGUSR2)

    def end(self, status: int) -> None:
        """Write down how it ended."""
        write_whole(self.folder / EXIT, json.dumps({"status": status, "time": time.time()}) + "\n")

    def write(self) -> None:
        """Write down what is to be done."""
        tree = {"version": 1, "run": str(self.run), "device": self.device, "cwd": str(self.cwd), "created": self.created}
        write_whole(self.folder / JOB, json.dumps(tree) + "\n")


def read_job(folder: Path) -> Job:
    """Read what ``Job.write`` wrote."""
    tree: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return Job(folder, Path(tree["run"]), tree["device"], Path(tree["cwd"]), tree["created"])

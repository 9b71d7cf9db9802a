"""Runs that wait for a device, kept on the disk: any server of these folders starts them, one at a time per device."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from finetrainers.errors import ConfigError
from finetrainers.ui.job import ALL_DEVICES, CONFIG, CPU, ENDED, FOLDER, Job, make_job, read_job, start_job
from finetrainers.ui.process import Process, has_ended

LOCK = "queue.lock"


class Queue:
    """All jobs of a folder, in the order in which they were asked for."""

    def __init__(self, folder: Path, devices: Sequence[str]) -> None:
        """Open the queue of a folder; ``devices`` are those that runs are started on, such as cuda:0."""
        self.devices = tuple(devices)
        self._folder = folder
        self._jobs = folder / "jobs"
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._children: list[Process] = []
        self._known: dict[str, Job] = {}

    def jobs(self) -> list[Job]:
        """All jobs, the first first; a folder that is none, as a full disk may leave one, is left out."""
        return [job for name in self._names() if (job := self._job(name)) is not None]

    def _names(self) -> list[str]:
        return sorted((folder.name for folder in self._jobs.iterdir() if folder.name.isdecimal()), key=int)

    def _job(self, name: str) -> Job | None:
        if name not in self._known:
            with suppress(OSError, ValueError, KeyError, TypeError):
                self._known[name] = read_job(self._jobs / name)
        return self._known.get(name)

    def job(self, number: int) -> Job:
        """Find a job.

        Raises:
            FileNotFoundError: If there is none.
        """
        name = f"{number:06d}"
        job = self._job(name)
        if job is None:
            raise FileNotFoundError(self._jobs / name)
        return job

    def latest(self, run: Path) -> Job | None:
        """Find the last job of a run."""
        return next((job for job in reversed(self.jobs()) if job.run == run), None)

    def add(
        self,
        run: Path,
        config: str,
        *,
        device: str | None = None,
        files: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
    ) -> Job:
        """Ask for a start of a run.

        Args:
            run: Its directory.
            config: Its configuration.
            device: That it shall have; None for the first that is free.
            files: Put beside the configuration, which may name them as {job}/name.
            overrides: Keys that are other than in the configuration, as key=value.

        Raises:
            ConfigError: If the run is in the queue already, or if there is no such device.
        """
        if device is not None and device not in self.choices:
            raise ConfigError(f"device: there is no {device!r} here; known: {', '.join(self.choices)}")
        with self._locked():
            for job in self.jobs():
                if job.run == run and job.state not in ENDED:
                    raise ConfigError(f"output_dir: {run} is {job.state} already, as number {job.number} of the queue")
            number = max(map(int, self._names()), default=0) + 1
            words = ("train", f"{FOLDER}/{CONFIG}", f"output_dir={run}", *overrides)
            job = Job(self._jobs, run, words, device, Path.cwd(), time.time())
            return make_job(self._jobs / f"{number:06d}", job, {CONFIG: config, **(files or {})})

    def cancel(self, job: Job) -> bool:
        """Take a job that waits out of the queue; return whether it still waited."""
        with self._locked():
            if job.state != "queued":
                return False
            job.cancel()
            return True

    @property
    def choices(self) -> list[str]:
        """Devices that a job may ask for."""
        return [*self.devices, *([ALL_DEVICES] if len(self.devices) > 1 else [])]

    def start_due(self) -> None:
        """Start what waits for a device that is free."""
        self._children = [child for child in self._children if not has_ended(child)]
        with self._locked():
            states = [(job, job.state) for job in self.jobs()]
            busy = {job.used_device or "" for job, state in states if state == "running" and job.is_here}
            for job in (job for job, state in states if state == "queued"):
                device = self._free(job.device, busy)
                if device is None:
                    if job.device in (None, ALL_DEVICES):
                        return  # the first that waits comes first
                    continue
                busy.add(device)
                self._children.append(start_job(job, device, self.devices))

    def _free(self, wanted: str | None, busy: set[str]) -> str | None:
        if ALL_DEVICES in busy:
            return None
        if wanted == ALL_DEVICES:
            return None if busy else ALL_DEVICES
        free = [device for device in self.devices if device not in busy]
        return next((device for device in free if wanted in (None, device)), None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other servers of this queue, and other threads of this one, from changing it."""
        with (self._folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def find_devices() -> list[str]:
    """Name the devices of this machine without importing torch: its GPUs by their driver, or the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [f"cuda:{name.strip()}" for name in visible.split(",") if name.strip()] or [CPU]
    with suppress(OSError, subprocess.TimeoutExpired):
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        found = [f"cuda:{line.strip()}" for line in shown.stdout.splitlines() if line.strip().isdecimal()]
        if shown.returncode == 0 and found:
            return found
    return [CPU]

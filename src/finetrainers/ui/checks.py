"""What other commands say of a configuration before it is trained: each in a process of its own, with files of its own."""

import json
import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from finetrainers.errors import ConfigError, DataError
from finetrainers.ui.job import CONFIG, CPU, ENDED, FOLDER, Job, make_job, read_job, start_job
from finetrainers.ui.process import Process, has_ended

COMMANDS = {
    "plan": ("plan", f"{FOLDER}/{CONFIG}", "--json", "-"),
    "data": ("data", "inspect", f"{FOLDER}/{CONFIG}", "--output", f"{FOLDER}/page.html"),
}
MAX_RUNNING = 2
MAX_KEPT = 20
"""Answers that are kept; older ones can be had again."""


@dataclass(slots=True)
class Checks:
    """Commands about configurations that are not trained yet."""

    folder: Path
    _children: list[Process] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def start(self, kind: str, config: str, files: dict[str, str], *, gpu: str = "") -> Job:
        """Start a command about a configuration; a plan may be for a kind of GPU.

        Raises:
            ConfigError: If as many run already as may.
        """
        if not re.fullmatch(r"[\w .+-]{0,40}", gpu):
            raise ConfigError(f"gpu: {gpu!r} names none; give its memory, such as 24GB, or its name, such as h100")
        words = (*COMMANDS[kind], *([f"--gpu={gpu}"] if gpu and kind == "plan" else []))
        with self._lock:
            self._children = [child for child in self._children if not has_ended(child)]
            if len(self._children) >= MAX_RUNNING:
                raise ConfigError(f"{kind}: {MAX_RUNNING} checks are running; wait for one of them to end")
            self._sweep()
            job = Job(self.folder, self.folder, words, CPU, Path.cwd(), time.time())
            made = make_job(self.folder / f"{kind}-{uuid.uuid4().hex}", job, {CONFIG: config, **files})
            self._children.append(start_job(made, CPU))
            return made

    def job(self, name: str) -> Job:
        """Find a check by the name of its folder.

        Raises:
            DataError: If there is none.
        """
        kind, _, rest = name.partition("-")
        if kind not in COMMANDS or not rest.isalnum():
            raise DataError(f"check: there is no {name!r}")
        try:
            job = read_job(self.folder / name)
        except FileNotFoundError:
            raise DataError(f"check: {name} is no longer kept; ask for it again") from None
        self._children = [child for child in self._children if not has_ended(child)]
        return job

    def _sweep(self) -> None:
        """Remove the oldest answers; nothing but this class writes here, and each can be had again."""
        found = []
        with suppress(FileNotFoundError):
            found = [read_job(folder) for folder in self.folder.iterdir() if not folder.name.startswith(".")]
        ended = sorted((job for job in found if job.state in ENDED), key=lambda job: job.created)
        for job in ended[: max(0, len(ended) - MAX_KEPT)]:
            shutil.rmtree(job.folder, ignore_errors=True)


def json_answer(job: Job) -> Any:  # whatever the command answers
    """Read what a command answered as JSON; None if it is none."""
    try:
        return json.loads(job.answer.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None

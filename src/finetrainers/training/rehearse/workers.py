"""Several processes of the twin's run, by a worker that has imported what they need before it is asked for them."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from finetrainers.config import Config, dump_config
from finetrainers.errors import ConfigError

SECONDS = 300.0
"""For the processes of one start; beyond, they wait for each other in vain."""
PRELOADED = ("diffusers.models.", "diffusers.pipelines.", "diffusers.schedulers.", "transformers.models.", "peft.")
"""Modules that this process has imported for the model, and the others would each import again."""
LAST_LINES = 12


class FailedError(Exception):
    """Processes ended with an error that is no message for users."""

    def __init__(self, said: str, frames: list[tuple[str, int]]) -> None:
        super().__init__(said)
        self.frames = frames
        """File and line of each call that it went through, the innermost last."""


class Workers:
    """A process that waits to become several."""

    def __init__(self, count: int, directory: Path) -> None:
        """Begin to import what they need, beside whatever is done meanwhile."""
        self._count, self._directory = count, directory
        with (directory / "worker.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetrainers.training.rehearse.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(ProcessLookupError, PermissionError):  # none of them is left
            os.killpg(self._process.pid, signal.SIGKILL)  # and whatever the worker has become
        self._process.communicate()

    def run(self, command: str, config: Config) -> None:
        """Let the processes run a command together.

        Raises:
            ConfigError: With the message that one of them ended with.
            FailedError: If they said something else.
        """
        file = self._directory / "shared.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        modules = sorted(name for name in sys.modules if name.startswith(PRELOADED))
        order = {"command": command, "file": str(file), "logs": str(self._directory), "count": self._count}
        statuses = self._ask(json.dumps({**order, "modules": modules}))
        if any(statuses):
            self._raise()

    def _ask(self, order: str) -> list[int]:
        import select

        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{order}\n")
        stdin.flush()
        if not select.select([stdout], [], [], SECONDS)[0]:
            raise ConfigError(f"parallel: {self._count} processes did not end in {SECONDS:.0f} s: they wait for each other")
        answer = stdout.readline()
        if not answer:
            raise FailedError((self._directory / "worker.log").read_text()[-2000:], [])
        statuses: list[int] = json.loads(answer)
        return statuses

    def _raise(self) -> None:
        text = "".join((self._directory / f"rank-{rank}.log").read_text() for rank in range(self._count))
        own = re.findall(r"^finetrainers: (.+(?:\n .+)*)", text, re.MULTILINE)
        if own:
            raise ConfigError(own[0])
        found = [(file, int(line)) for file, line in re.findall(r'^  File "(.+)", line (\d+), in .+', text, re.MULTILINE)]
        errors = re.findall(r"^(\w[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*)", text, re.MULTILINE)
        raise FailedError(errors[0] if errors else "\n".join(text.splitlines()[-LAST_LINES:]), found)

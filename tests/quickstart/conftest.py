"""One quick start, smaller than a user's, for all tests that look at what it leaves."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Finished:
    """What the quick start left, and what it printed. Shared by all tests: read it, never write into it."""

    options: Any
    transcript: str

    @property
    def output(self) -> Path:
        return self.options.output

    @property
    def weights(self) -> Path:
        return self.options.run / "weights" / f"step-{self.options.steps:06d}"

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report.json").read_text(encoding="utf-8"))

    def right(self, kind: str, name: str, column: str) -> float:
        return self.report["sets"][name][kind][column]["right"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from finetrainers.cli import main
    from finetrainers.quickstart.project import Options
    from finetrainers.quickstart.run import quickstart

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the workers share
    sizes = {"num_train": 160, "num_rehearsal": 160, "num_held_out": 8, "num_prompts": 24}
    options = Options(output=root / "quickstart", steps=200, device="cpu", **sizes)
    transcript = root / "quickstart.txt"
    with (root / "quickstart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not transcript.exists():
            lines: list[str] = []
            assert quickstart(options, command=main, say=lines.append) == 0
            transcript.write_text("\n".join(lines), encoding="utf-8")
    return Finished(options, transcript.read_text(encoding="utf-8"))

"""A quick start that has run, and what tests do to it."""

import fcntl
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

CONCEPT = ("concept_train", "concept_held_out")
FLOOR = 8.4
"""Percent: two pictures or clips of 24."""


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

    def reported(self, kind: str, name: str, column: str) -> Any:
        from finetrainers.quickstart.figures import Figures

        return Figures(**self.report["sets"][name][kind][column])

    @property
    def sets(self) -> dict[str, Any]:
        from finetrainers.quickstart.evidence import make_sets

        return make_sets(self.options)

    def draw_concept(self, weights: Path) -> dict[str, Any]:
        """Draw the concept's prompts once more."""
        from finetrainers.quickstart.evidence import draw_sets

        concept = {name: prompts for name, prompts in self.sets.items() if name in CONCEPT}
        return draw_sets(self.options, concept, weights, device="cpu")

    def measure(self, drawn: Any, truths: Any) -> Any:
        from finetrainers.quickstart.evidence import figures

        return figures(self.options.showcase, drawn, truths)


def finish(folder: pytest.TempPathFactory, options: Any) -> Finished:
    """Run a quick start, unless another worker has."""
    from finetrainers.cli.entry import main
    from finetrainers.quickstart.run import quickstart

    root = folder.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the workers share
    output = root / options.output.name
    options = replace(options, output=output, device="cpu")
    transcript = output.with_suffix(".txt")
    with output.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not transcript.exists():
            lines: list[str] = []
            assert quickstart(options, command=main, say=lines.append) == 0
            transcript.write_text("\n".join(lines), encoding="utf-8")
    return Finished(options, transcript.read_text(encoding="utf-8"))


def delete_lora(weights: Path, copy: Path) -> Path:
    """Copy weights with all up-projections set to zero: what is left of them does nothing."""
    shutil.copytree(weights, copy)
    (file,) = copy.glob("*.safetensors")
    tensors = load_file(file)
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    save_file({name: tensor * ("lora_B" not in name) for name, tensor in tensors.items()}, file)
    return copy

"""The twin's run: the stages of the real one, by the commands themselves, each timed; what fails in one ends them."""

import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from finetrainers.config import Config, dump_config
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError, FinetrainersError, Interrupted
from finetrainers.models import Model, Request
from finetrainers.sampling.sample import sample_run
from finetrainers.training.rehearse.findings import Findings
from finetrainers.training.rehearse.twin import FIRST_STEPS, PROCESSES, STEPS, Tree, axes_of, prompt_of, share, twin_config
from finetrainers.training.run import encode, train

SECONDS = 300.0
"""For several processes to end; then they wait for each other in vain."""
OWN_CODE = ("model.adapter", "objective.kind", "conditioning.signal")
"""Keys that may name files of the user's."""
LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Twin:
    """What runs in place of the real run."""

    config: Config
    """Of the user's."""
    tree: Tree
    """Of the twin's, but for how processes share its work."""
    model: Model
    layout: Layout
    requests: tuple[Request, ...]
    directory: Path

    @property
    def is_shared(self) -> bool:
        """Whether several processes share the work."""
        return bool(axes_of(self.layout))

    def at(self, steps: int, turn: int) -> Config:
        """Configuration of a start that goes on to so many steps."""
        tree = share(self.tree, self.layout, turn)
        tree["train"]["steps"] = steps
        return twin_config(tree)


def run_stages(twin: Twin, findings: Findings) -> None:
    """Run all stages in their order, until one fails."""
    how = f" on {PROCESSES} processes" if twin.is_shared else ""
    stages: list[tuple[str, Callable[[], None]]] = [
        ("twin: encode", lambda: _encode(twin)),
        (f"twin: train {FIRST_STEPS} steps, validate, save, export{how}", lambda: _train(twin, FIRST_STEPS, turn=0)),
        (f"twin: resume, train to step {STEPS}{how}", lambda: _train(twin, STEPS, turn=1)),
        ("twin: load the weights in diffusers and draw", lambda: _draw(twin)),
    ]
    axes = axes_of(twin.layout)
    if len(axes) > 1:
        findings.leave_out(f"{' and '.join(f'parallel.{axis}' for axis in axes)} together: the twin shares one at a time")
    for name, stage in stages:
        with findings.part(name) as part, _explained(twin.config):
            stage()
        if part.errors:
            return


def _encode(twin: Twin) -> None:
    if twin.is_shared and twin.config.memory.shard_text_encoders:
        _launch(twin, "encode", twin.at(FIRST_STEPS, 0))
        return
    tree = {key: value for key, value in twin.tree.items() if key != "parallel"}
    tree["memory"] = {key: value for key, value in tree.get("memory", {}).items() if key != "shard_text_encoders"}
    with _quiet():
        encode(twin_config(share(tree, None, 0)))


def _train(twin: Twin, steps: int, *, turn: int) -> None:
    config = twin.at(steps, turn)
    if twin.is_shared:
        _launch(twin, "train", config)
        return
    with _quiet():
        train(config)


def _draw(twin: Twin) -> None:
    """Draw with the exported weights by diffusers' plain pipeline: a prompt of the user's, or one with a grey picture."""
    grid, size = twin.model.adapter.grid, twin.config.data[0].buckets
    row: dict[str, Any] = {"prompt": "a rehearsal", "num_inference_steps": 2}
    if twin.requests:
        chosen = max(twin.requests, key=lambda own: len([path for path in own.pictures.values() if path]))
        row = {key: value for key, value in prompt_of(chosen, grid).items() if value not in (None, [])}
    else:
        needed = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last_image")}
        picture = twin.directory / "grey.png"
        PIL.Image.new("RGB", (64, 64), (128, 128, 128)).save(picture)
        row |= dict.fromkeys(needed.get(twin.model.task, ()), str(picture))
    del size
    with _quiet():
        if not sample_run(twin.directory / "run", [row], output=twin.directory / "samples", device="cpu"):
            raise ConfigError("nothing was drawn")


def _launch(twin: Twin, command: str, config: Config) -> None:
    """Start two processes of a command by the launcher, and read why they failed, if they did.

    Raises:
        ConfigError: With what they said.
    """
    file = twin.directory / f"{command}-{config.train.steps}.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    words = [sys.executable, "-m", "finetrainers", "launch", "--cpu", str(PROCESSES), command, str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"parallel: {PROCESSES} processes did not end in {SECONDS:.0f} s: they wait for each other") from None
    if done.returncode:
        raise ConfigError(_said(done.stderr, twin.config))


def _said(text: str, config: Config) -> str:
    """Find what processes said of their end: a message of ours, or the end of a traceback."""
    own = re.findall(r"^finetrainers: (?!launch: )(.+(?:\n  .+)*)", text, re.MULTILINE)
    if own:
        return str(own[0])
    found = re.findall(r'^(?:\[rank\d+\]: ?)?  File "(.+)", line (\d+), in .+', text, re.MULTILINE)
    errors = re.findall(r"^(?:\[rank\d+\]: ?)?(\w[\w.]*(?:Error|Exception)\b.*)", text, re.MULTILINE)
    if not errors:
        return "the processes ended without a message:\n" + "\n".join(text.splitlines()[-LAST_LINES:])
    return _blame(errors[0], [(file, int(line)) for file, line in found], config)


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    """Turn an error that is no message for users into one: where it was, and in which of the user's files."""
    try:
        yield
    except (FinetrainersError, Interrupted):
        raise
    except Exception as error:
        frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
        raise ConfigError(_blame(f"{type(error).__name__}: {error}", frames, config)) from error


def _blame(said: str, frames: list[tuple[str, int]], config: Config) -> str:
    """Name the key of the user's code that an error went through, or the line that it came from."""
    for key, file in _own_code(config).items():
        for place, line in reversed(frames):
            if Path(place) == Path(file):
                return f"{key}: {file}, line {line}: {said}; mend it"
    where = f" ({frames[-1][0]}, line {frames[-1][1]})" if frames else ""
    return f"the run would end with {said}{where}"


def _own_code(config: Config) -> Mapping[str, str]:
    found = {"model.adapter": config.model.adapter, "objective.kind": config.objective.kind}
    if config.control is not None:
        found[f"{config.condition_key('channel_concat')}.signal"] = config.control.signal
    return {key: value.rpartition(":")[0] for key, value in found.items() if value is not None and ".py:" in value}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a run shows in a terminal out of the rehearsal's list."""
    with redirect_stderr(io.StringIO()):
        yield

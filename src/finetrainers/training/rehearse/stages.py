"""The twin's run: the stages of the real one, by the commands themselves, each timed; what fails in one ends them."""

import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from finetrainers.config import Config
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError, FinetrainersError, Interrupted
from finetrainers.models import Model, Request
from finetrainers.sampling.sample import sample_run
from finetrainers.training.check.findings import Findings
from finetrainers.training.rehearse.twin import FIRST_STEPS, PROCESSES, STEPS, Tree, axes_of, prompt_of, share, twin_config
from finetrainers.training.rehearse.workers import FailedError, Workers
from finetrainers.training.run import encode, train


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
    first = f"twin: train {FIRST_STEPS} steps, validate, save, export{how}"
    stages: list[tuple[str, Callable[[Workers | None], None]]] = [
        ("twin: encode", lambda workers: _encode(twin, workers)),
        (first, lambda workers: _train(twin, workers, FIRST_STEPS, turn=0)),
        (f"twin: resume, train to step {STEPS}{how}", lambda workers: _train(twin, workers, STEPS, turn=1)),
        ("twin: load the weights in diffusers and generate", lambda _: _draw(twin)),
    ]
    if twin.config.cache.encode == "on_the_fly":  # items are encoded by the run that trains on them
        del stages[0]
    axes = axes_of(twin.layout)
    if len(axes) > 1:
        findings.leave_out(f"{' and '.join(f'parallel.{axis}' for axis in axes)} together: the twin shares one at a time")
    with Workers(PROCESSES, twin.directory) if twin.is_shared else nullcontext() as workers:
        for name, stage in stages:
            with findings.part(name) as part, _explained(twin.config):
                stage(workers)
            if part.errors:
                return


def _encode(twin: Twin, workers: Workers | None) -> None:
    if workers is not None and twin.config.memory.shard_text_encoders:
        workers.run("encode", twin.at(FIRST_STEPS, 0))
        return
    tree = {key: value for key, value in twin.tree.items() if key != "parallel"}
    tree["memory"] = {key: value for key, value in tree.get("memory", {}).items() if key != "shard_text_encoders"}
    with _quiet():
        encode(twin_config(share(tree, None, 0)))


def _train(twin: Twin, workers: Workers | None, steps: int, *, turn: int) -> None:
    config = twin.at(steps, turn)
    if workers is not None:
        workers.run("train", config)
        return
    with _quiet():
        train(config)


def _draw(twin: Twin) -> None:
    """Generate with the exported weights by diffusers' plain pipeline: a prompt of the user's, or one with a grey image."""
    grid = twin.model.adapter.grid
    row: dict[str, Any] = {"prompt": "a rehearsal", "num_inference_steps": 2}
    if twin.requests:
        chosen = max(twin.requests, key=lambda own: len([path for path in own.pictures.values() if path]))
        row = {key: value for key, value in prompt_of(chosen, grid).items() if value not in (None, [])}
    else:
        needed = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last_image")}
        picture = twin.directory / "grey.png"
        PIL.Image.new("RGB", (64, 64), (128, 128, 128)).save(picture)
        row |= dict.fromkeys(needed.get(twin.model.task, ()), str(picture))
    with _quiet():
        if not sample_run(twin.directory / "run", [row], output=twin.directory / "samples", device="cpu"):
            raise ConfigError("nothing was generated")


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    """Turn an error that is no message for users into one: where it was, and in which of the user's files."""
    try:
        yield
    except (FinetrainersError, Interrupted):
        raise
    except FailedError as error:
        raise ConfigError(_blame(str(error), error.frames, config)) from error
    except Exception as error:
        frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
        raise ConfigError(_blame(f"{type(error).__name__}: {error}", frames, config)) from error


def _blame(said: str, frames: list[tuple[str, int]], config: Config) -> str:
    """Name the key of the user's code that an error went through, or the line that it came from."""
    for key, code in config.user_code.items():
        file = code.rpartition(":")[0]
        for place, line in reversed(frames):
            if Path(place) == Path(file):
                return f"{key}: {file}, line {line}: {said}; fix it"
    where = f" ({frames[-1][0]}, line {frames[-1][1]})" if frames else ""
    return f"the run would end with {said}{where}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a run shows in a terminal out of the rehearsal's list."""
    with redirect_stderr(io.StringIO()):
        yield

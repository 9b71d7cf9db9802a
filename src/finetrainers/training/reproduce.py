"""Whether a run can be made again from its directory, and the run made again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from finetrainers.config import Config, load_config
from finetrainers.distributed.launch import Launch
from finetrainers.distributed.world import pick_device
from finetrainers.errors import ConfigError, FinetrainersError
from finetrainers.files.whole import hash_file
from finetrainers.models import open_model
from finetrainers.runs.comparison.compare import CODE, differing_machine, differing_packages
from finetrainers.runs.comparison.words import line_of
from finetrainers.runs.folder import CONFIG_FILE, RunFolder
from finetrainers.runs.summary import last_start
from finetrainers.training.checks.relocated import contents
from finetrainers.training.lock import environment, files_of
from finetrainers.training.paths import absolute
from finetrainers.training.prepare import prepare
from finetrainers.training.run import train

NAMES = {
    "data": "data",
    "captions": "captions",
    "held_out": "held-out data",
    "held_out_captions": "held-out captions",
    "model": "weights that training begins from",
}
Say = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a run is made of."""

    what: str
    is_same: bool | None
    """None where the run did not note it."""
    is_needed: bool
    """Without it, the run would be another one; else losses may differ in their last digits."""
    detail: str = ""


def check_run(run: RunFolder, *, say: Say = lambda *_: None) -> list[Check]:
    """Compare all that a run noted of itself with what is there now; no weights are loaded, and nothing is encoded.

    Raises:
        ConfigError: If its configuration cannot be read.
    """
    run.update()
    config, start = load_config(run.inside(CONFIG_FILE)), last_start(run)
    noted = {**(run.begun or {}), **start}
    return [
        _same("config.yaml", noted.get("config"), lambda: hash_file(run.inside(CONFIG_FILE)).hex()),
        *_contents(config, noted, say),
        *_files(config, start),
        *_environment(config, start),
    ]


def _same(what: str, before: object, now: Callable[[], object]) -> Check:
    """Compare one hash that is needed."""
    if before is None:
        return Check(what, None, is_needed=True, detail="the run did not note it")
    try:
        found = now()
    except (FinetrainersError, OSError) as error:
        return Check(what, is_same=False, is_needed=True, detail=str(error))
    return Check(what, found == before, is_needed=True, detail="" if found == before else f"{before} -> {found}")


def _contents(config: Config, noted: dict[str, Any], say: Say) -> Iterator[Check]:
    """Plan the run, as training does, and compare the contents of data and model."""
    try:
        model = open_model(config.model, config.memory)
        plan = prepare(absolute(config), model, torch.device("cpu"), progress=say, warn=lambda _: None)
        now = {**contents(plan), "captions": plan.captions, "held_out_captions": plan.held_out_captions}
    except (FinetrainersError, OSError) as error:
        yield Check("data and model", is_same=False, is_needed=True, detail=str(error))
        return
    for key, name in NAMES.items():
        if noted.get(key) is not None or now[key] is not None:
            yield _same(name, noted.get(key), partial(now.get, key))


def _files(config: Config, start: dict[str, Any]) -> Iterator[Check]:
    """Compare files that belong to the run besides its data; trackers make nothing of it, and are told nothing here."""
    for key, digest in start.get("files", {}).items():
        if not key.startswith("track."):
            yield _same(f"file of {key}", digest, partial(_digest_of, config, key))


def _digest_of(config: Config, key: str) -> str | None:
    return files_of(config).get(key)


def _environment(config: Config, start: dict[str, Any]) -> Iterator[Check]:
    """Compare code, packages and machine; where they differ, the last digits may."""
    if not start:
        yield Check("code, packages and machine", None, is_needed=False, detail="the run is of a version without lock.json")
        return
    now = environment(pick_device(config.train.device, Launch()), int(start.get("processes", 1)))
    code = [f"{key}: {start.get(key)} -> {now[key]}" for key in CODE if start.get(key) != now[key]]
    yield Check("code", not code, is_needed=False, detail="; ".join(code))
    for name, found in (("packages", differing_packages(start, now)), ("machine", differing_machine(start, now))):
        lines = [line_of(one).partition(": ")[2] for one in found]
        yield Check(name, not lines, is_needed=False, detail="; ".join(lines))


def can_be_made(checks: list[Check]) -> bool:
    """Whether nothing that the run is made of has changed."""
    return all(check.is_same is not False for check in checks if check.is_needed)


def is_same_machine(checks: list[Check]) -> bool:
    """Whether code, packages and machine are the same: then so are the bits."""
    return all(check.is_same is True for check in checks if not check.is_needed)


def make_again(run: RunFolder, output: Path) -> RunFolder:
    """Train the run once more into another directory; trackers elsewhere and the Hub get nothing of it.

    Raises:
        ConfigError: If it was made by several processes, with the command that starts them, or the directory is its own.
    """
    config, start = load_config(run.inside(CONFIG_FILE)), last_start(run)
    processes = int(start.get("processes", 1))
    file = run.path / CONFIG_FILE
    if processes > 1:
        raise ConfigError(
            f"--output: {run.path} was made by {processes} processes; start them with `finetrainers launch` (or torchrun) "
            f"and `train {quote(str(file))} output_dir={quote(str(output))} push_to_hub=false`, then compare: "
            f"`finetrainers diff {quote(str(run.path))} {quote(str(output))}`"
        )
    if output.expanduser().resolve() == run.path:
        raise ConfigError(f"--output: {output} is the run itself; name a new folder")
    track = config.track.model_copy(update={"wandb": None, "trackio": None, "trackers": ()})
    checkpoint = config.checkpoint.model_copy(update={"resume": "latest"})  # a step to go back to is not there
    changes = {"output_dir": output, "track": track, "push_to_hub": False, "checkpoint": checkpoint}
    train(config.model_copy(update=changes))
    return RunFolder(output)

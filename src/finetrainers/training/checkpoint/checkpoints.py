"""Save, restore and rotate the state of a run."""

import json
import shutil
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from finetrainers.distributed.launch import Launch
from finetrainers.distributed.talk import Talk
from finetrainers.distributed.world import World
from finetrainers.errors import CheckpointError
from finetrainers.files.steps import step_directory, step_folders
from finetrainers.files.whole import (
    MANIFEST,
    begin_directory,
    damage,
    drop_directory,
    file_facts,
    finish_directory,
    hash_file,
    name_path,
    write_whole,
)
from finetrainers.optim.state import as_of_today
from finetrainers.training.checkpoint.matching import WAY_BACK, check_match
from finetrainers.training.checkpoint.staging import Report, Staged, combined, stage
from finetrainers.training.checkpoint.state import STATE_FILE, load_into, read_state
from finetrainers.training.trainer import Trainer

WEIGHTS_FILE = "weights.json"
"""Says, beside a state, which exported weights are of this state."""


OLD_STATE = "state/.metadata"
"""In the checkpoints of earlier versions, which are pickles."""


@dataclass(frozen=True, slots=True)
class StagedCheckpoint:
    """What this process will write of a checkpoint."""

    step: int
    state: Staged


class Checkpoints:
    """The checkpoints of a run: folders step-000500 and so on, each whole or ignored."""

    def __init__(
        self, root: Path, *, keep: int, world: World | None = None, warn: Callable[[str], None] = warnings.warn
    ) -> None:
        """Name the folder; the processes of the world have one together.

        Args:
            root: Holds the checkpoints.
            keep: How many of them.
            world: The processes that each write what they have; None alone.
            warn: Called with each damaged checkpoint that is passed over.
        """
        self.root = root
        self._warn = warn
        self._keep = keep
        self._launch = Launch() if world is None else world.launch
        self.talk = Talk(0, 1) if world is None else world.talk.branch("checkpoints")
        """Of those who write, be it beside training."""
        self.spared: Callable[[Collection[int]], int | None] = lambda _: None
        """Says which of some steps is kept whatever is older or newer; None if none is."""

    def save(self, trainer: Trainer, *, weights: Path | None = None) -> Path:
        """Stage and write at once; see there."""
        return self.write(self.stage(trainer, copies=False), weights=weights)

    def stage(self, trainer: Trainer, *, copies: bool = True) -> StagedCheckpoint:
        """Take from the trainer's state what this process has to write: from there on, training may go on.

        Args:
            trainer: Whose state it is.
            copies: Into the host's memory; else the state is read where it is, and has to stay as it is until it is written.
        """
        with trainer.update.masters():
            rank, size = self._launch.rank, self._launch.size
            return StagedCheckpoint(trainer.step, stage(_state(trainer), rank=rank, size=size, copies=copies))

    def write(self, staged: StagedCheckpoint, *, weights: Path | None = None) -> Path:
        """Write a checkpoint, then remove the oldest beyond the number to keep; all processes do, each its part.

        The first makes the folder, and gives it its name once all have told the hashes of what they wrote.

        Args:
            staged: Of this process.
            weights: Folder of those that were exported from it.

        Raises:
            CheckpointError: If it cannot be written, such as to a full disk; earlier checkpoints are as they were.
        """
        directory, by = step_directory(self.root, staged.step), ""
        try:
            temporary = self.talk.first(lambda: begin_directory(directory))
            outcomes = self.talk.gather(_attempt(lambda: staged.state.write(temporary)))
            for rank, outcome in enumerate(outcomes):
                if isinstance(outcome, Exception):
                    by = f" by process {rank}" * (self._launch.size > 1)
                    raise outcome
            reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
            self.talk.first(lambda: self._finish(staged, reports, weights))
        except BaseException as error:
            if self._launch.rank == 0:
                drop_directory(directory)
            if not isinstance(error, OSError | SafetensorError):
                raise
            name_path(error, directory)
            raise CheckpointError(
                f"{directory}: the checkpoint cannot be written{by} ({error}); earlier ones are as they were. "
                "Make room, or fix what the message names, and start the run again"
            ) from error
        return directory

    def _finish(self, staged: StagedCheckpoint, reports: Sequence[Report], weights: Path | None) -> None:
        """Make a checkpoint whole of what all have written."""
        directory = step_directory(self.root, staged.step)
        temporary = directory.with_name(f".{directory.name}.tmp")
        facts = {name: fact for report in reports for name, fact in report.facts.items()}
        for name, fact in facts.items():
            if not (temporary / name).is_file() or (temporary / name).stat().st_size != fact["bytes"]:
                raise CheckpointError(
                    f"output_dir: {temporary / name} was written by another process, and is not there for the first one; "
                    "name a folder on a file system that all hosts share"
                )
        extra = [temporary / STATE_FILE]
        write_whole(extra[0], combined(staged.state, reports))
        if weights is not None:
            extra.append(temporary / WEIGHTS_FILE)
            write_whole(extra[1], json.dumps({MANIFEST: hash_file(weights / MANIFEST).hex()}))
        finish_directory(directory, dict(sorted({**facts, **file_facts(temporary, extra)}.items())))
        self.rotate()

    def rotate(self) -> None:
        """Remove the oldest beyond the number to keep, but for the one that is spared; one process does."""
        steps = self.steps()
        for step in {*steps[: -self._keep]} - {self.spared(steps)}:
            shutil.rmtree(step_directory(self.root, step))

    def vouches_for(self, weights: Path, step: int) -> bool:
        """Whether exported weights are whole, and of the state that the checkpoint of this step holds."""
        file = step_directory(self.root, step) / WEIGHTS_FILE
        if not file.is_file() or damage(weights) is not None:
            return False
        known: object = json.loads(file.read_text(encoding="utf-8"))
        return known == {MANIFEST: hash_file(weights / MANIFEST).hex()}

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, whole or not, in order."""
        return list(step_folders(self.root))

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint; warns of damaged ones."""
        for step in reversed(self.steps()):
            fault = damage(step_directory(self.root, step))
            if fault is None:
                return step
            self._warn(f"{step_directory(self.root, step)} is no whole checkpoint and is skipped: {fault}")
        return None

    def find(self, resume: int | str) -> int | None:
        """Step to go on from: the latest, or the one that is asked for.

        Raises:
            CheckpointError: If the one that is asked for is not there or not whole, if there are only damaged ones, or if
                it is of an earlier version.
        """
        step = self._asked_for(resume) if isinstance(resume, int) else self.latest()
        if step is None and self.steps():
            raise CheckpointError(
                f"{self.root}: all checkpoints are damaged; remove them to start from step 0, or restore them from a backup"
            )
        if step is not None:
            _refuse_pickles(step_directory(self.root, step))
        return step

    def _asked_for(self, step: int) -> int:
        fault = damage(step_directory(self.root, step))
        if fault is not None:
            steps = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(
                f"checkpoint.resume: there is no whole checkpoint of step {step} ({fault}); there are: {steps}"
            )
        return step

    def set_aside(self, after: int) -> None:
        """Move what a run made after a step out of its way, into set-aside/N, where going back to the step was asked for.

        And all that it made, after -1, where there is no checkpoint to go on from.
        """
        run = self.root.parent
        folders = [step_folders(run / kind) for kind in ("checkpoints", "weights", "validation")]
        later = [folder for found in folders for step, folder in found.items() if step > after]
        if later:
            numbers = [int(folder.name) for folder in (run / "set-aside").glob("*") if folder.name.isdecimal()]
            place = run / "set-aside" / str(max(numbers, default=-1) + 1)
            for folder in later:
                (place / folder.parent.name).mkdir(parents=True, exist_ok=True)
                folder.rename(place / folder.parent.name / folder.name)

    def restore(self, trainer: Trainer, step: int) -> None:
        """Put a checkpoint's state into a trainer that was built from the same configuration.

        Raises:
            CheckpointError: If it does not fit.
        """
        directory = step_directory(self.root, step)
        _refuse_pickles(directory)
        trainer.update.begin_state()  # to have a place for all that the checkpoint has
        with trainer.update.masters():
            saved, own = read_state(directory), _state(trainer)
            saved["optimizer"] = as_of_today(saved["optimizer"])
            check_match(own, saved, directory)
            try:
                state = load_into(own, saved)
                _put_back(own["model"], state["model"])
                trainer.update.load_optimizer_state(state["optimizer"])
            except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
                raise CheckpointError(f"{directory} does not fit this configuration ({error}). {WAY_BACK}") from error
        update = trainer.update
        update.schedule.load_state_dict(state["schedule"])
        if update.ema is not None:
            averages = state["ema"].pop("shadow_params")  # apart from the rest, of which it makes copies
            update.ema.load_state_dict(state["ema"])
            update.ema.shadow_params = averages
        trainer.step, update.num_skipped = state["step"], state["num_skipped"]


def _attempt(do: Callable[[], Report]) -> Report | Exception:
    """Return what comes of it, so that all processes are through before any of them gives up."""
    try:
        return do()
    except OSError as error:
        return error
    except SafetensorError as error:  # which processes cannot hand to each other
        return OSError(str(error))
    except Exception as error:  # noqa: BLE001 - the others wait for what comes of it
        return OSError(f"{type(error).__name__}: {error}")


def _refuse_pickles(directory: Path) -> None:
    """Refuse a checkpoint of an earlier version: whoever wrote it decides what runs when it is read."""
    if (directory / OLD_STATE).exists():
        raise CheckpointError(
            f"{directory}: the checkpoint was written by an earlier version, in a format that can run code when it is read; "
            "start a new output_dir, and begin from the run's exported weights with tuning.start_from"
        )


def _state(trainer: Trainer) -> dict[str, Any]:
    update = trainer.update
    state: dict[str, Any] = {
        "model": _trained(trainer.denoiser),
        "optimizer": update.optimizer_state(),
        "schedule": update.schedule.state_dict(),
        "step": trainer.step,
        "num_skipped": update.num_skipped,
    }
    if update.ema is not None:
        state["ema"] = update.ema.state_dict()
    return state


def _trained(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return what trains and buffers by their names, themselves; frozen weights are not in a checkpoint."""
    tensors = denoiser.state_dict(keep_vars=True).items()
    return {name: tensor for name, tensor in tensors if not isinstance(tensor, nn.Parameter) or tensor.requires_grad}


@torch.no_grad()
def _put_back(own: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    """Copy the weights that could not be read into their places, since others begin there."""
    for name, tensor in loaded.items():
        if tensor is not own[name]:
            own[name].copy_(tensor)

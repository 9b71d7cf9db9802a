"""Save, restore and rotate the state of a run, and export its weights."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from finetrainers.errors import CheckpointError
from finetrainers.files import damage, whole_directory
from finetrainers.loop import Trainer

OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)  # frozen weights are not in a checkpoint


class Checkpoints:
    """The checkpoints of a run: folders step-000500 and so on, each whole or ignored."""

    def __init__(self, root: Path, *, keep: int) -> None:
        self.root = root
        self._keep = keep

    def save(self, trainer: Trainer) -> Path:
        """Write the trainer's state, then remove the oldest beyond the number to keep.

        Raises:
            CheckpointError: If it cannot be written, such as to a full disk; earlier checkpoints are as they were.
        """
        directory = step_directory(self.root, trainer.step)
        try:
            with whole_directory(directory) as temporary, _one_process():
                save_state(_state(trainer), checkpoint_id=temporary / "state", no_dist=True)
        except (OSError, CheckpointException) as error:
            raise CheckpointError(
                f"{directory}: the checkpoint cannot be written ({_cause(error)}); earlier ones are as they were. "
                "Make room and start the run again"
            ) from error
        for step in self.steps()[: -self._keep]:
            shutil.rmtree(step_directory(self.root, step))
        return directory

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, whole or not, in order."""
        return sorted(int(folder.name.removeprefix("step-")) for folder in self.root.glob("step-*"))

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint; warns of damaged ones."""
        for step in reversed(self.steps()):
            fault = damage(step_directory(self.root, step))
            if fault is None:
                return step
            warnings.warn(f"{step_directory(self.root, step)} is no whole checkpoint and is skipped: {fault}", stacklevel=2)
        return None

    def find(self, resume: int | str) -> int | None:
        """Step to go on from: the latest, or the one that is asked for.

        Raises:
            CheckpointError: If the one that is asked for is not there or not whole, or if there are only damaged ones.
        """
        if isinstance(resume, int):
            fault = damage(step_directory(self.root, resume))
            if fault is not None:
                steps = ", ".join(map(str, self.steps())) or "none"
                raise CheckpointError(
                    f"checkpoint.resume: there is no whole checkpoint of step {resume} ({fault}); there are: {steps}"
                )
            return resume
        latest = self.latest()
        if latest is None and self.steps():
            raise CheckpointError(
                f"{self.root}: all checkpoints are damaged; remove them to start from step 0, or restore them from a backup"
            )
        return latest

    def set_aside(self, after: int) -> None:
        """Move what a run made after a step out of its way, into set-aside/N, where going back to the step was asked for."""
        run = self.root.parent
        later = [
            folder
            for kind in ("checkpoints", "weights", "validation")
            for folder in (run / kind).glob("step-*")
            if int(folder.name.removeprefix("step-")) > after
        ]
        if later:
            place = run / "set-aside" / str(len(list((run / "set-aside").glob("*"))))
            for folder in later:
                (place / folder.parent.name).mkdir(parents=True, exist_ok=True)
                folder.rename(place / folder.parent.name / folder.name)

    def restore(self, trainer: Trainer, step: int) -> None:
        """Put a checkpoint's state into a trainer that was built from the same configuration.

        Raises:
            CheckpointError: If it does not fit.
        """
        directory = step_directory(self.root, step)
        state = _state(trainer)
        _make_complete(state, directory)
        try:
            with _one_process():
                load_state(state, checkpoint_id=directory / "state", no_dist=True)
        except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{directory} does not fit this configuration ({_cause(error)}); was model, tuning or optimizer changed? "
                "Change it back, or take another output_dir"
            ) from error
        set_state_dict(
            trainer.denoiser,
            trainer.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=OPTIONS,
        )
        trainer.schedule.load_state_dict(state["schedule"])
        if trainer.ema is not None:
            trainer.ema.load_state_dict(state["ema"])
        trainer.step, trainer.num_skipped = state["step"], state["num_skipped"]


def step_directory(root: Path, step: int) -> Path:
    """Folder of a step below the checkpoints, the weights or the validations of a run."""
    return root / f"step-{step:06d}"


def _state(trainer: Trainer) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainer.denoiser, trainer.optimizer, options=OPTIONS)
    state: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "schedule": trainer.schedule.state_dict(),
        "step": trainer.step,
        "num_skipped": trainer.num_skipped,
    }
    if trainer.ema is not None:
        state["ema"] = trainer.ema.state_dict()
    return state


def _make_complete(state: dict[str, Any], directory: Path) -> None:
    """Make a place for all that the checkpoint holds: what is left out of the state would start from zero, in silence.

    Some optimizers add numbers to their parameter groups when they first step; those of the checkpoint are taken too.
    """
    metadata = FileSystemReader(directory / "state").read_metadata()
    stepped = {path[2] for path in metadata.planner_data.values() if path[:2] == ("optimizer", "state")}
    if stepped:  # an expert whose noise levels were not drawn yet had no gradient, and has no averages
        averages = state["optimizer"]["state"]
        state["optimizer"]["state"] = {name: averages[name] for name in averages if name in stepped}
    for key, path in metadata.planner_data.items():
        place: Any = state
        for depth, part in enumerate(path):
            if not (part in place if isinstance(place, dict) else part < len(place)):
                if path[:2] != ("optimizer", "param_groups") or depth < len(path) - 1:
                    raise CheckpointError(
                        f"{directory} does not fit this configuration: it has {key}, which the run has no place for. "
                        "Was model, tuning or optimizer changed? Change it back, or take another output_dir"
                    )
                place[part] = None
            place = place[part]


@contextmanager
def _one_process() -> Iterator[None]:
    """Silence torch's remark that there is one process, which is what no_dist=True says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _cause(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        return "; ".join(str(failure[0]) for failure in error.failures.values())
    return str(error)

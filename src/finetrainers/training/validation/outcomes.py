"""What the validations of a run found: which step is the best one, and whether the run is to stop since it gets no better.

All of it is read from the folders of the validations up to a step, so that a run that goes on from a checkpoint knows what
one that was never interrupted does.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetrainers.files.steps import step_directory, step_folders
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checkpoint.saving import Saver
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer
from finetrainers.training.validation.item_losses import read_facts


def best_step(losses: Mapping[int, float], among: Collection[int] | None = None) -> int | None:
    """Find the step with the lowest held-out loss, the first of several; step 0 has no weights of its own, and is none.

    Args:
        losses: By step.
        among: Steps that may be it; None for all.
    """
    allowed = [step for step in losses if step and (among is None or step in among) and math.isfinite(losses[step])]
    return min(allowed, key=lambda step: (losses[step], step), default=None)


def num_worse(losses: Mapping[int, float], *, min_delta: float) -> int:
    """Count the last validations in a row that were no improvement by more than ``min_delta`` on the best before them."""
    best, count = math.inf, 0
    for step in sorted(step for step in losses if step):
        if losses[step] < best - min_delta:
            best, count = losses[step], 0
        else:
            count += 1
    return count


class Outcomes:
    """After each validation: keeps the state and the weights of the best step, and ends the run that gets no better."""

    def __init__(self, session: Session, checkpoints: Checkpoints, saver: Saver) -> None:
        self._session, self._saver = session, saver
        self.losses: dict[int, float] = {}
        """Held-out loss by step, in all processes, of the validations that measured what the last one did."""
        self._known: dict[int, Measured | None] = {}
        self.stopped_early = False
        if session.config.checkpoint.keep_best:
            checkpoints.spared = lambda steps: best_step(dict(self.losses), steps)

    def __call__(self, trainer: Trainer, metrics: object = None) -> None:
        """Read what was measured at this step, if anything was, and do what follows from it."""
        config, step = self._session.config, trainer.step
        if metrics is not None and not config.validation.is_due(step, last=config.train.steps):
            return
        self.losses = self._session.world.first(lambda: self._read(step))
        if config.checkpoint.keep_best and step and best_step(self.losses) == step:
            self._saver.save(trainer, is_best=metrics is not None)
        patience = config.validation.patience
        if patience is not None and num_worse(self.losses, min_delta=config.validation.min_delta) >= patience:
            self._stop(trainer, patience)

    def _stop(self, trainer: Trainer, patience: int) -> None:
        best = best_step(self.losses)
        found = "" if best is None else f"; the best is {self.losses[best]:.5f}, of step {best}"
        if trainer.step < self._session.config.train.steps:
            trainer.is_over = self.stopped_early = True
            self._session.warn(
                f"stopped early at step {trainer.step}: the held-out loss was no better in {patience} "
                f"validation{'s' * (patience > 1)}{found}. Raise validation.patience, or remove it, to continue",
                step=trainer.step,
            )
            if trainer.step:
                self._saver.save(trainer)

    def _read(self, last: int) -> dict[int, float]:
        """Read the held-out losses up to a step, but for those of other samples or noise levels than the last of them."""
        root = self._session.config.output_dir / "validation"
        for step, folder in step_folders(root).items():
            if step <= last and (step not in self._known or step == last):  # that of this step may be written anew
                self._known[step] = _measured(folder)
        known = {step: found for step, found in sorted(self._known.items()) if found is not None}
        if not known:
            return {}
        now = known[max(known)].of
        return {step: found.loss for step, found in known.items() if None in (*found.of, *now) or found.of == now}

    def reason(self, trainer: Trainer) -> Literal["steps", "early_stop", "callback"]:
        """Why the run ended."""
        if self.stopped_early:
            return "early_stop"
        return "callback" if trainer.is_over and trainer.step < self._session.config.train.steps else "steps"

    @property
    def best(self) -> int | None:
        """Step of the lowest held-out loss; None if none was measured."""
        return best_step(self.losses)

    def best_weights(self) -> Path | None:
        """Folder of the weights of the best step, if it is kept."""
        folder = step_directory(self._session.config.output_dir / "weights", self.best or 0)
        return folder if self.best is not None and folder.is_dir() else None


@dataclass(frozen=True, slots=True)
class Measured:
    """A held-out loss, and what it is the mean of."""

    loss: float
    of: tuple[int | None, int | None]
    """Samples, and noise levels of each; earlier versions did not say."""


def _measured(folder: Path) -> Measured | None:
    facts = read_facts(folder)
    loss = facts.get("held_out_loss")
    return None if loss is None else Measured(float(loss), (facts.get("held_out_samples"), facts.get("held_out_levels")))

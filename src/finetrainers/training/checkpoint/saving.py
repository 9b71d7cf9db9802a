"""When a run is saved: where it is due, and where an error or a signal ends it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from finetrainers.errors import CheckpointError, Interrupted, NonFiniteError, OtherProcessError
from finetrainers.events import CheckpointEvent
from finetrainers.files.marks import SAVE_FILE as SAVE_FILE
from finetrainers.files.steps import step_directory
from finetrainers.memory.residency import free_memory
from finetrainers.models import Model
from finetrainers.training.background import Background
from finetrainers.training.cards.cards import Cards
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.export import export_facts, rotate_weights, stage_weights, write_weights
from finetrainers.training.session import Session
from finetrainers.training.trainer import Metrics, Trainer
from finetrainers.tuning import Tuning


class Saver:
    """Writes checkpoints and, with each, the weights that belong to it: staged in the step, written beside the next ones."""

    def __init__(self, session: Session, checkpoints: Checkpoints, model: Model, tuning: Tuning, cards: Cards) -> None:
        self._session, self._checkpoints = session, checkpoints
        self._model, self._tuning, self._cards = model, tuning, cards
        self._last = 0
        """Step whose checkpoint was last written, or tried to be."""
        self._background = Background()
        self._tell: Callable[[], None] | None = None
        """Says that what is being written is on the disk; None if nothing is."""
        self._failure: Exception | None = None
        """Error of a write, which all processes have."""
        session.is_writing = lambda: self._background.is_busy

    def __call__(self, trainer: Trainer, metrics: Metrics) -> None:
        """Save where it is due or asked for, and stop where a signal has come to any process."""
        config, signals = self._session.config, self._session.signals
        asked = self._session.asked() if self._session.world.is_alone else metrics.asked  # what all know of
        if not asked.is_writing:  # in none of the processes: so all of them tell of it after the same step
            self._settle()
        is_last = trainer.step == config.train.steps
        is_due = trainer.step % config.checkpoint.every == 0 or is_last or asked.save
        if is_due and metrics.step == trainer.step:  # else it was not taken, and may have left an update in its middle
            signals.is_asked_to_save = False
            self._save(trainer, with_weights=True, in_background=config.checkpoint.background, asked=asked.save)
        if asked.stop or is_last:
            self._settle()
        if asked.stop:
            signals.stop(f"training, after step {trainer.step}")

    def save(self, trainer: Trainer, *, is_best: bool = False) -> None:
        """Save after this step too, if that is not done; else, if it is the best, let go of the one that was before."""
        self._settle()  # the thread changes which was the last, and all processes have to decide alike
        if trainer.step != self._last:
            self._save(trainer, with_weights=True, in_background=self._session.config.checkpoint.background)
        elif is_best:
            self._session.world.first(lambda: self._rotate(trainer.step))

    def _rotate(self, step: int) -> None:
        self._checkpoints.rotate()
        rotate_weights(self._session.config, step, self._checkpoints.spared)

    def describe(self, trainer: Trainer, _: Metrics) -> None:
        """Put what a validation has found into the card of the weights of its step."""
        config = self._session.config
        if self._session.world.is_first and config.validation.is_due(trainer.step, last=config.train.steps):
            self._cards.write(trainer.step, export_facts(trainer, config, self._model))
            self._cards.tell(self._session.warn)

    def save_if_over(self, trainer: Trainer, _: Metrics) -> None:
        """Save the state of a run that something has ended before its last step."""
        if trainer.is_over:
            self.save(trainer)

    def keep(self, step: int) -> None:
        """Remember that a step's checkpoint is whole."""
        self._last, self._session.signals.kept = step, f"the checkpoint of step {step} is kept"

    def finished_weights(self, trainer: Trainer) -> Path:
        """Return the folder of the weights that were exported last; all but a run of 0 steps has written them."""
        self._settle()
        weights = step_directory(self._session.config.output_dir / "weights", trainer.step)
        if not self._session.world.first(lambda: self._checkpoints.vouches_for(weights, trainer.step)):
            self._export(trainer)
        return weights

    def rescue(self, trainer: Trainer, error: BaseException) -> None:
        """Save the steps since the last checkpoint, whatever ended the run, and then the weights as far as that can be done.

        Raises:
            CheckpointError: If a signal asked for it and it cannot be done. Another error stays the one that is raised.
        """
        messages: list[str] = []
        world = self._session.world
        is_agreed = error is self._failure or isinstance(error, Interrupted | NonFiniteError)
        is_agreed |= error is world.talk.error_of_all and not isinstance(error, OtherProcessError)
        if not (world.is_alone or is_agreed):  # nobody can save what others have a part of
            return
        step, tried = trainer.step, self._last
        try:
            self._settle()
        except Exception as failure:  # noqa: BLE001 - the error before it is the one that is raised
            messages.append(f"the state of step {tried} cannot be saved ({failure}); {self._session.signals.kept}")
        if step != self._last:  # only now: the thread changes it, and all processes have to decide alike
            messages += self._rescue(trainer, is_stop=isinstance(error, Interrupted))
        with suppress(Exception):  # to tell it must not hide the error, which is raised next
            for message in messages:
                self._session.warn(message, step=step)

    def _rescue(self, trainer: Trainer, *, is_stop: bool) -> list[str]:
        """Save state and weights; say what came of it, of which the message of a signal says the first."""
        step, messages = trainer.step, []
        try:
            if not trainer.update.is_whole:
                raise CheckpointError("an update was cut off in the middle")
            trainer.update.drop_gradients()
            free_memory()  # of which there may be none left
            self._save(trainer, with_weights=False, in_background=False)
            messages.append(f"the checkpoint of step {step} is saved: the same command continues from there")
            self._export(trainer)
        except Exception as failure:
            if is_stop and not messages:
                raise
            what = "weights" if messages else "state"
            messages.append(f"the {what} of step {step} cannot be saved ({failure}); {self._session.signals.kept}")
        return messages[is_stop:]

    def _save(self, trainer: Trainer, *, with_weights: bool, in_background: bool, asked: bool = False) -> None:
        """Stage the state, and write it: the weights first, so that where there is a checkpoint, they are there."""
        began = time.perf_counter()
        self._settle()
        step, before = trainer.step, self._last
        config, checkpoints, tuning = self._session.config, self._checkpoints, self._tuning
        weights = stage_weights(trainer, config, self._model, tuning) if with_weights else None
        staged = checkpoints.stage(trainer, copies=in_background)
        self._last, self._session.is_answering = step, asked

        def export() -> Path | None:
            if weights is None:
                return None
            return write_weights(weights, config, tuning, spared=checkpoints.spared, cards=self._cards)

        def write() -> None:
            self._last = before  # what has no checkpoint because its weights cannot be written can still have one
            folder = checkpoints.talk.first(export)
            self._last = step
            checkpoints.write(staged, weights=folder)
            self.keep(step)

        def tell() -> None:
            directory = step_directory(checkpoints.root, step)
            self._session.emit(CheckpointEvent(step=step, directory=str(directory), stall_seconds=stall_seconds))
            if asked and self._session.world.is_first:
                (config.output_dir / SAVE_FILE).unlink(missing_ok=True)
            self._session.is_answering = False
            self._cards.tell(self._session.warn)

        self._background.start(write)
        if not in_background:
            self._background.join()
        stall_seconds = time.perf_counter() - began
        self._tell = tell
        if not in_background:
            self._settle()

    def _settle(self) -> None:
        """Wait until what is being written is on the disk, and tell of it.

        Raises:
            CheckpointError: If it could not be written.
        """
        tell, self._tell = self._tell, None
        try:
            self._background.wait()
        except Exception as error:
            self._failure = error
            raise
        if tell is not None:
            tell()

    def _export(self, trainer: Trainer) -> None:
        config, tuning = self._session.config, self._tuning
        weights = stage_weights(trainer, config, self._model, tuning)
        spared, cards = self._checkpoints.spared, self._cards
        self._session.world.first(lambda: write_weights(weights, config, tuning, spared=spared, cards=cards))

"""When a run is saved: where it is due, and where an error or a signal ends it."""

from contextlib import suppress
from pathlib import Path

from finetrainers.errors import CheckpointError, Interrupted, NonFiniteError
from finetrainers.files.steps import step_directory
from finetrainers.memory.residency import free_memory
from finetrainers.models import Model
from finetrainers.training.checkpoint import Checkpoints
from finetrainers.training.export import export_weights
from finetrainers.training.session import SAVE_FILE, Session
from finetrainers.training.trainer import Metrics, Trainer
from finetrainers.tuning import Tuning


class Saver:
    """Writes checkpoints and, with each, the weights that belong to it."""

    def __init__(self, session: Session, checkpoints: Checkpoints, model: Model, tuning: Tuning) -> None:
        self._session, self._checkpoints = session, checkpoints
        self._model, self._tuning = model, tuning
        self._last = 0
        """Step whose checkpoint was last written, or tried to be."""

    def __call__(self, trainer: Trainer, metrics: Metrics) -> None:
        """Save where it is due or asked for, and stop where a signal has come to any process."""
        config, signals = self._session.config, self._session.signals
        is_due = trainer.step % config.checkpoint.every == 0 or trainer.step == config.train.steps
        asked = self._session.asked() if self._session.world.is_alone else metrics.asked  # what all know of
        if is_due or asked.save:
            signals.is_asked_to_save = False
            self._save(trainer, weights=self._export(trainer))  # weights first: where there is a checkpoint, they are there
            if asked.save and self._session.world.is_first:
                (config.output_dir / SAVE_FILE).unlink(missing_ok=True)
        if asked.stop:
            signals.stop(f"training, after step {trainer.step}")

    def keep(self, step: int) -> None:
        """Remember that a step's checkpoint is whole."""
        self._last, self._session.signals.kept = step, f"the checkpoint of step {step} is kept"

    def finished_weights(self, trainer: Trainer) -> Path:
        """Return the folder of the weights that were exported last; all but a run of 0 steps has written them."""
        weights = step_directory(self._session.config.output_dir / "weights", trainer.step)
        if not self._session.world.first(lambda: self._checkpoints.vouches_for(weights, trainer.step)):
            self._export(trainer)
        return weights

    def rescue(self, trainer: Trainer, error: BaseException) -> None:
        """Save the steps since the last checkpoint, whatever ended the run, and then the weights as far as that can be done.

        Raises:
            CheckpointError: If a signal asked for it and it cannot be done. Another error stays the one that is raised.
        """
        step, messages = trainer.step, []
        is_of_all = self._session.world.is_alone or isinstance(error, Interrupted | NonFiniteError)
        if step == self._last or not is_of_all:  # nobody can save what others have a part of
            return
        try:
            if not trainer.update.is_whole:
                raise CheckpointError("an update was cut off in the middle")
            trainer.update.drop_gradients()
            free_memory()  # of which there may be none left
            self._save(trainer)
            messages.append(f"the checkpoint of step {step} is saved: the same command goes on from there")
            self._export(trainer)
        except Exception as failure:
            if isinstance(error, Interrupted) and not messages:
                raise
            what = "weights" if messages else "state"
            messages.append(f"the {what} of step {step} cannot be saved ({failure}); {self._session.signals.kept}")
        with suppress(Exception):  # to tell it must not hide the error, which is raised next
            for message in messages[isinstance(error, Interrupted) :]:  # the signal's own message says the first
                self._session.warn(message, step=step)

    def _save(self, trainer: Trainer, *, weights: Path | None = None) -> None:
        self._last = trainer.step
        directory = self._session.world.first(lambda: self._checkpoints.save(trainer, weights=weights))
        self.keep(trainer.step)
        self._session.emit("checkpoint", step=trainer.step, directory=str(directory))

    def _export(self, trainer: Trainer) -> Path:
        config = self._session.config
        return self._session.world.first(lambda: export_weights(trainer, config, self._model, self._tuning))

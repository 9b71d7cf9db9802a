"""What follows each step of a run: it is logged, saved, measured, described and watched, in this order."""

from finetrainers.models import Model
from finetrainers.training.alarms import Alarms
from finetrainers.training.cards.cards import Cards
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checkpoint.saving import Saver
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session
from finetrainers.training.trainer import AfterStep, Trainer
from finetrainers.training.validation.outcomes import Outcomes
from finetrainers.training.validation.validate import Validator
from finetrainers.tuning import Tuning


class Following:
    """The parts that a run calls after its steps, which know of each other."""

    def __init__(
        self,
        session: Session,
        prepared: Prepared,
        checkpoints: Checkpoints,
        *,
        model: Model,
        tuning: Tuning,
        resumed: int | None,
    ) -> None:
        """Take the step that the run goes on from, if it does: its checkpoint is kept."""
        self.cards = Cards(session.config, model, tuning, prepared.plan.num_samples)
        self.saver = Saver(session, checkpoints, model, tuning, self.cards)
        if resumed is not None:
            self.saver.keep(resumed)
        self.outcomes = Outcomes(session, checkpoints, self.saver)
        self._validator, self._alarms = Validator(session, prepared), Alarms(session, prepared)

    def before(self, trainer: Trainer) -> None:
        """Measure what the run begins or goes on from."""
        for measure in (self._validator, self._alarms, self.outcomes):
            measure(trainer)

    def after_step(self, log: AfterStep, callbacks: AfterStep) -> tuple[AfterStep, ...]:
        """All that is called after a step, in its order: what is measured is saved before, and an end is seen last."""
        validated = (self._validator, self.saver.describe, self._alarms, self.outcomes)
        return (log, callbacks, self.saver, *validated, self.saver.save_if_over)

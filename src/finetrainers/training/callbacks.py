"""Callbacks of the user's: what the key ``callbacks`` names, and ``train(config, callbacks=[...])`` takes."""

from collections.abc import Sequence

from finetrainers.config import Config
from finetrainers.config.user_code import read_user_code
from finetrainers.errors import ConfigError
from finetrainers.training.trainer import Metrics, Trainer


class Callback:
    """Base class of callbacks; each method does nothing unless it is overridden.

    Each process of a run calls them. Setting ``trainer.is_over`` ends the run after the step, with a checkpoint and weights;
    all processes have to set it after the same step. An error ends the run as an error of ours does: what it has learnt is
    saved; with several processes, what it had learnt at its last checkpoint.
    """

    def before_training(self, trainer: Trainer) -> None:
        """All is loaded, the step that a run goes on from included; called once in each start."""

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """An optimizer step is taken, and neither saved nor validated yet."""

    def after_training(self, trainer: Trainer) -> None:
        """All steps are taken, or the run is over; not called where it was stopped or failed."""


def load_callbacks(config: Config) -> list[type[Callback]]:
    """Load the classes of the callbacks that a configuration names; nothing is made of them.

    Raises:
        ConfigError: If one cannot be loaded, or takes arguments.
    """
    places = enumerate(config.callbacks)
    return [read_user_code(f"callbacks.{number}", place).check(Callback) for number, place in places]


class Callbacks:
    """All of a run, called in their order; the steps that are not taken, since they were not finite, are not among them."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        for number, callback in enumerate(self._callbacks):
            if not isinstance(callback, Callback):
                raise ConfigError(
                    f"callbacks: number {number} is {callback!r}, which is no Callback; derive its class from "
                    "finetrainers.Callback, and give an object of it"
                )

    def before(self, trainer: Trainer) -> None:
        """Call what comes before the first step of this start."""
        for callback in self._callbacks:
            callback.before_training(trainer)

    def __call__(self, trainer: Trainer, metrics: Metrics) -> None:
        """Call what comes after each step."""
        if metrics.step == trainer.step:
            for callback in self._callbacks:
                callback.after_step(trainer, metrics)

    def after(self, trainer: Trainer) -> None:
        """Call what comes after the last step."""
        for callback in self._callbacks:
            callback.after_training(trainer)

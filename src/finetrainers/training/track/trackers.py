"""Trackers of the user's own: what ``track.trackers`` names, and tells of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetrainers.config import Config
from finetrainers.config.user_code import read_user_code
from finetrainers.events import Event, ValidationEvent
from finetrainers.runs.outputs import Sample
from finetrainers.training.track.samples import drawn
from finetrainers.training.track.sinks import curves


class Tracker:
    """Base class of trackers; each method does nothing unless it is overridden.

    Of several processes, the first has it. An error in it ends the run, and what was trained is saved before.
    """

    def begin(self, config: Config) -> None:
        """A run begins, or continues, by this configuration, whose paths are absolute; so does ``finetrainers encode``."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """There are numbers of a step or of a validation: "train/loss", "validation/held_out_loss" and so on."""

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """A validation has generated samples, one for each prompt."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened, as a line of events.jsonl has it; steps and validations too."""

    def end(self) -> None:
        """The run is over, whatever ended it."""


class OwnTracker:
    """Hands events to a tracker of the user's, until it fails."""

    def __init__(self, tracker: Tracker, config: Config) -> None:
        self._tracker = tracker
        self._has_failed = False
        tracker.begin(config)

    def write(self, event: Event) -> None:
        if self._has_failed:  # the error that ended the run is told of, too, and must not be hidden by another
            return
        self._has_failed = True
        numbers = curves(event)
        if numbers:
            self._tracker.log(event.tree()["step"], numbers)
        if isinstance(event, ValidationEvent) and event.samples:
            self._tracker.show(event.step, drawn(event.directory))
        self._tracker.event(event.tree())
        self._has_failed = False

    def close(self) -> None:
        if not self._has_failed:
            self._tracker.end()


def load_trackers(config: Config) -> list[type[Tracker]]:
    """Load the classes of the trackers of the user's own; nothing is made of them.

    Raises:
        ConfigError: If one cannot be loaded, or takes arguments.
    """
    places = enumerate(config.track.trackers)
    return [read_user_code(f"track.trackers.{number}", place).check(Tracker) for number, place in places]

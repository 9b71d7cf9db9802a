"""The cards of all weights that a run exports: each is written with them, and again once its validation is there."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetrainers.config import Config
from finetrainers.files.steps import step_directory, step_folders
from finetrainers.files.whole import MANIFEST
from finetrainers.models import Model
from finetrainers.runs.outputs import Sample, samples_of
from finetrainers.training.cards.card import Card, write_card
from finetrainers.training.validation.item_losses import read_facts
from finetrainers.tuning import ExportFacts, Tuning


@dataclass(frozen=True, slots=True)
class Cards:
    """Writes model cards, in the first process; the thread that writes weights and the one that validates may both call."""

    config: Config
    model: Model
    tuning: Tuning
    num_samples: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Whoever comes second finds what the other has left."""

    untold: list[str] = field(default_factory=list)
    """What was wrong with cards, until it is told: weights and checkpoints do not depend on them."""

    def write(self, step: int, exported: Mapping[str, ExportFacts], *, repo: str | None = None) -> None:
        """Write the card of a step's weights, if they are there; a disk that is full is an error, and nothing else is."""
        weights = step_directory(self.config.output_dir / "weights", step)
        with self._lock:
            if not (weights / MANIFEST).is_file():
                return
            try:
                write_card(weights, self._card(step, exported, repo))
            except FileNotFoundError:  # they are replaced or removed just now
                return
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever files of others hold: the weights are there
                self.untold.append(
                    f"{weights}: the card cannot be written ({type(error).__name__}: {error}); the weights are whole"
                )

    def tell(self, warn: Callable[[str], None]) -> None:
        """Warn of what was wrong."""
        while self.untold:
            warn(self.untold.pop(0))

    def _card(self, step: int, exported: Mapping[str, ExportFacts], repo: str | None) -> Card:
        return Card(
            config=self.config,
            model=self.model,
            tuning=self.tuning,
            exported=exported,
            step=step,
            num_samples=self.num_samples,
            held_out_losses=self._held_out_losses(step),
            samples=self._samples(step),
            repo=repo,
        )

    def _samples(self, step: int) -> list[Sample]:
        return samples_of(self.config.output_dir, step, step_directory(self._validations, step))

    def _held_out_losses(self, step: int) -> dict[int, float]:
        """Of the first validation, and of the last up to a step."""
        steps = [one for one in step_folders(self._validations) if one <= step]
        facts = {one: read_facts(step_directory(self._validations, one)) for one in {*steps[:1], *steps[-1:]}}
        return {one: float(own["held_out_loss"]) for one, own in facts.items() if own.get("held_out_loss") is not None}

    @property
    def _validations(self) -> Path:
        return self.config.output_dir / "validation"

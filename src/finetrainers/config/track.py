"""The ``track`` section: where numbers go."""

from pydantic import Field, field_validator

from finetrainers.config.base import Section
from finetrainers.config.user_code import check_places


class TrackConfig(Section):
    """Where metrics are logged in addition to events.jsonl, which is always written."""

    every: int = Field(default=1, ge=1)
    """Optimizer steps between logged steps (log interval)."""
    report: bool = True
    """Write report.html, with crops of the data, into the run directory after each validation and at the end."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory (extra: tensorboard)."""
    wandb: str | None = None
    """Weights & Biases project (extra: wandb)."""
    trackio: str | None = None
    """trackio project (extra: trackio)."""
    trackers: tuple[str, ...] = ()
    """Your own trackers, each as file.py:Name, a class derived from finetrainers.Tracker."""

    @field_validator("trackers")
    @classmethod
    def _are_places(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        return check_places(trackers)

"""What ``finetrainers init`` asks. Imports no torch: questions come at once."""

from dataclasses import dataclass

from finetrainers.training.init.recipes import Kind


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked."""

    model: str
    data: str
    learn: Kind
    trigger: str | None = None
    pairs: str | None = None
    """Folder of the pictures before the edit, or of control files."""
    card: str | None = None
    """Name or memory of a GPU."""
    output: str | None = None

"""Steps by the name that they have in a configuration. A new one is a file with a factory, and a line in ``steps.py``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from finetrainers.data.curate.expression import Kind
from finetrainers.data.curate.piece import Outcome, Piece

Mark = list[str | int]
"""What an ordered step has to remember of a piece, as JSON holds it."""


class Step(ABC):
    """Does something with one piece, whatever the others are: several threads call it at once."""

    splits: ClassVar[bool] = False
    """Whether it makes many of one, so that it is worth while to share them out anew."""
    scores: Mapping[str, Kind] = {}
    """Scores that it gives to each piece, with what they are."""

    @abstractmethod
    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        """Make pieces of one, or drop it.

        Raises:
            DataError: If the media cannot be read; the piece is dropped then.
        """


class OrderedStep(ABC):
    """Judges a piece by those before it, in the order of the input."""

    @abstractmethod
    def see(self, piece: Piece) -> tuple[Outcome, Mark | None]:
        """Let a piece pass, or drop it; and say what to remember of it."""

    @abstractmethod
    def remember(self, mark: Mark) -> None:
        """Know a piece that ``see`` has let pass, perhaps in an earlier process."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a step can know of the preparation that it is a part of."""

    key: str
    """Of the configuration, such as steps.2."""
    known: Mapping[str, Kind]
    """Scores that pieces have when they come to it."""
    origin_of: Callable[[int], str]
    """Name of a medium by its index."""


Factory = Callable[[Any, Context], Sequence[Step | OrderedStep]]
"""Makes a step, or several that follow each other, of its section; Any: of its own kind."""
FACTORIES: dict[str, Factory] = {}


def register_step(kind: str) -> Callable[[Factory], Factory]:
    """Name the function that makes a step of its section."""

    def register(factory: Factory) -> Factory:
        FACTORIES[kind] = factory
        return factory

    return register

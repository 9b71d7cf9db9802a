"""What the processes of a run let each other know while each works at its own pace: nobody waits for anybody."""

import time
from dataclasses import dataclass, field

from torch.distributed.distributed_c10d import Store

SECONDS_BETWEEN_LOOKS = 1.0
"""At whether another process has failed."""


class Board:
    """Counts and notes that all processes of a run see."""

    def __init__(self, store: Store | None = None) -> None:
        """Share them through a store; without one, alone."""
        self._store = store
        self._counts: dict[str, int] = {}
        self._number = 0

    def add(self, name: str, count: int) -> int:
        """Add to what all processes count under a name; return the sum so far."""
        if self._store is not None:
            return int(self._store.add(name, count))
        self._counts[name] = self._counts.get(name, 0) + count
        return self._counts[name]

    def note(self, name: str) -> None:
        """Let all know of something."""
        self.add(name, 1)

    def is_noted(self, name: str) -> bool:
        """Whether any process has let know of it."""
        if self._store is not None:
            return bool(self._store.check([name]))
        return name in self._counts

    def number(self) -> int:
        """Count the works that are begun: all processes begin the same ones, in the same order."""
        self._number += 1
        return self._number


class LeftToOthersError(Exception):
    """Ends what a process does since another one has failed, which says why."""


@dataclass
class Place:
    """Which of the processes that do some work side by side this one is; alone by default."""

    rank: int = 0
    size: int = 1
    name: str = ""
    """Of the work."""
    board: Board = field(default_factory=Board)
    watched: "Place | None" = None
    """Of the work that this is a process's own part of: who fails there ends this, too."""
    _looked: float = field(default_factory=time.monotonic)

    def add(self, name: str, count: int) -> int:
        """As ``Board.add``, for this work."""
        return self.board.add(f"{self.name}/{name}", count)

    def note(self, name: str) -> None:
        """As ``Board.note``, for this work."""
        self.board.note(f"{self.name}/{name}")

    def is_noted(self, name: str) -> bool:
        """As ``Board.is_noted``, for this work."""
        return self.board.is_noted(f"{self.name}/{name}")

    def fail(self) -> None:
        """Let the others leave off."""
        self.note("failed")

    def look(self) -> None:
        """Leave off if another process has failed; asks at most once a second.

        Raises:
            LeftToOthersError: Which ``World.apart`` takes.
        """
        if self.watched is not None:
            self.watched.look()
        if self.size > 1 and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            if self.is_noted("failed"):
                raise LeftToOthersError

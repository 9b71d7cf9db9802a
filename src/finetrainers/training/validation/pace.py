"""When a process may leave a validation that it shares with others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from finetrainers.data.cache.memory import AnyCache
from finetrainers.distributed.board import Place
from finetrainers.distributed.world import alone
from finetrainers.training.session import Session

Value = TypeVar("Value")


class Pace:
    """Those that share one copy of the weights ask it in step, and leave together: between forward passes and samples.

    All others leave before the next layer, and within a second of that where it was another process that got the signal.
    """

    def __init__(self, session: Session | None = None, place: Place | None = None) -> None:
        """Take what knows of signals and of the other processes; without, nothing stops."""
        self._session, self._place = session, Place() if place is None else place
        self._world = alone() if session is None else session.world

    def within(self) -> None:
        """Stop here, before a layer, if a signal has come or another process has failed; not where weights are shared."""
        if not self._world.shares_weights:
            self._stop(self._has_signal)
            self._place.look()

    def between(self) -> None:
        """Stop here, before a forward pass or a sample, if a signal has come to any process that shares this copy."""
        if self._world.shares_weights:
            self._stop(any(self._world.replica.gather(self._has_signal)))
        else:
            self.within()

    def read(self, do: Callable[[], Value]) -> Value:
        """Read something such that all processes that share this copy have it, or none of them."""
        with self._world.replica.together():
            return do()

    @contextmanager
    def owners(self, cache: AnyCache) -> Iterator[None]:
        """Let the first of the processes that share this copy mend a cache of all, and the others find it done.

        Of caches of their own each mends its own.
        """
        replica = self._world.replica
        with replica.together() if cache.is_own else replica.lead():
            yield

    @property
    def _has_signal(self) -> bool:
        return self._session is not None and self._session.signals.received is not None

    def _stop(self, is_asked: bool) -> None:
        if is_asked and self._session is not None:
            self._session.signals.stop("validating")

"""Small messages among the processes of a run, through a store: no collective of devices, and no time limit."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

from finetrainers.errors import FinetrainersError

Value = TypeVar("Value")
PATIENCE = timedelta(seconds=1)
"""After which a process that waits looks about."""


class Talk:
    """What one process tells the others. All of them make the same calls, in the same order."""

    def __init__(self, rank: int, size: int, store: Store | None = None) -> None:
        """Take part; without a store, alone."""
        self._rank, self._size, self._store = rank, size, store
        self._count = 0

    def branch(self, name: str) -> "Talk":
        """Return another conversation of the same processes, which a thread beside the main one can hold."""
        if self._store is None:
            return Talk(self._rank, self._size)
        return Talk(self._rank, self._size, PrefixStore(name, self._store.clone()))  # type: ignore[attr-defined]  # waits of its own

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        if self._store is None:
            return [value]
        self._count += 1
        self._tell(f"{self._count}/{self._rank}", value)
        values = [self._hear(f"{self._count}/{rank}") for rank in range(self._size)]
        self._store.delete_key(f"{self._count - 1}/{self._rank}")  # which all have read: they have come as far as this
        return values

    def first(self, do: Callable[[], Value]) -> Value:
        """Let the first process do something, and all have what comes of it, be it an error."""
        with self._outcome() as told:
            if self._rank == 0:
                told.append(do())
        value: Value = told[0]
        return value

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Let the first process run the body before the others do; if it fails, they do not begin."""
        if self._rank == 0:
            with self._outcome() as told:
                yield
                told.append(None)
        else:
            with self._outcome():
                pass
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an error in the body of any process be one of all of them, as soon as they are through it."""
        own: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told, and raised again
            own = error
        errors = self.gather(None if own is None else _told(own))
        if own is not None:
            raise own
        for other in errors:
            if other is not None:
                raise other

    def part(self) -> None:
        """Say goodbye; the first process, which holds the store, waits until all others have heard all."""
        if self._rank != 0:
            self._tell(f"goodbye/{self._rank}", None)
            return
        for rank in range(1, self._size):
            self._hear(f"goodbye/{rank}")

    @contextmanager
    def _outcome(self) -> Iterator[list[Any]]:
        """Hand what the body of the first process appends, or its error, to all."""
        told: list[Any] = []
        self._count += 1
        key = f"{self._count}/outcome"
        if self._rank != 0:
            value, error = self._hear(key)
            if error is not None:
                raise error
            told.append(value)
            yield told
            return
        try:
            yield told
        except Exception as error:
            self._tell(key, (None, _told(error)))
            raise
        self._tell(key, (told[0], None))

    def _tell(self, key: str, value: object) -> None:
        if self._store is not None:
            self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # bytes are as good

    def _hear(self, key: str) -> Any:
        assert self._store is not None, "alone, nobody else is heard"
        while True:
            try:
                self._store.wait([key], PATIENCE)
            except DistStoreError:
                continue
            return pickle.loads(self._store.get(key))  # of a process of this very run


def _told(error: Exception) -> Exception:
    """Return an error that another process can raise."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever it is that some error cannot
        return FinetrainersError(f"{type(error).__name__}: {error}")
    return error

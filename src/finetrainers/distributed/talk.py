"""Small messages among the processes of a run, through a store: no collective of devices, and no time limit."""

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store

from finetrainers.errors import FinetrainersError

Value = TypeVar("Value")
PATIENCE_SECONDS = 1.0
"""After which a process that waits says what it waits for."""
SHARE_WAITED = 1 / 8
"""Of the time that a process has waited, it waits on before it looks again: neither the store nor it has much to do."""
LONGEST_WAIT = 0.25


class _Message(NamedTuple):
    """What one process tells."""

    call: str
    """Name of the call that it makes, which all others make too."""
    value: Any = None
    error: Exception | None = None


class Talk:
    """What one process tells the others. All of them make the same calls, in the same order, from their main threads.

    The first process hears all others, and they hear it: a call takes as many messages as there are processes. What has
    been heard is removed from the store, which therefore does not grow.
    """

    def __init__(self, rank: int, size: int, store: Store | None = None, *, look: Callable[[], None] = lambda: None) -> None:
        """Take part; without a store, alone. Who waits calls ``look`` now and then, which raises if nobody will come."""
        self._rank, self._size, self._store = rank, size, store if size > 1 else None
        self._look = look
        self._count = 0
        self.error_of_all: Exception | None = None
        """Of what the first process did for all, who were waiting for it and for nothing else: they can go on together."""

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
        values: list[Value]
        if self._rank != 0:
            self._tell(f"{self._count}/{self._rank}", _Message("gather", value))
            values = self._hear_first("gather")
            return values
        keys = [f"{self._count}/{rank}" for rank in range(1, self._size)]
        try:
            values = [value, *(self._hear(key, "gather") for key in keys)]
        except Exception as error:
            self._tell(f"{self._count}", _Message("gather", error=_told(error)))
            raise
        for key in keys:
            self._store.delete_key(key)
        self._tell(f"{self._count}", _Message("gather", values))
        return values

    def first(self, do: Callable[[], Value]) -> Value:
        """Let the first process do something, and all have what comes of it, be it an error."""
        with self._outcome("first") as told:
            if self._rank == 0:
                told.append(do())
        value: Value = told[0]
        return value

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Let the first process run the body before the others do; if it fails, they do not begin."""
        if self._rank == 0:
            with self._outcome("lead") as told:
                yield
                told.append(None)
        else:
            with self._outcome("lead"):
                pass
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an error in the body of any process be one of all of them, as soon as they are through it.

        A process whose body fails waits for nobody: others may wait for it, in the middle of a collective.
        """
        try:
            yield
        except Exception as error:
            self._count += 1
            key = f"{self._count}/{self._rank}" if self._rank else f"{self._count}"
            self._tell(key, _Message("gather", error=_told(error)))
            raise
        self.gather(None)

    @contextmanager
    def _outcome(self, call: str) -> Iterator[list[Any]]:
        """Hand what the body of the first process appends, or its error, to all."""
        told: list[Any] = []
        self._count += 1
        if self._rank != 0:
            told.append(self._hear_first(call))
            yield told
            return
        key = f"{self._count}"
        try:
            yield told
        except Exception as error:
            self.error_of_all = error
            self._tell(key, _Message(call, error=_told(error)))
            raise
        self._tell(key, _Message(call, told[0]))

    def _hear_first(self, call: str) -> Any:
        """Hear the first process; the last one to hear it removes the message."""
        assert self._store is not None, "alone, nobody else is heard"
        own, key = f"{self._count}/{self._rank}", f"{self._count}"
        value = self._hear(key, call)
        if self._store.add(f"{key}/heard", 1) == self._size - 1:
            self._store.delete_key(key)
            self._store.delete_key(f"{key}/heard")
        if call != "gather":  # where the first process removes it
            self._store.delete_key(own)
        return value

    def _tell(self, key: str, message: _Message) -> None:
        if self._store is not None:
            self._store.set(key, pickle.dumps(tuple(message)))  # type: ignore[arg-type]  # bytes are as good

    def _hear(self, key: str, call: str) -> Any:
        assert self._store is not None, "alone, nobody else is heard"
        is_told, began = call == "gather" or self._rank == 0, time.monotonic()
        while not self._store.check([key]):  # not wait, which logs each time limit
            try:
                self._look()
            except Exception:
                if self._store.check([key]):  # who failed told it here before, in its own words
                    break
                raise
            waited = time.monotonic() - began
            if not is_told and waited > PATIENCE_SECONDS:  # who makes another call would wait for it in vain
                self._tell(f"{key}/{self._rank}", _Message(call))
                is_told = True
            time.sleep(min(max(waited * SHARE_WAITED, 0.0005), LONGEST_WAIT))
        message = _Message(*pickle.loads(self._store.get(key)))  # of a process of this very run
        if message.error is not None:
            if message.call == call != "gather":
                self.error_of_all = message.error
            raise message.error
        if message.call != call:
            raise RuntimeError(
                f"the processes do not make the same calls: number {self._count} is {call} here, in rank {self._rank}, and "
                f"{message.call} in another one"
            )
        return message.value


def _told(error: Exception) -> Exception:
    """Return an error that another process can raise."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever it is that some error cannot
        return FinetrainersError(f"{type(error).__name__}: {error}")
    return error

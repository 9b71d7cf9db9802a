"""Remote objects that are copied to the disk a little before they are read, many at once: most of the time is waiting."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.remote import CONNECTIONS, copies_folder, is_remote
from finetrainers.errors import FinetrainersError

OBJECTS_AHEAD = 2 * CONNECTIONS
"""How many may be there, or on their way, that nobody has read: the disk has a limit."""


class FetchAhead:
    """Copies those of some references that are of other machines, in their order; each that was read makes room for one."""

    def __init__(self, refs: Sequence[str]) -> None:
        far = [] if copies_folder() is None else [ref for ref in refs if is_remote(ref)]
        self._room, self._is_over = threading.Semaphore(OBJECTS_AHEAD), False
        self._pool = ThreadPoolExecutor(CONNECTIONS) if far else None
        if self._pool is not None:
            for ref in far:
                self._pool.submit(self._fetch, ref)

    def _fetch(self, ref: str) -> None:
        self._room.acquire()
        if self._is_over:
            self._room.release()  # for the next that waits
            return
        with suppress(OSError, FinetrainersError):  # who reads it finds out
            blob_of(ref).open().close()

    def was_read(self, ref: str) -> None:
        """Make room for another."""
        if is_remote(ref):
            self._room.release()

    def __enter__(self) -> "FetchAhead":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._is_over = True
            self._room.release(CONNECTIONS)
            self._pool.shutdown(cancel_futures=True)

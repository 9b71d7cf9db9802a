"""Each process of a run learns within seconds that another one failed, is gone, or was asked to stop.

All hold a connection to the first process, which passes on what one of them has to say. The system closes it when a process
dies, however it does. A thread listens, since the main thread may wait within a collective for what is gone.
"""

import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import Store

from finetrainers.distributed.ending import end_process
from finetrainers.distributed.failure import Failure, first_line, is_of_another
from finetrainers.distributed.launch import Launch
from finetrainers.distributed.lines import Lines, addresses, connect, listen
from finetrainers.errors import INTERRUPTED, Interrupted, OtherProcessError, exit_status

GRACE_SECONDS = 5.0
"""After another process failed, for the main thread to come back from what it is in; then the process ends without it."""
FAILED_SECONDS = 1.5
"""For the others to hear of a failure of this process before it ends."""
CLOSING_SECONDS = 30.0
"""For the main thread to close what is open, once it is back."""
SAVING_SECONDS = 600.0
"""After another process was asked to stop and did: this one may be saving."""
MEETING_TIME = timedelta(seconds=60)
FIRST = 0


class Watch:
    """What this process knows of the others'. Alone, nothing happens."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Begin alone; ``begin`` makes one that listens."""
        self.rank, self.size = rank, size
        self.failure: Failure | None = None
        self.asked_to_stop: Callable[[str], None] = lambda _: None
        """Called, in another thread, if another process was asked to stop."""
        self._failed, self._parted, self._told = threading.Event(), threading.Event(), threading.Event()
        self._orders: deque[dict[str, Any]] = deque()
        self._thread: threading.Thread | None = None
        self._leaving: set[int] = set()
        self._met = {rank}
        self._peers: dict[int, Lines] = {}
        self._deadline = float("inf")
        self._token = secrets.token_hex(8)
        self._selector: selectors.BaseSelector
        self._waker: socket.socket
        self._wakeups: socket.socket

    @classmethod
    def begin(cls, launch: Launch, store: Store) -> "Watch":
        """Connect the processes and listen; a store tells where."""
        watch = cls(launch.rank, launch.size)
        watch._selector = selectors.DefaultSelector()
        watch._waker, watch._wakeups = socket.socketpair()
        watch._waker.setblocking(False)
        watch._selector.register(watch._wakeups, selectors.EVENT_READ, None)
        held = [watch._waker, watch._wakeups]
        if launch.rank == FIRST:
            listener = listen()
            store.set("watch", json.dumps([*addresses(launch), listener.getsockname()[1], watch._token]))
            watch._selector.register(listener, selectors.EVENT_READ, listener)
            held.append(listener)
        else:
            store.wait(["watch"], MEETING_TIME)
            *hosts, port, token = json.loads(store.get("watch"))
            about = f"process {os.getpid()} on {socket.gethostname()}"
            hello = {"kind": "hello", "rank": launch.rank, "token": token, "about": about}
            watch._add(FIRST, connect(hosts, port, hello))
        # Children, such as workers of a loader, outlive us by seconds: what they hold would keep connections open.
        os.register_at_fork(after_in_child=lambda: watch._drop(held))
        watch._thread = threading.Thread(target=watch._listen, name="watch", daemon=True)
        watch._thread.start()
        return watch

    # -- called by the main thread --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Raise if another process failed.

        Raises:
            OtherProcessError: With its error.
            Interrupted: If it was asked to stop, and did.
        """
        if self.failure is not None and self.failure.rank != self.rank:
            self._deadline = time.monotonic() + CLOSING_SECONDS
            raise self.failure.as_error()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others of an error of this process, and raise theirs in place of what follows from it."""
        try:
            yield
        except BaseException as error:
            real = self._explained(error)
            self._deadline = time.monotonic() + CLOSING_SECONDS
            if real is error:
                raise
            raise real from None

    def ask_all_to_stop(self, why: str) -> None:
        """Tell the others that this process was asked to stop. A signal's handler may call it: it waits for nothing."""
        self._order({"kind": "stop", "why": f"{why} to rank {self.rank}"})

    def leave(self) -> None:
        """Part from the others, as soon as all are here; or after a time: some may wait in a collective for our end."""
        if self._thread is None:
            return
        is_own = self.failure is not None and self.failure.rank == self.rank
        seconds = FAILED_SECONDS if is_own else GRACE_SECONDS
        self._order({"kind": "leaving", "rank": self.rank})
        self._parted.wait(seconds)
        self._order({"kind": "end"})
        self._thread.join(seconds)
        self._thread = None

    def _explained(self, error: BaseException) -> BaseException:
        """Return the error of another process that this one follows from; else tell the others of this one."""
        if self._thread is None:
            return error
        is_of_others = is_of_another(error)
        if is_of_others or isinstance(error, Interrupted):  # a launcher interrupts the others of one that died
            self._failed.wait(GRACE_SECONDS if is_of_others else 0.2)
            other = self.failure
            if other is not None and other.rank != self.rank and (is_of_others or other.status != INTERRUPTED):
                return other.as_error()
        if is_of_others:
            error = OtherProcessError(f"the connection to another process is lost: {first_line(error)}")
        text = str(error) if exit_status(error) != 1 else f"{type(error).__name__}: {first_line(error)}"
        self._told.clear()
        self._order({"kind": "failed", "rank": self.rank, "status": exit_status(error), "message": text})
        self._told.wait(GRACE_SECONDS)
        return error

    def _order(self, message: dict[str, Any]) -> None:
        if self._thread is None:
            return
        self._orders.append(message)
        with suppress(OSError):  # full: it is awake already
            self._waker.send(b"x")

    # -- in the thread --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0 and self.failure is not None:
                error = self.failure.as_error() if self.failure.rank != self.rank else self.failure.message
                end_process(self.failure.status, str(error))
            for key, _ in self._selector.select(max(0.0, min(left, 3600.0))):
                if key.data is None:
                    self._wakeups.recv(4096)
                elif isinstance(key.data, Lines):
                    self._hear(key.data)
                else:
                    self._add(-1, Lines(key.data.accept()[0]))
            while self._orders:
                order = self._orders.popleft()
                if order["kind"] == "end":
                    self._close()
                    return
                self._receive(order)
                if self.rank != FIRST:
                    self._send(order)
                self._told.set()

    def _hear(self, peer: Lines) -> None:
        """Read what a peer says, or that it is gone."""
        messages, is_open = peer.receive()
        for message in messages:
            if self._peers.get(peer.rank) is not peer:  # not greeted yet
                if message.get("kind") != "hello" or message.get("token") != self._token:
                    is_open = False
                    break
                peer.rank, peer.about = message["rank"], message["about"]
                self._peers[peer.rank] = peer
                self._met.add(peer.rank)
                peer.send({"kind": "welcome"})
            else:
                self._receive(message)
        if is_open:
            return
        self._selector.unregister(peer.socket)
        peer.socket.close()
        if self._peers.pop(peer.rank, None) is not None and peer.rank not in self._leaving:
            text = f"is gone ({peer.about}): killed, as where memory runs out, or crashed; its own output may say more"
            self._receive({"kind": "failed", "rank": peer.rank, "status": 1, "message": text})
        self._note_parting()

    def _receive(self, message: dict[str, Any]) -> None:
        """Act on a message, and pass it on to all, if this is the first process."""
        match message["kind"]:
            case "failed" if self.failure is None:
                self.failure = Failure(message["rank"], message["status"], message["message"])
                grace = SAVING_SECONDS if self.failure.status == INTERRUPTED else GRACE_SECONDS
                if self.failure.rank != self.rank:
                    self._deadline = min(self._deadline, time.monotonic() + grace)
                self._failed.set()
            case "stop":
                self.asked_to_stop(message["why"])
            case "leaving":
                self._leaving.add(message["rank"])
                self._note_parting()
                return
            case "parted":
                self._leaving.add(FIRST)
                self._parted.set()
                return
            case _:
                return
        if self.rank == FIRST:
            self._send(message)

    def _note_parting(self) -> None:
        """See whether all who are there want to leave."""
        if self.rank == FIRST:
            are_all_leaving = FIRST in self._leaving and self._peers.keys() <= self._leaving
            if are_all_leaving and len(self._met) == self.size and not self._parted.is_set():
                self._send({"kind": "parted"})
                self._parted.set()
        elif not self._peers:
            self._parted.set()

    def _send(self, message: dict[str, Any]) -> None:
        for peer in self._peers.values():
            peer.send(message)

    def _add(self, rank: int, peer: Lines) -> None:
        peer.rank = rank
        if rank == FIRST:
            self._peers[rank] = peer
        self._selector.register(peer.socket, selectors.EVENT_READ, peer)

    def _close(self) -> None:
        if self.rank == FIRST and not self._parted.is_set():
            self._send({"kind": "parted"})
        self._drop([key.fileobj for key in list(self._selector.get_map().values())])
        self._selector.close()

    def _drop(self, held: list[Any]) -> None:
        for own in [*held, *(peer.socket for peer in self._peers.values())]:
            with suppress(OSError):
                own.close()

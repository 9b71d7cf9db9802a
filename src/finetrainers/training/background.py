"""Work beside training, in a thread: one piece of it at a time."""

import threading
from collections.abc import Callable

import torch


class Background:
    """Does a piece of work while training goes on."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, do: Callable[[], None]) -> None:
        """Begin; what was begun before has to be waited for."""
        assert self._thread is None, "one piece of work at a time"
        # A daemon: whoever ends the process at once leaves no whole checkpoint, and waits for none.
        self._thread = threading.Thread(target=self._run, args=(do,), name="checkpoint", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it is done."""
        if self._thread is not None:
            self._thread.join()

    def wait(self) -> None:
        """Wait until it is done, and raise its error here."""
        self.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def _run(self, do: Callable[[], None]) -> None:
        try:
            with torch.no_grad():  # which is of each thread
                do()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error

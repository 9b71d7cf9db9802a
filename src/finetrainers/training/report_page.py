"""report.html of a run while it trains; nothing of it can fail the run."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from finetrainers.config import Config
from finetrainers.errors import Interrupted, StorageError
from finetrainers.runs.report.write import PAGE_FILE, ReportWriter

END_SECONDS = 60.0
"""That the end of a run waits for a report that is being written."""
STOP_SECONDS = 5.0
"""That a run that is told to stop waits for it: whoever tells it may not wait for long."""


class ReportPage:
    """report.html of a run that is going on: written beside training after each validation, and once more at the end."""

    def __init__(self, config: Config) -> None:
        self._directory = config.output_dir
        self._writer: ReportWriter | None = None
        self._thread: threading.Thread | None = None
        self._failure = ""
        self._is_told = False
        self.warn: Callable[[str], None] = lambda _: None
        """Says what is wrong with it, once."""

    @property
    def file(self) -> Path:
        """Where it is."""
        return self._directory / PAGE_FILE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):  # who stops at once waits for no report
            self.end(STOP_SECONDS if kind is not None and issubclass(kind, Interrupted) else END_SECONDS)

    def refresh(self) -> None:
        """Begin to bring it up to date; where it is still being written, the next call does."""
        self._tell()
        if self._thread is None or not self._thread.is_alive():
            # A daemon: a process that ends at once waits for no report.
            self._thread = threading.Thread(target=self._write, name="report", daemon=True)
            self._thread.start()

    def end(self, seconds: float = END_SECONDS) -> None:
        """Write how the run has ended, if it had begun; where it is still being written after some seconds, leave it."""
        if self._thread is not None:
            self._thread.join(seconds)
        if self._thread is None or not self._thread.is_alive():
            self._write(is_over=True)
        self._tell()

    def _write(self, *, is_over: bool = False) -> None:
        try:
            self._writer = self._writer or ReportWriter(self._directory)
            if self._writer.has_begun():
                self._writer.write(is_over=is_over)
        except Exception as error:  # noqa: BLE001 - whatever it is, training does not need it
            self._failure = f"{self.file} cannot be written ({type(error).__name__}: {error}); the run is not affected"

    def _tell(self) -> None:
        if self._failure and not self._is_told:
            self._is_told = True
            with suppress(OSError, StorageError):  # a full disk takes no event either
                self.warn(self._failure)

"""How much memory of its own a process takes."""

import threading
from pathlib import Path

IS_KNOWN = Path("/proc/self/smaps_rollup").exists()
"""Linux says how much memory is private."""


class Peak:
    """The most private memory, in MiB, that this process has while the body runs, beyond what it had before."""

    def __enter__(self) -> "Peak":
        self._before, self._is_over = private(), threading.Event()
        self.mib = 0.0
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self.mib = max(self.mib, private() - self._before)

    def __exit__(self, *_: object) -> None:
        self.mib = max(self.mib, private() - self._before)
        self._is_over.set()
        self._watcher.join()


def private() -> float:
    """MiB that are of no file: files that several processes have mapped are in memory once."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 2**10

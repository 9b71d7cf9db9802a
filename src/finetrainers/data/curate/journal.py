"""What a preparation has done, one line a medium, in the order of the input: a killed one goes on after the last line."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any

from finetrainers.config.curate import PrepareConfig
from finetrainers.data.curate.inputs import Inputs
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.whole import name_path, write_whole

STATE_FOLDER = ".prepare"
VERSION = 1
FLUSH_SECONDS = 1.0
"""Of lines that a loss of power may take; their files are written once more."""
Record = dict[str, Any]  # JSON of one medium: prepare.py writes and reads it


class Journal:
    """The journal of one output folder, which this process has for itself while it is open."""

    def __init__(self, config: PrepareConfig, inputs: Inputs) -> None:
        self.folder = config.output.path.expanduser().absolute() / STATE_FOLDER
        self.file = self.folder / "journal.jsonl"
        self._state = _state(config, inputs)
        self._lock: IO[str] | None = None
        self._out: IO[str] | None = None
        self._flushed = 0.0
        self.num_done = 0
        """Media whose lines are there."""

    def __enter__(self) -> "Journal":
        output = self.folder.parent
        if output.exists() and not self.folder.is_dir() and (not output.is_dir() or any(output.iterdir())):
            raise ConfigError(f"output.path: {output} is there and of no preparation; name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("a", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it even after kill -9
            self._check_state()
            self.num_done = self._cut_torn_line()
            self._out = self.file.open("a", encoding="ascii")
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(
                f"output.path: {output} is being prepared by another process; wait for it, or name another"
            ) from None
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._out, self._lock):
            if file is not None:
                file.close()

    def records(self) -> Iterator[Record]:
        """Read all lines."""
        with self.file.open(encoding="ascii") as lines:
            for line in lines:
                yield json.loads(line)

    def append(self, record: Record) -> None:
        """Write a line, which a killed process leaves; now and then they are flushed to the disk."""
        assert self._out is not None, "the journal is open"
        try:
            self._out.write(json.dumps(record) + "\n")
            self._out.flush()
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                os.fsync(self._out.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            name_path(error, self.file)
            raise

    def _check_state(self) -> None:
        """Go on with the same preparation only."""
        file, output = self.folder / "state.json", self.folder.parent
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if any(child != self.folder for child in output.iterdir()):
                raise ConfigError(f"output.path: {output} is there and of no preparation; name a new folder") from None
            write_whole(file, json.dumps(self._state, indent=1) + "\n")
            return
        except ValueError as error:
            raise DataError(f"{file}: is damaged ({error}); name a new output.path") from None
        for key, now in self._state.items():
            if before.get(key) != now:
                raise ConfigError(
                    f"output.path: {output} holds another preparation: {_difference(key, before.get(key), now)}"
                )

    def _cut_torn_line(self) -> int:
        """Take off what a killed process has left of a line; count the whole ones."""
        count = end = 0
        with self.file.open("a+b") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                count, end = count + 1, end + len(line)
            file.truncate(end)
        return count


def _state(config: PrepareConfig, inputs: Inputs) -> Mapping[str, object]:
    """What makes a preparation the same: not the number of workers, nor how paths are written."""
    tree = config.model_dump(mode="json", exclude={"workers": True, "input": True, "output": {"path"}})
    return {"version": VERSION, "steps": tree["steps"], "output": tree["output"], "inputs": [len(inputs), inputs.digest]}


def _difference(key: str, before: object, now: object) -> str:
    way_out = "name a new folder, or give back what was there"
    if key == "inputs" and isinstance(before, list) and isinstance(now, list):
        return f"its input had {before[0]} media, and now there are {now[0]}, or others; {way_out}"
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        place = next(place for place, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
        return _difference(f"{key}.{place}", before[place], now[place])
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        name = next(name for name in now if before[name] != now[name])
        return _difference(f"{key}.{name}", before[name], now[name])
    return f"{key} was {json.dumps(before)} and is {json.dumps(now)}; {way_out}"

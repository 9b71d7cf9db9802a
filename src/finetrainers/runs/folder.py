"""One run directory, read as it grows."""

import math
import os
from array import array
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from finetrainers.config import Config, parse_config
from finetrainers.config.moved import translate
from finetrainers.config.syntax import read_tree
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.marks import is_run
from finetrainers.runs.curves import Columns, Curves, numbers
from finetrainers.runs.inside import inside
from finetrainers.runs.log import Event, read_after
from finetrainers.runs.outputs import LogFile, Sample, Saved, logs, read_json, samples_of, saved, step_folders_inside
from finetrainers.runs.state import Standing, standing
from finetrainers.runs.validations import Validation, as_validation

EVENTS_FILE, CONFIG_FILE, REPORT_FILE = "events.jsonl", "config.yaml", "report.json"


class RunFolder:
    """What a run directory says of its run. Nothing outside it is read, and nothing is written.

    ``update`` reads what is new in events.jsonl; all that follows from events is as of the last update. Folders of
    checkpoints, weights and samples are looked at when they are asked for.
    """

    def __init__(self, path: Path | str) -> None:
        """Name the folder.

        Raises:
            DataError: If it is not a run directory.
        """
        self.path = Path(path).expanduser().resolve()
        if not is_run(self.path) and not (self.path / CONFIG_FILE).is_file():
            raise DataError(f"{path}: this is not a run directory: it has no {CONFIG_FILE}; give the output_dir of a run")
        self.columns = Columns()
        """Numbers of all steps."""
        self.kept: list[Event] = []
        """All events since the run began at step 0, but steps and progress."""
        self.times = array("d")
        """When each event since the run began at step 0 was, those of steps that a kill lost included."""
        self.peak_memory_gb: float | None = None
        """Largest memory that steps of all starts, or the loading before them, tell of, in GB (10^9 bytes)."""
        self.progress: Event | None = None
        """The last progress event of a stage that has not ended."""
        self.rewinds = 0
        """How often steps that were read before were taken back: by a run that went on from an earlier checkpoint."""
        self._offset = 0
        self._identity: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    def inside(self, name: str | os.PathLike[str]) -> Path:
        """Find a file of the run; see ``runs.inside.inside``."""
        return inside(self.path, name)

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The resolved configuration as plain values; empty if there is none, or none that can be read."""
        try:
            return translate(read_tree(self.inside(CONFIG_FILE)))
        except (ConfigError, DataError, OSError):
            return {}

    @cached_property
    def config(self) -> Config | None:
        """The resolved configuration; None where this version does not take it."""
        try:
            return parse_config(self.tree, origin=CONFIG_FILE)
        except (ConfigError, DataError, OSError):
            return None

    def standing(self) -> Standing:
        """How the run stands now; quick, whatever the size of events.jsonl."""
        return standing(self.path)

    def events(self, after: int = 0) -> Iterator[tuple[Event, int]]:
        """Yield the events after an offset in events.jsonl, each with the offset behind it."""
        return read_after(self.inside(EVENTS_FILE), after)

    def update(self) -> int:
        """Read what is new in events.jsonl; return how many events that is."""
        self._begin_anew_if_other()
        count = 0
        for event, self._offset in self.events(self._offset):  # noqa: B020 - each event moves it on
            self._take(event)
            count += 1
        return count

    def _begin_anew_if_other(self) -> None:
        """Forget all if the file is another one, or shorter than what was read."""
        try:
            found = self.inside(EVENTS_FILE).stat()
        except OSError:
            return
        identity = found.st_dev, found.st_ino
        if self._identity not in (None, identity) or found.st_size < self._offset:
            self._forget()
            self._offset = 0
        self._identity = identity

    def _forget(self, before: float = math.inf) -> None:
        """Forget all steps, and what was before a time."""
        self.columns, self.progress, self.peak_memory_gb = Columns(), None, None
        self.kept = [event for event in self.kept if event["time"] >= before]
        self.times = array("d", (time for time in self.times if time >= before))
        self.rewinds += 1

    def _begin_of_planning(self) -> float:
        """When the start that says ``run`` next began to plan; infinity where it did not tell."""
        for event in reversed(self.kept):
            if event["event"] in {"run", "end", "error"}:
                break
            if event["event"] == "stage" and event["stage"] == "planning":
                return float(event["time"]) - float(event["seconds"])
        return math.inf

    def _measure(self, event: Event) -> None:
        """Note when an event was, and the memory that it tells of."""
        told = numbers({name: event[name] for name in ("time", "peak_memory_gb") if name in event})
        if "time" in told:
            self.times.append(told["time"])
        if math.isfinite(told.get("peak_memory_gb", math.nan)):
            self.peak_memory_gb = max(told["peak_memory_gb"], self.peak_memory_gb or 0.0)

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "run":  # which may have other settings than the start before
            for name in ("tree", "config"):
                self.__dict__.pop(name, None)
        if kind == "run" and event.get("resumed_from") is None and any(one["event"] == "run" for one in self.kept):
            self._forget(self._begin_of_planning())  # what was before is of a run that was given up
        elif kind == "run" and event.get("resumed_from") is not None:
            before = len(self.columns)
            self.columns.cut(int(event["resumed_from"]))
            self.rewinds += len(self.columns) < before
        self._measure(event)
        if kind == "step" and isinstance(event.get("step"), int):
            self.rewinds += self.columns.add(event)
        elif kind == "progress":
            self.progress = None if event.get("done") == event.get("total") else event
        elif kind != "step":
            self.progress = None if kind in {"stage", "end", "error"} else self.progress
            self.kept.append(event)

    def of_kind(self, *kinds: str) -> list[Event]:
        """All events of some kinds since the run began, but steps and progress."""
        return [event for event in self.kept if event["event"] in kinds]

    @property
    def begun(self) -> Event | None:
        """The last ``run`` event: what this start was planned with."""
        runs = self.of_kind("run")
        return runs[-1] if runs else None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, as it was last started; else as configured."""
        told = self.begun or {}
        train = self.tree.get("train")
        return int(told.get("steps") or (train.get("steps") if isinstance(train, dict) else 0) or 0)

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, over all starts."""
        total: dict[str, float] = {}
        for event in self.of_kind("stage"):
            total[event["stage"]] = total.get(event["stage"], 0.0) + float(event["seconds"])
        return total

    def curves(self, points: int = 1000, *, names: Collection[str] | None = None, after: int = -1) -> Curves:
        """Columns of the steps, brought to at most so many points; see ``Columns.curves``."""
        return self.columns.curves(points, names=names, after=after)

    def validations(self) -> list[Validation]:
        """All validations, in the order of their steps; of those that were set aside, none."""
        folders = step_folders_inside(self.path, "validation")
        found = {event["step"]: as_validation(event) for event in self.of_kind("validation") if "step" in event}
        return [found[step] for step in sorted(found) if step in folders or not folders]

    def samples(self) -> list[Sample]:
        """All that was generated, by step and by prompt."""
        folders = step_folders_inside(self.path, "validation")
        return [sample for step, folder in folders.items() for sample in samples_of(self.path, step, folder)]

    def checkpoints(self) -> list[Saved]:
        """All checkpoints, whole or not."""
        return saved(self.path, "checkpoints")

    def weights(self) -> list[Saved]:
        """All exported weights, whole or not."""
        return saved(self.path, "weights")

    def logs(self) -> list[LogFile]:
        """Files of the run's other processes."""
        return logs(self.path)

    def report(self) -> dict[str, Any]:
        """Contents of report.json; empty if the run has not come to its end."""
        return read_json(self.path, self.path / REPORT_FILE)

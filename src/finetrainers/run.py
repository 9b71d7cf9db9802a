"""A run's directory and its life: one process at a time, continued or begun, stopped by a signal."""

import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import yaml

from finetrainers.checkpoint import Checkpoints
from finetrainers.config import Config, dump_config, is_folder, load_config
from finetrainers.data.left_out import JOURNAL
from finetrainers.errors import ConfigError, Interrupted, StoppedAtOnceError
from finetrainers.files import to_json, write_whole
from finetrainers.marks import RUN_MARK, is_run, mark_run

FIXED = (
    "seed",
    "model",
    "data",
    "conditioning",
    "tuning",
    "objective",
    "optimizer",
    "schedule",
    "train.batch_size",
    "train.ema_decay",
    "validation.held_out",
    "validation.data",
)
"""Keys that a run cannot change while it goes on: they would make it another run."""

NAMES_BEFORE_THE_MARK = {".lock", f".{RUN_MARK}.tmp"}
"""What a run that was killed before it set the mark leaves: a folder with nothing else is empty."""
NAMES_SHOWN = 5

WORLD_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Environment variables in which launchers (torchrun and accelerate, srun, mpirun) say how many processes they started."""


WEIGHTS_FIT = ("model.", "conditioning.", "tuning.")
"""Settings without which exported weights do not fit a run."""
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""Signals that stop a run: of job managers, of a terminal that is closed, and of Ctrl-C."""
STOPPING_SOON = "saving and stopping as soon as the step is done; Ctrl-C again stops at once"


def absolute(config: Config) -> Config:
    """Make all local paths absolute and write out what follows from other keys: the saved configuration gives the run."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    tree["output_dir"] = _full(config.output_dir)
    tree["cache"] = {**tree.get("cache", {}), "path": _full(config.cache.path)}
    tree["model"]["path"] = _folder(config.model.path)
    for component in tree["model"].get("components", {}).values():
        if component.get("path") is not None:
            component["path"] = _folder(component["path"])
    for data in (*tree["data"], *tree.get("validation", {}).get("data", ())):
        data.update({key: _full(data[key]) for key in ("path", "control_path") if data.get(key) is not None})
    for data, section in zip(tree["data"], config.data, strict=True):
        if section.has_random_views:  # how many is a default that could change while the run goes on
            data["views"] = section.num_views
    if config.validation.prompts is not None:
        tree["validation"]["prompts"] = _full(config.validation.prompts)
    if config.tuning.start_from is not None:
        tree["tuning"]["start_from"] = _full(config.tuning.start_from)
    for name, key in (("model", "adapter"), ("conditioning", "signal")):
        _make_file_absolute(tree.get(name, {}), key)
    return Config.model_validate(tree)


def _make_file_absolute(section: dict[str, Any], key: str) -> None:
    """Make the path in file.py:name absolute, if that is the key's value."""
    file, colon, name = (section.get(key) or "").rpartition(":")
    if colon:
        section[key] = f"{_full(file)}:{name}"


def _full(path: Path | str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the path out") from None


def _folder(path: str) -> str:
    return _full(path) if is_folder(path) else path  # else an id on the Hub


def refuse_further_processes() -> None:
    """Refuse a start by a launcher of several processes, each of which would be a run of its own in the same directory.

    Raises:
        ConfigError: If this process is one of several.
    """
    sizes = {name: int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name, "").isdecimal()}
    if int(os.environ.get("SLURM_PROCID", "0") or 0) > 0:  # a script of sbatch itself is number 0, alone
        sizes["SLURM_NTASKS"] = int(os.environ.get("SLURM_NTASKS", "1") or 1)
    for name, size in sizes.items():
        if size > 1:
            raise ConfigError(
                f"parallel: this version trains in one process on one device, and {name} is {size}: start it once, without "
                "torchrun, accelerate launch, srun or mpirun, or with one process of these"
            )


def places(config: Config) -> dict[str, Path]:
    """Folders and files of the user's by key, for messages."""
    found: dict[str, Path | str | None] = {"output_dir": config.output_dir, "cache.path": config.cache.path}
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            found |= {f"{name}.{index}.path": data.path, f"{name}.{index}.control_path": data.control_path}
    found |= {"validation.prompts": config.validation.prompts, "tuning.start_from": config.tuning.start_from}
    if is_folder(config.model.path):
        found["model.path"] = config.model.path
    return {key: Path(place) for key, place in found.items() if place is not None}


@contextmanager
def run_directory(config: Config) -> Iterator[Path]:
    """Hold a run's directory: make it, mark it, save the configuration, keep other processes out.

    Raises:
        ConfigError: If another process has it, if it holds what no run made, or a run that has another configuration.
    """
    directory = config.output_dir
    _refuse_folder_of_others(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        _hold(lock, directory)
        file, checkpoints = directory / "config.yaml", Checkpoints(directory / "checkpoints", keep=config.checkpoint.keep)
        if checkpoints.steps():
            if file.exists():
                check_same_run(load_config(file), config)
            mark_run(directory)
        else:  # nothing that could be continued: a baseline that is there may be of other settings
            mark_run(directory)
            checkpoints.set_aside(-1)
            (directory / JOURNAL).unlink(missing_ok=True)
        write_whole(file, dump_config(config))
        yield directory


def _refuse_folder_of_others(directory: Path) -> None:
    """Refuse a folder that holds something and that no run made: what is in it would be overwritten."""
    if not directory.exists() or is_run(directory) or _is_earlier_run(directory):
        return
    names = sorted({file.name for file in directory.iterdir()} - NAMES_BEFORE_THE_MARK)
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise ConfigError(
            f"output_dir: {directory} is a folder that no run made; it holds {', '.join(names[:NAMES_SHOWN])}{more}. "
            "Name a new folder"
        )


def _is_earlier_run(directory: Path) -> bool:
    """Whether a run of a version that set no marks made a folder: it has our configuration and our events."""
    try:
        tree = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        with (directory / "events.jsonl").open("rb") as lines:
            event = json.loads(next(lines, b""))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, yaml.YAMLError):
        return False
    has_sections = isinstance(tree, dict) and {"output_dir", "model", "data", "tuning"} <= tree.keys()
    return has_sections and isinstance(event, dict) and {"v", "event"} <= event.keys()


def _hold(lock: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it even after kill -9
        os.register_at_fork(after_in_child=lock.close)  # of all holders: a loader worker may outlive us by seconds
    except BlockingIOError:
        raise ConfigError(
            f"output_dir: {directory} is in use by another process; stop it, or take another directory"
        ) from None
    except OSError as error:  # of a file system without locks
        error.filename = lock.name
        raise


def check_same_run(old: Config, new: Config) -> None:
    """Refuse to continue a run with settings that would make it another one.

    Raises:
        ConfigError: Naming each key that differs, with both values.
    """
    trees = [config.model_dump(mode="json", by_alias=True) for config in (old, new)]
    changed = []
    for key in FIXED:
        before, after = (_at(tree, key) for tree in trees)
        changed += [f"{name}: {_shown(a)} -> {_shown(b)}" for name, a, b in _differences(key, before, after)]
    if changed:
        lines = "\n  ".join(changed)
        weights = sorted((new.output_dir / "weights").glob("step-*"))
        does_fit = not any(line.startswith(WEIGHTS_FIT) for line in changed)
        anew = f", which can begin from these weights: tuning.start_from={weights[-1]}" if weights and does_fit else ""
        raise ConfigError(
            f"output_dir: {new.output_dir} holds a run with other settings:\n  {lines}\n"
            f"Give the old values to continue it, or take another output_dir{anew}"
        )


def _shown(value: Any) -> str:
    """Write a value as one would give it in a configuration file."""
    return to_json(value) if value is None or isinstance(value, bool) else repr(value)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _differences(f"{key}.{name}", before.get(name), after.get(name))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{key}.{index}", *pair)
    elif before != after:
        yield key, before, after


class StopSignals:
    """Turns signals and Ctrl-C into a request to save and stop, which the run looks at where it can."""

    def __init__(self, *, kept: str, at_once: str | None = None) -> None:
        """Say what stays if a second Ctrl-C stops at once, and, where nothing has to be finished or saved, what is done."""
        self.received: str | None = None
        self.kept = kept
        self._at_once = at_once
        self._num_interrupts = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen while the body runs; only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Whoever ignores a signal, as nohup and shells in the background do, has a reason.
        numbers = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_if_received(self, doing: str) -> None:
        """Stop here if a signal has come.

        Raises:
            Interrupted: Which becomes exit status 3.
        """
        if self.received is not None:
            raise Interrupted(f"stopped by {self.received} while {doing}; start the same command again to go on")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:
            raise StoppedAtOnceError(f"stopped; {self.kept}")
        self.received = signal.Signals(number).name + (" (Ctrl-C)" if number == signal.SIGINT else "")
        if self._at_once is not None:
            self.raise_if_received(self._at_once)
        if number == signal.SIGINT:
            with suppress(OSError):  # not print: the signal may have come in the middle of one
                os.write(2, f"\nfinetrainers: {STOPPING_SOON}\n".encode())

"""A run's directory and its life: one process at a time, continued or begun, stopped by a signal."""

import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from finetrainers.config import Config, dump_config, is_folder, load_config
from finetrainers.errors import ConfigError, Interrupted
from finetrainers.files import to_json, write_whole

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


@contextmanager
def run_directory(config: Config) -> Iterator[Path]:
    """Hold a run's directory: make it, save the configuration, keep other processes out.

    Raises:
        ConfigError: If another process has it, or if the run that is there has another configuration.
    """
    directory = config.output_dir
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        _hold(lock, directory)
        file = directory / "config.yaml"
        if file.exists() and (directory / "checkpoints").exists():
            check_same_run(load_config(file), config)
        else:  # nothing that could be continued: a baseline that is there may be of other settings
            shutil.rmtree(directory / "validation", ignore_errors=True)
        write_whole(file, dump_config(config))
        yield directory


def _hold(lock: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it even after kill -9
        os.register_at_fork(after_in_child=lock.close)  # of all holders: a loader worker may outlive us by seconds
    except BlockingIOError:
        raise ConfigError(
            f"output_dir: {directory} is in use by another process; stop it, or take another directory"
        ) from None


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
        raise ConfigError(
            f"output_dir: {new.output_dir} holds a run with other settings:\n  {lines}\n"
            "Give the old values to continue it, or take another output_dir"
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
    """Turns SIGTERM and SIGUSR1 into a request to save and stop, which the run looks at where it can."""

    def __init__(self) -> None:
        self.received: str | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen while the body runs; only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGUSR1)
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
        self.received = signal.Signals(number).name

"""A run's directory: one process at a time, continued or begun."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import yaml

from finetrainers.config import Config, dump_config, load_config
from finetrainers.data.catalog.left_out import JOURNAL
from finetrainers.errors import ConfigError
from finetrainers.events import read_event
from finetrainers.files.marks import RUN_MARK, is_run, mark_run
from finetrainers.files.whole import sweep, write_whole
from finetrainers.training.chapters import FOLDER as CHAPTERS
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checks.same_run import check_same_run

NAMES_BEFORE_THE_MARK = {".lock", f".{RUN_MARK}.tmp"}
"""What a run that was killed before it set the mark leaves: a folder with nothing else is empty."""


NAMES_SHOWN = 5
LOOKING_SECONDS = 0.1
"""For whoever looks whether a process has the directory (``runs.state``) to let go of it."""
ENDING_SECONDS = 60.0
"""For the processes of a run that is started once more to be gone, and with them what they hold."""


@contextmanager
def run_directory(config: Config, *, attempt: int = 0) -> Iterator[Path]:
    """Hold a run's directory: make it, mark it, save the configuration, keep other processes out.

    Args:
        config: Of the run.
        attempt: How often a launcher has started it before; those processes may still be ending.

    Raises:
        ConfigError: If another process has it, if it holds what no run made, or a run that has another configuration.
    """
    directory = config.output_dir
    refuse_folder_of_others(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        _hold(lock, directory, seconds=ENDING_SECONDS if attempt else LOOKING_SECONDS)
        for kind in ("checkpoints", "weights", "validation"):
            sweep(directory / kind)
        file, checkpoints = directory / "config.yaml", Checkpoints(directory / "checkpoints", keep=config.checkpoint.keep)
        goes_on = bool(checkpoints.steps())
        if goes_on:
            if file.exists():
                check_same_run(load_config(file), config)
            mark_run(directory)
        else:  # nothing that could be continued: a baseline that is there may be of other settings
            mark_run(directory)
            checkpoints.set_aside(-1)
            (directory / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(directory / CHAPTERS, ignore_errors=True)
        if not (goes_on and file.exists()):  # else once it is known that it does go on
            save_config(config)
        yield directory


def save_config(config: Config) -> None:
    """Write config.yaml into a run's directory; which step one start was told to go back to is no setting of the run."""
    checkpoint = config.checkpoint.model_copy(update={"resume": "latest"})
    write_whole(config.output_dir / "config.yaml", dump_config(config.model_copy(update={"checkpoint": checkpoint})))


def refuse_folder_of_others(directory: Path) -> None:
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
            read_event(next(lines, b""))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, yaml.YAMLError):
        return False
    return isinstance(tree, dict) and {"output_dir", "model", "data", "tuning"} <= tree.keys()


def _hold(lock: TextIO, directory: Path, *, seconds: float) -> None:
    """Hold the lock, waiting for its holder to end as long as is said."""
    until = time.monotonic() + seconds
    try:
        while not _is_held(lock, is_last=time.monotonic() >= until):
            time.sleep(0.1)
        os.register_at_fork(after_in_child=lock.close)  # of all holders: a loader worker may outlive us by seconds
    except BlockingIOError:
        raise ConfigError(
            f"output_dir: {directory} is in use by another process; stop it, or take another directory"
        ) from None
    except OSError as error:  # of a file system without locks
        error.filename = lock.name
        raise


def _is_held(lock: TextIO, *, is_last: bool) -> bool:
    """Try to hold the lock; of the last try, what is in the way is an error."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it even after kill -9
    except BlockingIOError:
        if is_last:
            raise
        return False
    return True

"""The folders that the real run will write into: looked at, and not touched."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from finetrainers.config import Config, load_config
from finetrainers.errors import ConfigError, StorageError
from finetrainers.files.marks import CACHE_TAG
from finetrainers.files.storage import check_writable, may
from finetrainers.training.check.findings import Findings
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checks.parts import check_start, check_steps_left
from finetrainers.training.checks.same_run import check_same_run
from finetrainers.training.directory import refuse_folder_of_others


def check_places(config: Config, findings: Findings) -> int | None:
    """Look whether the run may write where it will, and go on with what is there; return the step that it goes on from."""
    with findings.part("folders: permissions and locks"):
        check_writable("output_dir", config.output_dir)
        refuse_folder_of_others(config.output_dir)
        _check_lock(config.output_dir / ".lock")
    with findings.part("cache"):
        check_writable("cache.path", config.cache.path)
        _check_cache(config.cache.path)
    with findings.part("what the run resumes from") as part:
        resumed = _check_resumed(config, findings.warn)
        part.notes.append("a new run" if resumed is None else f"the checkpoint of step {resumed}")
        return resumed
    return None


def _check_lock(lock: Path) -> None:
    """Refuse a run directory that another process holds; its lock is asked for, and let go at once.

    Raises:
        ConfigError: If it is held.
    """
    if not lock.is_file():
        return
    with lock.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"output_dir: {lock.parent} is in use by another process; stop it, or take another directory"
            ) from None


def _check_cache(directory: Path) -> None:
    """Refuse files of a cache that may not be written, such as those of another user.

    Raises:
        StorageError: Naming one.
    """
    if not (directory / CACHE_TAG).is_file():
        return
    for place in directory.iterdir():
        if place.name != CACHE_TAG and not may(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
            raise StorageError(f"cache.path: {place}: may not be written; change its permissions, or name another place")


def _check_resumed(config: Config, warn: Callable[[str], None]) -> int | None:
    """Find what the run would go on from, as ``train`` does, and warn of checkpoints that are passed over.

    Raises:
        ConfigError: If it is another run, or further already.
        CheckpointError: If what is asked for is not there.
    """
    file, keep = config.output_dir / "config.yaml", config.checkpoint.keep
    checkpoints = Checkpoints(config.output_dir / "checkpoints", keep=keep, warn=warn)
    if checkpoints.steps() and file.exists():
        check_same_run(load_config(file), config)
    resumed = checkpoints.find(config.checkpoint.resume)
    if resumed is None:
        check_start(config)
    elif config.train.epochs is None:  # else once their steps are counted
        check_steps_left(config, resumed)
    return resumed

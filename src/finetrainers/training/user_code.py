"""Code of the user's in a run: looked at before anything is loaded, and compared with what the run began with."""

import re
from collections.abc import Mapping
from pathlib import Path

from finetrainers.config import Config
from finetrainers.config.of_set import about_set, set_keys
from finetrainers.config.user_code import is_place, read_user_code
from finetrainers.data.sources.own import check_layout
from finetrainers.training.callbacks import load_callbacks
from finetrainers.training.objective import check_objective
from finetrainers.training.track.trackers import load_trackers

DECIDING = ("model.adapter", "objective.kind", "optimizer.name")
"""Keys whose code decides what is learnt: with another one it would be another run."""
LISTED = re.compile(r"(track\.trackers|callbacks)\.\d+")
"""Keys of files that a run may have more of, or fewer."""
SIGNAL = re.compile(r"conditioning[.\d]*\.signal")
"""What a run finds in its data: an item of the cache belongs to the code that made it."""


def check_user_code(config: Config) -> None:
    """Load all that is in files of the user's, but for the model and the optimizer, which have checks of their own.

    Raises:
        ConfigError: If something cannot be loaded.
    """
    keys = [*set_keys(config.data), *set_keys(config.validation.data, "validation.data")]
    for data, key in zip((*config.data, *config.validation.data), keys, strict=True):
        if is_place(data.layout):
            with about_set(key):
                check_layout(data)
    check_objective(config)
    load_trackers(config)
    load_callbacks(config)


def digests_of(config: Config) -> dict[str, str]:
    """Hash each file of the user's, by what it is recorded as.

    Raises:
        ConfigError: If one cannot be read.
    """
    return {recorded_as(key, place): read_user_code(key, place).digest for key, place in config.user_code.items()}


def recorded_as(key: str, place: str) -> str:
    """Name what a run records of a file: the key, but of trackers and callbacks the file and the name, not their number.

    One in front of it, or one less, is no change of it, nor is another folder.
    """
    section = LISTED.fullmatch(key)
    return key if section is None else f"{section[1]}.{Path(place).name}"


def changed_code(config: Config, before: Mapping[str, str]) -> dict[str, str]:
    """Find the files of the user's that are not as they were at the last start, by their keys; new ones are none."""
    now = digests_of(config)
    return {
        key: place.rpartition(":")[0]
        for key, place in config.user_code.items()
        if before.get(own := recorded_as(key, place), now[own]) != now[own]
    }


def about_changed(config: Config, before: Mapping[str, str]) -> list[str]:
    """Say which files of the user's are others now, of those with which a run may go on."""
    return [
        f"{key}: {file} has changed since the run was last started: it continues with the new one"
        for key, file in changed_code(config, before).items()
        if key not in DECIDING and not SIGNAL.fullmatch(key)
    ]

"""Whether all processes of a run were given the same program and configuration, and find the same files."""

import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from finetrainers.config import Config
from finetrainers.config.differing import differences
from finetrainers.distributed.world import World
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.whole import write_whole
from finetrainers.models import Model
from finetrainers.training.lock import code_digest
from finetrainers.training.prepared import Prepared
from finetrainers.training.versions import versions

Found = TypeVar("Found")
KEYS_SHOWN = 5
NOTE = ".here"
"""File in a run directory, for a moment: whether all processes see it."""
SHOWING_SECONDS = 10.0
"""For a file system of several hosts to show to one what another has just written."""


class _Own(NamedTuple):
    """What one process has."""

    versions: Mapping[str, str]
    code: str
    config: Mapping[str, Any]


def check_alike(world: World, config: Config) -> str | None:
    """Refuse processes with other programs than the first; all of them call this together.

    Returns:
        What to warn of: other configurations than that of the first process, which counts.

    Raises:
        ConfigError: Naming a process, its host and what differs.
    """
    if world.launch.size == 1:
        return None
    warning = None
    for who, where, own, first in _of_each(world, _Own(versions(), code_digest(), config.model_dump(mode="json"))):
        for name in sorted(first.versions.keys() | own.versions.keys()):
            one, other = (each.versions.get(name, "none") for each in (first, own))
            if one != other:
                raise ConfigError(f"{name}: {who} has {other}, and {where} {one}; install the same on all")
        if own.code != first.code:
            raise ConfigError(f"finetrainers: {who} has other source files than {where}; install the same on all hosts")
        keys = [each.key for each in differences(first.config, own.config)]
        if keys and warning is None:
            shown = ", ".join(keys[:KEYS_SHOWN]) + ", ..." * (len(keys) > KEYS_SHOWN)
            warning = f"{who} was given another configuration ({shown}); that of process 0 counts"
    return warning


def _of_each(world: World, own: Found) -> list[tuple[str, str, Found, Found]]:
    """Gather what all processes have: of each, its name, that of the first, and what both have."""
    every = world.talk.gather((socket.gethostname(), own))
    host, first = every[0]
    return [
        (f"process {rank} (on {name})", f"process 0 (on {host})", each, first) for rank, (name, each) in enumerate(every)
    ]


class _Found(NamedTuple):
    """What one process finds where the configuration says that things are."""

    sets: tuple[tuple[str, int, str], ...]
    """Path of each data set, how many items it has, and a hash of what the order depends on."""
    captions: tuple[str | None, str | None]
    """Of what is trained on and of what is held out."""
    encoders: tuple[str, str]


def check_same_data(world: World, prepared: Prepared) -> None:
    """Refuse processes that find other data than the first, or other encoders: each plans all samples for itself.

    Raises:
        DataError: Naming a process, its host and what differs.
    """
    if world.is_alone:
        return
    for who, where, own, first in _of_each(world, _found(prepared)):
        for (_, count, digest), (path, first_count, first_digest) in zip(own.sets, first.sets, strict=True):
            if digest != first_digest:
                less = f"{count} items in {path}, and {where} {first_count}"
                found = less if count != first_count else f"other files in {path} than {where}"
                raise DataError(f"data: {who} finds {found}; let all hosts see the same, and start the same command again")
        if own.captions != first.captions:
            raise DataError(f"data: {who} finds other captions than {where}; let all hosts see the same files")
        for encoder, other, what in zip(own.encoders, first.encoders, ("VAE", "text encoders"), strict=True):
            if encoder != other:
                raise DataError(f"model.path: {who} finds another {what} than {where}; let all hosts have the same files")


def _found(prepared: Prepared) -> _Found:
    plan = prepared.plan
    catalogs = [own.catalog for own in prepared.plans if not own.catalog.known_as]  # chapters compare their own
    sets = [
        (data.config.path, len(data.table), replace(catalog, sets=(data,)).fingerprint())
        for catalog in catalogs
        for data in catalog.sets
    ]
    return _Found(tuple(sets), (prepared.captions, prepared.held_out_captions), (plan.latents_encoder, plan.text_encoder))


def check_same_weights(world: World, model: Model) -> None:
    """Refuse processes that find other weights to train than the first: each copy would go a way of its own.

    Raises:
        ConfigError: Naming a process and its host.
    """
    if world.is_alone:
        return
    for who, where, own, first in _of_each(world, model.fingerprint()):
        if own != first:
            raise ConfigError(
                f"model.path: {who} finds other weights there than {where}; let all hosts have the same files (of a model "
                "on the Hub: name its model.revision)"
            )


def check_shared(world: World, directory: Path) -> None:
    """Refuse a run directory that not all processes see: each writes its part of checkpoints there.

    Raises:
        ConfigError: Naming a process and its host.
    """
    if world.is_alone:
        return
    note = directory / NOTE
    text = world.first(lambda: _write(note))
    every = _of_each(world, _shows(note, text))
    world.first(lambda: note.unlink(missing_ok=True))
    for who, where, is_there, _ in every:
        if not is_there:
            raise ConfigError(
                f"output_dir: {who} does not see in {directory} what {where} writes there; name a folder on a file system "
                "that all hosts share"
            )


def _write(note: Path) -> str:
    """Write a file with a text that no other has; return the text."""
    text = secrets.token_hex(8)
    write_whole(note, text)
    return text


def _shows(note: Path, text: str) -> bool:
    """Whether a file has this text, or comes to have it."""
    until = time.monotonic() + SHOWING_SECONDS
    while True:
        with suppress(OSError):
            if note.read_text(encoding="ascii") == text:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.1)

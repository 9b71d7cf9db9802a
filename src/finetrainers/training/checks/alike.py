"""Whether all processes of a run were given the same program and the same configuration."""

import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from finetrainers.config import Config
from finetrainers.config.differing import differences
from finetrainers.distributed.world import World
from finetrainers.errors import ConfigError
from finetrainers.training.lock import code_digest
from finetrainers.training.versions import versions

KEYS_SHOWN = 5


class _Own(NamedTuple):
    """What one process has."""

    host: str
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
    every = world.talk.gather(_Own(socket.gethostname(), versions(), code_digest(), config.model_dump(mode="json")))
    first, warning = every[0], None
    for rank, own in enumerate(every):
        who, where = f"process {rank} (on {own.host})", f"process 0 (on {first.host})"
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

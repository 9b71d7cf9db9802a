"""How the processes of a run find each other."""

import errno
import os
import socket
import sys
import time
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # which is public
from torch.distributed.distributed_c10d import PrefixStore, Store

from finetrainers.distributed.launch import Launch
from finetrainers.distributed.watch import Watch
from finetrainers.errors import ConfigError

MEETING_SECONDS = 300.0
"""For all processes to be there: hosts of one job may begin minutes apart."""
SECONDS_BETWEEN_REPORTS = 15.0
"""Of who is missing."""
FREEING_SECONDS = 60.0
"""For the port to be free again in a run that is started once more."""
SECONDS_BETWEEN_LOOKS = 0.05
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Environment variable of torchrun, which has a store of its own where its processes are to meet."""
MISSING_SHOWN = 10


def meet(launch: Launch) -> Store:
    """Return a store that all processes of the run have reached.

    Raises:
        ConfigError: If it cannot be reached, or if one does not come: with its rank.
    """
    place = f"{launch.address}:{launch.port}"
    try:
        store = PrefixStore(f"finetrainers/{launch.attempt}", _open_store(launch))
    except (RuntimeError, OSError, ValueError) as error:
        if _is_in_use(error):
            raise ConfigError(
                f"parallel: port {launch.port} of this host is in use, by another job or one that is ending; set "
                "MASTER_PORT to a free one, the same for all processes"
            ) from None
        raise ConfigError(
            f"parallel: process {launch.rank} of {launch.size} cannot reach the first one at {place} "
            f"({str(error).splitlines()[0]}); see that it runs, and that MASTER_ADDR and MASTER_PORT name its host and a "
            "free port there"
        ) from None
    _wait_for_all(launch, store)
    return store


def watch_others(launch: Launch, store: Store) -> Watch:
    """Connect to the others.

    Raises:
        ConfigError: If there is no way to the first one.
    """
    try:
        return Watch.begin(launch, store)
    except (DistError, OSError) as error:
        raise ConfigError(
            f"parallel: process {launch.rank} on {socket.gethostname()} cannot reach the first one ({error}); the hosts of "
            "a run have to reach each other at all ports"
        ) from None


def _open_store(launch: Launch) -> Store:
    """Open the launcher's store, or the one that the first process keeps."""
    limit = timedelta(seconds=MEETING_SECONDS)
    is_agents = os.environ.get(AGENT_STORE) == str(True)
    until = time.monotonic() + (FREEING_SECONDS if launch.attempt else 0.0)
    while True:
        try:
            return TCPStore(
                launch.address,
                launch.port,
                is_master=launch.rank == 0 and not is_agents,
                timeout=limit,
                wait_for_workers=False,
            )
        except (RuntimeError, OSError) as error:
            if not _is_in_use(error) or time.monotonic() > until:
                raise
            time.sleep(0.2)  # a process of the last time is ending, or its children are


def _is_in_use(error: Exception) -> bool:
    return "EADDRINUSE" in str(error) or os.strerror(errno.EADDRINUSE).lower() in str(error).lower()


def _wait_for_all(launch: Launch, store: Store) -> None:
    """Wait until all processes are there, and say now and then who is not."""
    keys = [f"here/{rank}" for rank in range(launch.size)]
    store.set(keys[launch.rank], socket.gethostname())
    until = time.monotonic() + MEETING_SECONDS
    report = time.monotonic() + SECONDS_BETWEEN_REPORTS
    while not _are_there(store, keys):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        now = time.monotonic()
        if now < min(until, report):
            continue
        missing = [str(rank) for rank, key in enumerate(keys) if not _are_there(store, [key])]
        names = ", ".join(missing[:MISSING_SHOWN]) + ", ..." * (len(missing) > MISSING_SHOWN)
        report = now + SECONDS_BETWEEN_REPORTS
        if now >= until:
            raise ConfigError(
                f"parallel: of {launch.size} processes, {len(missing)} did not come within {MEETING_SECONDS:.0f} s: "
                f"rank {names}; see that all are started, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
            )
        if launch.rank == 0 and missing:
            sys.stderr.write(f"finetrainers: waiting for rank {names} of {launch.size}\n")
            sys.stderr.flush()


def _are_there(store: Store, keys: list[str]) -> bool:
    """Look, without waiting: a time limit of the store's own would be logged."""
    try:
        return bool(store.check(keys))
    except DistError:
        raise ConfigError("parallel: the first process ended before all were there; its own output says why") from None

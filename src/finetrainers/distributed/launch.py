"""How this process was launched: what torchrun, accelerate, srun, mpirun and Kubernetes say of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from finetrainers.errors import ConfigError

DEFAULT_PORT = 29500


@dataclass(frozen=True, slots=True)
class Launch:
    """Which of the processes of a run this is, and where they meet."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of its host."""
    local_size: int = 1
    address: str = "127.0.0.1"
    """Host of the first process."""
    port: int = DEFAULT_PORT


STYLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun, accelerate; Kubernetes without the local ones
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Environment variables of launchers: rank, number of processes, and both among those of the host."""


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Read the variables of the first launcher that has set them.

    Raises:
        ConfigError: If a variable is missing or no number.
    """
    for rank, size, local_rank, local_size in STYLES:
        if rank in environ and size in environ and _number(environ, size) > 1:
            return Launch(
                rank=_number(environ, rank),
                size=_number(environ, size),
                local_rank=_number(environ, local_rank, 0),
                local_size=_number(environ, local_size, 1),
                address=environ.get("MASTER_ADDR", "127.0.0.1"),
                port=_number(environ, "MASTER_PORT", DEFAULT_PORT),
            )
    return Launch()


def refuse_further_processes() -> None:
    """Refuse a start by a launcher of several processes of what one process does.

    Raises:
        ConfigError: If this process is one of several.
    """
    size = read_launch(os.environ).size
    if size > 1:
        raise ConfigError(
            f"this command works in one process on one device, and a launcher has started {size}: start it once, without "
            "torchrun, accelerate launch, srun or mpirun, or with one process of these"
        )


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default)).partition("(")[0]  # Slurm: 4(x2)
    if not text.isdecimal():
        raise ConfigError(f"parallel: the launcher's environment variable {name} is {text!r}, and not a number")
    return int(text)

"""How this process was launched: what torchrun, accelerate, srun, mpirun and Kubernetes say of it."""

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from finetrainers.distributed.hosts import expand_hosts, expand_tasks
from finetrainers.errors import ConfigError

LOCAL_HOST = "127.0.0.1"
DEFAULT_PORT = 29500
JOB_PORTS = range(20000, 30000)
"""Ports that follow from the number of a job, so that two jobs on one host do not meet; below those of the system."""
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Environment variables that say how often this very run was started before."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Which of the processes of a run this is, and where they meet."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of its host."""
    local_size: int = 1
    address: str = LOCAL_HOST
    """Host of the first process."""
    port: int = DEFAULT_PORT
    attempt: int = 0
    """How often a launcher has started this very run before: processes of then may still be ending."""


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Read the variables of the first launcher that has set them.

    Raises:
        ConfigError: If a variable is missing, is not a number, or contradicts another one.
    """
    environ = {name: value for name, value in environ.items() if value}
    attempt = sum(_number(environ, name, 0) for name in RESTARTS)  # a job that starts again counts its own from 0
    readers: list[Callable[[Mapping[str, str]], Launch | None]]
    readers = [_torchrun, _slurm, *(partial(_mpi, names=names) for names in MPI_NAMES)]
    for read in readers:
        found = read(environ)
        if found is not None and found.size > 1:
            return Launch(found.rank, found.size, found.local_rank, found.local_size, found.address, found.port, attempt)
    return Launch(attempt=attempt)


def is_one_of_several(environ: Mapping[str, str]) -> bool:
    """Whether a launcher has started several processes, as far as its variables can be read."""
    try:
        return read_launch(environ).size > 1
    except ConfigError:
        return False


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


def _torchrun(environ: Mapping[str, str]) -> Launch | None:
    """Of torchrun, accelerate launch, and Kubernetes, which sets no local ones: each of its pods is one process."""
    if _number(environ, "WORLD_SIZE", 1) == 1:
        return None
    in_pod = _number(environ, "PET_NPROC_PER_NODE", 1, other=1)
    if "LOCAL_RANK" not in environ and in_pod > 1:
        raise ConfigError(
            f"parallel: the environment variable PET_NPROC_PER_NODE is {in_pod}, and asks for torchrun, which starts as "
            "many processes in each pod: the pod's command is torchrun -m finetrainers train CONFIG"
        )
    is_alone_on_host = "LOCAL_RANK" not in environ
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return _launch(environ, names, needs_address=is_alone_on_host, port=DEFAULT_PORT)


MPI_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Variables of Open MPI and of those made after MPICH: rank, number of processes, and both among those of the host."""
MPI_JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
"""Variables that differ between two jobs of mpirun and are alike in one."""


def _mpi(environ: Mapping[str, str], names: tuple[str, str, str, str]) -> Launch | None:
    if _number(environ, names[1], 1) == 1:
        return None
    job = next((environ[name] for name in MPI_JOBS if name in environ), None)
    port = DEFAULT_PORT if job is None else JOB_PORTS[zlib.crc32(job.encode()) % len(JOB_PORTS)]
    is_one_host = _number(environ, names[3], 1) == _number(environ, names[1])
    return _launch(environ, names, needs_address=not is_one_host, port=port)


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    """Of a task of srun. The shell of sbatch is no task, whatever number of them its job has."""
    if "SLURM_PROCID" not in environ:
        return None
    size = "SLURM_STEP_NUM_TASKS"
    if size not in environ and _number(environ, "SLURM_PROCID") > 0:
        size = "SLURM_NTASKS"
    if _number(environ, size, 1) == 1:
        return None
    nodes = next((environ[name] for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST") if name in environ), "")
    hosts = expand_hosts(nodes)
    tasks = expand_tasks(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID", 0)
    own = tasks[node] if node < len(tasks) else _number(environ, size) if len(hosts) == 1 else 1
    # Numbers of jobs and of their steps follow each other.
    number = _number(environ, "SLURM_JOB_ID", 0) + _number(environ, "SLURM_STEP_ID", 0)
    return _launch(
        {"SLURM_LOCAL_SIZE": str(own), **({"MASTER_ADDR": hosts[0]} if len(hosts) > 1 else {}), **environ},
        ("SLURM_PROCID", size, "SLURM_LOCALID", "SLURM_LOCAL_SIZE"),
        needs_address=len(hosts) != 1,
        port=JOB_PORTS[number % len(JOB_PORTS)],
    )


def _launch(environ: Mapping[str, str], names: tuple[str, str, str, str], *, needs_address: bool, port: int) -> Launch:
    """Read the variables of these names, and see whether they fit each other."""
    rank, size, local_rank, local_size = names
    found = Launch(
        rank=_number(environ, rank),
        size=_number(environ, size),
        local_rank=_number(environ, local_rank, 0),
        local_size=_number(environ, local_size, _number(environ, local_rank, 0) + 1),
        address=environ.get("MASTER_ADDR", LOCAL_HOST),
        port=_number(environ, "MASTER_PORT", port),
    )
    for name, value, of, number in (
        (rank, found.rank, size, found.size),
        (local_rank, found.local_rank, local_size, found.local_size),
        (local_size, found.local_size - 1, size, found.size),
    ):
        if value >= number:
            raise ConfigError(
                f"parallel: the launcher's environment variables contradict each other: {name} is "
                f"{environ.get(name, value)} and {of} is {number}; start the run again, or "
                "unset them to train in one process"
            )
    if needs_address and "MASTER_ADDR" not in environ:
        raise ConfigError(
            f"parallel: {size} is {found.size}, and the environment variable MASTER_ADDR does not say where the processes "
            "meet: set it to the host of process 0, and MASTER_PORT to a port that is free there"
        )
    return found


def _number(environ: Mapping[str, str], name: str, default: int | None = None, *, other: int | None = None) -> int:
    """Read a number; ``other`` stands for what is none."""
    if name not in environ and default is not None:
        return default
    text = environ.get(name)
    if text is None:
        raise ConfigError(
            f"parallel: the launcher's environment variable {name} is missing, although others are set; start the run by "
            "torchrun, accelerate launch, srun or mpirun, or unset them all to train in one process"
        )
    if not text.isdecimal():
        if other is not None:
            return other
        raise ConfigError(f"parallel: the launcher's environment variable {name} is {text!r}, and not a number")
    return int(text)

"""How this process was launched: this version trains in one."""

import os

from finetrainers.errors import ConfigError

WORLD_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Environment variables in which launchers (torchrun and accelerate, srun, mpirun) say how many processes they started."""


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

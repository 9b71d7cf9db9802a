"""The ``parallel`` section: how many devices share the work."""

from typing import Literal

from finetrainers.config.base import Section


class ParallelConfig(Section):
    """How many devices share the work. This version trains on one."""

    replicate: Literal[1] = 1
    """Copies of the model (DDP)."""
    shard: Literal[1] = 1
    """Devices that share one copy's weights (FSDP2)."""
    context: Literal[1] = 1
    """Devices that share one sample's tokens (context parallelism)."""

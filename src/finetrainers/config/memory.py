"""The ``memory`` section: what trades time for memory."""

from finetrainers.config.base import Section


class MemoryConfig(Section):
    """What trades time for memory."""

    vae_tiling: bool = False
    """Encode and decode large frames in tiles."""
    vae_slicing: bool = False
    """Encode and decode the items of a batch one by one."""

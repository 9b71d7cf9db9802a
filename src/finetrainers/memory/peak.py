"""How much memory was in use at most."""

import resource
import sys

import torch


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory so far in GB (10^9 bytes): the device's allocator's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9

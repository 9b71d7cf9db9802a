"""Copies between a device and pinned host memory, made beside what the device computes.

On a CPU they are plain copies, so that all that is built on them can be tried there. On the meta device, where memory is
counted and nothing is computed, what is on the host is a tensor of the right shape without a memory of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetrainers.memory.meter import Meter


@dataclass(slots=True)
class OnItsWay:
    """A copy that may still be being made: what uses it waits first, and what it was made from stays until then."""

    tensor: Tensor
    device: torch.device
    """Of both, the one that is not the host."""
    done: torch.cuda.Event | None = None

    def wait(self) -> Tensor:
        """Let what the device computes next come after the copy; the host does not wait."""
        if self.done is not None:
            torch.cuda.current_stream(self.device).wait_event(self.done)
            self.done = None
        return self.tensor


class Link:
    """Between one device and the host; copies of one direction are made one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._up, self._down = (torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2))

    def new_host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make a tensor on the host, of which the device can copy while it computes."""
        if self.device.type == "meta":
            return torch.empty((), dtype=dtype, device="meta").expand(*shape)
        return torch.empty(*shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def to_host(self, tensor: Tensor) -> OnItsWay:
        """Copy a tensor of the device; the caller keeps it until the copy was waited for."""
        counting = Meter.current()
        if counting is not None:
            counting.work.to_host_bytes += tensor.nbytes
        return self._copied(tensor, self.new_host(tensor.shape, tensor.dtype), self._down)

    def to_device(self, tensor: Tensor, stride: Sequence[int]) -> OnItsWay:
        """Copy a tensor of the host into memory of what the device computes; once waited for, it may be dropped."""
        copy = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=self.device)
        return self._copied(tensor, copy, self._up)

    def _copied(self, tensor: Tensor, copy: Tensor, stream: torch.cuda.Stream | None) -> OnItsWay:
        if self.device.type == "meta":
            counting = Meter.current()
            if counting is not None:
                counting.work.link_bytes += tensor.nbytes
            return OnItsWay(copy, self.device)
        if stream is None:
            return OnItsWay(copy.copy_(tensor), self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))  # what made the tensor, or used the memory of the copy
        with torch.cuda.stream(stream):
            copy.copy_(tensor, non_blocking=True)
        return OnItsWay(copy, self.device, stream.record_event())

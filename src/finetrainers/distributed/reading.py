"""Files that one process of each host reads, for all of that host: its memory and its disk serve each tensor once."""

import math
import socket
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from finetrainers.distributed.world import World

END, FAILED = -1, -2
"""In place of a tensor's number."""
LINE_BYTES = 64
"""Where in a cache line of the CPU weights begin decides how its kernels add up, and so the last bits of what they make."""


class SharedReading:
    """Hands what one process of a host reads to the others of it, tensor by tensor."""

    def __init__(self, world: World) -> None:
        """Find out who is on which host. All processes have to do so at once."""
        # A launcher that does not say how many processes a host has may have started each in a container of its own.
        launch = world.launch
        host = socket.gethostname() if launch.local_size > 1 else f"{socket.gethostname()}, process {launch.rank}"
        hosts = world.talk.gather(host)
        self._leader, self._group, self._size = launch.rank, None, 1
        self._device = world.device
        for name in dict.fromkeys(hosts):
            ranks = [rank for rank, own in enumerate(hosts) if own == name]
            group: ProcessGroup | None = distributed.new_group(ranks) if len(ranks) > 1 else None
            if name == host:
                self._leader, self._group, self._size = ranks[0], group, len(ranks)
        self.is_leader = self._leader == launch.rank
        """Whether this process reads."""

    def share(self, tensors: Iterator[tuple[str, Tensor]], wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors, on the device; only the process that reads takes them from the iterator.

        Args:
            tensors: What is read; its error is one of all processes of the host.
            wanted: By name, what has the shapes and types, the same in each process.
        """
        names = list(wanted)
        numbers = {name: number for number, name in enumerate(names)}
        if not self.is_leader:
            while (heard := self._hear())[0] != END:
                number, begin = heard
                yield names[number], self._send(_room(wanted[names[number]], begin, self._device))
            return
        try:
            for name, tensor in tensors:
                own = tensor.to(wanted[name].dtype).contiguous().to(self._device)
                self._tell(numbers[name], own.data_ptr() % LINE_BYTES)
                yield name, self._send(own)
        except Exception as error:
            self._tell(FAILED)
            self._send_error(error)
            raise
        self._tell(END)

    def _hear(self) -> tuple[int, int]:
        heard = torch.zeros(2, dtype=torch.int64)
        distributed.broadcast(heard, self._leader, group=self._group)
        number, begin = heard.tolist()
        if number == FAILED:
            raise self._send_error(None)
        return number, begin

    def _tell(self, number: int, begin: int = 0) -> None:
        if self._size > 1:
            distributed.broadcast(torch.tensor([number, begin]), self._leader, group=self._group)

    def _send(self, tensor: Tensor) -> Tensor:
        if self._size > 1:
            distributed.broadcast(tensor.view(-1).view(torch.uint8), self._leader, group=self._group)
        return tensor

    def _send_error(self, error: Exception | None) -> Exception:
        told = [error]
        if self._size > 1:
            distributed.broadcast_object_list(told, self._leader, group=self._group, device=torch.device("cpu"))
        assert told[0] is not None, "the process that reads has told why it cannot"
        return told[0]


def _room(like: Tensor, begin: int, device: torch.device) -> Tensor:
    """Make room for a tensor; on the CPU it begins at this byte of a cache line, as what was read does."""
    if device.type != "cpu":
        return torch.empty(like.shape, dtype=like.dtype, device=device)
    size = math.prod(like.shape) * like.dtype.itemsize
    memory = torch.empty(size + LINE_BYTES, dtype=torch.uint8)
    start = (begin - memory.data_ptr()) % LINE_BYTES
    return memory[start : start + size].view(like.dtype).view(like.shape)

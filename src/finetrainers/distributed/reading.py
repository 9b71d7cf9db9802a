"""Files that one process of each host reads, for all of that host: its memory and its disk serve each tensor once."""

import socket
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from finetrainers.distributed.world import World

END, FAILED = -1, -2
"""In place of a tensor's number."""


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
            while (number := self._hear()) != END:
                own = wanted[names[number]]
                yield names[number], self._send(torch.empty(own.shape, dtype=own.dtype, device=self._device))
            return
        try:
            for name, tensor in tensors:
                own = tensor.to(wanted[name].dtype).contiguous().to(self._device)
                self._tell(numbers[name])
                yield name, self._send(own)
        except Exception as error:
            self._tell(FAILED)
            self._send_error(error)
            raise
        self._tell(END)

    def _hear(self) -> int:
        number = torch.zeros((), dtype=torch.int64)
        distributed.broadcast(number, self._leader, group=self._group)
        if number == FAILED:
            raise self._send_error(None)
        return int(number)

    def _tell(self, number: int) -> None:
        if self._size > 1:
            distributed.broadcast(torch.tensor(number), self._leader, group=self._group)

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

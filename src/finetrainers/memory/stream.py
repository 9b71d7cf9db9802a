"""Blocks of a denoiser whose weights are in pinned host memory, and on the device only around their turn.

A block's tensors lie side by side in one piece of host memory, so that one copy brings them. While the block is called, its
modules hold tensors of the device; else they hold those of the host, by which weights are saved, exported and updated.
Autograd keeps what it saves of the device's tensors for as long as the backward pass of the block needs it, whatever the
modules hold. That is why blocks have to be checkpointed: else it would keep all from the forward pass on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from finetrainers.memory.inner import made_of, plain_tensors
from finetrainers.memory.link import Link, OnItsWay

AHEAD = 2
"""Blocks that are on their way to the device while one is computed."""
ALIGNMENT_BYTES = 256
"""Of each tensor within its piece of memory: as torch's allocator aligns, since kernels depend on it."""
CACHE_LINE_BYTES = 64
"""On a CPU, products round by where in a line their factors begin: streamed weights begin where they did."""


def streamed(count: int, resident: int) -> list[int]:
    """Choose which of so many blocks are streamed, evenly among those that stay: copies hide behind these, too."""
    moving = count - resident
    return [number for number in range(count) if (number + 1) * moving // count > number * moving // count]


class _Slot(NamedTuple):
    """A parameter or a buffer of a block."""

    held: dict[str, Any]  # of a module: parameters or buffers by name
    name: str
    tensor: Tensor
    """On the host."""


class _Span(NamedTuple):
    """Where a plain tensor is in a piece of memory."""

    start: int
    end: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _HostBlock:
    """The weights of one block on the host."""

    def __init__(self, block: nn.Module, link: Link, *, is_trained_too: bool) -> None:
        slots = list(_slots(block, is_trained_too=is_trained_too))
        plain = [inner for slot in slots for inner in plain_tensors(slot.tensor)]
        self._spans = list(_spans(plain))
        self._memory = link.new_host((self._spans[-1].end if self._spans else 0,), torch.uint8)
        is_meta = self._memory.device.type == "meta"
        values = [_without_memory(tensor) for tensor in plain] if is_meta else self._views(self._memory)
        for value, tensor in zip(values, plain, strict=True):
            if not is_meta:
                value.copy_(tensor)
        moved = iter(values)
        self.slots = [slot._replace(tensor=made_of(slot.tensor, moved)) for slot in slots]
        self.hold([slot.tensor for slot in self.slots])

    @property
    def num_bytes(self) -> int:
        return self._memory.numel()

    def send(self, link: Link) -> OnItsWay:
        """Begin to copy the block's memory to the device."""
        return link.to_device(self._memory, (1,))

    def tensors(self, memory: Tensor) -> list[Tensor]:
        """Make the block's tensors of a copy of its memory; one that trains passes its gradient to that of the host."""
        plain = iter(self._views(memory))
        return [_arrived(slot.tensor, plain) for slot in self.slots]

    def hold(self, tensors: Sequence[Tensor | None]) -> None:
        """Let the modules of the block hold other tensors, in the order of the slots."""
        for slot, tensor in zip(self.slots, tensors, strict=True):
            slot.held[slot.name] = tensor

    def _views(self, memory: Tensor) -> list[Tensor]:
        return [memory[own.start : own.end].view(own.dtype).as_strided(own.shape, own.stride) for own in self._spans]


def _slots(block: nn.Module, *, is_trained_too: bool) -> Iterator[_Slot]:
    for module in block.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and (is_trained_too or not tensor.requires_grad):
                    yield _Slot(held, name, tensor)


def _spans(plain: Sequence[Tensor]) -> Iterator[_Span]:
    start = 0
    for tensor in plain:
        dense = tensor if _is_dense(tensor) else tensor.contiguous()
        if tensor.device.type == "cpu":
            start += tensor.data_ptr() % CACHE_LINE_BYTES
        end = start + dense.nbytes
        yield _Span(start, end, dense.shape, dense.stride(), dense.dtype)
        start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory, in whatever order of its dimensions."""
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() == extent


def _without_memory(tensor: Tensor) -> Tensor:
    """Make a tensor of the same shape that takes no memory of the device, where memory is counted."""
    return torch.empty((), dtype=tensor.dtype, device="meta").expand(tensor.shape)


def _arrived(host: Tensor, plain: Iterator[Tensor]) -> Tensor:
    arrived: Tensor = _Arrive.apply(host, next(plain)) if host.requires_grad else made_of(host, plain)  # type: ignore[no-untyped-call]
    return arrived


class _Arrive(torch.autograd.Function):
    """A weight of the host where its copy is on the device: the gradient goes back, and is complete when it is there."""

    @staticmethod
    def forward(ctx: Any, host: Tensor, copy: Tensor) -> Tensor:
        ctx.device = host.device
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.device), None


class BlockStream:
    """Brings the blocks of one denoiser to the device, those that come next ahead of their turn."""

    def __init__(self, hosts: Sequence[_HostBlock], link: Link) -> None:
        self._hosts, self._link = hosts, link
        self._copies: dict[int, OnItsWay] = {}

    @property
    def on_device(self) -> tuple[int, ...]:
        """Numbers of the blocks that are on the device, or on their way; what autograd keeps does not count."""
        return tuple(self._copies)

    def bring(self, number: int) -> None:
        """Have a block brought, and those that come next."""
        wanted = [number, *self._next(number)]
        self._drop_all_but(wanted)
        for own in wanted:
            if own not in self._copies:
                self._copies[own] = self._hosts[own].send(self._link)

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Let a block hold its weights on the device; afterwards only those that come next stay there."""
        self.bring(number)
        host = self._hosts[number]
        host.hold(host.tensors(self._copies[number].wait()))
        try:
            yield
        finally:
            host.hold([slot.tensor for slot in host.slots])
            self._drop_all_but(self._next(number))

    @contextmanager
    def without(self, number: int) -> Iterator[None]:
        """Let a block hold nothing of what is streamed."""
        host = self._hosts[number]
        held = [slot.held[slot.name] for slot in host.slots]
        host.hold([None] * len(held))
        try:
            yield
        finally:
            host.hold(held)

    def _next(self, number: int) -> list[int]:
        """Say which blocks come next: up, where a backward pass will follow also down from the last, and down in it."""
        last = len(self._hosts) - 1
        if torch._C._current_graph_task_id() != -1:  # in a backward pass
            return list(range(number - 1, max(number - 1 - AHEAD, -1), -1))
        ahead = list(range(number + 1, min(number + AHEAD, last) + 1))
        if torch.is_grad_enabled():
            turn = [last + last + 1 - step for step in range(number + 1, number + AHEAD + 1) if step > last]
            ahead += [step for step in turn if step >= 0 and step not in ahead]
        return ahead

    def _drop_all_but(self, wanted: Sequence[int]) -> None:
        for number in set(self._copies).difference(wanted):
            self._copies.pop(number).wait()  # its memory is free for what is computed next, and must not be written then


class Streamed:
    """A block whose weights come for each call, which is around what is compiled and within what is checkpointed."""

    _turns: tuple[BlockStream, int] | None
    """What brings them, and its number there; None for a block that stays, and shares what is compiled."""

    def bring(self) -> None:
        """See to it that the weights are on the device before anything that is computed next."""
        if self._turns is not None:
            stream, number = self._turns
            stream.bring(number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # as nn.Module's
        with nullcontext() if self._turns is None else self._turns[0].turn(self._turns[1]):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # of the block

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Leave what is streamed where it is, wherever the denoiser is moved to."""
        with nullcontext() if self._turns is None else self._turns[0].without(self._turns[1]):
            return super()._apply(fn, recurse)  # type: ignore[misc]


def _streamed_class(block_class: type[nn.Module]) -> type[nn.Module]:
    """Derive from the class of a block, as torch's fully_shard does; the name stays, by which blocks are found."""
    return type(block_class.__name__, (Streamed, block_class), {"__module__": block_class.__module__})


def stream_blocks(
    blocks: Sequence[nn.Module], device: torch.device, *, resident: int, is_trained_too: bool = False
) -> BlockStream:
    """Keep the weights of blocks on the host, but for so many that stay on the device.

    Args:
        blocks: In the order in which they are computed.
        device: Where they are computed.
        resident: How many stay.
        is_trained_too: Whether weights that train are streamed as well, and so updated on the host. If not, only frozen ones
            are, and what trains, such as an adapter, stays on the device.
    """
    link = Link(device)
    chosen = [blocks[number] for number in streamed(len(blocks), resident)]
    stream = BlockStream([_HostBlock(block, link, is_trained_too=is_trained_too) for block in chosen], link)
    classes = {block_class: _streamed_class(block_class) for block_class in dict.fromkeys(type(block) for block in blocks)}
    for block in blocks:
        block.__class__ = classes[type(block)]
        assert isinstance(block, Streamed)
        block._turns = (stream, chosen.index(block)) if block in chosen else None
    return stream

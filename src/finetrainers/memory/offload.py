"""What the blocks of a denoiser are given, kept on the host between the forward and the backward pass."""

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from finetrainers.memory.link import Link, OnItsWay

MIN_BYTES = 1 << 20
"""Memory from which a tensor is taken to the host: what is smaller costs more time than it frees."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Kept:
    """A tensor that was taken to the host."""

    host: OnItsWay
    shape: torch.Size
    stride: tuple[int, ...]
    given: Tensor | None
    """The tensor itself, until the copy is made."""
    before: "tuple[weakref.ref[_Kept], ...]"
    """What the block before was given: in the backward pass it is needed next."""
    back: OnItsWay | None = None


class ActivationOffload:
    """Takes what checkpointed blocks keep, their arguments, to the host, and brings it back one block ahead.

    Tensors that all blocks are given, such as the prompt, stay: the denoiser itself keeps them through its forward pass.
    """

    def __init__(self, device: torch.device, *, min_bytes: int | None = None) -> None:
        self._link = Link(device)
        self._min_bytes = MIN_BYTES if min_bytes is None else min_bytes
        self._given: tuple[weakref.ref[Tensor], ...] = ()
        self._last: list[_Kept] = []

    def __call__(self, args: Sequence[object]) -> AbstractContextManager[object]:
        """Make a context in which one block is run; what torch's checkpoint saves in it are the block's arguments."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        before = {id(ref()) for ref in self._given}
        shared = {_memory_of(tensor) for tensor in tensors if id(tensor) in before}
        self._given = tuple(weakref.ref(tensor) for tensor in tensors)
        leaving = tuple(weakref.ref(kept) for kept in self._last)
        self._let_go()
        return saved_tensors_hooks(lambda tensor: self._pack(tensor, shared, leaving), self._unpack)

    def _let_go(self) -> None:
        """Drop what was copied while the block before was computed."""
        for kept in self._last:
            kept.host.wait()
            kept.given = None
        self._last = []

    def _pack(self, tensor: Tensor, shared: set[int], before: tuple[weakref.ref[_Kept], ...]) -> Tensor | _Kept:
        # Not the size of the tensor: a small view keeps the whole memory that it is a part of.
        is_small = tensor.untyped_storage().nbytes() < self._min_bytes
        if is_small or isinstance(tensor, torch.nn.Parameter) or _memory_of(tensor) in shared:
            return tensor
        given = tensor.detach()
        kept = _Kept(self._link.to_host(given), given.shape, given.stride(), given, before)
        self._last.append(kept)
        return kept

    def _unpack(self, packed: Tensor | _Kept) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        for ref in packed.before:
            earlier = ref()
            if earlier is not None and earlier.back is None and earlier.given is None:
                earlier.back = self._bring(earlier)
        if packed.given is not None:  # of the last block
            given, packed.given = packed.given, None
            packed.host.wait()
            return given
        back = packed.back or self._bring(packed)
        packed.back = None
        return back.wait()

    def _bring(self, kept: _Kept) -> OnItsWay:
        return self._link.to_device(kept.host.tensor, kept.stride)


def _memory_of(tensor: Tensor) -> int:
    """Tell memories apart; addresses do not on the meta device."""
    return int(tensor.untyped_storage()._cdata)

"""What a step on the meta device would have a GPU do, by kind of kernel: the time that it takes follows from this."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kernel = Literal[
    "product",
    "product_float32",
    "convolution",
    "attention",
    "attention_backward",
    "attention_narrow",
    "attention_narrow_backward",
    "other",
    "fused",
]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""Matrix products in 16 bits and in float32, convolutions, attention in both directions, the same with narrow heads, all
else, and all else where it is compiled."""
NARROW = 64
"""Width of heads up to which attention's kernels are slower."""


@dataclass(slots=True)
class Work:
    """What kernels do."""

    flop: Counter[Kernel] = field(default_factory=Counter)
    """Operations, two for each multiplication with an addition."""
    moved: Counter[Kernel] = field(default_factory=Counter)
    """Bytes that are read and written."""
    kernels: Counter[Kernel] = field(default_factory=Counter)
    """How many there are."""
    link_bytes: int = 0
    """That go from host to device or back while it computes."""
    to_host_bytes: int = 0
    """Of these, those that go to the host, where they wait."""

    def note(self, func: Any, arguments: Iterable[Any], made: Any, flop: int) -> None:
        """Add an operation that computes something."""
        tensors = list(_tensors(arguments))
        kernel = _kernel(func, tensors) if flop else "other"
        self.flop[kernel] += flop
        self.moved[kernel] += num_bytes(tensors) + num_bytes(_tensors((made,)))
        self.kernels[kernel] += 1

    def repeated(self, times: int) -> "Work":
        """Do all of it so many times."""
        flop, moved, kernels = (
            Counter({kind: times * count for kind, count in own.items()}) for own in (self.flop, self.moved, self.kernels)
        )
        return Work(flop, moved, kernels, times * self.link_bytes, self.to_host_bytes)

    def divided(self, by: int) -> "Work":
        """Do a part of it, in as many kernels."""
        flop, moved = (Counter({kind: count // by for kind, count in own.items()}) for own in (self.flop, self.moved))
        return Work(flop, moved, Counter(self.kernels), self.link_bytes, self.to_host_bytes)

    def add(self, other: "Work") -> None:
        """Do what another does as well."""
        for own, more in ((self.flop, other.flop), (self.moved, other.moved), (self.kernels, other.kernels)):
            own.update(more)
        self.link_bytes += other.link_bytes
        self.to_host_bytes += other.to_host_bytes

    def note_fused(self, read: Iterable[Tensor], made: Sequence[Tensor]) -> None:
        """Add what is one kernel where it is compiled."""
        self.moved["fused"] += num_bytes([*read, *made])
        self.kernels["fused"] += 1


def _kernel(func: Any, tensors: Sequence[Tensor]) -> Kernel:
    name = func.__name__
    if "attention" in name:
        if tensors[0].shape[-1] <= NARROW:
            return "attention_narrow_backward" if "backward" in name else "attention_narrow"
        return "attention_backward" if "backward" in name else "attention"
    if "conv" in name:
        return "convolution"
    return "product_float32" if tensors and tensors[0].dtype == torch.float32 else "product"


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of what tensors show, and no more than their memory has."""
    return sum(own.untyped_storage().nbytes() if 0 in own.stride() else own.numel() * own.element_size() for own in tensors)


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors on the meta device among the arguments of an operation, those in lists included."""
    for own in arguments:
        if isinstance(own, Tensor):
            if own.is_meta:
                yield own
        elif isinstance(own, list | tuple):
            yield from _tensors(own)


def is_view(func: Any) -> bool:
    """Whether an operation answers with a view, which is no work."""
    returns = func._schema.returns
    return bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write

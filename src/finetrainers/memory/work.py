"""What a step on the meta device would have a GPU do, by kind of kernel: the time that it takes follows from this."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

Kernel = Literal["product", "product_float32", "convolution", "attention", "attention_backward", "other", "fused"]
KERNELS: tuple[Kernel, ...] = (
    "product",
    "product_float32",
    "convolution",
    "attention",
    "attention_backward",
    "other",
    "fused",
)
"""Matrix products in 16 bits and in float32, convolutions, attention in both directions, all else, and all else where it is
compiled."""


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

    def note(self, func: Any, arguments: Any, made: Any, flop: int) -> None:
        """Add an operation that computes something."""
        tensors = _tensors(arguments)
        kernel = _kernel(func, tensors) if flop else "other"
        self.flop[kernel] += flop
        self.moved[kernel] += num_bytes([*tensors, *_tensors(made)])
        self.kernels[kernel] += 1

    def repeated(self, times: int) -> "Work":
        """Do all of it so many times."""
        many = (
            Counter({kind: times * count for kind, count in own.items()}) for own in (self.flop, self.moved, self.kernels)
        )
        return Work(*many, times * self.link_bytes, self.to_host_bytes)

    def divided(self, by: int) -> "Work":
        """Do a part of it, in as many kernels."""
        parts = (Counter({kind: count // by for kind, count in own.items()}) for own in (self.flop, self.moved))
        return Work(*parts, Counter(self.kernels), self.link_bytes, self.to_host_bytes)

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
        return "attention_backward" if "backward" in name else "attention"
    if "conv" in name:
        return "convolution"
    return "product_float32" if tensors and tensors[0].dtype == torch.float32 else "product"


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of what tensors show, and no more than their memory has."""
    return sum(min(own.numel() * own.element_size(), own.untyped_storage().nbytes()) for own in tensors)


def _tensors(tree: Any) -> list[Tensor]:
    return [inner for own in tree_leaves(tree) if isinstance(own, Tensor) for inner in _plain(own) if inner.is_meta]


def _plain(tensor: Any) -> Iterator[Tensor]:
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


def is_view(func: Any) -> bool:
    """Whether an operation answers with a view, which is no work."""
    returns = func._schema.returns
    return bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write

"""Counts what a step on the meta device would keep in memory, and how many operations it would take, on any machine."""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
    is_traceable_wrapper_subclass,
)
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from finetrainers.memory.meta import Shapes, answer, body_of, is_composite
from finetrainers.memory.work import Work, is_view

Category = Literal["weights", "trained", "masters", "states", "gradients", "activations", "temporaries", "host"]
CATEGORIES: tuple[Category, ...] = ("weights", "trained", "masters", "states", "gradients", "activations", "temporaries")
"""What memory of the device is counted as: frozen weights, those that train, their float32 masters, what the optimizer
keeps, gradients, what a forward pass makes (in the backward pass again, with checkpointing), and all else."""
MAKING = (torch.ops.aten.empty, torch.ops.aten.empty_strided, torch.ops.aten.empty_like, torch.ops.aten.new_empty)
"""Operations that compute nothing."""
BLOCK_BYTES = 512
"""torch's allocator for CUDA rounds every size up to a multiple."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was counted between two points in time."""

    peak: Mapping[Category, int]
    """Bytes by category at the time when they were most in sum."""
    flop: int
    """Operations: two for each multiplication with an addition, of matrix products, convolutions and attention."""

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were in memory at once."""
        return sum(self.peak.values())


@dataclass(slots=True)
class _Storage:
    """A piece of memory."""

    num_bytes: int
    category: Category
    freed: weakref.ref[Any] | None = None
    """Calls the meter once it is freed; has to be kept for that."""


class Meter(TorchDispatchMode):
    """Sees each operation on the meta device while it is entered, and afterwards when memory is freed.

    Memory is counted by what it turns out to be: ``label`` says it of what is there already.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, _Storage] = {}
        """What is in memory, by its address."""
        self._events: list[tuple[_Storage, int]] = []
        """Bytes that came or went, in order."""
        self._flop = 0
        self._history: list[tuple[_Storage, int]] = []
        """Events before the last ``reset``."""
        self._carried = 0
        """Events that only say what was in memory at that time."""
        self.work = Work()
        """What was computed since the last ``reset``."""
        self._shapes, self._views = Shapes(), dict[Any, bool]()

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Tell torch that compiled code is compiled as if nobody counted."""
        return True

    @staticmethod
    def current() -> "Meter | None":
        """Find the meter that counts now."""
        modes = _get_current_dispatch_mode_stack()
        return next((mode for mode in reversed(modes) if isinstance(mode, Meter)), None)

    def label(self, category: Category, tensors: Iterable[Tensor]) -> None:
        """Count the memory of tensors as of a category from the moment when it was made."""
        for tensor in (inner for own in tensors for inner in plain_tensors(own)):
            if tensor.is_meta:
                self._see(tensor).category = category

    def move(self, category: Category, *, to: Category) -> None:
        """Count all of one category as of another."""
        for storage, _ in self._events:
            if storage.category == category:
                storage.category = to

    def usage(self) -> Usage:
        """What was counted since the last ``reset``, or since the beginning."""
        now: Counter[Category] = Counter()
        peak, most, total = now.copy(), 0, 0
        for storage, change in self._events:
            if storage.category == "host":
                continue
            now[storage.category] += change
            total += change
            if total > most:
                most, peak = total, now.copy()
        return Usage({category: peak[category] for category in CATEGORIES}, self._flop)

    def reset(self) -> None:
        """Forget what came and went; what is in memory stays counted."""
        self._history += self._events[self._carried :]
        self._events = [(storage, storage.num_bytes) for storage in self._live.values()]
        self._carried = len(self._events)
        self._flop, self.work = 0, Work()

    def history(self) -> Iterator[tuple[int, int]]:
        """All that came and went from the beginning: each piece of the device's memory, with its bytes or minus them."""
        for storage, change in (*self._history, *self._events[self._carried :]):
            if storage.category != "host":
                yield id(storage), change

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):  # made of others: what they do with those comes here
            return NotImplemented
        kwargs = {} if kwargs is None else kwargs
        told = answer(func, args, kwargs)
        if told is not None:
            return told
        body = body_of(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        if is_composite(func):  # inside such a body
            with self:
                return func.decompose(*args, **kwargs)
        result = self._shapes.run(func, args, kwargs)
        self._note(func, args, kwargs, result)
        if args and result is args[0]:  # written: nothing new
            return result
        for made in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(made, Tensor) and made.is_meta:
                self._see(made)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Count the operations and the traffic of what is computed."""
        formula = flop_registry.get(func._overloadpacket)
        flop = 0 if formula is None else formula(*args, **kwargs, out_val=result)
        self._flop += flop
        if func not in self._views:
            self._views[func] = is_view(func) or func._overloadpacket in MAKING
        if not self._views[func]:
            self.work.note(func, (*args, *kwargs.values()), result, flop)

    def _see(self, tensor: Tensor) -> _Storage:
        """Count the memory of a tensor, if it is new."""
        memory = tensor.untyped_storage()
        address = memory._cdata
        if address not in self._live:
            num_bytes = -(-memory.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
            # A backward pass and an update compute without gradients; what is computed with them is a forward pass.
            storage = _Storage(num_bytes, "activations" if torch.is_grad_enabled() else "temporaries")
            storage.freed = weakref.ref(memory, lambda _: self._free(address))
            self._live[address] = storage
            self._events.append((storage, num_bytes))
        return self._live[address]

    def _free(self, address: int) -> None:
        storage = self._live.pop(address)
        self._events.append((storage, -storage.num_bytes))


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Tensors that have memory: the tensor itself, or those that it is made of, such as numbers and scales."""
    made_of: Any = tensor
    if not is_traceable_wrapper_subclass(made_of):
        yield tensor
        return
    for name in made_of.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(made_of, name))

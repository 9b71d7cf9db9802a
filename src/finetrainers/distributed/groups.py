"""Groups of tensors that are sent or written at once."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")


def by_bytes(items: Iterable[Item], tensor_of: Callable[[Item], Tensor], most: int) -> Iterator[list[Item]]:
    """Group items in their order: each group has at most so many bytes, or one item."""
    group: list[Item] = []
    held = 0
    for item in items:
        size = tensor_of(item).nbytes
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size
    if group:
        yield group

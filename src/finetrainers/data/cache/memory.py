"""Encoded items in the memory of one process: what it trains on next, and nothing on the disk.

Loader workers that are forked share it; an item that is read is copied, so that nobody changes what others read.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetrainers.data.cache.claims import Claims
from finetrainers.data.cache.item import Item, from_bytes, to_bytes
from finetrainers.data.cache.packs import Kind
from finetrainers.data.cache.store import Cache
from finetrainers.data.cache.upkeep import Eviction, Tally
from finetrainers.errors import MissingItemError


class Unbuffered:
    """Stands for the batches of a fill where each item is there at once."""

    waiting: Collection[str] = ()

    def flush(self) -> None:
        """Do nothing: nothing waits."""


class MemoryCache:
    """Encoded items of this process alone, by kind and key, the least recently used first; as bytes, as a file has them."""

    is_own = True
    """Whether other processes have items of their own."""

    def __init__(self) -> None:
        self._items: OrderedDict[tuple[Kind, str], bytes] = OrderedDict()

    def claims(self) -> Claims:
        """Nobody else makes items of this cache."""
        return Claims(None)

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an item is there; marks it as used now, for eviction."""
        if (kind, key) not in self._items:
            return False
        self._items.move_to_end((kind, key))
        return True

    def known(self, kind: Kind, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Say which items [n] are there by keys [n, KEY_BYTES]; marks them as used now."""
        return np.array([self.has(kind, key.tobytes().hex()) for key in keys], np.bool_)

    def sizes(self, items: Sequence[tuple[Kind, str]]) -> list[int | None]:
        """Bytes of items; None for those that are not there."""
        found = (self._items.get(item) for item in items)
        return [None if data is None else len(data) for data in found]

    @contextmanager
    def in_batches(self) -> Iterator[Unbuffered]:
        """Let ``write`` write items, each at once."""
        yield Unbuffered()

    def write(self, kind: Kind, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        """Take an item; return its size in bytes."""
        data = to_bytes(tensors, metadata)
        self._items[kind, key] = data
        return len(data)

    def read(self, kind: Kind, key: str) -> Item:
        """Read an item's tensors and its metadata.

        Raises:
            MissingItemError: If it is not there.
        """
        return self.read_all([(kind, key)])[0]

    def read_all(self, items: Sequence[tuple[Kind, str]]) -> list[Item]:
        """As ``read``, of several items."""
        try:
            return [from_bytes(np.frombuffer(bytearray(self._items[item]), np.uint8)) for item in items]
        except KeyError as error:
            raise MissingItemError(
                f"cache.encode: the item {error.args[0]} is not in this process's memory; start the same command again"
            ) from None

    def remove_damaged(self, kind: Kind, key: str) -> None:
        """Do nothing: what is in memory is what was written."""

    def evict(self, max_bytes: int, *, keep: Collection[str] = ()) -> Eviction:
        """Remove the least recently used items, but for keys in ``keep``, until at most ``max_bytes`` are left."""
        surplus, removed = sum(map(len, self._items.values())) - max_bytes, Tally()
        for kind, key in [item for item in self._items if item[1] not in keep]:
            if surplus <= 0:
                break
            size = len(self._items.pop((kind, key)))
            surplus -= size
            removed += Tally(1, size)
        return Eviction(removed, over=max(0, surplus))


AnyCache = Cache | MemoryCache

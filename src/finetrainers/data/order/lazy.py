"""Sequences of ten million items that take no memory: an item is made when it is looked at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

T = TypeVar("T")


@dataclass(frozen=True)
class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are looked at, and not kept."""

    make: Callable[[int], T]
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Lazy[T]": ...
    def __getitem__(self, index: int | slice) -> "T | Lazy[T]":
        chosen = range(self.length)[index]
        return self.make(chosen) if isinstance(chosen, int) else Lazy(lambda i: self.make(chosen[i]), len(chosen))


class Joined(Sequence[T]):
    """Several sequences, one after the other."""

    def __init__(self, *parts: Sequence[T]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy[T]: ...
    def __getitem__(self, index: int | slice) -> T | Lazy[T]:
        if isinstance(index, slice):
            return Lazy(self.__getitem__, len(self))[index]
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

"""How much memory torch's allocator for CUDA would hold: pieces are cut from segments, which it keeps for later.

As torch 2.11's ``CUDACachingAllocator`` does it without ``expandable_segments``: pieces of up to 1 MiB share segments of 2
MiB, those below 10 MiB share segments of 20 MiB, and larger ones begin a segment of their own size. The smallest free piece
that is large enough is taken; what is left of it stays free, and joins its free neighbours.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

MIB = 1 << 20
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
MIDDLE, MIDDLE_SEGMENT = 10 * MIB, 20 * MIB
LARGE_STEP = 2 * MIB
LEAST_REST = {True: 512, False: MIB}
"""Bytes below which what is left of a piece is not cut off, by whether it is small."""


@dataclass(slots=True, eq=False)
class _Piece:
    """A part of a segment."""

    size: int
    is_free: bool = True
    before: "_Piece | None" = None
    after: "_Piece | None" = None


@dataclass(slots=True)
class Allocator:
    """Gives pieces of memory, and counts what it holds."""

    reserved: int = 0
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    """Sizes and numbers of free pieces in order, of small and of large segments."""
    _pieces: dict[int, _Piece] = field(default_factory=dict)
    """Free ones by number."""
    _given: dict[int, tuple[_Piece, bool]] = field(default_factory=dict)

    def take(self, key: int, size: int) -> None:
        """Give a piece, which is known by its key from then on."""
        is_small = size <= SMALL
        piece = self._find(size, is_small=is_small)
        if piece is None:
            piece = _Piece(_segment_bytes(size))
            self.reserved += piece.size
        rest = piece.size - size
        if rest >= LEAST_REST[is_small] and (is_small or rest > MIB):
            other = _Piece(rest, before=piece, after=piece.after)
            if piece.after is not None:
                piece.after.before = other
            piece.after, piece.size = other, size
            self._put(other, is_small=is_small)
        piece.is_free = False
        self._given[key] = piece, is_small

    def give_back(self, key: int) -> None:
        """Take a piece back, and join it with free neighbours."""
        piece, is_small = self._given.pop(key)
        piece.is_free = True
        for other in (piece.before, piece.after):
            if other is not None and other.is_free:
                self._drop(other, is_small=is_small)
                piece = _joined(piece, other)
        self._put(piece, is_small=is_small)

    def _find(self, size: int, *, is_small: bool) -> _Piece | None:
        free = self._free[is_small]
        place = bisect_left(free, (size, -1))
        if place == len(free):
            return None
        _, number = free.pop(place)
        return self._pieces.pop(number)

    def _put(self, piece: _Piece, *, is_small: bool) -> None:
        insort(self._free[is_small], (piece.size, id(piece)))
        self._pieces[id(piece)] = piece

    def _drop(self, piece: _Piece, *, is_small: bool) -> None:
        free = self._free[is_small]
        free.pop(bisect_left(free, (piece.size, id(piece))))
        del self._pieces[id(piece)]


def _joined(one: _Piece, other: _Piece) -> _Piece:
    """Make one piece of two neighbours."""
    left, right = (other, one) if one.before is other else (one, other)
    left.size += right.size
    left.after = right.after
    if right.after is not None:
        right.after.before = left
    left.is_free = True
    return left


def _segment_bytes(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return MIDDLE_SEGMENT if size < MIDDLE else -(-size // LARGE_STEP) * LARGE_STEP


def reserved_bytes(history: Iterable[tuple[int, int]]) -> int:
    """Bytes that are held after all that came and went: each piece by its key, with its bytes or minus them."""
    allocator = Allocator()
    for key, change in history:
        if change > 0:
            allocator.take(key, change)
        elif change < 0:
            allocator.give_back(key)
    return allocator.reserved

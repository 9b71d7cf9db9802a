"""Which colors an image's file states by the numbers of ITU-T H.273: PNG's cICP, AVIF's nclx. Pillow reads neither.

Sources: PNG, third edition, 11.3.2.6; ISO/IEC 14496-12, 8.11 and 12.1.5.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import IO

READ_BYTES = 1 << 18
"""Of an AVIF: its properties stand before its pixels, in boxes of some hundred bytes."""
PNG_HEAD = 8
CONTAINERS = ((b"meta", 4), (b"iprp", 0), (b"ipco", 0))
"""Boxes on the way to an AVIF's colors, each within the one before, and the bytes that it has before those that it holds."""


def stated_colors(file: IO[bytes], kind: str | None) -> tuple[int, int] | None:
    """Read transfer characteristics and primaries from an open file of Pillow's format ``kind``; None if it states none.

    The file is left where it was.
    """
    read = {"PNG": _of_png, "AVIF": _of_avif}.get(kind or "")
    if read is None:
        return None
    place = file.tell()
    try:
        file.seek(0)
        return read(file)
    finally:
        file.seek(place)


def _of_png(file: IO[bytes]) -> tuple[int, int] | None:
    """Look through the chunks before the pixels."""
    file.seek(PNG_HEAD)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"cICP":
            primaries, transfer = (file.read(2) + b"\2\2")[:2]
            return transfer, primaries
        if name in (b"IDAT", b"IEND"):
            break
        file.seek(length + 4, 1)
    return None


def _of_avif(file: IO[bytes]) -> tuple[int, int] | None:
    for held in _held_in(file.read(READ_BYTES), CONTAINERS):
        if held[:4] == b"nclx" and len(held) >= 8:
            primaries, transfer = struct.unpack(">HH", held[4:8])
            return transfer, primaries
    return None


def _held_in(data: bytes, way: Sequence[tuple[bytes, int]]) -> Iterator[bytes]:
    """Contents of all boxes of colors at the end of a way."""
    wanted, skipped = way[0] if way else (b"colr", 0)
    start = 0
    while start + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[start : start + 8])
        end = start + length if length >= 8 else len(data)  # 0: to the end; 1, of boxes over 4 GB, are none of ours
        if name == wanted:
            held = data[start + 8 + skipped : end]
            yield from _held_in(held, way[1:]) if way else (held,)
        start = end

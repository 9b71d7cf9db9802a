"""Whether a video file is all there, from the sizes that its container states: a truncated file is found without decoding.

FFmpeg reads a truncated file up to its end without an error, so that a cut clip would pass as a shorter one.
"""

import os
import struct
import zlib
from typing import BinaryIO

import numpy as np

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.view import bad_media

EBML_HEADER = bytes.fromhex("1a45dfa3")
SEGMENT, CLUSTER = bytes.fromhex("18538067"), bytes.fromhex("1f43b675")
MATROSKA_IDS = "1a45dfa3 114d9b74 1549a966 1654ae6b 1c53bb6b 1941a469 1043a770 1254c367 ec bf e7 5854 a7 ab a3 a0 af"
"""All other elements that may stand in a segment or a cluster (RFC 9559, 27.1): SeekHead, Info, ..., SimpleBlock."""
MP4_TYPES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide")
MP4_NEEDED_TYPES = (b"moov", b"mdat", b"moof")
"""Boxes that must be whole; anything may follow them."""


def check_whole(blob: Blob) -> None:
    """Raise a DataError if the file is empty or ends before its container says it does."""
    with blob.open() as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise bad_media(blob, "the file is empty (zero bytes)")
        file.seek(0)
        head = file.read(8)
        if head[4:] in MP4_TYPES:
            _check_mp4(file, size, blob)
        elif head[:4] == EBML_HEADER:
            _check_matroska(file, size, blob)
        elif head[:4] == b"RIFF":
            _check_riff(file, size, blob)


def _check_end(end: int, size: int, blob: Blob) -> None:
    if end > size:
        raise bad_media(blob, f"truncated: the container needs {end} bytes, the file has {size}; copy or record it again")


def _check_mp4(file: BinaryIO, size: int, blob: Blob) -> None:
    """Walk the boxes: [size: 4][type: 4], where size 1 says that 8 bytes of size follow, and 0 that it is the last."""
    position, has_index = 0, False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if kind in MP4_NEEDED_TYPES:
            _check_end(position + length, size, blob)
        has_index |= kind == b"moov"
        if length < 8:  # 0, the last box, or no box at all
            break
        position += length
    if not has_index:
        raise bad_media(blob, "truncated: it has no index ('moov' box), because recording or copying it was cut off")


def _check_matroska(file: BinaryIO, size: int, blob: Blob) -> None:
    """Walk the elements, [id][size], of the segment and its clusters as one flat row; frames are skipped unread."""
    file.seek(4)
    header = _ebml_size(file)
    position = file.tell() + (header or 0)
    while position < size:
        file.seek(position)
        kind = file.read(1)
        kind += file.read(8 - kind[0].bit_length())
        if kind not in (SEGMENT, CLUSTER) and kind.hex() not in MATROSKA_IDS.split():
            raise bad_media(blob, f"damaged at byte {position}: no Matroska element starts with {kind.hex()}; copy it again")
        length = _ebml_size(file)
        position = file.tell()
        if length is not None:  # unknown in live recordings, of segments and clusters only
            _check_end(position + length, size, blob)
            position += 0 if kind in (SEGMENT, CLUSTER) else length


def _ebml_size(file: BinaryIO) -> int | None:
    """Read a size of 1 to 8 bytes, told by the leading zeros of the first; None if unknown."""
    first = file.read(1) or b"\xff"
    num_more = 8 - first[0].bit_length()
    bits = 7 * (num_more + 1)
    value = int.from_bytes(first + file.read(num_more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def _check_riff(file: BinaryIO, size: int, blob: Blob) -> None:
    """Walk the RIFF chunks of an AVI: one, or one for each GB."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # unknown: written to a pipe
            break
        _check_end(position + 8 + length, size, blob)
        position += 8 + length + length % 2


def count_avi_frames(blob: Blob) -> int:
    """Count the frames of the first video stream that the index of an AVI lists; 0 if there is no such index.

    FFmpeg skips what it cannot read between two frames, so that a damaged clip would pass as a shorter one.
    """
    with blob.open() as file:
        size, position, count = file.seek(0, os.SEEK_END), 12, 0
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind == b"idx1":
                entries = np.frombuffer(file.read(length - length % AVI_ENTRY.itemsize), AVI_ENTRY)
                kinds = entries["kind"].view("S4")
                is_video = np.char.endswith(kinds, b"dc") | np.char.endswith(kinds, b"db")
                videos = np.sort(kinds[is_video & (entries["length"] > 0)])
                return int((np.char.startswith(videos, videos[0][:2])).sum()) if len(videos) else count
            position += 8 + length + length % 2
    return count


AVI_ENTRY = np.dtype([("kind", "S4"), ("flags", "<u4"), ("offset", "<u4"), ("length", "<u4")])


def check_png(blob: Blob) -> None:
    """Compare the checksum of each chunk of a png, [size: 4][type: 4][data][CRC: 4]: decoders leave out most of them."""
    with blob.open() as file:
        position = file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            data = file.read(length + 4)
            if len(data) < length + 4:
                break
            if zlib.crc32(data[:length], zlib.crc32(kind)) != int.from_bytes(data[length:], "big"):
                raise bad_media(blob, f"damaged at byte {position}: the checksum of a png chunk is wrong; copy it again")
            if kind == b"IEND":
                return
            position += length + 12
    raise bad_media(blob, "truncated: the last chunk of the png is missing; copy it again")


def check_gif(blob: Blob) -> None:
    """Walk the blocks of a gif: its decoders pass over zeros between two pictures, as if the clip were shorter."""
    with blob.open() as file:
        header = file.read(13)
        if len(header) < 13:
            raise bad_media(blob, "truncated: the file ends in the header of the gif; copy it again")
        _skip_palette(file, header[10])
        while (kind := file.read(1)) != b";":
            if kind == b"":
                raise bad_media(blob, "truncated: the end mark of the gif is missing; copy it again")
            if kind == b",":
                _skip_palette(file, (file.read(9) or b"\0")[-1])
            elif kind != b"!":
                position = file.tell() - 1
                raise bad_media(
                    blob, f"damaged at byte {position}: no block of a gif starts with {kind.hex()}; copy it again"
                )
            file.read(1)  # the label of an extension, or the bits of a code
            while length := (file.read(1) or b"\0")[0]:
                file.seek(length, os.SEEK_CUR)


def _skip_palette(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)

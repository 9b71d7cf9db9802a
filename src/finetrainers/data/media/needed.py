"""Packets that need not be decoded: their frames are not shown, and no other frame is made from them."""

from collections.abc import Mapping

from av.packet import Packet
from av.video.stream import VideoStream

SLICE, SLICE_OF_IDR = 1, 5
NO_PICTURE = frozenset({6, 7, 8, 9, 10, 11, 12})
"""Kinds of NAL units (H.264, table 7-1) that are no part of a picture: settings, remarks and marks."""


class Needed:
    """Tells which packets are needed for the frames that are shown.

    Of H.264 in mp4 and Matroska, whose packets say whether other frames are made from them; of all others each is.
    """

    def __init__(self, stream: VideoStream, not_shown: Mapping[int, int]) -> None:
        """Take the numbers of frames that are not shown by their time stamps."""
        about = stream.codec_context.extradata or b""
        is_known = stream.codec_context.name == "h264" and len(about) > 4 and about[0] == 1
        self._length_bytes = (about[4] & 3) + 1 if is_known else 0
        self._not_shown = not_shown
        self.left_out: set[int] = set()
        """Numbers of the frames that were left out so far."""

    @property
    def is_all(self) -> bool:
        """Whether every packet is needed."""
        return not self._length_bytes or not self._not_shown

    def has(self, packet: "Packet[VideoStream]") -> bool:
        """Whether a packet is needed."""
        number = None if packet.pts is None else self._not_shown.get(packet.pts)
        if number is None or not is_for_itself(memoryview(packet), self._length_bytes):
            return True
        self.left_out.add(number)
        return False


def is_for_itself(packet: memoryview, length_bytes: int) -> bool:
    """Whether no frame is made from this one: nal_ref_idc is 0 in all of its slices (H.264, 7.4.1).

    Whatever is not understood is False: the decoder is to see it, and to say what is wrong with it.

    Args:
        packet: NAL units, each behind its length (ISO 14496-15).
        length_bytes: Bytes of a length.
    """
    place, slices = 0, 0
    while place + length_bytes < len(packet):
        start = place + length_bytes
        kind, is_for_others = packet[start] & 31, packet[start] & 0x60
        if kind in (SLICE, SLICE_OF_IDR):
            if is_for_others:
                return False
            slices += 1
        elif kind not in NO_PICTURE:
            return False
        place = start + int.from_bytes(packet[place:start], "big")
    return place == len(packet) and slices > 0

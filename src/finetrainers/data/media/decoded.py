"""The frames of a video from a key frame on: which packets they are decoded from, and by which decoder."""

from collections.abc import Iterator

import numpy as np
from av import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetrainers.data.media.interlaced import deinterlaced
from finetrainers.data.media.needed import Needed
from finetrainers.data.media.timeline import DECODER_OPTIONS, Timeline

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave out the transparency of webm."""
MAX_HELD_BYTES = 16 << 20
"""Of packets that are held; beyond, they are read again."""


class Held:
    """Packets from the first key frame on that were read for their time stamps, to be decoded without a second reading."""

    def __init__(self) -> None:
        self._packets: list[Packet[VideoStream]] = []
        self._bytes = 0

    def add(self, packet: "Packet[VideoStream]") -> None:
        """Hold one more packet, in the order of the file, without a gap."""
        self._bytes += packet.size
        if self._bytes <= MAX_HELD_BYTES:
            self._packets.append(packet)
        else:
            self._packets.clear()

    def take(self) -> "list[Packet[VideoStream]]":
        """Hand all out, once: the file goes on where they end. None are there if they were too many."""
        packets, self._packets = self._packets, []
        return packets


def frames_from(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    *,
    start: int,
    needed: Needed,
    held: Held | None = None,
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from the key frame at or before the time stamp ``start``, with each frame's number in the file.

    With ``held``, whose packets begin there, nothing may have been read of the container since.
    """
    packets = held.take() if held is not None else []
    decoded = _decoded_from(container, stream, timeline, start=start, needed=needed, held=packets)
    for count, frame in enumerate(deinterlaced(decoded, stream)):
        if timeline.is_counted:
            yield count, frame
        elif frame.pts is not None:
            yield int(np.searchsorted(timeline.stamps, frame.pts, side="right")) - 1, frame


def _decoded_from(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    *,
    start: int,
    needed: Needed,
    held: "list[Packet[VideoStream]]",
) -> Iterator[VideoFrame]:
    """Decode from a key frame on or, of interlaced video, from the one before: a frame takes lines from its neighbors."""
    if not held:
        container.seek(start, stream=stream)
    decoded = _decoded(_packets(container, stream, held), stream, needed)
    first = next(decoded, None)
    if first is None:
        return
    if first.interlaced_frame and start > timeline.start:
        before = int(np.searchsorted(timeline.stamps, start)) - 1
        container.seek(int(timeline.stamps[max(before, 0)]), stream=stream)
        yield from _decoded(container.demux(stream), stream, needed)
        return
    yield first
    yield from decoded


def _packets(
    container: InputContainer, stream: VideoStream, held: "list[Packet[VideoStream]]"
) -> "Iterator[Packet[VideoStream]]":
    """Yield those that are held, and the rest of the file unless they end with its end, which is an empty packet."""
    yield from held
    if not held or held[-1].size:
        yield from container.demux(stream)


def _decoded(packets: "Iterator[Packet[VideoStream]]", stream: VideoStream, needed: Needed) -> Iterator[VideoFrame]:
    """Decode what is needed with the stream's own decoder, or with the one that knows of transparency."""
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    if not needed.is_all:
        for packet in packets:
            if needed.has(packet):
                yield from packet.decode()
        return
    if name is None or stream.metadata.get("alpha_mode") != "1":
        for packet in packets:
            yield from packet.decode()
        return
    decoder = CodecContext.create(name, "r")
    decoder.options = DECODER_OPTIONS
    assert isinstance(decoder, VideoCodecContext)
    for packet in packets:
        yield from decoder.decode(packet)

"""When each frame of a video is shown, and where decoding can start: from the packets, none of them decoded."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.view import PHASE, View, bad_media

ROUNDING_SECONDS = 0.002
"""How far rounded time stamps (Matroska: to milliseconds) may put the end of a clip off its nominal frame rate."""
REORDER_PACKETS = 32
"""Packets come in decoding order; no codec shows a frame later than this many packets after it came (H.264, HEVC: 16)."""
REMEMBERED_FILES = 8
"""Timelines that are kept in memory: 8 bytes for each frame and each time."""
MAX_FRAME_PIXELS = 1 << 26
"""Largest frame, 67 million pixels; decoders hold up to 17 of them."""
DECODER_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}
"""For frames that grow on the way."""
MISSING_SECONDS = 0.5
"""Less than the stated duration by which a video is taken for damaged."""
VP8_SHOW_FRAME = 0x10
"""Bit of the first byte of a VP8 packet; packets without it are references that are never shown (RFC 6386, 9.1)."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The frames of a video in the order of presentation; N frames, K key frames."""

    stamps: npt.NDArray[np.int64]
    """[N] time stamps, ascending, in units of the stream."""
    times: npt.NDArray[np.float64]
    """[N] seconds since the first frame."""
    keys: npt.NDArray[np.int64]
    """[K] positions among the frames where decoding can start, ascending; the first is 0."""
    start: int
    """Time stamp that seeks to the first packet."""
    seconds: float
    """End of the last frame; of a prefix: of the last frame that was read."""
    nominal_fps: Fraction | None
    """Frame rate that the container states."""
    is_counted: bool
    """Decoded frames carry no usable time stamps (AVI): they are told by counting from the start."""
    num_packets: int
    """Packets that were read, with those of frames that are never shown."""


@contextmanager
def open_video(blob: Blob) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream that is not a cover picture; FFmpeg's errors become DataErrors that name the file."""
    try:
        with (
            nullcontext(str(blob.path)) if blob.path is not None else blob.open() as source,
            av.open(source, "r", metadata_errors="replace", options=DECODER_OPTIONS) as container,
        ):
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise bad_media(blob, "no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise bad_media(blob, "its video is of a codec that FFmpeg does not know, or the file is damaged")
            _check_size(stream, blob)
            stream.codec_context.options = DECODER_OPTIONS
            stream.codec_context.thread_count = 1  # loader workers are processes; damage is reported reliably, too
            yield container, stream
    except av.error.FFmpegError as error:
        how = "read" if isinstance(error, OSError) else "decoded"  # the system's errors are no damage of the file
        raise bad_media(blob, f"cannot be {how}: {error.strerror}") from error


def _check_size(stream: VideoStream, blob: Blob) -> None:
    """Refuse frames of which a decoder would hold more than memory can."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_FRAME_PIXELS:
        raise bad_media(
            blob,
            f"frames of {width} x {height} are {width * height / 1e6:.0f} million pixels, more than the "
            f"{MAX_FRAME_PIXELS / 1e6:.0f} million that are decoded; scale the video down",
        )


def whole_timeline(container: InputContainer, stream: VideoStream, blob: Blob) -> Timeline:
    """Read the time stamps of all packets; the last few files are remembered, for other windows of the same clip."""
    key = blob.ref, blob.stamp()
    known = _remembered.get(key)
    if known is not None:
        return known
    timeline = read_timeline(container, stream, blob)
    if timeline.num_packets < stream.frames:
        raise bad_media(blob, f"damaged: {timeline.num_packets} of {stream.frames} frames can be read; copy it again")
    end, stated = float(timeline.stamps[0] * _time_base(stream)) + timeline.seconds, _stated_end(container, stream)
    if end < stated - MISSING_SECONDS:
        raise bad_media(blob, f"damaged: {end:.2f} of {stated:.2f} s can be read; copy it again")
    for oldest in list(_remembered)[: 1 - REMEMBERED_FILES]:
        _remembered.pop(oldest, None)  # another thread may have been faster
    _remembered[key] = timeline
    return timeline


_remembered: dict[tuple[str, str], Timeline] = {}
"""By reference and stamp."""
forget_timelines = _remembered.clear


def _stated_end(container: InputContainer, stream: VideoStream) -> float:
    """When the file says that the video ends: FFmpeg skips damaged parts in silence. 0.0 where nothing is said."""
    if not container.format.name.startswith(("matroska", "flv")):
        return 0.0
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if len(container.streams) == 1 and container.duration is not None:
        return container.duration / av.time_base
    return 0.0  # that of the container may be the sound's


def read_timeline(
    container: InputContainer,
    stream: VideoStream,
    blob: Blob,
    *,
    start_of: View | None = None,
    hold: Callable[["Packet[VideoStream]"], None] | None = None,
) -> Timeline:
    """Read the time stamps of all packets or, for the start of a clip, of those that the view can need.

    ``hold`` is given each packet from the first key frame on, in their order; not of AVI, of which too little is known then.
    """
    is_counted = container.format.name == "avi"  # its presentation time stamps are guesses where frames are reordered
    stamps: list[int] = []
    keys: list[int] = []
    end = num_beyond = num_packets = 0
    last_frame, last_stamp = _last_needed(start_of, stream)
    is_vp8 = stream.codec_context.name == "vp8"
    packets = container.demux(stream)
    for packet in packets if hold is None or is_counted else _holding(packets, hold):
        stamp = packet.dts if is_counted else packet.pts
        if stamp is None:
            continue  # the empty packet at the end
        if packet.is_corrupt:
            raise bad_media(blob, f"damaged or truncated at {float(stamp * packet.time_base):.2f} s")
        num_packets += 1
        if packet.is_keyframe:
            keys.append(stamp)
        if not keys:
            continue  # left over by a cut: cannot be decoded
        if packet.is_discard or (is_vp8 and not memoryview(packet)[0] & VP8_SHOW_FRAME):
            continue  # needed for decoding only: cut off by an edit list, or never shown
        stamps.append(stamp)
        end = max(end, stamp + (packet.duration or 0))
        num_beyond += start_of is not None and (len(stamps) > last_frame or stamp - stamps[0] > last_stamp)
        if num_beyond > REORDER_PACKETS:
            break
    if not stamps or max(stamps) < min(keys):
        raise bad_media(blob, "the video stream has no frames, or no key frame to start from")
    return replace(_timeline(container, stream, stamps=stamps, keys=keys, end=end), num_packets=num_packets)


def _holding(
    packets: "Iterator[Packet[VideoStream]]", hold: Callable[["Packet[VideoStream]"], None]
) -> "Iterator[Packet[VideoStream]]":
    """Pass packets on, and those from the first key frame on to ``hold``."""
    has_begun = False
    for packet in packets:
        has_begun = has_begun or packet.is_keyframe
        if has_begun:
            hold(packet)
        yield packet


def _last_needed(view: View | None, stream: VideoStream) -> tuple[float, float]:
    """Count of frames, and time stamp after the first, beyond which the view (of a clip's start) needs nothing."""
    if view is None:
        return math.inf, math.inf
    if view.fps is None:
        return (view.num_frames - 1) * view.stride + 1, math.inf
    return math.inf, (view.num_frames - 1 + PHASE) / view.fps / float(_time_base(stream))


def _time_base(stream: VideoStream) -> Fraction:
    assert stream.time_base is not None  # FFmpeg sets it on opening
    return stream.time_base


def _timeline(container: InputContainer, stream: VideoStream, *, stamps: list[int], keys: list[int], end: int) -> Timeline:
    """Sort what the packets said; frames shown before the first key frame, left over by a cut, cannot be decoded."""
    is_counted = container.format.name == "avi"
    start, time_base = min(keys), _time_base(stream)
    ordered = np.unique(np.array(stamps, np.int64))
    ordered = ordered[ordered >= start]
    times = (ordered - ordered[0]) * float(time_base)
    if is_counted:
        keys = [start]
    positions = np.searchsorted(ordered, np.array(keys, np.int64), side="right") - 1
    return Timeline(
        stamps=ordered,
        times=times,
        keys=np.unique(np.maximum(positions, 0)),  # an edit list may hide the first key frame
        start=start,
        seconds=_end_seconds(times, float((end - int(ordered[0])) * time_base), stream.average_rate),
        nominal_fps=stream.average_rate,
        is_counted=is_counted,
        num_packets=len(stamps),
    )


def _end_seconds(times: npt.NDArray[np.float64], stated: float, nominal: Fraction | None) -> float:
    """When the last frame ends: as stated if that is after its start, else one usual interval later."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else float(1 / nominal) if nominal else 0.04
    end = stated if stated > times[-1] else float(times[-1]) + interval
    if nominal and abs(len(times) / nominal - end) < ROUNDING_SECONDS:
        return float(len(times) / nominal)
    return end

"""All reading of raw media: the one place that knows how they are probed and decoded.

Shape letters: F frames, H and W pixels.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetrainers.data.curate.piece import Box, Medium, Piece
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.files import View, decode, probe, why_unreadable
from finetrainers.data.media.interlaced import deinterlaced
from finetrainers.data.media.timeline import ROUNDING_SECONDS, Timeline, open_video, whole_timeline
from finetrainers.data.media.view import bad_media
from finetrainers.data.sources.listing import why_no_caption
from finetrainers.data.sources.texts import read_text, why_no_text
from finetrainers.errors import FinetrainersError, Interrupted
from finetrainers.files.whole import hash_file

Pixels = npt.NDArray[np.uint8]
SMALL_HEIGHT = 144
"""Height of the frames that are only compared with their neighbours."""
CHUNK_BYTES = 256 << 20
"""Decoded frames that are held at a time."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let nothing but DataErrors, which name the file, come out of a decoder: one bad file is to end nothing."""
    try:
        yield
    except (FinetrainersError, MemoryError):
        raise
    except OSError as error:
        raise bad_media(path, why_unreadable(error)) from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise bad_media(path, f"cannot be decoded: {type(error).__name__}: {error}") from error


def open_medium(index: int, path: Path, origin: str, stop: threading.Event) -> Medium:
    """Probe and hash a file, and read the caption beside it.

    Raises:
        DataError: If it cannot be used.
    """
    with reading(path):
        info = probe(path)
        digest, num_bytes = hash_file(path).hex(), path.stat().st_size
    return Medium(index, path, origin, info, digest, num_bytes, _caption(path.with_suffix(".txt")), stop)


def _caption(file: Path) -> str | None:
    try:
        text = read_text(file).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = why_no_text(error) if isinstance(error, UnicodeDecodeError) else why_unreadable(error)
        raise bad_media(file, reason) from error
    if other := why_no_caption(text):
        raise bad_media(file, f"is {other}")
    return text or None


def spread(piece: Piece, count: int) -> list[int]:
    """Choose at most ``count`` frames, in the middle of as many equal parts."""
    count = min(count, piece.num_frames)
    return [piece.start + (2 * k + 1) * piece.num_frames // (2 * count) for k in range(count)]


def stills(piece: Piece, count: int, *, longest: int | None = None) -> list[Pixels]:
    """Decode frames spread over a piece, each [H, W, 3] as displayed within the box, scaled down to ``longest`` pixels."""
    box, info = piece.box, piece.medium.info
    scale = 1.0 if longest is None else min(1.0, longest / max(box.height, box.width))
    height, width = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    placed = Box(
        *(round(side * scale) for side in (box.top, box.left)), *(_side(side, scale) for side in (box.height, box.width))
    )
    with reading(piece.medium.path):
        return [
            _within(_decode(piece.medium, frame, 1, height=height, width=width), placed)[0] for frame in spread(piece, count)
        ]


def _side(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def full_frames(piece: Piece) -> Iterator[Pixels]:
    """Decode all frames of a piece, each [H, W, 3] as displayed, within the box."""
    info = piece.medium.info
    size = max(1, CHUNK_BYTES // (3 * info.height * info.width))
    with reading(piece.medium.path):
        for start in range(piece.start, piece.stop, size):
            count = min(size, piece.stop - start)
            yield from _within(_decode(piece.medium, start, count, height=info.height, width=info.width), piece.box)


def _decode(medium: Medium, start: int, count: int, *, height: int, width: int) -> Pixels:
    """Decode ``count`` frames [F, height, width, 3] from the frame ``start`` on."""
    _stop_if_asked(medium)
    spare = medium.info.num_frames - count
    view = View(
        num_frames=count,
        height=height,
        width=width,
        frame_sampling="random",
        window=(start + 0.5) / (spare + 1),  # which ``sample_positions`` makes the start of
        resize="stretch",
    )
    pixels: Pixels = decode(medium.path, view).pixels.numpy()
    return pixels


def _stop_if_asked(medium: Medium) -> None:
    """End what a thread is doing for a preparation that ends."""
    if medium.stop.is_set():
        raise Interrupted("the preparation has ended")


def _within(frames: Pixels, box: Box) -> Pixels:
    return frames[:, box.top : box.top + box.height, box.left : box.left + box.width]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, Timeline]]:
    blob = blob_of(path)
    with reading(path), open_video(blob) as (container, stream):
        yield container, stream, whole_timeline(container, stream, blob)


def small_frames(medium: Medium, start: int, stop: int, *, step: int = 1) -> Iterator[Pixels]:
    """Decode every ``step``-th frame from ``start`` to ``stop`` in one go, each [SMALL_HEIGHT, W, 3], as it is stored."""
    width = max(1, round(SMALL_HEIGHT * medium.info.width / medium.info.height))
    scaler, expected = VideoReformatter(), start
    with _opened(medium.path) as (container, stream, timeline):
        for number, frame in _frames_from(container, stream, timeline, start):
            _stop_if_asked(medium)
            if number < expected:
                continue
            if number > expected or frame.is_corrupt:
                raise bad_media(medium.path, f"damaged: frames are missing or corrupt at {timeline.times[expected]:.2f} s")
            if (number - start) % step == 0:
                yield _small(scaler, frame, width)
            expected += 1
            if expected == stop:
                return
    raise bad_media(medium.path, f"damaged: only {expected} of {stop} frames can be decoded")


def _small(scaler: VideoReformatter, frame: VideoFrame, width: int) -> Pixels:
    scaled = scaler.reformat(frame, width, SMALL_HEIGHT, "bgr24", interpolation=Interpolation.AREA, threads=1)
    return scaled.to_ndarray().astype(np.uint8, copy=False)


def _frames_from(
    container: InputContainer, stream: VideoStream, timeline: Timeline, start: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from the key frame before ``start`` on; from the first frame, where a file seeks late."""
    key = int(timeline.keys[np.searchsorted(timeline.keys, start, side="right") - 1])
    for origin in dict.fromkeys((int(timeline.stamps[key]) if key else timeline.start, timeline.start)):
        container.seek(origin, stream=stream)
        decoded = _numbered(container, stream, timeline)
        first = next(decoded, None)
        if first is not None and (first[0] <= start or origin == timeline.start):
            yield first
            yield from decoded
            return


def _numbered(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[tuple[int, VideoFrame]]:
    for count, frame in enumerate(deinterlaced(container.decode(stream), stream)):
        if timeline.is_counted:
            yield count, frame
        elif frame.pts is not None:
            yield int(np.searchsorted(timeline.stamps, frame.pts, side="right")) - 1, frame


def times_of(piece: Piece) -> tuple[npt.NDArray[np.float64], Fraction | None]:
    """Seconds since the first frame at which each frame [F] is shown, and the frame rate, if it is a constant one."""
    with _opened(piece.medium.path) as (_, _, timeline):
        rate = timeline.nominal_fps
    times = timeline.times[piece.start : piece.stop] - timeline.times[piece.start]
    if not rate or np.abs(times - np.arange(len(times)) / float(rate)).max() > ROUNDING_SECONDS:
        return times, None
    return times, rate

"""Videos: decodes from the key frame before the first wanted frame to the last wanted one, and converts only wanted frames.

Shape letters as in view.py; h and w are the decoder's pixels, before rotation and cropping.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.containers import check_whole, count_avi_frames
from finetrainers.data.media.decoded import Held, frames_from
from finetrainers.data.media.needed import Needed
from finetrainers.data.media.timeline import (
    ROUNDING_SECONDS,
    Timeline,
    open_video,
    read_timeline,
    whole_timeline,
)
from finetrainers.data.media.transfer import Colors, colors_of, to_srgb
from finetrainers.data.media.view import (
    PHASE,
    Clip,
    Fit,
    MediaInfo,
    View,
    bad_media,
    count_frames,
    crop,
    fit,
    needed_frames,
    sample_positions,
)

NEAR = 2
"""Frames around one that is shown that are decoded too."""
SEEK_GAP = 8
"""Frames of decoding that a jump to a later key frame must save to be worth it."""
HD_HEIGHT = 720
"""Video of unstated colors is BT.709 from this height on, as players have it; below, swscale takes BT.601."""
UNSTATED_COLORSPACE = 2
REPEATABLE_X264 = {"mbtree": "0"}
"""Without this, x264 (core 165) makes of the same frames now these bytes and now those: 10 of 25 times others."""


class Orientation(NamedTuple):
    """How decoded pixels become upright: transposed first, then mirrored."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of the sample that are decoded from one key frame."""

    key: int
    rows: range


def probe_video(blob: Blob) -> MediaInfo:
    """Read all time stamps and decode the first frame: a truncated file is found, damage in the middle is not."""
    check_whole(blob)
    with open_video(blob) as (container, stream):
        timeline = whole_timeline(container, stream, blob)
        indexed = count_avi_frames(blob) if timeline.is_counted else 0
        if timeline.num_packets < indexed:
            raise bad_media(blob, f"damaged: {timeline.num_packets} of {indexed} frames can be read; copy it again")
        for _, frame in frames_from(container, stream, timeline, start=timeline.start, needed=Needed(stream, {})):
            height, width = _displayed_size(frame, stream)
            num_frames = len(timeline.stamps)
            return MediaInfo(num_frames, height, width, fps=num_frames / timeline.seconds, seconds=timeline.seconds)
    raise bad_media(blob, "no frame can be decoded")


def decode_video(blob: Blob, view: View) -> Clip:
    """Decode the view's frames to [F, H, W, 3]; damage among them is an error, never a shorter clip."""
    with open_video(blob) as (container, stream):
        held = Held()
        if view.frame_sampling == "start":
            timeline = read_timeline(container, stream, blob, start_of=view, hold=held.add)
        else:
            timeline = whole_timeline(container, stream, blob)
        positions, frames = choose_frames(timeline, view, blob)
        painter = _Painter(view, stream)
        for run in _runs(timeline, frames):
            needed = Needed(stream, _not_shown(timeline, frames, run))
            start = int(timeline.stamps[run.key]) if run.key else timeline.start
            decoded = frames_from(
                container, stream, timeline, start=start, needed=needed, held=held if start == timeline.start else None
            )
            if _paint_run(painter, decoded, frames, run, needed):
                continue
            # Some files seek late, or call frames key frames that are not: all of them from the start always works
            from_start, every = _Run(int(timeline.keys[0]), run.rows), Needed(stream, {})
            if (run.key == 0 and not needed.left_out) or not _paint_run(
                painter,
                frames_from(container, stream, timeline, start=timeline.start, needed=every),
                frames,
                from_start,
                every,
            ):
                seconds = timeline.times[frames[run.rows[-1]]]
                raise bad_media(blob, f"damaged: frames are missing or corrupt at or before {seconds:.2f} s")
    return Clip(pixels=painter.pixels, fps=frame_rate(timeline, view, positions, frames))


def choose_frames(timeline: Timeline, view: View, blob: Blob) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Choose positions [F] among the available frames, and the frames [F] of the file that are shown there."""
    lengths = np.array([len(timeline.stamps)]), np.array([timeline.seconds])
    available, needed = int(count_frames(*lengths, fps=view.fps, stride=view.stride)[0]), needed_frames(view)
    if available < needed:
        how = f"at {view.fps:g} frames per second" if view.fps is not None else f"with stride {view.stride}"
        raise bad_media(blob, f"has {available} frames {how}, {needed} are needed")
    positions = sample_positions(view, available)
    chosen = np.array(positions, np.int64)
    if view.fps is None:
        return positions, chosen * view.stride
    return positions, np.searchsorted(timeline.times, (chosen + PHASE) / view.fps, side="right") - 1


def frame_rate(timeline: Timeline, view: View, positions: list[int], frames: npt.NDArray[np.int64]) -> float:
    """Frame rate of the chosen frames, without the rounding of time stamps where the rate is constant."""
    gaps = view.num_frames - 1
    if gaps == 0:
        return 0.0
    if view.fps is not None:
        return view.fps * gaps / (positions[-1] - positions[0])
    span, num_frames = float(timeline.times[frames[-1]] - timeline.times[frames[0]]), int(frames[-1] - frames[0])
    if timeline.nominal_fps and abs(num_frames / timeline.nominal_fps - span) < ROUNDING_SECONDS:
        return float(timeline.nominal_fps * gaps / num_frames)
    return gaps / span


def _runs(timeline: Timeline, frames: npt.NDArray[np.int64]) -> list[_Run]:
    """Split the rows where a jump to a later key frame is shorter than decoding on."""
    keys = timeline.keys[np.searchsorted(timeline.keys, frames, side="right") - 1]
    starts = [0, *(int(row) for row in np.flatnonzero(keys[1:] > frames[:-1] + SEEK_GAP) + 1)]
    return [_Run(int(keys[a]), range(a, b)) for a, b in zip(starts, [*starts[1:], len(frames)], strict=True)]


def _not_shown(timeline: Timeline, frames: npt.NDArray[np.int64], run: _Run) -> dict[int, int]:
    """Numbers of a run's frames that are neither shown nor near one that is, by their time stamps.

    Lines of interlaced frames are made from those before and after.
    """
    if timeline.is_counted:
        return {}
    shown = frames[run.rows.start : run.rows.stop]
    numbers = np.setdiff1d(np.arange(run.key, shown[-1]), shown[:, None] + np.arange(-NEAR, NEAR + 1))
    return dict(zip(timeline.stamps[numbers].tolist(), numbers.tolist(), strict=True))


def _paint_run(
    painter: "_Painter", decoded: Iterator[tuple[int, VideoFrame]], frames: npt.NDArray[np.int64], run: _Run, needed: Needed
) -> bool:
    """Paint the rows of a run; False if a frame from its key frame on is missing or corrupt, of those that are needed."""
    row, expected = run.rows[0], run.key
    for number, frame in decoded:
        if number < expected:
            continue  # shown before the key frame, and decoded from what came before it
        while expected in needed.left_out:
            expected += 1
        if number > expected or frame.is_corrupt:
            return False
        while row in run.rows and frames[row] == number:
            painter.paint(frame, row)
            row += 1
        if row not in run.rows:
            return True
        expected += 1
    return False


class _Painter:
    """Scales, turns and crops frames into the rows of one sample."""

    def __init__(self, view: View, stream: VideoStream) -> None:
        self.pixels = torch.empty((view.num_frames, view.height, view.width, 3), dtype=torch.uint8)
        self._rows: npt.NDArray[np.uint8] = self.pixels.numpy()
        self._view = view
        self._stream = stream
        self._reformatter = VideoReformatter()  # one for all frames: it prepares its filters once
        self._placed: tuple[Orientation, Fit] | None = None
        self._size = 0, 0

    def paint(self, frame: VideoFrame, row: int) -> None:
        if self._placed is None or self._size != (frame.height, frame.width):  # it may change on the way
            self._placed = _orientation(frame), fit(*_displayed_size(frame, self._stream), self._view)
            self._size = frame.height, frame.width
        turn, placed = self._placed
        upright = _turned(self._scaled(frame, turn, placed), turn)
        self._rows[row] = crop(upright, placed, self._view)

    def _scaled(self, frame: VideoFrame, turn: Orientation, placed: Fit) -> npt.NDArray[np.uint8]:
        """Scale a frame to eight bits of sRGB or BT.709 [h, w, 3], which a viewer shows alike."""
        width, height = (placed.height, placed.width) if turn.transpose else (placed.width, placed.height)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        colors = colors_of(frame.color_trc, frame.color_primaries)
        scaled = self._reformatter.reformat(
            frame,
            width,
            height,
            ("rgba" if has_alpha else "rgb24") if colors is None else ("rgba64le" if has_alpha else "rgb48le"),
            src_colorspace=Colorspace.ITU709 if _is_unstated_hd(frame) else None,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        if colors is None:
            pixels = _packed(scaled, channels=4 if has_alpha else 3)
        else:
            pixels = _converted(scaled, colors, channels=4 if has_alpha else 3)
        return _on_white(pixels) if has_alpha else pixels


def _converted(frame: VideoFrame, colors: Colors, *, channels: int) -> npt.NDArray[np.uint8]:
    """Convert a packed frame of 16 bits to [h, w, channels] of eight."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), "<u2").reshape(-1, plane.line_size // 2)[: frame.height]
    codes = lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    shown = to_srgb(codes[..., :3], colors)
    return np.concatenate([shown, (codes[..., 3:] >> 8).astype(np.uint8)], axis=2) if channels == 4 else shown


def _is_unstated_hd(frame: VideoFrame) -> bool:
    return frame.colorspace == UNSTATED_COLORSPACE and min(frame.height, frame.width) >= HD_HEIGHT


def _packed(frame: VideoFrame, *, channels: int) -> npt.NDArray[np.uint8]:
    """View the pixels [h, w, channels] of a packed frame without copying them."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height]
    return lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _on_white(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay pixels [h, w, 4] on white, as images are."""
    rgba = pixels.astype(np.uint16)
    alpha = rgba[..., 3:]
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix (a b u, c d v, x y w): pixel (p, q) is shown at (a p + c q, b p + d q)."""
    side_data: Any = frame.side_data  # PyAV's stubs know motion vectors only
    if "DISPLAYMATRIX" not in side_data:
        return Orientation(transpose=False, flip_rows=False, flip_columns=False)
    a, b, _, c, d = (int(x) for x in np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32)[:5])
    if abs(b) > abs(a):
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(transpose=False, flip_rows=d < 0, flip_columns=a < 0)


def _turned(pixels: npt.NDArray[np.uint8], turn: Orientation) -> npt.NDArray[np.uint8]:
    upright = pixels.transpose(1, 0, 2) if turn.transpose else pixels
    return upright[:: -1 if turn.flip_rows else 1, :: -1 if turn.flip_columns else 1]


def _displayed_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Height and width on a screen: non-square pixels made square, then turned."""
    height, width = frame.height, round(frame.width * (stream.sample_aspect_ratio or 1))
    return (width, height) if _orientation(frame).transpose else (height, width)

"""What one training sample shows of its media: which frames, at which size, from which place. Pure functions.

Shape letters: F frames, H and W pixels as displayed, N items of a data set.
"""

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finetrainers.data.media.blob import Media
from finetrainers.errors import DataError

FrameSampling = Literal["start", "middle", "random", "uniform", "chunks"]
Resize = Literal["center_crop", "random_crop", "stretch"]

PHASE = 0.1
"""Sample k of a clip resampled to ``fps`` is the frame on screen at (k + PHASE) / fps seconds, not at k / fps: containers
round time stamps (Matroska to milliseconds), and a frame that starts 0.3 ms late must not show its predecessor."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is known of a media file without decoding all of it."""

    num_frames: int
    """Frames of the file; 1 for an image."""
    height: int
    """Pixels as displayed: after EXIF orientation, rotation metadata and non-square pixels."""
    width: int
    """Pixels as displayed."""
    fps: float
    """Average frames per second; 0.0 for an image."""
    seconds: float
    """From the start of the first to the end of the last frame; 0.0 for an image."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that fixes the pixels of one training sample; all draws are made by the caller."""

    num_frames: int
    """F of the sample."""
    height: int
    """H of the sample."""
    width: int
    """W of the sample."""
    frame_sampling: FrameSampling = "start"
    """Which of the available frames."""
    fps: float | None = None
    """Resample to this many frames per second; None takes the clip's own frames."""
    stride: int = 1
    """Take every n-th frame, where ``fps`` is None."""
    window: float = 0.0
    """In [0, 1]: where the window of ``random`` lies."""
    chunk: int = 0
    """Which of the consecutive windows of ``chunks``, from 0."""
    resize: Resize = "center_crop"
    """Both crops scale to the smallest size that covers; ``stretch`` scales to the bucket."""
    crop: tuple[float, float] = (0.5, 0.5)
    """In [0, 1]: place (y, x) of the crop; (0.5, 0.5) is the center."""
    flip: bool = False
    """Mirror left and right."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded view."""

    pixels: Tensor
    """[F, H, W, 3] uint8 RGB."""
    fps: float
    """Frames per second of these frames; 0.0 where there is only one."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How media are scaled and cropped to a view."""

    height: int
    """Scaled height, at least the view's."""
    width: int
    """Scaled width, at least the view's."""
    top: int
    """First row of the crop in the scaled media."""
    left: int
    """First column of the crop in the scaled media."""


def count_frames(
    num_frames: npt.NDArray[np.int64],
    seconds: npt.NDArray[np.float64],
    *,
    fps: float | npt.NDArray[np.float64] | None,
    stride: int,
) -> npt.NDArray[np.int64]:
    """Count the frames [N] that are left after resampling by time stamp or by ``stride``.

    ``fps`` is one rate for all, None for the clips' own frames, or each clip's rate [N] with 0 for its own frames.
    """
    rates = np.asarray(0.0 if fps is None else fps)
    resampled = np.maximum(1, np.ceil(seconds * rates - PHASE)).astype(np.int64)
    return np.where(rates > 0, resampled, -(-num_frames // stride))


def available_frames(probe: MediaInfo, *, fps: float | None, stride: int) -> int:
    """Count the frames that ``decode`` can deliver after resampling: ``count_frames`` of one item."""
    return int(count_frames(np.array([probe.num_frames]), np.array([probe.seconds]), fps=fps, stride=stride)[0])


def num_chunks(available: int, num_frames: int) -> int:
    """Count the consecutive windows of ``num_frames`` in as many available frames; a remainder is no window."""
    return available // num_frames


def needed_frames(view: View) -> int:
    """Count the frames that must be available for the view."""
    return view.num_frames * (view.chunk + 1) if view.frame_sampling == "chunks" else view.num_frames


def sample_positions(view: View, available: int) -> list[int]:
    """Choose F positions, ascending, among the available (already resampled) frames; there must be ``needed_frames``."""
    wanted, spare = view.num_frames, available - view.num_frames
    if view.frame_sampling == "uniform":
        if wanted == 1:
            return [(available - 1) // 2]
        gaps = wanted - 1
        return [(2 * k * (available - 1) + gaps) // (2 * gaps) for k in range(wanted)]  # rounded, first and last included
    first = {
        "start": 0,
        "middle": spare // 2,
        "random": min(int(view.window * (spare + 1)), spare),
        "chunks": view.chunk * wanted,
    }[view.frame_sampling]
    return list(range(first, first + wanted))


def fit(height: int, width: int, view: View) -> Fit:
    """Scale media of displayed ``height`` x ``width`` to the smallest size that covers the view, and place the crop."""
    if view.resize == "stretch":
        return Fit(view.height, view.width, 0, 0)
    scale = max(view.height / height, view.width / width)
    covering = max(view.height, round(height * scale)), max(view.width, round(width * scale))
    top, left = round(view.crop[0] * (covering[0] - view.height)), round(view.crop[1] * (covering[1] - view.width))
    return Fit(*covering, top, left)


def crop(scaled: npt.NDArray[np.uint8], placed: Fit, view: View) -> npt.NDArray[np.uint8]:
    """Cut [H, W, 3] out of scaled media, mirrored if the view says so; no pixel is copied."""
    cut = scaled[placed.top : placed.top + view.height, placed.left : placed.left + view.width]
    return cut[:, ::-1] if view.flip else cut


def why_unreadable(error: OSError) -> str:
    """Say that the system could not read a file, which is no damage of its contents."""
    name = error.filename
    if isinstance(error, FileNotFoundError) and isinstance(name, str) and os.path.islink(name):  # noqa: PTH114
        return f"is a link to {os.readlink(name)}, which is not there"  # noqa: PTH115
    return f"cannot be read: {error.strerror or error}"


def bad_media(media: Media, reason: str) -> DataError:
    """Make the error of a medium that cannot be used."""
    return DataError(f"{media}: {reason}")

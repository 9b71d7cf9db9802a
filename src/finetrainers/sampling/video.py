"""Writes frames as a video.

Shape letters: F frames, H height, W width.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetrainers.data.media.video import REPEATABLE_X264
from finetrainers.errors import DataError
from finetrainers.files.whole import whole_file


def write_video(file: Path | str, frames: Sequence[Any], fps: float) -> Path:
    """Write frames of one even size as an H.264 mp4; it is whole or not there at all.

    Args:
        file: With the suffix .mp4.
        frames: PIL images, or arrays [H, W, 3] of 0 to 255 as uint8 or of 0 to 1 as floats: what a diffusers pipeline
            returns as ``.frames[0]``. An array [F, H, W, 3] will do.
        fps: Frames per second.

    Raises:
        DataError: If they cannot be written as a video.
    """
    import av

    file = Path(file)
    if file.suffix.lower() != ".mp4":
        raise DataError(f"{file}: only .mp4 is written; name the file {file.with_suffix('.mp4').name}")
    pixels = [_pixels(frame, number, file) for number, frame in enumerate(frames)]
    _check(pixels, file)
    options = {"crf": "16", **REPEATABLE_X264}
    with whole_file(file) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def _pixels(frame: Any, number: int, file: Path) -> NDArray[np.uint8]:
    """Frame [H, W, 3] of an image or an array."""
    pixels = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
    if np.issubdtype(pixels.dtype, np.floating) and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"{file}: frame {number} is {pixels.dtype} {list(pixels.shape)}; give PIL images, or arrays [height, width, 3] "
            "of uint8, or of floats from 0 to 1"
        )
    return np.ascontiguousarray(pixels)


def _check(pixels: Sequence[NDArray[np.uint8]], file: Path) -> None:
    """Refuse what is not a video."""
    sizes = {frame.shape[:2] for frame in pixels}
    if len(sizes) != 1:
        raise DataError(f"{file}: {len(pixels)} frames of {len(sizes)} sizes; a video has frames of one size")
    height, width = next(iter(sizes))
    if height % 2 or width % 2:
        raise DataError(f"{file}: frames are {width}x{height}, and H.264 has even sizes only; crop them by a pixel")

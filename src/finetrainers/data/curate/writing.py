"""A piece as a file of its own: copied where it is all of its medium, else encoded anew."""

import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from PIL import Image

from finetrainers.config.curate import OutputConfig
from finetrainers.data.curate.piece import Piece
from finetrainers.data.curate.reading import Pixels, full_frames, reading, times_of
from finetrainers.data.media.video import REPEATABLE_X264
from finetrainers.data.media.view import bad_media
from finetrainers.files.whole import BLOCK_BYTES, whole_file

FOLDER_MEDIA = 1000
"""Media of the input whose pieces share a folder."""
NAME_LENGTH = 60
TIME_BASE = Fraction(1, 90_000)
"""Of clips whose frame rate is not constant."""
BT709, LIMITED_RANGE = 1, 1
"""What players take HD video for, stated so that nobody has to guess."""


def name_of(piece: Piece, number: int) -> str:
    """Name the file of a medium's ``number``-th piece; no other piece of the preparation has it."""
    index = piece.medium.index
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", piece.medium.path.stem)[:NAME_LENGTH]
    suffix = piece.medium.path.suffix.lower() if piece.is_whole else ".mp4" if piece.medium.is_video else ".png"
    return f"{index // FOLDER_MEDIA:04d}/{stem}-{index:06d}-{number:03d}{suffix}"


def write_piece(piece: Piece, file: Path, output: OutputConfig) -> int:
    """Write a piece whole or not at all; return its size in bytes.

    Raises:
        DataError: If the medium turns out to be damaged.
    """
    make: Callable[[Path], object]
    if piece.is_whole:
        make = lambda to: _copy(piece.medium.path, to)  # noqa: E731 - one of three ways
    elif piece.medium.is_video:
        make = lambda to: _encode(piece, to, output)  # noqa: E731
    else:
        make = lambda to: Image.fromarray(next(full_frames(piece))).save(to, "PNG")  # noqa: E731
    return _whole(file, make)


def _whole(file: Path, make: Callable[[Path], object]) -> int:
    """Make a file under another name, flush it to the disk, and give it its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as temporary:
        make(temporary)
    return file.stat().st_size


def _copy(path: Path, to: Path) -> None:
    with reading(path):
        source = path.open("rb")
    with source, to.open("wb") as out:
        shutil.copyfileobj(source, out, BLOCK_BYTES)


def _encode(piece: Piece, file: Path, output: OutputConfig) -> None:
    """Encode a clip as H.264 with the times of its frames, and exactly those; sides of odd length lose a pixel."""
    times, rate = times_of(piece)
    height, width = even_size(piece)
    with av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": str(output.crf), "preset": output.preset, **REPEATABLE_X264}
        stream = container.add_stream("libx264", rate=rate or _average(piece), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        _state_colors(stream)
        base = 1 / rate if rate else TIME_BASE
        stream.codec_context.time_base = base
        stamps = range(len(times)) if rate else np.round(times / float(base)).astype(np.int64).tolist()
        num_written = 0
        for stamp, picture in zip(stamps, full_frames(piece), strict=False):
            frame = _frame(picture[:height, :width])
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
            num_written += 1
        container.mux(stream.encode())
    if num_written != piece.num_frames:
        raise bad_media(piece.medium.path, f"damaged: {num_written} of {piece.num_frames} frames can be decoded")


def _frame(picture: Pixels) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED_RANGE)


def _state_colors(stream: VideoStream) -> None:
    context = stream.codec_context
    context.thread_count = 1  # workers are threads, and one alone writes the same bytes on all machines
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def _average(piece: Piece) -> Fraction:
    return Fraction(piece.medium.info.fps).limit_denominator(1001)


def even_size(piece: Piece) -> tuple[int, int]:
    """Height and width of the file: H.264 takes even sides only, and at least 2 pixels of each."""
    height, width = piece.box.height, piece.box.width
    if piece.is_whole or not piece.medium.is_video:
        return height, width
    if min(height, width) < 2:
        raise bad_media(piece.medium.path, f"is {height} x {width} pixels, which no clip can be")
    return height - height % 2, width - width % 2


def write_lines(file: Path, lines: Iterator[str]) -> None:
    """Write a text file of any length, whole or not at all."""

    def make(to: Path) -> None:
        with to.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            out.writelines(lines)

    _whole(file, make)

"""Clips as files: folders that any config can name as its data.

Pixels are uint8 [K, H, W, C].
"""

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from finetrainers.files.whole import whole_directory
from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.video.clips import FPS, Clip, clip_caption

CLIPS_PER_FOLDER = 1000


def write_clip(file: Path, pixels: Pixels) -> None:
    """Write a clip as an mp4 whose colours are off by rounding only: every pixel has its own, and nothing is quantised."""
    with av.open(str(file), "w") as container:
        options = {"crf": "0", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.thread_count = 1
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_clips(directory: Path, clips: Iterable[tuple[Pixels, Clip]]) -> None:
    """Write mp4s and their captions in metadata.jsonl, unless the folder is there; it is whole or not there at all."""
    if directory.exists():
        return
    with whole_directory(directory) as temporary, (temporary / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for n, (pixels, clip) in enumerate(clips):
            name = f"{n // CLIPS_PER_FOLDER:03d}/{n % CLIPS_PER_FOLDER:03d}.mp4"
            (temporary / name).parent.mkdir(exist_ok=True)
            write_clip(temporary / name, pixels)
            metadata.write(json.dumps({"file_name": name, "caption": clip_caption(clip)}) + "\n")

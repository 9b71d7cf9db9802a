"""Samples of a validation, as trackers take them: with their prompts, under one name for each prompt."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from finetrainers.files.steps import STEP_NAME
from finetrainers.runs.outputs import Sample, samples_of

GIF_FRAMES, GIF_SIDE = 32, 256
"""Frames, and pixels of the longer side, of a video in TensorBoard, which shows pictures alone."""
GIF_MILLISECONDS = 125


def drawn(directory: Path | str) -> list[Sample]:
    """Find what a validation generated, in the order of its prompts."""
    folder = Path(directory).resolve()
    match = STEP_NAME.fullmatch(folder.name)
    return samples_of(folder, int(match[1]) if match else 0, folder)


def tag_of(sample: Sample) -> str:
    """Name that the samples of one prompt have at all steps."""
    return f"samples/{sample.number:02d}"


def media_of(library: Any, samples: list[Sample]) -> dict[str, Any]:
    """Write samples as objects of W&B, or of trackio, which names them alike; their captions are the prompts."""
    kinds = {False: library.Image, True: library.Video}
    return {tag_of(sample): kinds[sample.is_video](str(sample.file), caption=sample.prompt) for sample in samples}


def write_summary(writer: Any, sample: Sample, step: int) -> None:
    """Write a sample into TensorBoard's files: a picture as it is, a video as a small GIF, described by its prompt."""
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
        Summary,
        SummaryMetadata,
    )

    data = small_gif(sample.file) if sample.is_video else sample.file.read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
    about = SummaryMetadata(display_name=sample.prompt, summary_description=sample.prompt)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag_of(sample), image=shown, metadata=about)]), step)
    writer.add_text(f"{tag_of(sample)}/prompt", sample.prompt, step)


def small_gif(file: Path) -> bytes:
    """Turn a video into an animated GIF of few and small frames, spread over all of it; no more are held at once."""
    import av

    chosen: list[Image.Image] = []
    stride = 1
    with av.open(str(file)) as video:
        for number, frame in enumerate(video.decode(video=0)):
            if number % stride:
                continue
            picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
            picture.thumbnail((GIF_SIDE, GIF_SIDE))
            chosen.append(picture)
            if len(chosen) > GIF_FRAMES:
                chosen, stride = chosen[::2], 2 * stride
    out = io.BytesIO()
    chosen[0].save(out, "gif", save_all=True, append_images=chosen[1:], duration=GIF_MILLISECONDS, loop=0)
    return out.getvalue()

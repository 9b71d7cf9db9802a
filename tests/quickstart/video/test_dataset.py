"""Clips as files are what the trainer reads back."""

import numpy as np

from finetrainers.config import DataConfig
from finetrainers.data.media.files import View, decode, probe
from finetrainers.data.sources.items import list_items
from finetrainers.quickstart.video.clips import FPS, NUM_FRAMES, clip_caption, render_clip
from finetrainers.quickstart.video.dataset import write_clip, write_clips

WHOLE = View(
    num_frames=NUM_FRAMES,
    height=64,
    width=64,
    frame_sampling="start",
    fps=None,
    stride=1,
    window=0.0,
    chunk=0,
    resize="center_crop",
    crop=(0.5, 0.5),
    flip=False,
)


def test_what_is_decoded_is_what_was_written(tmp_path):
    for n in range(4):
        pixels, _ = render_clip(n, 1)
        file = tmp_path / f"{n}.mp4"
        write_clip(file, pixels)
        assert probe(file).fps == FPS
        decoded = decode(file, WHOLE).pixels.numpy()
        np.testing.assert_allclose(decoded.astype(int), pixels.astype(int), atol=2)  # the rounding of YUV


def test_a_written_folder_lists_each_clip_with_its_caption(tmp_path):
    rendered = [render_clip(n, 2) for n in range(3)]
    write_clips(tmp_path / "clips", rendered)
    table = list_items(DataConfig(path=str(tmp_path / "clips"), buckets=((NUM_FRAMES, 64, 64),))).table
    assert table["captions"].to_pylist() == [[clip_caption(clip)] for _, clip in rendered]
    for file, (pixels, _) in zip(table["media"].to_pylist(), rendered, strict=True):
        np.testing.assert_allclose(decode(type(tmp_path)(file), WHOLE).pixels.numpy().astype(int), pixels, atol=2)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    write_clips(tmp_path / "clips", [render_clip(0, 2)])
    before = sorted((tmp_path / "clips").rglob("*"))
    write_clips(tmp_path / "clips", [render_clip(n, 3) for n in range(2)])
    assert sorted((tmp_path / "clips").rglob("*")) == before

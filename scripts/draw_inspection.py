"""Draw the picture of docs/inspect.md: a contact sheet of clips that the quick start renders, as the trainer sees them.

python scripts/draw_inspection.py docs/images/inspect.png
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from finetrainers.config import parse_config
from finetrainers.quickstart.video.clips import NUM_FRAMES, render_clip
from finetrainers.quickstart.video.dataset import write_clips
from finetrainers.testing import make_tiny
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.inspect.sheets import sheets

COLUMNS, GAP, SEED, NUM_CLIPS = 3, 6, 7, 24


def draw(folder: Path) -> Image.Image:
    """Lay the samples of the first bucket in a grid, each as its first, middle and last frame."""
    write_clips(folder / "clips", (render_clip(index, SEED) for index in range(NUM_CLIPS)))
    config = parse_config(
        {
            "output_dir": str(folder / "run"),
            "model": {"path": str(make_tiny("ltx_video", folder / "model")), "dtype": "float32"},
            "data": [{"path": str(folder / "clips"), "buckets": [[NUM_FRAMES, 64, 96]], "max_upscale": 8}],
            "train": {"steps": 10, "batch_size": 1, "device": "cpu"},
            "cache": {"path": str(folder / "cache")},
        }
    )
    prepared = inspect(config, Inspecting(sample=0)).prepared
    assert prepared is not None
    (_, shown), *_ = sheets(prepared)
    width, height = shown[0].pictures[0].size
    strip = 3 * width + 2 * GAP // 3
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (strip + 2 * GAP), rows * (height + 2 * GAP)), "white")
    for place, one in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        for number, picture in enumerate(one.pictures):
            left = column * (strip + 2 * GAP) + GAP + number * (width + GAP // 3)
            sheet.paste(picture, (left, row * (height + 2 * GAP) + GAP))
    return sheet


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        draw(Path(directory)).save(sys.argv[1], optimize=True)

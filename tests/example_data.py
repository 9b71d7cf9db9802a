"""Stand-ins for the data sets that examples train on: rendered, and laid out as their READMEs download or make them."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from loading import load_file
from PIL import Image

from finetrainers.sampling.sampler import write_video

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_ITEMS = 4
FRAME_RATE = 8.0
"""No higher than any model's: no frame is left out."""
Size = tuple[int, int, int]
"""Frames, height and width."""
SMALL: Size = (9, 64, 64)


def picture(seed: int, size: Size = SMALL) -> Image.Image:
    """Noise in 8 x 8 blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(blocks).resize((size[2], size[1]), Image.Resampling.NEAREST)


def half_of(config: Path) -> Size:
    """A size that an example takes, and that is rendered fast: half of its first bucket's height and width."""
    frames, height, width = yaml.safe_load(config.read_text())["data"][0]["buckets"][0]
    return frames, height // 2, width // 2


def write_cards(root: Path, size: Size) -> None:
    """Pictures with captions in metadata.csv."""
    folder = root / "tarot" / "train"
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "text"])
        for number in range(NUM_ITEMS):
            picture(number, size).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", f"card {number}"])


def write_pairs(root: Path, size: Size) -> None:
    """Edit pairs as OmniEdit has them, unpacked by the script; the last one does not fit."""

    def encoded(image: Image.Image, kind: str) -> dict[str, bytes]:
        image.save(buffer := io.BytesIO(), kind)
        return {"bytes": buffer.getvalue(), "path": b""}

    (root / "omni-edit" / "data").mkdir(parents=True)
    rows = [
        {
            "src_img": encoded(picture(10 + number, size), "JPEG"),
            "edited_img": encoded(
                picture(number, size).crop((0, 0, size[2], size[1] * 5 // 8 if number == NUM_ITEMS else size[1])), "PNG"
            ),
            "edited_prompt_list": ["Make it blue.", f"Paint it blue, {number} times."],
            "task": "color",
        }
        for number in range(NUM_ITEMS + 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "omni-edit" / "data" / "train-00000.parquet")
    unpack = load_file(EXAMPLES / "training/control/cogview4/omni_edit/unpack.py")
    unpack.main(str(root / "omni-edit"), str(root / "omni-edit" / "pairs"))


def write_clips(folder: Path, size: Size, captions: str = "prompt.txt") -> None:
    """Clips in two lists: nine frames that differ, and the last one again for as long as it takes."""
    (folder / "videos").mkdir(parents=True)
    names = [f"videos/{number}.mp4" for number in range(NUM_ITEMS)]
    for number, name in enumerate(names):
        frames = [picture(10 * number + frame, size) for frame in range(9)]
        write_video(folder / name, [frames[min(frame, 8)] for frame in range(size[0])], FRAME_RATE)
    (folder / "videos.txt").write_text("\n".join(names))
    (folder / captions).write_text("\n".join(f"clip {number}" for number in range(NUM_ITEMS)))


def write_photographs(root: Path, size: Size) -> None:
    """Pictures with captions beside them, and what the script writes for an estimate."""
    (root / "photos" / "sea").mkdir(parents=True)
    for number in range(NUM_ITEMS):
        picture(number, size).save(root / "photos" / "sea" / f"{number}.jpg")
        (root / "photos" / "sea" / f"{number}.txt").write_text(f"photograph {number}")
    write_depth = load_file(EXAMPLES / "training/control/flux/depth/make_depth.py").write_depth
    write_depth(root / "photos", root / "photos-depth", lambda image: image.convert("L"))
    assert len(list((root / "photos-depth" / "sea").glob("*.png"))) == NUM_ITEMS


WRITE: dict[str, Callable[[Path, Size], None]] = {
    "data/tarot/train": write_cards,
    "data/omni-edit/pairs": write_pairs,
    "data/photos": write_photographs,
    "data/3dgs-dissolve": lambda root, size: write_clips(root / "3dgs-dissolve", size),
    "data/crush-smol": lambda root, size: write_clips(root / "crush-smol", size),
    "data/disney": lambda root, size: write_clips(root / "disney", size, "prompts.txt"),
}
"""By the path that examples name: writes the data set into a folder that stands for ``data``."""


def write_data(config: Path, root: Path, size: Size) -> dict[str, str]:
    """Write what an example trains on to ``root/data``; return the keys of its ``data`` that say where it is."""
    (data,) = yaml.safe_load(config.read_text())["data"]
    WRITE[data["path"]](root / "data", size)
    return {key: str(root / data[key]) for key in ("path", "control_path") if key in data}

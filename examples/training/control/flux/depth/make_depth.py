"""Estimate the depth of all pictures of a folder into a parallel one: python make_depth.py PICTURES TARGET [MODEL]."""

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MODEL = "depth-anything/Depth-Anything-V2-Small-hf"

Picture = Image.Image


def write_depth(pictures: Path, target: Path, estimate: Callable[[Picture], Picture]) -> None:
    """Write the depth of each picture to the same place and name, as PNG; what is there already is left as it is."""
    for file in sorted(pictures.rglob("*")):
        depth = (target / file.relative_to(pictures)).with_suffix(".png")
        if file.suffix.lower() not in SUFFIXES or depth.exists():
            continue
        depth.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as picture:
            estimate(ImageOps.exif_transpose(picture).convert("RGB")).save(depth)


def main(pictures: str, target: str, model: str = MODEL) -> None:
    """Estimate with a model of the Hub."""
    from transformers import pipeline

    estimator = pipeline("depth-estimation", model=model)
    write_depth(Path(pictures), Path(target), lambda picture: estimator(picture)["depth"])


if __name__ == "__main__":
    main(*sys.argv[1:])

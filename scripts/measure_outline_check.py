"""How often the quick start's check of a banner errs, on rendered banners whose outline was changed on purpose.

    python scripts/measure_outline_check.py              # two minutes; writes the table of docs/quickstart_measures.md
    python scripts/measure_outline_check.py --print 99   # 99 banners, and no page is changed

Each banner is measured twice: as it is drawn, and after the base's VAE has encoded and decoded it, as all that a model draws
comes from there. "Earlier" is the rule of before: a box of the rows and columns that are mostly filled, with a limit of
pixels outside. A change is small where it is less than an eighth of the banner's height, and large where it is more.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter

from finetrainers.cli.imports import quiet_libraries
from finetrainers.quickstart.concept import Banner, render_banner
from finetrainers.quickstart.drawing import COLOURS, PALETTE, SIZE, Pixels, cover
from finetrainers.quickstart.image import IMAGE
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.reading import MIN_AREA, Mask, bounds, label_pixels, off_ground, read_ground

PAGE = Path(__file__).parents[1] / "docs/quickstart_measures.md"
SEED, COUNT = 7, 20
Change = Callable[[Pixels, Banner, np.random.Generator], Pixels]


def outline(pixels: Pixels, banner: Banner) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a banner that is as it was rendered."""
    return bounds(off_ground(label_pixels(pixels), COLOURS.index(banner.ground)))


def ground_of(banner: Banner) -> Pixels:
    """Return the ground's colour."""
    return np.array(PALETTE[banner.ground], np.uint8)


def blurred(pixels: Pixels, _: Banner, generator: np.random.Generator) -> Pixels:
    """Blur, and add noise."""
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    return (soft + generator.normal(0, 6, soft.shape)).clip(0, 255).astype(np.uint8)


def step_out(depth: int) -> Change:
    """Let a part of the top or the bottom edge lie further out, where the picture has room."""

    def change(pixels: Pixels, banner: Banner, generator: np.random.Generator) -> Pixels:
        changed, (left, top, right, bottom) = pixels.copy(), outline(pixels, banner)
        length = int(generator.uniform(0.3, 0.7) * (right - left))
        start = left if generator.random() < 0.5 else right - length
        columns = slice(start, start + length)
        if top - depth > SIZE - bottom - depth:
            changed[top - depth : top, columns] = pixels[top + 2, columns]
        else:
            changed[bottom : bottom + depth, columns] = pixels[bottom - 3, columns]
        return changed

    return change


def step_in(depth: int) -> Change:
    """Take a part of the top or the bottom edge away."""

    def change(pixels: Pixels, banner: Banner, generator: np.random.Generator) -> Pixels:
        changed, (left, top, right, bottom) = pixels.copy(), outline(pixels, banner)
        length = int(generator.uniform(0.3, 0.7) * (right - left))
        start = left if generator.random() < 0.5 else right - length
        rows = slice(top, top + depth) if generator.random() < 0.5 else slice(bottom - depth, bottom)
        changed[rows, start : start + length] = ground_of(banner)
        return changed

    return change


def with_lump(pixels: Pixels, banner: Banner, generator: np.random.Generator) -> Pixels:
    """Let half a circle of radius 8 stick out."""
    changed, (left, top, right, _) = pixels.copy(), outline(pixels, banner)
    lump = cover("circle", (generator.uniform(left + 8, right - 8), top, 16, 16)) > 0.5
    lump[top:] = False
    changed[lump] = PALETTE[banner.colours[0]]
    return changed


def with_square(pixels: Pixels, banner: Banner, generator: np.random.Generator) -> Pixels:
    """Put a square of 7 x 7 pixels beside the banner, two pixels away."""
    changed, (_, top, _, bottom) = pixels.copy(), outline(pixels, banner)
    row = top - 9 if top > SIZE - bottom else bottom + 2
    column = int(generator.integers(2, SIZE - 9))
    changed[row : row + 7, column : column + 7] = PALETTE[banner.colours[0]]
    return changed


def with_notch(pixels: Pixels, banner: Banner, generator: np.random.Generator) -> Pixels:
    """Cut 6 pixels wide and 20 deep into the top edge."""
    changed, (left, top, right, _) = pixels.copy(), outline(pixels, banner)
    start = int(generator.integers(left + 6, right - 12))
    changed[top : top + 20, start : start + 6] = ground_of(banner)
    return changed


def with_small_hole(pixels: Pixels, banner: Banner, _: np.random.Generator) -> Pixels:
    """Let ground show through 6 x 6 pixels, a third from the left and from the top."""
    changed, (left, top, right, bottom) = pixels.copy(), outline(pixels, banner)
    row, column = top + (bottom - top) // 3, left + (right - left) // 3
    changed[row : row + 6, column : column + 6] = ground_of(banner)
    return changed


def apart(pixels: Pixels, banner: Banner, _: np.random.Generator) -> Pixels:
    """Let ground show between upright thirds."""
    changed, (left, top, right, bottom) = pixels.copy(), outline(pixels, banner)
    for part in (1 / 3, 2 / 3):
        middle = int(left + part * (right - left))
        changed[top:bottom, middle - 2 : middle + 2] = ground_of(banner)
    return changed


def without(pixels: Pixels, banner: Banner, lost: Callable[[Pixels, Pixels], Mask]) -> Pixels:
    """Take away what lies where a function of (x, y), each in 0..1 across the banner, says so."""
    changed, (left, top, right, bottom) = pixels.copy(), outline(pixels, banner)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = (x - left) / (right - left), (y - top) / (bottom - top)
    changed[lost(x, y)] = ground_of(banner)
    return changed


SMALL: Mapping[str, Change] = {
    "as rendered": lambda pixels, *_: pixels,
    "blurred, with noise": blurred,
    "a step of 2 pixels out": step_out(2),
    "a step of 3 pixels out": step_out(3),
    "a step of 2 pixels in": step_in(2),
    "a step of 3 pixels in": step_in(3),
}
LARGE: Mapping[str, Change] = {
    "a step of 6 pixels out": step_out(6),
    "a step of 6 pixels in": step_in(6),
    "a lump of radius 8": with_lump,
    "a square of 7 pixels beside it": with_square,
    "thirds apart": apart,
    "a trapezoid": lambda pixels, banner, _: without(pixels, banner, lambda x, y: abs(x - 0.5) > 0.5 - 0.19 * y),
    "an ellipse": lambda pixels, banner, _: without(pixels, banner, lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2 > 0.25),
    "a corner missing": lambda pixels, banner, _: without(pixels, banner, lambda x, y: (x < 0.35) & (y < 0.35)),
    "a third missing": lambda pixels, banner, _: without(pixels, banner, lambda x, y: (x > 0.67) & (y > 0)),
    "a hole of a fifth": lambda pixels, banner, _: without(
        pixels, banner, lambda x, y: (abs(x - 0.3) < 0.11) & (abs(y - 0.3) < 0.16)
    ),
}
MISSED: Mapping[str, Change] = {"a notch of 6 pixels, 20 deep": with_notch, "a hole of 6 x 6 pixels": with_small_hole}
"""Errors that are narrower than what the check looks for."""


def was_right(pixels: Pixels, _: Banner) -> bool:
    """Whether the earlier rule took an outline for a banner's."""
    labels = label_pixels(pixels)
    inside = off_ground(labels, read_ground(labels))
    rows, columns = np.flatnonzero(inside.sum(1) > SIZE * 0.4), np.flatnonzero(inside.sum(0) > SIZE * 0.25)
    if not len(rows) or not len(columns):
        return False
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = inside[box].shape
    outside = inside.copy()
    outside[box] = False
    is_filled = inside[box].mean() > 0.9 and outside.sum() < MIN_AREA
    return bool(is_filled and SIZE * 0.65 < width < SIZE and 1.15 < width / height < 1.95)


def is_right(pixels: Pixels, banner: Banner) -> bool:
    """Whether today's rule does."""
    return measure(pixels, banner).checks["outline"]


@torch.no_grad()
def through_vae(vae: AutoencoderKL, pictures: list[Pixels]) -> list[Pixels]:
    """Encode pictures, and decode them."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return list(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())


def table(count: int) -> Iterator[str]:
    """One row for each change."""
    vae = AutoencoderKL.from_pretrained(IMAGE.base / "vae").eval()
    yield "| outline of a banner | is | passed earlier | passes now |"
    yield "|---|---|---|---|"
    for word, changes in (("right", SMALL), ("wrong", LARGE), ("wrong", MISSED)):
        for name, change in changes.items():
            rendered = [render_banner(n, SEED, split="held_out") for n in range(count)]
            drawn = [change(pixels, banner, np.random.default_rng(n)) for n, (pixels, banner) in enumerate(rendered)]
            both = [*zip(drawn, rendered, strict=True), *zip(through_vae(vae, drawn), rendered, strict=True)]
            shares = [100 * np.mean([rule(own, banner) for own, (_, banner) in both]) for rule in (was_right, is_right)]
            yield f"| {name} | {word} | {shares[0]:.0f} % | {shares[1]:.0f} % |"


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", type=int, metavar="N", help="print what N banners say, and change no page")
    options = parser.parse_args()
    quiet_libraries()
    lines = list(table(options.print or COUNT))
    if options.print:
        print("\n".join(lines))
    else:
        from memory_table import filled

        PAGE.write_text(filled(PAGE.read_text(), "outline", lines))


if __name__ == "__main__":
    main()

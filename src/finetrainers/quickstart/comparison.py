"""comparison.png: the same prompts before and after, beside what was rendered.

A picture is uint8 [H, W, C].
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from finetrainers.quickstart.drawing import SIZE, Pixels

ENLARGED = 3
CELL, GAP, MARGIN, LABEL, HEADER, MARK = SIZE * ENLARGED, 14, 18, 96, 92, 24
"""Pixels: a picture's side, between pictures, around all, left of a row, above the rows, and below each picture."""
CAPTION_SIZE, LABEL_SIZE, MARK_SIZE = 16, 20, 15
CAPTION_LETTERS = 24
"""Letters of a caption's line."""
INK, RIGHT, WRONG = (30, 30, 34), (20, 120, 60), (190, 40, 40)


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures of one kind, one for each caption."""

    label: str
    pictures: Sequence[Pixels]
    faults: Sequence[Sequence[str]]
    """Names of the checks that fail, of each; none where it measures right."""


def draw_comparison(captions: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Put rows of pictures below their captions; each picture says whether it measures right, or what is wrong."""
    canvas = Image.new("RGB", size_of(len(captions), len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, caption in enumerate(captions):
        x, y = corner(0, column)
        # From below, so that captions of two lines and of four end at the pictures alike.
        pen.multiline_text((x, y - 10), wrap(caption), INK, font(CAPTION_SIZE), anchor="ld", spacing=5)
    for number, row in enumerate(rows):
        middle = (MARGIN, corner(number, 0)[1] + CELL // 2)
        pen.multiline_text(middle, row.label.replace(" ", "\n"), INK, font(LABEL_SIZE), anchor="lm")
        for column, (pixels, faults) in enumerate(zip(row.pictures, row.faults, strict=True)):
            x, y = corner(number, column)
            canvas.paste(Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
            pen.text((x, y + CELL + 4), verdict(faults), WRONG if faults else RIGHT, font(MARK_SIZE), anchor="la")
    return canvas


def verdict(faults: Sequence[str]) -> str:
    """Say whether a picture is right, or which checks fail, as far as there is room below it."""
    shown = [f"wrong: {', '.join(faults[:count])}{' ...' * (count < len(faults))}" for count in range(len(faults), 0, -1)]
    return next((text for text in shown if font(MARK_SIZE).getlength(text) <= CELL), "wrong") if faults else "right"


def corner(row: int, column: int) -> tuple[int, int]:
    """Return the left and the top pixel of a picture."""
    return MARGIN + LABEL + column * (CELL + GAP), MARGIN + HEADER + row * (CELL + MARK + GAP)


def size_of(columns: int, rows: int) -> tuple[int, int]:
    """Return the width and the height of the whole."""
    x, y = corner(rows, columns)
    return x - GAP + MARGIN, y - GAP + MARGIN


def wrap(caption: str) -> str:
    """Break a caption into lines that are no wider than a picture."""
    return "\n".join(textwrap.wrap(caption, CAPTION_LETTERS))


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded

"""Pixels of the quick start: a palette, anti-aliased shapes, and layers of them.

Pictures are uint8 [H, W, C] with H = W = 64 and C = 3 (RGB); coverages are float32 [H, W] in 0..1.
"""

import hashlib
from collections.abc import Iterable, Sequence
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 64
"""Pixels on each side of a picture."""

SUPERSAMPLING = 4
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 40),
    "orange": (242, 132, 20),
    "yellow": (250, 225, 60),
    "green": (35, 155, 70),
    "blue": (30, 75, 215),
    "purple": (145, 40, 180),
    "pink": (245, 150, 195),
    "brown": (120, 72, 40),
    "black": (20, 20, 24),
    "white": (246, 246, 246),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "star", "diamond", "ring", "heart", "cross")
HOLE = 0.52
"""Radius of a ring's hole, as a part of its own."""

Pixels = NDArray[np.uint8]
Coverage = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Centre x, centre y, width and height in pixels; pixel (0, 0) covers 0..1 on both axes."""


def random_generator(seed: int, position: int, purpose: str) -> np.random.Generator:
    """Return a generator that depends on nothing but the arguments."""
    return np.random.Generator(np.random.PCG64(stable_hash(f"{seed}/{position}/{purpose}")))


def stable_hash(text: str) -> int:
    """Return the same 64 bits in every process, unlike ``hash``."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def square_box(x: float, y: float, radius: float) -> Box:
    """Return the box of a shape of some radius."""
    return x, y, 2 * radius, 2 * radius


def long_box(x: float, y: float, extent: tuple[float, float], is_upright: bool) -> Box:
    """Return the box of a bar, whose extent is (along, across)."""
    along, across = extent
    return (x, y, across, along) if is_upright else (x, y, along, across)


def composite(ground: str, layers: Iterable[tuple[Coverage, str]]) -> Pixels:
    """Paint layers of palette colours over a ground, the last on top."""
    picture = np.broadcast_to(np.array(PALETTE[ground], np.float32), (SIZE, SIZE, 3))
    for coverage, colour in layers:
        alpha = coverage[..., None]
        picture = picture * (1 - alpha) + np.array(PALETTE[colour], np.float32) * alpha
    return np.round(picture).astype(np.uint8)


def cover(shape: str, box: Box) -> Coverage:
    """Return how much of each pixel a shape covers, [H, W]; what is not in SHAPES is a rectangle."""
    x, y, width, height = (value * SUPERSAMPLING for value in box)
    canvas = Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING), 0)
    pen = ImageDraw.Draw(canvas)

    def ellipse(part: float, fill: int) -> None:
        pen.ellipse(
            (x - part * width / 2, y - part * height / 2, x + part * width / 2 - 1, y + part * height / 2 - 1), fill=fill
        )

    if shape in ("circle", "ring"):
        ellipse(1.0, 255)
        if shape == "ring":
            ellipse(HOLE, 0)
    else:
        # Pillow's polygons include their far edge, hence the half pixel.
        outline = _OUTLINES.get(shape, _RECTANGLE)
        pen.polygon([(x + width / 2 * u - 0.5, y + height / 2 * v - 0.5) for u, v in outline], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / np.float32(255)


Outline = Sequence[tuple[float, float]]
"""Corners of a polygon in -1..1, y downwards."""


def _star(points: int = 5, inner: float = 0.52) -> Outline:
    radii = (1.05, 1.05 * inner)
    return [(radii[n % 2] * sin(n * pi / points), 0.08 - radii[n % 2] * cos(n * pi / points)) for n in range(2 * points)]


def _heart(corners: int = 48) -> Outline:
    angles = [2 * pi * n / corners for n in range(corners)]
    return [(sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t) + 2.5) / 15.5) for t in angles]


def _plus(arm: float = 0.34) -> Outline:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    return [_turn(point, times) for times in range(4) for point in quarter]


def _turn(point: tuple[float, float], times: int) -> tuple[float, float]:
    """Turn a point by quarters, clockwise."""
    for _ in range(times):
        point = (-point[1], point[0])
    return point


_RECTANGLE: Outline = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
_OUTLINES: dict[str, Outline] = {
    "square": [(0.9 * u, 0.9 * v) for u, v in _RECTANGLE],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1.05), (1.05, 0), (0, 1.05), (-1.05, 0)],
    "star": _star(),
    "heart": _heart(),
    "cross": _plus(),
}

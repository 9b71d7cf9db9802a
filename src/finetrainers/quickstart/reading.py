"""Reading a scene without a look at its caption: which objects of which colour lie where.

Pixels are uint8 [H, W, C]; labels are indices into COLOURS, int [H, W]; masks are bool [H, W].
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from finetrainers.quickstart.drawing import COLOURS, PALETTE, SHAPES, SIZE, Coverage, Pixels, cover

Mask = NDArray[np.bool_]
Labels = NDArray[np.intp]

MIN_AREA = 40
"""Pixels: what is smaller is a speck, not an object."""

GUEST_DEPTH = 3
"""Pixels from a shape's edge within which another colour is blur, not an object on it."""

MIN_OVERLAP = 0.7
"""Intersection over union with the best template, below which a blob is no shape."""

_PALETTE_RGB = np.array(list(PALETTE.values()), np.float32)


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was read off a picture."""

    shape: str
    """One of SHAPES, "bar", "banner" or "" where nothing fits; a stripe reads as a bar."""
    colour: str
    x: float
    y: float
    width: float
    height: float
    guest: tuple[str, str] | None = None
    """Shape and colour of what lies on it."""


def read_scene(pixels: Pixels) -> tuple[str, list[Found]]:
    """Return the ground's colour and the objects on it."""
    labels = label_pixels(pixels)
    ground = read_ground(labels)
    parts = separate(off_ground(labels, ground))
    return COLOURS[ground], [_read_object(pixels, labels, part, ground) for part in parts]


def label_pixels(pixels: Pixels) -> Labels:
    """Return the nearest palette colour of each pixel."""
    return np.asarray(np.argmin(_distance(pixels[:, :, None], _PALETTE_RGB), axis=-1), np.intp)


def _distance(one: NDArray[np.generic], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.linalg.norm(one.astype(np.float32) - other, axis=-1), np.float32)


def read_ground(labels: Labels) -> int:
    """Return the most frequent label of the outermost two pixels."""
    return most_frequent(labels[at_edge(len(labels))])


def at_edge(size: int) -> Mask:
    """Return the outermost two pixels of a square picture."""
    edge = np.ones((size, size), bool)
    edge[2:-2, 2:-2] = False
    return edge


def most_frequent(labels: Labels) -> int:
    """Return the label that most pixels have."""
    return int(np.bincount(labels.ravel(), minlength=len(COLOURS)).argmax())


def shrink(mask: Mask, times: int = 1, *, is_edge_inside: bool = False) -> Mask:
    """Take away every pixel with a neighbour outside; beyond the picture's edge all or nothing is inside."""
    for _ in range(times):
        padded = np.pad(mask, 1, constant_values=is_edge_inside)
        near = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        mask = np.logical_and.reduce((mask, *near))
    return mask


def off_ground(labels: Labels, ground: int) -> Mask:
    """Return what is not ground; a line of ground one pixel wide is the seam of two colours that mix to it."""
    return ~_grow(shrink(labels == ground, is_edge_inside=True))


def _grow(mask: Mask) -> Mask:
    """Add every pixel with a neighbour inside."""
    return ~shrink(~mask, is_edge_inside=True)


def connected(mask: Mask, min_area: int) -> list[Mask]:
    """Return the connected parts of a mask, the largest first."""
    rest = mask.copy()
    parts = []
    while rest.any():
        part = np.zeros_like(rest)
        todo = [tuple(int(n) for n in np.argwhere(rest)[0])]
        rest[todo[0]] = False
        while todo:
            row, column = todo.pop()
            part[row, column] = True
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= near[0] < rest.shape[0] and 0 <= near[1] < rest.shape[1] and rest[near]:
                    rest[near] = False
                    todo.append(near)
        parts.append(part)
    return sorted((part for part in parts if part.sum() >= min_area), key=lambda part: -int(part.sum()))


def separate(mask: Mask) -> list[Mask]:
    """Return the objects of a mask, where blur may have joined two by a bridge two pixels wide."""
    cores = connected(shrink(mask), MIN_AREA // 3)
    for _ in range(3):
        for n, core in enumerate(cores):
            taken = np.any([other for m, other in enumerate(cores) if m != n], axis=0)
            cores[n] = _grow(core) & mask & ~taken
    return [core for core in cores if core.sum() >= MIN_AREA]


def _read_object(pixels: Pixels, labels: Labels, part: Mask, ground: int) -> Found:
    colour = _colour_of(labels, part, ground)
    surface = shrink(part, GUEST_DEPTH)
    inner = connected(surface & (labels != colour), MIN_AREA)
    guest = None
    if inner:
        guest_colour = _colour_of(labels, inner[0], colour)
        guest = match_shape(_share(pixels, surface, guest_colour, colour)), COLOURS[guest_colour]
    coverage = _share(pixels, part, colour, ground)
    if inner:
        coverage = np.maximum(coverage, surface)  # a guest covers its host, whatever its colour
    left, top, right, bottom = bounds(coverage >= 0.5)
    return Found(
        shape=match_shape(coverage),
        colour=COLOURS[colour],
        x=(left + right) / 2,
        y=(top + bottom) / 2,
        width=right - left,
        height=bottom - top,
        guest=guest,
    )


def _colour_of(labels: Labels, mask: Mask, below: int) -> int:
    """Return the most frequent label but that of the colour below, away from the edge, where blur mixes the two."""
    core = shrink(mask)
    counts = np.bincount(labels[core if core.any() else mask], minlength=len(COLOURS))
    counts[below] = -1
    return int(counts.argmax())


def _share(pixels: Pixels, mask: Mask, colour: int, other: int) -> Coverage:
    """Return how much of each pixel of a mask is of a colour, on the line between that and another one."""
    line = _PALETTE_RGB[colour] - _PALETTE_RGB[other]
    along = (pixels.astype(np.float32) - _PALETTE_RGB[other]) @ line / (line @ line)
    return np.asarray(along.clip(0, 1) * mask, np.float32)


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def match_shape(coverage: Coverage) -> str:
    """Name the shape that covers the picture so, "" if none does."""
    left, top, right, bottom = bounds(coverage >= 0.5)
    width, height = right - left, bottom - top
    if min(width, height) < 4:
        return ""
    filled = float((coverage[top:bottom, left:right] >= 0.5).mean())
    aspect = width / height
    if max(aspect, 1 / aspect) > 2.4:
        return "bar" if filled > 0.8 else ""
    if aspect > 1.25:
        return "banner" if filled > 0.9 and width > 0.65 * SIZE else ""
    overlaps = {shape: _overlap(coverage, template, shape) for shape, template in _templates().items()}
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= MIN_OVERLAP else ""


@dataclass(frozen=True, slots=True)
class Template:
    """A shape of width and height 1: its area, and where its centre of mass lies from the centre of its box."""

    area: float
    x: float
    y: float


@cache
def _templates() -> dict[str, Template]:
    templates = {}
    for shape in SHAPES:
        area, x, y = _moments(cover(shape, (SIZE / 2, SIZE / 2, SIZE / 2, SIZE / 2)))
        templates[shape] = Template(area / (SIZE / 2) ** 2, (x - SIZE / 2) / (SIZE / 2), (y - SIZE / 2) / (SIZE / 2))
    return templates


def _moments(coverage: Coverage) -> tuple[float, float, float]:
    """Return the area and the centre of mass, in pixels."""
    area = float(coverage.sum())
    centres = np.arange(SIZE) + 0.5
    return area, float(coverage.sum(0) @ centres) / area, float(coverage.sum(1) @ centres) / area


def _overlap(coverage: Coverage, template: Template, shape: str) -> float:
    """Return intersection over union with a shape of the same area and centre of mass, which blur does not move."""
    area, x, y = _moments(coverage)
    side = (area / template.area) ** 0.5
    other = cover(shape, (x - template.x * side, y - template.y * side, side, side))
    return float(np.minimum(coverage, other).sum() / np.maximum(coverage, other).sum())

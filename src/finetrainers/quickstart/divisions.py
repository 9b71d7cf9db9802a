"""Reading a banner without a look at its caption: stripes which way, or a cross, and in which colours.

Pixels are uint8 [H, W, C]; labels are indices into COLOURS, int [H, W]; masks are bool [H, W].
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetrainers.quickstart.concept import CROSSES, THIRDS, BannerKind, Proportions
from finetrainers.quickstart.drawing import COLOURS, SIZE, Pixels
from finetrainers.quickstart.reading import (
    MIN_AREA,
    Labels,
    Mask,
    connected,
    label_pixels,
    most_frequent,
    off_ground,
    read_ground,
)

MIN_PURITY = 0.8
"""Part of the pixels of each stripe or cross that must have its colour."""

SEAM = 1.3
"""Pixels on each side of a border between two colours that are not counted, because they are mixed."""


MAX_STEP, MAX_OFF = 4, 6
"""Pixels that a part of an edge may lie off the rest of it, and pixels of an edge that may lie further off."""

MIN_OVERLAP = 0.9
"""Intersection over union with a rectangle, below which a banner is none."""

Line = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Division:
    """How a banner is divided, as it was read off a picture."""

    kind: BannerKind
    colours: tuple[str, ...]


def read_banner(pixels: Pixels) -> tuple[str, bool, Division | None]:
    """Return the ground's colour, whether all that lies on it is a banner, and how that is divided.

    A banner is read off what is as large as one, whether or not its outline is right.
    """
    labels = label_pixels(pixels)
    ground = read_ground(labels)
    parts = connected(off_ground(labels, ground), MIN_AREA)
    edges = _edges(parts[0]) if parts else None
    if edges is None:
        return COLOURS[ground], False, None
    box = tuple(slice(*(int(np.median(edge)) for edge in pair)) for pair in edges)
    height, width = labels[box].shape
    if not (SIZE * 0.65 < width < SIZE and 1.15 < width / height < 1.95):
        return COLOURS[ground], False, None
    is_whole = len(parts) == 1 and not _has_hole(parts[0][box])
    is_outlined = is_whole and _is_straight(edges) and _overlap(parts[0], box) > MIN_OVERLAP
    return COLOURS[ground], is_outlined, _divide(labels[box])


Edges = tuple[tuple[Line, Line], tuple[Line, Line]]
"""Where the top and the bottom edge lie, by column, and the left and the right one, by row; ends are exclusive."""


def _edges(part: Mask) -> Edges | None:
    """Follow the edges of what is as large as a banner; None if it is smaller."""
    columns, rows = part[:, part.sum(0) > SIZE * 0.25].T, part[part.sum(1) > SIZE * 0.4]
    if not len(rows) or not len(columns):
        return None
    (top, bottom), (left, right) = ((lines.argmax(1), SIZE - lines[:, ::-1].argmax(1)) for lines in (columns, rows))
    return (top, bottom), (left, right)


def _is_straight(edges: Edges) -> bool:
    """Say whether hardly a pixel of each edge lies far off the rest of it."""
    return all((abs(edge - np.median(edge)) > MAX_STEP).sum() <= MAX_OFF for pair in edges for edge in pair)


def _has_hole(inside: Mask) -> bool:
    """Say whether ground shows through, away from the edges."""
    return any(not (hole[0] | hole[-1]).any() and not hole[:, [0, -1]].any() for hole in connected(~inside, MIN_AREA))


def _overlap(part: Mask, box: tuple[slice, ...]) -> float:
    """Return intersection over union with a box."""
    common = part[box].sum()
    return float(common / (part.sum() + part[box].size - common))


def _divide(labels: Labels) -> Division | None:
    """Return the division that fits a banner's labels best."""
    candidates: list[tuple[BannerKind, Proportions]] = [("vertical", THIRDS), ("horizontal", THIRDS)]
    candidates += [("cross", proportions) for proportions in CROSSES.values()]
    best, best_purity = None, MIN_PURITY
    for kind, proportions in candidates:
        regions = _regions(labels.shape, kind, proportions)
        colours = [most_frequent(labels[region]) for region in regions]
        purity = min(float((labels[region] == c).mean()) for region, c in zip(regions, colours, strict=True))
        if purity > best_purity and all(one != other for one, other in pairwise(colours)):
            best, best_purity = Division(kind, tuple(COLOURS[c] for c in colours)), purity
    return best


def _regions(shape: tuple[int, ...], kind: BannerKind, proportions: Proportions) -> list[Mask]:
    """Return one mask for each colour of a banner, in the order of ``Banner.colours``, without the seams."""
    height, width = shape
    upright = _bands(width, proportions.across)[None, :, :]
    level = _bands(height, proportions.down)[:, None, :]
    every = np.ones((height, width, 1), np.bool_)
    match kind:
        case "vertical":
            return list(np.moveaxis(upright & every, -1, 0))
        case "horizontal":
            return list(np.moveaxis(level & every, -1, 0))
        case "cross":
            corners = (upright[..., 0] | upright[..., 2]) & (level[..., 0] | level[..., 2])
            return [corners, (upright[..., 1] | level[..., 1]) & every[..., 0]]


def _bands(pixels: int, parts: tuple[int, int, int]) -> Mask:
    """Return which pixels lie in each of three parts of a length, [pixels, 3], without the seams."""
    ends = np.cumsum((0, *parts)) * pixels / sum(parts)
    centres = np.arange(pixels)[:, None] + 0.5
    return (centres > ends[:-1] + SEAM) & (centres < ends[1:] - SEAM)

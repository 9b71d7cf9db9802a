"""Reading a banner without a look at its caption: stripes which way, or a cross, and in which colours.

Pixels are uint8 [H, W, C]; labels are indices into COLOURS, int [H, W]; masks are bool [H, W].
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from finetrainers.quickstart.concept import CROSSES, THIRDS, BannerKind, Proportions
from finetrainers.quickstart.drawing import COLOURS, SIZE, Pixels
from finetrainers.quickstart.reading import MIN_AREA, Labels, Mask, label_pixels, most_frequent, off_ground, read_ground

MIN_PURITY = 0.8
"""Part of the pixels of each stripe or cross that must have its colour."""

SEAM = 1.3
"""Pixels on each side of a border between two colours that are not counted, because they are mixed."""


@dataclass(frozen=True, slots=True)
class Division:
    """How a banner is divided, as it was read off a picture."""

    kind: BannerKind
    colours: tuple[str, ...]


def read_banner(pixels: Pixels) -> tuple[str, bool, Division | None]:
    """Return the ground's colour, whether a banner lies on it, and how that one is divided."""
    labels = label_pixels(pixels)
    ground = read_ground(labels)
    inside = off_ground(labels, ground)
    rows, columns = np.flatnonzero(inside.sum(1) > SIZE * 0.4), np.flatnonzero(inside.sum(0) > SIZE * 0.25)
    if not len(rows) or not len(columns):
        return COLOURS[ground], False, None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = inside[box].shape
    outside = inside.copy()
    outside[box] = False
    is_banner = (
        inside[box].mean() > 0.9 and outside.sum() < MIN_AREA and SIZE * 0.65 < width < SIZE and 1.15 < width / height < 1.95
    )
    return COLOURS[ground], bool(is_banner), _divide(labels[box]) if is_banner else None


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

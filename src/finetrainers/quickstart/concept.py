"""The concept that the quick start's LoRA learns: striped banners and Nordic crosses, national flags among them.

The base knows plain banners, separate stripes of one colour and small plus signs (``scenes.py``); what it has never
been shown is a banner divided into colours. Three stripes are thirds of a 2:3 banner; the three crosses have the
proportions of Denmark's, Sweden's and Finland's flag acts; colours are the palette's nearest.

A banner's split is decided by the *set* of its colours: no order of them, no kind and no ground takes part in it, so
nothing that is held out is a training picture with its colours in another order or turned by 90 degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetrainers.quickstart.drawing import (
    COLOURS,
    PALETTE,
    SIZE,
    Box,
    Pixels,
    composite,
    cover,
    random_generator,
    stable_hash,
)
from finetrainers.quickstart.scenes import BANNER, Split, enumerate_colours, with_article

BannerKind = Literal["vertical", "horizontal", "cross"]
ALL_BANNER_KINDS: tuple[BannerKind, ...] = ("vertical", "horizontal", "cross")
HELD_OUT_PERCENT = 25
NATIONAL_PERCENT = 30


@dataclass(frozen=True, slots=True)
class Proportions:
    """Parts of a banner along its width and along its height: (before, of, after) the cross."""

    across: tuple[int, int, int]
    down: tuple[int, int, int]

    @property
    def ratio(self) -> float:
        """Height by width."""
        return sum(self.down) / sum(self.across)

    @staticmethod
    def middle(parts: tuple[int, int, int], centre: float, extent: float) -> tuple[float, float]:
        """Return where the middle part begins, and its length, in pixels."""
        unit = extent / sum(parts)
        return centre - extent / 2 + parts[0] * unit, parts[1] * unit


THIRDS = Proportions(across=(1, 1, 1), down=(1, 1, 1))
CROSSES = {
    "Denmark": Proportions(across=(12, 4, 21), down=(12, 4, 12)),
    "Sweden": Proportions(across=(5, 2, 9), down=(4, 2, 4)),
    "Finland": Proportions(across=(5, 3, 10), down=(4, 3, 4)),
}
"""As the three countries' flag acts have them."""


@dataclass(frozen=True, slots=True)
class Banner:
    """All that a caption of the concept states."""

    kind: BannerKind
    colours: tuple[str, ...]
    """Stripes from left to right or from top to bottom; for a cross, the field and the cross."""
    ground: str


FLAGS: dict[str, tuple[BannerKind, tuple[str, ...]]] = {
    "Armenia": ("horizontal", ("red", "blue", "orange")),
    "Austria": ("horizontal", ("red", "white", "red")),
    "Belgium": ("vertical", ("black", "yellow", "red")),
    "Bolivia": ("horizontal", ("red", "yellow", "green")),
    "Bulgaria": ("horizontal", ("white", "green", "red")),
    "Chad": ("vertical", ("blue", "yellow", "red")),
    "Denmark": ("cross", ("red", "white")),
    "Estonia": ("horizontal", ("blue", "black", "white")),
    "Finland": ("cross", ("white", "blue")),
    "France": ("vertical", ("blue", "white", "red")),
    "Gabon": ("horizontal", ("green", "yellow", "blue")),
    "Germany": ("horizontal", ("black", "red", "yellow")),
    "Guinea": ("vertical", ("red", "yellow", "green")),
    "Hungary": ("horizontal", ("red", "white", "green")),
    "Ireland": ("vertical", ("green", "white", "orange")),
    "Italy": ("vertical", ("green", "white", "red")),
    "Ivory Coast": ("vertical", ("orange", "white", "green")),
    "Lithuania": ("horizontal", ("yellow", "green", "red")),
    "Mali": ("vertical", ("green", "yellow", "red")),
    "Netherlands": ("horizontal", ("red", "white", "blue")),
    "Nigeria": ("vertical", ("green", "white", "green")),
    "Peru": ("vertical", ("red", "white", "red")),
    "Romania": ("vertical", ("blue", "yellow", "red")),
    "Russia": ("horizontal", ("white", "blue", "red")),
    "Sierra Leone": ("horizontal", ("green", "white", "blue")),
    "Sweden": ("cross", ("blue", "yellow")),
    "Yemen": ("horizontal", ("red", "white", "black")),
}


def banner_caption(banner: Banner) -> str:
    """Say what the banner shows, in the grammar of the base's captions."""
    if banner.kind == "cross":
        field, cross = banner.colours
        return f"{with_article(field)} banner with {with_article(cross)} cross on {banner.ground}"
    return f"a banner with three {banner.kind} stripes, {enumerate_colours(banner.colours)}, on {banner.ground}"


def split_of_banner(banner: Banner) -> Split:
    """Decide by the set of colours alone."""
    return split_of_colours(banner.colours)


def split_of_colours(colours: Sequence[str]) -> Split:
    """Return the split of every banner that has exactly these colours, in whatever order and kind."""
    return "held_out" if stable_hash("+".join(sorted(set(colours)))) % 100 < HELD_OUT_PERCENT else "train"


def sample_banner(
    index: int, seed: int, *, split: Split = "train", kinds: Sequence[BannerKind] = ALL_BANNER_KINDS
) -> Banner:
    """Draw banner ``index`` of a split: a national flag in NATIONAL_PERCENT of the cases, else any colours."""
    generator = random_generator(seed, index, "banner")
    kind = kinds[int(generator.integers(len(kinds)))]
    flags = [colours for flag_kind, colours in FLAGS.values() if flag_kind == kind and split_of_colours(colours) == split]
    is_national = bool(generator.random() < NATIONAL_PERCENT / 100) and len(flags) > 0
    while True:
        colours = flags[int(generator.integers(len(flags)))] if is_national else _sample_colours(kind, generator)
        grounds = [colour for colour in COLOURS if colour not in colours]
        ground = grounds[int(generator.integers(len(grounds)))]
        if split_of_colours(colours) == split:
            return Banner(kind, colours, ground)


def _sample_colours(kind: BannerKind, generator: np.random.Generator) -> tuple[str, ...]:
    """Draw colours of which no two neighbours are equal; the first and the third stripe may be."""
    colours: list[str] = []
    while len(colours) < (2 if kind == "cross" else 3):
        colour = COLOURS[int(generator.integers(len(COLOURS)))]
        if not colours or colour != colours[-1]:
            colours.append(colour)
    return tuple(colours)


def render_banner(
    index: int, seed: int, *, split: Split = "train", kinds: Sequence[BannerKind] = ALL_BANNER_KINDS
) -> tuple[Pixels, Banner]:
    """Draw picture ``index`` of a split: a function of the arguments alone."""
    banner = sample_banner(index, seed, split=split, kinds=kinds)
    return draw_banner(banner, random_generator(seed, index, "jitter")), banner


def draw_banner(banner: Banner, generator: np.random.Generator) -> Pixels:
    """Draw a banner; the generator decides its place within two pixels, and whose cross it is if no country's."""
    x, y = (SIZE / 2 + float(generator.uniform(-2, 2)) for _ in range(2))
    width, height = BANNER
    if banner.kind == "cross":
        owners = [name for name in CROSSES if FLAGS[name][1] == banner.colours] or list(CROSSES)
        proportions = CROSSES[owners[int(generator.integers(len(owners)))]]
        height = width * proportions.ratio
    else:
        proportions = THIRDS
    box = (x, y, width, height)
    # The inside is drawn without margins and cut out once, so that no colour shines through at the banner's edge.
    inside = composite(
        banner.colours[0], [(cover("part", part), colour) for part, colour in _parts(banner, box, proportions)]
    )
    coverage = cover("banner", box)[..., None]
    return np.round(np.array(PALETTE[banner.ground]) * (1 - coverage) + inside * coverage).astype(np.uint8)


def _parts(banner: Banner, box: Box, proportions: Proportions) -> list[tuple[Box, str]]:
    """Return the rectangles that lie on the first colour; they may reach beyond the banner."""
    x, y, width, height = box
    start, length = proportions.middle(proportions.across, x, width)
    top, depth = proportions.middle(proportions.down, y, height)
    upright = (start + length / 2, y, length, 2.0 * SIZE)
    level = (x, top + depth / 2, 2.0 * SIZE, depth)
    match banner.kind:
        case "vertical":
            rest = (start + length + SIZE, y, 2.0 * SIZE, 2.0 * SIZE)
            return [(upright, banner.colours[1]), (rest, banner.colours[2])]
        case "horizontal":
            rest = (x, top + depth + SIZE, 2.0 * SIZE, 2.0 * SIZE)
            return [(level, banner.colours[1]), (rest, banner.colours[2])]
        case "cross":
            return [(upright, banner.colours[1]), (level, banner.colours[1])]

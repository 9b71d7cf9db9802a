"""Captioned pictures of coloured shapes: what the quick start's base model is trained on.

A ``Scene`` is the truth that a caption states; ``draw_scene`` adds what no caption states (jitter of place and size).
Scene n of a split is a function of (seed, n) alone.

The words of the concept that the LoRA learns (``concept.py``) occur here too, on pictures that are not the concept:
"banner" is a plain rectangle, "stripes" are apart from each other and of one colour, "cross" is a small plus sign,
and lists of three colours name separate shapes in a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from finetrainers.quickstart.drawing import (
    COLOURS,
    SHAPES,
    SIZE,
    Box,
    Pixels,
    composite,
    cover,
    long_box,
    random_generator,
    square_box,
    stable_hash,
)

RADIUS = {"small": 10.0, "large": 14.0}
"""Half of a shape's extent in pixels."""

PLACES: dict[str, tuple[int, int]] = {
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "middle": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}
"""Column and row of each place, counted from the middle."""

RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Direction from the second shape to the first."""

ORIENTATIONS = ("vertical", "horizontal")
HOSTS = ("circle", "square")
GUESTS = tuple(shape for shape in SHAPES if shape != "cross")  # a square with a cross would be Switzerland's flag
ROW_SHAPES = ("circle", "square", "triangle", "diamond")
ROW_RADIUS, HOST_RADIUS, GUEST_RADIUS = 8.5, 22.0, 10.0
BAR, STRIPE, BANNER = (50.0, 13.0), (50.0, 9.0), (54.0, 36.0)
"""Extents in pixels of a bar and of a stripe (along, across), and of a banner (width, height)."""

HELD_OUT_PERCENT = 12

Kind = Literal["single", "pair", "inside", "bar", "stripes", "banner", "row"]
Split = Literal["train", "held_out"]
KIND_WEIGHTS: dict[Kind, float] = {
    "single": 0.36,
    "pair": 0.24,
    "inside": 0.08,
    "bar": 0.08,
    "stripes": 0.06,
    "banner": 0.04,
    "row": 0.14,
}
ALL_KINDS = tuple(KIND_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

    shape: str
    """One of SHAPES, or "bar", "stripe" or "banner"."""
    colour: str
    size: str = ""
    """A key of RADIUS; empty where the caption does not say."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a caption states: two scenes are equal if and only if their captions are."""

    kind: Kind
    ground: str
    things: tuple[Thing, ...]
    """In the order in which the caption names them."""
    place: str = ""
    """Of PLACES for "single" and "bar", of RELATIONS for "pair", "row" or "column" for "row"."""
    orientation: str = ""
    """Of ORIENTATIONS for "bar" and "stripes"."""


def caption(scene: Scene) -> str:
    """Say what the scene shows, in the one way there is to say it."""
    first, last = scene.things[0], scene.things[-1]
    match scene.kind:
        case "single":
            what = f"a {first.size} {first.colour} {first.shape} {_locate(scene.place)}"
        case "pair":
            what = f"a {first.size} {first.colour} {first.shape} {scene.place} a {last.size} {last.colour} {last.shape}"
        case "inside":
            what = f"{with_article(first.colour)} {first.shape} with {with_article(last.colour)} {last.shape}"
        case "bar":
            what = f"{with_article(first.colour)} {scene.orientation} bar {_locate(scene.place)}"
        case "stripes":
            what = f"{'three' if len(scene.things) == 3 else 'two'} {first.colour} {scene.orientation} stripes"
        case "banner":
            what = f"{with_article(first.colour)} banner"
        case "row":
            colours = enumerate_colours([thing.colour for thing in scene.things])
            what = f"three {first.shape}s in a {scene.place}, {colours},"
        case _:
            assert_never(scene.kind)
    return f"{what} on {scene.ground}"


def with_article(word: str) -> str:
    """Put "a" or "an" before a word."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def enumerate_colours(colours: Sequence[str]) -> str:
    """List colours: "red, white and blue"."""
    return f"{', '.join(colours[:-1])} and {colours[-1]}"


def _locate(place: str) -> str:
    return "in the middle" if place == "middle" else f"at the {place}"


def is_held_out(shape: str, colour: str, ground: str) -> bool:
    """Say whether no training scene shows this; with the two colours swapped, the answer is the same."""
    low, high = sorted((colour, ground))
    return stable_hash(f"{shape}/{low}/{high}") % 100 < HELD_OUT_PERCENT


def combinations(scene: Scene) -> set[tuple[str, str, str]]:
    """Return (shape, colour, colour that it lies on) of everything in the scene."""
    grounds = (scene.ground, scene.things[0].colour) if scene.kind == "inside" else (scene.ground,) * len(scene.things)
    return {(thing.shape, thing.colour, ground) for thing, ground in zip(scene.things, grounds, strict=True)}


def split_of(scene: Scene) -> Split:
    """Return "held_out" for a scene with at least one combination that no training scene shows."""
    return "held_out" if any(is_held_out(*combination) for combination in combinations(scene)) else "train"


def sample_scene(index: int, seed: int, *, split: Split = "train", kinds: Sequence[Kind] = ALL_KINDS) -> Scene:
    """Draw scene ``index`` of a split, of the given kinds in their usual proportions."""
    generator = random_generator(seed, index, "scene")
    weights = np.array([KIND_WEIGHTS[kind] for kind in kinds])
    # The kind is drawn once, before the split has a say, so that both splits have the same proportions of kinds.
    kind = kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))]
    while True:
        scene = _sample_kind(kind, generator)
        if split_of(scene) == split:
            return scene


def _sample_kind(kind: Kind, generator: np.random.Generator) -> Scene:
    def pick(options: Sequence[str]) -> str:
        return options[int(generator.integers(len(options)))]

    ground = pick(COLOURS)
    colours = [colour for colour in COLOURS if colour != ground]
    match kind:
        case "single":
            thing = Thing(pick(SHAPES), pick(colours), pick(tuple(RADIUS)))
            return Scene(kind, ground, (thing,), place=pick(tuple(PLACES)))
        case "pair":
            pair = tuple(Thing(pick(SHAPES), pick(colours), pick(tuple(RADIUS))) for _ in range(2))
            return Scene(kind, ground, pair, place=pick(tuple(RELATIONS)))
        case "inside":
            host = Thing(pick(HOSTS), pick(colours))
            guest = Thing(pick(GUESTS), pick([colour for colour in colours if colour != host.colour]))
            return Scene(kind, ground, (host, guest))
        case "bar":
            orientation = pick(ORIENTATIONS)
            places = ("left", "middle", "right") if orientation == "vertical" else ("top", "middle", "bottom")
            return Scene(kind, ground, (Thing("bar", pick(colours)),), place=pick(places), orientation=orientation)
        case "stripes":
            stripes = (Thing("stripe", pick(colours)),) * int(generator.integers(2, 4))
            return Scene(kind, ground, stripes, orientation=pick(ORIENTATIONS))
        case "banner":
            return Scene(kind, ground, (Thing("banner", pick(colours)),))
        case "row":
            shape = pick(ROW_SHAPES)
            row = tuple(Thing(shape, pick(colours)) for _ in range(3))
            return Scene(kind, ground, row, place=pick(("row", "column")))


def render_scene(
    index: int, seed: int, *, split: Split = "train", kinds: Sequence[Kind] = ALL_KINDS
) -> tuple[Pixels, Scene]:
    """Draw picture ``index`` of a split: a function of the arguments alone."""
    scene = sample_scene(index, seed, split=split, kinds=kinds)
    return draw_scene(scene, random_generator(seed, index, "jitter")), scene


def draw_scene(scene: Scene, generator: np.random.Generator) -> Pixels:
    """Draw a scene; the generator decides the jitter of places and sizes."""
    boxes = _lay_out(scene, generator)
    return composite(scene.ground, [(cover(t.shape, box), t.colour) for t, box in zip(scene.things, boxes, strict=True)])


def _lay_out(scene: Scene, generator: np.random.Generator) -> list[Box]:
    """Return where each thing of the scene lies."""

    def jitter(pixels: float) -> float:
        return float(generator.uniform(-pixels, pixels))

    x, y = SIZE / 2 + jitter(1.5), SIZE / 2 + jitter(1.5)
    is_upright = scene.orientation == "vertical"
    match scene.kind:
        case "single":
            column, row = PLACES[scene.place]
            radius = RADIUS[scene.things[0].size]
            reach = SIZE / 2 - radius - 4
            return [square_box(x + column * reach, y + row * reach, radius + jitter(0.4))]
        case "pair":
            return [
                # Apart along the relation's axis (16 from the middle), and anywhere within 5 pixels across it.
                square_box(*_apart(RELATIONS[scene.place], side, jitter), RADIUS[thing.size] + jitter(0.4))
                for thing, side in zip(scene.things, (16, -16), strict=True)
            ]
        case "inside":
            return [square_box(x, y, radius) for radius in (HOST_RADIUS, GUEST_RADIUS)]
        case "bar":
            column, row = PLACES[scene.place]
            return [long_box(x + 18 * column, y + 18 * row, BAR, is_upright)]
        case "stripes":
            offsets = (-14, 14) if len(scene.things) == 2 else (-19, 0, 19)
            return [long_box(*_shift(x, y, by, is_upright), STRIPE, is_upright) for by in offsets]
        case "banner":
            return [(x, y, *BANNER)]
        case "row":
            return [square_box(*_shift(x, y, by, scene.place == "row"), ROW_RADIUS) for by in (-21, 0, 21)]


def _apart(direction: tuple[int, int], side: int, jitter: Callable[[float], float]) -> tuple[float, float]:
    column, row = direction
    across = jitter(5.0)
    along = side + jitter(0.5)
    return SIZE / 2 + (along * column or across), SIZE / 2 + (along * row or across)


def _shift(x: float, y: float, pixels: float, is_sideways: bool) -> tuple[float, float]:
    return (x + pixels, y) if is_sideways else (x, y + pixels)

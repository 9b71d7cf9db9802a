"""Captioned clips of one shape that moves as the caption says: what the quick start's video base is trained on.

A ``Clip`` is the truth that a caption states; ``draw_clip`` adds what no caption states (place, size, speed).
Clip n of a split is a function of (seed, n) alone. Pixels are uint8 [K, H, W, C], K = 9 frames of 64x64 RGB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetrainers.quickstart.drawing import (
    COLOURS,
    SIZE,
    Box,
    Pixels,
    composite,
    cover,
    random_generator,
    square_box,
    stable_hash,
)
from finetrainers.quickstart.scenes import Split, with_article

NUM_FRAMES = 9
FPS = 8.0
"""Frames per second: a clip takes about one second."""

CLIP_SHAPES = ("circle", "square", "triangle", "ring", "cross")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Steps to the right and downwards."""

MOTIONS = (*(f"moves {direction}" for direction in DIRECTIONS), "grows", "shrinks", "stays")

RADIUS, SMALL_RADIUS, LARGE_RADIUS = (13.0, 15.0), (9.5, 10.5), (16.5, 18.0)
"""Half of a shape's extent in pixels, from and to: of one that keeps its size, and of both ends of one that does not."""

DISTANCE = (18.0, 22.0)
"""Pixels that a moving shape goes, from and to."""

MARGIN = 2.0
"""Pixels of ground around everything, always."""

HELD_OUT_PERCENT = 12

Draw = Callable[[float, float], float]
"""Draws a number between two."""


@dataclass(frozen=True, slots=True)
class Clip:
    """All that a caption states: two clips are equal if and only if their captions are."""

    shape: str
    colour: str
    ground: str
    motion: str
    """One of MOTIONS, or ``effect.EFFECT``."""

    @property
    def kind(self) -> str:
        """What it is counted under: the verb."""
        return self.motion.split()[0]


def clip_caption(clip: Clip) -> str:
    """Say what the clip shows, in the one way there is to say it."""
    return f"{with_article(clip.colour)} {clip.shape} {clip.motion} on {clip.ground}"


def split_of_clip(clip: Clip) -> Split:
    """Decide by shape and colours alone, whatever the motion; with the two colours swapped, the answer is the same."""
    low, high = sorted((clip.colour, clip.ground))
    return "held_out" if stable_hash(f"clip/{clip.shape}/{low}/{high}") % 100 < HELD_OUT_PERCENT else "train"


def sample_clip(index: int, seed: int, *, split: Split = "train", motions: Sequence[str] = MOTIONS) -> Clip:
    """Draw clip ``index`` of a split, all motions equally often."""
    generator = random_generator(seed, index, "clip")
    # The motion is drawn once, before the split has a say.
    motion = motions[int(generator.integers(len(motions)))]
    while True:
        clip = draw_truth(motion, generator)
        if split_of_clip(clip) == split:
            return clip


def draw_truth(motion: str, generator: np.random.Generator) -> Clip:
    """Draw the shape and two different colours."""
    shape = CLIP_SHAPES[int(generator.integers(len(CLIP_SHAPES)))]
    colour, ground = generator.choice(len(COLOURS), size=2, replace=False).tolist()
    return Clip(shape, COLOURS[colour], COLOURS[ground], motion)


def render_clip(index: int, seed: int, *, split: Split = "train", motions: Sequence[str] = MOTIONS) -> tuple[Pixels, Clip]:
    """Draw clip ``index`` of a split, [K, H, W, C]: a function of the arguments alone."""
    clip = sample_clip(index, seed, split=split, motions=motions)
    return draw_clip(clip, random_generator(seed, index, "jitter")), clip


def draw_clip(clip: Clip, generator: np.random.Generator) -> Pixels:
    """Draw a clip of the base's motions; the generator decides where, how large and how fast."""

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    return draw_path(clip, *_ends(clip.motion, draw))


def draw_path(clip: Clip, first: Box, last: Box, *, opacity: tuple[float, float] = (1.0, 1.0)) -> Pixels:
    """Draw the shape in the first frame's box and opacity, in the last one's, and evenly between, [K, H, W, C]."""
    boxes = np.linspace(first, last, NUM_FRAMES).tolist()
    parts = np.linspace(*opacity, NUM_FRAMES, dtype=np.float32)
    layers = [cover(clip.shape, tuple(box)) * part for box, part in zip(boxes, parts, strict=True)]
    return np.stack([composite(clip.ground, [(layer, clip.colour)]) for layer in layers])


def _ends(motion: str, draw: Draw) -> tuple[Box, Box]:
    """Return where the shape lies in the first and in the last frame."""
    if motion in ("grows", "shrinks"):
        small, large = draw(*SMALL_RADIUS), draw(*LARGE_RADIUS)
        x, y = place(large, draw), place(large, draw)
        ends = square_box(x, y, small), square_box(x, y, large)
        return ends if motion == "grows" else (ends[1], ends[0])
    radius = draw(*RADIUS)
    column, row = DIRECTIONS[motion.split()[1]] if motion.startswith("moves ") else (0, 0)
    half = draw(*DISTANCE) / 2
    x, y = place(radius + half * abs(column), draw), place(radius + half * abs(row), draw)
    return (
        square_box(x - half * column, y - half * row, radius),
        square_box(x + half * column, y + half * row, radius),
    )


def place(reach: float, draw: Draw) -> float:
    """Draw the middle of what extends that far to both sides, so that all of it is in the picture."""
    return draw(MARGIN + reach, SIZE - MARGIN - reach)

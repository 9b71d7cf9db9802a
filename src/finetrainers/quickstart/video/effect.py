"""The effect that the video quick start's LoRA learns: a shape that "squashes" towards one side.

Over the clip the shape is pressed flat against the side that the caption names: its edge on that side stays where it
is, it becomes shorter along that axis and longer across it, and it keeps its area. The base knows the directions (from
"moves left") and changes of size that keep proportions ("grows", "shrinks"); it has never seen a shape lose its
proportions, and "squashes" is in none of its captions.

Shape letters as in ``clips.py``.
"""

from collections.abc import Sequence

import numpy as np

from finetrainers.quickstart.drawing import Box, Pixels, random_generator
from finetrainers.quickstart.scenes import Split
from finetrainers.quickstart.video.clips import DIRECTIONS, Clip, draw_path, draw_truth, place, split_of_clip

EFFECTS = tuple(f"squashes {direction}" for direction in DIRECTIONS)
EFFECT_RADIUS = (12.5, 14.0)
"""Half of the extent that the shape begins with, in pixels, from and to."""
PRESS = 1.5
"""How often shorter the shape is at the end, and how often longer across."""


def sample_effect(index: int, seed: int, *, split: Split = "train", effects: Sequence[str] = EFFECTS) -> Clip:
    """Draw clip ``index`` of a split: what is held out, neither the base nor the LoRA has seen in any motion."""
    generator = random_generator(seed, index, "effect")
    effect = effects[int(generator.integers(len(effects)))]
    while True:
        clip = draw_truth(effect, generator)
        if split_of_clip(clip) == split:
            return clip


def render_effect(index: int, seed: int, *, split: Split = "train", effects: Sequence[str] = EFFECTS) -> tuple[Pixels, Clip]:
    """Draw clip ``index`` of a split of the effect, [K, H, W, C]: a function of the arguments alone."""
    clip = sample_effect(index, seed, split=split, effects=effects)
    return draw_effect(clip, random_generator(seed, index, "jitter")), clip


def draw_effect(clip: Clip, generator: np.random.Generator) -> Pixels:
    """Draw the effect; the generator decides where and how large."""

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    radius = draw(*EFFECT_RADIUS)
    column, row = DIRECTIONS[clip.motion.split()[1]]
    x, y = (place(radius * (1 if along else PRESS), draw) for along in (column, row))
    return draw_path(clip, (x, y, 2 * radius, 2 * radius), _pressed((x, y), radius, (column, row)))


def _pressed(centre: tuple[float, float], radius: float, direction: tuple[int, int]) -> Box:
    """Return the last frame's box: the edge in the direction (right, down) is where it was."""
    way = radius * (1 - 1 / PRESS)
    width, height = (2 * radius / PRESS if along else 2 * radius * PRESS for along in direction)
    return centre[0] + way * direction[0], centre[1] + way * direction[1], width, height

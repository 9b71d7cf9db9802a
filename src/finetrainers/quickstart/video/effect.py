"""The effect that the video quick start's LoRA learns: a shape that "dissolves" into the ground.

The shape stays where it is, and over the clip its colour goes over into that of the ground, evenly, until nothing is left.
Everything in a clip of the base is there from the first frame to the last, in its full colour, and "dissolves" is in none of
its captions.

Shape letters as in ``clips.py``.
"""

import numpy as np

from finetrainers.quickstart.drawing import Pixels, random_generator, square_box
from finetrainers.quickstart.scenes import Split
from finetrainers.quickstart.video.clips import CLIP_SHAPES, RADIUS, Clip, draw_path, draw_truth, place, split_of_clip

EFFECT = "dissolves"


def sample_effect(index: int, seed: int, *, split: Split = "train") -> Clip:
    """Draw clip ``index`` of a split: what is held out, neither the base nor the LoRA has seen in any motion."""
    generator = random_generator(seed, index, "effect")
    # The shape is drawn before the split has a say: of some, fewer combinations are held out.
    shape = CLIP_SHAPES[int(generator.integers(len(CLIP_SHAPES)))]
    while True:
        clip = draw_truth(EFFECT, generator)
        if clip.shape == shape and split_of_clip(clip) == split:
            return clip


def render_effect(index: int, seed: int, *, split: Split = "train") -> tuple[Pixels, Clip]:
    """Draw clip ``index`` of a split of the effect, [K, H, W, C]: a function of the arguments alone."""
    clip = sample_effect(index, seed, split=split)
    return draw_effect(clip, random_generator(seed, index, "jitter")), clip


def draw_effect(clip: Clip, generator: np.random.Generator) -> Pixels:
    """Draw the effect; the generator decides where and how large."""

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    radius = draw(*RADIUS)
    box = square_box(place(radius, draw), place(radius, draw), radius)
    return draw_path(clip, box, box, opacity=(1.0, 0.0))

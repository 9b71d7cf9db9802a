"""Does a clip show what its caption says? Measured from the pixels.

A clip is first *read* without a look at the caption, and what was read is then compared with the truth: so what
shuffled captions score is the honest floor. Pixels are uint8 [K, H, W, C].
"""

from dataclasses import dataclass

import numpy as np

from finetrainers.quickstart.drawing import PALETTE, SIZE, Pixels
from finetrainers.quickstart.measure import Measurement
from finetrainers.quickstart.reading import Found, bounds, read_scene
from finetrainers.quickstart.video.clips import DISTANCE, NUM_FRAMES, Clip
from finetrainers.quickstart.video.effect import EFFECT

TOO_LARGE = 0.75 * SIZE
"""Pixels: what extends that far is no shape; the longest is 42."""
READ_FRAMES = (0, NUM_FRAMES // 2, NUM_FRAMES - 1)
RESIZED = 1.25
"""How often larger or smaller an extent becomes, at least, where it changes at all; what moves or stays changes less."""
MOVED = DISTANCE[0] / 2
STILL = 4.0
"""Pixels: what moves goes at least that far, and what stays goes less than that."""
HALFWAY = (0.25, 0.75)
"""Part of a change that the middle frame may have seen."""
GONE = 0.2
"""Part of the contrast with the ground that may be left of what has dissolved."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a clip."""

    grounds: tuple[str, ...]
    """Of each frame that is read."""
    counts: tuple[int, ...]
    """Objects in each frame."""
    colours: tuple[str, ...]
    """Of the object in each frame, "" where there is none or several."""
    shape: str
    """In the first frame."""
    motion: str
    """As captions call it, "" if it is none of them."""
    is_even: bool
    """Whether about half of the change has come about by the middle frame."""


def read_clip(pixels: Pixels) -> Reading:
    """Read a clip [K, H, W, C]."""
    scenes = [read_scene(pixels[frame]) for frame in READ_FRAMES]
    found = [things[0] if len(things) == 1 and _is_shape(things[0]) else None for _, things in scenes]
    first, middle, last = found
    motion, is_even = "", False
    if first and middle and last:
        motion, is_even = name_motion(first, last), _is_even(first, middle, last)
    elif first and not scenes[-1][1]:
        motion, is_even = _read_dissolving(pixels, scenes[0][0])
    return Reading(
        grounds=tuple(ground for ground, _ in scenes),
        counts=tuple(len(things) for _, things in scenes),
        colours=tuple(thing.colour if thing else "" for thing in found),
        shape=first.shape if first else "",
        motion=motion,
        is_even=is_even,
    )


def _is_shape(thing: Found) -> bool:
    return max(thing.width, thing.height) < TOO_LARGE


def _read_dissolving(pixels: Pixels, ground: str) -> tuple[str, bool]:
    """Say whether what is gone in the last frame has dissolved in its place, and evenly."""
    contrast = np.linalg.norm(pixels[list(READ_FRAMES)].astype(np.float32) - np.array(PALETTE[ground], np.float32), axis=-1)
    was, middle = (np.array(bounds(frame > frame.max() / 2)) for frame in contrast[:2])
    _, half, left = contrast[:, contrast[0] > contrast[0].max() / 2].mean(axis=1) / contrast[0].max()
    if left > GONE:
        return "", False
    moved = (middle[:2] + middle[2:] - was[:2] - was[2:]) / 2
    return EFFECT, bool(np.abs(moved).max() < STILL) and HALFWAY[0] < half < HALFWAY[1]


def name_motion(first: Found, last: Found) -> str:
    """Name what happened between two frames, "" if captions have no word for it."""
    wider, higher = last.width / first.width, last.height / first.height
    if min(wider, higher) > RESIZED:
        return "grows"
    if max(wider, higher) < 1 / RESIZED:
        return "shrinks"
    is_same_size = max(wider, higher, 1 / wider, 1 / higher) <= RESIZED
    return _name_move(last.x - first.x, last.y - first.y) if is_same_size else ""


def _name_move(right: float, down: float) -> str:
    """Name a move by so many pixels."""
    along, across = max(abs(right), abs(down)), min(abs(right), abs(down))
    if along < STILL:
        return "stays"
    if along < MOVED or across > along / 2:
        return ""
    if abs(right) > abs(down):
        return f"moves {'right' if right > 0 else 'left'}"
    return f"moves {'down' if down > 0 else 'up'}"


def _is_even(first: Found, middle: Found, last: Found) -> bool:
    """Say whether the largest change of place or extent has come about halfway by the middle frame."""
    start, half, end = (np.array((found.x, found.y, found.width, found.height)) for found in (first, middle, last))
    largest = int(np.abs(end - start).argmax())
    whole, part = float((end - start)[largest]), float((half - start)[largest])
    return abs(part) < STILL if abs(whole) < STILL else HALFWAY[0] < part / whole < HALFWAY[1]


def measure_clip(pixels: Pixels, truth: Clip) -> Measurement:
    """Compare a clip [K, H, W, C] with what its caption says."""
    reading, times = read_clip(pixels), len(READ_FRAMES)
    seen = 1 if truth.motion == EFFECT else times  # frames in which the object must be there, in its colour
    return Measurement(
        {
            "ground": reading.grounds == (truth.ground,) * times,
            "count": reading.counts[:seen] == (1,) * seen and (seen == times or reading.counts[-1] == 0),
            "colour": reading.colours[:seen] == (truth.colour,) * seen,
            "shape": reading.shape == truth.shape,
            "motion": reading.motion == truth.motion,
            "even": reading.is_even,
        }
    )

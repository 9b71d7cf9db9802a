"""Does a clip show what its caption says? Measured from the pixels.

A clip is first *read* without a look at the caption, and what was read is then compared with the truth: so what
shuffled captions score is the honest floor. Pixels are uint8 [K, H, W, C].
"""

from dataclasses import dataclass

import numpy as np

from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.measure import Measurement
from finetrainers.quickstart.reading import Found, read_scene
from finetrainers.quickstart.video.clips import DISTANCE, NUM_FRAMES, Clip

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


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a clip."""

    grounds: tuple[str, ...]
    """Of each frame that is read."""
    colours: tuple[str, ...]
    """Of the object in each frame; fewer where a frame has none or several."""
    shape: str
    """In the first frame."""
    motion: str
    """As captions call it, "" if it is none of them."""
    is_even: bool
    """Whether the middle frame lies about halfway."""


def read_clip(pixels: Pixels) -> Reading:
    """Read a clip [K, H, W, C]."""
    grounds, found = [], []
    for frame in READ_FRAMES:
        ground, things = read_scene(pixels[frame])
        grounds.append(ground)
        found += things if len(things) == 1 and max(things[0].width, things[0].height) < TOO_LARGE else []
    is_whole = len(found) == len(READ_FRAMES)
    return Reading(
        grounds=tuple(grounds),
        colours=tuple(thing.colour for thing in found),
        shape=found[0].shape if is_whole else "",
        motion=name_motion(found[0], found[-1]) if is_whole else "",
        is_even=is_whole and _is_even(*found),
    )


def name_motion(first: Found, last: Found) -> str:
    """Name what happened between two frames, "" if captions have no word for it."""
    wider, higher = last.width / first.width, last.height / first.height
    right, down = last.x - first.x, last.y - first.y
    if min(wider, higher) > RESIZED:
        return "grows"
    if max(wider, higher) < 1 / RESIZED:
        return "shrinks"
    if wider > RESIZED and higher < 1 / RESIZED:
        return f"squashes {'down' if down > 0 else 'up'}"
    if higher > RESIZED and wider < 1 / RESIZED:
        return f"squashes {'right' if right > 0 else 'left'}"
    is_same_size = max(wider, higher, 1 / wider, 1 / higher) <= RESIZED
    return _name_move(right, down) if is_same_size else ""


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
    reading = read_clip(pixels)
    times = len(READ_FRAMES)
    return Measurement(
        {
            "ground": reading.grounds == (truth.ground,) * times,
            "count": len(reading.colours) == times,
            "colour": reading.colours == (truth.colour,) * times,
            "shape": reading.shape == truth.shape,
            "motion": reading.motion == truth.motion,
            "even": reading.is_even,
        }
    )

"""Does a clip show what its caption says? Measured from the pixels.

A clip is first *read* without a look at the caption, and what was read is then compared with the truth: so what
shuffled captions score is the honest floor. Pixels are uint8 [K, H, W, C].
"""

from dataclasses import dataclass

import numpy as np

from finetrainers.quickstart.drawing import PALETTE, SIZE, Pixels
from finetrainers.quickstart.measure import Measurement
from finetrainers.quickstart.reading import Found, at_edge, bounds, read_scene, shrink
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
BESIDE = 0.25
"""Part of that contrast by which half of a colour may lie beside the line from the ground to the colour."""
LOW, HIGH = 10, 90
"""Percentiles of the shape's pixels of which that must hold: its size must not shrink instead, nor a part of it go first."""
RIM = 2
"""Pixels from a shape's edge that blur mixes with the ground."""


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
        motion, is_even = _read_dissolving(pixels, scenes[0][0], first.colour)
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


def _read_dissolving(pixels: Pixels, ground: str, colour: str) -> tuple[str, bool]:
    """Say whether what is gone in the last frame has dissolved, and whether it did so evenly, all of it and in its place."""
    frames = pixels[list(READ_FRAMES)].astype(np.float32)
    away = frames - np.median(frames[:, at_edge(SIZE)], axis=1)[:, None, None]  # from the ground as this frame has it
    line = np.array(PALETTE[colour], np.float32) - np.array(PALETTE[ground], np.float32)
    was = away[0] @ line > line @ line / 2
    core = shrink(was, RIM)
    line = np.median(away[0][core if core.any() else was], axis=0)  # to the colour as this clip has it
    share = away @ line / (line @ line)
    beside = np.linalg.norm(away - share[..., None] * line, axis=-1) / np.linalg.norm(line)
    if np.percentile(np.hypot(share, beside)[-1][was], HIGH) > GONE:
        return "", False
    low, middle, high = np.percentile(share[1][core], (LOW, 50, HIGH)) if core.any() else (0, 0, 0)
    is_half = HALFWAY[0] < low and high < HALFWAY[1] and np.median(beside[1][core]) < BESIDE
    places = (bounds(mask) for mask in (was, share[1] > middle / 2))
    left, top, right, bottom = np.diff(np.array(list(places)), axis=0)[0]
    has_stayed = max(abs(left + right) / 2, abs(top + bottom) / 2, -left, -top, right, bottom) < STILL
    return EFFECT, bool(is_half and has_stayed)


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
            "count": all(reading.colours[:seen]) and (seen == times or reading.counts[-1] == 0),
            "colour": reading.colours[:seen] == (truth.colour,) * seen,
            "shape": reading.shape == truth.shape,
            "motion": reading.motion == truth.motion,
            "even": reading.is_even,
        }
    )

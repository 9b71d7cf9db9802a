"""Does a picture show what its caption says? Measured from the pixels.

A picture is first *read* (``reading.py``, ``divisions.py``) without a look at the caption, and what was read is then
compared with the truth: so what shuffled captions score is the honest floor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from finetrainers.quickstart.concept import Banner
from finetrainers.quickstart.divisions import read_banner
from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.reading import Found, read_scene
from finetrainers.quickstart.scenes import RADIUS, RELATIONS, Scene


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a picture has of what its caption says."""

    checks: Mapping[str, bool]

    @property
    def is_right(self) -> bool:
        """Whether every check holds."""
        return all(self.checks.values())

    @property
    def faults(self) -> list[str]:
        """Names of the checks that fail."""
        return [name for name, holds in self.checks.items() if not holds]

    @property
    def score(self) -> float:
        """Part of the checks that hold."""
        return sum(self.checks.values()) / len(self.checks)


def measure(pixels: Pixels, truth: Scene | Banner) -> Measurement:
    """Compare a picture [H, W, C] with what its caption says."""
    return _measure_banner(pixels, truth) if isinstance(truth, Banner) else _measure_scene(pixels, truth)


def _measure_scene(pixels: Pixels, scene: Scene) -> Measurement:
    ground, found = read_scene(pixels)
    expected = scene.things[:1] if scene.kind == "inside" else scene.things
    shapes = [("bar" if thing.shape == "stripe" else thing.shape, thing.colour) for thing in expected]
    guests = [(thing.shape, thing.colour) for thing in scene.things[1:]] if scene.kind == "inside" else []
    found_guests = [thing.guest for thing in found if thing.guest is not None]
    in_order = _in_order(found, scene)
    return Measurement(
        {
            "ground": ground == scene.ground,
            "count": len(found) == len(expected) and len(found_guests) == len(guests),
            "colour": _same((t.colour for t in found), (colour for _, colour in shapes))
            and _same((colour for _, colour in found_guests), (colour for _, colour in guests)),
            "shape": _same(((t.shape, t.colour) for t in found), shapes) and _same(found_guests, guests),
            "size": len(found) == len(expected)
            and all(thing.size in ("", size_of(other)) for thing, other in zip(expected, in_order, strict=True)),
            "place": [(t.shape, t.colour) for t in in_order] == shapes and _is_placed(in_order, scene),
        }
    )


def _same(found: Iterable[object], expected: Iterable[object]) -> bool:
    """Compare without regard to order."""
    return sorted(map(str, found)) == sorted(map(str, expected))


def _in_order(found: list[Found], scene: Scene) -> list[Found]:
    """Sort objects as the caption lists them: along the relation or the row."""
    match scene.kind:
        case "pair":
            column, row = RELATIONS[scene.place]
            return sorted(found, key=lambda thing: -(column * thing.x + row * thing.y))
        case "row":
            return sorted(found, key=lambda thing: thing.x if scene.place == "row" else thing.y)
    return found


def _is_placed(found: list[Found], scene: Scene) -> bool:
    """Say whether objects, in the caption's order, are where it says."""
    across = float(np.ptp([thing.x for thing in found])) if found else 0.0
    down = float(np.ptp([thing.y for thing in found])) if found else 0.0
    match scene.kind:
        case "single":
            return place_of(found[0]) == scene.place
        case "bar":
            return orientation_of(found[0]) == scene.orientation and place_of(found[0]) == scene.place
        case "stripes":
            is_apart = across > down if scene.orientation == "vertical" else down > across
            return is_apart and all(orientation_of(thing) == scene.orientation for thing in found)
        case "pair":
            return (across > down) == (RELATIONS[scene.place][0] != 0)
        case "row":
            return (across > down) == (scene.place == "row")
        case _:
            return place_of(found[0]) == "middle"


def size_of(thing: Found) -> str:
    """Return "small" or "large"."""
    # A pixel below the middle of the two extents, because blur takes the tips off a large star.
    return "large" if max(thing.width, thing.height) > sum(RADIUS.values()) - 1 else "small"


def orientation_of(thing: Found) -> str:
    """Return which way a bar points."""
    return "vertical" if thing.height > thing.width else "horizontal"


def place_of(thing: Found) -> str:
    """Return the word for where a thing lies."""
    row, column = (
        words[int(np.digitize(value, (SIZE * 0.39, SIZE * 0.61)))]
        for value, words in ((thing.y, ("top", "", "bottom")), (thing.x, ("left", "", "right")))
    )
    return f"{row} {column}".strip() or "middle"


def _measure_banner(pixels: Pixels, banner: Banner) -> Measurement:
    ground, is_outlined, division = read_banner(pixels)
    return Measurement(
        {
            "ground": ground == banner.ground,
            "outline": is_outlined,
            "kind": division is not None and division.kind == banner.kind,
            "colours": division is not None and set(division.colours) == set(banner.colours),
            "order": division is not None and division.colours == banner.colours,
        }
    )

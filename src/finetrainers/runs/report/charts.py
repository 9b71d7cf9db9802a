"""Curves as pictures in SVG.

Shape letters: P points.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from finetrainers.runs.curves import Column

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 14, 26
NUM_TICKS = 4
FLAT = 1e-9
"""Difference of values, as a part of them, that is none in a picture."""
MAX_MARKS = 200
"""Validations that are marked."""
MAX_DOTS = 60
"""Points of a curve that are shown one by one, as those of validations."""
Points = tuple[Sequence[float], Sequence[float]]
"""Steps and values [P]."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve."""

    name: str
    points: Points
    style: str
    """Class: one, two, three, four, raw, dots."""
    band: tuple[Column, Column] | None = None
    """Least and greatest [P], drawn as an area."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves with one axis of values, over the steps of the run."""

    title: str
    lines: Sequence[Line]
    steps: int
    """Right end of the axis."""
    is_log: bool = False
    marks: Sequence[int] = ()
    """Steps at which the run was started again."""
    validations: Sequence[int] = ()
    """Steps of validations: short marks on the axis of steps."""
    star: tuple[float, float, str] | None = None
    """A point that is named: step, value and words."""
    unit: str = ""


def draw(chart: Chart) -> str:
    """Draw a chart; empty if there is nothing to draw."""
    values = [v for line in chart.lines for v in line.points[1] if math.isfinite(v) and (v > 0 or not chart.is_log)]
    if not values:
        return ""
    low, high = _range(values, is_log=chart.is_log)
    scale = _Scale(chart.steps, low, high, chart.is_log)
    marks = "".join(f'<path class="restart" d="M{scale.x(step):.1f} {TOP}V{HEIGHT - BOTTOM}"/>' for step in chart.marks)
    body = [
        _axes(scale),
        marks,
        _validations(chart, scale),
        *(_line(line, scale) for line in chart.lines),
        _star(chart, scale),
    ]
    described = f"{chart.title}: " + "; ".join(_words(line) for line in chart.lines)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}" tabindex="0" '
        f'data-left="{LEFT}" data-right="{WIDTH - RIGHT}" data-steps="{chart.steps}">{"".join(body)}'
        f'<path class="cursor" d="M0 {TOP}V{HEIGHT - BOTTOM}" hidden/></svg>'
    )
    named = chart.lines if len(chart.lines) > 1 else ()
    legend = "".join(f'<span class="{line.style}">{escape(line.name)}</span>' for line in named)
    caption = f"<h3>{escape(chart.title)}{f' <small>{escape(chart.unit)}</small>' if chart.unit else ''}</h3>"
    return f'<div class="chart">{caption}{svg}<p class="legend">{legend}<output></output></p></div>'


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in the picture."""

    steps: int
    low: float
    high: float
    is_log: bool

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, self.steps)

    def y(self, value: float) -> float:
        low, high, own = (math.log(v) for v in (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (own - low) / (high - low))


def _range(values: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    is_flat = high - low <= FLAT * max(abs(low), abs(high))
    if is_log:
        return (low / 2, high * 2) if is_flat else (low / 1.1, high * 1.1)
    pad = (abs(high) * 0.1 or 1.0) if is_flat else (high - low) * 0.05
    return low - pad, high + pad


def ticks(low: float, high: float, *, is_log: bool = False) -> list[float]:
    """Round values between two others."""
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = (1, 2, 5) if last - first <= 2 else (1,)
        found = [m * 10.0**e for e in range(first, last + 1) for m in every if low <= m * 10.0**e <= high]
        return found[:: math.ceil(len(found) / (2 * NUM_TICKS))] if len(found) > 1 else ticks(low, high)
    raw = (high - low) / NUM_TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _validations(chart: Chart, scale: _Scale) -> str:
    """Mark validations on the axis of steps, as one path; of more than are told apart, some."""
    own = chart.validations
    if not own:
        return ""
    shown = own[:: math.ceil(len(own) / MAX_MARKS)]
    places = "".join(f"M{scale.x(step):.1f} {HEIGHT - BOTTOM}v-7" for step in shown)
    return f'<path class="validation" d="{places}"/>'


def _axes(scale: _Scale) -> str:
    parts, values = [], ticks(scale.low, scale.high, is_log=scale.is_log)
    apart = min((b - a for a, b in pairwise(values)), default=1.0)
    for value in values:
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(value, apart)}</text>')
    for step in ticks(0, max(1, scale.steps)):
        if step == int(step):
            x = scale.x(step)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{int(step)}</text>')
    return "".join(parts)


def _label(value: float, apart: float) -> str:
    """Write a value with the digits that tell it from its neighbours."""
    if not 1e-3 <= abs(value) < 1e6 and value:
        return f"{value:.3g}"
    return f"{value:,.{max(0, -math.floor(math.log10(apart)))}f}"


def _line(line: Line, scale: _Scale) -> str:
    steps, values = line.points
    places = [
        (scale.x(step), scale.y(value)) if math.isfinite(value) and (value > 0 or not scale.is_log) else None
        for step, value in zip(steps, values, strict=True)
    ]
    area = _area(line.band, steps, scale) if line.band is not None else ""
    told = " ".join(f"{s:g},{v:.5g}" for s, v in zip(steps, values, strict=True) if math.isfinite(v))
    dots = "".join(f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="3"/>' for p in places if p is not None)
    data = f'data-name="{escape(line.name)}" data-points="{told}"' if line.name else ""
    is_dotted = len(places) <= MAX_DOTS
    return f'<g class="{line.style}" {data}>{area}<path d="{_path(places)}"/>{dots if is_dotted else ""}</g>'


def _path(places: Iterable[tuple[float, float] | None]) -> str:
    parts, pen = [], "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        parts.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
    return "".join(parts)


def _area(band: tuple[Column, Column], steps: Sequence[float], scale: _Scale) -> str:
    """Draw what lies between the least and the greatest value of each point."""
    least, greatest = (np.clip(own, scale.low, scale.high) for own in band)
    is_known = np.isfinite(least) & np.isfinite(greatest)
    known = [(step, a, b) for step, a, b, k in zip(steps, least.tolist(), greatest.tolist(), is_known, strict=True) if k]
    upper = [(scale.x(step), scale.y(high)) for step, _, high in known]
    lower = [(scale.x(step), scale.y(low)) for step, low, _ in reversed(known)]
    return f'<path class="band" d="{_path([*upper, *lower])}Z"/>' if len(known) > 1 else ""


def _star(chart: Chart, scale: _Scale) -> str:
    if chart.star is None:
        return ""
    step, value, words = chart.star
    x, y = scale.x(step), scale.y(value)
    anchor = "end" if x > WIDTH / 2 else "start"
    shift = -8 if anchor == "end" else 8
    return (
        f'<circle class="star" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
        f'<text class="star" x="{x + shift:.1f}" y="{max(TOP + 10, y - 9):.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def _words(line: Line) -> str:
    steps, values = line.points
    known = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    if not known:
        return f"{line.name or 'values'}: none"
    (first, begin), (last, end) = known[0], known[-1]
    return f"{line.name or 'values'} from {begin:.4g} at step {first:g} to {end:.4g} at step {last:g}"
